"""Accuracy of every stage beside k-means and spectral clustering, over data sets and seeds.

    python benchmarks/accuracy.py --data DIR --suite small --seeds 3

Labels score what is finished; nothing is chosen by them. The row `SPICE-Self, oracle head` is what the best of the ten
heads by true labels would have given, beside the one that was kept. Runs are kept in runs/benchmarks and resumed.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import time
from datetime import date
from pathlib import Path

import numpy as np
import torch
from _datasets import SUITES, load
from numpy.typing import NDArray
from sklearn.cluster import KMeans, SpectralClustering

from spiceclust import pipeline
from spiceclust.config import make_request
from spiceclust.data.sources import open_source
from spiceclust.functional.metrics import score_clusters
from spiceclust.progress import Plain
from spiceclust.training.checkpoint import load_tensors

SPECTRAL_LIMIT = 12_000  # images; beyond it spectral clustering takes longer than the rest together
MEASURES = ("acc", "nmi", "ari")


def measure(name: str, seed: int, images: NDArray[np.uint8], classes: NDArray[np.int64], runs: Path) -> dict[str, dict]:
    """Scores of every method on one set with one seed."""
    n_clusters = len(np.unique(classes))
    folder = runs / f"{name}-{seed}-{commit()}"  # figures of one commit are never mixed with another's
    start = time.perf_counter()
    request = make_request(n_clusters=n_clusters, seed=seed)
    result = pipeline.fit(open_source(images), request, folder, progress=Plain())
    rows: dict[str, dict] = {}

    def score(method: str, clusters: NDArray[np.int64], seconds: float, truth: NDArray[np.int64] = classes) -> None:
        scores = score_clusters(clusters, truth)
        rows[method] = {measure: getattr(scores, measure) for measure in MEASURES} | {"seconds": seconds}

    kept = np.array([row.status == "ok" for row in result.rows])  # the stages see each distinct image once
    embeddings = load_tensors(folder / "2-embed/tensors.safetensors", torch.device("cpu"))["plain"].numpy()
    pixels = images.reshape(len(images), -1).astype(np.float32) / 255
    for method, points, truth in (("pixels", pixels, classes), ("embeddings", embeddings, classes[kept])):
        start = time.perf_counter()
        clusters = KMeans(n_clusters, n_init=10, random_state=seed).fit_predict(points)
        score(f"k-means on {method}", clusters, time.perf_counter() - start, truth)
    if len(embeddings) <= SPECTRAL_LIMIT:
        start = time.perf_counter()
        spectral = SpectralClustering(
            n_clusters, affinity="nearest_neighbors", n_neighbors=20, assign_labels="kmeans", random_state=seed
        )
        score("spectral on embeddings", spectral.fit_predict(embeddings), time.perf_counter() - start, classes[kept])

    seconds = result.run["seconds"]
    until_self = sum(seconds[stage] for stage in ("1-pretrain", "2-embed", "3-self"))
    heads = load_tensors(folder / "3-self/tensors.safetensors", torch.device("cpu"))["head_labels"].numpy()
    accuracies = [score_clusters(head, classes[kept]).acc for head in heads]
    score("SPICE-Self, head kept", heads[result.metrics["3-self"]["kept"]], until_self, classes[kept])
    score("SPICE-Self, oracle head", heads[int(np.argmax(accuracies))], until_self, classes[kept])
    score("SPICE, whole", result.labels, sum(seconds.values()))
    right = reliable_precision(result.labels, classes, result.reliable)
    rows["SPICE, whole"] |= {"reliable": float(result.reliable.mean()), "precision": right}
    rows["SPICE, whole"]["shipped"] = result.run["shipped"]
    return rows


def reliable_precision(clusters: NDArray[np.int64], classes: NDArray[np.int64], reliable: NDArray[np.bool_]) -> float:
    """Share of the reliable images whose class is the one matched to their cluster."""
    match = score_clusters(clusters, classes).match
    named = np.array([match.get(int(cluster), "") for cluster in clusters[reliable]])
    return float((named == classes[reliable].astype(str)).mean())


def table(measured: dict[str, list[dict[str, dict]]]) -> str:
    """Markdown: a row for each set and method, mean +- standard deviation over seeds."""
    lines = ["| set | method | ACC | NMI | ARI | n | seconds |", "|---|---|---|---|---|---|---|"]
    for name, seeds in measured.items():
        for method in seeds[0]:
            values = {key: [seed[method][key] for seed in seeds] for key in (*MEASURES, "seconds")}
            cells = [f"{np.mean(values[key]):.3f} ± {np.std(values[key]):.3f}" for key in MEASURES]
            cells += [str(len(seeds)), f"{np.mean(values['seconds']):.0f}"]
            lines.append(f"| {name} | {method} | {' | '.join(cells)} |")
    lines += ["", "| set | reliable share | precision of `reliable` | shipped |", "|---|---|---|---|"]
    for name, seeds in measured.items():
        whole = [seed["SPICE, whole"] for seed in seeds]
        shares = [f"{np.mean([row[key] for row in whole]):.3f}" for key in ("reliable", "precision")]
        lines.append(f"| {name} | {' | '.join(shares)} | {', '.join(row['shipped'] for row in whole)} |")
    return "\n".join(lines) + "\n"


def commit() -> str:
    """The commit of the code that runs, marked when there are changes on top."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder with the data sets' files")
    parser.add_argument("--suite", choices=SUITES, default="digits")
    parser.add_argument("--sets", nargs="*", help="only these sets")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()

    measured: dict[str, list[dict[str, dict]]] = {}
    for name in arguments.sets or SUITES[arguments.suite]:
        images, classes = load(name, arguments.data)
        measured[name] = [measure(name, seed, images, classes, arguments.runs) for seed in range(arguments.seeds)]
        about = f"{date.today()}, commit {commit()}, torch {torch.__version__}, "
        about += f"{torch.get_num_threads()} threads, {platform.machine()}, preset quick"
        heading = f"# Accuracy, suite {arguments.suite}\n\n{about}. Mean ± standard deviation over seeds."
        text = f"{heading}\n\n{table(measured)}"
        stem = arguments.out / f"accuracy-{arguments.suite}"
        stem.with_suffix(".md").write_text(text)
        stem.with_suffix(".json").write_text(json.dumps({"about": about, "sets": measured}, indent=1) + "\n")
        print(text)


if __name__ == "__main__":
    main()
