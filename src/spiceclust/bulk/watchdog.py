"""When nothing has happened for too long, and why that may be. Pure: times and counts come in, a decision goes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from spiceclust.progress import clock

FIRST: Final = 180.0  # seconds until the first shard is done before that is worth a word: models are loaded meanwhile
LEAST: Final = 60.0  # seconds without a shard before that is, later
TIMES: Final = 10  # the slowest shard so far, likewise
HUNG: Final = 2  # patiences after which a worker that holds a shard is ended
ENDED: Final = 4  # patiences without a sign of life after which there is no hope
TRIES: Final = 5  # workers that a shard may take along before it is given up
FULL: Final = 0.93  # share of a machine's memory in use at which it is the likely cause


@dataclass(frozen=True)
class Held:
    """A shard that a worker has begun and not finished: its name, since when, and the process."""

    shard: str
    since: float
    worker: str


@dataclass(frozen=True)
class Signs:
    """What is known of the workers at a moment.

    Attributes:
        workers: how many there should be.
        asked, there: what they ask for in all, and what the cluster has, such as {"CPU": 4, "GPU": 1}.
        held: shards that were begun.
        last: when one was begun or finished last; None if none was.
        ended: how many workers ended over a shard.
        killed: processes that the systems have killed for want of memory meanwhile.
        memory: the largest share of a machine's memory that was in use when a shard was begun there.
    """

    workers: int
    asked: dict[str, float]
    there: dict[str, float]
    held: Sequence[Held] = ()
    last: float | None = None
    ended: int = 0
    killed: int = 0
    memory: float = 0.0


@dataclass
class Watch:
    """Knows how long to wait.

    Attributes:
        moved: when a shard was finished last, or the work began.
        slowest: seconds that the slowest shard took.
        first: whether none has been finished yet.
        told: patiences that have passed since, of which a line was said.
    """

    moved: float
    slowest: float = 0.0
    first: bool = True
    told: int = field(default=0)

    @property
    def patience(self) -> float:
        """Seconds without a finished shard that are too many."""
        return FIRST if self.first else max(LEAST, TIMES * self.slowest)

    def finished(self, now: float, seconds: float) -> None:
        """A shard was finished, which took so long."""
        self.moved, self.first, self.told = now, False, 0
        self.slowest = max(self.slowest, seconds)

    def stalled(self, now: float) -> bool:
        """Whether it is time to say why: once in each patience."""
        passed = int((now - self.moved) / self.patience)
        new, self.told = passed > self.told, max(passed, self.told)
        return new

    def hung(self, now: float, signs: Signs) -> list[Held]:
        """The shards whose workers are to be ended, so that others try."""
        return [each for each in signs.held if now - each.since > HUNG * self.patience]

    def over(self, now: float, signs: Signs) -> bool:
        """Whether nothing can be hoped for any more."""
        return now - max(self.moved, signs.last or 0.0) > ENDED * self.patience


def cause(now: float, signs: Signs) -> str:
    """The likeliest reason why nothing moves, with the numbers that speak for it."""
    for kind, asked in signs.asked.items():
        there = signs.there.get(kind, 0)
        if asked > there:
            return (
                f"{signs.workers} workers ask for {asked:g} {kind}s in all and the cluster has {there:g}: "
                "add machines, or wait for some to come back"
            )
    if signs.killed or signs.memory > FULL:
        return (
            f"memory: {signs.killed} processes were killed for want of it and {signs.memory:.0%} of a machine's is in "
            "use: end what else runs there, or take machines with more"
        )
    if signs.held:
        oldest = min(signs.held, key=lambda each: each.since)
        after = f"; workers ended {signs.ended} times before" if signs.ended else ""
        return f"{oldest.shard} has been with {oldest.worker} for {clock(now - oldest.since)}{after}"
    if signs.ended:
        return f"workers ended {signs.ended} times, and no new one has begun a shard: see the engine's logs"
    return "no worker has begun a shard: the cluster has what they ask for, so others may hold it"
