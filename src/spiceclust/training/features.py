"""What the heads of stage 2 learn from: frozen features of the images and of views of them.

The published schedule passes every view through the encoder when it is needed, thousands for each image; here V weak
and V strong views are embedded once and used again (`CachedFeatures`). N images, V views, D features, K neighbours.
"""

from __future__ import annotations

import hashlib
from typing import Protocol

import torch
from torch import Tensor

from spiceclust.data.own_views import ViewMaker
from spiceclust.models.encoders import Encoder
from spiceclust.training.checkpoint import Artefact
from spiceclust.training.context import Context
from spiceclust.training.inference import embed_images
from spiceclust.training.pixels import Pixels


class Features(Protocol):
    """Features of the images and of their views, all L2-normalised.

    Attributes:
        plain: (N, D) float32.
        neighbors: (N, K) integers, from the nearest on.
        views: V, the different views that there are of either kind.
    """

    plain: Tensor
    neighbors: Tensor
    views: int

    def weak(self, view: int | Tensor, rows: Tensor) -> Tensor:
        """Weak views of images.

        Args:
            view: which of the V; one, or one for each of the rows.
            rows: int64 image numbers, of any shape.

        Returns:
            (*rows.shape, D) float32.
        """
        ...

    def strong(self, view: int | Tensor, rows: Tensor) -> Tensor:
        """The same of strong views."""
        ...


class CachedFeatures:
    """Views that the embed stage has made once."""

    def __init__(self, embedded: Artefact) -> None:
        self.plain, self.neighbors = embedded.tensors["plain"], embedded.tensors["neighbors"]
        self._weak, self._strong = embedded.tensors["weak"], embedded.tensors["strong"]
        self.views = len(self._weak)

    def weak(self, view: int | Tensor, rows: Tensor) -> Tensor:
        return self._weak[view, rows].float()

    def strong(self, view: int | Tensor, rows: Tensor) -> Tensor:
        return self._strong[view, rows].float()


class FreshFeatures:
    """Views that are made and embedded when they are asked for: the published schedule.

    What they are depends on the seed, the number of the view and the rows asked for. An image that is asked for twice
    in one call is seen in the same view.
    """

    views = 2**31 - 1

    def __init__(
        self, embedded: Artefact, images: Pixels, encoder: Encoder, views: ViewMaker, context: Context
    ) -> None:
        self.plain, self.neighbors = embedded.tensors["plain"], embedded.tensors["neighbors"]
        self.images, self.encoder, self.context, self._views = images, encoder.eval(), context, views

    def weak(self, view: int | Tensor, rows: Tensor) -> Tensor:
        return self._embed("weak", view, rows)

    def strong(self, view: int | Tensor, rows: Tensor) -> Tensor:
        return self._embed("strong", view, rows)

    def _embed(self, kind: str, view: int | Tensor, rows: Tensor) -> Tensor:
        different, places = torch.unique(rows, return_inverse=True)
        asked = torch.cat([torch.as_tensor(each, device=rows.device).flatten() for each in (view, rows)])
        names = "features", kind, hashlib.sha256(asked.cpu().numpy().tobytes()).hexdigest()

        def seen(batch: Tensor, number: int) -> Tensor:
            made: Tensor = getattr(self._views, kind)(batch, self.context.generator(*names, number))
            return made

        return embed_images(self.encoder, self.images[different], seen, self.context)[places].clone()


def features_of(embedded: Artefact, images: Pixels, encoder: Encoder, views: ViewMaker, context: Context) -> Features:
    """The views that the embed stage kept, or fresh ones where it kept none."""
    if "weak" in embedded.tensors:
        return CachedFeatures(embedded)
    return FreshFeatures(embedded, images, encoder, views, context)
