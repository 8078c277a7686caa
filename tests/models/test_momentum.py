import pytest
import torch
from torch import Tensor, nn

from spiceclust.models.encoders import build_encoder
from spiceclust.models.heads import build_projection
from spiceclust.models.momentum import MomentumModel


def model(seed: int = 0) -> nn.Sequential:
    encoder = build_encoder("resnet_small", 1, 16, [0.5], [0.25], seed)
    return nn.Sequential(encoder, build_projection(encoder.n_features, 8, seed)).train()


def images(count: int, seed: int = 0) -> Tensor:
    return torch.rand((count, 1, 16, 16), generator=torch.Generator().manual_seed(seed))


def floats(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items() if value.is_floating_point()}


def train_a_little(source: nn.Module, seed: int) -> None:
    """One step of gradient descent, which moves weights and batch statistics."""
    optimizer = torch.optim.SGD(source.parameters(), lr=0.1)
    source(images(8, seed)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_the_average_starts_as_a_copy() -> None:
    source = model()
    follower = MomentumModel(source, 0.9)
    assert all(torch.equal(value, floats(follower.average)[name]) for name, value in floats(source).items())
    train_a_little(source, 1)
    assert not torch.equal(floats(follower.average)["1.0.weight"], floats(source)["1.0.weight"])


@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.999])
def test_weights_and_batch_statistics_follow_the_formula(momentum: float) -> None:
    source = model()
    follower = MomentumModel(source, momentum)
    expected = {name: value.double() for name, value in floats(source).items()}
    start = floats(source)
    for update in range(5):
        train_a_little(source, update)
        before = floats(source)
        follower.update()
        assert all(torch.equal(value, before[name]) for name, value in floats(source).items())
        for name, value in before.items():
            expected[name] = momentum * expected[name] + (1 - momentum) * value.double()
    found = floats(follower.average)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name].float(), rtol=1e-5, atol=1e-6)
    for moved in ("0.backbone.0.weight", "0.backbone.1.running_mean", "0.backbone.1.running_var", "1.3.bias"):
        assert not torch.equal(found[moved], start[moved])
    assert torch.equal(found["0.mean"], start["0.mean"])


def test_the_average_nears_a_source_that_stands_still() -> None:
    source = nn.Linear(2, 2)
    follower = MomentumModel(source, 0.5)
    start = source.weight.detach().clone()
    with torch.no_grad():
        source.weight += 1
    for _ in range(4):
        follower.update()
    torch.testing.assert_close(follower.average.weight, start + 15 / 16)  # 1/2 + 1/4 + 1/8 + 1/16


def test_loading_weights_into_the_source_does_not_break_the_bond() -> None:
    source = model()
    follower = MomentumModel(source, 0.0)
    source.load_state_dict(model(seed=1).state_dict())
    follower.update()
    assert all(torch.equal(value, floats(source)[name]) for name, value in floats(follower.average).items())


def test_the_average_stays_in_evaluation_and_the_source_in_training() -> None:
    source = model()
    follower = MomentumModel(source, 0.9)
    assert not any(module.training for module in follower.average.modules())
    for mode in (True, False, True):
        follower.train(mode)
        assert follower.training == mode
        assert not any(module.training for module in follower.average.modules())
    assert follower.train() is follower
    assert all(module.training for module in source.modules())
    before = floats(follower.average)
    follower(images(8))
    assert all(torch.equal(value, before[name]) for name, value in floats(follower.average).items())


def test_the_average_gives_and_gets_no_gradient() -> None:
    source = model()
    follower = MomentumModel(source, 0.9)
    assert not any(parameter.requires_grad for parameter in follower.parameters())
    keys = follower(images(8).requires_grad_())
    assert not keys.requires_grad
    (source(images(8)) * keys).sum().backward()
    assert all(parameter.grad is None for parameter in follower.average.parameters())
    follower.update()
    assert all(parameter.requires_grad for parameter in source.parameters())


def test_a_key_depends_on_its_image_alone() -> None:
    """The leak: with batch statistics, the other images of the batch show in the output for an image."""
    source = model()
    follower = MomentumModel(source, 0.9)
    for update in range(3):
        train_a_little(source, update)
        follower.update()
    follower.train()
    company, others = images(8, seed=10), images(8, seed=11)
    others[3] = company[3]
    torch.testing.assert_close(follower(others)[3], follower(company)[3], rtol=0, atol=1e-6)
    order = torch.tensor([3, 0, 1, 2, 7, 6, 5, 4])
    torch.testing.assert_close(follower(company[order]), follower(company)[order], rtol=0, atol=1e-6)
    with torch.no_grad():
        leak = (source(others)[3] - source(company)[3]).abs().max()
    assert float(leak) > 1e-3
