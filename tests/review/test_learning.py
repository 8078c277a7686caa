"""Learning from corrections, on made-up embeddings in clear groups."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from groups import DIM, FUSED, GROUPS, TRUTH, embeddings, result_of
from spiceclust.corrections import (
    NOWHERE,
    Action,
    Confirm,
    Learn,
    Merge,
    Move,
    Nowhere,
    Split,
    State,
    applied,
    carried,
    first_state,
)
from spiceclust.errors import ConfigError
from spiceclust.models.heads import build_head
from spiceclust.result import Result
from spiceclust.review import learning
from spiceclust.review.learning import Proposal, by_learning, learn


def after(result: Result, *actions: Action) -> State:
    state = first_state(result)
    for action in actions:
        state = applied(state, action)
    return state


def learned_from(result: Result, *actions: Action, **options: Any) -> Proposal:
    n = len(result.rows)
    return learn(result, after(result, *actions), embeddings(), by_learning(actions, n), **options)


def test_a_few_answers_part_groups_that_were_in_one_cluster() -> None:
    result = result_of(FUSED, GROUPS)
    proposal = learned_from(result, Move(rows=[150, 160, 170], to=3), Confirm(rows=[0, 60, 100, 110, 120]))
    assert (proposal.labels == TRUTH).mean() > 0.99
    assert set(proposal.rows) == set(np.flatnonzero(proposal.labels != FUSED)) - {150, 160, 170}
    assert (proposal.now == 2).all()
    assert (proposal.to == 3).all()
    assert (proposal.probabilities.argmax(axis=1) == TRUTH).mean() > 0.98
    np.testing.assert_allclose(proposal.probabilities.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(proposal.probabilities[150], [0, 0, 0, 1])


def test_the_head_says_so_too() -> None:
    proposal = learned_from(result_of(FUSED, GROUPS), Move(rows=[150, 160, 170], to=3), Confirm(rows=[100, 110, 120]))
    head = build_head(DIM, GROUPS)
    head.load_state_dict(proposal.head)
    points = F.normalize(torch.from_numpy(embeddings().astype(np.float32)), dim=1)
    with torch.inference_mode():
        said = head(points).softmax(dim=1)
    fixed = [150, 160, 170, 100, 110, 120]
    others = np.setdiff1d(np.arange(len(TRUTH)), fixed)
    torch.testing.assert_close(said[others], torch.from_numpy(proposal.probabilities)[others], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("left", [0, 1])
def test_nothing_is_learned_where_all_images_belong_nowhere(left: int) -> None:
    result = result_of(FUSED, GROUPS)
    rows = list(range(left, len(TRUTH)))
    with pytest.raises(ConfigError, match="two are needed"):
        learned_from(result, Merge(clusters=[0], into=1), Nowhere(rows=rows))


def test_what_was_right_and_is_confirmed_stays() -> None:
    result = result_of(TRUTH, GROUPS, sure=0.6)
    assert len(learned_from(result, Confirm(rows=list(range(0, 200, 9)))).rows) == 0
    assert len(learned_from(result, Confirm(rows=list(range(50)))).rows) == 0  # nothing is said of the others


def test_no_image_that_a_person_placed_changes_nor_one_that_belongs_nowhere_or_could_not_be_read() -> None:
    result = result_of(FUSED, GROUPS)
    rows = [replace(row, status="quarantined") if i in (155, 5) else row for i, row in enumerate(result.rows)]
    labels, probabilities = result.labels.copy(), result.probabilities.copy()
    labels[[155, 5]], probabilities[[155, 5]] = -1, 0
    result = replace(result, rows=rows, labels=labels, probabilities=probabilities)
    actions = [Move(rows=[150, 160, 170], to=3), Confirm(rows=[100, 110, 60]), Nowhere(rows=[190, 20])]
    state = after(result, *actions)
    points = np.delete(embeddings(), [5, 155], axis=0)
    proposal = learn(result, state, points, by_learning(actions, len(rows)))
    assert not set(proposal.rows) & {150, 160, 170, 100, 110, 60, 190, 20, 155, 5}
    assert proposal.labels[[60, 190, 20, 155, 5]].tolist() == [1, NOWHERE, NOWHERE, -1, -1]
    assert not proposal.probabilities[[190, 20, 155, 5]].any()
    assert (proposal.labels[151:155] == 3).all()
    applied(state, Learn(rows=proposal.rows.tolist(), to=proposal.to.tolist(), head="0" * 64))  # nothing refuses it


def test_clusters_that_were_merged_away_get_no_image_and_splits_get_theirs() -> None:
    labels = np.where(TRUTH == 0, np.arange(len(TRUTH)) % 2 * 3, FUSED)  # group 0 in clusters 0 and 3
    result = result_of(labels, GROUPS)
    split = Split(cluster=2, rows=list(range(150, 158)))
    proposal = learned_from(
        result, Merge(clusters=[3], into=0), split, Confirm(rows=[150, 151, 152, 100, 101, 102, 0, 60])
    )
    expected = np.where(TRUTH == 3, 4, TRUTH)
    assert (proposal.labels == expected).mean() > 0.99
    assert proposal.probabilities.shape == (200, 5)
    assert proposal.probabilities[:, 3].max() < 1e-6
    assert not proposal.head["2.weight"].isnan().any()


def test_merging_alone_makes_a_head_and_changes_no_image() -> None:
    labels = np.where(TRUTH == 0, np.arange(len(TRUTH)) % 2 * 3, FUSED)
    proposal = learned_from(result_of(labels, GROUPS), Merge(clusters=[3], into=0))
    assert len(proposal.rows) == 0
    assert (proposal.probabilities.argmax(axis=1) == np.where(labels == 3, 0, labels)).mean() > 0.98


def test_the_same_corrections_give_the_same_head_whatever_was_learned_between() -> None:
    result = result_of(FUSED, GROUPS)
    first, more = Move(rows=[150, 160], to=3), Confirm(rows=[0, 60, 100, 110, 120])
    at_once = learned_from(result, first, more)
    proposal = learned_from(result, first)
    between = Learn(rows=proposal.rows.tolist(), to=proposal.to.tolist(), head="0" * 64)
    in_steps = learned_from(result, first, between, more)
    np.testing.assert_array_equal(in_steps.labels, at_once.labels)
    for name, weights in at_once.head.items():
        assert torch.equal(weights, in_steps.head[name]), name
    assert not torch.equal(learned_from(result, first, more, seed=1).head["0.weight"], at_once.head["0.weight"])


def test_more_images_than_nodes_are_reached_by_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning, "NODES", 60)
    monkeypatch.setattr(learning, "ANSWERED", 7)
    monkeypatch.setattr(learning, "AT_ONCE", 32)
    proposal = learned_from(
        result_of(FUSED, GROUPS), Move(rows=[150, 160, 170], to=3), Confirm(rows=[0, 60, 100, 110, 120])
    )
    assert (proposal.labels == TRUTH).mean() > 0.98


def test_global_random_state_has_no_part_in_it() -> None:
    found = []
    for seed in range(2):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        found.append(learned_from(result_of(FUSED, GROUPS), Move(rows=[150], to=3)))
        assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(found[0].head["2.weight"], found[1].head["2.weight"])


def test_nothing_to_learn_from_is_said() -> None:
    for actions in ([], [Nowhere(rows=[3])]):
        with pytest.raises(ConfigError, match="nothing to learn from yet"):
            learned_from(result_of(TRUTH, GROUPS), *actions)


def test_rows_that_were_learned_are_those_that_no_person_touched_since() -> None:
    actions = [
        Learn(rows=[1, 2, 3, 4, 5], to=[0] * 5, head="0" * 64),
        Move(rows=[1], to=0),
        Confirm(rows=[2]),
        Nowhere(rows=[3]),
        Merge(clusters=[1], into=0),
        Split(cluster=0, rows=[4]),
    ]
    assert np.flatnonzero(by_learning(actions, 8)).tolist() == [5]


def test_probabilities_go_with_merges_and_splits_but_not_with_single_images_or_what_was_learned() -> None:
    result = result_of(np.array([0, 0, 1, 1, 2, 2]), 3, sure=0.8)
    actions = [
        Merge(clusters=[2], into=1),
        Split(cluster=0, rows=[1]),
        Move(rows=[2], to=0),
        Learn(rows=[3], to=[0], head="0" * 64),
    ]
    state = after(result, *actions)
    found = carried(result, state, ~state.fixed & ~by_learning(actions, 6))
    expected = [
        [0.8, 0.2, 0, 0],
        [0, 0.2, 0, 0.8],
        [0.1, 0.9, 0, 0],
        [0.1, 0.9, 0, 0],
        [0.1, 0.9, 0, 0],
        [0.1, 0.9, 0, 0],
    ]
    np.testing.assert_allclose(found, expected, atol=1e-6)
