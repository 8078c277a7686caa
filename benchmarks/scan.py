"""How fast 100,000 images are found and read: files in folders, WebDataset tars, Parquet.

python benchmarks/scan.py
"""

from __future__ import annotations

import argparse
import io
import tarfile
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from _report import about, write_results
from PIL import Image

from spiceclust.data.images import load
from spiceclust.data.sources import open_source
from spiceclust.progress import Silent

IN_FOLDER = 1000  # files
IN_SHARD = 10_000  # images
IN_GROUP = 100  # rows
SIDE = 32  # pixels


@cache
def one_photo() -> bytes:
    content = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((SIDE, SIDE)).save(content, "JPEG")
    return content.getvalue()


def photo(i: int) -> bytes:
    """A JPEG file, with a number behind its end: no two are duplicates."""
    return one_photo() + i.to_bytes(4)


def write_folders(root: Path, n: int) -> str:
    for i in range(n):
        folder = root / f"{i // IN_FOLDER:04}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i:07}.jpg").write_bytes(photo(i))
    return str(root)


def write_tars(root: Path, n: int) -> str:
    root.mkdir()
    for start in range(0, n, IN_SHARD):
        with tarfile.open(root / f"{start // IN_SHARD:04}.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
            for i in range(start, min(start + IN_SHARD, n)):
                for kind, content in (("jpg", photo(i)), ("cls", b"0")):
                    member = tarfile.TarInfo(f"{i:07}.{kind}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    return f"{root}/*.tar"


def write_parquet(root: Path, n: int) -> str:
    root.mkdir()
    for start in range(0, n, IN_SHARD):
        table = pa.table({"image": [photo(i) for i in range(start, min(start + IN_SHARD, n))]})
        pq.write_table(table, root / f"{start // IN_SHARD:04}.parquet", row_group_size=IN_GROUP)
    return f"{root}/*.parquet"


KINDS: dict[str, Callable[[Path, int], str]] = {
    "files in folders": write_folders,
    "tars, an image and its class in turn": write_tars,
    "Parquet": write_parquet,
}


def measure(given: str) -> dict[str, Any]:
    """Seconds to find all images, to learn their size from 256 headers, and to read and shrink them all."""
    start = time.perf_counter()
    source = open_source(given)
    found = time.perf_counter()
    side = source.native_size()
    sized = time.perf_counter()
    images = load(source, 16, 3, Silent())
    done = time.perf_counter()
    assert side == SIDE
    assert all(row.status != "quarantined" for row in images.rows)
    seconds = {"find": found - start, "size": sized - found, "read": done - sized}
    return {"n": len(source), "seconds": seconds}


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args(words)
    kinds = {}
    with tempfile.TemporaryDirectory() as scratch:
        for number, (name, write) in enumerate(KINDS.items()):
            kinds[name] = measure(write(Path(scratch) / str(number), options.images))
    lines = [about("Finding and reading images", "python benchmarks/scan.py"), ""]
    lines += [f"{options.images:,} JPEG files of {SIDE} px, just written, so that they lie in the system's cache.", ""]
    lines += ["| source | found, s | files/s | size from headers, s | read, images/s |", "|---|---|---|---|---|"]
    for name, case in kinds.items():
        spent = case["seconds"]
        rates = f"{case['n'] / spent['find']:,.0f} | {spent['size']:.2f} | {case['n'] / spent['read']:,.0f}"
        lines.append(f"| {name} | {spent['find']:.2f} | {rates} |")
    write_results(options.out / "scan", "\n".join(lines) + "\n", {"kinds": kinds})


if __name__ == "__main__":
    main()
