"""What heads learn from, with an encoder that shows the pixels."""

import pytest
import torch
from torch import Tensor, nn

from spiceclust.data.views import Views
from spiceclust.training.checkpoint import Artefact
from spiceclust.training.context import Context
from spiceclust.training.features import CachedFeatures, Features, FreshFeatures, features_of

CONTEXT = Context(0, torch.device("cpu"), bf16=False)
IMAGES, SIDE = 300, 8


class Pixels(nn.Module):
    n_features = SIDE * SIDE

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def forward(self, images: Tensor) -> Tensor:
        assert not self.training
        self.seen += len(images)
        return images.flatten(1) + 0.01


def pixels() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (IMAGES, 1, SIDE, SIDE), generator=generator).to(torch.uint8)


def embedded(**views: Tensor) -> Artefact:
    generator = torch.Generator().manual_seed(1)
    plain, neighbors = torch.rand((IMAGES, 4), generator=generator), torch.arange(IMAGES).view(-1, 1).int()
    return Artefact({"plain": plain, "neighbors": neighbors, **views})


def cached() -> tuple[CachedFeatures, Tensor, Tensor]:
    weak, strong = torch.rand((2, 3, IMAGES, 4), generator=torch.Generator().manual_seed(2)).half()
    return CachedFeatures(embedded(weak=weak, strong=strong)), weak, strong


def fresh(encoder: Pixels | None = None, context: Context = CONTEXT) -> FreshFeatures:
    return FreshFeatures(embedded(), pixels(), encoder or Pixels(), Views("natural"), context)  # type: ignore[arg-type]


def test_cached_views_are_those_of_the_embed_stage() -> None:
    features, weak, strong = cached()
    assert features.views == 3
    rows = torch.tensor([[5, 2, 2], [0, 299, 1]])
    assert torch.equal(features.weak(1, rows), weak[1, rows].float())
    assert torch.equal(features.strong(2, rows[0]), strong[2, rows[0]].float())
    each = torch.tensor([0, 2, 1])
    assert torch.equal(
        features.strong(each, rows[1]), torch.stack([strong[0, 0], strong[2, 299], strong[1, 1]]).float()
    )


@pytest.mark.parametrize("kind", ["weak", "strong"])
def test_fresh_views_are_new_for_every_number_and_for_other_rows(kind: str) -> None:
    features, rows = fresh(), torch.tensor([7, 3, 7, 200])
    first, second = (getattr(features, kind)(number, rows) for number in range(2))
    assert first.shape == (4, SIDE * SIDE)
    torch.testing.assert_close(first.norm(dim=1), torch.ones(4))
    assert not torch.allclose(first, second, atol=0.01)
    assert torch.equal(first[0], first[2])  # the same image in one call
    assert not torch.allclose(first[:2], getattr(features, kind)(0, rows[:2]), atol=0.01)
    assert torch.equal(getattr(features, kind)(0, rows), first)  # whenever they are asked for
    other = fresh(context=Context(1, CONTEXT.device, bf16=False))
    assert not torch.allclose(getattr(other, kind)(0, rows), first, atol=0.01)


def test_fresh_views_are_of_the_images_asked_for() -> None:
    features = fresh()
    rows = torch.arange(IMAGES).flip(0).view(2, -1)
    found = features.weak(0, rows)
    assert found.shape == (2, IMAGES // 2, SIDE * SIDE)
    images = pixels().float().flatten(1)[rows]
    # Flips and shifts leave the mean of the pixels nearly where it was; the order of the images shows in it.
    means = (found.mean(dim=2).flatten(), (images.mean(dim=2) / images.norm(dim=2)).flatten())
    assert float(torch.corrcoef(torch.stack(means))[0, 1]) > 0.5
    assert not torch.allclose(features.strong(0, rows), found, atol=0.01)


def test_an_image_passes_the_encoder_once_in_a_call() -> None:
    encoder = Pixels()
    fresh(encoder.train()).strong(0, torch.tensor([[1, 2, 3]]).expand(200, 3))
    assert encoder.seen == 256  # one batch, filled up to its one size


def test_views_are_fresh_where_none_were_kept() -> None:
    given = (pixels(), Pixels(), Views("natural"), CONTEXT)
    nothing: Features = features_of(embedded(), *given)  # type: ignore[arg-type]
    assert isinstance(nothing, FreshFeatures)
    kept = torch.rand((2, IMAGES, 4)).half()
    assert isinstance(features_of(embedded(weak=kept, strong=kept), *given), CachedFeatures)  # type: ignore[arg-type]
    assert torch.equal(nothing.plain, embedded().tensors["plain"])
    assert torch.equal(nothing.neighbors, embedded().tensors["neighbors"])
