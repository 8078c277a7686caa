"""Batch norm over shares: threads stand in for processes, each with a layer of its own."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from spiceclust.errors import ConfigError
from spiceclust.training.synced import synchronize


class Meeting:
    """Sums what W threads bring, in place; each calls it as often as the others."""

    def __init__(self, size: int) -> None:
        self.brought: list[Tensor] = []
        self.barrier, self.lock = threading.Barrier(size), threading.Lock()

    def add(self, tensor: Tensor) -> None:
        with self.lock:
            self.brought.append(tensor.clone())
        self.barrier.wait(10)
        total = torch.stack(self.brought).sum(dim=0)
        if self.barrier.wait(10) == 0:
            self.brought.clear()
        self.barrier.wait(10)
        tensor.copy_(total)


def layers(kind: type[nn.Module]) -> nn.Module:
    layer = kind(3)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.5, 1.0, 2.0]))
        layer.bias.copy_(torch.tensor([0.1, -0.2, 0.3]))
    return layer


@pytest.mark.parametrize(("kind", "shape"), [(nn.BatchNorm1d, (7, 3)), (nn.BatchNorm2d, (7, 3, 4, 5))])
@pytest.mark.parametrize("cuts", [[7], [3, 4], [1, 2, 4]])
def test_shares_are_normalized_as_the_whole_batch_is(
    kind: type[nn.Module], shape: tuple[int, ...], cuts: list[int]
) -> None:
    draws = torch.Generator().manual_seed(0)
    images = torch.randn(shape, generator=draws) * 3 + 20  # a mean that is large beside the spread
    weights = torch.randn(shape, generator=draws)  # of the outputs in the loss
    whole, seen = layers(kind), images.clone().requires_grad_()
    expected = whole(seen)
    (expected * weights).sum().backward()

    meeting = Meeting(len(cuts))

    def one(part: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, nn.Module]:
        own = part[0].clone().requires_grad_()
        layer = synchronize(layers(kind), meeting.add)
        output = layer(own)
        (output * part[1]).sum().backward()
        return output.detach(), own.grad, layer

    with ThreadPoolExecutor(len(cuts)) as pool:
        found = list(pool.map(one, zip(images.split(cuts), weights.split(cuts), strict=True)))
    torch.testing.assert_close(torch.cat([output for output, _, _ in found]), expected.detach(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.cat([grad for _, grad, _ in found]), seen.grad, rtol=1e-4, atol=1e-4)
    for name in ("weight", "bias"):  # whose gradients data-parallel training adds
        added = sum(getattr(layer, name).grad for _, _, layer in found)
        torch.testing.assert_close(added, getattr(whole, name).grad, rtol=1e-4, atol=1e-3)
    for _, _, layer in found:
        for name, value in whole.state_dict().items():
            torch.testing.assert_close(layer.state_dict()[name], value, rtol=1e-5, atol=1e-5)


def test_in_evaluation_it_is_the_layer_itself() -> None:
    layer = synchronize(layers(nn.BatchNorm2d), lambda tensor: pytest.fail("nobody is asked")).eval()
    images = torch.randn(2, 3, 4, 4)
    assert torch.equal(layer(images), layers(nn.BatchNorm2d).eval()(images))


def test_layers_that_compute_otherwise_are_refused() -> None:
    class Own(nn.BatchNorm2d):
        pass

    for layer in (Own(3), nn.BatchNorm2d(3, affine=False), nn.BatchNorm2d(3, track_running_stats=False)):
        with pytest.raises(ConfigError, match="cannot share its statistics"):
            synchronize(nn.Sequential(layer), lambda tensor: None)
