"""The hosts that the tests of several machines run on."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from _ranks.hosts import NAMES, Host, two_hosts

from hosts import hosts_or_skip

pytestmark = pytest.mark.dist
LISTEN = (
    "import socket; s = socket.create_server(('spice-a', 5000)); print('up', flush=True); s.accept()[0].sendall(b'hi')"
)
SLEEP = "import time; print('up', flush=True); time.sleep(99)"
CONNECT = "import socket; print(socket.create_connection(('spice-a', 5000), 5).recv(9).decode(), socket.gethostname())"


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[tuple[Host, Host]]:
    with hosts_or_skip(tmp_path) as made:
        yield made


def namespaces() -> str:
    return subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout


def python(host: Host, code: str) -> list[str]:
    return host.command([sys.executable, "-c", code])


def test_hosts_have_names_and_reach_each_other_alone(hosts: tuple[Host, Host]) -> None:
    first, second = hosts
    with subprocess.Popen(python(first, LISTEN), stdout=subprocess.PIPE, text=True) as listening:
        assert listening.stdout is not None
        assert listening.stdout.readline() == "up\n"
        elsewhere = subprocess.run([sys.executable, "-c", CONNECT], capture_output=True, text=True)
        assert elsewhere.returncode != 0  # this machine knows no such name
        heard = subprocess.run(python(second, CONNECT), capture_output=True, text=True, check=True)
        assert heard.stdout == f"hi {NAMES[1]}\n"


def failing(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Starts a process on a host, tells of it, and fails."""
    with two_hosts(folder) as (first, _):
        yield subprocess.Popen(python(first, SLEEP), stdout=subprocess.PIPE, text=True)
        raise ZeroDivisionError


def test_hosts_are_removed_with_what_runs_on_them_when_the_block_fails(
    hosts: tuple[Host, Host], tmp_path: Path
) -> None:
    before = namespaces()
    (tmp_path / "other").mkdir()
    begun = failing(tmp_path / "other")
    with next(begun) as sleeping:
        assert sleeping.stdout is not None
        assert sleeping.stdout.readline() == "up\n"
        assert namespaces() != before
        with pytest.raises(ZeroDivisionError):
            next(begun)
        assert sleeping.wait(5) == -signal.SIGKILL
    assert namespaces() == before
