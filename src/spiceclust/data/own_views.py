"""Views that do not come from a domain: one's own function, and none at all.

B images in a batch, S pixels a side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from spiceclust.errors import ConfigError


class Share(NamedTuple):
    """Some of the rows of a batch, as one of several processes sees them.

    Attributes:
        of: rows of the whole batch.
        rows: which of them.
    """

    of: int
    rows: slice


class ViewMaker(Protocol):
    """What makes views of images: `data.views.Views`, and what is in this module.

    Every method takes images (B, channels, S, S) uint8 and returns (B, channels, S, S) float32 in [0, 1] on the same
    device. Equal generators give equal views. Where the images are but a share of a batch, they are seen as they would
    be in the whole of it. `drawn` names the kinds that are more than the image itself.
    """

    drawn: frozenset[str]

    def plain(self, images: Tensor) -> Tensor: ...

    def contrastive(self, images: Tensor, generator: torch.Generator, share: Share | None = None) -> Tensor: ...

    def weak(self, images: Tensor, generator: torch.Generator, share: Share | None = None) -> Tensor: ...

    def strong(self, images: Tensor, generator: torch.Generator, share: Share | None = None) -> Tensor: ...


class OwnViews:
    """Contrastive and strong views by a function of one's own; the weak view, which judges, is the image itself.

    Args:
        function: given images (B, channels, S, S) uint8 and a generator on their device, from which alone it may draw,
            returns (B, channels, S, S) float32 in [0, 1].
    """

    drawn = frozenset({"contrastive", "strong"})

    def __init__(self, function: Callable[[Tensor, torch.Generator], Tensor]) -> None:
        self.function = function

    def plain(self, images: Tensor) -> Tensor:
        return images.float().div_(255)

    def contrastive(self, images: Tensor, generator: torch.Generator, share: Share | None = None) -> Tensor:
        return self.function(images, generator)

    def weak(self, images: Tensor, generator: torch.Generator, share: Share | None = None) -> Tensor:
        return self.plain(images)

    def strong(self, images: Tensor, generator: torch.Generator, share: Share | None = None) -> Tensor:
        return self.function(images, generator)

    def check(self, images: Tensor, generator: torch.Generator) -> None:
        """Tries the function on a few images.

        Raises:
            ConfigError: what it returns is not views of them.
        """
        found: Any = self.function(images.clone(), generator)
        if not isinstance(found, Tensor):
            raise ConfigError(f"your views return a {type(found).__name__}, needed a tensor")
        if found.shape != images.shape or found.dtype != torch.float32:
            raise ConfigError(
                f"your views return {found.dtype} of shape {tuple(found.shape)}, needed torch.float32 of shape "
                f"{tuple(images.shape)}"
            )
        low, high = float(found.min()), float(found.max())
        if not (low >= 0 and high <= 1):  # true for NaN too
            raise ConfigError(f"your views return values from {low:g} to {high:g}, needed from 0 to 1")


class NoViews:
    """Of embeddings that were made elsewhere there is one view: what they are."""

    drawn: frozenset[str] = frozenset()

    def plain(self, images: Tensor) -> Tensor:
        return images.float().div(255)  # as pixels are; the length of an embedding does not count

    def contrastive(self, images: Tensor, generator: torch.Generator, share: Share | None = None) -> Tensor:
        return self.plain(images)

    def weak(self, images: Tensor, generator: torch.Generator, share: Share | None = None) -> Tensor:
        return self.plain(images)

    def strong(self, images: Tensor, generator: torch.Generator, share: Share | None = None) -> Tensor:
        return self.plain(images)
