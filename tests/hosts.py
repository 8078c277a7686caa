"""Two hosts for a test, which skips itself where the machine lets nobody make them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from _ranks.hosts import Host, NoHostsError, two_hosts


@contextmanager
def hosts_or_skip(folder: Path) -> Iterator[tuple[Host, Host]]:
    """As `two_hosts`."""
    try:
        with two_hosts(folder) as hosts:
            yield hosts
    except NoHostsError as error:
        pytest.skip(f"no network namespaces here: {error}")
