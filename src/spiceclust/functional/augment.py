"""Changes of images, with an own strength for each image of a batch: what views are made of.

All images are (B, channels, S, S) float32 in [0, 1], all strengths (B,) float32 on the same device; results keep
shape and range. B images in a batch, S pixels a side.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def _matrix(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    return torch.stack([torch.stack([a, b], dim=1), torch.stack([c, d], dim=1)], dim=1)


def affine(
    angle: Tensor, shear_x: Tensor, shear_y: Tensor, scale_x: Tensor, scale_y: Tensor, shift_x: Tensor, shift_y: Tensor
) -> Tensor:
    """(B, 2, 3) maps from output to input coordinates; angles in degrees, scales of the sampled window."""
    turn = angle * (math.pi / 180)
    rotation = _matrix(turn.cos(), -turn.sin(), turn.sin(), turn.cos())
    one = torch.ones_like(turn)
    shear = _matrix(one, (shear_x * (math.pi / 180)).tan(), (shear_y * (math.pi / 180)).tan(), one)
    scale = torch.diag_embed(torch.stack([scale_x, scale_y], dim=1))
    shift = torch.stack([shift_x, shift_y], dim=1).unsqueeze(2)
    return torch.cat([rotation @ shear @ scale, shift], dim=2)


def resample(images: Tensor, matrix: Tensor, displacement: Tensor | None, padding: str) -> Tensor:
    """Samples each image at its own affine grid, moved by a smooth displacement (B, 2, 4, 4) if there is one."""
    side = images.shape[-1]
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    if displacement is not None:
        field = F.interpolate(displacement, size=(side, side), mode="bicubic", align_corners=True)
        grid = grid + field.permute(0, 2, 3, 1)
    if padding != "background":
        return F.grid_sample(images, grid, mode="bilinear", padding_mode=padding, align_corners=False)
    ground = background(images)
    return F.grid_sample(images - ground, grid, mode="bilinear", padding_mode="zeros", align_corners=False) + ground


def background(images: Tensor) -> Tensor:
    """(B, channels, 1, 1) median of the border: what lies around a glyph, even where its ink touches the edge."""
    border = [images[:, :, 0], images[:, :, -1], images[:, :, :, 0], images[:, :, :, -1]]
    return torch.cat(border, dim=2).median(dim=2).values[:, :, None, None]


def column(values: Tensor) -> Tensor:
    """(B,) as (B, 1, 1, 1), to multiply images with."""
    return values.view(-1, 1, 1, 1)


def blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    """Other + factor * (images - other): factor 1 changes nothing, 0 gives `other`, above 1 moves away from it."""
    return torch.lerp(other.expand_as(images), images, column(factor))


def luminance(images: Tensor) -> Tensor:
    """(B, 1, S, S) by ITU-R 601."""
    if images.shape[1] == 1:
        return images
    weights = torch.tensor([0.299, 0.587, 0.114], device=images.device).view(1, 3, 1, 1)
    return (images * weights).sum(dim=1, keepdim=True)


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Multiplies by `factor`."""
    return (images * column(factor)).clamp_(0, 1)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blends with the image's mean luminance; 1 changes nothing."""
    return blend(images, luminance(images).mean(dim=(1, 2, 3), keepdim=True), factor).clamp_(0, 1)


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Blends with the grey image; 1 changes nothing, 0 is grey."""
    return blend(images, luminance(images), factor).clamp_(0, 1)


def hue(images: Tensor, turns: Tensor) -> Tensor:
    """Rotates the chroma plane of YIQ by `turns` full turns; luminance stays."""
    to_yiq = images.new_tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    angle = turns * (2 * math.pi)
    rotation = torch.zeros((len(images), 3, 3), device=images.device)
    rotation[:, 0, 0] = 1
    rotation[:, 1:, 1:] = _matrix(angle.cos(), -angle.sin(), angle.sin(), angle.cos())
    change = torch.linalg.inv(to_yiq) @ rotation @ to_yiq
    return torch.einsum("bij,bjhw->bihw", change, images).clamp_(0, 1)


def smooth(images: Tensor) -> Tensor:
    """3x3 binomial blur."""
    weights = images.new_tensor([1.0, 2.0, 1.0])
    kernel = (weights[:, None] * weights[None, :] / 16).expand(images.shape[1], 1, 3, 3)
    return F.conv2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), kernel, groups=images.shape[1])


def gaussian_blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Separable Gaussian with an own sigma (pixels) for each image, over nine taps."""
    offsets = torch.arange(-4, 5, device=images.device)
    weights = torch.exp(-(offsets**2) / (2 * sigma.view(-1, 1) ** 2))
    weights = weights / weights.sum(dim=1, keepdim=True)
    for dim, pad in ((3, (4, 4, 0, 0)), (2, (0, 0, 4, 4))):
        padded = F.pad(images, pad, mode="replicate")
        side = images.shape[dim]
        images = torch.stack([padded.narrow(dim, i, side) * column(weights[:, i]) for i in range(9)]).sum(dim=0)
    return images


def stroke(images: Tensor, amount: Tensor) -> Tensor:
    """Widens bright strokes where `amount` is above 0 and thins them below; 1 is one pixel each side."""
    wider = F.max_pool2d(images, 3, 1, 1)
    thinner = -F.max_pool2d(-images, 3, 1, 1)
    return torch.where(column(amount) > 0, blend(wider, images, amount.abs()), blend(thinner, images, amount.abs()))
