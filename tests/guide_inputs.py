"""What the readers of docs/guide.md have: small real files of a few kinds of pictures, drawn from a fixed seed."""

import csv
import io
import json
import shutil
import tarfile
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from safetensors.torch import save_file
from scipy import ndimage

Draw = np.random.Generator
SCENES = ("beach", "forest", "sunset", "night")
CELLS = ("round", "rod", "granular")
LANDS = ("water", "forest", "fields", "town")
PRODUCTS = ("mug", "shirt", "bottle")


def colour(draw: Draw, base: tuple[int, ...], spread: float = 12) -> tuple[int, ...]:
    return tuple(int(value) for value in np.clip(np.array(base) + draw.normal(0, spread, 3), 0, 255))


def picture(values: NDArray[np.float64]) -> Image.Image:
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def write_labels(file: Path, labels: Iterable[tuple[str, str]]) -> None:
    with file.open("w", newline="") as opened:
        csv.writer(opened).writerows([("path", "label"), *labels])


# Photos


def scene(kind: str, draw: Draw, width: int = 160, height: int = 120) -> Image.Image:
    sky = {"beach": ((90, 150, 220), (190, 220, 245)), "forest": ((150, 185, 190), (60, 90, 50))}
    sky |= {"sunset": ((70, 40, 100), (250, 140, 50)), "night": ((12, 14, 34), (38, 34, 62))}
    top, bottom = (np.array(colour(draw, each, 5 if kind == "night" else 12)) for each in sky[kind])
    down = np.linspace(0, 1, height)[:, None, None]
    image = picture(np.repeat(top * (1 - down) + bottom * down, width, axis=1))
    {"beach": _beach, "forest": _forest, "sunset": _sunset, "night": _night}[kind](ImageDraw.Draw(image), draw, width)
    blurred = np.asarray(image.filter(ImageFilter.GaussianBlur(0.6))).astype(np.float64)
    return picture(blurred * draw.uniform(0.82, 1.15) + draw.normal(0, 5, blurred.shape))


def _beach(pen: ImageDraw.ImageDraw, draw: Draw, width: int) -> None:
    sea, sand = draw.uniform(42, 60), draw.uniform(75, 96)
    pen.rectangle((0, sea, width, sand), fill=colour(draw, (30, 95, 140)))
    pen.rectangle((0, sand, width, 120), fill=colour(draw, (222, 196, 150)))
    x, r = draw.uniform(16, 144), draw.uniform(6, 11)
    pen.ellipse((x - r, 18 - r, x + r, 18 + r), fill=(255, 250, 215))
    for _ in range(12):
        x, y = draw.uniform(0, width), draw.uniform(sea + 2, sand - 2)
        pen.line((x, y, x + draw.uniform(6, 22), y), fill=(150, 200, 220))


def _forest(pen: ImageDraw.ImageDraw, draw: Draw, width: int) -> None:
    for _ in range(22):
        x, top, bottom = draw.uniform(-5, width + 5), draw.uniform(-10, 54), draw.uniform(90, 132)
        side, green = (bottom - top) * draw.uniform(0.16, 0.26), draw.integers(45, 110).item()
        pen.polygon([(x, top), (x - side, bottom), (x + side, bottom)], fill=(green // 3, green, green * 4 // 9))


def _sunset(pen: ImageDraw.ImageDraw, draw: Draw, width: int) -> None:
    hills, x, r = draw.uniform(72, 90), draw.uniform(32, 128), draw.uniform(9, 16)
    pen.ellipse((x - r, hills - 1.4 * r, x + r, hills + 0.6 * r), fill=(255, 225, 130))
    ridge = [(i * width / 6, hills + draw.uniform(-9, 7)) for i in range(7)]
    pen.polygon([(0, 120), *ridge, (width, 120)], fill=(28, 18, 30))


def _night(pen: ImageDraw.ImageDraw, draw: Draw, width: int) -> None:
    left = -4.0
    while left < width:
        right, top = left + draw.uniform(14, 26), draw.uniform(24, 72)
        pen.rectangle((left, top, right, 120), fill=(20, 20, 26))
        for y in np.arange(top + 4, 117, 7):
            for x in np.arange(left + 3, right - 4, 6):
                if draw.random() < 0.5:
                    pen.rectangle((x, y, x + 2.5, y + 3), fill=(250, 215, 120))
        left = right + draw.uniform(0, 3)


def photos(root: Path) -> None:
    """48 photos, a copy, a text and a damaged file; labels of twelve; six new ones and one unlike all."""
    draw = np.random.default_rng(0)
    kinds = draw.permutation(np.repeat(SCENES, 12)).tolist()
    for place in ("2024", "2025", "new"):
        (root / "photos" / place if place != "new" else root / place).mkdir(parents=True)
    names = [f"{2024 + i % 2}/IMG_{1201 + i}.jpg" for i in range(48)]
    for name, kind in zip(names, kinds, strict=True):
        scene(kind, draw).save(root / "photos" / name, quality=88)
    shutil.copy(root / "photos" / names[4], root / "photos/2025/IMG_1205 (1).jpg")
    (root / "photos/2025/notes.txt").write_text("the week at the sea\n")
    (root / "photos/2024/IMG_1299.jpg").write_bytes((root / "photos" / names[0]).read_bytes()[:900])
    write_labels(root / "labels.csv", list(zip(names, kinds, strict=True))[:12])
    for i in range(6):
        scene(SCENES[i % 4], draw).save(root / f"new/IMG_{1301 + i}.jpg", quality=88)
    page = Image.new("RGB", (120, 160), "white")
    for y in range(12, 150, 7):
        ImageDraw.Draw(page).line((12, y, int(draw.integers(60, 108)), y), fill=(60, 60, 60), width=2)
    page.save(root / "new/receipt.png")


# Microscopy


def cell(kind: str, draw: Draw, side: int = 48) -> NDArray[np.uint16]:
    """(side, side) uint16 counts of a 12-bit camera."""
    y, x = np.mgrid[:side, :side] - side / 2 + draw.normal(0, 2, 2)[:, None, None]
    angle, r = draw.uniform(0, np.pi), draw.uniform(14, 18)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    if kind == "round":
        light = 0.35 * (np.hypot(x, y) < r) + 0.65 * (np.hypot(x - draw.normal(0, 2), y) < 0.45 * r)
    elif kind == "rod":
        light = 0.75 * ((along / draw.uniform(16, 21)) ** 2 + (across / draw.uniform(4, 6)) ** 2 < 1)
    else:
        light = 0.15 * (np.hypot(x, y) < r)
        for _ in range(draw.integers(14, 20)):
            turn, out = draw.uniform(0, 2 * np.pi), r * np.sqrt(draw.uniform(0, 0.8))
            spot = np.hypot(x - out * np.cos(turn), y - out * np.sin(turn)) < 1.9
            light = np.maximum(light, 0.9 * spot)
    light = ndimage.gaussian_filter(light, 1.0) * draw.uniform(0.7, 1.2)
    counts: NDArray[np.int64] = draw.poisson(np.maximum(light, 0) * 2600 + 260)
    return np.clip(counts, 0, 4095).astype(np.uint16)


def cells(root: Path) -> None:
    """60 crops as 16-bit TIFF, nine more of another day, and what an expert calls some of them."""
    draw = np.random.default_rng(0)
    kinds = draw.permutation(np.repeat(CELLS, 20)).tolist()
    (root / "cells").mkdir()
    (root / "day 2").mkdir()
    for i, kind in enumerate(kinds):
        Image.fromarray(cell(kind, draw)).save(root / f"cells/well_{i:02}.tif")
    for i in range(9):
        Image.fromarray(cell(CELLS[i % 3], draw)).save(root / f"day 2/well_{i:02}.tif")
    write_labels(root / "expert.csv", [(f"well_{i:02}.tif", kind) for i, kind in enumerate(kinds[:20])])


# Satellite tiles


def tile(kind: str, draw: Draw, side: int = 64) -> Image.Image:
    def noise(size: float) -> NDArray[np.float64]:
        smooth = ndimage.gaussian_filter(draw.normal(size=(side, side)), size, mode="wrap")
        return ((smooth - smooth.mean()) / smooth.std())[..., None]

    if kind == "water":
        land = colour(draw, (30, 70, 110), 8) + noise(6) * 7 + noise(1) * 2
    elif kind == "forest":
        land = colour(draw, (40, 75, 38), 7) + noise(1.6) * 17 * np.array([0.7, 1, 0.6])
    elif kind == "fields":
        y, x = np.mgrid[:side, :side]
        angle, (long, wide) = draw.uniform(0, np.pi), draw.uniform(14, 22, 2)
        along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        crops = [(150, 165, 80), (190, 170, 105), (120, 150, 70), (165, 135, 90)]
        sown = np.array([colour(draw, crops[draw.integers(4)], 8) for _ in range(400)])
        plot = (np.floor(along / long) + 20 * np.floor(across / wide)).astype(int) % 400
        land = sown[plot] + np.sin(along * 2.2)[..., None] * 6 + noise(0.8) * 3
    else:
        town = Image.new("RGB", (side, side), colour(draw, (120, 118, 112), 6))
        step, start = draw.integers(11, 15), draw.integers(0, 8)
        for top in range(-start, side, step):
            for left in range(-start, side, step):
                roof = colour(draw, [(175, 95, 75), (200, 195, 185), (150, 150, 155)][draw.integers(3)])
                ImageDraw.Draw(town).rectangle((left + 3, top + 3, left + step - 2, top + step - 3), fill=roof)
        turned = town.rotate(draw.uniform(-20, 20), Image.Resampling.BICUBIC, fillcolor=(118, 116, 110))
        land = np.asarray(turned) + noise(0.8) * 4
    return picture(land * draw.uniform(0.9, 1.1))


def write_shard(file: Path, numbers: range, kinds: list[str], draw: Draw) -> None:
    """A tar as WebDataset keeps them: for each tile a picture, and where it lies as JSON."""
    with tarfile.open(file, "w") as tar:
        for i in numbers:
            content = io.BytesIO()
            tile(kinds[i], draw).save(content, "PNG")
            place = json.dumps({"zone": "33T", "lat": 47 + i / 100}).encode()
            for name, data in ((f"33T_{i:03}.png", content.getvalue()), (f"33T_{i:03}.json", place)):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def tiles(root: Path, timm: ModuleType) -> None:
    """96 tiles in three tars, a fourth tar that came later, labels of some, and weights of a model of timm."""
    draw = np.random.default_rng(0)
    kinds = draw.permutation(np.repeat(LANDS, 24)).tolist()
    (root / "tiles").mkdir()
    for shard in range(3):
        write_shard(root / f"tiles/region-{shard:03}.tar", range(32 * shard, 32 * shard + 32), kinds, draw)
    write_shard(root / "tomorrow.tar", range(16), kinds, draw)
    known = [(f"region-{i // 32:03}.tar/33T_{i:03}.png", kinds[i]) for i in range(0, 96, 4)]
    write_labels(root / "known.csv", known)
    torch.manual_seed(0)
    save_file(timm.create_model("test_resnet").state_dict(), root / "encoder.safetensors")


# Products with embeddings


def product(kind: str, draw: Draw) -> Image.Image:
    image = Image.new("RGB", (64, 64), colour(draw, (243, 243, 240), 4))
    pen, fill = ImageDraw.Draw(image), tuple(draw.integers(20, 200, 3).tolist())
    x, y = draw.integers(-4, 5, 2).tolist()
    if kind == "mug":
        pen.ellipse((x + 36, y + 24, x + 54, y + 44), outline=fill, width=4)
        pen.rounded_rectangle((x + 14, y + 18, x + 44, y + 50), 5, fill=fill)
    elif kind == "shirt":
        body = [(20, 14), (27, 18), (37, 18), (44, 14), (58, 26), (50, 34), (45, 30), (45, 54), (19, 54), (19, 30)]
        pen.polygon([(x + a, y + b) for a, b in [*body, (14, 34), (6, 26)]], fill=fill)
    else:
        pen.rectangle((x + 28, y + 6, x + 36, y + 24), fill=fill)
        pen.rounded_rectangle((x + 22, y + 22, x + 42, y + 58), 6, fill=fill)
    return image


def embedding(image: Image.Image, draw: Draw) -> NDArray[np.float32]:
    """(32,) of the outline, wherever it is, as a model that looks at shapes makes it."""
    pixels = np.asarray(image).astype(np.int64)
    mask = Image.fromarray((np.abs(pixels - pixels[0, 0]).max(axis=2) > 25).astype(np.uint8) * 255)
    outline = np.asarray(mask.crop(mask.getbbox()).resize((16, 16))).ravel() / 255 - 0.5
    mix = np.random.default_rng(1).normal(size=(256, 32)) / 16
    return (outline @ mix + draw.normal(0, 0.1, 32)).astype(np.float32)


def products(root: Path) -> None:
    """60 product pictures with embeddings by another model, nine new embeddings, and what some products are."""
    draw = np.random.default_rng(0)
    kinds = draw.permutation(np.repeat(PRODUCTS, 20)).tolist()
    (root / "products").mkdir()
    images = [product(kind, draw) for kind in kinds]
    for i, image in enumerate(images):
        image.save(root / f"products/{10_000 + 37 * i}.png")
    np.save(root / "products.npy", np.stack([embedding(image, draw) for image in images]))
    new = [product(PRODUCTS[i % 3], draw) for i in range(9)]
    np.save(root / "new.npy", np.stack([embedding(image, draw) for image in new]))
    write_labels(root / "known.csv", [(f"{10_000 + 37 * i}.png", kinds[i]) for i in range(0, 60, 3)])
