"""Where the time of a whole run goes: seconds of each stage, and the operators that stage 1 spends its time in.

    python benchmarks/end_to_end.py --set digits --repeats 3
    python benchmarks/end_to_end.py --set digits --repeats 3 --against OTHER_CHECKOUT

With `--against` the code of another checkout takes turns with this one's, each run in a process of its own; a ratio is
that of two neighbouring runs. Accuracy stands beside it: speed that costs accuracy is none.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _datasets import load
from _report import ROOT, about, write_results
from torch.profiler import ProfilerActivity, profile

from spiceclust.config import FitConfig
from spiceclust.data.images import load as load_images
from spiceclust.data.sources import open_source
from spiceclust.files import read_json
from spiceclust.functional.metrics import score_clusters
from spiceclust.progress import Silent
from spiceclust.stages import pretrain
from spiceclust.training.context import open_context

STEPS = 60  # of stage 1 that are profiled
OPERATORS = 10  # that are listed
REST = "reading, guard, calibration"
KEEPING = "of all this: writing snapshots and stages"

# Run on the code of either checkout, with the arguments images.npy, request as JSON, run folder.
FIT = """
import json, sys, time
from pathlib import Path
import numpy as np
from spiceclust import pipeline
from spiceclust.config import make_request
from spiceclust.data.sources import open_source
from spiceclust.training import checkpoint
kept = [0.0]
def timed(write):
    def wrapped(*given):
        before = time.perf_counter()
        done = write(*given)
        kept[0] += time.perf_counter() - before
        return done
    return wrapped
checkpoint._save = timed(checkpoint._save)
try:
    from spiceclust.training.snapshots import Snapshots
    Snapshots.save = timed(Snapshots.save)
except ImportError:  # older code keeps whole stages alone
    pass
start = time.perf_counter()
images, request = open_source(np.load(sys.argv[1])), make_request(**json.loads(sys.argv[2]))
result = pipeline.fit(images, request, Path(sys.argv[3]))
print(json.dumps([time.perf_counter() - start, kept[0], result.run["seconds"], result.labels.tolist()]))
"""


def run(checkout: Path, images: Path, request: dict[str, Any], folder: Path, classes: np.ndarray) -> dict[str, float]:
    """Seconds by stage, and the accuracy, of a run of a checkout's code; imports are not in the time."""
    environment = {**os.environ, "PYTHONPATH": str(checkout / "src")}
    words = [sys.executable, "-c", FIT, str(images), json.dumps(request), str(folder)]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    whole, kept, seconds, labels = json.loads(done.stdout)
    accuracy = score_clusters(np.array(labels), classes).acc
    return {**seconds, REST: whole - sum(seconds.values()), KEEPING: kept, "whole": whole, "accuracy": accuracy}


def operators(images: np.ndarray, folder: Path) -> list[tuple[str, float]]:
    """The operators of stage 1 by the share of processor time that is their own."""
    config, context = FitConfig(**read_json(folder / "run.json")["config"]), open_context(0, "cpu", None)
    pixels = torch.from_numpy(load_images(open_source(images), config.image_size, None, Silent()).pixels)
    few = {"epochs": max(1, STEPS * config.pretrain.batch_size // len(pixels)), "neighbor_share": 0.0}
    config = config.model_copy(update={"pretrain": config.pretrain.model_copy(update=few)})
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as watched:
        pretrain.run(pixels, config, context)
    spent = {event.key: event.self_cpu_time_total for event in watched.key_averages()}
    total = sum(spent.values())
    return [(name, spent[name] / total) for name in sorted(spent, key=spent.__getitem__, reverse=True)[:OPERATORS]]


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder with the data sets' files")
    parser.add_argument("--set", default="digits")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--config", type=Path, help="JSON file whose fields override the preset's")
    parser.add_argument("--against", type=Path, help="a checkout of other code, which takes turns with this one's")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args(words)

    images, classes = load(options.set, options.data)
    overrides = read_json(options.config) if options.config else {}
    request = {"n_clusters": len(np.unique(classes)), "seed": options.seed, "overrides": overrides}
    checkouts = {"before": options.against, "now": ROOT} if options.against else {"now": ROOT}
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in checkouts}
    with tempfile.TemporaryDirectory() as place:
        np.save(Path(place) / "images.npy", images)
        for repeat in range(options.repeats):
            for name, checkout in checkouts.items():
                folder = Path(place) / f"{name}-{repeat}"
                measured[name].append(run(checkout, Path(place) / "images.npy", request, folder, classes))
                print(name, measured[name][-1], flush=True)
        spent = operators(images, folder)
    command = f"python benchmarks/end_to_end.py --set {options.set} --repeats {options.repeats}"
    head = about("A whole run", command + (" --against OTHER_CHECKOUT" if options.against else ""))
    write_results(options.out / f"end_to_end-{options.set}", report(head, measured, spent), {"runs": measured})


def report(head: str, measured: dict[str, list[dict[str, float]]], spent: list[tuple[str, float]]) -> str:
    """Markdown: median seconds by stage, ratios of neighbouring runs, and the profile of stage 1."""
    both = len(measured) > 1
    lines = [head, "", "Medians, least to most in brackets.", ""]
    lines += ["| | " + " | ".join([*measured, *(["ratio"] if both else [])]) + " |"]
    lines += ["|---" * (1 + len(measured) + both) + "|"]
    for key in measured["now"][0]:
        columns = [[run.get(key, float("nan")) for run in runs] for runs in measured.values()]
        digits = 3 if key == "accuracy" else 1
        cells = [_spread(column, digits) for column in columns]
        if both:
            cells.append(_spread([before / max(now, 1e-9) for before, now in zip(*columns, strict=True)], 2))
        lines.append(f"| {key if key == 'accuracy' else f'{key}, s'} | {' | '.join(cells)} |")
    lines += ["", "Stage 1 by operator, share of processor time that is its own:", ""]
    lines += [f"- {100 * share:.0f} % {name}" for name, share in spent]
    return "\n".join(lines) + "\n"


def _spread(values: list[float], digits: int) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


if __name__ == "__main__":
    main()
