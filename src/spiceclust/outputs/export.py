"""A run's images and their clusters in the form that another program reads.

n rows of the manifest.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spiceclust.config import choose
from spiceclust.data.files import Files
from spiceclust.data.sources import Source
from spiceclust.errors import ConfigError, RunFolderError, SourceError
from spiceclust.files import sha256_file, sha256_json
from spiceclust.manifest import Row
from spiceclust.outputs.layouts import LAYOUTS, Entry, write_csv
from spiceclust.outputs.originals import LINKS, new_names, put, source_of
from spiceclust.outputs.safe_names import safe_names
from spiceclust.progress import Progress, Silent
from spiceclust.result import Result
from spiceclust.staging import new_folder, refuse_full


class Exported(NamedTuple):
    """What an export wrote.

    Attributes:
        folder: where.
        images: how many.
        left_out: path and reason of every other row of the manifest, as in `left_out.csv`.
    """

    folder: Path
    images: int
    left_out: list[tuple[str, str]]


# Which of the clustered images: (n,) bool.
ONLY: Final[dict[str, Callable[[Result], NDArray[np.bool_]]]] = {
    "all": lambda result: np.ones(len(result.rows), dtype=bool),
    "reliable": lambda result: result.reliable,
}


def export_images(
    result: Result,
    target: Path,
    kind: str,
    *,
    only: str = "all",
    link: str = "copy",
    source: Source | None = None,
    progress: Progress | None = None,
) -> Exported:
    """Writes the clustered images, duplicates among them, into a new folder, in one of the forms of `LAYOUTS`.

    Nothing is overwritten and nothing is written outside of `target`, which is there only when it is whole: the same
    call again goes on where an interrupted one stopped. An image that is not what the run saw, or is gone, is left out.

    Args:
        result: a finished run.
        target: the folder, new or empty.
        kind: a name of `LAYOUTS`.
        only: `all` or `reliable`.
        link: `copy`, `hard` or `symlink`: how the files of a folder or list come there.
        source: where the images are; None opens the folder that the run names.
        progress: told of each image.

    Raises:
        ConfigError: an unknown kind or choice, or links to images that are not in files of their own.
        SourceError: the source cannot be opened, or holds none of the images; or none is chosen.
        RunFolderError: the target is not empty, or cannot be written.
    """
    layout = choose(LAYOUTS, kind, "kind of export")
    chosen = (result.labels >= 0) & choose(ONLY, only, "choice of images")(result)
    choose(LINKS, link, "link")
    refuse_full(target)
    if not chosen.any():
        raise SourceError(f"none of the {len(result.rows)} images is {only}: there is nothing to export")
    left_out = {i: _why_not(result.rows[i], int(result.labels[i])) for i in np.flatnonzero(~chosen).tolist()}
    entries = _entries(result, np.flatnonzero(chosen).tolist())
    about = {
        "kind": kind,
        "only": only,
        "link": link,
        "n_clusters": result.n_clusters,
        "result": sha256_json([result.to_csv(), result.cluster_names, result.run.get("images")]),
        "open_with": layout.hint.format("."),
    }
    if layout.images:
        source = source_of(result) if source is None else source
        if link != "copy" and not isinstance(source, Files):
            raise ConfigError(f"link={link!r} is for images in files of their own, not for {source.description}")
        entries, places = _planned(result, entries, layout.images, source)
    with new_folder(target, about, progress) as folder:
        if layout.images and source is not None:
            bad = _place(folder, entries, places, source, link, progress or Silent())
            left_out.update(bad)
            entries = [entry for entry in entries if entry.number not in bad]
        layout.write(folder, result, entries)
        lines = [(result.rows[i].path, left_out[i]) for i in sorted(left_out)]
        write_csv(folder / "left_out.csv", ("path", "reason"), lines)
    return Exported(target, len(entries), lines)


def _why_not(row: Row, label: int) -> str:
    if row.status == "quarantined":
        return row.reason
    return "not reliable" if label >= 0 else "marked as belonging to no cluster"


def _entries(result: Result, chosen: list[int]) -> list[Entry]:
    confidence = result.confidence.tolist()
    return [
        Entry("", result.rows[i], int(result.labels[i]), round(confidence[i], 6), bool(result.reliable[i]), i)
        for i in chosen
    ]


def _planned(result: Result, entries: list[Entry], images: str, source: Source) -> tuple[list[Entry], list[int | None]]:
    """The entries with their new files, and where each is in the source, None if it is not there."""
    numbers = {path: i for i, path in enumerate(source.paths)}
    rows = [entry.row for entry in entries]
    places = [numbers.get(row.path) for row in rows]
    if not any(place is not None for place in places):
        raise SourceError(
            f"none of the {len(rows)} images is in {source.description}, which should hold {rows[0].path!r}: "
            "give the images that were clustered, with --source"
        )
    clusters = safe_names(result.cluster_names, [""] * result.n_clusters)
    names = new_names(source, rows, places)
    named = [
        entry._replace(file=f"{images.format(clusters[entry.cluster])}/{name}")
        for entry, name in zip(entries, names, strict=True)
    ]
    return named, places


def _place(
    folder: Path, entries: list[Entry], places: list[int | None], source: Source, link: str, progress: Progress
) -> dict[int, str]:
    """Brings the images into the folder; why each that is not there then is not, by its row of the Result."""
    bad = {}
    for home in sorted({Path(entry.file).parent for entry in entries}):
        _make_home(folder, home)
    with progress.task("exporting images", len(entries)) as task:
        for entry, place in zip(entries, places, strict=True):
            reason = _bring(folder / entry.file, entry, place, source, link)
            if reason:
                bad[entry.number] = reason
            task.advance()
    if len(bad) == len(entries):
        raise SourceError(f"none of the {len(entries)} images can be exported: {', '.join(sorted(set(bad.values())))}")
    return bad


def _bring(target: Path, entry: Entry, place: int | None, source: Source, link: str) -> str:
    if target.is_file() and not target.is_symlink() and sha256_file(target) == entry.row.sha256:
        return ""  # put there by the call that was interrupted
    target.unlink(missing_ok=True)
    if place is None:
        return "not in the source any more"
    return put(source, place, entry.row, target, link)


def _make_home(folder: Path, home: Path) -> None:
    """Makes a folder of the export, which may be there from an interrupted call, but must not lead out of it."""
    for part in (*reversed(home.parents[:-1]), home):
        if (folder / part).is_symlink():
            raise RunFolderError(f"{folder / part} is a link, and not of an export: remove {folder}")
        try:
            (folder / part).mkdir(exist_ok=True)
        except OSError as error:
            raise RunFolderError(f"{folder / part} cannot be made ({error.strerror}): free it and go on") from None
