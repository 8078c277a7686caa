import math
from collections import Counter
from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from spiceclust.config import Domain
from spiceclust.data import views as module
from spiceclust.data.own_views import Share
from spiceclust.data.views import CONTRASTIVE, CUTOUT, STRONG, WEAK, Appearance, Views

Kind = Literal["contrastive", "weak", "strong"]
DOMAINS: tuple[Domain, ...] = get_args(Domain)
KINDS: tuple[Kind, ...] = get_args(Kind)
ROUNDING = 1e-6  # resampling and blur weigh pixels with shares that sum to 1 but for the last bits

every_domain = pytest.mark.parametrize("domain", DOMAINS)
every_kind = pytest.mark.parametrize("kind", KINDS)
every_channels = pytest.mark.parametrize("channels", [1, 3])


def noise(count: int, channels: int = 1, size: int = 16, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, channels, size, size), generator=generator, dtype=torch.uint8)


def mild(count: int, channels: int = 3, size: int = 8) -> Tensor:
    """Float images between 0.35 and 0.65: changes of colour do not reach black or white."""
    return 0.35 + 0.3 * torch.rand((count, channels, size, size), generator=torch.Generator().manual_seed(0))


def view(domain: Domain, kind: Kind, images: Tensor, seed: int = 0) -> Tensor:
    made: Tensor = getattr(Views(domain), kind)(images, torch.Generator().manual_seed(seed))
    return made


def draws(count: int, seed: int = 0) -> Any:
    return module._Draw(count, torch.device("cpu"), torch.Generator().manual_seed(seed))


# What all kinds promise


@every_domain
@every_kind
@every_channels
@pytest.mark.parametrize("size", [8, 15, 16, 40])
def test_views_keep_the_shape_and_lie_in_the_unit_range(domain: Domain, kind: Kind, channels: int, size: int) -> None:
    images = noise(12, channels, size)
    images[:3] = 255
    images[3:6] = 0
    images[6:9] = (images[6:9] > 127) * 255
    made = view(domain, kind, images)
    assert made.shape == images.shape
    assert made.dtype == torch.float32
    assert torch.isfinite(made).all()
    assert float(made.min()) >= 0
    assert float(made.max()) <= 1 + ROUNDING


@every_domain
@every_kind
def test_equal_generators_give_equal_views_and_nothing_else_matters(domain: Domain, kind: Kind) -> None:
    images = noise(8, 3)
    before = images.clone()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = view(domain, kind, images)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(view(domain, kind, images), first)
    assert not torch.equal(view(domain, kind, images, seed=1), first)
    assert torch.equal(images, before)


@every_domain
@every_kind
def test_one_generator_gives_other_views_at_each_call(domain: Domain, kind: Kind) -> None:
    images, generator = noise(8), torch.Generator().manual_seed(0)
    make = getattr(Views(domain), kind)
    assert not torch.equal(make(images, generator), make(images, generator))


@every_domain
@pytest.mark.parametrize(("kind", "different"), [("contrastive", 64), ("weak", 5), ("strong", 50)])
def test_a_batch_of_one_repeated_image_gives_different_views(domain: Domain, kind: Kind, different: int) -> None:
    made = view(domain, kind, noise(1, 3).expand(64, -1, -1, -1))
    assert len({image.numpy().tobytes() for image in made}) >= different


def rows_from(draw: Callable[..., Tensor], seeds: list[int]) -> Callable[..., Tensor]:
    """torch.rand or torch.randn, but each row from a stream of its own."""
    streams = [torch.Generator().manual_seed(seed) for seed in seeds]

    def drawn(shape: int | tuple[int, ...], **_: Any) -> Tensor:
        rest = () if isinstance(shape, int) else shape[1:]
        return torch.stack([draw(rest, generator=stream) for stream in streams])

    return drawn


@every_domain
@every_kind
@every_channels
def test_a_view_depends_on_its_image_and_its_own_draw_alone(
    domain: Domain, kind: Kind, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    uniform, normal = torch.rand, torch.randn

    def made(images: Tensor, seeds: list[int]) -> Tensor:
        monkeypatch.setattr(torch, "rand", rows_from(uniform, seeds))
        monkeypatch.setattr(torch, "randn", rows_from(normal, [seed + 1000 for seed in seeds]))
        return view(domain, kind, images)

    images, seeds = noise(6, channels, size=36), [10, 11, 12, 13, 14, 15]
    first = made(images, seeds)
    others = torch.arange(6) != 2

    redrawn = made(images, [10, 11, 99, 13, 14, 15])
    torch.testing.assert_close(redrawn[others], first[others], rtol=0, atol=ROUNDING)
    assert float((redrawn[2] - first[2]).abs().max()) > 0.01

    replaced = images.clone()
    replaced[2] = noise(1, channels, size=36, seed=5)[0]
    swapped = made(replaced, seeds)
    torch.testing.assert_close(swapped[others], first[others], rtol=0, atol=ROUNDING)
    assert float((swapped[2] - first[2]).abs().max()) > 0.01

    order = [4, 0, 5, 2, 1, 3]
    shuffled = made(images[order], [seeds[i] for i in order])
    torch.testing.assert_close(shuffled, first[order], rtol=0, atol=ROUNDING)


def test_the_plain_view_is_the_image() -> None:
    images = torch.tensor([[[[0, 51], [204, 255]]]], dtype=torch.uint8)
    plain = Views("natural").plain(images)
    torch.testing.assert_close(plain, torch.tensor([[[[0.0, 0.2], [0.8, 1.0]]]]))
    assert images.dtype == torch.uint8
    assert images.flatten().tolist() == [0, 51, 204, 255]


# Weak views: all of them can be listed


def dihedral(image: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """The eight flips and quarter turns of (channels, S, S); the first is the image itself, then its mirror image."""
    return [np.rot90(mirrored, turns, axes=(1, 2)) for turns in range(4) for mirrored in (image, image[:, :, ::-1])]


def greatest_shift(domain: Domain, size: int) -> int:
    """In pixels: the draw lies within, not on, plus and minus the share of the side, and is rounded."""
    return math.ceil(WEAK[domain].shift * size - 0.5)


def all_weak_views(image: Tensor, domain: Domain) -> dict[tuple[int, int, int], NDArray[np.float32]]:
    """Every weak view that the domain allows, by orientation and shift in pixels, cut from a padded image."""
    pixels = image.numpy().astype(np.float32) / 255
    side = pixels.shape[1]
    reach = greatest_shift(domain, side)
    pad = ((0, 0), (reach, reach), (reach, reach))
    if domain == "glyph":
        edges = [np.concatenate([c[0], c[-1], c[:, 0], c[:, -1]]) for c in pixels]
        ground = [np.sort(edge)[(len(edge) - 1) // 2] for edge in edges]
        padded = np.stack([np.pad(c, reach, constant_values=g) for c, g in zip(pixels, ground, strict=True)])
    else:
        padded = np.pad(pixels, pad, mode="symmetric")
    orientations = {"natural": [0, 1], "aligned": [0, 1], "glyph": [0], "texture": list(range(8))}[domain]
    return {
        (orientation, y - reach, x - reach): dihedral(padded[:, y : y + side, x : x + side])[orientation]
        for orientation in orientations
        for y in range(2 * reach + 1)
        for x in range(2 * reach + 1)
    }


def weak_moves(domain: Domain, channels: int, size: int, count: int) -> list[tuple[int, int, int]]:
    """How each of `count` weak views of one image was moved; fails for a view that is none of those allowed."""
    image = noise(1, channels, size)
    allowed = all_weak_views(image[0], domain)
    moves, table = list(allowed), np.stack(list(allowed.values()))
    found = []
    for made in view(domain, "weak", image.expand(count, -1, -1, -1)).numpy():
        same = np.flatnonzero(np.abs(table - made).max(axis=(1, 2, 3)) < 1e-4)
        assert len(same) == 1
        found.append(moves[same[0]])
    return found


@every_domain
@every_channels
@pytest.mark.parametrize("size", [15, 16, 24])
def test_weak_views_are_flips_and_shifts_by_whole_pixels(domain: Domain, channels: int, size: int) -> None:
    moves = weak_moves(domain, channels, size, 64)
    reach = greatest_shift(domain, size)
    assert {abs(y) for _, y, _ in moves} == {abs(x) for _, _, x in moves} == set(range(reach + 1))


def test_half_of_the_natural_weak_views_are_mirrored() -> None:
    flips = Counter(orientation for orientation, _, _ in weak_moves("natural", 1, 16, 600))
    assert 240 <= flips[1] <= 360  # 300 are expected, with a deviation of 12


def test_texture_weak_views_show_all_flips_and_turns_equally() -> None:
    orientations = Counter(orientation for orientation, _, _ in weak_moves("texture", 1, 16, 800))
    assert set(orientations) == set(range(8))
    assert all(60 <= count <= 140 for count in orientations.values())  # 100 are expected, with a deviation of 9


def test_weak_shifts_have_no_preferred_direction() -> None:
    for domain in DOMAINS:
        moves = np.array(weak_moves(domain, 1, 16, 600))
        assert np.abs(moves[:, 1:].mean(axis=0)).max() < 0.2


@every_domain
def test_weak_views_keep_the_pixel_values_away_from_the_border(domain: Domain) -> None:
    images = torch.full((64, 1, 16, 16), 9, dtype=torch.uint8)
    inside = torch.arange(16, 16 + 8 * 8, dtype=torch.uint8).view(8, 8) * 3
    images[:, :, 4:12, 4:12] = inside
    for made in view(domain, "weak", images):
        values = (made * 255).round().long().flatten().tolist()
        torch.testing.assert_close(made * 255, (made * 255).round(), rtol=0, atol=0.01)
        assert sorted(value for value in values if value != 9) == sorted(inside.flatten().tolist())


# Orientation


def blobs(count: int) -> Tensor:
    """A corner of three discs: red at the top left, green at the top right, blue at the bottom left."""
    rows, columns = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    discs = [((rows - y) ** 2 + (columns - x) ** 2 <= 12) for y, x in ((9, 9), (9, 22), (22, 9))]
    return (torch.stack(discs) * 255).to(torch.uint8).expand(count, -1, -1, -1)


def arms(image: Tensor) -> tuple[complex, complex] | None:
    """From the red disc to the green and to the blue one, as x + iy downwards; None where a disc is hidden."""
    centres = []
    for channel in image:
        if float(channel.max() - channel.min()) < 0.35:
            return None
        y, x = torch.nonzero(channel > (channel.max() + channel.min()) / 2).double().mean(dim=0).tolist()
        centres.append(complex(x, y))
    return centres[1] - centres[0], centres[2] - centres[0]


@pytest.mark.parametrize("kind", KINDS)
def test_glyphs_are_never_flipped_or_turned(kind: Kind) -> None:
    seen = [found for found in map(arms, view("glyph", kind, blobs(400))) if found is not None]
    assert len(seen) > 200
    for right, down in seen:
        assert (right.conjugate() * down).imag > 0  # the blue arm lies clockwise of the green one: no mirror image
        assert abs(math.degrees(math.atan2(right.imag, right.real))) < 60  # and the green one points right


@pytest.mark.parametrize("domain", ["natural", "texture"])
def test_the_check_for_flips_sees_flips(domain: Domain) -> None:
    seen = [found for found in map(arms, view(domain, "weak", blobs(200))) if found is not None]
    mirrored = sum((right.conjugate() * down).imag < 0 for right, down in seen)
    assert 60 <= mirrored <= 140
    turned = sum(abs(right.imag) > abs(right.real) for right, _ in seen)
    assert (60 <= turned <= 140) if domain == "texture" else turned == 0


def directions(images: Tensor) -> NDArray[np.float64]:
    """Degrees from the x axis, clockwise, in which each image becomes brighter."""
    pixels = images.mean(dim=1).double().numpy()
    pixels = pixels - pixels.mean(axis=(1, 2), keepdims=True)
    steps = np.arange(pixels.shape[1]) - (pixels.shape[1] - 1) / 2
    return np.degrees(np.arctan2((pixels * steps[:, None]).sum(axis=(1, 2)), (pixels * steps).sum(axis=(1, 2))))


def ramp(count: int) -> Tensor:
    """Brighter to the right; the border's median is that of the whole."""
    return torch.linspace(60, 200, 24).to(torch.uint8).expand(count, 1, 24, 24).contiguous()


@pytest.mark.parametrize("kind", ["contrastive", "strong"])
@every_domain
def test_contrastive_and_strong_views_turn_as_the_domain_allows(
    domain: Domain, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        module, "_strong_appearance", lambda images, strength, draw: images
    )  # solarize turns grey round
    monkeypatch.setattr(module, "_cutout", lambda images, greatest, draw: images)
    angles = directions(view(domain, kind, ramp(400)))
    right, left = np.abs(angles) < 75, np.abs(angles) > 105
    up, down = (angles < -45) & (angles > -135), (angles > 45) & (angles < 135)
    if domain == "glyph":
        assert right.all()
    elif domain in ("natural", "aligned"):
        assert (right | left).all()
        assert 150 <= left.sum() <= 250
    else:
        assert min(up.sum(), down.sum(), (np.abs(angles) < 45).sum(), (np.abs(angles) > 135).sum()) > 50


# Geometry


def test_strong_glyph_views_pad_with_the_ground_too(monkeypatch: pytest.MonkeyPatch) -> None:
    shift = list(STRONG["glyph"]).index("shift_y")
    chosen = torch.zeros(1, len(STRONG["glyph"]))
    chosen[0, shift] = 1  # 0.12 of 16 pixels, two at the least when rounded down from 1.92
    monkeypatch.setattr(module._Draw, "choices", lambda self, count, taken: chosen)
    monkeypatch.setattr(module, "_cutout", lambda images, greatest, draw: images)
    images = torch.zeros((1, 1, 16, 16), dtype=torch.uint8)
    images[:, :, :, 6:10] = 255  # a stroke from edge to edge
    assert float(view("glyph", "strong", images)[0, 0, -1].max()) < 1e-6
    assert WEAK["glyph"].padding == CONTRASTIVE["glyph"][0].padding == "background"


def test_natural_crops_stay_inside_the_image_and_keep_their_share_of_it() -> None:
    geometry = CONTRASTIVE["natural"][0]
    matrix, displacement = module._geometry(geometry, draws(2000))
    assert displacement is None
    width, height = matrix[:, 0, 0].abs(), matrix[:, 1, 1].abs()
    assert torch.equal(matrix[:, 0, 1], torch.zeros(2000))
    assert torch.equal(matrix[:, 1, 0], torch.zeros(2000))
    assert float((matrix[:, 0, 2].abs() + width).max()) <= 1 + 1e-6
    assert float((matrix[:, 1, 2].abs() + height).max()) <= 1 + 1e-6
    area, aspect = width * height, width / height
    assert 0.17 < float(area.min()) < 0.25
    assert float(area.max()) > 0.9
    assert 3 / 4 - 1e-5 <= float(aspect.min()) < 0.8
    assert 1.25 < float(aspect.max()) <= 4 / 3 + 1e-5
    assert float(matrix[:, 1, 1].min()) > 0  # never upside down
    assert 900 <= int((matrix[:, 0, 0] < 0).sum()) <= 1100


@every_domain
def test_angles_shears_shifts_and_scales_keep_their_ranges(domain: Domain) -> None:
    geometry = CONTRASTIVE[domain][0]
    matrix, displacement = module._geometry(geometry, draws(2000))
    assert (displacement is not None) == (domain == "glyph")
    if domain == "glyph":
        assert float(matrix[:, :, 2].abs().max()) <= 0.2  # a shift of a tenth of the side
        assert float(matrix[:, :, 2].abs().max()) > 0.19
        size = torch.linalg.det(matrix[:, :, :2])
        limit = math.tan(math.radians(12)) ** 2
        assert float(size.min()) >= (1 - limit) / 1.2**2 - 1e-5
        assert float(size.max()) <= (1 + limit) / 0.8**2 + 1e-5


# Colour and grey, against one image at a time in numpy

Picture = NDArray[np.float64]
LUMA = np.array([0.299, 0.587, 0.114])


def luminance(image: Picture) -> Picture:
    return image if len(image) == 1 else (image * LUMA[:, None, None]).sum(axis=0, keepdims=True)


def neighbourhood(image: Picture, y: int, x: int) -> Picture:
    """The 3x3 around a pixel, edges repeated."""
    side = image.shape[1]
    rows = [min(max(y + j, 0), side - 1) for j in (-1, 0, 1)]
    columns = [min(max(x + i, 0), side - 1) for i in (-1, 0, 1)]
    return image[:, rows][:, :, columns]


def filtered(image: Picture, function: Callable[[Picture], Picture]) -> Picture:
    out = np.zeros_like(image)
    for y in range(image.shape[1]):
        for x in range(image.shape[1]):
            out[:, y, x] = function(neighbourhood(image, y, x))
    return out


def binomial(patch: Picture) -> Picture:
    weights = np.array([1, 2, 1])
    return (patch * np.outer(weights, weights) / 16).sum(axis=(1, 2))


def highest(patch: Picture) -> Picture:
    return patch.max(axis=(1, 2))


def lowest(patch: Picture) -> Picture:
    return patch.min(axis=(1, 2))


def away(image: Picture, other: Picture | float, factor: float) -> Picture:
    return np.clip(other + factor * (image - other), 0, 1)


def stretched(image: Picture) -> Picture:
    low, high = image.min(axis=(1, 2), keepdims=True), image.max(axis=(1, 2), keepdims=True)
    return (image - low) / (high - low)


def posterized(image: Picture, bits: int) -> Picture:
    return np.round(image * (2**bits - 1)) / (2**bits - 1)


TWINS: dict[str, Callable[[Picture, float], Picture]] = {
    "brightness": lambda image, s: np.clip(image * (1 + s), 0, 1),
    "contrast": lambda image, s: away(image, luminance(image).mean(), 1 + s),
    "saturation": lambda image, s: away(image, luminance(image), 1 + s) if len(image) == 3 else image,
    "sharpness": lambda image, s: away(image, filtered(image, binomial), 1 + s),
    "posterize": lambda image, s: posterized(image, 8 - round(4 * abs(s))),
    "solarize": lambda image, s: np.where(image > 1 - abs(s), 1 - image, image),
    "autocontrast": lambda image, s: stretched(image),
    "stroke": lambda image, s: (1 - abs(s)) * image + abs(s) * filtered(image, highest if s > 0 else lowest),
}


@every_channels
@pytest.mark.parametrize("operation", TWINS)
@pytest.mark.parametrize("amount", [0.3, 0.8, -0.3, -0.8])
def test_strong_operations_are_their_slow_twins(operation: str, amount: float, channels: int) -> None:
    table = STRONG["glyph"] if operation == "stroke" else STRONG["natural"]
    strength = {name: torch.zeros(3) for name in table}
    strength[operation][1] = amount * (4 if operation == "posterize" else 1)
    images = noise(3, channels, size=6).float() / 255
    changed = module._strong_appearance(images.clone(), strength, draws(3))
    torch.testing.assert_close(changed[[0, 2]], images[[0, 2]], rtol=0, atol=ROUNDING)
    expected = TWINS[operation](images[1].double().numpy(), amount)
    np.testing.assert_allclose(changed[1].numpy(), expected, atol=1e-5)


def test_autocontrast_of_an_even_image_is_finite() -> None:
    strength = {name: torch.zeros(1) for name in STRONG["natural"]}
    strength["autocontrast"][0] = 1
    even = torch.full((1, 1, 4, 4), 0.5)
    assert torch.isfinite(module._strong_appearance(even, strength, draws(1))).all()


def test_noise_has_the_strength_asked_for() -> None:
    images = torch.full((2, 1, 64, 64), 0.5)
    noisy = module._noise(images, torch.tensor([0.0, 0.1]), draws(2))
    assert torch.equal(noisy[0], images[0])
    assert float(noisy[1].std()) == pytest.approx(0.1, rel=0.05)
    assert float(noisy[1].mean()) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(("domain", "share"), [("natural", 0.2), ("aligned", 0.5), ("texture", 0.1), ("glyph", 0.0)])
def test_contrastive_views_are_grey_as_often_as_asked(domain: Domain, share: float) -> None:
    made = view(domain, "contrastive", noise(2000, 3, size=8))
    spread = (made.amax(dim=1) - made.amin(dim=1)).amax(dim=(1, 2))
    assert float((spread < 1e-5).float().mean()) == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize(("domain", "share"), [("natural", 0.8), ("aligned", 0.8), ("texture", 0.8)])
def test_colours_are_jittered_as_often_as_asked(domain: Domain, share: float) -> None:
    appearance = CONTRASTIVE[domain][1]
    assert appearance.jitter_probability == share
    only = Appearance(appearance.brightness, appearance.contrast, jitter_probability=share)
    images = mild(2000, channels=1)
    changed = (module._appearance(images, only, draws(2000)) - images).abs().amax(dim=(1, 2, 3)) > 1e-5
    assert float(changed.float().mean()) == pytest.approx(share, abs=0.03)


def test_the_published_strengths_of_moco() -> None:
    look = CONTRASTIVE["natural"][1]
    assert (look.brightness, look.contrast, look.saturation, look.hue) == (0.4, 0.4, 0.4, 0.1)
    assert (look.jitter_probability, look.grey_probability, look.blur_probability) == (0.8, 0.2, 0.5)
    assert CONTRASTIVE["natural"][0].crop == (0.2, 1.0)


def test_blur_begins_above_32_pixels_and_comes_half_of_the_time() -> None:
    blur = Appearance(blur_probability=0.5)
    small, large = mild(200, channels=1, size=32), mild(200, channels=1, size=64)
    assert torch.equal(module._appearance(small, blur, draws(200)), small)
    changed = (module._appearance(large, blur, draws(200)) - large).abs().amax(dim=(1, 2, 3)) > 0
    assert 70 <= int(changed.sum()) <= 130


# Strong views


@every_domain
def test_four_operations_are_drawn_for_each_image(domain: Domain, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Tensor] = []
    choices = module._Draw.choices

    def recorded(self: Any, count: int, taken: int) -> Tensor:
        drawn.append(choices(self, count, taken))
        return drawn[-1]

    monkeypatch.setattr(module._Draw, "choices", recorded)
    view(domain, "strong", noise(50))
    assert len(drawn) == 1
    assert drawn[0].shape == (50, len(STRONG[domain]))
    assert ((drawn[0] != 0).sum(dim=1) == 4).all()


def test_choices_take_every_column_equally_and_in_both_directions() -> None:
    chosen = draws(4000).choices(8, 4)
    sizes = chosen[chosen != 0].abs()
    assert ((chosen != 0).sum(dim=1) == 4).all()
    assert 0.1 <= float(sizes.min()) < 0.11
    assert 0.99 < float(sizes.max()) <= 1
    share = (chosen != 0).float().mean(dim=0)
    torch.testing.assert_close(share, torch.full((8,), 0.5), rtol=0, atol=0.04)
    torch.testing.assert_close((chosen > 0).float().mean(dim=0), share / 2, rtol=0, atol=0.04)


@pytest.mark.parametrize(("domain", "operation"), [(domain, name) for domain in DOMAINS for name in STRONG[domain]])
def test_each_operation_does_something_and_identity_nothing(
    domain: Domain, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = torch.zeros(4, len(STRONG[domain]))
    chosen[:2, list(STRONG[domain]).index(operation)] = torch.tensor([0.9, -0.9])
    monkeypatch.setattr(module._Draw, "choices", lambda self, count, taken: chosen)
    monkeypatch.setattr(module._Draw, "sign", lambda self: torch.ones(self.batch))
    monkeypatch.setattr(module, "_quarter_turn", lambda geometry, draw: torch.zeros(draw.batch))
    monkeypatch.setattr(module, "_cutout", lambda images, greatest, draw: images)
    images = 40 + noise(4, 3) // 2  # neither black nor white, so that autocontrast has something to do
    change = (view(domain, "strong", images) - images.float() / 255).abs().amax(dim=(1, 2, 3))
    assert float(change[2:].max()) < 1e-4
    assert (float(change[:2].max()) < 1e-4) if operation == "identity" else (float(change[:2].min()) > 0.01)


@pytest.mark.parametrize(("domain", "greatest"), [("natural", 0.5), ("aligned", 0.5), ("glyph", 0.3), ("texture", 0.5)])
def test_cutout_replaces_a_square_by_the_mean(domain: Domain, greatest: float) -> None:
    assert CUTOUT[domain] == greatest
    images = noise(300, 3, size=20).float() / 255
    cut = module._cutout(images.clone(), greatest, draws(300))
    sides = []
    for before, after in zip(images, cut, strict=True):
        changed = (before != after).any(dim=0)
        rows, columns = changed.any(dim=1).nonzero().flatten(), changed.any(dim=0).nonzero().flatten()
        sides.append(max(len(rows), len(columns)))
        if sides[-1]:
            hole = after[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            torch.testing.assert_close(hole, before.mean(dim=(1, 2))[:, None, None].expand_as(hole))
            assert changed.sum() == len(rows) * len(columns)  # a full rectangle: a square but for the image's edge
    assert max(sides) <= greatest * 20 + 1
    assert max(sides) >= greatest * 20 - 1
    assert sum(side > 0 for side in sides) > 240


@every_domain
def test_strong_views_are_cut_out(domain: Domain, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = torch.zeros(64, len(STRONG[domain]))
    monkeypatch.setattr(module._Draw, "choices", lambda self, count, taken: nothing)
    images = noise(1, 1, size=20).expand(64, -1, -1, -1)
    mean = images[0].float().mean() / 255
    made = view(domain, "strong", images)
    holes = ((made - mean).abs() < 1e-5).flatten(1).sum(dim=1)  # the mean of noise is hardly ever a pixel's value
    assert int((holes >= 1).sum()) > 48


@every_domain
@every_kind
def test_a_share_is_seen_as_in_the_whole_batch(domain: Domain, kind: Kind) -> None:
    images = noise(7, 3, 40)

    def seen(share: Share) -> Tensor:
        made: Tensor = getattr(Views(domain), kind)(images[share.rows], torch.Generator().manual_seed(1), share)
        return made

    whole = seen(Share(7, slice(0, 7)))
    shares = [seen(Share(7, slice(*ends))) for ends in ((0, 3), (3, 4), (4, 7))]
    torch.testing.assert_close(torch.cat(shares), whole, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(seen(Share(8, slice(0, 7))), whole, atol=0.01)  # of another batch
