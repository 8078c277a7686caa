"""Two hosts on one machine: network namespaces with a cable between them, each with its own name and address."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

NAMES: Final = ("spice-a", "spice-b")
NETWORK: Final = "10.77.0.{}/24"  # which the machine itself never sees
# What a process of a host sees as its name, the names that it knows, and name servers: none, which answers at once.
ENTER: Final = (
    'mount --bind "$1" /etc/hosts && mount --bind "$2" /etc/resolv.conf && hostname "$0" && shift 2 && exec "$@"'
)


class NoHostsError(Exception):
    """This machine lets nobody make namespaces; the message says why."""


@dataclass(frozen=True)
class Host:
    """A host.

    Attributes:
        name: by which the others find it.
        namespace: of the network; none is this machine itself.
        folder: with the files `hosts` and `resolv.conf`.
    """

    name: str = "localhost"
    namespace: str = ""
    folder: Path = Path()

    def command(self, words: list[str]) -> list[str]:
        """The same command, run on this host."""
        if not self.namespace:
            return words
        names = [str(self.folder / name) for name in ("hosts", "resolv.conf")]
        return [
            *("ip", "netns", "exec", self.namespace),
            *("unshare", "--uts", "sh", "-c", ENTER, self.name, *names, *words),
        ]

    def stop(self) -> None:
        """Ends every process on this host with SIGKILL, as a power cut would."""
        while pids := _ip("netns", "pids", self.namespace).split():
            for pid in map(int, pids):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            time.sleep(0.02)

    def cut(self) -> None:
        """Cuts the cable: nothing is sent or received from now on, and nobody is told."""
        _ip("-n", self.namespace, "link", "set", "cable", "down")


HERE: Final = Host()


@contextmanager
def two_hosts(folder: Path) -> Iterator[tuple[Host, Host]]:
    """Makes them, and removes them and all that runs on them with the block.

    Args:
        folder: for two small files.

    Raises:
        NoHostsError: the tools or the rights are missing.
    """
    hosts = [Host(name, f"{name}-{secrets.token_hex(4)}", folder) for name in NAMES]
    addresses = [NETWORK.format(number) for number in (1, 2)]
    lines = [f"{address.partition('/')[0]} {name}\n" for address, name in zip(addresses, NAMES, strict=True)]
    (folder / "hosts").write_text("127.0.0.1 localhost\n" + "".join(lines))
    (folder / "resolv.conf").write_text("")
    made = []
    try:
        for host in hosts:
            _ip("netns", "add", host.namespace)
            made.append(host)
        first, second = (host.namespace for host in hosts)
        _ip("link", "add", "cable", "netns", first, "type", "veth", "peer", "name", "cable", "netns", second)
        for host, address in zip(hosts, addresses, strict=True):
            _ip("-n", host.namespace, "address", "add", address, "dev", "cable")
            for device in ("lo", "cable"):
                _ip("-n", host.namespace, "link", "set", device, "up")
            entered = subprocess.run(host.command(["true"]), capture_output=True, text=True)
            if entered.returncode:
                raise NoHostsError(_last(entered.stderr))
        yield hosts[0], hosts[1]
    finally:
        for host in made:
            host.stop()
            _ip("netns", "delete", host.namespace)


def _ip(*words: str) -> str:
    """What `ip` says.

    Raises:
        NoHostsError: it is missing, or it refuses.
    """
    try:
        done = subprocess.run(["ip", *words], capture_output=True, text=True)
    except FileNotFoundError:
        raise NoHostsError("no command `ip`: install iproute2") from None
    if done.returncode:
        raise NoHostsError(f"ip {' '.join(words)}: {_last(done.stderr)}")
    return done.stdout


def _last(said: str) -> str:
    return (said.strip().splitlines() or ["no reason given"])[-1]
