"""The momentum encoder: an exponential moving average of a model, its batch-norm statistics included.

MoCo's batch norm leaks: when query and key are normalised by the statistics of the same batch, these tell which key
belongs to which query. Here the averaged model always runs in evaluation mode on averaged statistics (EMAN, Cai et
al. 2021), so that the key of an image depends on nothing but the image. It also needs no shuffling across devices.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class MomentumModel(nn.Module):
    """The moving average of `source`; starts as its copy.

    Args:
        source: the model that is trained.
        momentum: share of the old value that is kept at each update, in [0, 1).
    """

    def __init__(self, source: nn.Module, momentum: float) -> None:
        super().__init__()
        self.average = copy.deepcopy(source).eval().requires_grad_(False)
        self.momentum = momentum
        self._pairs = [
            (mine, theirs)
            for mine, theirs in zip(self.average.state_dict().values(), _live_tensors(source), strict=True)
            if mine.is_floating_point()
        ]

    @torch.no_grad()
    def update(self) -> None:
        """Average <- momentum * average + (1 - momentum) * source, for weights and batch-norm statistics alike."""
        mine = [pair[0] for pair in self._pairs]
        theirs = [pair[1] for pair in self._pairs]
        torch._foreach_lerp_(mine, theirs, 1 - self.momentum)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """The averaged model's output; without gradients and with averaged statistics."""
        output: Tensor = self.average(images)
        return output

    def train(self, mode: bool = True) -> MomentumModel:
        """Stays in evaluation mode: batch statistics are what must not leak."""
        super().train(mode)
        self.average.eval()
        return self


def _live_tensors(model: nn.Module) -> list[Tensor]:
    return list(model.state_dict(keep_vars=True).values())
