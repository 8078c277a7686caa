"""Which images are asked about."""

import numpy as np

from groups import GROUPS, TRUTH, embeddings, result_of
from spiceclust.corrections import Confirm, applied, first_state
from spiceclust.review.purity import open_frame, shuffled
from spiceclust.review.questions import AT_RANDOM, BATCH, Questions, choose

RESULT = result_of(TRUTH, GROUPS)
PLACES = np.arange(len(TRUTH))
ORDER = shuffled(RESULT)


def asked(*fixed: int, doubtful: range = range(0), count: int = BATCH, at_random: int = AT_RANDOM) -> Questions:
    """A batch where the images in `doubtful` have no clear cluster and all others are sure."""
    state = first_state(RESULT)
    frame = open_frame(state, ORDER)
    if fixed:
        state = applied(state, Confirm(rows=list(fixed)))
    probabilities = np.where(np.isin(PLACES, list(doubtful))[:, None], 0.25, np.eye(GROUPS)[TRUTH]).astype(np.float32)
    return choose(frame, state, probabilities, embeddings(), PLACES, count, at_random)


def test_a_batch_has_images_that_are_open_each_once_some_at_random() -> None:
    found = asked(*range(0, 200, 3))
    assert len(found.rows) == len(set(found.rows)) == BATCH
    assert not set(found.rows) & set(range(0, 200, 3))
    assert sum(found.random) >= AT_RANDOM
    assert asked(*range(0, 200, 3)) == found


def test_those_at_random_are_the_next_of_the_order_that_are_not_asked_about_anyway() -> None:
    found = asked(*ORDER[:20].tolist(), doubtful=range(50, 100))
    helpful = {row for row, random in zip(found.rows, found.random, strict=True) if not random}
    drawn = [row for row, random in zip(found.rows, found.random, strict=True) if random]
    assert drawn == [row for row in ORDER[20:].tolist() if row not in helpful][: len(drawn)]


def test_most_questions_go_where_doubt_is() -> None:
    found = asked(doubtful=range(50, 75), count=12, at_random=2)
    helpful = [row for row, random in zip(found.rows, found.random, strict=True) if not random]
    assert sum(50 <= row < 75 for row in helpful) >= 5  # an eighth of the images, and half of the questions


def test_questions_without_doubt_are_spread_over_all_groups() -> None:
    found = asked(count=GROUPS, at_random=0)
    assert sorted(TRUTH[found.rows].tolist()) == list(range(GROUPS))


def test_of_images_that_are_all_alike_a_random_part_is_asked_about() -> None:
    state = first_state(RESULT)
    alike = np.tile(embeddings()[:1], (len(TRUTH), 1))
    found = choose(open_frame(state, ORDER), state, RESULT.probabilities, alike, PLACES)
    assert len(set(found.rows)) == BATCH
    assert sum(found.random) >= BATCH - 2


def test_when_few_are_open_all_are_asked_about() -> None:
    assert sorted(asked(*range(5, 200)).rows) == [0, 1, 2, 3, 4]
    assert asked(*range(200)) == ([], [])
