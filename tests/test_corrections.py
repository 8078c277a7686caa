import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from spiceclust.corrections import NOWHERE, State, action_of, applied, corrected, first_state
from spiceclust.errors import ConfigError
from spiceclust.result import Result

MakeResult = Callable[..., Result]
HEAD = "ab" * 32


@pytest.fixture
def result(make_result: MakeResult) -> Result:
    """Rows 1 and 5 are copies; row 4 could not be read."""
    made = make_result([0, 1, 1, 2, -1, 1, 2], 3, confidence=[0.8, 0.7, 0.6, 0.9, 0, 0.7, 0.5], reliable=[False] * 7)
    made.rows[5] = dataclasses.replace(made.rows[5], status="duplicate", sha256=made.rows[1].sha256)
    return made


def after(result: Result, *actions: dict[str, Any]) -> State:
    state = first_state(result)
    for action in actions:
        state = applied(state, action_of(action))
    return state


def test_nothing_corrected_is_the_result(result: Result) -> None:
    state = first_state(result)
    assert state.labels.tolist() == [0, 1, 1, 2, -1, 1, 2]
    assert state.active == [0, 1, 2]
    same = corrected(result, state)
    np.testing.assert_array_equal(same.labels, result.labels)
    np.testing.assert_array_equal(same.probabilities, result.probabilities)
    assert same.cluster_names == ["cluster_00", "cluster_01", "cluster_02"]


def test_copies_go_together(result: Result) -> None:
    state = after(result, {"do": "move", "rows": [5], "to": 2})
    assert state.labels.tolist() == [0, 2, 1, 2, -1, 2, 2]
    assert state.fixed.tolist() == [False, True, False, False, False, True, False]


def test_merged_clusters_keep_their_numbers_and_are_empty(result: Result) -> None:
    state = after(
        result,
        {"do": "name", "cluster": 1, "name": "cats"},
        {"do": "merge", "clusters": [1], "into": 2},
        {"do": "merge", "clusters": [2], "into": 0},
    )
    assert state.labels.tolist() == [0, 0, 0, 0, -1, 0, 0]
    assert (state.n_clusters, state.active, state.names) == (3, [0], {0: "cats"})
    made = corrected(result, state)
    np.testing.assert_allclose(made.probabilities[[0, 1, 2, 3, 5, 6]], [[1, 0, 0]] * 6, atol=1e-6)
    assert made.merged == {1, 2}


def test_a_merged_cluster_keeps_its_own_name(result: Result) -> None:
    names = [{"do": "name", "cluster": i, "name": f"name {i}"} for i in (0, 1)]
    assert after(result, *names, {"do": "merge", "clusters": [1, 2], "into": 0}).names == {0: "name 0"}


def test_a_split_takes_the_next_number(result: Result) -> None:
    state = after(result, {"do": "split", "cluster": 1, "rows": [2]}, {"do": "split", "cluster": 2, "rows": [6]})
    assert state.labels.tolist() == [0, 1, 3, 2, -1, 1, 4]
    assert not state.fixed.any()
    made = corrected(result, state)
    assert made.probabilities.shape == (7, 5)
    assert made.probabilities[2].argmax() == 3
    assert made.probabilities[2, 3] == pytest.approx(0.6)  # what it had in the cluster that it left
    np.testing.assert_allclose(made.probabilities[[0, 1, 2, 3, 5, 6]].sum(axis=1), 1, atol=1e-6)


def test_what_a_person_placed_is_certain_and_reliable(result: Result) -> None:
    state = after(
        result,
        {"do": "move", "rows": [0], "to": 1},
        {"do": "confirm", "rows": [3]},
        {"do": "nowhere", "rows": [6]},
    )
    assert state.labels.tolist() == [1, 1, 1, 2, -1, 1, NOWHERE]
    made = corrected(result, state)
    assert made.labels.tolist() == [1, 1, 1, 2, -1, 1, -1]
    assert made.reliable.tolist() == [True, False, False, True, False, False, False]
    assert made.probabilities[[0, 3]].tolist() == [[0, 1, 0], [0, 0, 1]]
    assert made.probabilities[6].tolist() == [0, 0, 0]
    back = applied(state, action_of({"do": "move", "rows": [6], "to": 0}))
    assert back.labels[6] == 0


def test_what_was_learned_changes_labels_but_not_what_is_fixed(result: Result) -> None:
    learn = {"do": "learn", "rows": [1, 2], "to": [0, 2], "head": HEAD}
    state = after(result, learn)
    assert state.labels.tolist() == [0, 0, 2, 2, -1, 0, 2]
    assert (state.head, state.fixed.any()) == (HEAD, False)
    with pytest.raises(ConfigError, match="image 1 was placed by a person"):
        after(result, {"do": "confirm", "rows": [5]}, learn)


@pytest.mark.parametrize(
    ("action", "told"),
    [
        ({"do": "move", "rows": [7], "to": 0}, "no image 7: they count from 0 to 6"),
        ({"do": "move", "rows": [4], "to": 0}, "image 4 could not be read"),
        ({"do": "move", "rows": [0], "to": 3}, "no cluster 3: they count from 0 to 2"),
        ({"do": "move", "rows": [], "to": 0}, "rows"),
        ({"do": "move", "rows": [-1], "to": 0}, "rows.0"),
        ({"do": "move", "rows": [True], "to": 0}, "rows.0"),
        ({"do": "move", "rows": [0.0], "to": 0}, "rows.0"),
        ({"do": "move", "rows": [2**40], "to": 0}, "rows.0"),
        ({"do": "move", "rows": [0]}, "to"),
        ({"do": "move", "rows": [0], "to": 0, "more": 1}, "more"),
        ({"do": "split", "cluster": 1, "rows": [0]}, "image 0 is not in cluster 1"),
        ({"do": "split", "cluster": 1, "rows": [1, 2]}, "all 3 images would leave cluster 1"),
        ({"do": "merge", "clusters": [1], "into": 1}, "into itself"),
        ({"do": "name", "cluster": 0, "name": "x" * 81}, "81 characters: give at most 80"),
        ({"do": "name", "cluster": 0, "name": "a\nb"}, "cannot be seen"),
        ({"do": "name", "cluster": 0, "name": "cluster_01"}, "without a name are called like 'cluster_01'"),
        ({"do": "name", "cluster": 0, "name": "Cluster 2"}, "without a name are called like"),
        ({"do": "name", "cluster": 0, "name": "a\u202eb"}, "cannot be seen"),
        ({"do": "learn", "rows": [0, 1], "to": [0], "head": HEAD}, "2 images and 1 clusters"),
        ({"do": "learn", "rows": [0], "to": [0], "head": "../x"}, "head"),
        ({"do": "dance"}, "no such correction"),
        ({}, "no such correction"),
        ([], "no such correction"),
        (None, "no such correction"),
    ],
)
def test_what_cannot_be_is_refused(result: Result, action: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        after(result, action)


def test_names_are_one_of_a_kind_and_can_be_taken_away(result: Result) -> None:
    first = {"do": "name", "cluster": 0, "name": "  Cafe\u0301 "}
    state = after(result, first)
    assert state.names == {0: "Caf\u00e9"}
    with pytest.raises(ConfigError, match="cluster 0 is called 'Café' already"):
        after(result, first, {"do": "name", "cluster": 1, "name": "CAFÉ"})
    assert after(result, first, {**first, "name": ""}).names == {}
    assert after(result, first, {**first, "name": "bars"}).names == {0: "bars"}


def test_a_cluster_that_was_merged_away_takes_no_more(result: Result) -> None:
    with pytest.raises(ConfigError, match="cluster 1 was merged into 0"):
        after(result, {"do": "merge", "clusters": [1], "into": 0}, {"do": "move", "rows": [3], "to": 1})
