"""Files of a run that are damaged, one at a time: none may be taken for whole.

What was damaged is used as the package uses it: a result is loaded, a model too, an unfinished run, table or export is
gone on with. That must end in one clear line, or in what came of it undamaged.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from _faults import child
from _faults.child import BRIEF, FIT, RESULTS, Fault
from spiceclust import pipeline
from spiceclust.config import make_request
from spiceclust.data.sources import open_source
from spiceclust.errors import SpiceError
from spiceclust.outputs.export import export_images
from spiceclust.outputs.table import Table
from spiceclust.result import Result
from spiceclust.shipped import load_model
from spiceclust.staging import new_folder

Draw = np.random.Generator
STAGES = ("1-pretrain", "2-embed", "3-self", "4-select", "5-semi")
COLUMNS = {"path": ["é,1.png", "2.png"], "cluster": [0, 1], "confidence": [0.5, 0.25], "novelty": [0.1, 0.9]}


class Kind(NamedTuple):
    """A kind of artefact.

    Attributes:
        folder: where it lies, whole; what is damaged is a copy.
        files: patterns of what is damaged.
        use: what the package does with the folder; returns what comes of it, to be compared.
        share: of the damages.
    """

    folder: Path
    files: tuple[str, ...]
    use: Callable[[Path], Any]
    share: float


def run(count: int, seed: int, folder: Path) -> dict[str, int | float]:
    """Damages `count` files.

    Args:
        count: how many.
        seed: of which, and how.
        folder: empty; what happens is in it.

    Returns:
        `damaged` files, of these by kind; and how many were `refused` in one line, `made again or unharmed`, loaded
        `silently` although they say something else, or ended in `another error`.
    """
    draw = np.random.default_rng(seed)
    kinds = _make_kinds(folder)
    expected = {name: kind.use(_copy(kind.folder, folder / "used")) for name, kind in kinds.items()}
    names, shares = list(kinds), np.array([kind.share for kind in kinds.values()])
    chosen = draw.choice(len(names), count, p=shares / shares.sum())
    outcomes = dict.fromkeys(("refused", "made again or unharmed", "silently", "another error"), 0)
    damaged = dict.fromkeys(names, 0)
    for number in sorted(chosen.tolist()):
        kind = kinds[names[number]]
        copy = _copy(kind.folder, folder / "used")
        files = sorted({path for pattern in kind.files for path in copy.glob(pattern) if path.is_file()})
        file = files[int(draw.integers(len(files)))]
        how = DAMAGES[int(draw.integers(len(DAMAGES)))]
        file.write_bytes(how(file.read_bytes(), draw, [path.read_bytes() for path in files if path != file]))
        damaged[names[number]] += 1
        try:
            outcome = "made again or unharmed" if kind.use(copy) == expected[names[number]] else "silently"
        except SpiceError as error:
            outcome = "refused" if str(error) and "\n" not in str(error) else "another error"
        except Exception as error:
            outcome = "another error"
            print(repr(error))
        outcomes[outcome] += 1
        if outcome in ("silently", "another error"):
            print(names[number], file.relative_to(copy), how.__name__, outcome, flush=True)
    of_kinds = {f"damaged: {name}": number for name, number in damaged.items()}
    return {"damaged": count, **of_kinds, **outcomes}


def wrong(found: dict[str, int | float]) -> int:
    """Damages that were neither refused nor mended."""
    return int(found["silently"] + found["another error"])


def _make_kinds(folder: Path) -> dict[str, Kind]:
    place = folder / "place"
    child.make_place(place)
    if child.run(FIT, place, every=1):
        raise RuntimeError((place / child.LOG).read_text())
    paths = child.note(place)["paths"]
    whole = place.rename(folder / "whole")
    killed = {}
    for stage in ("1-pretrain", "5-semi"):  # while the last snapshot is written
        killed[stage] = folder / f"killed in {stage}"
        child.make_place(killed[stage])
        last = max(i for i, path in enumerate(paths, 1) if f"snapshots/{stage}/" in path)
        child.run(FIT, killed[stage], every=1, fault=Fault(last))
    source = open_source(whole / "photos")
    result = Result.load(whole / "run")

    def loaded(copy: Path) -> Any:
        found = Result.load(copy / "run")
        arrays = (found.labels, found.probabilities, found.reliable, found.typicality)
        return [array.tobytes() for array in arrays], found.rows, found.run, found.metrics

    def model(copy: Path) -> Any:
        found = load_model(copy / "run", torch.device("cpu"))
        tensors = {**found.classifier.state_dict(), **found.reference._asdict()}
        return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}, found.encoder.design

    def resumed(copy: Path) -> Any:
        request = make_request(n_clusters=3, overrides=BRIEF, image_size=8)
        pipeline.fit(open_source(copy / "photos"), request, copy / "run")
        return [(copy / "run" / name).read_bytes() for name in RESULTS]

    def tabled(copy: Path) -> Any:
        table = Table(copy / "table.csv", "key")
        while len(table.parts) < 5:
            table.append(_part(len(table.parts)))
        table.finish()
        return (copy / "table.csv").read_bytes()

    def exported(copy: Path) -> Any:
        export_images(result, copy / "sorted", "folders", source=source)
        return child.contents(copy / "sorted")

    parts = folder / "parts"
    parts.mkdir()
    table = Table(parts / "table.csv", "key")
    for number in range(4):
        table.append(_part(number))
    half = folder / "half"
    half.mkdir()
    _half_an_export(result, half / "sorted", source)
    everything = ("run/*.json", "run/*.csv", "run/*.parquet", "run/*.safetensors")
    stages = tuple(f"run/{stage}/*" for stage in STAGES)
    return {
        "results": Kind(whole, everything, loaded, 0.35),
        "model": Kind(whole, ("run/model/*",), model, 0.15),
        "stages": Kind(whole, stages, resumed, 0.08),
        "run.json and stages of a run that was killed": Kind(
            killed["5-semi"], ("run/run.json", *stages), resumed, 0.03
        ),
        "snapshots of stage 1": Kind(killed["1-pretrain"], ("run/snapshots/*/*",), resumed, 0.03),
        "snapshots of stage 5": Kind(killed["5-semi"], ("run/snapshots/*/*", "run/snapshots/*/*/*"), resumed, 0.03),
        "parts of a table": Kind(parts, ("table.csv.parts/*",), tabled, 0.2),
        "an unfinished export": Kind(half, (".unfinished-sorted/*", ".unfinished-sorted/*/*"), exported, 0.1),
    }


def _part(number: int) -> dict[str, list[Any]]:
    return {**COLUMNS, "cluster": [number, number + 1]}


class _Cut(BaseException):
    """What ends an export before it is in its place."""


def _half_an_export(result: Result, target: Path, source: Any) -> None:
    """Leaves what a killed export leaves: all images, and not yet renamed."""
    other = target.with_name("other")
    export_images(result, other, "folders", source=source)
    about = json.loads((other / "export.json").read_text())
    try:
        with new_folder(target, about) as growing:
            shutil.copytree(other, growing, dirs_exist_ok=True)
            raise _Cut
    except _Cut:
        shutil.rmtree(other)


def _copy(whole: Path, to: Path) -> Path:
    if to.exists():
        shutil.rmtree(to)
    shutil.copytree(whole, to)
    return to


def _flip(content: bytes, draw: Draw, others: list[bytes]) -> bytes:
    changed = bytearray(content or b"\0")
    changed[int(draw.integers(len(changed)))] ^= 1 << int(draw.integers(8))
    return bytes(changed)


def _truncate(content: bytes, draw: Draw, others: list[bytes]) -> bytes:
    return content[: int(draw.integers(max(1, len(content))))]


def _extend(content: bytes, draw: Draw, others: list[bytes]) -> bytes:
    return content + draw.bytes(int(draw.integers(1, 100)))


def _empty(content: bytes, draw: Draw, others: list[bytes]) -> bytes:
    return b""


def _zeros(content: bytes, draw: Draw, others: list[bytes]) -> bytes:
    start = int(draw.integers(max(1, len(content))))
    return content[:start] + bytes(len(content[start : start + 512])) + content[start + 512 :]


def _swap(content: bytes, draw: Draw, others: list[bytes]) -> bytes:
    return others[int(draw.integers(len(others)))] if others else content[::-1]


DAMAGES = (_flip, _flip, _flip, _truncate, _extend, _empty, _zeros, _swap)
