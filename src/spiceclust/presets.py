"""The presets: every number of a run, derived from what the images are.

N images, C clusters, S pixels a side.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple


class Problem(NamedTuple):
    """What the numbers follow from: N, C, S, the domain of the views, and which data set of the paper it is, if one."""

    n: int
    c: int
    side: int
    views: str
    benchmark: str = ""


class Published(NamedTuple):
    """What the paper sets for a data set; what is None, it does not tell, and is as for any other."""

    backbone: str = "resnet34"
    queue: int | None = None
    agreement: float | None = None  # share of an image's neighbours that must have its label


PAPER_BATCH = 128
# Wide ResNets are those of FixMatch, which stage 3 is. A stand-in too small for the batch has a queue that is derived.
PUBLISHED = {
    "cifar10": Published("wrn28_2", 12_800, 0.99),
    "cifar100-20": Published("wrn28_8", 12_800, 0.99),
    "stl10": Published("wrn37_2", 65_536, 0.90),
    "imagenet10": Published("resnet34", 65_536, 0.90),
    "imagenet-dogs15": Published("resnet34", 65_536, 0.90),
    "tiny-imagenet": Published("resnet34", 65_536),
}


def quick(problem: Problem) -> dict[str, Any]:
    """Minutes on a CPU: a small ResNet, and epochs that fall with the square root of N and grow with the image."""
    n, c = problem.n, problem.c
    batch = _power_of_two(n / 32, min(32, n), 64 if n < 20_000 else 128)
    epochs = 5000 / math.sqrt(n)  # what 16 pixels need
    longer = max(1, min(2, problem.side / 16))
    return {
        "backbone": "resnet_small",
        "pretrain": _moco(problem, epochs=max(10, min(300, round(epochs * longer))), batch_size=batch),
        **_clusterings(n, c),
        **_teachers(n, epochs=max(4, min(50, epochs / 6)), batch_size=32, unlabelled_ratio=3),
    }


def standard(problem: Problem) -> dict[str, Any]:
    """One GPU, or patience: ResNet-18 and a few hundred epochs."""
    n, c = problem.n, problem.c
    epochs = max(100, min(800, round(50_000 / math.sqrt(n))))
    return {
        "backbone": "resnet18",
        "pretrain": _moco(problem, epochs=epochs, batch_size=_power_of_two(n / 32, min(32, n), 512)),
        **_clusterings(n, c),
        **_teachers(n, epochs=max(20, epochs // 6), batch_size=64, unlabelled_ratio=7),
    }


def paper(problem: Problem) -> dict[str, Any]:
    """The published schedule: ResNet-34, 1,000 epochs, M = 100 C, five passes, K up to 100, 2^20 FixMatch steps.

    On a data set of the paper also its encoder, queue and agreement (`PUBLISHED`).
    """
    n, c = problem.n, problem.c
    batch = _power_of_two(n / 8, min(32, n), PAPER_BATCH)
    scan = _scan(n, c)
    clusterings = _clusterings(n, c)
    published = PUBLISHED.get(problem.benchmark, Published())
    if published.agreement:
        clusterings["select"]["agreement"] = published.agreement
    queue = {"queue_size": published.queue} if published.queue and batch == PAPER_BATCH else {}
    return {
        "backbone": published.backbone,
        "pretrain": {
            **queue,
            "epochs": 1000,
            "batch_size": batch,
            "key_momentum": 0.999,
            "temperature": 0.2,
            "learning_rate": 0.015,
            "weight_decay": 1e-4,
            "warmup": 0.0,
            "neighbors": 1,
            "neighbor_share": 0.0,
        },
        **clusterings,
        "embed": {"cached_views": 40},
        "self_label": {**_heads(n, c), "passes": 5},
        "semi": {"steps": 2**20, "batch_size": 64},
        "scan": {**scan, "steps": 100 * n // scan["batch_size"], "learning_rate": 1e-4},
        "confident": {"steps": max(1, 200 * n // 128), "batch_size": 128, "learning_rate": 0.01},
    }


PRESETS: dict[str, Callable[[Problem], dict[str, Any]]] = {"quick": quick, "standard": standard, "paper": paper}
MAX_SIZE = {"quick": 32, "standard": 96, "paper": 224}


def _moco(problem: Problem, *, epochs: int, batch_size: int) -> dict[str, Any]:
    return {
        "neighbors": max(1, min(5, problem.n // 40)),
        "neighbor_share": 0.0 if problem.views == "glyph" else 0.5,  # they part what lies in pieces (docs/log.md)
        "epochs": epochs,
        "batch_size": batch_size,
        "temperature": 0.5,
        "learning_rate": 0.06 * max(1.0, batch_size / 128),
        "weight_decay": 5e-4,
    }


def _clusterings(n: int, c: int) -> dict[str, Any]:
    """Stage 2 of all methods, with what comes before and after it."""
    return {
        "embed": {"cached_views": 8},
        "graph_label": _graph_heads(n, c),
        "self_label": _heads(n, c),
        "select": {"max_neighbors": _max_neighbors(n, c)},
        "scan": _scan(n, c),
    }


def _graph_heads(n: int, c: int) -> dict[str, Any]:
    batch_size = min(128, n)
    return {
        "neighbors": max(1, min(100, n // (3 * c))),
        "batch_size": batch_size,
        "steps": max(600, min(3000, 5 * n // batch_size)),
    }


def _heads(n: int, c: int) -> dict[str, Any]:
    meta_batch = min(n, 100 * c)
    return {
        "meta_batch": meta_batch,
        "batch_size": min(128, meta_batch),
        "rounds": max(60, min(600, 60 * n // meta_batch)),
    }


def _max_neighbors(n: int, c: int) -> int:
    return max(1, min(100, n // (2 * c)))


def _teachers(n: int, *, epochs: float, batch_size: int, unlabelled_ratio: int) -> dict[str, Any]:
    """Stage 3 of all methods: the same steps, and as many unlabelled images in each."""
    images = batch_size * unlabelled_ratio
    steps = max(20, round(epochs * n / images))
    shared = {
        "steps": steps,
        "learning_rate": 0.01,  # the published 0.03 can undo a short run from a trained encoder (docs/log.md)
        "ema": min(0.999, 1 - 10 / (steps + 10)),
    }
    return {
        "semi": {**shared, "batch_size": batch_size, "unlabelled_ratio": unlabelled_ratio},
        "confident": {**shared, "batch_size": images},
    }


def _scan(n: int, c: int) -> dict[str, Any]:
    batch_size = _power_of_two(10 * c, min(128, n), min(1024, n))  # the paper's 128 for 10 clusters, 1024 for many
    return {
        "neighbors": min(20, _max_neighbors(n, c)),
        "batch_size": batch_size,
        "steps": max(1000, min(5000, 100 * n // batch_size)),
        "learning_rate": 0.005,
    }


def _power_of_two(value: float, low: int, high: int) -> int:
    return max(low, min(high, 1 << round(math.log2(max(value, 1)))))
