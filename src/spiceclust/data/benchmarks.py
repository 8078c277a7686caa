"""The data sets of the paper, from the files as their authors distribute them; labels are not read here.

n images; splits for training and testing are one set, as in the paper.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spiceclust.data.arrays import Array, open_array
from spiceclust.data.encoded import Encoded
from spiceclust.data.files import find_files, in_folder
from spiceclust.data.idx import is_text, npz_entries, read_idx, usps_images
from spiceclust.data.pickles import unpickle
from spiceclust.data.tars import open_tars
from spiceclust.data.wording import counted, printable
from spiceclust.errors import SourceError

# The published class lists of Chang et al. 2017 (Deep Adaptive Image Clustering), as WordNet ids.
IMAGENET_10: Final = (
    "n02056570", "n02085936", "n02128757", "n02690373", "n02692877", "n03095699", "n04254680", "n04285008",
    "n04467665", "n07747607",
)  # fmt: skip
IMAGENET_DOGS: Final = (
    "n02085936", "n02086646", "n02088238", "n02091467", "n02097130", "n02099601", "n02101388", "n02101556",
    "n02102177", "n02105056", "n02105412", "n02105855", "n02107142", "n02110958", "n02112137",
)  # fmt: skip
CIFAR_10: Final = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
CIFAR_100: Final = ("train", "test")
STL_SIDE: Final = 96


class Benchmark(NamedTuple):
    """What a data set's files are, where they are usual, where they are to be had, and how they are read.

    A needed file may have several names, parted by `|`; `folders` are below ROOT.
    """

    needed: tuple[str, ...]
    folders: tuple[str, ...]
    origin: str
    read: Callable[[str], Encoded | Array]


def open_benchmark(name: str, root: str) -> Encoded | Array:
    """The images of a benchmark, training and test splits as one.

    Args:
        name: of `BENCHMARKS`.
        root: the folder that the authors' files lie in.

    Raises:
        SourceError: files are missing or damaged; the error says what to get and where to put it.
    """
    source = BENCHMARKS[name].read(home(name, root))
    return replace(source, description=f"{name}: {source.description}", benchmark=name)


def home(name: str, root: str) -> str:
    """The folder in which all needed files of a benchmark lie: `root`, or one of the usual ones below it.

    Raises:
        SourceError: there is none.
    """
    needed, folders, origin, _ = BENCHMARKS[name]
    places = [os.path.normpath(os.path.join(root, folder)) for folder in ("", *folders)]
    lacking = [[file for file in needed if not find(place, file)] for place in places]
    for place, missing in zip(places, lacking, strict=True):
        if not missing:
            return place
    fewest = min(lacking, key=len)
    named = ", ".join(file.replace("|", " or ") for file in fewest[:4]) + (", ..." if len(fewest) > 4 else "")
    where = " or ".join([printable(root) or ".", *(f"{folder}/ in it" for folder in folders)])
    raise SourceError(f"{name} lacks {named}: get {origin}, and put what is in it into {where}")


def find(place: str, file: str) -> str:
    """The path of the first of the names in `file` that is there; empty if none is."""
    paths = (os.path.join(place, name) for name in file.split("|"))
    return next((path for path in paths if os.path.exists(path)), "")


# CIFAR


def _cifar(files: tuple[str, ...]) -> Callable[[str], Array]:
    def read(place: str) -> Array:
        batches = []
        for file in files:
            path = os.path.join(place, file)
            batch = unpickle(path, "data")
            if not isinstance(batch, np.ndarray) or batch.shape[1:] != (3072,):
                raise SourceError(f"{printable(path)} holds no rows of 3,072 bytes: it is not CIFAR's file")
            batches.append(batch)
        images = np.concatenate(batches).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        return open_array(images, ", ".join(files))

    return read


# STL-10


def _stl(place: str) -> Array:
    images = np.concatenate([_stl_file(place, file) for file in ("train_X.bin", "test_X.bin")])
    labelled = open_array(images, "train_X.bin, test_X.bin")
    if find(place, "unlabeled_X.bin"):
        return replace(labelled, extra=open_array(_stl_file(place, "unlabeled_X.bin"), "unlabeled_X.bin"))
    return replace(labelled, description=f"{labelled.description}, without unlabeled_X.bin, which is not there")


def _stl_file(place: str, file: str) -> NDArray[np.uint8]:
    """(n, 96, 96, 3) uint8, mapped from the disk; stored by channels and columns."""
    path = os.path.join(place, file)
    one = 3 * STL_SIDE * STL_SIDE
    size = os.path.getsize(path)
    if not size or size % one:
        raise SourceError(f"{printable(path)} has {size:,} bytes, not a multiple of {one:,}: get it again")
    stored = np.asarray(np.memmap(path, np.uint8, "r"))
    return stored.reshape(-1, 3, STL_SIDE, STL_SIDE).transpose(0, 3, 2, 1)


# MNIST and its like


def _idx_set(name: str) -> Callable[[str], Array]:
    def read(place: str) -> Array:
        files = image_files(name, place)
        names = ", ".join(dict.fromkeys(os.path.basename(file) for file in files))
        if files[0].endswith(".npz"):
            return open_array(npz_entries(files[0], ("images",), ("x_train", "x_test")), names)
        splits = [usps_images(file) if is_text(file) else read_idx(file, 3) for file in files]
        if splits[0].shape[1:] != splits[1].shape[1:]:
            shapes = " and ".join(str(split.shape) for split in splits)
            raise SourceError(f"{names} in {printable(place)} hold {shapes}: they are not of one data set")
        return open_array(np.concatenate(splits), names)

    return read


def image_files(name: str, place: str) -> list[str]:
    """Where the images of MNIST and its like are, a file for each split; a .npz twice."""
    return [find(place, file) for file in _idx_names(name)]


def _idx_names(name: str) -> tuple[str, ...]:
    names = []
    for split, text in (("train", "train"), ("t10k", "test")):
        idx = f"{split}-images-idx3-ubyte"
        names.append(f"{idx}.gz|{idx}|{name}.npz" + (f"|zip.{text}.gz" if name == "usps" else ""))
    return tuple(names)


# ImageNet


def _imagenet(classes: tuple[str, ...]) -> Callable[[str], Encoded]:
    def read(place: str) -> Encoded:
        folders = [find(place, f"{name}|{name}.tar") for name in classes]
        if all(folder.endswith(".tar") for folder in folders):
            return open_tars(folders)
        files = [file for folder in folders for file in find_files(folder)]
        return in_folder(place, files, f"{counted(len(classes), 'folder')} of {printable(place)}, {len(files)} files")

    return read


def _tiny_imagenet(place: str) -> Encoded:
    within = f"{os.sep}images{os.sep}"  # beside it lie the boxes of each class
    files = [file for file in find_files(os.path.join(place, "train")) if within in file]
    if not files:
        raise SourceError(f"tiny-imagenet: {printable(place)}/train holds no folders CLASS/images: unpack it again")
    return in_folder(place, files, f"train of {printable(place)}, {len(files)} files")


_IMAGENET_FOLDERS = ("train", "ILSVRC2012_img_train", "ILSVRC/Data/CLS-LOC/train")
_IMAGENET = "ILSVRC2012_img_train.tar (image-net.org; a folder or a tar for each class)"

BENCHMARKS: Final[dict[str, Benchmark]] = {
    "cifar10": Benchmark(
        CIFAR_10,
        ("cifar-10-batches-py",),
        "cifar-10-python.tar.gz (CIFAR-10 python version, www.cs.toronto.edu/~kriz/cifar.html)",
        _cifar(CIFAR_10),
    ),
    "cifar100-20": Benchmark(
        CIFAR_100,
        ("cifar-100-python",),
        "cifar-100-python.tar.gz (CIFAR-100 python version, www.cs.toronto.edu/~kriz/cifar.html)",
        _cifar(CIFAR_100),
    ),
    "stl10": Benchmark(
        ("train_X.bin", "test_X.bin"),
        ("stl10_binary",),
        "stl10_binary.tar.gz (cs.stanford.edu/~acoates/stl10)",
        _stl,
    ),
    "imagenet10": Benchmark(
        tuple(f"{name}|{name}.tar" for name in IMAGENET_10), _IMAGENET_FOLDERS, _IMAGENET, _imagenet(IMAGENET_10)
    ),
    "imagenet-dogs15": Benchmark(
        tuple(f"{name}|{name}.tar" for name in IMAGENET_DOGS), _IMAGENET_FOLDERS, _IMAGENET, _imagenet(IMAGENET_DOGS)
    ),
    "tiny-imagenet": Benchmark(
        ("train", "wnids.txt"),
        ("tiny-imagenet-200",),
        "tiny-imagenet-200.zip (Tiny ImageNet, of the course CS231n at Stanford)",
        _tiny_imagenet,
    ),
    "mnist": Benchmark(
        _idx_names("mnist"),
        ("MNIST/raw",),
        "train-images-idx3-ubyte.gz and t10k-images-idx3-ubyte.gz (the MNIST database, yann.lecun.com/exdb/mnist)",
        _idx_set("mnist"),
    ),
    "fashion-mnist": Benchmark(
        _idx_names("fashion-mnist"),
        ("FashionMNIST/raw", "data/fashion"),
        "train-images-idx3-ubyte.gz and t10k-images-idx3-ubyte.gz (github.com/zalandoresearch/fashion-mnist)",
        _idx_set("fashion-mnist"),
    ),
    "usps": Benchmark(
        _idx_names("usps"),
        (),
        "zip.train.gz and zip.test.gz (ZIP code data of The Elements of Statistical Learning)",
        _idx_set("usps"),
    ),
}
