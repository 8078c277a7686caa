"""Data sets at the edge of what can be clustered, through `fit`, `fit` again and `predict`.

Each ends in a result or in one clear line. A result holds no NaN, its reliable set is not empty in any cluster that
holds images, its probabilities sum to 1, and the run resumes and predicts. N images, C clusters, D features.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load_file
from torch import Tensor, nn

from spiceclust import pipeline, prediction
from spiceclust.config import make_request
from spiceclust.data.sources import open_source
from spiceclust.data.vectors import open_inputs
from spiceclust.errors import SpiceError
from spiceclust.given import Own
from spiceclust.outputs.contact_sheet import write_contact_sheet
from spiceclust.result import Result

METHODS = ("spice", "spice-paper", "scan")
PRESETS = ("quick", "standard", "paper")
SIDE = 8  # pixels to which images are resized, the least that there is
BRIEF: dict[str, Any] = {
    "backbone": "resnet_small",
    "pretrain": {"epochs": 1},
    "embed": {"cached_views": 1},
    "self_label": {"rounds": 4, "passes": 1},
    "graph_label": {"steps": 8},
    "scan": {"steps": 8},
    "semi": {"steps": 3, "unlabelled_ratio": 2},
    "confident": {"steps": 3},
}
Draws = np.random.Generator


@dataclass(frozen=True)
class Case:
    """A data set and what is asked of it.

    Attributes:
        kind: of the images or of their encoder, a key of `IMAGES`, `VECTORS` or `MODULES`.
        n: images, copies included.
        n_clusters: C.
        method, preset: of the run.
        seed: of the images and the run.
    """

    kind: str
    n: int
    n_clusters: int
    method: str = "spice"
    preset: str = "quick"
    seed: int = 0


# Images (n, H, W[, channels]), by kind.


def _noise(n: int, draws: Draws) -> NDArray[np.uint8]:
    return draws.integers(0, 256, (n, 8, 8), dtype=np.uint8)


def _repeated(n: int, draws: Draws) -> NDArray[np.uint8]:
    """One image, and few others among its copies."""
    images = np.repeat(_noise(1, draws), n, axis=0)
    others = draws.integers(0, n // 2 + 1)
    images[draws.permutation(n)[:others]] = _noise(int(others), draws)
    return images


def _near_identical(n: int, draws: Draws) -> NDArray[np.uint8]:
    """One image, with one pixel that differs by one grey level or a few."""
    images = np.repeat(_noise(1, draws), n, axis=0)
    at = draws.integers(0, 8, (2, n))
    images[np.arange(n), at[0], at[1]] ^= draws.integers(1, 4, n, dtype=np.uint8)
    return images


def _constant(n: int, draws: Draws) -> NDArray[np.uint8]:
    return np.broadcast_to(draws.integers(0, 256, (n, 1, 1, 3), dtype=np.uint8), (n, 9, 9, 3)).copy()


def _unbalanced(n: int, draws: Draws) -> NDArray[np.uint8]:
    """All but one or a few black with a grain, the others white."""
    images = draws.integers(0, 16, (n, 8, 8), dtype=np.uint8)
    images[: max(1, n // 100)] += np.uint8(230)
    return images


def _floats(n: int, draws: Draws) -> NDArray[np.float64]:
    """Floats, now and then with a value that is none, or out of range."""
    images = draws.random((n, 8, 8))
    images[draws.integers(n), draws.integers(8), draws.integers(8)] = draws.choice([0.5, np.nan, np.inf, -1, 1e300])
    return images


IMAGES: dict[str, Callable[[int, Draws], NDArray[Any]]] = {
    "noise": _noise,
    "identical": lambda n, draws: np.repeat(_noise(1, draws), n, axis=0),
    "repeated": _repeated,
    "near identical": _near_identical,
    "constant": _constant,
    "two values": lambda n, draws: draws.integers(0, 2, (n, 8, 8), dtype=np.uint8) * np.uint8(255),
    "bool": lambda n, draws: draws.random((n, 3, 3)) < 0.5,
    "one lit": lambda n, draws: np.eye(64, dtype=np.uint8)[np.arange(n) % 64].reshape(n, 8, 8),
    "unbalanced": _unbalanced,
    "1 px": lambda n, draws: draws.integers(0, 256, (n, 1, 1, 3), dtype=np.uint8),
    "1 px wide": lambda n, draws: draws.integers(0, 256, (n, 40, 1), dtype=np.uint8),
    "1 px high": lambda n, draws: draws.integers(0, 256, (n, 1, 40), dtype=np.uint8),
    "long": lambda n, draws: draws.integers(0, 256, (n, 2, 600), dtype=np.uint8),
    "floats": _floats,
    "16 bit": lambda n, draws: draws.integers(0, draws.choice([2, 4096, 65536]), (n, 8, 8), dtype=np.uint16),
    "with alpha": lambda n, draws: draws.integers(0, 2, (n, 8, 8, 4), dtype=np.uint8) * np.uint8(255),
}


def write_files(n: int, draws: Draws, folder: Path) -> Path:
    """Pictures of all sizes and modes, some of 1 px, some copies, some broken."""
    folder.mkdir()
    for i in range(n):
        height, width = draws.choice([1, 2, 7, 40, 300], 2)
        if (fate := draws.random()) < 0.1:
            (folder / f"{i:02}.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
        elif fate < 0.2 and i:
            shutil.copy(folder / f"{i - 1:02}.png", folder / f"{i:02}.png")
        else:
            shape = (height, width, 3) if draws.random() < 0.5 else (height, width)
            Image.fromarray(draws.integers(0, 256, shape, dtype=np.uint8)).save(folder / f"{i:02}.png")
    return folder


# Embeddings (n, D) in the place of an encoder, by kind.


def _with_row(values: NDArray[Any], row: Any, draws: Draws) -> NDArray[Any]:
    values[draws.integers(len(values))] = row
    return values


VECTORS: dict[str, Callable[[int, Draws], NDArray[Any]]] = {
    "vectors": lambda n, draws: draws.normal(size=(n, 6)),
    "vectors of 1": lambda n, draws: draws.normal(size=(n, 1)),
    "vectors, few differ": lambda n, draws: draws.normal(size=(3, 6))[np.arange(n) % draws.integers(1, 4)],
    "vectors, all one": lambda n, draws: np.repeat(draws.normal(size=(1, 6)), n, axis=0),
    "vectors, nearly one": lambda n, draws: (1 + 1e-7 * draws.normal(size=(n, 6))).astype(np.float32),
    "vectors, axes": lambda n, draws: np.eye(8)[np.arange(n) % 8],
    "vectors, opposite": lambda n, draws: np.outer((-1.0) ** np.arange(n), draws.normal(size=5)),
    "vectors, a zero": lambda n, draws: _with_row(draws.normal(size=(n, 6)), 0, draws),
    "vectors, a nan": lambda n, draws: _with_row(draws.normal(size=(n, 6)), np.nan, draws),
    "vectors, huge": lambda n, draws: draws.normal(size=(n, 6)) * 1e300,
    "vectors, tiny": lambda n, draws: (draws.normal(size=(n, 6)) * 1e-38).astype(np.float32),
    "vectors, half": lambda n, draws: draws.normal(size=(n, 6)).astype(np.float16),
}


class Scaled(nn.Module):
    """Pooled pixels times a factor, plus a constant; an image whose first pixel is bright gets another factor."""

    def __init__(self, factor: float, constant: float = 0.0, bright: float | None = None) -> None:
        super().__init__()
        self.factor, self.constant = factor, constant
        self.bright = factor if bright is None else bright

    def forward(self, images: Tensor) -> Tensor:
        pooled = nn.functional.adaptive_avg_pool2d(images, 2).flatten(1)
        factor = torch.where(images[:, :1, 0, 0] > 0.8, self.bright, self.factor)
        return pooled * factor + self.constant


MODULES: dict[str, Callable[[], nn.Module]] = {
    "module": lambda: Scaled(1.0),
    "module, all one": lambda: Scaled(0.0, 1.0),
    "module, zero": lambda: Scaled(0.0),
    "module, some zero": lambda: Scaled(1.0, bright=0.0),
    "module, nan": lambda: Scaled(torch.nan),
    "module, some nan": lambda: Scaled(1.0, bright=torch.nan),
    "module, some inf": lambda: Scaled(1.0, bright=torch.inf),
    "module, huge": lambda: Scaled(3e38),
    "module, tiny": lambda: Scaled(1e-30),
    "module, far off": lambda: Scaled(1e-6, 1.0),
}
KINDS = (*IMAGES, "files", *VECTORS, *MODULES)


def draw(draws: Draws) -> Case:
    """A random case: mostly 4 to 60 images, often with C as near to N / 2 as can be."""
    n = int(draws.integers(4, 61)) if draws.random() < 0.95 else int(draws.integers(1, 151))
    most = max(2, n // 2)
    n_clusters = min(most, int(draws.choice([2, 3, most, max(2, most - 1), most + 1, draws.integers(2, most + 1)])))
    return Case(
        str(draws.choice(KINDS)),
        n,
        n_clusters,
        str(draws.choice(METHODS)),
        str(draws.choice(PRESETS)),
        int(draws.integers(1000)),
    )


@dataclass
class Outcome:
    """What became of a case.

    Attributes:
        error: the clear line in which it ended; empty for a result.
        flaws: what is wrong, each beginning with one of `FLAWS`.
        warnings: those of the run.
    """

    error: str
    flaws: list[str]
    warnings: list[str] = field(default_factory=list)


FLAWS = ("other exceptions", "with NaN", "empty reliable sets", "other flaws")


def outcome(case: Case, folder: Path) -> Outcome:
    """Runs a case in a new `folder`; warnings of Python count as exceptions."""
    found = Outcome("", [])
    folder.mkdir(parents=True)
    try:
        with warnings.catch_warnings(action="error"):
            _pass(case, folder, found)
    except SpiceError as error:
        found.error = str(error)
        if "\n" in found.error:
            found.flaws.append(f"other flaws: an error of several lines: {found.error!r}")
    except Exception:
        found.flaws.append(f"other exceptions: {traceback.format_exc()}")
    return found


def _pass(case: Case, folder: Path, found: Outcome) -> None:
    draws = np.random.default_rng(case.seed)
    encoder, own, inputs = "moco", Own(), None
    if case.kind == "files":
        images: Any = str(write_files(case.n, draws, folder / "files"))
    else:
        images = IMAGES.get(case.kind, _noise)(case.n, draws)
    if case.kind in VECTORS:
        np.save(folder / "vectors.npy", VECTORS[case.kind](case.n, draws))
        encoder = f"embeddings:{folder / 'vectors.npy'}"
        inputs = encoder
    elif case.kind in MODULES:
        own = Own(MODULES[case.kind]())
        encoder = "module:Scaled"
    overrides = {name: part for name, part in BRIEF.items() if name != "backbone" or encoder == "moco"}
    request = make_request(
        n_clusters=case.n_clusters,
        seed=case.seed,
        method=case.method,
        preset=case.preset,
        encoder=encoder,
        image_size=None if case.kind in VECTORS else SIDE,
        overrides=overrides,
    )
    source, run = open_source(images), folder / "run"

    def fit() -> Result:
        return pipeline.fit(source, request, run, device="cpu", own=own)

    result = fit()
    found.warnings = result.run["warnings"]
    _check(result, run, found)
    write_contact_sheet(folder / "contact_sheet.png", result, source.picture)
    written = (run / "clusters.csv").read_bytes()
    again = fit()
    if (run / "clusters.csv").read_bytes() != written or again.run["warnings"] != found.warnings:
        found.flaws.append("other flaws: resumed, it says something else")
    if not np.array_equal(Result.load(run).labels, result.labels):
        found.flaws.append("other flaws: loaded, it says something else")
    predicted = prediction.predict(run, open_inputs(inputs or images), device="cpu", own=own.encoder)
    _check_numbers(predicted, found)
    if not np.array_equal(predicted.labels, result.labels):
        found.flaws.append("other flaws: predict gives the images fitted other clusters")
    if inputs is None:
        try:
            other = prediction.predict(run, open_source(_noise(5, draws)), device="cpu", own=own.encoder)
            _check_numbers(other, found)
        except SpiceError:
            pass


def _check(result: Result, run: Path, found: Outcome) -> None:
    _check_numbers(result, found)
    there = result.labels >= 0
    held, marked = np.unique(result.labels[there]), np.unique(result.labels[result.reliable])
    if not np.array_equal(held, marked):
        found.flaws.append(f"empty reliable sets: of clusters {sorted({*held.tolist()} - {*marked.tolist()})}")
    for file in run.rglob("*.safetensors"):
        bad = [name for name, value in load_file(file).items() if not np.isfinite(value).all()]
        if bad:
            found.flaws.append(f"with NaN: {file.relative_to(run)}: {bad}")
    for file in run.rglob("*.json"):
        json.loads(file.read_text(), parse_constant=lambda name, file=file: found.flaws.append(f"with NaN: {file}"))
    selected = json.loads((run / "4-select" / "facts.json").read_text())
    for name, facts in selected.items():
        if not sum(facts["per_cluster"]):
            found.flaws.append(f"empty reliable sets: {name} in 4-select")


def _check_numbers(result: Result, found: Outcome) -> None:
    there = result.labels >= 0
    parts = {name: getattr(result, name) for name in ("probabilities", "typicality", "confidence")}
    found.flaws += [f"with NaN: {name}" for name, values in parts.items() if not np.isfinite(values).all()]
    if there.any() and not np.allclose(result.probabilities[there].sum(axis=1), 1, atol=1e-5):
        found.flaws.append("other flaws: probabilities do not sum to 1")
    if result.labels.max(initial=0) >= result.n_clusters or result.labels.min(initial=0) < -1:
        found.flaws.append("other flaws: cluster numbers out of range")
    if np.abs(result.typicality).max(initial=0) > 1 + 1e-5:
        found.flaws.append("other flaws: typicality out of range")


def run(count: int, seed: int, folder: Path) -> dict[str, int | float]:
    """Runs `count` random data sets; flaws are told on stderr with the case that has them.

    Args:
        count: data sets.
        seed: of all draws.
        folder: for the runs; each is removed when it is over.

    Returns:
        Counts: `results`, `clear errors`, each of `FLAWS`, and `seconds`.
    """
    draws, start = np.random.default_rng(seed), time.perf_counter()
    counts = Counter[str]()
    for number in range(count):
        case, place = draw(draws), folder / f"{number:04}"
        found = outcome(case, place)
        shutil.rmtree(place)
        counts["clear errors" if found.error else "results"] += 1
        for flaw in found.flaws:
            counts[flaw.partition(":")[0]] += 1
            print(f"{case}: {flaw}", file=sys.stderr, flush=True)
    return {
        **{name: counts[name] for name in ("results", "clear errors", *FLAWS)},
        "seconds": round(time.perf_counter() - start, 1),
    }
