"""True labels of the paper's data sets, from their authors' files: for `evaluate`, above every stage."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from spiceclust.data.benchmarks import CIFAR_10, CIFAR_100, find, home, image_files
from spiceclust.data.idx import is_text, npz_entries, read_idx, usps_columns
from spiceclust.data.pickles import unpickle
from spiceclust.errors import SourceError


def benchmark_labels(name: str, root: str, paths: list[str]) -> list[Any]:
    """The classes of a benchmark's images.

    Args:
        name: of `spiceclust.data.benchmarks.BENCHMARKS`.
        root: the folder that the authors' files lie in.
        paths: of the run; where these hold the WordNet id of the class, no file is read.

    Returns:
        One for each image, in the order of the source.

    Raises:
        SourceError: files are missing or damaged.
    """
    if name in LABELS:
        return LABELS[name](name, home(name, root))
    found = [re.search(r"n\d{8}", path) for path in paths]
    lost = [path for path, match in zip(paths, found, strict=True) if match is None]
    if lost:
        raise SourceError(f"--labels {name}: {lost[0]} names no class such as n02085936: this run was of other images")
    return [match[0] for match in found if match is not None]


def _cifar(files: tuple[str, ...], entry: str) -> Callable[[str, str], list[Any]]:
    return lambda _, place: [label for file in files for label in unpickle(os.path.join(place, file), entry)]


def _stl(name: str, place: str) -> list[Any]:
    files = [os.path.join(place, f"{split}_y.bin") for split in ("train", "test")]
    missing = [file for file in files if not os.path.exists(file)]
    if missing:
        raise SourceError(f"--labels {name}: {missing[0]} is missing: it comes with the images")
    return list(np.concatenate([np.fromfile(file, np.uint8) for file in files]))


def _idx(name: str, place: str) -> list[Any]:
    images = image_files(name, place)
    if images[0].endswith(".npz"):
        return list(npz_entries(images[0], ("labels",), ("y_train", "y_test")))
    labels = []
    for file in images:
        if is_text(file):
            labels.append(usps_columns(file, [0])[:, 0].astype(np.uint8))
            continue
        base = os.path.basename(file).removesuffix(".gz").replace("images-idx3", "labels-idx1")
        path = find(place, f"{base}.gz|{base}")
        if not path:
            raise SourceError(f"--labels {name}: {os.path.join(place, base)}.gz is missing: it comes with the images")
        labels.append(read_idx(path, 1))
    return list(np.concatenate(labels))


LABELS: Final[dict[str, Callable[[str, str], list[Any]]]] = {
    "cifar10": _cifar(CIFAR_10, "labels"),
    "cifar100-20": _cifar(CIFAR_100, "coarse_labels"),
    "stl10": _stl,
    "mnist": _idx,
    "fashion-mnist": _idx,
    "usps": _idx,
}
