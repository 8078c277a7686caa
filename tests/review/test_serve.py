"""The command: what it prints, how it ends, and what becomes of requests that no browser sends."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from _review import fuzz
from _review.runs import Server, make_run, rows_of, served

from review_runs import CLUSTERS, make_photos
from spiceclust.cli import main
from spiceclust.data.sources import open_source
from spiceclust.journal import read_corrections
from spiceclust.result import Result


@pytest.fixture
def run(tmp_path: Path) -> Path:
    make_photos(tmp_path / "photos")
    make_run(tmp_path / "run", rows_of(open_source(tmp_path / "photos")), CLUSTERS, root=str(tmp_path / "photos"))
    return tmp_path / "run"


def get(server: Server, path: str) -> fuzz.Answer:
    head = f"GET /{server.token}/{path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nConnection: close\r\n\r\n"
    return fuzz.ask(server.port, fuzz.Request(head.encode(), True, True))


def rejected(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    monkeypatch.setattr(sys, "argv", ["spiceclust", "review", *words])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    (line,) = shown.err.splitlines()
    return line


def test_three_hundred_strange_requests_do_no_harm(run: Path) -> None:
    with served(run, errors=run.parent / "errors.txt") as server:
        found = fuzz.run(server, 300, 1)
    assert (found["requests"], found["alive after"]) == (300, 300)
    assert (found["5xx"], found["tracebacks in answers"], found["let in wrongly"]) == (0, 0, 0)
    assert found["answered 403"] > 30
    assert found["answered 200"] > 10
    assert found["answered 400"] > 50
    assert server.process.returncode == 0
    assert (run.parent / "errors.txt").read_text() == ""
    assert read_corrections(run, Result.load(run)) is not None  # what was written is whole


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_with_exit_code_0_though_a_browser_waits_and_leaves_nothing(run: Path, number: signal.Signals) -> None:
    before, errors = sorted(run.rglob("*")), run.parent / "errors.txt"
    with served(run, errors=errors) as server, socket.create_connection(("127.0.0.1", server.port)) as line:
        line.sendall(f"GET /{server.token}/run HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n".encode())
        assert line.recv(100).startswith(b"HTTP/1.1 200")
        server.process.send_signal(number)
        assert server.process.wait(30) == 0
        assert server.process.stdout is not None
        assert "Ctrl-C here ends it" in server.process.stdout.read()
    assert errors.read_text() == ""
    assert sorted(run.rglob("*")) == before


def test_one_run_has_one_page_on_this_machine_alone(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    errors = run.parent / "errors.txt"
    with served(run, errors=errors) as server:
        assert len(server.token) == 43
        listening = Path(f"/proc/{server.process.pid}/net/tcp").read_text()
        assert f"0100007F:{server.port:04X} 00000000:0000 0A" in listening
        assert f"00000000:{server.port:04X}" not in listening
        assert get(server, "tiles?rows=x").status == 400
        assert "review is being written by process" in rejected(monkeypatch, capsys, str(run), "--port", "0")
        line = rejected(monkeypatch, capsys, str(run), "--port", str(server.port))
        assert line == f"error: port {server.port} cannot be had (Address already in use): choose another, with --port"
    assert server.token not in errors.read_text()
    with served(run, errors=errors) as another:
        assert another.token != server.token


def test_a_missing_extra_is_one_line(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find_spec = __import__("importlib.util").util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "uvicorn" else find_spec(name))
    line = rejected(monkeypatch, capsys, str(run))
    assert line == "error: review needs uvicorn: pip install 'spiceclust[review]'"


def test_what_is_no_run_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "is not a run folder" in rejected(monkeypatch, capsys, str(tmp_path), "--port", "0")
    assert "less than or equal to 65535" in rejected(monkeypatch, capsys, str(tmp_path), "--port", "70000")


def test_the_command_loads_no_torch(run: Path) -> None:
    code = "import sys, spiceclust.review.session, spiceclust.review.routes; assert 'torch' not in sys.modules"
    paths = os.pathsep.join(sys.path)
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": paths})
