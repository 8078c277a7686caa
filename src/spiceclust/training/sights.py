"""What stage 3 learns from: views of the images, or the frozen features of views where the encoder stays as it is.

A frozen encoder has embedded those views in stage 2 already: nothing passes through it again, and its batch-norm
statistics stay as they are. N images, B images in a batch, D features.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from spiceclust.data.own_views import Share, ViewMaker
from spiceclust.training.features import Features
from spiceclust.training.pixels import Pixels


class Sight(Protocol):
    """Shows images to a model, which is a classifier or only its head.

    Attributes:
        n: N.
        pixels: the images themselves, where views are made of them anew.
    """

    n: int
    pixels: Pixels | None

    def take(self, rows: Tensor) -> Tensor:
        """What the views of the images `rows`, (B,) int64, are made of, fetched once for all of them."""
        ...

    def weak(self, taken: Tensor, draws: torch.Generator, share: Share | None = None) -> Tensor:
        """What the model is given for a weak view of each image of a batch or a share: (B, ...) float32."""
        ...

    def strong(self, taken: Tensor, draws: torch.Generator, share: Share | None = None) -> Tensor:
        """The same of strong views."""
        ...


class PixelSight:
    """Views of the images, for encoder and head together."""

    def __init__(self, images: Pixels, views: ViewMaker) -> None:
        self.n, self.views = len(images), views
        self.pixels: Pixels | None = images
        self._images = images

    def take(self, rows: Tensor) -> Tensor:
        return self._images[rows]

    def weak(self, taken: Tensor, draws: torch.Generator, share: Share | None = None) -> Tensor:
        return self.views.weak(taken, draws, share)

    def strong(self, taken: Tensor, draws: torch.Generator, share: Share | None = None) -> Tensor:
        return self.views.strong(taken, draws, share)


class FeatureSight:
    """Features of views, one of the V drawn for each image, for the head alone."""

    def __init__(self, features: Features) -> None:
        self.n, self.features = len(features.plain), features
        self.pixels: Pixels | None = None

    def take(self, rows: Tensor) -> Tensor:
        return rows

    def weak(self, taken: Tensor, draws: torch.Generator, share: Share | None = None) -> Tensor:
        return self.features.weak(self._one_of(taken, draws, share), taken)

    def strong(self, taken: Tensor, draws: torch.Generator, share: Share | None = None) -> Tensor:
        return self.features.strong(self._one_of(taken, draws, share), taken)

    def _one_of(self, rows: Tensor, draws: torch.Generator, share: Share | None) -> Tensor:
        of, own = share or Share(len(rows), slice(None))
        return torch.randint(self.features.views, (of,), generator=draws, device=rows.device)[own]
