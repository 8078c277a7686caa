"""The Result: what a finished run found. It loads without torch, and reports and exports are functions of it."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from spiceclust.errors import RunFolderError
from spiceclust.files import DAMAGED, read_sealed, sha256_file, sync_folder, write_bytes, write_sealed, write_text
from spiceclust.manifest import Row, read_manifest, write_manifest
from spiceclust.run_folder import FORMAT, RECORD, read_record, write_record

ARRAYS: Final = "result.safetensors"
METRICS: Final = "metrics.json"
FOR_PEOPLE: Final = ("clusters.csv", "quarantine.csv")  # they may be gone: nothing reads them
LISTED: Final = ("images.parquet", ARRAYS, *FOR_PEOPLE)  # in run.json, with their checksums


@dataclass(frozen=True)
class Result:
    """A finished clustering. n is the number of manifest rows, C the number of clusters.

    Attributes:
        rows: the manifest, length n, in the order of the source.
        labels: (n,) int64 in [0, C), or -1 for a quarantined row.
        probabilities: (n, C) float32, each row sums to 1; zeros for a quarantined row.
        reliable: (n,) bool, True where the neighbours agree with the label (local consistency).
        typicality: (n,) float32 in [-1, 1], cosine similarity of the embedding to its cluster's mean embedding.
        run: run.json: config, versions, seed, source, device, times, choices and their reasons.
        metrics: metrics.json: label-free scores per stage; after `evaluate` also acc, nmi, ari, ece, ...
        positions: (n, 2) float32, the embeddings in the plane, for maps; zeros for a quarantined row. None for
            predictions, and for runs that were made before there were any.
        names: of clusters, where a person gave one (`corrections.corrected`).
        merged: clusters that a person merged into others: they are empty.
    """

    rows: list[Row]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    reliable: NDArray[np.bool_]
    typicality: NDArray[np.float32]
    run: dict[str, Any]
    metrics: dict[str, Any]
    positions: NDArray[np.float32] | None = None
    names: Mapping[int, str] = field(default_factory=dict)
    merged: frozenset[int] = frozenset()

    @property
    def n_clusters(self) -> int:
        """C, the number of clusters asked for."""
        return int(self.probabilities.shape[1])

    @property
    def cluster_names(self) -> list[str]:
        """Given ones, and `cluster_00`, `cluster_01`, ...: of one length, so that their alphabet is their order."""
        digits = max(2, len(str(self.n_clusters - 1)))
        return [self.names.get(cluster, f"cluster_{cluster:0{digits}}") for cluster in range(self.n_clusters)]

    @property
    def confidence(self) -> NDArray[np.float32]:
        """(n,) float32 in [0, 1], the probability of the assigned cluster; 0 for a quarantined row."""
        return np.asarray(self.probabilities.max(axis=1), dtype=np.float32)

    def save(self, folder: Path) -> None:
        """Writes the manifest, clusters.csv, result.safetensors, metrics.json and, last, run.json, which lists them.

        Raises:
            RunFolderError: no space, no permission, or the device failed.
        """
        from safetensors.numpy import save

        arrays: dict[str, NDArray[Any]] = {
            "labels": self.labels,
            "probabilities": np.ascontiguousarray(self.probabilities),
            "reliable": self.reliable.astype(np.uint8),
            "typicality": self.typicality,
        }
        if self.positions is not None:
            arrays["positions"] = self.positions
        write_manifest(folder, self.rows)
        write_bytes(folder / ARRAYS, save(arrays))
        write_text(folder / "clusters.csv", self.to_csv())
        write_metrics(folder, self.metrics)
        write_record(folder, {**self.run, "sha256": {name: sha256_file(folder / name) for name in LISTED}})
        sync_folder(folder)

    def to_csv(self) -> str:
        """The text of clusters.csv: path,cluster,confidence,reliable, a line for each image that was clustered."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["path", "cluster", "confidence", "reliable"])
        for row, label, confidence, reliable in zip(
            self.rows, self.labels.tolist(), self.confidence.tolist(), self.reliable.tolist(), strict=True
        ):
            if label >= 0:
                writer.writerow([row.path, label, f"{confidence:.6f}", "true" if reliable else "false"])
        return text.getvalue()

    @classmethod
    def load(cls, folder: Path) -> Result:
        """Reads a finished run.

        Raises:
            RunFolderError: `folder` is no run, or is not finished, or a file in it is damaged.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        path = folder / ARRAYS
        if not (folder / RECORD).exists():
            raise RunFolderError(f"{folder} is not a run folder: it has no run.json; make one with `spiceclust fit`")
        record = read_record(folder)
        if record.get("state") == "running" or not path.exists():
            raise RunFolderError(f"{folder} is not finished: give the same `spiceclust fit` command again to resume it")
        listed = record.pop("sha256", {})  # none before there were checksums
        _refuse_changes(folder, listed)
        rows = read_manifest(folder)
        try:
            arrays = load(path.read_bytes())
            result = cls(
                rows=rows,
                labels=arrays["labels"],
                probabilities=arrays["probabilities"],
                reliable=arrays["reliable"].astype(bool),
                typicality=arrays["typicality"],
                run=record,
                metrics=_read_metrics(folder, listed.get(ARRAYS)),
                positions=arrays.get("positions"),
            )
        except (SafetensorError, OSError) as error:
            raise RunFolderError(f"{path} is damaged ({error}): {DAMAGED}") from None
        except KeyError as error:
            raise RunFolderError(f"{path} is damaged (no array {error}): {DAMAGED}") from None
        if len(rows) != len(result.labels):
            raise RunFolderError(
                f"{folder} is damaged (images.parquet has {len(rows)} rows, result.safetensors {len(result.labels)}): "
                f"{DAMAGED}"
            )
        return result


def write_metrics(folder: Path, metrics: dict[str, Any]) -> None:
    """Writes metrics.json, which says by a checksum whose metrics they are: of the arrays that are in `folder`."""
    write_sealed(folder / METRICS, {**metrics, "result": sha256_file(folder / ARRAYS)}, FORMAT)


def _read_metrics(folder: Path, digest: str | None) -> dict[str, Any]:
    metrics = read_sealed(folder / METRICS, FORMAT, lambda _: digest is None)
    if metrics.pop("result", None) != digest:
        raise RunFolderError(f"{folder / METRICS} is of another run: {DAMAGED}")
    return metrics


def _refuse_changes(folder: Path, listed: dict[str, str]) -> None:
    """Raises RunFolderError when a file is not what run.json says that it was."""
    for name, digest in listed.items():
        path = folder / name
        try:
            changed = sha256_file(path) != digest
        except FileNotFoundError:
            if name in FOR_PEOPLE:
                continue
            raise RunFolderError(
                f"{path} is missing: give the same `spiceclust fit` command again, which writes it anew"
            ) from None
        except OSError as error:
            raise RunFolderError(f"{path} is damaged ({error.strerror}): {DAMAGED}") from None
        if changed:
            raise RunFolderError(
                f"{path} is damaged, or was changed: move it away and give the same `spiceclust fit` command again, "
                "which writes it anew"
            )
