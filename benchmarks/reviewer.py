"""A simulated reviewer: accuracy against number of answers, for our questions and for random ones.

    python benchmarks/reviewer.py --data DIR --sets digits@benchmarks/brief.json mnist_test --seeds 1

The reviewer knows the true labels and does what a person would. First they look at the card of each cluster, its 20
most typical images, and take it for what most of these show; clusters that show the same they merge. That is no answer
to a question, so accuracy after it is told apart from that of the run. Then they answer batches of 50. They put an
image into the cluster of its kind. If its kind has none, they split it off, and it is the first of a new cluster.
After each batch they let the clusters learn and accept what is proposed. `answers alone` is what comes of the same
answers without learning. Accuracy is that of the best one-to-one match of clusters and classes.

Purity is what the review page would tell after each batch, beside the true one by what the reviewer takes clusters for.

A set with a config, such as brief.json, which leaves much to correct, has the fields of that in the place of the
preset's. Runs are kept in runs/benchmarks as by accuracy.py; with --commit those of another commit are taken.
"""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
from _curves import Curve, draw
from _datasets import load
from _report import about, commit, write_results
from numpy.typing import NDArray

from spiceclust import pipeline
from spiceclust.config import make_request
from spiceclust.corrections import Action, Learn, Merge, Move, Split, applied, first_state
from spiceclust.data.sources import open_source
from spiceclust.embeddings import read_embeddings
from spiceclust.functional.metrics import score_clusters
from spiceclust.presets import PRESETS
from spiceclust.progress import Plain
from spiceclust.result import Result
from spiceclust.review import purity
from spiceclust.review.learning import by_learning, learn
from spiceclust.review.questions import AT_RANDOM, BATCH, choose

ON_A_CARD = 20
CHOICES = {"ours": AT_RANDOM / BATCH, "random": 1.0}  # share of a batch that is drawn at random
CHANGES = ("changed", "mended", "spoilt", "clusters")  # counts of images, and of clusters that have a kind
HEAD = "0" * 64  # the heads are not kept


class Reviewer:
    """One who knows the classes (n,) and corrects a result."""

    def __init__(self, result: Result, classes: NDArray[np.int64]) -> None:
        self.result, self.classes, self.state = result, classes, first_state(result)
        self.actions: list[Action] = []
        self.cluster_of: dict[int, int] = {}
        self.distinct = np.array([row.status == "ok" for row in result.rows])

    def do(self, action: Action) -> None:
        self.state = applied(self.state, action)
        self.actions.append(action)

    def look(self) -> None:
        """At the cards of all clusters."""
        for cluster in range(self.result.n_clusters):
            members = np.flatnonzero((self.result.labels == cluster) & self.distinct)
            if not len(members):
                continue
            card = members[np.argsort(-self.result.typicality[members], kind="stable")[:ON_A_CARD]]
            kind = int(np.bincount(self.classes[card]).argmax())
            if kind in self.cluster_of:
                self.do(Merge(clusters=[cluster], into=self.cluster_of[kind]))
            else:
                self.cluster_of[kind] = cluster

    def answer(self, rows: list[int]) -> None:
        for row in rows:
            kind = int(self.classes[row])
            if kind not in self.cluster_of:
                self.cluster_of[kind] = self.state.n_clusters
                self.do(Split(cluster=int(self.state.labels[row]), rows=[row]))
            self.do(Move(rows=[row], to=self.cluster_of[kind]))

    def accuracy(self, labels: NDArray[np.int64]) -> float:
        there = self.result.labels >= 0
        return score_clusters(labels[there], self.classes[there]).acc

    def true_purity(self) -> float:
        right = [self.cluster_of.get(int(kind), -1) for kind in self.classes[self.distinct]]
        return float((np.array(right) == self.state.labels[self.distinct]).mean())


def review(
    result: Result, classes: NDArray[np.int64], points: NDArray[Any], way: str, most: int, batch: int, seed: int
) -> list[dict[str, Any]]:
    """What was measured as the run was, after a look at the cards (0 answers), and after each batch."""
    reviewer = Reviewer(result, classes)
    found = {"answers": -1, "acc": reviewer.accuracy(result.labels)}
    reviewer.look()
    after = {"answers": 0, "acc": reviewer.accuracy(reviewer.state.labels), "clusters": len(reviewer.cluster_of)}
    places = np.cumsum(reviewer.distinct) - 1
    order = purity.shuffled(result, seed)
    probabilities, told = result.probabilities, [found, after]
    frame = purity.open_frame(reviewer.state, order)
    alone = reviewer.state
    for answers in range(batch, most + 1, batch):
        asked = choose(frame, reviewer.state, probabilities, points, places, batch, round(batch * CHOICES[way]))
        reviewer.answer(asked.rows)
        estimate, _ = purity.purity(frame, reviewer.state)
        before = reviewer.true_purity()
        fixed = reviewer.state.fixed
        alone_labels = np.where(fixed, reviewer.state.labels, alone.labels)
        proposal = learn(result, reviewer.state, points, by_learning(reviewer.actions, len(classes)))
        reviewer.do(Learn(rows=proposal.rows.tolist(), to=proposal.to.tolist(), head=HEAD))
        probabilities, frame = proposal.probabilities, purity.open_frame(reviewer.state, order)
        kinds = np.array([reviewer.cluster_of.get(int(kind), -1) for kind in classes])
        told.append(
            {
                "answers": answers,
                "acc": reviewer.accuracy(reviewer.state.labels),
                "alone": reviewer.accuracy(alone_labels),
                "head": reviewer.accuracy(np.where(fixed, proposal.labels, proposal.probabilities.argmax(axis=1))),
                "changed": len(proposal.rows),
                "mended": int((proposal.to == kinds[proposal.rows]).sum()),
                "spoilt": int((proposal.now == kinds[proposal.rows]).sum()),
                "clusters": len(reviewer.cluster_of),
                "prior": proposal.prior,
                "purity": [estimate.estimate, estimate.low, estimate.high, before],
                "seconds": proposal.seconds,
            }
        )
    return told


def report(head: str, measured: dict[str, list[dict[str, Any]]], answers: list[int]) -> str:
    """Markdown: accuracies by number of answers, what changed, and how purity was estimated."""
    lines = [head, "", "Accuracy, mean (least) over runs and orders; `as found` is before a look at the cards.", ""]
    lines += ["| set | questions | as found | " + " | ".join(f"{n} answers" for n in answers) + " |"]
    lines += ["|---" * (3 + len(answers)) + "|"]
    for name, runs in measured.items():
        for way in CHOICES:
            for key, label in (("acc", way), ("alone", f"{way}, answers alone")):
                cells = []
                for n in [-1, *answers]:
                    values = [at[key] for at in every(runs, way, n) if key in at]
                    cells.append(f"{np.mean(values):.3f} ({min(values):.3f})" if values else "")
                lines.append(f"| {name} | {label} | {' | '.join(cells)} |")
    lines += [
        "",
        "Images changed by learning, to the right cluster and from it, on average; `head`: accuracy by the head.",
        "",
    ]
    columns = [*CHANGES, "head", "seconds", "purity before", "in its interval"]
    lines += ["| set | questions | answers | " + " | ".join(columns) + " |", "|---" * (3 + len(columns)) + "|"]
    for name, runs in measured.items():
        for way in CHOICES:
            for n in [n for n in answers if n]:
                rows = every(runs, way, n)
                mean = {key: np.mean([at[key] for at in rows]) for key in (*CHANGES, "head", "seconds")}
                cells = [f"{mean[key]:.1f}" for key in CHANGES] + [f"{mean['head']:.3f}", f"{mean['seconds']:.1f}"]
                estimates = [at["purity"] for at in rows]
                inside = sum(low - 1e-9 <= true <= high + 1e-9 for _, low, high, true in estimates)
                cells += [f"{np.mean([true for *_, true in estimates]):.3f}", f"{inside} of {len(rows)}"]
                lines.append(f"| {name} | {way} | {n} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def every(runs: list[dict[str, Any]], way: str, answers: int) -> list[dict[str, Any]]:
    """What was measured at so many answers, over runs and orders."""
    return [at for run in runs for told in run[way] for at in told if at["answers"] == answers]


def picture(measured: dict[str, list[dict[str, Any]]], answers: list[int]) -> str:
    """The curves, SVG."""
    panels = {}
    for name, runs in measured.items():
        panels[name] = [
            Curve(
                {"ours": "questions that help most", "random": "random questions"}[way],
                [(n, float(np.mean([at["acc"] for at in every(runs, way, n)]))) for n in answers],
                dashed=way == "random",
            )
            for way in CHOICES
        ]
    return draw(panels, "answers", "accuracy")


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder with the data sets' files")
    parser.add_argument("--sets", nargs="+", default=["digits", "mnist_test"], help="NAME, or NAME@CONFIG.json")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each set")
    parser.add_argument("--orders", type=int, default=3, help="random orders of questions for each run")
    parser.add_argument("--answers", type=int, nargs="+", default=[0, 50, 100, 200], help="multiples of a batch")
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--preset", choices=PRESETS, default="quick")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--name", default="reviewer", help="stem of the files with the results")
    parser.add_argument("--commit", help="of the code that made the runs")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--picture", type=Path, help="SVG to write the curves to")
    options = parser.parse_args(words)

    head = about("A simulated reviewer", command(options), device=options.device)
    head += f"\n\nPreset {options.preset}; runs of {f'commit {options.commit}' if options.commit else 'this commit'}."
    measured: dict[str, list[dict[str, Any]]] = {}
    for word in options.sets:
        name, _, file = word.partition("@")
        overrides = json.loads(Path(file).read_text("utf-8")) if file else {}
        kind = "-".join([options.preset, *([Path(file).stem] if file else [])])
        title = name + (f" ({Path(file).stem})" if file else "")
        head += f" {title}: {json.dumps(overrides)}." if file else ""
        images, classes = load(name, options.data)
        asked = {"n_clusters": len(np.unique(classes)), "preset": options.preset, "overrides": overrides}
        measured[title] = []
        for seed in range(options.seeds):
            folder = options.runs / (options.commit or commit()) / kind / f"{name}-{seed}-spice"
            request = make_request(**asked, seed=seed, method="spice")
            result = pipeline.fit(open_source(images), request, folder, device=options.device, progress=Plain())
            points, most = read_embeddings(folder, result.run), max(options.answers)
            found = {}
            for way in CHOICES:
                orders = range(options.orders)
                found[way] = [review(result, classes, points, way, most, options.batch, order) for order in orders]
            measured[title].append(found)
            text = report(head, measured, options.answers)
            write_results(options.out / options.name, text, {"about": head, "sets": measured})
            if options.picture:
                options.picture.write_text(picture(measured, options.answers), "utf-8")


def command(options: argparse.Namespace) -> str:
    """What reproduces the figures; files and folders are those of the reader."""
    words = ["python", "benchmarks/reviewer.py", "--data", "DIR", "--sets"]
    words += [f"{name}{at}{Path(file).name}" for name, at, file in (word.partition("@") for word in options.sets)]
    words += ["--seeds", str(options.seeds), "--orders", str(options.orders)]
    words += ["--answers", *map(str, options.answers), "--preset", options.preset]
    return shlex.join(words)


if __name__ == "__main__":
    main()
