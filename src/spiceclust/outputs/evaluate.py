"""Scores a finished run against true labels: the only command that reads them.

n images scored.
"""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spiceclust.data.benchmarks import BENCHMARKS
from spiceclust.errors import RunFolderError, SourceError
from spiceclust.functional.metrics import Scores, Trust, rightly_clustered, score_clusters, score_trust
from spiceclust.locks import locked
from spiceclust.outputs.benchmark_labels import LABELS, benchmark_labels
from spiceclust.progress import Silent
from spiceclust.result import Result, write_metrics


def evaluate(result: Result, truth: Mapping[str, str]) -> tuple[Scores, Trust]:
    """Scores every clustered image that has a true label: the clusters, and what the run says of them.

    Args:
        result: a finished run.
        truth: from the paths of `result.rows` to class names; images without one are left out.

    Raises:
        SourceError: no clustered image has a label.
    """
    scored = [i for i, row in enumerate(result.rows) if result.labels[i] >= 0 and row.path in truth]
    if not scored:
        example = next(row.path for row in result.rows if row.status == "ok")
        raise SourceError(
            f"none of the {len(truth)} labels belongs to one of the {int((result.labels >= 0).sum())} clustered "
            f"images: paths must be as in clusters.csv, such as {example!r}"
        )
    classes = np.array([truth[result.rows[i].path] for i in scored])
    clusters = result.labels[scored]
    scores = score_clusters(clusters, classes)
    right = rightly_clustered(clusters, classes, scores.match)
    return scores, score_trust(right, result.confidence[scored], result.reliable[scored])


def write_scores(folder: Path, result: Result, scores: Scores, trust: Trust) -> dict[str, Any]:
    """Adds the fields of both to metrics.json; returns what was added.

    Raises:
        RunFolderError: it cannot be written, another process is writing there, or `result` is not in the folder any
            more: a fit has written another one since it was loaded.
    """
    by_cluster = {
        field: {str(cluster): found for cluster, found in getattr(scores, field).items()}
        for field in ("match", "confusion")
    }
    added = {**scores._asdict(), **trust._asdict(), **by_cluster}
    with locked(folder, Silent()):
        there = Result.load(folder)
        if not _says_the_same(there, result):
            raise RunFolderError(f"{folder} was written anew after it was loaded: give the same command again")
        write_metrics(folder, {**there.metrics, **added})
    return added


def _says_the_same(one: Result, other: Result) -> bool:
    """Whether two results would be given the same scores."""
    return [row.path for row in one.rows] == [row.path for row in other.rows] and all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in ("labels", "probabilities", "reliable")
    )


def read_truth(labels: str, result: Result) -> dict[str, str]:
    """True labels by the paths of a run.

    Args:
        labels: a .csv with columns path and label (or class), where a path may be as in clusters.csv, or begin with the
            source folder's name or its full path; a .npz with `labels` in the order of the array; the word `folders`
            (the parent folder of an image is its label); the word `digits`, for the built-in images; or the `NAME:ROOT`
            of a benchmark, as it was given to `fit`.
        result: the run.

    Raises:
        SourceError: the file cannot be read, has no such columns, or cannot belong to the run: labels by row want a run
            of an array with as many images, and `folders` a run of files.
    """
    paths = [row.path for row in result.rows]
    if labels == "folders":
        if _of_array(paths):
            raise SourceError("--labels folders: this run clustered an array, whose images lie in no folders")
        top = PurePosixPath(result.run.get("source_root", "")).name
        return {path: PurePosixPath(path).parent.name or top for path in paths}
    if labels == "digits":
        return _by_row(paths, digits_labels().tolist(), labels)
    name, colon, root = labels.partition(":")
    if colon and name in BENCHMARKS:
        classes = benchmark_labels(name, root, paths)
        return _by_row(paths, classes, labels) if name in LABELS else dict(zip(paths, classes, strict=True))
    file = Path(labels)
    if not file.is_file():
        raise SourceError(
            f"--labels {labels}: no such file; give a .csv, a .npz, one of the words folders, digits, or NAME:ROOT"
        )
    if file.suffix.lower() == ".npz":
        try:
            with np.load(file, allow_pickle=False) as archive:
                names, values = list(archive), archive["labels"].tolist() if "labels" in archive else None
        except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise SourceError(f"{file} cannot be read as arrays ({error})") from None
        if values is None:
            raise SourceError(f"{file} has no array `labels`: it has {', '.join(names) or 'nothing'}")
        return _by_row(paths, values, labels)
    return _from_csv(file, paths, result.run.get("source_root", ""))


def digits_labels() -> NDArray[np.int64]:
    """(1797,) int64: what the built-in digits are. Here, above every stage, so that none can reach them."""
    from sklearn.datasets import load_digits

    return np.asarray(load_digits().target, dtype=np.int64)


def _of_array(paths: list[str]) -> bool:
    return paths == [str(i) for i in range(len(paths))]


def _by_row(paths: list[str], labels: list[Any], name: str) -> dict[str, str]:
    if not _of_array(paths):
        raise SourceError(
            f"--labels {name} counts rows of an array, but this run clustered files: give a .csv or folders"
        )
    if len(labels) != len(paths):
        raise SourceError(f"{name} has {len(labels)} labels and the run {len(paths)} images: they should be equal")
    return dict(zip(paths, map(str, labels), strict=True))


def _from_csv(file: Path, paths: list[str], source: str) -> dict[str, str]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as handle:
            reader = csv.DictReader(handle)
            fields = reader.fieldnames or []
            column = next((name for name in ("label", "class") if name in fields), None)
            if "path" not in fields or column is None:
                raise SourceError(f"{file} has the columns {', '.join(fields) or 'none'}: it needs path and label")
            given = {str(row["path"]): row[column] for row in reader if row[column]}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"{file} is not a readable .csv ({error})") from None
    folder = PurePosixPath(source)
    truth = {}
    for path in paths:
        for name in (path, f"{folder.name}/{path}", str(folder / path)):
            if name in given:
                truth[path] = given[name]
                break
    return truth
