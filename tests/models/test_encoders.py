import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spiceclust.errors import ConfigError
from spiceclust.models.encoders import BACKBONES, FULL_SIZE_LIMIT, SMALL_STEM_LIMIT, Encoder, build_encoder

FEATURES = {"resnet_small": 128, "resnet18": 512, "resnet34": 512, "wrn28_2": 128, "wrn28_8": 512, "wrn37_2": 256}


def encoder(name: str = "resnet_small", channels: int = 1, size: int = 16, seed: int = 0) -> Encoder:
    return build_encoder(name, channels, size, [0.5] * channels, [0.25] * channels, seed).eval()


def images(count: int, channels: int, size: int, seed: int = 0) -> Tensor:
    return torch.rand((count, channels, size, size), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [16, 28, 32, 64, 96])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", FEATURES)
def test_every_backbone_takes_every_size(name: str, channels: int, size: int) -> None:
    model = encoder(name, channels, size)
    with torch.no_grad():
        features = model(images(2, channels, size))
    assert features.shape == (2, FEATURES[name])
    assert model.n_features == FEATURES[name]
    assert torch.isfinite(features).all()
    assert not torch.allclose(features[0], features[1])


def test_there_are_four_backbones_and_another_is_refused() -> None:
    assert set(BACKBONES) == set(FEATURES)
    with pytest.raises(ConfigError, match=r"unknown backbone 'vgg': choose one of resnet_small, resnet18, resnet34, w"):
        encoder("vgg")


# Weights


def test_equal_seeds_give_equal_weights_whatever_the_global_state() -> None:
    torch.manual_seed(1)
    first = encoder(seed=7).state_dict()
    torch.manual_seed(2)
    again, other = encoder(seed=7).state_dict(), encoder(seed=8).state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    assert not torch.equal(first["backbone.0.weight"], other["backbone.0.weight"])


@pytest.mark.parametrize("name", FEATURES)
def test_building_leaves_the_global_generator_alone(name: str) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    encoder(name)
    assert torch.equal(torch.get_rng_state(), before)


def test_building_leaves_the_generators_of_accelerators_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    encoder()
    assert seeded == []


@pytest.mark.parametrize("name", ["resnet18", "wrn28_2"])
def test_convolutions_start_as_he_et_al_say(name: str) -> None:
    # He et al. 2015: normal with variance 2 / n, n = outputs x kernel area.
    checked = 0
    for module in encoder(name, 3, 32).modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 10_000:
            expected = math.sqrt(2 / (module.out_channels * module.kernel_size[0] ** 2))
            assert float(module.weight.detach().std()) == pytest.approx(expected, rel=0.05)
            assert abs(float(module.weight.detach().mean())) < 0.05 * expected
            checked += 1
    assert checked > 10


# Published architectures, counted from the papers' tables


def convolution(inputs: int, outputs: int, kernel: int) -> int:
    return inputs * outputs * kernel * kernel  # no bias: batch norm follows


def batch_norm(width: int) -> int:
    return 2 * width  # scale and shift


def resnet_parameters(blocks: list[int], widths: list[int], stem_kernel: int, channels: int) -> int:
    """He et al. 2016, table 1: a stem, then blocks of two 3x3 convolutions; a 1x1 shortcut where widths change."""
    total = convolution(channels, widths[0], stem_kernel) + batch_norm(widths[0])
    inputs = widths[0]
    for count, width in zip(blocks, widths, strict=True):
        for _ in range(count):
            total += (
                convolution(inputs, width, 3) + batch_norm(width) + convolution(width, width, 3) + batch_norm(width)
            )
            if inputs != width:
                total += convolution(inputs, width, 1) + batch_norm(width)
            inputs = width
    return total


def wide_resnet_parameters(depth: int, factor: int, channels: int) -> int:
    """Zagoruyko and Komodakis 2016, table 1: three groups of (depth - 4) / 6 pre-activation blocks."""
    total, inputs = convolution(channels, 16, 3), 16
    for width in (16 * factor, 32 * factor, 64 * factor):
        for _ in range((depth - 4) // 6):
            total += (
                batch_norm(inputs) + convolution(inputs, width, 3) + batch_norm(width) + convolution(width, width, 3)
            )
            if inputs != width:
                total += convolution(inputs, width, 1)
            inputs = width
    return total + batch_norm(inputs)


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "blocks", "published"),
    # torchvision: 11,689,512 and 21,797,672 with a classifier of 512 x 1000 + 1000
    [("resnet18", [2, 2, 2, 2], 11_689_512 - 513_000), ("resnet34", [3, 4, 6, 3], 21_797_672 - 513_000)],
)
def test_resnets_have_the_published_parameters(name: str, blocks: list[int], published: int) -> None:
    widths = [64, 128, 256, 512]
    assert resnet_parameters(blocks, widths, 7, 3) == published
    assert parameters(encoder(name, 3, 96)) == published
    assert parameters(encoder(name, 3, 32)) == resnet_parameters(blocks, widths, 3, 3)
    assert parameters(encoder(name, 1, 32)) == resnet_parameters(blocks, widths, 3, 1)


def test_wide_resnet_has_the_published_parameters() -> None:
    published = 1_467_610 - 1_290  # FixMatch's WRN-28-2 with a classifier of 128 x 10 + 10
    assert wide_resnet_parameters(28, 2, 3) == published
    assert parameters(encoder("wrn28_2", 3, 32)) == published
    assert parameters(encoder("wrn28_8", 3, 32)) == wide_resnet_parameters(28, 8, 3)


def test_the_small_resnet_has_three_stages_of_one_block() -> None:
    assert parameters(encoder("resnet_small", 1, 16)) == resnet_parameters([1, 1, 1], [32, 64, 128], 3, 1)


@pytest.mark.parametrize(
    ("name", "layers"), [("resnet18", 18), ("resnet34", 34), ("wrn28_2", 28), ("wrn28_8", 28), ("wrn37_2", 37)]
)
def test_backbones_have_the_layers_of_their_name(name: str, layers: int) -> None:
    kernels = [m.kernel_size for m in encoder(name, 3, 32).modules() if isinstance(m, nn.Conv2d)]
    if name.startswith("wrn"):
        assert len(kernels) == layers  # blocks of two, the stem, and a 1x1 shortcut for each stage
    else:
        assert len(kernels) - kernels.count((1, 1)) + 1 == layers  # without shortcuts, with the classifier


# Geometry


def map_side(model: Encoder, size: int, channels: int = 1) -> int:
    with torch.no_grad():
        maps = model.backbone(images(1, channels, size))
    assert maps.shape[2] == maps.shape[3]
    return int(maps.shape[2])


@pytest.mark.parametrize(
    ("name", "size", "side"),
    [
        ("resnet18", 32, 4),  # 32, 16, 8, 4
        ("resnet18", 28, 4),  # 28, 14, 7, 4
        ("resnet18", 64, 8),  # 64, 32, 16, 8
        ("resnet18", 65, 3),  # stem 33, pool 17, then 9, 5, 3
        ("resnet18", 96, 3),  # stem 48, pool 24, then 12, 6, 3
        ("resnet_small", 20, 5),  # 20, 10, 5
        ("resnet_small", 21, 3),  # stem 10, then 5, 3
        ("resnet_small", 28, 4),  # stem 14, then 7, 4
        ("resnet_small", 64, 8),  # stem 32, then 16, 8
        ("resnet_small", 65, 5),  # stem 33, pool 17, then 9, 5
        ("wrn28_2", 64, 16),
        ("wrn28_2", 96, 24),  # it has one stem
        ("wrn37_2", 32, 4),
    ],
)
def test_the_stem_follows_the_size(name: str, size: int, side: int) -> None:
    model = encoder(name, 1, size)
    assert map_side(model, size) == side
    assert (FULL_SIZE_LIMIT, SMALL_STEM_LIMIT) == (20, 64)
    pools = [module for module in model.modules() if isinstance(module, nn.MaxPool2d)]
    stem = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    large = size > 64 and not name.startswith("wrn")
    halving = name == "resnet_small" and 20 < size <= 64
    assert stem.kernel_size == ((7, 7) if large else (4, 4) if halving else (3, 3))
    assert len(pools) == (1 if large else 0)


# Pixels


def test_pixels_are_normalised_channel_by_channel_and_maps_are_averaged() -> None:
    mean, std = [0.1, 0.4, 0.7], [0.5, 0.25, 0.125]
    model = build_encoder("resnet_small", 3, 16, mean, std, seed=0).eval()
    batch = images(2, 3, 16).numpy()
    normalised = np.stack([(batch[:, channel] - mean[channel]) / std[channel] for channel in range(3)], axis=1)
    with torch.no_grad():
        maps = model.backbone(torch.from_numpy(normalised.astype(np.float32))).numpy()
        features = model(torch.from_numpy(batch)).numpy()
    expected = [[float(maps[image, feature].mean()) for feature in range(128)] for image in range(2)]
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)


def test_the_pixel_statistics_travel_with_the_weights() -> None:
    first = build_encoder("resnet_small", 3, 16, [0.1, 0.4, 0.7], [0.5, 0.25, 0.125], seed=0).eval()
    second = build_encoder("resnet_small", 3, 16, [0.0] * 3, [1.0] * 3, seed=1).eval()
    second.load_state_dict(first.state_dict())
    with torch.no_grad():
        assert torch.equal(first(images(2, 3, 16)), second(images(2, 3, 16)))


def test_the_statistics_are_not_trained() -> None:
    names = [name for name, _ in encoder().named_parameters()]
    assert "mean" not in names
    assert "std" not in names


def blocks(model: nn.Module, kind: str) -> Iterator[nn.Module]:
    return (module for module in model.modules() if type(module).__name__ == kind)


def test_a_basic_block_is_relu_of_the_sum() -> None:
    block = next(blocks(encoder(size=16), "_BasicBlock"))
    x = torch.randn((2, 32, 4, 4), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        inner = torch.relu(block.norm1(block.conv1(x)))
        expected = torch.relu(block.norm2(block.conv2(inner)) + x)
        torch.testing.assert_close(block(x.clone()), expected)


def test_a_wide_block_activates_first_and_adds_the_input_as_it_was() -> None:
    changing, same, *_ = blocks(encoder("wrn28_2", 3, 32), "_WideBlock")
    generator = torch.Generator().manual_seed(0)
    for block, width in ((changing, 16), (same, 32)):
        x = torch.randn((2, width, 4, 4), generator=generator)
        with torch.no_grad():
            active = torch.relu(block.norm1(x))
            residual = block.conv2(torch.relu(block.norm2(block.conv1(active))))
            shortcut = block.shortcut(active) if block is changing else x
            torch.testing.assert_close(block(x.clone()), residual + shortcut)
