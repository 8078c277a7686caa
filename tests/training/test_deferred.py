import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from spiceclust.models.encoders import build_encoder
from spiceclust.training.deferred import weights_later
from spiceclust.training.lanes import Lane, open_lanes


class Twice(nn.Module):
    """One convolution that is passed twice, one that is not plain, and one whose weight stays as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.shared = nn.Conv2d(8, 8, 3, padding=1, bias=False, groups=2)
        self.reflecting = nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")
        self.kept = nn.Conv2d(8, 4, 1, bias=False).requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        return self.kept(self.reflecting(self.shared(self.shared(self.first(images)).relu())))  # type: ignore[no-any-return]


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "small": lambda: build_encoder("resnet_small", 3, 16, [0.5] * 3, [0.2] * 3, 0),
    "resnet18": lambda: build_encoder("resnet18", 3, 32, [0.5] * 3, [0.2] * 3, 0),
    "twice": Twice,
}


@pytest.fixture
def lanes() -> Iterator[int]:
    """Two, as from two threads on."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with open_lanes(torch.device("cpu")) as found:
        yield found
    torch.set_num_threads(before)


def learned(model: nn.Module, lanes: int, bf16: bool) -> tuple[dict[str, Tensor | None], list[float]]:
    """The gradients of the third step, and the loss of each."""
    model = copy.deepcopy(model).train()
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.01, momentum=0.9)
    losses = []
    with Lane(lanes) as lane, weights_later(model, lane):
        for step in range(3):
            images = torch.rand(24, 3, 32, 32, generator=torch.Generator().manual_seed(step))
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                output = model(images).float()
            loss = (output * torch.linspace(-1, 1, output.numel()).view_as(output)).mean()
            loss.backward()  # type: ignore[no-untyped-call]
            lane.settle()
            optimizer.step()
            losses.append(loss.item())
    assert all("forward" not in vars(each) for each in model.modules())
    return {name: parameter.grad for name, parameter in model.named_parameters()}, losses


@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bf16"])
@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_are_those_of_an_ordinary_backward_pass(lanes: int, name: str, bf16: bool) -> None:
    torch.manual_seed(0)
    model = NETWORKS[name]()
    wanted, losses = learned(model, 1, bf16)
    found, now = learned(model, lanes, bf16)
    if name == "twice" and bf16:  # autocast adds the gradients of one weight's two uses in bf16, and we in float32
        assert now == pytest.approx(losses, rel=1e-2)
        return
    assert now == losses
    for key, gradient in wanted.items():
        other = found[key]
        assert (gradient is None) == (other is None), key
        if gradient is not None and other is not None:
            assert torch.equal(gradient, other), key
            assert gradient.dtype == other.dtype


def test_without_gradients_nothing_is_deferred(lanes: int) -> None:
    model = Twice()
    images = torch.rand(4, 3, 8, 8)
    with Lane(lanes) as lane, weights_later(model, lane), torch.no_grad():
        seen = model(images)
        lane.settle()
    with torch.no_grad():
        assert torch.equal(model(images), seen)
    assert model.first.weight.grad is None


def test_work_of_either_lane_is_used_in_order_and_its_errors_are_told(lanes: int) -> None:
    used: list[float] = []
    with Lane(lanes) as lane:
        for i in range(50):
            lane.defer(lambda i=i: torch.tensor(float(i)), lambda each: used.append(float(each)))
        lane.settle()
        assert used == list(range(50))
        lane.settle()
        assert len(used) == 50

        def fail() -> Tensor:
            raise KeyError("this")

        lane.defer(fail, lambda each: None)
        with pytest.raises(KeyError, match="this"):
            lane.settle()
