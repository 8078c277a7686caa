"""The ResNets of ImageNet, with the names that published checkpoints use (He et al. 2016).

Their blocks have the stride in the 3x3 convolution, as all published weights do since. B images in a batch.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from spiceclust.config import choose

WIDTHS = (64, 128, 256, 512)
RESNETS: dict[str, tuple[bool, tuple[int, int, int, int]]] = {  # whether with bottlenecks, blocks in each stage
    "resnet18": (False, (2, 2, 2, 2)),
    "resnet34": (False, (3, 4, 6, 3)),
    "resnet50": (True, (3, 4, 6, 3)),
}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pixels, as all of them expect
SIZE = 224  # pixels that they were trained on


class _Block(nn.Module):
    """Two 3x3 convolutions, or 1x1, 3x3, 1x1 with a fourfold output; ReLU of the sum with the input."""

    def __init__(self, width_in: int, width: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        width_out = 4 * width if bottleneck else width
        self.bottleneck = bottleneck
        self.conv1 = _convolution(width_in, width, 1 if bottleneck else 3, 1 if bottleneck else stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _convolution(width, width, 3, stride if bottleneck else 1)
        self.bn2 = nn.BatchNorm2d(width)
        if bottleneck:
            self.conv3 = _convolution(width, width_out, 1, 1)
            self.bn3 = nn.BatchNorm2d(width_out)
        self.downsample: nn.Module | None = None
        if stride != 1 or width_in != width_out:
            self.downsample = nn.Sequential(_convolution(width_in, width_out, 1, stride), nn.BatchNorm2d(width_out))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        if self.bottleneck:
            out = self.bn3(self.conv3(F.relu(out, inplace=True)))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)), inplace=True)


class ResNet(nn.Module):
    """A ResNet without its classifier: (B, 3, S, S) to (B, D, s, s).

    Args:
        name: `resnet18`, `resnet34` or `resnet50`.

    Attributes:
        n_features: D, 512 or 2,048.

    Raises:
        ConfigError: unknown name.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        bottleneck, blocks = choose(RESNETS, name, "ResNet")
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        width_in = WIDTHS[0]
        for stage, (width, count) in enumerate(zip(WIDTHS, blocks, strict=True), start=1):
            layers = []
            for position in range(count):
                stride = 2 if stage > 1 and position == 0 else 1
                layers.append(_Block(width_in, width, stride, bottleneck))
                width_in = 4 * width if bottleneck else width
            self.add_module(f"layer{stage}", nn.Sequential(*layers))
        self.n_features = width_in

    def forward(self, images: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(images)), inplace=True), 3, 2, 1)
        for stage in range(1, len(WIDTHS) + 1):
            x = self.get_submodule(f"layer{stage}")(x)
        return x


def _convolution(width_in: int, width: int, kernel: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(width_in, width, kernel, stride, kernel // 2, bias=False)
