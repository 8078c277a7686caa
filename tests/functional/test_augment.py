import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from spiceclust.functional import augment


def noise(count: int, channels: int = 1, size: int = 8) -> Tensor:
    return torch.rand((count, channels, size, size), generator=torch.Generator().manual_seed(0))


def mild(count: int, channels: int = 3, size: int = 8) -> Tensor:
    """Between 0.35 and 0.65: changes of colour do not reach black or white."""
    return 0.35 + 0.3 * noise(count, channels, size)


# Geometry


def slow_resample(image: NDArray[np.float32], matrix: NDArray[np.float64], ground: float) -> NDArray[np.float64]:
    """Bilinear interpolation at the mapped centre of every pixel, one after the other; `ground` lies around."""
    side = len(image)

    def pixel(y: int, x: int) -> float:
        return float(image[y, x]) if 0 <= y < side and 0 <= x < side else ground

    out = np.zeros((side, side))
    for row in range(side):
        for column in range(side):
            x, y = matrix @ [(2 * column + 1) / side - 1, (2 * row + 1) / side - 1, 1]
            x, y = ((x + 1) * side - 1) / 2, ((y + 1) * side - 1) / 2
            left, top = math.floor(x), math.floor(y)
            out[row, column] = sum(
                (1 - abs(x - i)) * (1 - abs(y - j)) * pixel(j, i) for i in (left, left + 1) for j in (top, top + 1)
            )
    return out


def affine(**values: float) -> Tensor:
    """The map of one image; what is not named changes nothing."""
    names = ["angle", "shear_x", "shear_y", "scale_x", "scale_y", "shift_x", "shift_y"]
    neutral = {"scale_x": 1.0, "scale_y": 1.0}
    matrix: Tensor = augment.affine(*(torch.tensor([float(values.get(n, neutral.get(n, 0.0)))]) for n in names))
    return matrix


@given(st.integers(0, 2**31))
def test_the_affine_map_and_the_resampling_are_their_slow_twins(seed: int) -> None:
    rng = np.random.default_rng(seed)
    angle, shear_x, shear_y = rng.uniform(-60, 60, 3)
    scale_x, scale_y = rng.uniform(0.5, 1.5, 2)
    shift_x, shift_y = rng.uniform(-0.5, 0.5, 2)
    turn, tan_x, tan_y = np.radians(angle), np.tan(np.radians(shear_x)), np.tan(np.radians(shear_y))
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    linear = rotation @ np.array([[1, tan_x], [tan_y, 1]]) @ np.diag([scale_x, scale_y])
    expected = np.concatenate([linear, [[shift_x], [shift_y]]], axis=1)
    found = affine(
        angle=angle,
        shear_x=shear_x,
        shear_y=shear_y,
        scale_x=scale_x,
        scale_y=scale_y,
        shift_x=shift_x,
        shift_y=shift_y,
    )
    np.testing.assert_allclose(found[0].numpy(), expected, atol=1e-5)

    image = rng.uniform(size=(1, 1, 6, 6)).astype(np.float32)
    edge = np.concatenate([image[0, 0, 0], image[0, 0, -1], image[0, 0, :, 0], image[0, 0, :, -1]])
    ground = float(np.sort(edge)[11])  # the lower median of 24
    moved = augment.resample(torch.from_numpy(image), found, None, "background")
    np.testing.assert_allclose(moved[0, 0].numpy(), slow_resample(image[0, 0], expected, ground), atol=1e-3)


def test_geometry_by_hand() -> None:
    image = noise(1)

    def moved(**values: float) -> Tensor:
        made: Tensor = augment.resample(image, affine(**values), None, "zeros")
        return made

    torch.testing.assert_close(moved(), image)
    torch.testing.assert_close(moved(angle=90), image.rot90(1, (2, 3)), rtol=0, atol=1e-4)
    torch.testing.assert_close(moved(scale_x=-1), image.flip(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(moved(scale_y=-1), image.flip(2), rtol=0, atol=1e-5)
    # A shift of the whole side is 2: one of eight pixels is 0.25, and the window moves right.
    torch.testing.assert_close(moved(shift_x=0.25)[..., :7], image[..., 1:], rtol=0, atol=1e-5)
    torch.testing.assert_close(moved(shift_y=-0.5)[:, :, 2:], image[:, :, :6], rtol=0, atol=1e-5)


def test_an_elastic_displacement_moves_smoothly_and_a_constant_one_shifts() -> None:
    image = noise(2)
    stay = affine().expand(2, -1, -1)
    torch.testing.assert_close(augment.resample(image, stay, torch.zeros(2, 2, 4, 4), "reflection"), image)
    right = torch.zeros(2, 2, 4, 4)
    right[1, 0] = 0.25  # one of eight pixels, for the second image alone
    moved = augment.resample(image, stay, right, "reflection")
    torch.testing.assert_close(moved[0], image[0])
    torch.testing.assert_close(moved[1, :, :, :7], image[1, :, :, 1:], rtol=0, atol=1e-5)


def test_an_elastic_displacement_moves_where_it_is() -> None:
    # The left edge is moved one of eight pixels down, the right edge not at all.
    left = torch.zeros(1, 2, 4, 4)
    left[:, 1, :, 0] = -0.25
    image = noise(1)
    moved = augment.resample(image, affine(), left, "reflection")
    torch.testing.assert_close(moved[0, 0, 1:, 0], image[0, 0, :7, 0], rtol=0, atol=1e-5)
    torch.testing.assert_close(moved[..., 7], image[..., 7], rtol=0, atol=1e-5)


@pytest.mark.parametrize("ground", [0.0, 1.0, 0.35])
def test_what_comes_in_beside_a_glyph_is_its_ground_even_where_ink_touches_the_edge(ground: float) -> None:
    images = torch.full((1, 1, 16, 16), ground)
    images[:, :, :, 6:10] = 1 - ground  # a stroke from edge to edge
    for shift in (0.5, -0.5):  # four pixels
        moved = augment.resample(images, affine(shift_y=shift), None, "background")
        rows = moved[0, 0, 12:] if shift > 0 else moved[0, 0, :4]
        torch.testing.assert_close(rows, torch.full((4, 16), ground), rtol=0, atol=1e-6)


def test_the_background_is_the_median_of_the_border_channel_by_channel() -> None:
    images = torch.zeros(2, 3, 4, 4)
    images[0, 1, :, 0] = 0.9  # ink on one edge of four: 4 + 2 of 16 border values, corners counted twice
    images[1, 2] = 0.5
    images[1, 2, 1:3, 1:3] = 1  # the inside does not matter
    assert augment.background(images)[:, :, 0, 0].tolist() == [[0, 0, 0], [0, 0, 0.5]]


# Colour and grey


ONE = torch.tensor(
    [[[[0.2]], [[0.4]], [[0.8]]]]
)  # a pixel of luminance 0.299 x 0.2 + 0.587 x 0.4 + 0.114 x 0.8 = 0.3858


def colour(image: Tensor) -> list[float]:
    return [float(value) for value in image.flatten()]


def test_colour_changes_by_hand() -> None:
    half, double = torch.tensor([0.5]), torch.tensor([2.0])
    assert colour(augment.luminance(ONE)) == pytest.approx([0.3858])
    assert colour(augment.brightness(ONE, half)) == pytest.approx([0.1, 0.2, 0.4])
    assert colour(augment.brightness(ONE, double)) == pytest.approx([0.4, 0.8, 1.0])
    # half of the way to 0.3858, and as far again beyond
    assert colour(augment.saturation(ONE, half)) == pytest.approx([0.2929, 0.3929, 0.5929])
    assert colour(augment.saturation(ONE, double)) == pytest.approx([0.0142, 0.4142, 1.0])
    assert colour(augment.saturation(ONE, torch.zeros(1))) == pytest.approx([0.3858] * 3)
    two = torch.cat([ONE, torch.zeros(1, 3, 1, 1)], dim=3)  # mean luminance 0.1929
    assert colour(augment.contrast(two, half)) == pytest.approx([0.19645, 0.09645, 0.29645, 0.09645, 0.49645, 0.09645])
    assert colour(augment.blend(ONE, torch.zeros(1, 3, 1, 1), half)) == pytest.approx([0.1, 0.2, 0.4])


CHANGES = {
    "brightness": (augment.brightness, 1.0),
    "contrast": (augment.contrast, 1.0),
    "saturation": (augment.saturation, 1.0),
    "hue": (augment.hue, 0.0),
    "stroke": (augment.stroke, 0.0),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("channels", [1, 3])
def test_changes_are_made_image_by_image_and_keep_the_range(name: str, channels: int) -> None:
    if name == "hue" and channels == 1:
        channels = 3
    change, neutral = CHANGES[name]
    images = noise(4, channels)
    strengths = neutral + torch.tensor([0.0, 0.7, -0.7, 0.3])
    changed = change(images, strengths)
    assert changed.shape == images.shape
    assert float(changed.min()) >= 0
    assert float(changed.max()) <= 1
    torch.testing.assert_close(changed[0], images[0], rtol=0, atol=1e-5)
    for i in range(4):
        torch.testing.assert_close(changed[i : i + 1], change(images[i : i + 1], strengths[i : i + 1]))
        if i and not (name == "saturation" and channels == 1):
            assert float((changed[i] - images[i]).abs().max()) > 0.01


def test_hue_turns_colours_and_keeps_luminance() -> None:
    images = mild(5)
    turns = torch.tensor([0.0, 0.1, -0.1, 0.5, 1.0])
    turned = augment.hue(images, turns)
    torch.testing.assert_close(augment.luminance(turned), augment.luminance(images), rtol=0, atol=1e-5)
    torch.testing.assert_close(turned[[0, 4]], images[[0, 4]], rtol=0, atol=1e-5)
    for image in (1, 2, 3):
        assert float((turned[image] - images[image]).abs().max()) > 0.02
    torch.testing.assert_close(augment.hue(turned, -turns), images, rtol=0, atol=1e-4)
    grey = augment.luminance(images).expand(-1, 3, -1, -1).contiguous()
    torch.testing.assert_close(augment.hue(grey, turns), grey, rtol=0, atol=2e-3)  # the weights of YIQ have 3 digits


def test_half_a_turn_of_hue_mirrors_chroma_at_grey() -> None:
    images = mild(1)
    grey = augment.luminance(images)
    opposite = augment.hue(images, torch.tensor([0.5]))
    torch.testing.assert_close(opposite - grey, grey - images, rtol=0, atol=5e-3)


def test_gaussian_blur_is_its_slow_twin() -> None:
    images, sigmas = mild(2, channels=3, size=7), [0.4, 1.5]
    blurred = augment.gaussian_blur(images, torch.tensor(sigmas))
    for image, sigma, found in zip(images.double().numpy(), sigmas, blurred.numpy(), strict=True):
        taps = range(-4, 5)
        weight = {(j, i): math.exp(-(i * i + j * j) / (2 * sigma**2)) for j in taps for i in taps}
        expected = np.zeros_like(image)
        for y in range(7):
            for x in range(7):
                for (j, i), w in weight.items():
                    expected[:, y, x] += w * image[:, min(max(y + j, 0), 6), min(max(x + i, 0), 6)]
        np.testing.assert_allclose(found, expected / sum(weight.values()), atol=1e-5)


def test_the_small_blur_by_hand() -> None:
    image = torch.zeros(1, 1, 4, 4)
    image[0, 0, 0, 0] = 1
    # 1 2 1 across and down, edges repeated: the corner stands for itself and what lies beyond, (1 + 2) / 4 each way
    three, one = 3 / 4, 1 / 4
    expected = torch.zeros(4, 4)
    expected[:2, :2] = torch.tensor([[three * three, three * one], [one * three, one * one]])
    torch.testing.assert_close(augment.smooth(image)[0, 0], expected)
    torch.testing.assert_close(augment.smooth(torch.full((1, 3, 5, 5), 0.4)), torch.full((1, 3, 5, 5), 0.4))


def test_strokes_grow_and_shrink_by_a_pixel_on_each_side() -> None:
    image = torch.zeros(1, 1, 9, 9)
    image[0, 0, 3:6, 3:6] = 1
    wide, thin, between = (augment.stroke(image, torch.tensor([amount]))[0, 0] for amount in (1.0, -1.0, 0.25))
    expected = torch.zeros(9, 9)
    expected[2:7, 2:7] = 1
    assert torch.equal(wide, expected)
    assert thin.nonzero().tolist() == [[4, 4]]
    torch.testing.assert_close(between, image[0, 0] * 0.75 + wide * 0.25)


# Slow twins: one image, one pixel after the other, from what the functions say they do


Image = NDArray[np.float64]


def each(image: Image, value: Callable[[int, int, int], float]) -> Image:
    """The image whose pixel of channel, row and column is `value` of them."""
    out = np.zeros_like(image)
    for c in range(image.shape[0]):
        for y in range(image.shape[1]):
            for x in range(image.shape[2]):
                out[c, y, x] = value(c, y, x)
    return out


def clamp(value: float) -> float:
    return min(max(value, 0.0), 1.0)


def around(image: Image, channel: int, row: int, column: int) -> list[float]:
    """The pixel and its neighbours inside the image."""
    side = image.shape[1]
    places = [(y, x) for y in (row - 1, row, row + 1) for x in (column - 1, column, column + 1)]
    return [float(image[channel, y, x]) for y, x in places if 0 <= y < side and 0 <= x < side]


def slow_grey(image: Image, row: int, column: int) -> float:
    if len(image) == 1:
        return float(image[0, row, column])
    red, green, blue = image[:, row, column].tolist()
    return float(0.299 * red + 0.587 * green + 0.114 * blue)


def slow_luminance(image: Image) -> Image:
    return each(image[:1], lambda _, y, x: slow_grey(image, y, x))


def slow_smooth(image: Image) -> Image:
    """Weights 1 2 1, 2 4 2, 1 2 1; beyond the edge lies the edge."""
    last = image.shape[1] - 1

    def value(c: int, y: int, x: int) -> float:
        total = 0.0
        for j, i, weight in [
            (-1, -1, 1), (-1, 0, 2), (-1, 1, 1), (0, -1, 2), (0, 0, 4), (0, 1, 2), (1, -1, 1), (1, 0, 2), (1, 1, 1)
        ]:  # fmt: skip
            total += weight * float(image[c, min(max(y + j, 0), last), min(max(x + i, 0), last)])
        return total / 16

    return each(image, value)


def slow_background(image: Image) -> Image:
    """The lower median of the four edges, where every corner is on two."""
    side = image.shape[1]

    def value(c: int, _y: int, _x: int) -> float:
        border = []
        for i in range(side):
            for y, x in ((0, i), (side - 1, i), (i, 0), (i, side - 1)):
                border.append(float(image[c, y, x]))
        return sorted(border)[2 * side - 1]

    return each(image[:, :1, :1], value)


def slow_brightness(image: Image, factor: float) -> Image:
    return each(image, lambda c, y, x: clamp(factor * image[c, y, x]))


def slow_contrast(image: Image, factor: float) -> Image:
    side = image.shape[1]
    mean = sum(slow_grey(image, y, x) for y in range(side) for x in range(side)) / side**2
    return each(image, lambda c, y, x: clamp(factor * image[c, y, x] + (1 - factor) * mean))


def slow_saturation(image: Image, factor: float) -> Image:
    return each(image, lambda c, y, x: clamp(factor * image[c, y, x] + (1 - factor) * slow_grey(image, y, x)))


def slow_hue(image: Image, turns: float) -> Image:
    to_yiq = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])

    def value(c: int, row: int, column: int) -> float:
        y, i, q = (to_yiq @ image[:, row, column]).tolist()
        turned = complex(i, q) * complex(math.cos(2 * math.pi * turns), math.sin(2 * math.pi * turns))
        return clamp(float(np.linalg.solve(to_yiq, [y, turned.real, turned.imag])[c]))

    return each(image, value)


def slow_stroke(image: Image, amount: float) -> Image:
    """As much of the way to the brightest neighbour, or to the darkest, as `amount` says."""

    def value(c: int, y: int, x: int) -> float:
        near = around(image, c, y, x)
        goal = max(near) if amount > 0 else min(near)
        return float(image[c, y, x] + abs(amount) * (goal - image[c, y, x]))

    return each(image, value)


def doubles(images: Tensor) -> Image:
    values: Image = images.double().numpy()
    return values


def random_images(rng: np.random.Generator, channels: int) -> Tensor:
    return torch.from_numpy(rng.uniform(size=(2, channels, 5, 5)).astype(np.float32))


PLAIN: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Image], Image]]] = {
    "luminance": (augment.luminance, slow_luminance),
    "background": (augment.background, slow_background),
    "smooth": (augment.smooth, slow_smooth),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", PLAIN)
@given(seed=st.integers(0, 2**31))
def test_what_is_made_of_an_image_alone_is_its_slow_twin(name: str, channels: int, seed: int) -> None:
    fast, slow = PLAIN[name]
    images = random_images(np.random.default_rng(seed), channels)
    expected = np.stack([slow(image) for image in doubles(images)])
    np.testing.assert_allclose(fast(images).numpy(), expected, atol=1e-5)


# With the range of strengths: far enough that black and white are reached, where there is a clamp.
TWINS: dict[str, tuple[Callable[[Image, float], Image], float, float]] = {
    "brightness": (slow_brightness, 0.0, 2.5),
    "contrast": (slow_contrast, -0.5, 2.5),
    "saturation": (slow_saturation, -0.5, 2.5),
    "hue": (slow_hue, -1.0, 1.0),
    "stroke": (slow_stroke, -1.0, 1.0),
}


@pytest.mark.parametrize(("name", "channels"), [(n, c) for n in TWINS for c in (1, 3) if (n, c) != ("hue", 1)])
@given(seed=st.integers(0, 2**31))
def test_changes_are_their_slow_twins(name: str, channels: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    slow, low, high = TWINS[name]
    images = random_images(rng, channels)
    strengths = torch.from_numpy(rng.uniform(low, high, 2).astype(np.float32))
    before = images.clone()
    found = CHANGES[name][0](images, strengths)
    expected = np.stack([slow(image, s) for image, s in zip(doubles(images), strengths.tolist(), strict=True)])
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)
    assert torch.equal(images, before)  # not changed in place


@pytest.mark.parametrize("shape", [(3, 5, 5), (1, 5, 5), (3, 1, 1), (1, 1, 1)])
@given(seed=st.integers(0, 2**31))
def test_blending_is_its_slow_twin(shape: tuple[int, int, int], seed: int) -> None:
    """With an image, a grey image, a colour and a grey for each image; nothing is clamped."""
    rng = np.random.default_rng(seed)
    images = random_images(rng, 3)
    other = torch.from_numpy(rng.uniform(size=(2, *shape)).astype(np.float32))
    factors = torch.from_numpy(rng.uniform(-1, 3, 2).astype(np.float32))
    assert augment.column(factors)[:, 0, 0, 0].tolist() == factors.tolist()
    found = augment.blend(images, other, factors).numpy()
    channels, height, width = shape
    for b, factor in enumerate(factors.tolist()):
        for c, y, x in np.ndindex(3, 5, 5):
            goal = float(other[b, c % channels, y % height, x % width])
            assert found[b, c, y, x] == pytest.approx(goal + factor * (float(images[b, c, y, x]) - goal), abs=1e-5)
