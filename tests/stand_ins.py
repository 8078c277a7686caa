"""The paper's data sets in small, in the layouts of their authors, written byte by byte."""

import gzip
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pictures import encoded

Pixels = NDArray[np.uint8]


def draw(seed: int, *shape: int) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def text(word: bytes) -> bytes:
    """A text as Python 2 pickled it."""
    return b"U" + bytes([len(word)]) + word if len(word) < 256 else b"T" + struct.pack("<i", len(word)) + word


def cifar_pickle(data: Pixels, **labels: list[int]) -> bytes:
    """A batch of CIFAR: protocol 2, texts of Python 2, an array by numpy's old names."""
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85" + text(b"b") + b"tR"
    kind = (
        b"cnumpy\ndtype\n("
        + text(b"u1")
        + b"K\x00K\x01tR(K\x03"
        + text(b"|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    shape = b"(M" + struct.pack("<H", data.shape[0]) + b"M" + struct.pack("<H", data.shape[1]) + b"t"
    state = b"(K\x01" + shape + kind + b"\x89" + text(data.tobytes()) + b"tb"
    entries = [text(b"batch_label") + text(b"batch 1 of 1"), text(b"data") + array + state]
    for name, values in labels.items():
        numbers = b"".join(b"K" + bytes([value]) for value in values)
        entries.append(text(name.encode()) + b"](" + numbers + b"e")
    return b"\x80\x02}(" + b"".join(entries) + b"u."


def write_cifar10(root: Path, labels: int = 0, per_file: int = 5) -> Pixels:
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    images = draw(0, 6, per_file, 32, 32, 3)
    for i, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        rows = images[i].transpose(0, 3, 1, 2).reshape(per_file, 3072)
        (folder / name).write_bytes(cifar_pickle(rows, labels=[(i + j + labels) % 10 for j in range(per_file)]))
    return images.reshape(-1, 32, 32, 3)


def write_cifar100(root: Path) -> Pixels:
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    images = draw(1, 2, 4, 32, 32, 3)
    for i, name in enumerate(("train", "test")):
        rows = images[i].transpose(0, 3, 1, 2).reshape(4, 3072)
        coarse = [i * 10 + j for j in range(4)]
        (folder / name).write_bytes(cifar_pickle(rows, fine_labels=[99, 98, 97, 96], coarse_labels=coarse))
    return images.reshape(-1, 32, 32, 3)


def write_stl(root: Path, labels: int = 0, side: int = 96) -> Pixels:
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    images = draw(2, 9, side, side, 3)
    for name, part in {"train": images[:2], "test": images[2:5], "unlabeled": images[5:]}.items():
        (folder / f"{name}_X.bin").write_bytes(part.transpose(0, 3, 2, 1).tobytes())  # by channels, then columns
        if name != "unlabeled":
            (folder / f"{name}_y.bin").write_bytes(bytes((i + labels) % 10 + 1 for i in range(len(part))))
    return images


def idx(values: Pixels) -> bytes:
    return bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}i", *values.shape) + values.tobytes()


def write_mnist(root: Path, packed: bool = True) -> Pixels:
    root.mkdir(parents=True, exist_ok=True)
    images = draw(3, 7, 28, 28)
    for split, part in {"train": images[:4], "t10k": images[4:]}.items():
        for name, values in {"images-idx3": part, "labels-idx1": part[:, 0, 0] % 10}.items():
            content = idx(values)
            path = root / f"{split}-{name}-ubyte"
            if packed:
                path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(content))
            else:
                path.write_bytes(content)
    return images


def write_imagenet(root: Path, classes: tuple[str, ...], per_class: int = 2) -> None:
    for number, name in enumerate([*classes, "n00000000"]):
        (root / name).mkdir(parents=True)
        for i in range(per_class):
            (root / name / f"{name}_{i}.JPEG").write_bytes(encoded(100 * number + i, "JPEG"))


def write_tiny_imagenet(root: Path) -> None:
    top = root / "tiny-imagenet-200"
    for number, name in enumerate(("n01443537", "n02085936")):
        (top / "train" / name / "images").mkdir(parents=True)
        (top / "train" / name / f"{name}_boxes.txt").write_text("boxes")
        for i in range(3):
            Image.fromarray(draw(10 * number + i, 64, 64, 3)).save(top / "train" / name / "images" / f"{name}_{i}.JPEG")
    (top / "val" / "images").mkdir(parents=True)
    (top / "val" / "images" / "val_0.JPEG").write_bytes(encoded(0, "JPEG"))
    (top / "wnids.txt").write_text("n01443537\nn02085936\n")
