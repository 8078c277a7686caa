"""What answers to random questions say of the purity of clusters."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import hypergeom

from spiceclust.corrections import NOWHERE, Confirm, Learn, Merge, Move, Nowhere, Split, State, applied, first_state
from spiceclust.manifest import Row
from spiceclust.result import Result
from spiceclust.review.purity import Frame, leave_out, open_frame, purity, shuffled, still_holds, wrong_between

HEAD = "0" * 64


def result_of(labels: NDArray[np.int64], clusters: int) -> Result:
    rows = [Row(str(i), "ok" if label >= 0 else "quarantined", "", 8, 8, str(i)) for i, label in enumerate(labels)]
    probabilities = np.zeros((len(labels), clusters), dtype=np.float32)
    probabilities[labels >= 0, labels[labels >= 0]] = 1
    flags = np.ones(len(labels), dtype=bool)
    return Result(rows, labels, probabilities, flags, np.zeros(len(labels), np.float32), run={}, metrics={})


def slow_between(total: int, sample: int, wrong: int) -> tuple[int, int]:
    """Every number that there can be is tried."""
    possible = [
        number
        for number in range(wrong, total - sample + wrong + 1)
        if hypergeom.sf(wrong - 1, total, number, sample) > 0.025
        and hypergeom.cdf(wrong, total, number, sample) > 0.025
    ]
    return min(possible), max(possible)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_interval_is_its_slow_twin(data: st.DataObject) -> None:
    total = data.draw(st.integers(1, 60))
    sample = data.draw(st.integers(0, total))
    wrong = data.draw(st.integers(0, sample))
    assert wrong_between(total, sample, wrong) == slow_between(total, sample, wrong)


def test_intervals_of_many_images_are_found_at_once() -> None:
    assert wrong_between(1_000_000, 15, 0) == pytest.approx((0, 218_000), rel=0.01)  # 1 - 0.025^(1/15)
    assert wrong_between(1_000_000, 500_000, 1000) == pytest.approx((1000 * 2 - 60, 1000 * 2 + 60), rel=0.02)


def test_intervals_hold_the_truth_in_95_of_100_cases() -> None:
    for total, wrong in [(40, 3), (300, 3), (300, 60), (2000, 20), (2000, 1000)]:
        for sample in (15, 30):
            held = sum(
                probability
                for found, probability in enumerate(hypergeom.pmf(np.arange(sample + 1), total, wrong, sample))
                if probability > 0
                and wrong_between(total, sample, found)[0] <= wrong
                and wrong <= wrong_between(total, sample, found)[1]
            )
            assert held >= 0.95


class Reviewer:
    """Answers rightly: `truth` is (n,), the cluster in which each image belongs, or NOWHERE."""

    def __init__(self, labels: NDArray[np.int64], truth: NDArray[np.int64], seed: int) -> None:
        self.truth, self.state = truth, first_state(result_of(labels, int(truth.max()) + 1))
        self.order = shuffled(result_of(labels, int(truth.max()) + 1), seed)
        self.frame = open_frame(self.state, self.order)

    def answer(self, rows: Any) -> None:
        for row in map(int, rows):
            to = int(self.truth[row])
            action = Nowhere(rows=[row]) if to == NOWHERE else Move(rows=[row], to=to)
            self.state = applied(self.state, action)

    def open(self) -> NDArray[np.int64]:
        return self.frame.order[~self.state.fixed[self.frame.order]]

    def real(self, cluster: int | None = None) -> float:
        there = self.state.labels >= 0 if cluster is None else self.state.labels == cluster
        return float((self.state.labels == self.truth)[there].mean())


def wrong_labels(rng: np.random.Generator, n: int, share: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Labels and truths of three clusters, the last one small and impure."""
    truth = rng.choice(3, n, p=[0.5, 0.4, 0.1])
    wrong = rng.random(n) < np.where(truth == 2, 0.5, share)
    return np.where(wrong, (truth + rng.integers(1, 3, n)) % 3, truth), np.where(rng.random(n) < 0.02, NOWHERE, truth)


def test_estimates_hold_through_batches_that_seek_what_is_wrong() -> None:
    """Three batches of 15 at random and 15 that are chosen, more often than not wrong ones."""
    held, held_by_cluster, errors, naive = [], [], [], []
    for seed in range(150):
        rng = np.random.default_rng(seed)
        reviewer = Reviewer(*wrong_labels(rng, 400, 0.15), seed)
        for _ in range(3):
            there = reviewer.open()
            doubt = (reviewer.state.labels != reviewer.truth)[there] + 2 * rng.random(len(there))
            chosen = there[np.argsort(-doubt)[:15]]
            at_random = there[~np.isin(there, chosen)][:15]
            naive.append((reviewer.state.labels == reviewer.truth)[[*chosen, *at_random]].mean() - reviewer.real())
            reviewer.answer([*chosen, *at_random])
        found, each = purity(reviewer.frame, reviewer.state)
        assert found.estimate is not None
        assert found.asked >= 45
        held.append(found.low <= reviewer.real() <= found.high)
        errors.append(found.estimate - reviewer.real())
        held_by_cluster += [one.low <= reviewer.real(cluster) <= one.high for cluster, one in each.items()]
    assert np.mean(held) >= 0.94
    assert np.mean(held_by_cluster) >= 0.94
    assert abs(np.mean(errors)) < 0.01
    assert abs(np.mean(naive)) > 0.1  # what would come of counting every answer


def test_intervals_narrow_with_answers_and_end_in_certainty() -> None:
    rng = np.random.default_rng(0)
    reviewer = Reviewer(*wrong_labels(rng, 100, 0.2), 0)
    widths = []
    for _ in range(5):
        reviewer.answer(reviewer.open()[:20])
        found, each = purity(reviewer.frame, reviewer.state)
        widths.append(found.high - found.low)
    assert widths == sorted(widths, reverse=True)
    assert (found.estimate, found.low, found.high) == (1, 1, 1)
    assert all((one.estimate, one.low, one.high) == (1, 1, 1) for one in each.values())
    assert found.images == (reviewer.state.labels >= 0).sum() == sum(one.images for one in each.values())


def four(*labels: int) -> tuple[State, Frame]:
    """A state of a few images of two clusters, and a frame in the order of their rows."""
    state = first_state(result_of(np.array(labels), 2))
    return state, open_frame(state, np.arange(len(labels)))


def test_by_hand() -> None:
    state, frame = four(0, 0, 0, 0, 1, 1)
    nothing, each = purity(frame, state)
    assert nothing == (None, 0, 1, 0, 0, 6)
    assert each[1] == (None, 0, 1, 0, 0, 2)
    state = applied(applied(state, Confirm(rows=[0])), Move(rows=[1], to=1))
    found, each = purity(frame, state)
    # One of the first two was wrong: 3 of 6 by the sample, of which one is known; 2 of the 4 open ones are left.
    assert (found.estimate, found.asked, found.known, found.images) == (pytest.approx(1 - 2 / 6), 2, 2, 6)
    assert (found.low, found.high) == (pytest.approx(1 - 4 / 6), 1)
    assert each[0].estimate == pytest.approx(1 - 1 / 3)  # of four, two by the sample, one known; three images are left
    assert each[1] == (None, pytest.approx(1 / 3), 1, 0, 1, 3)


def test_what_is_answered_out_of_turn_is_known_and_no_sample() -> None:
    state, frame = four(0, 0, 0, 0, 0, 0)
    state = applied(state, Move(rows=[5, 4], to=1))
    found, _ = purity(frame, state)
    assert (found.estimate, found.asked, found.known) == (None, 0, 2)
    assert found.low == pytest.approx(2 / 6)
    state = applied(state, Confirm(rows=[0, 1, 2]))
    found, _ = purity(frame, state)
    assert found.asked == 3
    assert found.estimate == 1  # all of the sample were right


def test_merging_makes_right_what_was_between_the_two() -> None:
    state, frame = four(0, 1, 0, 1)
    moved = applied(state, Move(rows=[0], to=1))
    assert purity(frame, moved)[0].estimate == pytest.approx(1 - 3 / 4)
    merged = applied(moved, Merge(clusters=[0], into=1))
    assert still_holds(frame, merged)
    assert purity(frame, merged)[0].estimate == 1
    assert list(purity(frame, merged)[1]) == [1]


def test_learning_and_splitting_end_a_frame_and_taking_back_restores_it() -> None:
    state, frame = four(0, 0, 0, 1)
    answered = applied(state, Confirm(rows=[0]))
    assert still_holds(frame, answered)
    learned = applied(answered, Learn(rows=[2], to=[1], head=HEAD))
    assert not still_holds(frame, learned)
    assert not still_holds(frame, applied(answered, Split(cluster=0, rows=[2])))
    later = open_frame(learned, np.arange(4))
    assert still_holds(later, learned)
    assert purity(later, learned)[0] == (None, 0.25, 1, 0, 1, 4)  # the earlier answer is known, and no sample
    assert not still_holds(later, replace(learned, fixed=state.fixed))  # the answer was taken back
    assert still_holds(frame, answered)


def test_images_that_nobody_can_tell_are_left_out() -> None:
    state, frame = four(0, 0, 0, 1)
    state = applied(state, Confirm(rows=[1, 2]))
    assert purity(frame, state)[0].asked == 0
    without = leave_out(frame, [0])
    assert purity(without, state)[0] == (1, pytest.approx(2 / 3), 1, 2, 2, 3)


def test_quarantined_images_and_copies_are_never_asked_about() -> None:
    result = result_of(np.array([0, -1, 1, 1]), 2)
    rows = [*result.rows[:3], Row("3", "duplicate", "same content as 2", 8, 8, "2")]
    assert sorted(shuffled(replace(result, rows=rows)).tolist()) == [0, 2]
    assert shuffled(result).tolist() == shuffled(result).tolist()
