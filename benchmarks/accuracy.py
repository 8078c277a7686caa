"""Accuracy of every stage of SPICE and SCAN beside k-means and spectral clustering, over data sets and seeds.

    python benchmarks/accuracy.py --data DIR --suite small --seeds 3

Labels score what is finished; nothing is chosen by them. The rows `oracle head` are what the best head by true labels
would have given, beside the one that was kept of the same ten. `spice` clusters in three ways and carries up to two
through stage 3: its heads are those of what ships. `spice-paper` has prototypes with equal quotas alone. Methods share
stages 1 and 2, and a row's seconds are those of all stages from the pixels on (reading images, guard and calibration
left out): what is clustered by its embeddings includes the first two.

Runs are kept in runs/benchmarks: after an interruption the same command of the same commit goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
from _datasets import NOTES, SUITES, load
from _report import about, commit, write_results
from numpy.typing import NDArray
from safetensors import safe_open
from sklearn.cluster import KMeans, SpectralClustering

from spiceclust import pipeline
from spiceclust.config import Request, make_request
from spiceclust.data.sources import open_source
from spiceclust.functional.metrics import Scores, score_clusters
from spiceclust.outputs.evaluate import evaluate
from spiceclust.presets import PRESETS
from spiceclust.progress import Plain
from spiceclust.result import Result

METHODS: dict[str, dict[str, Any]] = {
    name: {"method": name} for name in ("spice", "spice-paper", "scan")
}  # added to a request
TITLES = {"spice": "SPICE", "spice-paper": "SPICE, prototypes alone", "scan": "SCAN"}
DEFAULT_METHODS = ("spice", "scan")
SPECTRAL_LIMIT = 12_000  # images; beyond it spectral clustering takes longer than the rest together
MEASURES = ("acc", "nmi", "ari")
TRUST = ("reliable_share", "reliable_precision", "ece")

Rows = dict[str, dict[str, Any]]  # of one set and seed, by method


def measure(
    images: NDArray[np.uint8], classes: NDArray[np.int64], requests: dict[str, Request], stem: Path, options: Any
) -> Rows:
    """Scores of every method on one set with one seed; the run of each method is the folder `stem`-method."""
    trained: Rows = {}
    first: Path | None = None
    for method, request in requests.items():
        folder = stem.with_name(f"{stem.name}-{method}")
        if first is not None:
            share_stages(first, folder)
        result = pipeline.fit(open_source(images), request, folder, device=options.device, progress=Plain())
        trained |= score_run(method, result, folder, classes)
        first = first or folder
    if first is None or not options.baselines:
        return trained
    return score_baselines(images, classes, Result.load(first), first) | trained


def share_stages(source: Path, target: Path) -> None:
    """Gives a run that has not begun the first stages of another; links, since views of many images take gigabytes."""
    if not (target / "run.json").exists():
        shutil.rmtree(target, ignore_errors=True)
        for stage in pipeline.SHARED:
            shutil.copytree(source / stage, target / stage, copy_function=os.link)


def score_run(method: str, result: Result, folder: Path, classes: NDArray[np.int64]) -> Rows:
    """The head that was kept, the best one by labels, and the whole run."""
    seconds = result.run["seconds"]
    until_heads = sum(seconds[stage] for stage in (*pipeline.SHARED, "3-self"))
    clustering = result.run["clustering"]
    labels = load_tensor(folder / "3-self", f"{clustering}.head_labels")
    heads = [score_clusters(head, classes[distinct(result)]) for head in labels]
    scores, trust = evaluate(result, {str(i): str(name) for i, name in enumerate(classes)})
    title = TITLES[method]
    fate = {"shipped": result.run["shipped"], "clustering": clustering}
    return {
        f"{title}, kept head": row(heads[result.metrics["3-self"][clustering]["kept"]], until_heads),
        f"{title}, oracle head": row(max(heads, key=lambda head: head.acc), until_heads),
        f"{title}, whole": row(scores, sum(seconds.values())) | trust._asdict() | fate,
    }


def score_baselines(images: NDArray[np.uint8], classes: NDArray[np.int64], result: Result, folder: Path) -> Rows:
    """What needs no heads, on the pixels and on the embeddings of a run."""
    n_clusters, seed = result.n_clusters, result.run["seed"]
    k_means = KMeans(n_clusters, n_init=10, random_state=seed)
    spectral = SpectralClustering(
        n_clusters, affinity="nearest_neighbors", n_neighbors=20, assign_labels="kmeans", random_state=seed
    )
    there = distinct(result)
    pixels = images[there].reshape(int(there.sum()), -1).astype(np.float32) / 255
    embeddings = load_tensor(folder / "2-embed", "plain")
    before = sum(result.run["seconds"][stage] for stage in pipeline.SHARED)
    todo = {"k-means on pixels": (k_means, pixels, 0.0), "k-means on embeddings": (k_means, embeddings, before)}
    if len(embeddings) <= SPECTRAL_LIMIT:
        todo["spectral on embeddings"] = spectral, embeddings, before
    rows: Rows = {}
    for name, (model, points, already) in todo.items():
        start = time.perf_counter()
        clusters = model.fit_predict(points)
        rows[name] = row(score_clusters(clusters, classes[there]), already + time.perf_counter() - start)
    return rows


def row(scores: Scores, seconds: float) -> dict[str, Any]:
    return {measure: getattr(scores, measure) for measure in (*MEASURES, "n")} | {"seconds": seconds}


def distinct(result: Result) -> NDArray[np.bool_]:
    """(n,) bool: the images that the stages see, each content once."""
    return np.array([found.status == "ok" for found in result.rows])


def load_tensor(stage: Path, name: str) -> NDArray[Any]:
    """One tensor of a stage folder; the cached views beside it stay on disk."""
    with safe_open(stage / "tensors.safetensors", "numpy") as tensors:
        return np.asarray(tensors.get_tensor(name))


def report(head: str, measured: dict[str, list[Rows]]) -> str:
    """Markdown: what ran, accuracies, how far the runs can be believed."""
    lines = [head, "", "| set | method | ACC | NMI | ARI | least ACC | n | seeds | seconds |", "|---" * 9 + "|"]
    for name, seeds in measured.items():
        for method in seeds[0]:
            values = {key: np.array([rows[method][key] for rows in seeds]) for key in (*MEASURES, "n", "seconds")}
            cells = [f"{values[key].mean():.3f} ± {values[key].std():.3f}" for key in MEASURES]
            cells += [f"{values['acc'].min():.3f}", f"{values['n'][0]:,}"]
            cells += [f"{len(seeds)}", f"{values['seconds'].mean():.0f}"]
            lines.append(f"| {name} | {method} | {' | '.join(cells)} |")
    lines += ["", "| set | method | reliable share | precision of `reliable` | ECE | clustering | shipped |"]
    lines += ["|---" * 7 + "|"]
    for name, seeds in measured.items():
        for method in (method for method in seeds[0] if "shipped" in seeds[0][method]):
            rows = [seed[method] for seed in seeds]
            cells = [f"{np.mean([row[key] for row in rows]):.3f}" for key in TRUST]
            cells += [", ".join(row[key] for row in rows) for key in ("clustering", "shipped")]
            lines.append(f"| {name} | {method} | {' | '.join(cells)} |")
    notes = [f"{name}: {NOTES[name]}." for name in measured if name in NOTES]
    return "\n".join([*lines, "", *notes]).rstrip() + "\n"


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder with the data sets' files")
    parser.add_argument("--suite", choices=SUITES, default="digits")
    parser.add_argument("--sets", nargs="+", help="these sets instead of a suite")
    parser.add_argument("--seeds", type=int, default=1, help="how many: 0, 1, ...")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(DEFAULT_METHODS))
    parser.add_argument("--baselines", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--preset", choices=PRESETS, default="quick")
    parser.add_argument("--config", type=Path, help="JSON file whose fields override the preset's")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--name", help="stem of the files with the results; by default the suite")
    parser.add_argument("--commit", help="of the code, where it lies outside git")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args(words)

    overrides = json.loads(options.config.read_text("utf-8")) if options.config else {}
    stem = options.name or f"accuracy-{'-'.join(options.sets) if options.sets else options.suite}"
    version = options.commit or commit()  # figures of one commit are never mixed with another's
    runs = options.runs / version / (f"{options.preset}-{options.config.stem}" if overrides else options.preset)
    head = about("Accuracy", command(options), version=version, device=options.device)
    head += f"\n\nPreset {options.preset}" + (f", with {json.dumps(overrides)}" if overrides else "")
    head += "; mean ± standard deviation over seeds."
    measured: dict[str, list[Rows]] = {}
    for name in options.sets or SUITES[options.suite]:
        images, classes = load(name, options.data)
        asked = {"n_clusters": len(np.unique(classes)), "preset": options.preset, "overrides": overrides}
        measured[name] = []
        for seed in range(options.seeds):
            requests = {method: make_request(**asked, seed=seed, **METHODS[method]) for method in options.methods}
            measured[name].append(measure(images, classes, requests, runs / f"{name}-{seed}", options))
            write_results(options.out / stem, report(head, measured), {"about": head, "sets": measured})


def command(options: argparse.Namespace) -> str:
    """What reproduces the figures; files and folders are those of the reader."""
    words = ["python", "benchmarks/accuracy.py", "--data", "DIR"]
    words += ["--sets", *options.sets] if options.sets else ["--suite", options.suite]
    words += ["--seeds", str(options.seeds), "--methods", *options.methods, "--preset", options.preset]
    words += [] if options.baselines else ["--no-baselines"]
    words += ["--config", options.config.name] if options.config else []
    return shlex.join(words)


if __name__ == "__main__":
    main()
