import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from spiceclust.errors import NewerFormatError, RunFolderError
from spiceclust.files import read_sealed, write_sealed
from spiceclust.training import checkpoint
from spiceclust.training.checkpoint import (
    Artefact,
    Finished,
    bundle,
    load_tensors,
    part,
    run_stage,
    save_tensors,
    unbundle,
)

CPU = torch.device("cpu")
FILES = ["tensors.safetensors", "facts.json", "done.json"]
ARTEFACT = Artefact(
    {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor([True, False])}, {"kept": 3, "loss": [0.1, 2.5]}
)


class Stage:
    """A stage that counts how often it is computed."""

    def __init__(self, artefact: Artefact = ARTEFACT) -> None:
        self.artefact, self.calls = artefact, 0

    def __call__(self) -> Artefact:
        self.calls += 1
        return self.artefact


def go(folder: Path, key: str = "key", stage: Callable[[], Artefact] | None = None) -> Finished:
    return run_stage(folder, key, CPU, stage or Stage())


def never() -> Artefact:
    raise AssertionError("computed again")


def same(one: Artefact, other: Artefact) -> bool:
    return (
        one.facts == other.facts
        and one.tensors.keys() == other.tensors.keys()
        and all(torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items())
    )


def test_a_stage_is_computed_once_and_then_loaded(tmp_path: Path) -> None:
    folder, stage = tmp_path / "run" / "1-pretrain", Stage()
    first = go(folder, stage=stage)
    second = go(folder, stage=stage)
    assert stage.calls == 1
    assert (first.resumed, second.resumed) == (False, True)
    assert first.artefact is ARTEFACT
    assert same(second.artefact, ARTEFACT)
    assert second.seconds == pytest.approx(first.seconds, abs=0.001)
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)


def test_the_digest_tells_of_the_tensors_alone(tmp_path: Path) -> None:
    first = go(tmp_path / "a")
    assert go(tmp_path / "a", stage=never).digest == first.digest
    assert first.digest == hashlib.sha256((tmp_path / "a" / "tensors.safetensors").read_bytes()).hexdigest()
    assert go(tmp_path / "b", "another key").digest == first.digest
    assert go(tmp_path / "c", stage=Stage(Artefact(ARTEFACT.tensors))).digest == first.digest
    changed = Artefact({**ARTEFACT.tensors, "a": ARTEFACT.tensors["a"] + 1}, ARTEFACT.facts)
    assert go(tmp_path / "d", stage=Stage(changed)).digest != first.digest


def test_done_says_what_was_made(tmp_path: Path) -> None:
    go(tmp_path / "s")
    done = json.loads((tmp_path / "s" / "done.json").read_text())
    assert done["key"] == "key"
    assert done["torch"] == torch.__version__
    assert done["seconds"] >= 0
    assert set(done["sha256"]) == {"tensors.safetensors", "facts.json"}


def test_another_key_is_computed_and_replaces_the_folder(tmp_path: Path) -> None:
    folder, other = tmp_path / "s", Artefact({"c": torch.zeros(1)}, {})
    go(folder)
    (folder / "left over").touch()
    assert not go(folder, "other", Stage(other)).resumed
    assert same(go(folder, "other", never).artefact, other)
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    again = Stage()
    go(folder, "key", again)
    assert again.calls == 1


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_made_again(tmp_path: Path, name: str) -> None:
    folder, stage = tmp_path / "s", Stage()
    go(folder)
    (folder / name).unlink()
    assert not go(folder, stage=stage).resumed
    assert stage.calls == 1
    assert go(folder, stage=never).resumed


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_short_anywhere_is_made_again(tmp_path: Path, name: str) -> None:
    folder, stage = tmp_path / "s", Stage()
    go(folder)
    whole = (folder / name).read_bytes()
    lengths = [*range(0, len(whole) - 2, max(1, len(whole) // 20)), len(whole) - 2]
    for length in lengths:  # the last byte of a JSON file is a newline, which changes nothing
        (folder / name).write_bytes(whole[:length])
        assert not go(folder, stage=stage).resumed
    assert stage.calls == len(lengths)


@pytest.mark.parametrize("name", ["tensors.safetensors", "facts.json"])
def test_one_flipped_bit_is_noticed(tmp_path: Path, name: str) -> None:
    folder, numbers = tmp_path / "s", random.Random(0)
    go(folder)
    whole = (folder / name).read_bytes()
    for place in range(len(whole)):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << numbers.randrange(8)
        (folder / name).write_bytes(flipped)
        assert checkpoint._load(folder, "key", CPU) is None


def test_a_flipped_bit_in_done_never_stops_a_run_nor_lets_wrong_tensors_in(tmp_path: Path) -> None:
    folder, numbers, kept = tmp_path / "s", random.Random(0), 0
    go(folder)
    whole = (folder / "done.json").read_bytes()
    for place in range(len(whole)):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << numbers.randrange(8)
        (folder / "done.json").write_bytes(flipped)
        loaded = checkpoint._load(folder, "key", CPU)
        if loaded is not None:
            kept += 1
            assert same(loaded.artefact, ARTEFACT)
    assert kept == 0


@pytest.mark.parametrize("content", ["", "[]", "null", "3", "{}", '{"format": 1, "key": "key"}', "\x00", "{" * 50])
def test_a_done_file_that_says_nothing_is_no_obstacle(tmp_path: Path, content: str) -> None:
    folder = tmp_path / "s"
    go(folder)
    (folder / "done.json").write_text(content)
    assert not go(folder).resumed
    assert go(folder, stage=never).resumed


@pytest.mark.parametrize("field", ["format", "key", "seconds", "sha256"])
@pytest.mark.parametrize("value", [None, "x", [], {"tensors.safetensors": 3}])
def test_a_done_file_with_a_wrong_value_is_no_obstacle(tmp_path: Path, field: str, value: Any) -> None:
    folder, stage = tmp_path / "s", Stage()
    go(folder)
    done = json.loads((folder / "done.json").read_text())
    (folder / "done.json").write_text(json.dumps({**done, field: value}))
    go(folder, stage=stage)
    assert stage.calls == 1


@pytest.mark.parametrize("key", ["key", "other"])
def test_a_stage_of_a_newer_format_is_refused_and_stays(key: str, tmp_path: Path) -> None:
    folder = tmp_path / "s"
    go(folder)
    write_sealed(folder / "done.json", read_sealed(folder / "done.json", checkpoint.FORMAT), checkpoint.FORMAT + 1)
    before = {name: (folder / name).read_bytes() for name in FILES}
    with pytest.raises(NewerFormatError, match=r"done\.json has format 3, this version reads 2: update spiceclust$"):
        go(folder, key, never)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def crash() -> Artefact:
    raise KeyboardInterrupt


def test_a_stage_that_crashes_leaves_nothing_done(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    with pytest.raises(KeyboardInterrupt):
        go(folder, stage=crash)
    assert not (folder / "done.json").exists()
    assert not go(folder).resumed


def test_a_stage_that_crashes_leaves_what_was_there_before(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    go(folder)
    with pytest.raises(KeyboardInterrupt):
        go(folder, "other", crash)
    assert go(folder, "key", never).resumed


@pytest.mark.parametrize("broken", ["save_tensors", "write_json", "write_sealed"])
def test_a_crash_while_saving_leaves_what_was_there_and_nothing_else_that_counts_as_done(
    tmp_path: Path, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "s"
    go(folder, "older")

    def failing(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, broken, failing)
        with pytest.raises(RunFolderError, match=r"s cannot be written \(No space left on device\): ") as caught:
            go(folder)
    assert "\n" not in str(caught.value)
    assert checkpoint._load(folder, "key", CPU) is None
    assert checkpoint._load(folder, "older", CPU) is not None
    assert not go(folder).resumed
    assert go(folder, stage=never).resumed
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_done_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    for name in ("save_tensors", "write_json", "write_sealed"):
        write = getattr(checkpoint, name)

        def recorded(path: Path, *content: Any, write: Callable[..., None] = write) -> None:
            write(path, *content)
            written.append(path.name)

        monkeypatch.setattr(checkpoint, name, recorded)
    go(tmp_path / "s")
    assert sorted(written) == sorted(FILES)
    assert written[-1] == "done.json"


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(3.5),
        torch.zeros(0, 4),
        torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).half(),
        torch.arange(5, dtype=torch.int16),
        torch.arange(5, dtype=torch.uint8),
        torch.tensor([True, False]),
        torch.arange(12.0).view(3, 4).T,
        torch.arange(48.0).view(2, 3, 2, 4).to(memory_format=torch.channels_last),
        torch.tensor([float("nan"), float("inf"), -0.0]),
        torch.arange(10.0)[3:7],
        torch.ones(3, requires_grad=True),
    ],
    ids=lambda tensor: f"{tensor.dtype}-{tuple(tensor.shape)}",
)
def test_tensors_survive_bit_for_bit(tmp_path: Path, tensor: torch.Tensor) -> None:
    save_tensors(tmp_path / "t.safetensors", {"t": tensor})
    loaded = load_tensors(tmp_path / "t.safetensors", CPU)["t"]
    assert (loaded.dtype, loaded.shape) == (tensor.dtype, tensor.shape)
    assert torch.equal(loaded.nan_to_num(7), tensor.detach().nan_to_num(7))
    assert torch.equal(loaded.signbit(), tensor.detach().signbit())


def test_facts_survive_exactly(tmp_path: Path) -> None:
    facts = {"shares": [0.1, 1 / 3, 1e-300], "name": "Größe", "none": None, "deep": {"er": [True]}}
    go(tmp_path / "s", stage=Stage(Artefact({"a": torch.zeros(1)}, facts)))
    assert go(tmp_path / "s", stage=never).artefact.facts == facts


def test_missing_and_damaged_tensors_are_errors_of_one_line(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    with pytest.raises(RunFolderError, match=r"t\.safetensors is missing: give the same") as missing:
        load_tensors(path, CPU)
    path.write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00 not a header")
    with pytest.raises(RunFolderError, match=r"t\.safetensors is damaged") as damaged:
        load_tensors(path, CPU)
    for error in (missing, damaged):
        assert "\n" not in str(error.value)


def test_a_bundle_comes_apart_again_also_from_disk(tmp_path: Path) -> None:
    other = Artefact({"head.weight": torch.ones(2), "a": torch.zeros(1)}, {"kept": 0})
    parts = {"second": other, "first": ARTEFACT}  # in this order, which is not that of the alphabet
    made = bundle(parts)
    assert set(made.tensors) == {"second.head.weight", "second.a", "first.a", "first.b"}
    for bundled in (made, go(tmp_path / "stage", stage=lambda: made), go(tmp_path / "stage")):
        again = unbundle(bundled if isinstance(bundled, Artefact) else bundled.artefact)
        assert list(again) == ["second", "first"]
        for name, artefact in parts.items():
            assert again[name].facts == artefact.facts
            assert again[name].tensors.keys() == artefact.tensors.keys()
            assert all(torch.equal(again[name].tensors[key], tensor) for key, tensor in artefact.tensors.items())


def test_a_part_has_the_names_without_the_prefix() -> None:
    tensors = {"head.0.weight": torch.ones(1), "header": torch.ones(2)}
    assert part(tensors, "head.") == {"0.weight": tensors["head.0.weight"]}
