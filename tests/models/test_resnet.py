from types import ModuleType

import pytest
import torch
from torch import nn

from spiceclust.errors import ConfigError
from spiceclust.models.resnet import RESNETS, ResNet


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "published"),
    # torchvision's, less a classifier of D x 1000 + 1000
    [("resnet18", 11_689_512 - 513_000), ("resnet34", 21_797_672 - 513_000), ("resnet50", 25_557_032 - 2_049_000)],
)
def test_resnets_have_the_published_parameters(name: str, published: int) -> None:
    assert parameters(ResNet(name)) == published


def test_there_are_three_and_another_is_refused() -> None:
    assert list(RESNETS) == ["resnet18", "resnet34", "resnet50"]
    with pytest.raises(ConfigError, match="unknown ResNet 'resnet19': choose one of resnet18, resnet34, resnet50"):
        ResNet("resnet19")


@pytest.mark.parametrize("name", RESNETS)
def test_names_and_features_are_those_of_another_library(name: str, timm: ModuleType) -> None:
    """timm's has torchvision's names and was written by others: it is the slow twin."""
    theirs = timm.create_model(name, num_classes=0).eval()
    generator = torch.Generator().manual_seed(0)
    for buffer in theirs.buffers():  # statistics that are not 0 and 1
        if buffer.is_floating_point():
            buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
    ours = ResNet(name).eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.rand((2, 3, 64, 64), generator=generator)
    with torch.no_grad():
        expected, found = theirs(images), ours(images)
    assert found.shape == (2, ours.n_features, 2, 2)
    torch.testing.assert_close(found.mean(dim=(2, 3)), expected, rtol=1e-4, atol=1e-5)
