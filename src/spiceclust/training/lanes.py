"""Two lanes on a CPU: what does not wait for one another is computed side by side, each operator on its lane's threads.

An operator that is given more threads waits for the slowest of them, which a busy neighbour makes slow indeed, and its
sums are rounded by how many there are. So one thread and two give the same numbers here, and a training on two lanes
is at least as fast as one whose every operator is split (docs/log.md). On a GPU there is one lane: it has its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from types import TracebackType
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

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


@contextmanager
def one_thread() -> Iterator[None]:
    """Keeps torch's operators on the caller's thread: many small ones are slow on two where others compute too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _threads(count: int) -> ThreadPoolExecutor:
    """Threads whose operators are split as the caller's are: those of oneDNN ask nobody, and a new thread has all."""
    return ThreadPoolExecutor(count, "lane", torch.set_num_threads, (torch.get_num_threads(),))


def in_lanes(function: Callable[[P], T], items: Iterable[P], lanes: int) -> Iterator[T]:
    """As `map`, on several lanes at once; what `function` does may not depend on what it did before."""
    if lanes == 1:
        yield from map(function, items)
        return
    with _threads(lanes) as pool:
        yield from pool.map(function, items)


class _Deferred(NamedTuple):
    begun: Future[Tensor]
    work: Callable[[], Tensor]
    use: Callable[[Tensor], None]


class Lane:
    """The second lane of a training. Where there is but one, work is done when its result is asked for.

    Args:
        lanes: of the context.
    """

    def __init__(self, lanes: int) -> None:
        self._pool = _threads(1) if lanes > 1 else None
        self._deferred: list[_Deferred] = []

    def __enter__(self) -> Lane:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)

    @property
    def second(self) -> bool:
        """Whether there is a second one."""
        return self._pool is not None

    def begin(self, work: Callable[[], T]) -> Callable[[], T]:
        """Begins `work`, and returns what waits for its result. Gradients and autocast are as in any new thread."""
        return self._pool.submit(work).result if self._pool else work

    def defer(self, work: Callable[[], Tensor], use: Callable[[Tensor], None]) -> None:
        """Has `work` done on whichever lane has time first, and its result given to `use` by `settle`."""
        if self._pool:
            self._deferred.append(_Deferred(self._pool.submit(work), work, use))
        else:
            use(work())

    def settle(self) -> None:
        """Does what was deferred and is not begun, side by side with the other lane, and uses all results in order."""
        deferred, self._deferred = self._deferred, []
        own = {each: each.work() for each in reversed(deferred) if each.begun.cancel()}
        for each in deferred:
            each.use(own[each] if each in own else each.begun.result())


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
