from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import fsspec
import pytest

from spiceclust.bulk.places import Place, Remote, is_url
from spiceclust.data.decode import DecodeError
from spiceclust.data.encoded import LargeError
from spiceclust.errors import ConfigError


@pytest.fixture(params=["disk", "memory://places/out", "disk as file://"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    yield {"disk": str(tmp_path / "out"), "disk as file://": f"file://{tmp_path}/out"}.get(request.param, request.param)
    memory = fsspec.filesystem("memory")
    if memory.exists("/places"):
        memory.rm("/places", recursive=True)


def write(place: Place, name: str, content: bytes) -> None:
    with place.writing(name) as file:
        file.write(content)


def test_what_is_written_is_listed_and_read(url: str, tmp_path: Path) -> None:
    place = Place(url)
    assert place.files() == []
    write(place, "b", b"first")
    write(place, "b", b"second")
    write(place, "sub/a", b"")
    assert [(file.name, file.size) for file in place.files()] == [("b", 6), ("sub/a", 0)]
    with place.open("b") as file:
        assert file.read() == b"second"
    place.fetch("b", tmp_path / "new" / "b")
    assert (tmp_path / "new" / "b").read_bytes() == b"second"
    place.remove("b")
    place.remove("b")
    assert [file.name for file in place.files()] == ["sub/a"]
    with pytest.raises(OSError, match="b"):
        place.open("b")


def test_a_write_that_fails_leaves_what_was_there(url: str) -> None:
    place = Place(url)
    write(place, "a", b"before")
    with suppress(KeyError), place.writing("a") as file:
        file.write(b"half")
        raise KeyError
    assert [(file.name, file.size) for file in place.files()] == [("a", 6)]


def test_images_are_fetched_one_by_one_within_limits() -> None:
    place = Place("memory://places/images")
    write(place, "a.png", b"12345")
    images = Remote(["a.png", "gone.png"], "two", place, ["a.png", "gone.png"])
    assert images.fetch(0) == b"12345"
    with pytest.raises(LargeError, match="5 bytes, limit 4"):
        images.fetch(0, 4)
    with pytest.raises(DecodeError, match="no such file"):
        images.fetch(1)


def test_a_place_that_does_not_answer_says_nothing_of_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(self: Place, name: str) -> None:
        raise OSError("no route")

    monkeypatch.setattr(Place, "open", silent)
    with pytest.raises(OSError, match="no route"):
        Remote(["a"], "one", Place("memory://places"), ["a"]).fetch(0)


def test_urls_are_told_from_paths_and_hide_what_is_secret() -> None:
    assert [is_url(text) for text in ("s3://a/b", "gs://a", "C:/a", "a/b", "embeddings:a.npy")] == [
        True,
        True,
        *[False] * 3,
    ]
    assert Place("memory://me:secret@places/a?key=secret").shown == "memory://places/a"
    with pytest.raises(ConfigError, match="nosuch://a cannot be opened"):
        Place("nosuch://a")
