import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from spiceclust.training.collapse import of_features, of_heads, of_result, of_retraining


def drawn_together(share: float) -> Tensor:
    """(200, 16): unit vectors around one direction, farther from it the greater the share."""
    noise = torch.randn((200, 16), generator=torch.Generator().manual_seed(0)) / 4
    return F.normalize(torch.eye(16)[0] + share * noise, dim=1)


def test_features_that_differ_are_no_collapse() -> None:
    facts, warnings = of_features(drawn_together(1.0))
    assert warnings == []
    assert facts["mean_cosine"] < 0.6
    assert 12 < facts["effective_rank"] <= 16
    assert facts["zero"] == 0


@pytest.mark.parametrize(("share", "collapsed"), [(0.05, False), (0.02, True), (0.0, True)])
def test_features_that_are_nearly_one_are_told_with_both_numbers(share: float, collapsed: bool) -> None:
    facts, warnings = of_features(drawn_together(share))  # the mean cosine is about 1 - share^2
    assert facts["mean_cosine"] == pytest.approx(1 - share**2, abs=share**2 / 5 + 1e-9)
    assert [f"mean cosine {facts['mean_cosine']:.6f}, limit 0.999" in line for line in warnings] == [True] * collapsed


def test_features_that_are_zero_are_counted_and_left_out() -> None:
    features = drawn_together(1.0)
    whole = of_features(features[3:])[0]["mean_cosine"]
    features[:3] = 0
    facts, (warning,) = of_features(features)
    assert warning.startswith("stage 1 collapsed: the features of 3 of 200 images are all zero")
    assert facts["zero"] == 3
    assert facts["mean_cosine"] == pytest.approx(whole)
    assert len(of_features(torch.zeros(4, 2))[1]) == 2


def test_heads_that_put_all_into_one_cluster_are_named() -> None:
    heads = torch.tensor([[0, 1, 2, 2], [1, 1, 1, 1], [0, 0, 0, 1], [2, 2, 2, 2]], dtype=torch.int16)
    (warning,) = of_heads("cuts", heads, 3)
    assert warning.startswith("3-self, cuts: 2 of 4 heads (1, 3) put all 4 images into one of 3 clusters")
    assert of_heads("cuts", heads[[0, 2]], 3) == []


@pytest.mark.parametrize(
    ("before", "after", "collapsed"),
    [
        ([5, 5], [10, 0], True),
        ([5, 5], [6, 4], False),
        ([99, 1], [99, 1], False),  # it was like that
        ([10, 0], [10, 0], False),
        ([10, 10, 10], [19, 6, 5], False),  # 2.5 of 3, as blood cells are
        ([10, 10, 10], [20, 10, 0], True),  # 1.9 of 3
        ([10, 10, 10], [28, 1, 1], True),  # 1.3 of 3, though none is empty
    ],
)
def test_clusters_that_run_together_in_the_last_training_are_told(
    before: list[int], after: list[int], collapsed: bool
) -> None:
    warnings = of_retraining("neighbors", {"3-self": before, "5-semi": after})
    assert len(warnings) == collapsed
    assert all(line.startswith("5-semi, neighbors: clusters ran together") for line in warnings)
    assert of_retraining("neighbors", {"3-self": before}) == []


def test_empty_clusters_of_the_result_are_counted() -> None:
    assert of_result([3, 1, 2]) == []
    assert of_result([3, 0, 2, 0]) == ["2 of 4 clusters hold no image: ask for 2"]
    assert of_result([0, 7]) == ["all 7 images are in one of 2 clusters: nothing was found to part them by"]
