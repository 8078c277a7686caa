import pytest
import torch
from torch import Tensor

from spiceclust.data.views import Views
from spiceclust.training.pixels import HostPixels
from spiceclust.training.sights import FeatureSight, PixelSight

IMAGES = torch.randint(0, 256, (6, 1, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
ROWS = torch.tensor([4, 0, 4])


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_pixels_are_shown_as_the_views_make_them() -> None:
    views = Views("natural")
    sight = PixelSight(IMAGES, views)
    assert sight.n == 6
    assert sight.pixels is IMAGES
    taken = sight.take(ROWS)
    assert torch.equal(sight.weak(taken, draws()), views.weak(IMAGES[ROWS], draws()))
    assert torch.equal(sight.strong(taken, draws()), views.strong(IMAGES[ROWS], draws()))


def test_images_in_host_memory_are_fetched_once_for_both_views_and_only_where_they_were_announced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = HostPixels(IMAGES, torch.device("cpu"))
    gathered: list[Tensor] = []
    plain = HostPixels._gather
    monkeypatch.setattr(HostPixels, "_gather", lambda self, rows: gathered.append(rows) or plain(self, rows))
    sight, views = PixelSight(images, Views("natural")), Views("natural")
    assert sight.pixels is images
    images.expect(ROWS)
    taken = sight.take(ROWS)
    assert torch.equal(sight.weak(taken, draws()), views.weak(IMAGES[ROWS], draws()))
    assert torch.equal(sight.strong(taken, draws()), views.strong(IMAGES[ROWS], draws()))
    assert len(gathered) == 1


class Marked:
    """Features that say what was asked for: (kind, view, row)."""

    views = 5
    plain = torch.zeros(6, 3)
    neighbors = torch.zeros(6, 1)

    def weak(self, view: int | Tensor, rows: Tensor) -> Tensor:
        return torch.stack([torch.zeros(len(rows)), torch.as_tensor(view).float(), rows.float()], dim=1)

    def strong(self, view: int | Tensor, rows: Tensor) -> Tensor:
        return self.weak(view, rows) + torch.tensor([1.0, 0, 0])


def test_features_are_those_of_the_rows_each_in_one_of_the_views() -> None:
    sight = FeatureSight(Marked())
    assert sight.n == 6
    assert sight.pixels is None
    rows = torch.arange(6).repeat(50)
    for kind, make in enumerate((sight.weak, sight.strong)):
        shown = make(sight.take(rows), draws())
        assert shown[:, 0].unique().tolist() == [kind]
        assert shown[:, 2].tolist() == rows.tolist()
        assert shown[:, 1].unique().tolist() == [0, 1, 2, 3, 4]
        assert torch.equal(make(rows, draws()), shown)
        assert not torch.equal(make(rows, draws(1)), shown)
