import re
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from spiceclust.config import Domain
from spiceclust.data.domain import choose_domain


def glyphs(count: int, seed: int = 0) -> Tensor:
    """Letters L, 7 and F of several sizes, grey on black."""
    rng = np.random.default_rng(seed)
    images = np.zeros((count, 1, 28, 28), dtype=np.uint8)
    for image in images[:, 0]:
        y, x = rng.integers(4, 8, 2)
        tall, wide, ink = rng.integers(14, 18), rng.integers(8, 12), rng.integers(180, 255)
        letter = rng.integers(3)
        if letter == 1:
            image[y : y + 3, x : x + wide] = ink
            image[y : y + tall, x + wide - 3 : x + wide] = ink
        else:
            image[y : y + tall, x : x + 3] = ink
            place = tall - 3 if letter == 0 else 0
            image[y + place : y + place + 3, x : x + wide] = ink
    return torch.from_numpy(images)


def garments(count: int, seed: int = 0) -> Tensor:
    """Filled grey shapes on black: wide at the shoulders, narrow below."""
    rng = np.random.default_rng(seed)
    images = np.zeros((count, 1, 28, 28), dtype=np.uint8)
    for image in images[:, 0]:
        wide, narrow = rng.integers(18, 24), rng.integers(8, 14)
        image[4:10, 14 - wide // 2 : 14 + wide // 2] = rng.integers(120, 255)
        image[10:24, 14 - narrow // 2 : 14 + narrow // 2] = rng.integers(120, 255)
    return torch.from_numpy(images)


def photographs(count: int, channels: int = 3, seed: int = 0) -> Tensor:
    """A bright sky, a dark ground and something in between."""
    rng = np.random.default_rng(seed)
    images = np.zeros((count, 3, 32, 32))
    for image in images:
        horizon = rng.integers(12, 22)
        image[:, :horizon] = rng.uniform([0.4, 0.5, 0.7], [0.6, 0.8, 1.0])[:, None, None]
        image[:, horizon:] = rng.uniform([0.1, 0.2, 0.0], [0.4, 0.5, 0.2])[:, None, None]
        y, x = rng.integers(6, 20, 2)
        image[:, y : y + 8, x : x + 8] = rng.uniform(0, 1, 3)[:, None, None]
        image += rng.normal(0, 0.05, image.shape)
    pixels = torch.from_numpy((images.clip(0, 1) * 255).astype(np.uint8))
    return pixels if channels == 3 else pixels.float().mean(dim=1, keepdim=True).to(torch.uint8)


def textures(count: int, channels: int = 3, seed: int = 0) -> Tensor:
    """Smooth noise of no direction."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((count, channels, 10, 10), generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bilinear")
    return (smooth * 255).to(torch.uint8)


MADE_UP = [
    ("glyph", glyphs(300)),
    ("glyph", 255 - glyphs(300)),
    ("glyph", glyphs(300).expand(-1, 3, -1, -1)),
    ("aligned", garments(300)),
    ("natural", photographs(300)),
    ("natural", photographs(300, channels=1)),
    ("texture", textures(300)),
    ("texture", textures(300, channels=1)),
]


@pytest.mark.parametrize(("domain", "images"), MADE_UP, ids=[f"{i}-{domain}" for i, (domain, _) in enumerate(MADE_UP)])
def test_the_domain_is_chosen_from_the_images_with_a_reason(domain: Domain, images: Tensor) -> None:
    choice = choose_domain(images)
    assert choice.domain == domain
    assert re.search(
        r"\(colour \d\.\d{3}, background share \d\.\d{2}, filled \d\.\d{2}, "
        r"uprightness -?\d+\.\d{3}, outline -?\d+\.\d{3}\)$",
        choice.reason,
    )
    assert "\n" not in choice.reason
    assert choose_domain(images.flip(0)) == choice


def test_reasons_differ_between_the_domains() -> None:
    reasons = {choose_domain(images).reason.split(" (")[0] for _, images in MADE_UP}
    assert len(reasons) == 4


@pytest.mark.parametrize("count", [1, 2, 5, 20])
def test_few_images_are_never_called_textures(count: int) -> None:
    for images in (textures(count), photographs(count), glyphs(count)):
        assert choose_domain(images).domain in ("natural", "glyph")


@pytest.mark.parametrize("count", [1, 60])
@pytest.mark.parametrize("value", [0, 128, 255])
def test_even_images_can_be_judged(count: int, value: int) -> None:
    choice = choose_domain(torch.full((count, 3, 16, 16), value, dtype=torch.uint8))
    assert choice.domain in get_args(Domain)
    assert "nan" not in choice.reason


def test_a_large_set_is_judged_by_a_sample_of_it() -> None:
    assert choose_domain(photographs(100).repeat(25, 1, 1, 1)).domain == "natural"


def test_a_sample_reaches_to_the_end_of_a_set_that_is_sorted() -> None:
    # Folder by folder, photographs last: nearly half of the set, and no part of its first thousand.
    pictures = torch.cat([textures(1000), photographs(900)])
    everything, some = choose_domain(pictures), choose_domain(textures(1000))
    assert everything.reason != some.reason
