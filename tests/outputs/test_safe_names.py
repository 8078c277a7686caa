import os
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spiceclust.outputs.safe_names import MAX_BYTES, safe_names

SUFFIXES = st.sampled_from(["", ".jpg", ".JPEG", ".png"])
# What breaks names, often: separators, devices, dots, marks, and letters that become others
NASTY = st.sampled_from(
    [
        *("..", "/", "\\", "\0", "con", "NUL", "a", "A", "é", "e\u0301", "ﬁ", "fi", "\u202e", "-", "~", " ", ".", "ß"),
        *("SS", "\ud800", "日" * 50, "-2", "K", "\u212a", "2"),
    ]
)
STEMS = st.one_of(st.text(), st.lists(NASTY, max_size=6).map("".join))
NAMES = st.lists(st.tuples(STEMS, SUFFIXES), max_size=12)


def made(names: list[tuple[str, str]]) -> list[str]:
    return safe_names([stem for stem, _ in names], [suffix for _, suffix in names])


@given(NAMES)
def test_a_name_is_one_file_in_its_folder_on_every_system(names: list[tuple[str, str]]) -> None:
    for name, (_, suffix) in zip(made(names), names, strict=True):
        assert name.endswith(suffix)
        assert 0 < len(name.removesuffix(suffix).encode("utf-8")) <= MAX_BYTES
        assert os.path.normpath(os.path.join("/top/folder", name)) == f"/top/folder/{name}"
        assert not set(name) & set('<>:"/\\|?*')
        assert not any(unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") for character in name)
        assert unicodedata.is_normalized("NFC", name)
        assert name[0] not in " .-~"
        assert name[-1] not in " ."
        device = name.split(".")[0].strip().upper()
        assert device not in {"CON", "PRN", "AUX", "NUL", "COM1", "COM9", "LPT1", "LPT0", "COM²", "CONIN$"}


@given(NAMES)
def test_no_two_are_the_same_to_a_file_system_that_ignores_case_or_composition(names: list[tuple[str, str]]) -> None:
    stems = [name.removesuffix(suffix) for name, (_, suffix) in zip(made(names), names, strict=True)]
    assert len({unicodedata.normalize("NFD", stem).casefold() for stem in stems}) == len(stems)
    assert len({unicodedata.normalize("NFKC", stem).lower() for stem in stems}) == len(stems)


@given(NAMES)
def test_safe_names_stay_as_they_are(names: list[tuple[str, str]]) -> None:
    once = made(names)
    stems = [name.removesuffix(suffix) for name, (_, suffix) in zip(once, names, strict=True)]
    assert safe_names(stems, [suffix for _, suffix in names]) == once


@given(NAMES)
def test_no_stem_depends_on_a_suffix(names: list[tuple[str, str]]) -> None:
    bare = made([(stem, "") for stem, _ in names])
    assert made(names) == [stem + suffix for stem, (_, suffix) in zip(bare, names, strict=True)]


@given(st.lists(STEMS, max_size=8))
def test_the_names_can_be_written(stems: list[str]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        names = safe_names(stems, [".png"] * len(stems))
        for name in names:
            (Path(folder) / name).write_bytes(b"")
        assert sorted(os.listdir(folder)) == sorted(names)


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("IMG_0001", "IMG_0001.png"),
        ("фото 1", "фото 1.png"),
        ("e\u0301te\u0301", "été.png"),
        ("", "image.png"),
        ("..", "image.png"),
        ("../../etc/passwd", "_.._etc_passwd.png"),
        (".hidden", "hidden.png"),
        ("a\0b\nc", "a_b_c.png"),
        ("CON", "_CON.png"),
        ("com1.backup", "_com1.backup.png"),
        ("console", "console.png"),
        ("-rf", "_-rf.png"),
        ("photo\u202egnp", "photo_gnp.png"),
        ("x. ", "x.png"),
        ("v" * 300, "v" * 120 + ".png"),
        ("日" * 100, "日" * 40 + ".png"),
    ],
)
def test_names_by_hand(stem: str, name: str) -> None:
    assert safe_names([stem], [".png"]) == [name]


def test_names_that_are_alike_are_numbered_in_order() -> None:
    stems = ["a", "A", "a-2", "a", "ﬁ", "fi", "é", "e\u0301"]
    assert safe_names(stems, [".jpg"] * 8) == [
        "a.jpg", "A-2.jpg", "a-2-2.jpg", "a-3.jpg", "ﬁ.jpg", "fi-2.jpg", "é.jpg", "é-2.jpg",
    ]  # fmt: skip
    assert safe_names(["a", "a"], [".jpg", ".png"]) == ["a.jpg", "a-2.png"]


def test_many_of_one_name_are_numbered_quickly() -> None:
    names = safe_names(["IMG"] * 20_000, [".jpg"] * 20_000)
    assert len(set(names)) == 20_000
    assert names[-1] == "IMG-20000.jpg"
