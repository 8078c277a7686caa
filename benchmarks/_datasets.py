"""Data sets of the benchmarks: images and, apart from them, true labels for scoring.

n images, L classes.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spiceclust.data.datasets import digits
from spiceclust.outputs.evaluate import digits_labels

SUITES = {
    "digits": ["digits"],
    "small": ["digits", "mnist_test", "fashion_mnist_test", "sign_digits", "blood_cells"],
    "tail": ["digits_tail", "mnist_test_tail", "blood_cells"],
    "mnist": ["mnist", "fashion_mnist"],
    "cifar": ["cifar10", "cifar100_20"],
}
NOTES = {
    "digits_tail": "classes thinned evenly on a log scale to 10:1",
    "mnist_test_tail": "classes thinned evenly on a log scale to 10:1",
    "cifar10": "JPEG-compressed copies",
    "cifar100_20": "JPEG-compressed copies, the 20 super-classes of CIFAR-100",
}
TAIL, COARSE = "_tail", "_20"
TAIL_RATIO = 10  # images of the first class for each one of the last
TAIL_SEED = 0  # the same images stay in every run, whatever its seed

Labelled = tuple[NDArray[np.uint8], NDArray[Any]]


def load(name: str, folder: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (n, H, W[, 3]) uint8 and classes (n,) int64 in 0..L-1 of a set; `cifar10` and such are train and test."""
    images, names = _named(name.removesuffix(TAIL).removesuffix(COARSE), folder)
    if name.endswith(COARSE):
        coarse = json.loads((folder / f"{name.removesuffix(COARSE)}_coarse.json").read_text("utf-8"))
        names = np.array([coarse[fine] for fine in names])
    classes = np.unique(names, return_inverse=True)[1].astype(np.int64)
    if name.endswith(TAIL):
        kept = long_tail(classes)
        return images[kept], classes[kept]
    return images, classes


def long_tail(classes: NDArray[np.int64], ratio: float = TAIL_RATIO, seed: int = TAIL_SEED) -> NDArray[np.int64]:
    """Which images to keep so that class c has m * ratio^(-c / (L - 1)) of them, with the largest m that all can give.

    Args:
        classes: (n,) in 0..L-1, each there.
        ratio: images of class 0 for each one of class L - 1.
        seed: of the draw.

    Returns:
        Ascending rows.
    """
    counts = np.bincount(classes)
    shares = ratio ** -np.linspace(0, 1, len(counts))
    sizes = np.rint(shares * (counts / shares).min()).astype(int)
    rng = np.random.default_rng(seed)
    kept = [rng.choice(np.flatnonzero(classes == c), size, replace=False) for c, size in enumerate(sizes)]
    return np.sort(np.concatenate(kept))


def _named(name: str, folder: Path) -> Labelled:
    """Images, and classes by their numbers or names."""
    if name == "digits":
        return digits(), digits_labels()
    for parts in ([name], [f"{name}_train", f"{name}_test"]):
        found = [(read, folder / f"{part}{ending}") for part in parts for ending, read in READERS.items()]
        found = [(read, file) for read, file in found if file.exists()]
        if len(found) == len(parts):
            images, names = zip(*(read(file) for read, file in found), strict=True)
            return np.concatenate(images), np.concatenate(names)
    raise FileNotFoundError(f"{folder} has no {name}.npz or {name}.tar.xz, nor {name}_train and {name}_test")


def _arrays(file: Path) -> Labelled:
    with np.load(file, allow_pickle=False) as archive:
        return archive["images"], archive["labels"]


def _folders(file: Path) -> Labelled:
    """A .tar.xz in which the folder of an image is its class."""
    images, names = [], []
    with tarfile.open(file) as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isfile() else None
            if content is not None:
                with Image.open(io.BytesIO(content.read())) as image:
                    images.append(np.asarray(image.convert("RGB")))
                names.append(Path(member.name).parent.name)
    return np.stack(images), np.array(names)


READERS: dict[str, Callable[[Path], Labelled]] = {".npz": _arrays, ".tar.xz": _folders}
