"""Predicting many images: memory as their number grows, and the rate beside a plain PyTorch loop with the same model.

    python benchmarks/predict.py --images 10000 100000 --repeats 5

The images are PNG files of random smooth digits-like pictures; the model is one that a few steps on some of them make:
what it says does not matter here. Memory is the peak of a process that predicts them all. The plain loop is a
`DataLoader` with as many workers as processors, Pillow, and the classifier in batches of 256; the two take turns.
"""

from __future__ import annotations

import argparse
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
from spiceclust.config import make_request
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


def ours(run: Path, folder: Path, out: Path) -> dict[str, float]:
    """Seconds and peak memory of the command, in a process of its own."""
    words = ["-c", ONE, str(run), str(folder), str(out)]
    return dict(json.loads(subprocess.run([sys.executable, *words], check=True, stdout=subprocess.PIPE).stdout))


ONE = """
import contextlib, io, json, sys, time
from spiceclust import prediction  # what is imported before the clock runs, the plain loop has imported too
from spiceclust.cli import predict
start = time.perf_counter()
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    from pathlib import Path
    predict(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), "cpu")
# of this process alone: ru_maxrss would be that of the one that started it, where that is larger
peak = next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({"seconds": time.perf_counter() - start, "peak": peak}))
"""


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


def plain(run: Path, folder: Path, out: Path) -> float:
    """Seconds of a loop as anyone would write it."""
    classifier = prediction.open_model(run, "cpu").classifier.eval()
    start = time.perf_counter()
    pictures = Pictures(folder)
    labels: list[int] = []
    with torch.inference_mode():
        for batch in DataLoader(pictures, batch_size=BATCH, num_workers=os.cpu_count() or 1):
            labels += classifier(batch).argmax(dim=1).tolist()
    out.write_text("".join(f"{file},{label}\n" for file, label in zip(pictures.files, labels, strict=True)))
    return time.perf_counter() - start


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[10_000, 100_000], help="the first for the rates")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as place:
        run, table = Path(place) / "run", Path(place) / "table.csv"
        for n in options.images:
            write_images(Path(place) / str(n), n)
        files = sorted((Path(place) / str(options.images[0])).rglob("*.png"))[:FITTED]
        pipeline.fit(open_source(files), make_request(n_clusters=10, overrides=BRIEF), run)
        peaks = {n: ours(run, Path(place) / str(n), table)["peak"] for n in options.images}
        n = options.images[0]
        seconds = [
            (ours(run, Path(place) / str(n), table)["seconds"], plain(run, Path(place) / str(n), table))
            for _ in range(options.repeats)
        ]
    rates = [[n / each for each in side] for side in zip(*seconds, strict=True)]
    ratios = [theirs / mine for mine, theirs in seconds]
    lines = [about("Predicting many images", "python benchmarks/predict.py"), ""]
    lines += ["| images | peak memory |", "|---|---|"]
    lines += [f"| {n:,} | {peak / 2**20:,.0f} MiB |" for n, peak in peaks.items()]
    lines += ["", f"Images per second of {n:,} files, medians of {options.repeats} alternating runs:", ""]
    lines += ["| `spiceclust predict` | plain loop | ratio | least | most |", "|---|---|---|---|---|"]
    cells = [f"{statistics.median(rate):,.0f}" for rate in rates]
    cells += [f"{value:.2f}" for value in (statistics.median(ratios), min(ratios), max(ratios))]
    lines += [f"| {' | '.join(cells)} |"]
    write_results(options.out / "predict", "\n".join(lines) + "\n", {"peaks": peaks, "seconds": seconds})


if __name__ == "__main__":
    main()
