from pathlib import Path

import numpy as np
import pytest

from spiceclust.data.images import Images, load
from spiceclust.data.sources import open_source
from spiceclust.data.vectors import Vectors, open_inputs, read_vectors
from spiceclust.errors import SourceError
from spiceclust.progress import Silent
from synthetic import shapes


def saved(tmp_path: Path, array: np.ndarray) -> Path:
    np.save(tmp_path / "e.npy", array)
    return tmp_path / "e.npy"


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_rows_become_unit_vectors(dtype: type, tmp_path: Path) -> None:
    vectors = read_vectors(saved(tmp_path, np.array([[3, 4], [0, 2], [-1, 0]], dtype)))
    np.testing.assert_allclose(vectors.values, [[0.6, 0.8], [0, 1], [-1, 0]], rtol=1e-6)
    assert vectors.values.dtype == np.float32


def test_lengths_from_the_smallest_to_the_largest_do_not_matter(tmp_path: Path) -> None:
    tiny, huge = np.array([3e-308, 4e-308]), np.array([3e307, 4e307])
    vectors = read_vectors(saved(tmp_path, np.stack([tiny, huge])))
    np.testing.assert_allclose(vectors.values, [[0.6, 0.8], [0.6, 0.8]], rtol=1e-6)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(3), r"given float64 of shape \(3,\), needed floats \(n, D\)"),
        (np.zeros((3, 2), np.int64), r"given int64 of shape \(3, 2\), needed floats"),
        (np.zeros((0, 2)), r"shape \(0, 2\)"),
        (np.array([[1.0, 2], [0, 0], [0, 0]]), r"row 1 is zero, and 2 of 3 rows are"),
        (np.array([[1.0, 2], [3, 4], [np.nan, 0]]), r"row 2 is not finite, and 1 of 3 rows are"),
        (np.array([[np.inf, 2], [3, -np.inf]]), r"row 0 is not finite, and 2 of 2 rows are"),
    ],
)
def test_what_is_no_embedding_is_refused(array: np.ndarray, message: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=message) as caught:
        read_vectors(saved(tmp_path, array))
    assert "\n" not in str(caught.value)
    assert "e.npy" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x93NUMPY\x01\x00 cut", b"1,2\n3,4\n"])
def test_a_file_of_another_kind_is_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "e.npy").write_bytes(content)
    with pytest.raises(SourceError, match=r"embeddings .*e\.npy .*numpy\.save") as caught:
        read_vectors(tmp_path / "e.npy")
    assert "\n" not in str(caught.value)


def test_objects_are_not_unpickled(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cannot be read"):
        read_vectors(saved(tmp_path, np.array([[{}, []]], dtype=object)))


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cannot be opened"):
        read_vectors(tmp_path / "none.npy")


def test_many_rows_are_converted_part_by_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(0).normal(size=(10, 3))
    whole = read_vectors(saved(tmp_path, rows)).values
    monkeypatch.setattr("spiceclust.data.vectors.ROWS_AT_ONCE", 4)
    np.testing.assert_array_equal(read_vectors(saved(tmp_path, rows)).values, whole)
    rows[9, 1] = np.nan
    with pytest.raises(SourceError, match="row 9 is not finite, and 1 of 10 rows are"):
        read_vectors(saved(tmp_path, rows))


# Which row is whose


def numbered(n: int) -> Vectors:
    """Unit vectors that tell their row: (cos i, sin i)."""
    return Vectors(np.stack([np.cos(np.arange(n)), np.sin(np.arange(n))], axis=1).astype(np.float32), "e.npy")


def rows_in(images: Images) -> list[int]:
    known = numbered(100).values
    return [int((known @ value).argmax()) for value in images.pixels]


@pytest.fixture
def mixed(tmp_path: Path) -> Images:
    """a, a copy of it, a file that is no picture, b, a second copy of a, c: three distinct readable images."""
    from PIL import Image

    pictures, _ = shapes(1)
    for name, content in (("1", 0), ("2", 0), ("4", 1), ("5", 0), ("6", 2)):
        Image.fromarray(pictures[content]).save(tmp_path / f"{name}.png")
    (tmp_path / "3.png").write_text("no picture")
    return load(open_source(tmp_path), 8, 3, Silent())


def test_a_row_for_each_file_found(mixed: Images) -> None:
    assert [row.status for row in mixed.rows] == ["ok", "duplicate", "quarantined", "ok", "duplicate", "ok"]
    assert rows_in(numbered(6).of(mixed)) == [0, 3, 5]  # of copies the first counts


def test_a_row_for_each_readable_file(mixed: Images) -> None:
    assert rows_in(numbered(5).of(mixed)) == [0, 2, 4]


@pytest.mark.parametrize("n", [3, 4, 7])
def test_any_other_number_of_rows_is_refused_with_all_numbers(n: int, mixed: Images) -> None:
    with pytest.raises(
        SourceError, match=rf"e\.npy has {n} rows for 6 images, 5 of them readable: give one row for each"
    ):
        numbered(n).of(mixed)


def test_the_rest_of_the_images_stays(mixed: Images) -> None:
    found = numbered(6).of(mixed)
    assert (found.rows, found.fingerprint) == (mixed.rows, mixed.fingerprint)
    assert found.pixels.shape == (3, 2)


def test_rows_are_named_by_their_numbers_from_any_row_on() -> None:
    vectors = numbered(4)
    assert len(vectors) == 4
    assert vectors.paths == ["0", "1", "2", "3"] == [row.path for row in vectors.rows(0, 4)]
    assert vectors.rows(2, 9) == vectors.rows(0, 4)[2:]  # a row is told the same wherever it is asked for
    assert {row.status for row in vectors.rows(0, 4)} == {"ok"}
    assert len({row.sha256 for row in vectors.rows(0, 4)}) == 4


def test_what_predict_may_be_given(tmp_path: Path) -> None:
    file = saved(tmp_path, np.eye(3))
    for given in (f"embeddings:{file}", np.eye(3)):
        inputs = open_inputs(given)
        assert isinstance(inputs, Vectors)
        np.testing.assert_array_equal(inputs.values, np.eye(3))
    assert not isinstance(open_inputs(np.zeros((2, 8, 8), np.uint8)), Vectors)
