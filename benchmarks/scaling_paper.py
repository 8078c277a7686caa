"""What a fit of many images takes, on paper: bytes, traffic and GPU-hours, for the tables of docs/scaling.md.

    python benchmarks/scaling_paper.py      # writes them anew

Each formula is one array of the code; a test holds those that are written to disk against a run. Steps, epochs and
batches are those of the preset `standard`, operations are counted on the networks. Rates and prices are assumptions.
N images, S pixels a side, D features, V views, K neighbours, C clusters, H heads of a kind, G clusterings that go on.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from spiceclust.models.encoders import build_encoder
from spiceclust.models.resnet import ResNet
from spiceclust.presets import Problem, standard

PAGE: Final = Path(__file__).parents[1] / "docs/scaling.md"
SIZES: Final = {"1 M": 10**6, "100 M": 10**8, "10 B": 10**10}
CLUSTERS, CLUSTERINGS, HEADS = 100, 2, 10
PROCESSES: Final = 8  # of one machine, a GPU each
PEAK, SHARE = 989e12, 0.25  # operations/s of an H200 in bf16, dense, and the share of them that trainings reach
MATMUL, MATMUL_SHARE = 67e12, 0.5  # the same in float32, in which neighbours are sought
DOLLARS: Final = 4.0  # for an hour of an H200
DOLLARS_STORED: Final = 0.023  # for a GB and month
GPU_MEMORY, HOST_MEMORY = 141e9, 2e12  # bytes of an H200, and of a machine with eight
ROW: Final = 460  # bytes of a manifest's row as Python objects, with a path of 40 letters; a test measures it
PATH: Final = 40
EVERY, FIRST, THREE = "every process", "process 0", "processes 0 to 2, a way to cluster each"


@dataclass(frozen=True)
class Case:
    """A network on images of a size."""

    name: str
    side: int
    n_features: int
    make: Callable[[], nn.Module]

    @cached_property
    def operations(self) -> float:
        """Of one image, forward; a multiplication with its addition are two."""
        with torch.device("meta"), FlopCounterMode(display=False) as counter:
            self.make()(torch.empty(1, 3, self.side, self.side))
        return float(counter.get_total_flops())

    @cached_property
    def parameters(self) -> int:
        with torch.device("meta"):
            return sum(each.numel() for each in self.make().parameters())

    def letters(self, n: int) -> dict[str, float]:
        settings = self.settings(n)
        return {
            "S": self.side,
            "D": self.n_features,
            "C": CLUSTERS,
            "H": HEADS,
            "G": CLUSTERINGS,
            "V": settings["embed"]["cached_views"],
            "K": settings["select"]["max_neighbors"],
            "p": PATH,
        }

    def settings(self, n: int) -> dict[str, Any]:
        return standard(Problem(n, CLUSTERS, self.side, "natural"))


def _small() -> nn.Module:
    return build_encoder("resnet18", 3, 32, [0.5] * 3, [0.25] * 3, 0).backbone


CASES: Final = (
    Case("32 px, ResNet-18", 32, 512, _small),
    Case("224 px, ResNet-50", 224, 2048, lambda: ResNet("resnet50")),
)


class Kept(NamedTuple):
    """An array: bytes of one image by a formula in the letters above.

    Attributes:
        step: of the run.
        what: the array.
        formula: in the letters, as it is shown and computed.
        where: who holds it.
        until: `end`, or `step` where it passes with the step.
    """

    step: str
    what: str
    formula: str
    where: str
    until: str = "step"

    def bytes(self, letters: dict[str, float]) -> float:
        return value(self.formula, letters)


def value(formula: str, letters: dict[str, float]) -> float:
    """A formula such as `4 D + 2 V D`, in which letters that follow one another are multiplied."""
    product = re.sub(r"(?<=[\w)])\s+(?=[\w(])", " * ", formula.replace("²", "**2"))
    return float(eval(product, {"__builtins__": {}}, letters))  # of this file


MEMORY: Final = (
    Kept("reading", "manifest, Python objects", str(ROW), FIRST, "end"),
    Kept("reading", "pixels", "3 S²", EVERY, "end"),
    Kept("1-pretrain", "order of an epoch", "8", EVERY),
    Kept("1-pretrain", "embeddings in which partners are sought, gathered", "8 D", EVERY),
    Kept("1-pretrain", "partners", "40", EVERY),
    Kept("2-embed", "plain", "4 D", EVERY, "end"),
    Kept("2-embed", "weak and strong views", "4 V D", EVERY, "end"),
    Kept("2-embed", "neighbours", "4 K", EVERY, "end"),
    Kept("2-embed", "views of a kind before they are stacked", "2 V D", EVERY),
    Kept("3-self", "logits and probabilities of all heads", "8 H C", THREE),
    Kept("3-self, SCAN", "logits of images and neighbours, of which scores are made", "20 H C", THREE),
    Kept("4-select", "labels of neighbours", "21 K", FIRST),
    Kept("5-semi", "order, last predictions", "16", EVERY),
    Kept("guard", "probabilities and embeddings of two classifiers, gathered", "16 (D + C)", EVERY),
    Kept("guard", "neighbours in the features of stage 3", "12 K", EVERY),
    Kept("end", "probabilities and embeddings, before and after", "16 (D + C)", EVERY),
)
DISK: Final = (
    Kept("2-embed", "plain, views, neighbours", "4 D + 4 V D + 4 K", FIRST, "end"),
    Kept("3-self", "labels of all heads; probabilities, opinions", "G (2 H + 8 C)", FIRST, "end"),
    Kept("4-select", "labels, reliable", "9 G", FIRST, "end"),
    Kept("end", "result.safetensors", "21 + 4 C", FIRST, "end"),
    Kept("end", "embeddings.safetensors", "2 D", FIRST, "end"),
    Kept("end", "images.parquet, about", "70 + p", FIRST, "end"),
    Kept("end", "clusters.csv, about", "20 + p", FIRST, "end"),
)
TRAFFIC: Final = (
    Kept("reading", "pixels, from process 0", "3 S²", EVERY),
    Kept("1-pretrain", "partners, four times: embeddings and neighbours", "4 (4 D + 40)", EVERY),
    Kept("2-embed", "embeddings in float32, neighbours", "4 D (1 + 2 V) + 8 K", EVERY),
    Kept("3-self", "labels of all heads, probabilities, opinions", "3 (2 H + 4 C) + G (2 H + 8 C)", EVERY),
    Kept("4-select", "labels, reliable, from process 0", "9 G", EVERY),
    Kept("guard", "outputs and neighbours", "G (8 (D + C) + 8 K)", EVERY),
    Kept("end", "outputs, before and after", "8 (D + C)", EVERY),
)  # bytes that a process receives of each image, beside gradients


class Work(NamedTuple):
    """Hours of one GPU, by step."""

    pretrain: float
    embed: float
    neighbours: float
    semi: float
    rest: float

    @property
    def all(self) -> float:
        return sum(self)


def work_of(case: Case, n: int) -> Work:
    """A pass forward is F operations, forward and back 3 F: a step of stage 1 takes 4 F of an image, one of stage 3 of
    the paper 4 F of an unlabelled image and 3 F of a labelled one. Neighbours are all pairs."""
    settings = case.settings(n)
    forward = case.operations / (PEAK * SHARE) / 3600
    pairs = 2 * float(n) ** 2 * case.n_features / (MATMUL * MATMUL_SHARE) / 3600
    pretrain, semi = settings["pretrain"], settings["semi"]
    views = 1 + 2 * settings["embed"]["cached_views"]
    labelled, unlabelled = semi["batch_size"], semi["batch_size"] * semi["unlabelled_ratio"]
    searches = 4 + 1 + CLUSTERINGS  # for partners, of the embed stage, in the features of stage 3
    return Work(
        pretrain=n * pretrain["epochs"] * 4 * forward,
        embed=n * views * forward,
        neighbours=searches * pairs,
        semi=CLUSTERINGS * semi["steps"] * (4 * unlabelled + 3 * labelled) * forward,
        rest=n * (4 + 2 * CLUSTERINGS + 2) * forward,
    )


def gradients_of(case: Case, n: int) -> float:
    """Bytes that a process sends and receives of gradients in stages 1 and 3, in float32, by a ring of all."""
    settings = case.settings(n)
    steps = settings["pretrain"]["epochs"] * n // settings["pretrain"]["batch_size"]
    steps += CLUSTERINGS * settings["semi"]["steps"]
    return 2 * (PROCESSES - 1) / PROCESSES * 4 * case.parameters * steps


def peak_of(case: Case, n: int, where: str) -> tuple[float, str]:
    """The most bytes of an image at a time, and the step of that: what stays so far, and what passes.

    Args:
        where: `FIRST`, which holds whatever there is, or `EVERY`, for those that hold no more than all do.
    """
    letters = case.letters(n)
    stays, most, step = 0.0, 0.0, ""
    for name in dict.fromkeys(each.step for each in MEMORY):
        held = [each for each in MEMORY if each.step == name and (where == FIRST or each.where == EVERY)]
        stays += sum(each.bytes(letters) for each in held if each.until == "end")
        now = stays + sum(each.bytes(letters) for each in held if each.until != "end")
        if now > most:
            most, step = now, name
    return most, step


def total(arrays: tuple[Kept, ...], case: Case, n: int) -> float:
    return n * sum(each.bytes(case.letters(n)) for each in arrays)


def limits(case: Case) -> list[tuple[str, float]]:
    """What ends first as N grows, with the N at which it does."""
    letters = case.letters(10**9)
    on_gpu = {each.what: each.bytes(letters) for each in MEMORY}
    embedded = sum(on_gpu[what] for what in ("plain", "weak and strong views", "neighbours"))
    pixels = on_gpu["pixels"]
    found = [
        ("exact neighbours on a CPU (faiss beyond)", 200_000.0),
        ("t-SNE for the map (PCA beyond)", 50_000.0),
        ("cached views and embeddings in a GPU's memory", GPU_MEMORY / (embedded + 2 * letters["V"] * letters["D"])),
        (
            f"pixels in a machine's memory, {PROCESSES} processes (a mapped file beyond)",
            HOST_MEMORY / (PROCESSES * pixels),
        ),
        ("manifest as Python objects in a tenth of a machine's memory", HOST_MEMORY / 10 / ROW),
        ("neighbours as int32", 2.0**31),
        ("all pairs cost as much as stage 1", n_where_pairs_take_over(case)),
    ]
    return sorted(found, key=lambda each: each[1])


def n_where_pairs_take_over(case: Case) -> float:
    low, high = 1e4, 1e13
    while high / low > 1.01:
        middle = math.sqrt(low * high)
        work = work_of(case, round(middle))
        low, high = (middle, high) if work.neighbours < work.pretrain else (low, middle)
    return low


def tables() -> dict[str, str]:
    """Markdown, by name."""
    return {
        "memory": _arrays(MEMORY, "held by"),
        "disk": _arrays(DISK, "written by"),
        "traffic": _arrays(TRAFFIC, "received by"),
        "totals": _totals(),
        "work": _work(),
        "limits": _limits(),
    }


def _arrays(arrays: tuple[Kept, ...], head: str) -> str:
    lines = [
        f"| step | array | bytes of an image | {' | '.join(case.name for case in CASES)} | {head} |",
        "|---" * (4 + len(CASES)) + "|",
    ]
    for each in arrays:
        cells = [f"{each.bytes(case.letters(10**6)):,.0f}" for case in CASES]
        stays = ", to the end" if each.until == "end" and arrays is MEMORY else ""
        lines.append(f"| {each.step} | {each.what} | {each.formula} | {' | '.join(cells)} | {each.where}{stays} |")
    return "\n".join(lines)


def _totals() -> str:
    heads = ("", "images", "memory of process 0, most in", "of the others", "run folder", "a month")
    lines = [f"| {' | '.join((*heads, 'traffic of a process', 'of it gradients'))} |", "|---" * 8 + "|"]
    for case in CASES:
        for name, n in SIZES.items():
            (first, step), (others, _) = (peak_of(case, n, where) for where in (FIRST, EVERY))
            disk, gradients = total(DISK, case, n), gradients_of(case, n)
            cells = [f"{size(n * first)}, {step}", size(n * others), size(disk), money(disk / 1e9 * DOLLARS_STORED)]
            cells += [size(total(TRAFFIC, case, n) + gradients), size(gradients)]
            lines.append(f"| {case.name} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _work() -> str:
    names = ["stage 1", "views embedded", "neighbours", "stage 3", "guard and end"]
    lines = [f"| | images | epochs | {' | '.join(names)} | all | cost | `predict` instead |", "|---" * 11 + "|"]
    for case in CASES:
        for name, n in SIZES.items():
            work = work_of(case, n)
            predicted = n * case.operations / (PEAK * SHARE) / 3600
            cells = [str(case.settings(n)["pretrain"]["epochs"]), *(hours(each) for each in work), hours(work.all)]
            cells += [money(work.all * DOLLARS), f"{hours(predicted)}, {money(predicted * DOLLARS)}"]
            lines.append(f"| {case.name} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _limits() -> str:
    lines = ["| what | " + " | ".join(f"{case.name}, images" for case in CASES) + " |", "|---" * (1 + len(CASES)) + "|"]
    by_case = [dict(limits(case)) for case in CASES]
    lines += [f"| {what} | {' | '.join(count(each[what]) for each in by_case)} |" for what, _ in limits(CASES[0])]
    return "\n".join(lines)


def size(number: float) -> str:
    for unit, step in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9)):
        if number >= step:
            return f"{rounded(number / step)} {unit}"
    return f"{rounded(number / 1e6)} MB"


def money(number: float) -> str:
    return f"${rounded(number)}"


def hours(number: float) -> str:
    return f"{rounded(number)} h"


def count(number: float) -> str:
    for unit, step in (("B", 1e9), ("M", 1e6)):
        if number >= step:
            return f"{rounded(number / step)} {unit}"
    return f"{rounded(number)}"


def rounded(number: float) -> str:
    """Two digits that count: more would be a pretence."""
    if number == 0:
        return "0"
    places = 1 - math.floor(math.log10(abs(number)))
    return f"{round(number, places):,.{max(0, places)}f}"


def page_with(text: str, found: dict[str, str]) -> str:
    """The page with its tables put between their marks, `<!-- table NAME -->` and `<!-- end -->`."""
    for name, table in found.items():
        mark = f"<!-- table {name} -->"
        before, after = text.split(mark)
        _, end, rest = after.partition("<!-- end -->")
        text = f"{before}{mark}\n{table}\n{end}{rest}"
    return text


if __name__ == "__main__":
    PAGE.write_text(page_with(PAGE.read_text("utf-8"), tables()), "utf-8")
