"""Finished runs that were never computed, and the command that serves one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spiceclust.data.sources import Source
from spiceclust.embeddings import RECORDED, write_embeddings
from spiceclust.manifest import Row
from spiceclust.result import Result

ROOT = Path(__file__).parents[2]


def make_run(
    folder: Path, rows: list[Row], n_clusters: int, features: int = 16, seed: int = 0, root: str = ""
) -> Result:
    """Writes a run of some images whose clusters, embeddings and places are drawn; embeddings tell the clusters apart.

    Args:
        folder: to write into.
        rows: the manifest.
        n_clusters: C.
        features: D.
        seed: of what is drawn.
        root: the source that the run names.
    """
    rng, n = np.random.default_rng(seed), len(rows)
    first: dict[str, int] = {}
    original = np.array([first.setdefault(row.sha256, i) for i, row in enumerate(rows)])
    readable = np.array([row.status != "quarantined" for row in rows])
    labels = np.where(readable, rng.integers(0, n_clusters, n)[original], -1)
    sure = rng.uniform(0.5, 1, n).astype(np.float32)[original]
    probabilities = np.repeat((1 - sure[:, None]) / max(n_clusters - 1, 1), n_clusters, axis=1)
    probabilities[np.arange(n), labels] = sure
    probabilities[~readable] = 0
    centres = rng.standard_normal((n_clusters, features)).astype(np.float32)
    embeddings = centres[labels] + 0.5 * rng.standard_normal((n, features), dtype=np.float32)[original]
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    folder.mkdir(parents=True, exist_ok=True)
    digest = write_embeddings(folder, embeddings[[i for i, row in enumerate(rows) if row.status == "ok"]])
    result = Result(
        rows=rows,
        labels=labels.astype(np.int64),
        probabilities=probabilities,
        reliable=readable & (sure > 0.7),
        typicality=np.where(readable, sure, 0).astype(np.float32),
        run={"source": "drawn", "source_root": root, "warnings": [], RECORDED: digest},
        metrics={},
        positions=np.where(readable[:, None], embeddings[:, :2], 0),
    )
    result.save(folder)
    return result


def rows_of(source: Source) -> list[Row]:
    """The manifest of a source, copies marked."""
    rows: list[Row] = []
    first: dict[str, Row] = {}
    for part in source.parts():
        for row, pixels in source.read(part, 8):
            original = first.setdefault(row.sha256, row) if pixels is not None else row
            copy = original is not row
            same = f"same content as {original.path}"
            rows.append(Row(row.path, "duplicate", same, row.width, row.height, row.sha256) if copy else row)
    return rows


@dataclass(frozen=True)
class Server:
    """A review page that is served.

    Attributes:
        process: which serves it.
        port: where.
        token: of its address.
    """

    process: subprocess.Popen[str]
    port: int
    token: str

    def memory(self, kind: str) -> int:
        """Bytes of memory of the process: `VmHWM`, the most it has had, `RssAnon`, that now without pages of files."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(next(line for line in status.splitlines() if line.startswith(kind)).split()[1])


@contextmanager
def served(run: Path, *words: str, errors: Path) -> Iterator[Server]:
    """`spiceclust review RUN` in a process of its own, on a free port.

    Args:
        run: a run folder.
        words: more of the command.
        errors: where its standard error goes.
    """
    command = [sys.executable, "-m", "spiceclust", "review", str(run), "--port", "0", *words]
    paths = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    with errors.open("w") as file:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=file, text=True, env={**os.environ, "PYTHONPATH": paths}
        )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:"), errors.read_text()
        port, token = address.removeprefix("http://127.0.0.1:").rstrip("/").split("/")
        yield Server(process, int(port), token)
    finally:
        process.terminate()  # SIGINT is ignored by what is started in the background of a shell
        process.wait(60)
        if process.stdout is not None:
            process.stdout.close()
