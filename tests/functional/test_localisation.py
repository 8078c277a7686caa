import pytest
import torch
from torch import nn

from spiceclust.functional.localisation import combined, contributions, margin


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_the_margin_is_the_log_odds() -> None:
    logits, clusters = drawn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    shares = logits.softmax(dim=1)[range(6), clusters]
    assert margin(logits, clusters).tolist() == pytest.approx((shares / (1 - shares)).log().tolist(), abs=1e-5)


def test_of_a_linear_head_on_averaged_features_it_is_cam() -> None:
    features, weights = drawn(2, 5, 3, 4).requires_grad_(), drawn(7, 5, seed=1)
    logit = (features.mean(dim=(2, 3)) @ weights.T)[:, 6]
    (gradients,) = torch.autograd.grad(logit.sum(), features)
    features = features.detach()
    found = contributions(features, gradients)
    for image in range(2):
        for y in range(3):
            for x in range(4):
                by_hand = sum(float(weights[6, k] * features[image, k, y, x]) for k in range(5)) / 12
                assert float(found[image, y, x]) == pytest.approx(by_hand, abs=1e-5)


def test_without_biases_every_stage_s_contributions_sum_to_the_score() -> None:
    torch.manual_seed(0)
    stages = [nn.Conv2d(1, 4, 3, 1, 1, bias=False), nn.Conv2d(4, 8, 3, 2, 1, bias=False)]
    head = nn.Sequential(nn.Linear(8, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False))
    fine = stages[0](drawn(2, 1, 8, 8)).relu()
    coarse = stages[1](fine).relu()
    scores = head(coarse.mean(dim=(2, 3)))[:, 1]
    for features in (fine, coarse):
        (gradients,) = torch.autograd.grad(scores.sum(), features, retain_graph=True)
        total = contributions(features, gradients).sum(dim=(1, 2)).detach()
        assert total.tolist() == pytest.approx(scores.detach().tolist(), abs=1e-5)


def test_stages_of_one_size_are_their_slow_twin() -> None:
    one, other = drawn(3, 6, 5), drawn(3, 6, 5, seed=1)
    found = combined([one, other])
    for image in range(3):
        product = [
            [max(0.0, float(one[image, y, x])) * max(0.0, float(other[image, y, x])) for x in range(5)]
            for y in range(6)
        ]

        def around(y: int, x: int, product: list[list[float]] = product) -> float:
            near = [
                product[j][i]
                for j in range(max(0, y - 1), min(6, y + 2))
                for i in range(max(0, x - 1), x + 2)[:3]
                if i < 5
            ]
            return sum(near) / len(near)

        smooth = [[around(y, x) for x in range(5)] for y in range(6)]
        most = max(map(max, smooth))
        assert found[image].flatten().tolist() == pytest.approx([v / most for row in smooth for v in row], abs=1e-5)


def test_a_coarse_stage_says_which_part_and_a_fine_one_where_in_it() -> None:
    coarse = torch.tensor([[[1.0, -1.0], [-1.0, -1.0]]])
    fine = torch.zeros(1, 16, 16)
    fine[0, 2, 3] = 1.0
    fine[0, 12, 13] = 5.0  # where the coarse one speaks against
    found = combined([fine, coarse])
    assert found.shape == (1, 16, 16)
    y, x = divmod(int(found.argmax()), 16)
    assert abs(y - 2) <= 1
    assert abs(x - 3) <= 1
    assert float(found.max()) == 1
    assert float(found[0, 9:, 9:].max()) == 0


def test_where_nothing_speaks_for_it_all_is_zero() -> None:
    assert combined([-torch.ones(2, 4, 4), torch.ones(2, 2, 2)]).tolist() == torch.zeros(2, 4, 4).tolist()
