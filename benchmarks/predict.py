"""Predicting many images: memory as their number grows, and the rate beside a plain PyTorch loop with the same model.

    python benchmarks/predict.py --images 10000 40000 100000 --rates 10000 40000 --repeats 5

The images are PNG files of random smooth digits-like pictures; the model is one that a few steps on some of them make:
what it says does not matter here. Memory is the peak of a process that predicts them all. The plain loop is a
`DataLoader` with as many workers as processors, Pillow, and the classifier in batches of 256; it writes path, cluster
and confidence. The two take turns, each in a process of its own, and the clock starts once everything is imported.
Seconds of processor time are those of all their processes, which a busy machine changes less.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from _report import about, write_results
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from spiceclust import pipeline, prediction
from spiceclust.cli import predict
from spiceclust.config import make_request
from spiceclust.data.processes import FIRST
from spiceclust.data.sources import open_source
from spiceclust.training.inference import BATCH

SIDE = 28
FITTED = 300
BRIEF = {
    "pretrain": {"epochs": 1},
    "embed": {"cached_views": 1},
    "self_label": {"rounds": 10},
    "graph_label": {"steps": 10},
    "scan": {"steps": 10},
    "semi": {"steps": 10},
}


def write_images(folder: Path, n: int) -> None:
    """PNG files, a thousand in each subfolder."""
    rng = np.random.default_rng(0)
    for i in range(n):
        if i % 1000 == 0:
            (folder / f"{i // 1000:03}").mkdir(parents=True)
        coarse = Image.fromarray(rng.integers(0, 256, (5, 5), dtype=np.uint8))
        coarse.resize((SIDE, SIDE), Image.Resampling.BILINEAR).save(folder / f"{i // 1000:03}" / f"{i:06}.png")


def ours(run: Path, folder: Path, out: Path) -> None:
    """The command."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        predict(run, str(folder), str(out), "cpu")


class Pictures(Dataset[Tensor]):
    """What a plain loop reads: (1, S, S) float32 in [0, 1]."""

    def __init__(self, folder: Path) -> None:
        self.files = sorted(folder.rglob("*.png"))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> Tensor:
        with Image.open(self.files[i]) as image:
            pixels = np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR))
        return torch.from_numpy(pixels.astype(np.float32) / 255).unsqueeze(0)


def plain(run: Path, folder: Path, out: Path) -> None:
    """A loop as anyone would write it."""
    classifier = prediction.open_model(run, "cpu").classifier.eval()
    pictures = Pictures(folder)
    labels: list[int] = []
    confidences: list[float] = []
    with torch.inference_mode():
        for batch in DataLoader(pictures, batch_size=BATCH, num_workers=os.cpu_count() or 1):
            confidence, label = classifier(batch).softmax(dim=1).max(dim=1)
            labels += label.tolist()
            confidences += confidence.tolist()
    rows = zip(pictures.files, labels, confidences, strict=True)
    out.write_text("path,cluster,confidence\n" + "".join(f"{file},{k},{share:.6f}\n" for file, k, share in rows))


SIDES = {"ours": ours, "plain": plain}


def one(side: str, *paths: str) -> None:
    """Prints seconds, processor time and peak memory of one side, of this process from now on and its children."""
    start, before = time.perf_counter(), processor_time()
    SIDES[side](*map(Path, paths))
    seconds = time.perf_counter() - start
    FIRST.close()  # the decoders' times count once they have ended
    # of this process alone: ru_maxrss would be that of the one that started it, where that is larger
    status = Path("/proc/self/status").read_text()
    peak = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    print(json.dumps({"seconds": seconds, "cpu": processor_time() - before, "peak": peak}))


def processor_time() -> float:
    return sum(os.times()[:4])


def measure(side: str, run: Path, folder: Path, out: Path) -> dict[str, float]:
    """What `one` prints, in a process of its own."""
    words = [sys.executable, __file__, "--one", side, *map(str, (run, folder, out))]
    return dict(json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout))


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[10_000, 100_000], help="for the memory")
    parser.add_argument("--rates", type=int, nargs="+", default=[10_000], help="for the rates")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.one:
        one(*options.one)
        return
    with tempfile.TemporaryDirectory() as place:
        run, table = Path(place) / "run", Path(place) / "table.csv"
        folders = {n: Path(place) / str(n) for n in sorted({*options.images, *options.rates})}
        for n, folder in folders.items():
            write_images(folder, n)
        files = sorted(next(iter(folders.values())).rglob("*.png"))[:FITTED]
        pipeline.fit(open_source(files), make_request(n_clusters=10, overrides=BRIEF), run)
        runs = {
            n: [{side: measure(side, run, folders[n], table) for side in SIDES} for _ in range(options.repeats)]
            for n in options.rates
        }
        peaks = {
            n: runs[n][0]["ours"]["peak"] if n in runs else measure("ours", run, folders[n], table)["peak"]
            for n in options.images
        }
    lines = [about("Predicting many images", "python benchmarks/predict.py"), ""]
    lines += ["| images | peak memory |", "|---|---|"]
    lines += [f"| {n:,} | {peak / 2**20:,.0f} MiB |" for n, peak in peaks.items()]
    lines += [
        "",
        f"Images per second, medians of {options.repeats} alternating runs, and processor time of all processes:",
        "",
    ]
    lines += ["| images | `spiceclust predict` | plain loop | ratio | least | most | ratio of processor time |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for n, pairs in runs.items():
        rates = [statistics.median(n / pair[side]["seconds"] for pair in pairs) for side in SIDES]
        ratios, cpu = ([pair["plain"][what] / pair["ours"][what] for pair in pairs] for what in ("seconds", "cpu"))
        cells = [f"{n:,}", *(f"{rate:,.0f}" for rate in rates)]
        cells += [f"{value:.2f}" for value in (statistics.median(ratios), min(ratios), max(ratios))]
        lines += [f"| {' | '.join(cells)} | {statistics.median(cpu):.2f} |"]
    write_results(options.out / "predict", "\n".join(lines) + "\n", {"peaks": peaks, "runs": runs})


if __name__ == "__main__":
    main()
