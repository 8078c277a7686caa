import math

import pytest
import torch
from torch import Tensor

from spiceclust.data.own_views import NoViews, OwnViews
from spiceclust.errors import ConfigError

IMAGES = torch.arange(2 * 3 * 4 * 4).reshape(2, 3, 4, 4).to(torch.uint8)


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def darker(images: Tensor, generator: torch.Generator) -> Tensor:
    return images.float() / 255 * torch.rand((len(images), 1, 1, 1), generator=generator)


def test_one_s_own_function_makes_strong_and_contrastive_views_and_the_weak_one_is_the_image() -> None:
    views = OwnViews(darker)
    plain = IMAGES.float() / 255
    assert torch.equal(views.weak(IMAGES, draws()), plain)
    assert torch.equal(views.plain(IMAGES), plain)
    for make in (views.strong, views.contrastive):
        assert torch.equal(make(IMAGES, draws()), darker(IMAGES, draws()))
    assert views.drawn == {"strong", "contrastive"}


def test_of_embeddings_there_is_one_view() -> None:
    rows = torch.rand(5, 7)
    views = NoViews()
    before = rows.clone()
    for seen in (views.plain(rows), views.weak(rows, draws()), views.strong(rows, draws())):
        torch.testing.assert_close(seen / seen.norm(dim=1, keepdim=True), before / before.norm(dim=1, keepdim=True))
    assert torch.equal(rows, before)
    assert not views.drawn


def test_a_function_that_keeps_the_contract_passes_and_leaves_the_images_alone() -> None:
    before = IMAGES.clone()

    def in_place(images: Tensor, generator: torch.Generator) -> Tensor:
        return images.zero_().float()

    OwnViews(darker).check(IMAGES, draws())
    OwnViews(in_place).check(IMAGES, draws())
    assert torch.equal(IMAGES, before)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda images, generator: [images], "return a list, needed a tensor"),
        (lambda images, generator: images, r"return torch.uint8 of shape \(2, 3, 4, 4\), needed torch.float32"),
        (lambda images, generator: images.float()[:, :1], r"of shape \(2, 1, 4, 4\), needed .* \(2, 3, 4, 4\)"),
        (lambda images, generator: images.float(), "values from 0 to 95, needed from 0 to 1"),
        (lambda images, generator: images.float() / -255, "values from -0.37"),
        (lambda images, generator: images.float() * math.nan, "values from nan"),
    ],
)
def test_a_function_that_breaks_the_contract_is_refused(function: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        OwnViews(function).check(IMAGES, draws())  # type: ignore[arg-type]
