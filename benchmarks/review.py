"""The server of the review page: strange requests by the thousand, and what 100,000 images cost.

python benchmarks/review.py --requests 10000 --images 100000
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from _report import about, write_results
from _review import fuzz, load
from _review.runs import make_run, rows_of, served
from PIL import Image

from spiceclust.data.sources import open_source

PHOTOS = 40


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args(words)
    values: dict[str, Any] = {}
    if options.requests:
        with tempfile.TemporaryDirectory(prefix="review-") as folder:
            values["requests"] = strange(options.requests, options.seed, Path(folder))
    if options.images:
        with tempfile.TemporaryDirectory(prefix="review-") as folder:
            values["images"] = load.run(options.images, Path(folder))
    command = f"python benchmarks/review.py --requests {options.requests} --images {options.images}"
    write_results(options.out / "review", about("Review page", command) + "\n" + report(values), values)


def strange(count: int, seed: int, folder: Path) -> dict[str, int]:
    """Counts of answers to strange requests, and what is in the server's standard error after them."""
    rng, photos = np.random.default_rng(seed), folder / "photos"
    photos.mkdir()
    for i in range(PHOTOS):
        Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(photos / f"{i:02}.png")
    (photos / "00.png").write_bytes(b"no picture")
    make_run(folder / "run", rows_of(open_source(photos)), 4, root=str(photos))
    errors = folder / "errors.txt"
    with served(folder / "run", errors=errors) as server:
        found = fuzz.run(server, count, seed)
    return {
        **found,
        "lines on standard error": len(errors.read_text().splitlines()),
        "exit code": server.process.returncode,
    }


def report(values: dict[str, Any]) -> str:
    """Markdown: counts of answers, times of routes, memory."""
    lines = []
    if "requests" in values:
        lines += ["", "## Requests that no browser sends", "", "| | |", "|---|---|"]
        lines += [f"| {name} | {count:,} |" for name, count in values["requests"].items()]
    if "images" in values:
        found = values["images"]
        lines += ["", f"## {found['images']:,} images of 32 x 32, {load.FEATURES} features", ""]
        lines += ["| | |", "|---|---|"]
        lines += [f"| {name} | {value:,} |" for name, value in found.items() if name not in ("images", "ms")]
        lines += ["", "| route | ms, first | ms, median of 5 more |", "|---|---|---|"]
        lines += [f"| {name} | {first:,.1f} | {later:,.1f} |" for name, (first, later) in found["ms"].items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
