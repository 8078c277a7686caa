"""How pure the clusters are, by what a person says of images that were drawn at random.

n rows of the manifest, N distinct readable images, M of them in a frame.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spiceclust.corrections import State
from spiceclust.result import Result

MISSED: Final = 0.025  # probability of as many or more beyond either end of an interval

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Frame:
    """The images that answers speak for: those that were open when clusters last changed otherwise than by a person.

    Attributes:
        labels: (n,) int64, the clusters at that time.
        order: (M,) int64, the rows that were open, in an order that was drawn before any of them was asked about.
        placed: int64 rows, the other distinct images: a person had placed them before.
    """

    labels: Ints
    order: Ints
    placed: Ints


class Purity(NamedTuple):
    """The share of images that are in the cluster they belong to, and an interval that holds it in 95 of 100 cases.

    Attributes:
        estimate: in [0, 1]; None where images are open and no answer speaks for them.
        low, high: ends of the interval; equal where no image is open.
        asked: answers that speak for the open images.
        known: images that a person placed or confirmed.
        images: all, without those that belong nowhere.
    """

    estimate: float | None
    low: float
    high: float
    asked: int
    known: int
    images: int


def shuffled(result: Result, seed: int = 0) -> Ints:
    """(N,) int64: the distinct readable images in the random order that all frames of a run have in common."""
    rows = np.array([i for i, row in enumerate(result.rows) if row.status == "ok"], dtype=np.int64)
    return np.random.default_rng(seed).permutation(rows)


def open_frame(state: State, order: Ints) -> Frame:
    """A frame that begins now.

    Args:
        state: of the corrections.
        order: of `shuffled`.
    """
    placed = state.fixed[order]
    return Frame(state.labels, order[~placed], order[placed])


def leave_out(frame: Frame, rows: Collection[int]) -> Frame:
    """The frame without images of which a person cannot tell where they belong: nothing is said of these."""
    return replace(frame, order=frame.order[~np.isin(frame.order, list(rows))])


def still_holds(frame: Frame, state: State) -> bool:
    """Whether the frame's answers speak for the clusters as they are now.

    They do as long as all open images are where the frame has them, or where that cluster was merged to. Once
    something was learned or split, they were of other clusters, and another frame begins. To take that back brings
    the earlier frame back.
    """
    rows = frame.order[~state.fixed[frame.order]]
    same = _merged(frame.labels, state.merged)[rows] == state.labels[rows]
    return bool(same.all() and state.fixed[frame.placed].all())


def purity(frame: Frame, state: State) -> tuple[Purity, dict[int, Purity]]:
    """How pure the clusters are now: together, and each that holds images.

    An image that a person placed or confirmed is right. Those that are open are judged by a sample. The frame's images
    come up in a random order; up to the first that is still open all have an answer, so they are a random sample of
    the frame, whatever else was asked or moved. Images that were asked about because they are doubtful are no part of
    it, unless their turn has come: they are wrong more often. Each of the sample was right if the answer is the
    cluster in which the frame had it, or the one that this was merged into.

    From these comes an interval for how many images of the frame were wrong when it began. Less those that were found
    wrong since, in whatever way, they are those that still are. What was learned before the frame began saw the
    earlier answers, so these are known images and no sample; of batches, those since the last learning count.
    A cluster is judged in the same way by those of the frame that were in it.

    The interval is the exact one of a sample without replacement (`wrong_between`). Wilson's is a little narrower, but
    holds the truth in only 85 of 100 cases where 15 are asked and 1.1 % are wrong.

    Args:
        frame: that holds for the state.
        state: of the corrections.
    """
    then, now = _merged(frame.labels, state.merged)[frame.order], state.labels[frame.order]
    fixed = state.fixed[frame.order]
    wrong = fixed & (then != now)
    sample = np.logical_and.accumulate(fixed)
    placed = np.concatenate([now[fixed], state.labels[frame.placed]])

    def of(part: Bools, known: int) -> Purity:
        counts = [int((part & each).sum()) for each in (sample, sample & wrong, fixed, wrong)]
        return _purity(int(part.sum()), counts[0], counts[1], counts[2], counts[3], known)

    each = {}
    for cluster in state.active:
        found = of(then == cluster, int((placed == cluster).sum()))
        if found.images:
            each[cluster] = found
    return of(np.ones(len(then), dtype=bool), int((placed >= 0).sum())), each


def _purity(total: int, sample: int, wrong_in_sample: int, answered: int, wrong: int, known: int) -> Purity:
    """Of a frame of `total` images, `answered` of which are fixed and `wrong` of these were wrong."""
    still_open = total - answered
    images = still_open + known

    def share(wrong_at_first: float) -> float:
        return 1 - min(max(wrong_at_first - wrong, 0), still_open) / images if images else 1.0

    low, high = wrong_between(total, sample, wrong_in_sample)
    estimate = share(wrong_in_sample * total / sample) if sample else None
    return Purity(1.0 if not still_open else estimate, share(high), share(low), sample, known, images)


def wrong_between(total: int, sample: int, wrong: int) -> tuple[int, int]:
    """The least and the largest number of wrong images that a sample without replacement speaks for.

    The least W of which `wrong` or more come into the sample with a probability above 2.5 %, and the largest of which
    `wrong` or fewer do (hypergeometric; Clopper and Pearson 1934 for a finite number). So the interval holds the truth
    with a probability of at least 95 %.

    Args:
        total: images.
        sample: how many of these were looked at.
        wrong: how many of those were wrong.
    """
    most = total - sample + wrong
    least = _first(wrong, most, lambda number: 1 - _at_most(wrong - 1, total, number, sample) > MISSED)
    beyond = _first(least, most + 1, lambda number: number > most or _at_most(wrong, total, number, sample) <= MISSED)
    return least, beyond - 1


def _first(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """The first number of [low, high] for which something holds that holds for all after it, and for `high`."""
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


def _at_most(found: int, total: int, wrong: int, sample: int) -> float:
    """Probability that at most `found` of `wrong` among `total` come into a sample."""
    from scipy.special import gammaln

    counts = np.arange(max(0, sample + wrong - total), min(found, wrong, sample) + 1)

    def ways(of: float | Ints, chosen: float | Ints) -> NDArray[np.float64]:
        return np.asarray(gammaln(np.add(of, 1)) - gammaln(np.add(chosen, 1)) - gammaln(np.subtract(of, chosen) + 1))

    logs = ways(wrong, counts) + ways(total - wrong, sample - counts) - ways(total, sample)
    return float(np.exp(logs).sum())


def _merged(labels: Ints, merged: Mapping[int, int]) -> Ints:
    """Labels, in the clusters that theirs were merged into."""
    names = np.arange(max([int(labels.max(initial=0)), *merged]) + 1)
    for cluster in merged:
        while names[cluster] in merged:
            names[cluster] = merged[names[cluster]]
    return np.where(labels >= 0, names[labels], labels)
