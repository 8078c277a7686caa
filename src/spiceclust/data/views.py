"""Random views of images, computed for a whole batch at once with an independent draw for each image.

Three kinds: `contrastive` (MoCo's two views), `weak` (flip and shift) and `strong` (four random operations and
cutout). Each exists in four domains, because what keeps the meaning of an image depends on what it shows:

    natural   photographs: crops, horizontal flips, colour
    aligned   one thing at a fixed place (garments, faces, hand signs): its outline counts, so crops are mild; its
              colour and shade do not, so they change more
    glyph     digits, letters, symbols: small affine and elastic changes, stroke width; no flips, no colour
    texture   microscopy, aerial, surfaces: no up or down, so all flips and rotations; little colour

All geometry of a view is one affine map (plus a smooth displacement for glyphs) and one resampling.
B images in a batch, S pixels a side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from spiceclust.config import Domain
from spiceclust.data.own_views import Share
from spiceclust.functional.augment import (
    affine,
    blend,
    brightness,
    column,
    contrast,
    gaussian_blur,
    hue,
    resample,
    saturation,
    smooth,
    stroke,
)

Range = tuple[float, float]
NONE: Range = (0.0, 0.0)


@dataclass(frozen=True)
class Geometry:
    """Ranges of uniform draws: angles and shears in degrees, shifts in shares of the side, crops of the area."""

    crop: Range = (1.0, 1.0)
    aspect: Range = (1.0, 1.0)
    rotate: float = 0.0
    shear: float = 0.0
    shift: float = 0.0
    scale: Range = (1.0, 1.0)
    flip_horizontal: bool = False
    flip_vertical: bool = False
    quarter_turns: bool = False
    elastic: float = 0.0
    padding: str = "reflection"


@dataclass(frozen=True)
class Appearance:
    """Strengths of uniform draws around no change, and the probabilities with which they are applied."""

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    jitter_probability: float = 1.0
    grey_probability: float = 0.0
    blur_probability: float = 0.0
    stroke: float = 0.0
    noise: float = 0.0


CONTRASTIVE: dict[Domain, tuple[Geometry, Appearance]] = {
    "natural": (
        Geometry(crop=(0.2, 1.0), aspect=(3 / 4, 4 / 3), flip_horizontal=True),
        Appearance(0.4, 0.4, 0.4, 0.1, jitter_probability=0.8, grey_probability=0.2, blur_probability=0.5),
    ),
    "aligned": (
        Geometry(crop=(0.5, 1.0), aspect=(3 / 4, 4 / 3), flip_horizontal=True),
        Appearance(0.6, 0.6, 0.8, 0.2, jitter_probability=0.8, grey_probability=0.5, blur_probability=0.5),
    ),
    "glyph": (
        Geometry(rotate=15, shear=12, shift=0.1, scale=(0.8, 1.2), elastic=0.06, padding="background"),
        Appearance(brightness=0.1, contrast=0.3, stroke=0.6, noise=0.08),
    ),
    "texture": (
        Geometry(
            crop=(0.4, 1.0),
            aspect=(4 / 5, 5 / 4),
            rotate=45,
            flip_horizontal=True,
            flip_vertical=True,
            quarter_turns=True,
        ),
        Appearance(0.2, 0.2, 0.2, 0.03, jitter_probability=0.8, grey_probability=0.1, blur_probability=0.2),
    ),
}

WEAK: dict[Domain, Geometry] = {
    "natural": Geometry(shift=0.125, flip_horizontal=True),
    "glyph": Geometry(shift=0.0625, padding="background"),
    "texture": Geometry(shift=0.125, flip_horizontal=True, flip_vertical=True, quarter_turns=True),
}
WEAK["aligned"] = WEAK["natural"]

# Operations of the strong view, with the greatest strength of each. Geometry as in `Geometry`.
STRONG: dict[Domain, dict[str, float]] = {
    "natural": {
        "rotate": 30, "shear_x": 17, "shear_y": 17, "shift_x": 0.3, "shift_y": 0.3, "brightness": 0.9, "contrast": 0.9,
        "saturation": 0.9, "sharpness": 0.9, "posterize": 4, "solarize": 1.0, "autocontrast": 1.0, "identity": 1.0,
    },
    "glyph": {
        "rotate": 20, "shear_x": 20, "shear_y": 15, "shift_x": 0.12, "shift_y": 0.12, "zoom": 0.2, "elastic": 0.1,
        "brightness": 0.2, "contrast": 0.6, "sharpness": 0.9, "stroke": 0.8, "noise": 0.15, "identity": 1.0,
    },
    "texture": {
        "rotate": 45, "shear_x": 17, "shear_y": 17, "shift_x": 0.2, "shift_y": 0.2, "zoom": 0.2, "brightness": 0.4,
        "contrast": 0.4, "saturation": 0.4, "sharpness": 0.9, "autocontrast": 1.0, "noise": 0.05, "identity": 1.0,
    },
}  # fmt: skip
STRONG["aligned"] = STRONG["natural"]
STRONG_OPERATIONS = 4
CUTOUT = {"natural": 0.5, "aligned": 0.5, "glyph": 0.3, "texture": 0.5}  # greatest side, share of the image's
BLUR_FROM = 33  # pixels; below, a blur would leave nothing (method.md: none at 32 px)


class Views:
    """Makes the three kinds of view in one domain.

    Every method takes images (B, channels, S, S) uint8 and returns (B, channels, S, S) float32 in [0, 1] on the same
    device. Equal generators give equal views, to a share of a batch too. `drawn` names the kinds that are more than the
    image itself.
    """

    drawn = frozenset({"contrastive", "weak", "strong"})

    def __init__(self, domain: Domain) -> None:
        self.domain = domain

    def plain(self, images: Tensor) -> Tensor:
        """The image itself."""
        return images.float().div_(255)

    def contrastive(self, images: Tensor, generator: torch.Generator, share: Share | None = None) -> Tensor:
        """One of MoCo's views; call twice for the pair."""
        geometry, appearance = CONTRASTIVE[self.domain]
        draw = _Draw(len(images), images.device, generator, share)
        moved = resample(self.plain(images), *_geometry(geometry, draw), geometry.padding)
        return _appearance(moved, appearance, draw)

    def weak(self, images: Tensor, generator: torch.Generator, share: Share | None = None) -> Tensor:
        """Flip and shift by whole pixels."""
        geometry = WEAK[self.domain]
        draw = _Draw(len(images), images.device, generator, share)
        matrix, displacement = _geometry(geometry, draw)
        half = images.shape[-1] / 2  # one pixel is 1 / half in the resampler's coordinates
        matrix[:, :, 2] = (matrix[:, :, 2] * half).round() / half
        return resample(self.plain(images), matrix, displacement, geometry.padding)

    def strong(self, images: Tensor, generator: torch.Generator, share: Share | None = None) -> Tensor:
        """Four operations drawn for each image, after a flip of the domain, then cutout."""
        draw = _Draw(len(images), images.device, generator, share)
        table = STRONG[self.domain]
        chosen = draw.choices(len(table), STRONG_OPERATIONS)
        strength = {name: chosen[:, i] * limit for i, (name, limit) in enumerate(table.items())}
        padding = WEAK[self.domain].padding
        moved = resample(self.plain(images), *_strong_geometry(strength, WEAK[self.domain], draw), padding)
        return _cutout(_strong_appearance(moved, strength, draw), CUTOUT[self.domain], draw)


class _Draw:
    """Random numbers with one row for each image of a batch; of a share, those that are its own in the whole.

    Args:
        batch: B, images of the batch, or of the share of one.
        device: where they lie.
        generator: from which numbers for the whole batch are drawn.
        share: which rows of which batch the images are; None where they are all of it.
    """

    def __init__(
        self, batch: int, device: torch.device, generator: torch.Generator, share: Share | None = None
    ) -> None:
        self.batch, self.device, self.generator = batch, device, generator
        self.of, self.rows = share or Share(batch, slice(None))

    def _rand(self, *shape: int) -> Tensor:
        return torch.rand((self.of, *shape), device=self.device, generator=self.generator)[self.rows]

    def uniform(self, low: float, high: float) -> Tensor:
        """(B,) float32 in [low, high)."""
        return self._rand() * (high - low) + low

    def around(self, limit: float) -> Tensor:
        """(B,) float32 in [-limit, limit)."""
        return self.uniform(-limit, limit)

    def coin(self, probability: float = 0.5) -> Tensor:
        """(B,) bool."""
        return self._rand() < probability

    def sign(self) -> Tensor:
        """(B,) float32, -1 or 1."""
        return self.coin().float() * 2 - 1

    def log_uniform(self, limits: Range) -> Tensor:
        """(B,) float32 in [low, high), uniform in the logarithm."""
        return self.uniform(math.log(limits[0]), math.log(limits[1])).exp()

    def normal(self, *shape: int) -> Tensor:
        """(B, *shape) float32, standard normal."""
        return torch.randn((self.of, *shape), device=self.device, generator=self.generator)[self.rows]

    def choices(self, count: int, taken: int) -> Tensor:
        """(B, count) float32: `taken` random columns of each row hold a draw from [0.1, 1) with a sign, the rest 0."""
        noise = self._rand(count)
        mask = torch.zeros_like(noise).scatter_(1, noise.topk(taken, dim=1).indices, 1.0)
        size = self._rand(count) * 0.9 + 0.1
        flip = self._rand(count) < 0.5
        return mask * torch.where(flip, -size, size)


def _geometry(geometry: Geometry, draw: _Draw) -> tuple[Tensor, Tensor | None]:
    area = draw.uniform(*geometry.crop)
    aspect = draw.log_uniform(geometry.aspect).sqrt()
    width = (area.sqrt() * aspect).clamp(max=1)
    height = (area.sqrt() / aspect).clamp(max=1)
    zoom = draw.log_uniform(geometry.scale)
    reach = 2 * geometry.shift  # a shift of the whole side is 2 in the resampler's coordinates
    matrix = affine(
        draw.around(geometry.rotate) + _quarter_turn(geometry, draw),
        draw.around(geometry.shear),
        draw.around(geometry.shear),
        width / zoom * _flip(geometry.flip_horizontal, draw),
        height / zoom * _flip(geometry.flip_vertical, draw),
        draw.around(1.0) * (1 - width) + draw.around(reach),
        draw.around(1.0) * (1 - height) + draw.around(reach),
    )
    displacement = draw.normal(2, 4, 4) * geometry.elastic if geometry.elastic else None
    return matrix, displacement


def _flip(allowed: bool, draw: _Draw) -> Tensor:
    return draw.sign() if allowed else torch.ones(draw.batch, device=draw.device)


def _quarter_turn(geometry: Geometry, draw: _Draw) -> Tensor:
    turns = draw.uniform(0, 4).floor()
    return turns * 90 if geometry.quarter_turns else torch.zeros_like(turns)


def _strong_geometry(strength: dict[str, Tensor], flips: Geometry, draw: _Draw) -> tuple[Tensor, Tensor | None]:
    zero = torch.zeros(draw.batch, device=draw.device)
    zoom = strength.get("zoom", zero).exp()
    matrix = affine(
        strength.get("rotate", zero) + _quarter_turn(flips, draw),
        strength.get("shear_x", zero),
        strength.get("shear_y", zero),
        zoom * _flip(flips.flip_horizontal, draw),
        zoom * _flip(flips.flip_vertical, draw),
        2 * strength.get("shift_x", zero),
        2 * strength.get("shift_y", zero),
    )
    elastic = strength.get("elastic")
    return matrix, None if elastic is None else draw.normal(2, 4, 4) * elastic.view(-1, 1, 1, 1)


def _noise(images: Tensor, sigma: Tensor, draw: _Draw) -> Tensor:
    return (images + draw.normal(*images.shape[1:]) * column(sigma)).clamp_(0, 1)


def _appearance(images: Tensor, appearance: Appearance, draw: _Draw) -> Tensor:
    """Colour jitter, grey, blur, stroke width and noise; parts of strength 0 cost nothing."""
    jittered = draw.coin(appearance.jitter_probability).float()
    for strength, change in ((appearance.brightness, brightness), (appearance.contrast, contrast)):
        if strength:
            images = change(images, 1 + draw.around(strength) * jittered)
    if images.shape[1] == 3:
        if appearance.saturation:
            images = saturation(images, 1 + draw.around(appearance.saturation) * jittered)
        if appearance.hue:
            images = hue(images, draw.around(appearance.hue) * jittered)
        if appearance.grey_probability:
            images = saturation(images, 1 - draw.coin(appearance.grey_probability).float())
    if appearance.blur_probability and images.shape[-1] >= BLUR_FROM:
        sigma = draw.uniform(0.1, 2.0) * (images.shape[-1] / 224)
        blurred = gaussian_blur(images, sigma.clamp(min=0.1))
        images = blend(images, blurred, 1 - draw.coin(appearance.blur_probability).float())
    if appearance.stroke:
        images = stroke(images, draw.around(appearance.stroke))
    if appearance.noise:
        images = _noise(images, draw.uniform(0, appearance.noise), draw)
    return images


def _strong_appearance(images: Tensor, strength: dict[str, Tensor], draw: _Draw) -> Tensor:
    """The operations on pixels; an image for which one was not drawn has strength 0 there and stays as it is."""
    images = brightness(images, 1 + strength["brightness"])
    images = contrast(images, 1 + strength["contrast"])
    if "saturation" in strength and images.shape[1] == 3:
        images = saturation(images, 1 + strength["saturation"])
    images = blend(images, smooth(images), 1 + strength["sharpness"]).clamp_(0, 1)
    if "posterize" in strength:
        levels = 2 ** (8 - strength["posterize"].abs().round())
        posterized = (images * column(levels - 1)).round() / column(levels - 1)
        images = torch.where(column(strength["posterize"] != 0), posterized, images)
    if "solarize" in strength:
        images = torch.where(images > column(1 - strength["solarize"].abs()), 1 - images, images)
    if "autocontrast" in strength:
        low, high = images.amin(dim=(2, 3), keepdim=True), images.amax(dim=(2, 3), keepdim=True)
        stretched = (images - low) / (high - low).clamp(min=1 / 255)
        images = torch.where(column(strength["autocontrast"] != 0), stretched, images)
    if "stroke" in strength:
        images = stroke(images, strength["stroke"])
    if "noise" in strength:
        images = _noise(images, strength["noise"].abs(), draw)
    return images


def _cutout(images: Tensor, greatest: float, draw: _Draw) -> Tensor:
    """Replaces a square of random side and place by the image's mean."""
    side = images.shape[-1]
    half = draw.uniform(0, greatest) * side / 2
    centres = [draw.uniform(0, side), draw.uniform(0, side)]
    pixels = torch.arange(side, device=images.device) + 0.5
    rows, columns = (((pixels - centre.unsqueeze(1)).abs() < half.unsqueeze(1)) for centre in centres)
    hole = (rows.unsqueeze(2) & columns.unsqueeze(1)).unsqueeze(1)
    return torch.where(hole, images.mean(dim=(2, 3), keepdim=True), images)
