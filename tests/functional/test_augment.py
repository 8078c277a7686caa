import math

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
