"""Encoders: image -> feature vector. ResNet (He et al. 2016) and Wide ResNet (Zagoruyko and Komodakis 2016).

B images in a batch, S pixels a side, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spiceclust.config import choose

SMALL_STEM_LIMIT = 64  # pixels; above it the 7x7 stem with max-pooling of ImageNet is used
FULL_SIZE_LIMIT = 20  # pixels; above it the network for CPUs halves the image at once: three times faster (docs/log.md)


@dataclass(frozen=True)
class Design:
    """What an encoder is, without its weights: what is needed to build it again.

    Attributes:
        kind: `moco` (a backbone of this module), `resnet`, `timm`, `module` or `embeddings`; see `models.designs`.
        name: of the backbone, the model, or the module's class.
        channels: of the images, 1 or 3.
        image_size: S in pixels.
        n_features: D.
    """

    kind: str
    name: str
    channels: Literal[1, 3]
    image_size: int
    n_features: int


class Encoder(nn.Module):
    """Normalises the pixels, runs a backbone, and averages over the image.

    Args:
        backbone: maps (B, channels, S, S) to (B, D, s, s), or to (B, D), which is left as it is.
        design: what it is; D among it.
        mean, std: per-channel mean and standard deviation of the training images, in [0, 1]; None leaves what comes in
            as it is, whatever its shape.
    """

    def __init__(
        self, backbone: nn.Module, design: Design, mean: Sequence[float] | None, std: Sequence[float] | None
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.design = design
        self.n_features = design.n_features
        self.register_buffer("mean", None if mean is None else torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", None if std is None else torch.tensor(std).view(1, -1, 1, 1))

    mean: Tensor | None
    std: Tensor | None

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, channels, S, S) float32 in [0, 1] to pooled features (B, D)."""
        if self.mean is not None and self.std is not None:
            images = ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        features: Tensor = self.backbone(images)
        return features.mean(dim=(2, 3)) if features.dim() == 4 else features


class _BasicBlock(nn.Module):
    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or width_in != width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(width_in, width, 1, stride, bias=False),
                nn.BatchNorm2d(width),
            )

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.norm1(self.conv1(x)), inplace=True)
        out = self.norm2(self.conv2(out))
        return F.relu(out + self.shortcut(x), inplace=True)


class _WideBlock(nn.Module):
    """Pre-activation block; the first one of a stage shares its activation with the shortcut."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(width_in)
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(width_in, width, 1, stride, bias=False) if width_in != width else None

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.norm1(x))
        out: Tensor = self.conv2(F.relu(self.norm2(self.conv1(active)), inplace=True))
        return out + (x if self.shortcut is None else self.shortcut(active))


def _stages(
    block: Callable[[int, int, int], nn.Module], width_in: int, widths: Sequence[int], blocks: Sequence[int]
) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for stage, (width, count) in enumerate(zip(widths, blocks, strict=True)):
        for position in range(count):
            stride = 2 if stage > 0 and position == 0 else 1
            layers.append(block(width_in, width, stride))
            width_in = width
    return layers


def _resnet(
    widths: Sequence[int], blocks: Sequence[int], full_size_limit: int = SMALL_STEM_LIMIT
) -> Callable[[int, int], tuple[nn.Module, int]]:
    def build(channels: int, image_size: int) -> tuple[nn.Module, int]:
        if image_size <= full_size_limit:
            kernel, stride = 3, 1
        elif image_size <= SMALL_STEM_LIMIT:
            kernel, stride = 4, 2
        else:
            kernel, stride = 7, 2
        stem = nn.Conv2d(channels, widths[0], kernel, stride, (kernel - 1) // 2, bias=False)
        pool = [nn.MaxPool2d(3, 2, 1)] if image_size > SMALL_STEM_LIMIT else []
        layers = [stem, nn.BatchNorm2d(widths[0]), nn.ReLU(inplace=True), *pool]
        return nn.Sequential(*layers, *_stages(_BasicBlock, widths[0], widths, blocks)), widths[-1]

    return build


def _wide_resnet(stages: int, factor: int) -> Callable[[int, int], tuple[nn.Module, int]]:
    """Stages of four blocks: with the stem and a shortcut for each stage, 3 make 28 convolutions and 4 make 37."""

    def build(channels: int, image_size: int) -> tuple[nn.Module, int]:
        widths = [16 * factor * 2**stage for stage in range(stages)]
        stem = nn.Conv2d(channels, 16, 3, 1, 1, bias=False)
        layers = _stages(_WideBlock, 16, widths, [4] * stages)
        return nn.Sequential(stem, *layers, nn.BatchNorm2d(widths[-1]), nn.ReLU(inplace=True)), widths[-1]

    return build


BACKBONES: dict[str, Callable[[int, int], tuple[nn.Module, int]]] = {
    "resnet_small": _resnet((32, 64, 128), (1, 1, 1), FULL_SIZE_LIMIT),
    "resnet18": _resnet((64, 128, 256, 512), (2, 2, 2, 2)),
    "resnet34": _resnet((64, 128, 256, 512), (3, 4, 6, 3)),
    "wrn28_2": _wide_resnet(3, 2),
    "wrn28_8": _wide_resnet(3, 8),
    "wrn37_2": _wide_resnet(4, 2),
}


def build_encoder(
    name: str, channels: int, image_size: int, mean: Sequence[float], std: Sequence[float], seed: int
) -> Encoder:
    """A freshly initialised encoder; equal seeds give equal weights.

    Args:
        name: `resnet_small` (three stages of one block, widths 32, 64, 128: for CPUs), `resnet18`, `resnet34`,
            `wrn28_2`, `wrn28_8` or `wrn37_2`.
        channels: 1 or 3.
        image_size: S in pixels; up to 64 the stem is one 3x3 convolution (in `resnet_small` up to 20, then 4x4 with
            stride 2), above it 7x7 with max-pooling; the wide ones have the 3x3 one throughout.
        mean, std: per-channel statistics of the images in [0, 1].
        seed: of the initial weights (He initialisation).

    Raises:
        ConfigError: unknown name.
    """
    make = choose(BACKBONES, name, "backbone")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the GPUs too
        backbone, n_features = make(channels, image_size)
        for module in backbone.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    design = Design("moco", name, 1 if channels == 1 else 3, image_size, n_features)
    return Encoder(backbone.to(memory_format=torch.channels_last), design, mean, std)  # type: ignore[call-overload]
