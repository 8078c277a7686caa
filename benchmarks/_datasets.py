"""Data sets of the benchmarks: images and, apart from them, true labels for scoring."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spiceclust.data.datasets import digits
from spiceclust.outputs.evaluate import digits_labels

SUITES = {
    "digits": ["digits"],
    "small": ["digits", "mnist_test", "fashion_mnist_test", "sign_digits", "blood_cells"],
    "mnist": ["mnist", "fashion_mnist"],
}


def load(name: str, folder: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (N, H, W[, 3]) uint8 and classes (N,) int64 of a set; `mnist` and `fashion_mnist` are train and test."""
    if name == "digits":
        return digits(), digits_labels()
    files = [folder / f"{name}{ending}" for ending in (".npz", ".tar.xz")]
    if files[0].exists():
        with np.load(files[0], allow_pickle=False) as archive:
            return archive["images"], archive["labels"]
    if files[1].exists():
        return _folders(files[1])
    parts = [load(f"{name}_{part}", folder) for part in ("train", "test")]
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def _folders(file: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """A .tar.xz in which the folder of an image is its class."""
    images, classes = [], []
    with tarfile.open(file) as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isfile() else None
            if content is not None:
                with Image.open(io.BytesIO(content.read())) as image:
                    images.append(np.asarray(image.convert("RGB")))
                classes.append(Path(member.name).parent.name)
    return np.stack(images), np.unique(classes, return_inverse=True)[1]
