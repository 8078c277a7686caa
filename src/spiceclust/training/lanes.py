"""Two lanes on a CPU: what does not wait for one another is computed side by side, each operator on its lane's threads.

An operator that is given more threads waits for the slowest of them, which a busy neighbour makes slow indeed, and its
sums are rounded by how many there are. So one thread and two give the same numbers here, and a training on two lanes
is at least as fast as one whose every operator is split (docs/log.md). On a GPU there is one lane: it has its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import TracebackType
from typing import Generic, TypeVar

import torch

T = TypeVar("T")
P = TypeVar("P")


@contextmanager
def open_lanes(device: torch.device) -> Iterator[int]:
    """Divides torch's threads among the lanes as long as the block runs.

    Args:
        device: where the block computes.

    Yields:
        How many lanes there are: two on a CPU where torch has two threads or more, otherwise one.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        yield 1
        return
    torch.set_num_threads(threads // 2)
    try:
        yield 2
    finally:
        torch.set_num_threads(threads)


def in_lanes(function: Callable[[P], T], items: Iterable[P], lanes: int) -> Iterator[T]:
    """As `map`, on several lanes at once; what `function` does may not depend on what it did before."""
    if lanes == 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(lanes) as pool:
        yield from pool.map(function, items)


class Lane:
    """The second lane of a training. Where there is but one, work is done when its result is asked for.

    Args:
        lanes: of the context.
    """

    def __init__(self, lanes: int) -> None:
        self._pool = ThreadPoolExecutor(1, "lane") if lanes > 1 else None

    def __enter__(self) -> Lane:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)

    def begin(self, work: Callable[[], T]) -> Callable[[], T]:
        """Begins `work`, and returns what waits for its result. Gradients and autocast are as in any new thread."""
        return self._pool.submit(work).result if self._pool else work


class Ahead(Generic[T]):
    """Makes what a step needs while the step before it learns.

    Args:
        make: given the number of a step, what it needs; it may not depend on what the step before learns.
        steps: how many there are.
        lane: where that is made ahead.
    """

    def __init__(self, make: Callable[[int], T], steps: int, lane: Lane) -> None:
        self.make, self.steps, self.lane = make, steps, lane
        self._begun: tuple[int, Callable[[], T]] | None = None

    def of(self, number: int) -> T:
        """What the step of this number needs, begun or not."""
        begun, self._begun = self._begun, None
        return begun[1]() if begun and begun[0] == number else self.make(number)

    def begin(self, number: int) -> None:
        """Begins to make what the step of this number, if there is one, will need."""
        if number < self.steps:
            self._begun = number, self.lane.begin(lambda: self.make(number))
