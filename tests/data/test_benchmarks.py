"""The paper's data sets, from stand-ins in the layouts of their authors."""

import gzip
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pictures import encoded, write_tar
from spiceclust.data.arrays import Array
from spiceclust.data.benchmarks import BENCHMARKS, IMAGENET_10, IMAGENET_DOGS
from spiceclust.data.images import load
from spiceclust.data.sources import open_source
from spiceclust.errors import SourceError
from spiceclust.outputs.evaluate import read_truth
from spiceclust.progress import Silent
from spiceclust.result import Result
from stand_ins import (
    cifar_pickle,
    draw,
    idx,
    text,
    write_cifar10,
    write_cifar100,
    write_imagenet,
    write_mnist,
    write_stl,
    write_tiny_imagenet,
)


def array_of(source: Any) -> NDArray[Any]:
    assert isinstance(source, Array)
    return source.array


def result_of(source: Any) -> Result:
    """A run in which every image of a source was clustered."""
    images = load(source, 16, None, Silent())
    n = len(images.rows)
    return Result(
        rows=images.rows,
        labels=np.zeros(n, np.int64),
        probabilities=np.ones((n, 1), np.float32),
        reliable=np.ones(n, bool),
        typicality=np.ones(n, np.float32),
        run={"source_root": source.root},
        metrics={},
    )


# Round trips


def test_cifar10_is_its_six_files_in_order(tmp_path: Path) -> None:
    images = write_cifar10(tmp_path)
    source = open_source(f"cifar10:{tmp_path}")
    assert np.array_equal(array_of(source), images)
    assert source.description.startswith("cifar10: data_batch_1, data_batch_2, ")
    assert source.description.endswith("test_batch, 30 pictures of 32 x 32")
    inside = open_source(f"cifar10:{tmp_path}/cifar-10-batches-py")
    assert np.array_equal(array_of(inside), images)
    truth = read_truth(f"cifar10:{tmp_path}", result_of(source))
    assert [truth[str(i)] for i in range(10)] == ["0", "1", "2", "3", "4", "1", "2", "3", "4", "5"]


def test_cifar100_has_its_twenty_coarse_classes(tmp_path: Path) -> None:
    images = write_cifar100(tmp_path)
    source = open_source(f"cifar100-20:{tmp_path}")
    assert np.array_equal(array_of(source), images)
    truth = read_truth(f"cifar100-20:{tmp_path}", result_of(source))
    assert list(truth.values()) == ["0", "1", "2", "3", "10", "11", "12", "13"]


@pytest.mark.parametrize("protocol", [4, 5])
def test_batches_that_were_pickled_anew(tmp_path: Path, protocol: int) -> None:
    images = write_cifar100(tmp_path)
    for i, name in enumerate(("train", "test")):
        rows = images[4 * i : 4 * i + 4].transpose(0, 3, 1, 2).reshape(4, 3072).copy(order="CF"[i])
        (tmp_path / "cifar-100-python" / name).write_bytes(
            pickle.dumps({b"data": rows, "coarse_labels": [1]}, protocol)
        )
    if protocol == 5:  # an array that no published file holds
        with pytest.raises(SourceError, match=r"asks for numpy\._core\.numeric\._frombuffer"):
            open_source(f"cifar100-20:{tmp_path}")
    else:
        assert np.array_equal(array_of(open_source(f"cifar100-20:{tmp_path}")), images)


def test_stl10_keeps_its_unlabelled_images_apart(tmp_path: Path) -> None:
    images = write_stl(tmp_path)
    source = open_source(f"stl10:{tmp_path}")
    assert np.array_equal(array_of(source), images[:5])
    assert isinstance(source, Array)
    assert source.extra is not None
    assert np.array_equal(source.extra.array, images[5:])
    assert list(read_truth(f"stl10:{tmp_path}", result_of(source)).values()) == ["1", "2", "1", "2", "3"]
    (tmp_path / "stl10_binary" / "unlabeled_X.bin").unlink()
    without = open_source(f"stl10:{tmp_path}")
    assert isinstance(without, Array)
    assert without.extra is None
    assert without.description.endswith("without unlabeled_X.bin, which is not there")


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    ("name", "folder"), [("mnist", "."), ("mnist", "MNIST/raw"), ("fashion-mnist", "data/fashion")]
)
def test_mnist_and_fashion_mnist(tmp_path: Path, name: str, folder: str, packed: bool) -> None:
    images = write_mnist(tmp_path / folder, packed)
    source = open_source(f"{name}:{tmp_path}")
    assert np.array_equal(array_of(source), images)
    truth = read_truth(f"{name}:{tmp_path}", result_of(source))
    assert list(truth.values()) == [str(image[0, 0] % 10) for image in images]


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "usps"])
@pytest.mark.parametrize("split", [True, False])
def test_the_same_as_npz(tmp_path: Path, name: str, split: bool) -> None:
    images, labels = draw(4, 5, 16, 16), np.arange(5)
    arrays = {"x_train": images[:3], "y_train": labels[:3], "x_test": images[3:], "y_test": labels[3:]}
    np.savez(tmp_path / f"{name}.npz", **(arrays if split else {"images": images, "labels": labels}))  # type: ignore[arg-type]
    source = open_source(f"{name}:{tmp_path}")
    assert np.array_equal(array_of(source), images)
    assert list(read_truth(f"{name}:{tmp_path}", result_of(source)).values()) == list("01234")


def test_usps_as_text(tmp_path: Path) -> None:
    greys = np.round(np.random.default_rng(0).uniform(-1, 1, (5, 256)), 3)
    greys[0, :2] = -1, 1
    for name, part in {"train": slice(3), "test": slice(3, 5)}.items():
        lines = [f"{7 - i}.0000 " + " ".join(f"{grey:.4f}" for grey in row) for i, row in enumerate(greys[part])]
        (tmp_path / f"zip.{name}.gz").write_bytes(gzip.compress(("\n".join(lines) + "\n").encode()))
    source = open_source(f"usps:{tmp_path}")
    array = array_of(source)
    assert array.shape == (5, 16, 16)
    assert array[0, 0, :2].tolist() == [0, 255]
    assert np.abs(array.reshape(5, 256) / 127.5 - 1 - greys).max() <= 0.5 / 127.5 + 1e-9
    assert list(read_truth(f"usps:{tmp_path}", result_of(source)).values()) == ["7", "6", "5", "7", "6"]


@pytest.mark.parametrize("folder", [".", "train", "ILSVRC/Data/CLS-LOC/train"])
@pytest.mark.parametrize(("name", "classes"), [("imagenet10", IMAGENET_10), ("imagenet-dogs15", IMAGENET_DOGS)])
def test_imagenet_subsets_are_their_classes_alone(
    tmp_path: Path, name: str, classes: tuple[str, ...], folder: str
) -> None:
    write_imagenet(tmp_path / folder, classes)
    source = open_source(f"{name}:{tmp_path}")
    assert source.paths == [f"{word}/{word}_{i}.JPEG" for word in classes for i in range(2)]
    truth = read_truth(f"{name}:{tmp_path}", result_of(source))
    assert [truth[path] for path in source.paths] == [word for word in classes for _ in range(2)]


def test_imagenet_in_a_tar_for_each_class(tmp_path: Path) -> None:
    for number, word in enumerate(IMAGENET_10):
        write_tar(tmp_path / f"{word}.tar", [(f"{word}_{i}.JPEG", encoded(9 * number + i, "JPEG")) for i in range(2)])
    source = open_source(f"imagenet10:{tmp_path}")
    assert source.paths[:2] == ["n02056570.tar/n02056570_0.JPEG", "n02056570.tar/n02056570_1.JPEG"]
    truth = read_truth(f"imagenet10:{tmp_path}", result_of(source))
    assert set(truth.values()) == set(IMAGENET_10)
    assert len(truth) == 20


def test_the_published_class_lists() -> None:
    assert len(set(IMAGENET_10)) == 10
    assert len(set(IMAGENET_DOGS)) == 15
    assert set(IMAGENET_10) & set(IMAGENET_DOGS) == {"n02085936"}  # the Maltese dog is in both


def test_tiny_imagenet_is_its_training_images(tmp_path: Path) -> None:
    write_tiny_imagenet(tmp_path)
    source = open_source(f"tiny-imagenet:{tmp_path}")
    assert len(source) == 6
    assert source.paths[0] == "train/n01443537/images/n01443537_0.JPEG"
    assert set(read_truth(f"tiny-imagenet:{tmp_path}", result_of(source)).values()) == {"n01443537", "n02085936"}


# Labels


def test_labels_are_read_by_evaluate_alone(tmp_path: Path) -> None:
    """Other labels, no labels, labels that cannot be read: the images are the same."""
    for name, shift in {"a": 0, "b": 3}.items():
        write_cifar10(tmp_path / name, labels=shift)
    one, other = (load(open_source(f"cifar10:{tmp_path}/{name}"), 16, None, Silent()) for name in "ab")
    assert one.fingerprint == other.fingerprint
    assert np.array_equal(one.pixels, other.pixels)
    write_stl(tmp_path / "stl")
    for file in (tmp_path / "stl").rglob("*_y.bin"):
        file.unlink()
    assert len(open_source(f"stl10:{tmp_path}/stl")) == 5
    write_mnist(tmp_path / "mnist")
    for file in (tmp_path / "mnist").glob("*labels*"):
        file.write_bytes(b"noise")
    source = open_source(f"mnist:{tmp_path}/mnist")
    assert len(source) == 7
    with pytest.raises(SourceError, match="not a sound IDX file"):
        read_truth(f"mnist:{tmp_path}/mnist", result_of(source))
    with pytest.raises(SourceError, match=r"train_y\.bin is missing"):
        read_truth(f"stl10:{tmp_path}/stl", result_of(open_source(f"stl10:{tmp_path}/stl")))


def test_labels_of_another_data_set_are_refused(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    write_mnist(tmp_path)
    run = result_of(open_source(f"mnist:{tmp_path}"))
    with pytest.raises(SourceError, match="30 labels and the run 7 images"):
        read_truth(f"cifar10:{tmp_path}", run)
    with pytest.raises(SourceError, match="0 names no class such as n02085936"):
        read_truth(f"imagenet10:{tmp_path}", run)


# What is missing or damaged


@pytest.mark.parametrize("name", BENCHMARKS)
def test_missing_files_are_named_with_where_to_get_them(tmp_path: Path, name: str) -> None:
    for root in (tmp_path, tmp_path / "gone"):
        with pytest.raises(
            SourceError, match=rf"^{name} lacks .*: get .*, and put what is in it into {root}"
        ) as caught:
            open_source(f"{name}:{root}")
        assert "\n" not in str(caught.value)


def test_one_missing_file_is_named(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").unlink()
    with pytest.raises(SourceError, match=r"^cifar10 lacks data_batch_3: get cifar-10-python\.tar\.gz"):
        open_source(f"cifar10:{tmp_path}")
    write_imagenet(tmp_path / "train", IMAGENET_10[1:])
    with pytest.raises(SourceError, match=r"^imagenet10 lacks n02056570 or n02056570\.tar: get ILSVRC2012"):
        open_source(f"imagenet10:{tmp_path}")


class Trap:
    """Makes a folder when it is unpickled by the plain unpickler."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("place", ["instead", "beside", "within"])
def test_a_hostile_pickle_is_refused_in_one_line(tmp_path: Path, protocol: int, place: str) -> None:
    write_cifar10(tmp_path)
    trap, rows = Trap(tmp_path / "sprung"), [[0]]
    content = {"instead": trap, "beside": {"data": rows, "x": trap}, "within": {"data": [trap]}}[place]
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(pickle.dumps(content, protocol))
    with pytest.raises(SourceError, match=r"test_batch cannot be read: it asks for posix\.mkdir, .*nothing was run$"):
        open_source(f"cifar10:{tmp_path}")
    assert not (tmp_path / "sprung").exists()


ARRAY = cifar_pickle(draw(0, 2, 3072))
DAMAGED = {
    "empty": b"",
    "text": b"no pickle",
    "cut": ARRAY[:3000],
    "a number": pickle.dumps(3),
    "a list": pickle.dumps([1]),
    "no data": pickle.dumps({"labels": [1]}),
    "data that are a list": pickle.dumps({"data": [1, 2]}),
    "an array without state": b"\x80\x02}" + text(b"data") + b"cnumpy\nndarray\n)Rs.",
    "a class": b"\x80\x02}" + text(b"data") + b"cnumpy\nndarray\ns.",
    "state for a class": b"\x80\x02}" + text(b"data") + b"cnumpy\nndarray\n}bs.",
    "other numbers": pickle.dumps({"data": np.zeros((2, 3072))}, 4),
    "objects": pickle.dumps({"data": np.array([[None] * 3072])}, 4),
    "rows of another length": cifar_pickle(draw(0, 2, 99)),
    "a shape beyond the content": ARRAY.replace(b"M\x02\x00M", b"M\xff\xffM"),
    "by extension code": b"\x80\x02\x82\x01.",
    "by persistent id": b"Pos\n.",
    "builtins": b"cbuiltins\neval\n(" + text(b"1/0") + b"tR.",
    "a dotted name": pickle.dumps({}, 4)[:-1] + b"\x8c\x05numpy\x8c\x0bndarray.dot\x93.",
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_pickles_are_one_line(tmp_path: Path, case: str) -> None:
    write_cifar10(tmp_path)
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(DAMAGED[case])
    with pytest.raises(SourceError, match="data_batch_1") as caught:
        open_source(f"cifar10:{tmp_path}")
    assert "\n" not in str(caught.value)


DAMAGED_IDX = {
    "empty": b"",
    "cut header": idx(draw(0, 4, 28, 28))[:10],
    "cut": idx(draw(0, 4, 28, 28))[:-1],
    "labels": idx(draw(0, 4)),
    "huge": bytes([0, 0, 8, 3]) + struct.pack(">3i", 2**30, 2**10, 2**10),
    "noise": draw(0, 300).tobytes(),
}


@pytest.mark.parametrize("packed", ["yes", "no", "cut", "noise"])
@pytest.mark.parametrize("case", DAMAGED_IDX)
def test_damaged_idx_files_are_one_line(tmp_path: Path, case: str, packed: str) -> None:
    write_mnist(tmp_path, packed=False)
    content = DAMAGED_IDX[case]
    name = "t10k-images-idx3-ubyte"
    if packed == "no":
        (tmp_path / name).write_bytes(content)
    else:
        squeezed = gzip.compress(content)
        name += ".gz"
        kinds = {"yes": squeezed, "cut": squeezed[:-9], "noise": squeezed[:10] + b"noise" * 9}
        (tmp_path / name).write_bytes(kinds[packed])
    with pytest.raises(SourceError, match=rf"{name} is not a sound IDX file: ") as caught:
        open_source(f"mnist:{tmp_path}")
    assert "\n" not in str(caught.value)


def test_a_pipe_named_like_a_file_is_not_opened(tmp_path: Path) -> None:
    write_mnist(tmp_path, packed=False)
    (tmp_path / "t10k-images-idx3-ubyte").unlink()
    os.mkfifo(tmp_path / "t10k-images-idx3-ubyte")
    with pytest.raises(SourceError, match="not a sound IDX file: a named pipe, not a file"):
        open_source(f"mnist:{tmp_path}")


def test_splits_of_two_data_sets_are_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path, packed=False)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(draw(0, 3, 20, 20)))
    with pytest.raises(SourceError, match=r"\(4, 28, 28\) and \(3, 20, 20\): they are not of one data set"):
        open_source(f"mnist:{tmp_path}")


def test_other_damage(tmp_path: Path) -> None:
    write_stl(tmp_path)
    with (tmp_path / "stl10_binary" / "test_X.bin").open("ab") as file:
        file.write(b"x")
    with pytest.raises(SourceError, match=r"test_X\.bin has 82,945 bytes, not a multiple of 27,648"):
        open_source(f"stl10:{tmp_path}")
    (tmp_path / "usps.npz").write_bytes(b"noise")
    with pytest.raises(SourceError, match=r"usps\.npz cannot be read as arrays"):
        open_source(f"usps:{tmp_path}")
    np.savez(tmp_path / "usps.npz", pixels=draw(0, 2, 4, 4))
    with pytest.raises(SourceError, match=r"no arrays images or x_train and x_test; it has: pixels"):
        open_source(f"usps:{tmp_path}")
    for name in ("zip.train.gz", "zip.test.gz"):
        (tmp_path / name).write_bytes(gzip.compress(b"7 2 3\n"))
    (tmp_path / "usps.npz").unlink()
    with pytest.raises(SourceError, match=r"zip\.train\.gz is not a sound table of numbers"):
        open_source(f"usps:{tmp_path}")
    (tmp_path / "zip.train.gz").write_bytes(gzip.compress(b"7 " + b"200 " * 256))
    with pytest.raises(SourceError, match="greys beyond -1 and 1"):
        open_source(f"usps:{tmp_path}")
