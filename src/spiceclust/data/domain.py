"""Which domain of views fits the images: what `auto` chooses, and why."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from spiceclust.config import Domain
from spiceclust.functional.augment import background, luminance


@dataclass(frozen=True)
class DomainChoice:
    """What `auto` chose, and the measurements that decided, in one sentence."""

    domain: Domain
    reason: str


SAMPLE = 1000  # images looked at to choose a domain
GREY_LIMIT = 0.01  # mean distance of a channel from grey
GLYPH_GROUND = 0.4  # median share of pixels that are background
GLYPH_EXTREME = 0.1  # distance of the background from black or white
FILLED = 0.04  # mean share of a glyph's ink that lies deeper than an eighth of the side: strokes have no such parts
UPRIGHT = 0.04  # squared change of the mean image under a flip or quarter turn, in pixel variances
ALIGNED = (
    0.1  # variance of the mean image within its rows, in pixel variances: a fixed place shows in it, a sky does not
)


def choose_domain(images: Tensor) -> DomainChoice:
    """Chooses the domain of the views from the images.

    Grey images of thin strokes on a black or white ground are glyphs. Images whose average looks the same after flips
    and quarter turns have no upright position: textures. Images whose average shows an outline are of one thing at a
    fixed place: aligned. Everything else is treated as photographs.

    Args:
        images: (N, channels, S, S) uint8.
    """
    sample = images[looked_at(len(images))].float() / 255
    grey = luminance(sample)
    colour = float((sample - grey).abs().mean())
    ground_grey = background(grey)
    ground = float(((grey - ground_grey).abs() < 0.1).float().mean(dim=(1, 2, 3)).median())
    extreme = float(torch.minimum(ground_grey, 1 - ground_grey).median())
    filled = _filled_share((grey - ground_grey).abs())
    upright, outline = _mean_image(sample)
    measured = (
        f"colour {colour:.3f}, background share {ground:.2f}, filled {filled:.2f}, uprightness {upright:.3f}, "
        f"outline {outline:.3f}"
    )
    even = ground >= GLYPH_GROUND and extreme <= GLYPH_EXTREME
    if colour < GREY_LIMIT and even and filled <= FILLED and upright >= UPRIGHT:
        return DomainChoice("glyph", f"grey, upright strokes on an even black or white ground ({measured})")
    if upright < UPRIGHT and len(sample) >= 2 / UPRIGHT:
        return DomainChoice("texture", f"the images have no upright position ({measured})")
    if outline >= ALIGNED and len(sample) >= 2 / ALIGNED:
        return DomainChoice("aligned", f"upright images of one thing at a fixed place ({measured})")
    return DomainChoice("natural", f"upright images with grey tones or colour ({measured})")


def looked_at(n: int) -> Tensor:
    """(at most 1,000,) int64: which of n images are looked at, all over them, since sources are often sorted."""
    return torch.linspace(0, n - 1, min(SAMPLE, n)).long()


def _filled_share(ink: Tensor) -> float:
    """Mean share of the ink (B, 1, S, S) that is left after an erosion by an eighth of the side all around."""
    ink = F.interpolate(ink / ink.amax(dim=(1, 2, 3), keepdim=True).clamp(min=0.1), (32, 32), mode="bilinear")
    shape = (ink > 0.5).float()
    deep = -F.max_pool2d(-F.pad(shape, (4, 4, 4, 4)), 9, 1)
    return float((deep.sum(dim=(1, 2, 3)) / shape.sum(dim=(1, 2, 3)).clamp(min=1)).mean())


def _mean_image(images: Tensor) -> tuple[float, float]:
    """How much the mean image changes under flips and a quarter turn, and how much it varies within its rows.

    The greatest mean squared change, and the mean squared deviation from the row's mean (a thing at a fixed place
    makes one, a sky above a ground does not), both in units of the variance over images, less the 2 / N and 1 / N that
    sampling explains.
    """
    coarse = F.adaptive_avg_pool2d(images, 8)
    coarse = coarse - coarse.mean(dim=(1, 2, 3), keepdim=True)
    mean = coarse.mean(dim=0)
    variance = coarse.var(dim=0, correction=0).mean().clamp(min=1e-8)
    turned = (mean.flip(1), mean.flip(2), mean.rot90(1, (1, 2)))
    change = max(float((mean - other).square().mean() / variance) for other in turned)
    within_rows = float((mean - mean.mean(dim=2, keepdim=True)).square().mean() / variance)
    return change - 2 / len(images), within_rows - 1 / len(images)
