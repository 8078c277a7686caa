"""Nearest neighbours: time and memory in tiles, of the whole N x N matrix, and approximate.

    python benchmarks/neighbors.py

Each line is a process of its own, which tells its peak memory beyond the embeddings. `labels differ` counts the images
of which tiles and the whole matrix say otherwise whether their label is reliable (SPICE section III-C).
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
from _report import about, write_results
from torch import Tensor
from torch.nn import functional as F

from spiceclust.functional.approximate import approximate_neighbors
from spiceclust.functional.neighbors import nearest_neighbors
from spiceclust.functional.reliable import agreement

K = 100
KINDS = 100  # clusters of the made embeddings
AGREEMENT = 0.95
CASES = [
    ("tiles", 10_000, 512),
    ("whole", 10_000, 512),
    ("tiles", 60_000, 512),
    ("whole", 60_000, 512),
    ("approximate", 60_000, 512),
    ("approximate", 1_000_000, 128),
]


def made(n: int, dim: int) -> tuple[Tensor, Tensor]:
    """(n, dim) unit vectors around centres that overlap a little; (n,) their labels, one in twenty of them wrong."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(KINDS, (n,), generator=generator)
    centres = F.normalize(torch.randn((KINDS, dim), generator=generator), dim=1)
    points = torch.empty((n, dim))
    for start in range(0, n, 10_000):  # no more at once than one tile: the peak is to be that of the search
        part = labels[start : start + 10_000]
        noise = torch.randn((len(part), dim), generator=generator) * (0.8 / dim**0.5)
        points[start : start + 10_000] = F.normalize(centres[part] + noise, dim=1)
    wrong = torch.rand(n, generator=generator) < 0.05
    labels[wrong] = torch.randint(KINDS, (int(wrong.sum()),), generator=generator)
    return points, labels


def whole(embeddings: Tensor, k: int) -> Tensor:
    """The published way: all similarities at once."""
    similarity = embeddings @ embeddings.T
    similarity.fill_diagonal_(-torch.inf)
    return similarity.topk(k, dim=1).indices


class Peak:
    """The most memory held while it is entered, beyond what was held before, in bytes: what Linux keeps account of."""

    def __enter__(self) -> Peak:
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark falls to what is held now
        self.before = self._high_water()
        return self

    def __exit__(self, *_: object) -> None:
        self.most = self._high_water() - self.before

    def _high_water(self) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def measure(method: str, n: int, dim: int, keep: Path | None) -> dict[str, object]:
    embeddings, labels = made(n, dim)
    k = min(K, n - 2)
    nearest_neighbors(embeddings[:1000], k)  # threads and buffers are there before the clock runs
    recall = 1.0
    with Peak() as peak:
        start = time.perf_counter()
        if method == "tiles":
            indices, _ = nearest_neighbors(embeddings, k)
        elif method == "whole":
            indices = whole(embeddings, k)
        else:
            indices, recall, _ = approximate_neighbors(embeddings, k)
        seconds = time.perf_counter() - start
    if keep is not None:
        torch.save(agreement(labels, indices) >= AGREEMENT, keep / f"{method}-{n}.pt")
    total = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": seconds, "extra": peak.most, "total": total, "recall": recall}


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the numbers of images, for a trial")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--one", nargs=3, metavar=("METHOD", "N", "D"), help="a single case; prints JSON")
    parser.add_argument("--keep", type=Path, help="folder for the reliable labels of a single case")
    options = parser.parse_args(words)
    if options.one:
        method, n, dim = options.one[0], int(options.one[1]), int(options.one[2])
        print(json.dumps(measure(method, n, dim, options.keep)))
        return

    options.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for method, n, dim in CASES:
        n = round(n * options.scale)
        command = [sys.executable, __file__, "--one", method, str(n), str(dim), "--keep", str(options.out)]
        done = subprocess.run(command, capture_output=True, text=True)
        row: dict[str, object] = {"method": method, "n": n, "dim": dim}
        if done.returncode == 0:
            row |= json.loads(done.stdout)
            row["differ"] = differences(options.out, method, n)
        else:  # the whole matrix may not fit: that is a result
            row["failed"] = (
                done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"ended by {done.returncode}"
            )
        rows.append(row)
        print(row, flush=True)
    for file in options.out.glob("*.pt"):
        file.unlink()
    write_results(options.out / "neighbors", report(rows), {"cases": rows})


def differences(folder: Path, method: str, n: int) -> int | None:
    """Images on which a method and the tiles disagree."""
    files = folder / f"{method}-{n}.pt", folder / f"tiles-{n}.pt"
    if method == "tiles" or not all(file.exists() for file in files):
        return None
    first, second = (torch.load(file, weights_only=True) for file in files)
    return int((first != second).sum())


def report(rows: list[dict[str, object]]) -> str:
    lines = [about("Nearest neighbours", "python benchmarks/neighbors.py"), ""]
    lines += [f"{K} neighbours; memory beyond the embeddings.", ""]
    lines += ["| images | features | method | seconds | extra memory | recall | reliable labels that differ |"]
    lines += ["|---" * 7 + "|"]
    for row in rows:
        cells = [f"{row['n']:,}", str(row["dim"]), str(row["method"])]
        if "failed" in row:
            cells += [f"failed: {row['failed']}", "", "", ""]
        else:
            differ = "" if row["differ"] is None else str(row["differ"])
            cells += [f"{row['seconds']:.1f}", f"{row['extra'] / 2**30:.2f} GiB", f"{row['recall']:.3f}", differ]  # type: ignore[operator]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
