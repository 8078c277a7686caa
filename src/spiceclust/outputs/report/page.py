"""The report: a finished run as one HTML file that opens from disk and asks the network for nothing.

Everything that comes from a run is text in one block of JSON; the page builds itself from it, and sets text alone.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from functools import cache
from html import escape
from importlib.resources import files
from itertools import zip_longest
from pathlib import Path
from string import Template
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from spiceclust.data.sources import Source
from spiceclust.data.wording import printable
from spiceclust.files import write_text
from spiceclust.locks import locked
from spiceclust.outputs.report.atlas import COLUMNS, PER_ATLAS, Tiles, draw_tiles
from spiceclust.outputs.report.cards import Card, cards_of, runners_up
from spiceclust.outputs.report.heat import Heat, heat_content
from spiceclust.outputs.report.story import choices, curves, heads, scores, truth
from spiceclust.progress import Progress, Silent
from spiceclust.result import Result

SCRIPTS: Final = (
    "tiles.js",
    "heat.js",
    "charts.js",
    "paint.js",
    "map.js",
    "selection.js",
    "truth.js",
    "page.js",
)  # in the order in which they build on each other
STEPS: Final = 65_535  # places along the longer side of the map
PAGE_BYTES: Final = 15_000_000  # of the whole file, unless the names alone fill it
MOST_BYTES, LEAST_BYTES = 9_500_000, 2_500_000  # of the pictures, which base64 makes a third larger
SLACK: Final = 10_000  # bytes around the pictures
MOST_FILES, MOST_REASONS = 1000, 20  # that are shown of those not read


def write_report(
    folder: Path,
    result: Result,
    source: Source | None,
    *,
    missing: str = "",
    heat: Heat | None = None,
    progress: Progress | None = None,
) -> Path:
    """Writes `report.html` into the folder of a finished run, atomically, and returns its path.

    Args:
        folder: the run; the losses of its stages are read from it.
        result: the run.
        source: its images; those that it does not hold as they were are shown as empty tiles. None where there is none.
        missing: why there is none, for the page.
        heat: what made some images belong to their clusters; None where the encoder cannot tell.
        progress: told of each picture that is read.

    Raises:
        RunFolderError: the file cannot be written, or another process is writing there.
    """
    path, told = folder / "report.html", progress or Silent()
    with locked(folder, told):
        write_text(path, _report(folder, result, source, missing, heat, told))
    return path


def _report(
    folder: Path, result: Result, source: Source | None, missing: str, heat: Heat | None, progress: Progress
) -> str:
    cards = cards_of(result)
    name = printable(folder.resolve().name)
    content = {
        "name": name,
        "source": result.run.get("source", ""),
        "missing": missing,
        "counts": _counts(result),
        "warnings": result.run.get("warnings", []),
        "choices": choices(result),
        "scores": scores(result),
        "heads": heads(result),
        "clusters": _clusters(result, cards),
        "heat": heat_content(result, heat),
        "points": _points(result),
        "placed": result.run.get("positions", "PCA"),
        "curves": curves(folder),
        "quarantined": _quarantined(result),
        "truth": truth(result),
    }
    tiles = Tiles([], {}, set())
    if source is not None:
        left = PAGE_BYTES - SLACK - len(page(name, content | _pictures(result, tiles)).encode())
        budget = max(LEAST_BYTES, min(MOST_BYTES, left * 3 // 4))
        tiles = draw_tiles(source, result.rows, *_order(result, cards), budget, progress)
    return page(name, content | _pictures(result, tiles))


def page(title: str, content: dict[str, Any]) -> str:
    """The whole HTML file.

    Args:
        title: for the window.
        content: JSON values, which the scripts know by their names.
    """
    style, script = _asset("page.css"), "\n".join(_asset(name) for name in SCRIPTS)
    policy = (
        f"default-src 'none'; img-src data:; style-src {_digest(style)}; script-src {_digest(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    return Template(_asset("page.html")).substitute(
        policy=escape(policy, quote=True),
        title=escape(title),
        style=style,
        script=script,
        content=json_for_html(content),
    )


def json_for_html(content: Any) -> str:
    """JSON that can stand in a script element: nothing in it ends the element or opens a comment."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _order(result: Result, cards: list[Card]) -> tuple[list[int], list[int]]:
    """The rows that cards show, those that every card needs most first, and all others in a fixed random order."""
    kinds = [[getattr(card, kind) for card in cards] for kind in ("typical", "doubtful", "between")]
    by_rank = [row for lists in kinds for rank in zip_longest(*lists) for row in rank if row is not None]
    first = list(dict.fromkeys(by_rank))
    ok = np.array([row.status == "ok" for row in result.rows], dtype=bool)
    ok[first] = False
    return first, np.random.default_rng(0).permutation(np.flatnonzero(ok)).tolist()


def _counts(result: Result) -> dict[str, int]:
    statuses = [row.status for row in result.rows]
    clustered = result.labels >= 0
    return {
        "images": int(clustered.sum()),
        "clusters": result.n_clusters,
        "empty": result.n_clusters - len(np.unique(result.labels[clustered])),
        "reliable": int(result.reliable.sum()),
        "duplicates": statuses.count("duplicate"),
        "quarantined": statuses.count("quarantined"),
    }


def _clusters(result: Result, cards: list[Card]) -> list[dict[str, Any]]:
    """The cards, with numbers of points in the place of rows."""
    point = (np.cumsum(result.labels >= 0) - 1).tolist()
    kinds = ("typical", "doubtful", "between")
    return [card._asdict() | {kind: [point[row] for row in getattr(card, kind)] for kind in kinds} for card in cards]


def _quarantined(result: Result) -> dict[str, Any]:
    """The commonest reasons with their counts, how many others there are, and the first files."""
    found = [(row.path, row.reason) for row in result.rows if row.status == "quarantined"]
    reasons = Counter(reason for _, reason in found)
    return {
        "reasons": reasons.most_common(MOST_REASONS),
        "others": max(0, len(reasons) - MOST_REASONS),
        "files": found[:MOST_FILES],
    }


def _pictures(result: Result, tiles: Tiles) -> dict[str, Any]:
    """The atlases, where each clustered image is in them, and how many are in none, and why."""
    digests = [row.sha256 for row, label in zip(result.rows, result.labels.tolist(), strict=True) if label >= 0]
    places = np.array([tiles.places.get(digest, -1) for digest in digests], dtype=np.int64)
    gone = sum(digest in tiles.gone for digest in digests)
    return {
        "atlases": {
            "columns": COLUMNS,
            "perAtlas": PER_ATLAS,
            "sheets": [{"side": sheet.side, "image": _base64(sheet.content)} for sheet in tiles.atlases],
        },
        "tiles": _packed(places, "<i4"),
        "without": {"gone": gone, "room": int((places < 0).sum()) - gone},
    }


def _points(result: Result) -> dict[str, Any]:
    """Every clustered image, in columns: text as it is, numbers as base64 of little-endian integers."""
    rows = np.flatnonzero(result.labels >= 0)
    return {
        "paths": [result.rows[row].path for row in rows.tolist()],
        "labels": _packed(result.labels[rows], "<u2"),
        "runnersUp": _packed(runners_up(result)[rows], "<u2"),
        "confidence": _packed(np.rint(result.confidence[rows] * STEPS), "<u2"),
        "reliable": _packed(result.reliable[rows], "<u1"),
        "positions": None if result.positions is None else _packed(_fitted(result.positions[rows]), "<u2"),
    }


def _fitted(positions: NDArray[np.float32]) -> NDArray[np.float64]:
    """(n, 2) in [0, `STEPS`]: centred, both axes on one scale."""
    low, high = positions.min(axis=0), positions.max(axis=0)
    span = max(float((high - low).max()), 1e-12)
    return np.asarray(np.rint(((positions - (low + high) / 2) / span + 0.5) * STEPS), dtype=np.float64)


def _packed(values: NDArray[Any], kind: str) -> str:
    return _base64(np.ascontiguousarray(values.astype(kind)).tobytes())


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _digest(text: str) -> str:
    return f"'sha256-{_base64(hashlib.sha256(text.encode()).digest())}'"


@cache
def _asset(name: str) -> str:
    return files("spiceclust.outputs.report").joinpath(name).read_text("utf-8")
