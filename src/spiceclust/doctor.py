"""What a fit would find and do: the files, what is chosen for them, and what it costs on this machine.

N distinct readable images, C clusters, D features, S pixels a side, B images in a batch.
"""

from __future__ import annotations

import math
import os
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from spiceclust import pipeline
from spiceclust.config import Facts, FitConfig, Request, image_size, resolve
from spiceclust.data.domain import choose_domain
from spiceclust.data.images import Images, load
from spiceclust.data.sources import Source, open_source
from spiceclust.errors import SourceError
from spiceclust.manifest import Row
from spiceclust.models.encoders import build_encoder
from spiceclust.models.heads import ClusterHeads
from spiceclust.progress import Progress, Silent
from spiceclust.training.context import open_device
from spiceclust.training.lanes import open_lanes

NEAR: Final = 0.998  # correlation of two thumbnails that show one picture saved twice (docs/log.md)
THUMB: Final = 16  # pixels
PAIRS: Final = 10**9  # thumbnails compared at most
PROBE: Final = 1.0  # seconds
BACKWARD: Final = 2  # what a backward pass costs, in forward passes


class Plan(NamedTuple):
    """What a fit would do, and its cost.

    Attributes:
        config: the whole config.
        views: why its views fit.
        steps: optimiser steps of each stage.
        seconds: of each stage, estimated from a second of stage 1.
        memory: bytes at the most.
    """

    config: FitConfig
    views: str
    steps: dict[str, int]
    seconds: dict[str, float]
    memory: int


class Findings(NamedTuple):
    """What the source holds, and what would become of it.

    Attributes:
        rows: the manifest, a row for each input.
        near: paths of two images that are nearly the same, the later one first; each image with the one likest to it.
        compared: distinct images that were compared with all others.
        native_size: median of the shorter sides, pixels.
        plan: what a fit would do; None where it would refuse.
        refusal: why it would; empty where it would not.
    """

    rows: list[Row]
    near: list[tuple[str, str]]
    compared: int
    native_size: int
    plan: Plan | None
    refusal: str


def examine(source: Source, request: Request, *, device: str = "auto", progress: Progress | None = None) -> Findings:
    """Reads the images as a fit would, and trains for a second to see how long it would take.

    Args:
        source: the images.
        request: what is wanted.
        device: where it would be computed.
        progress: told of each image.

    Raises:
        SourceError: no readable images.
        ConfigError: something in the request cannot be.
    """
    place = open_device(device)
    native = source.native_size()
    images = load(source, image_size(request, native), None, progress or Silent())
    near, compared = _near_duplicates(images)
    try:
        plan, refusal = _plan(images, native, request, place), ""
    except SourceError as error:
        plan, refusal = None, str(error)
    return Findings(images.rows, near, compared, native, plan, refusal)


def _near_duplicates(images: Images) -> tuple[list[tuple[str, str]], int]:
    """Pairs whose thumbnails correlate, and of how many images all were looked for; a sample, where N is large."""
    pixels = torch.from_numpy(images.pixels)
    thumbs = torch.cat([_thumbs(part) for part in torch.split(pixels, 4096)])
    n = len(thumbs)
    sample = torch.linspace(0, n - 1, min(n, max(1, PAIRS // n))).long()
    paths = [row.path for row in images.rows if row.status == "ok"]
    pairs = set()
    for rows in torch.split(sample, 1024):
        alike = thumbs[rows] @ thumbs.T
        alike[torch.arange(len(rows)), rows] = -1
        best, other = alike.max(dim=1)
        for i, j in zip(rows[best >= NEAR].tolist(), other[best >= NEAR].tolist(), strict=True):
            pairs.add((max(i, j), min(i, j)))
    return [(paths[i], paths[j]) for i, j in sorted(pairs)], len(sample)


def _thumbs(pixels: Tensor) -> Tensor:
    """(n, D) float32 grey thumbnails of (n, channels, S, S) uint8, of mean 0 and length 1; of an even picture 0."""
    small = F.adaptive_avg_pool2d(pixels.float().mean(dim=1, keepdim=True), min(THUMB, pixels.shape[-1])).flatten(1)
    return F.normalize(small - small.mean(dim=1, keepdim=True), dim=1, eps=1.0)


def _plan(images: Images, native: int, request: Request, device: torch.device) -> Plan:
    pixels = torch.from_numpy(images.pixels)
    domain = choose_domain(pixels)
    n, channels = images.pixels.shape[:2]
    facts = Facts(n_images=n, native_size=native, channels=3 if channels == 3 else 1, domain=domain.domain)
    config = resolve(request, facts)
    encoder = build_encoder(config.backbone, channels, config.image_size, [0.0] * channels, [1.0] * channels, seed=0)
    steps = _steps(config, n)
    step = _time_pretraining(n, config, request, str(device))
    head_step = _time_heads(config, encoder.n_features, device)
    seconds = _seconds(config, n, steps, step, head_step)
    views = f"chosen: {domain.reason}" if request.views == "auto" else "as asked"
    return Plan(config, views, steps, seconds, _memory(config, n, encoder.n_features))


def _steps(config: FitConfig, n: int) -> dict[str, int]:
    """Optimiser steps by stage; stage 3 has those of all ways to cluster, each stage 5 its own."""
    label = config.self_label
    heads = {
        "prototypes": label.rounds * label.passes * math.ceil(label.meta_batch / label.batch_size),
        "cuts": config.graph_label.steps,
        "neighbors": config.scan.steps,
    }
    method = pipeline.METHODS[config.method]
    return {
        "1-pretrain": max(1, config.pretrain.epochs * n // config.pretrain.batch_size),
        "3-self": sum(heads[name] for name in method.clusterings),
        "5-semi": getattr(config, method.retraining_part).steps * min(2, len(method.clusterings)),
    }


def _seconds(config: FitConfig, n: int, steps: dict[str, int], step: float, head_step: float) -> dict[str, float]:
    """By stage. What passes an image through the encoder costs what it does in stage 1, by the passes.

    There a step passes B views forward and back, and B through the average. Of a retraining the labelled views and the
    strong ones go forward and back, the weak ones through the average.
    """
    trained = 1 + BACKWARD
    settings = config.pretrain
    one = step / (settings.batch_size * (trained + 1))
    sought = 10 * (1 - settings.neighbor_start) * n if settings.neighbor_share else 0
    views = n * (1 + 2 * config.embed.cached_views)
    if pipeline.METHODS[config.method].retraining_part == "semi":
        unlabelled = config.semi.batch_size * config.semi.unlabelled_ratio
        taught = unlabelled + trained * (config.semi.batch_size + unlabelled)
    else:
        taught = config.confident.batch_size * (1 + trained)
    fresh = 0 if config.embed.cached_views else steps["3-self"] * config.self_label.batch_size
    return {
        "1-pretrain": step * steps["1-pretrain"] + one * sought,
        "2-embed": one * views,
        "3-self": head_step * steps["3-self"] + one * fresh,
        "5-semi": one * (taught * steps["5-semi"] + 6 * n),  # with those that judge and those that ship
    }


class _EnoughError(Exception):
    """The probe has what it wants; nothing is wrong."""


class _Stopwatch:
    """Progress that times the steps of stage 1, the first one left out, and ends the run after a second of them."""

    def __init__(self) -> None:
        self.steps, self.seconds = 0, 0.0
        self._first = 0.0
        self._stage_1 = False

    @property
    def per_step(self) -> float:
        """Seconds of a step."""
        return self.seconds / max(1, self.steps)

    def say(self, text: str) -> None: ...

    @contextmanager
    def task(self, name: str, total: int) -> Iterator[_Stopwatch]:
        if self._stage_1:
            raise _EnoughError  # its steps took no second
        self._stage_1 = name.startswith("1 ")
        yield self

    def advance(self, steps: int = 1, note: str = "") -> None:
        if not self._stage_1:
            return
        now = time.perf_counter()
        if not self._first:
            self._first = now
            return
        self.steps, self.seconds = self.steps + steps, now - self._first
        if self.seconds >= PROBE:
            raise _EnoughError


def _time_pretraining(n: int, config: FitConfig, request: Request, device: str) -> float:
    """Seconds of a step of stage 1: the whole pipeline, on as few images as it takes, until it has been seen enough.

    The images are noise: they cost what others do, and no two are the same.
    """
    batch, side = config.pretrain.batch_size, config.image_size
    few = min(n, max(4 * batch, config.self_label.meta_batch, 2 * config.n_clusters))
    noise = np.random.default_rng(0).integers(0, 256, (few, side, side, config.channels), dtype=np.uint8)
    stages = config.model_dump(include={"backbone", "pretrain", "self_label", "graph_label", "select", "scan"})
    stages["pretrain"] |= {"epochs": max(1, 200 * batch // few), "neighbor_share": 0.0}
    asked = request.model_copy(
        update={"overrides": stages, "image_size": config.image_size, "views": config.views, "method": config.method}
    )
    watch = _Stopwatch()
    with tempfile.TemporaryDirectory(prefix="spiceclust-") as folder, suppress(_EnoughError):
        pipeline.fit(open_source(noise), asked, Path(folder), device=device, progress=watch)
    return watch.per_step


def _time_heads(config: FitConfig, n_features: int, device: torch.device) -> float:
    """Seconds of a step of ten heads, forward, back and Adam, on features that all are one."""
    heads = ClusterHeads(config.self_label.heads, n_features, config.n_clusters, seed=0).to(device)
    optimizer = torch.optim.Adam(heads.parameters())
    features = torch.ones(config.self_label.batch_size, n_features, device=device)
    start, steps = time.perf_counter(), 0
    with open_lanes(device):
        while steps < 3 or time.perf_counter() - start < PROBE / 4:
            if steps == 1:
                start = time.perf_counter()  # the first one warms up
            optimizer.zero_grad(set_to_none=True)
            loss = heads(features).log_softmax(dim=2).square().mean()
            loss.backward()
            optimizer.step()
            float(loss.detach())  # waits for an accelerator
            steps += 1
    return (time.perf_counter() - start) / (steps - 1)


def _memory(config: FitConfig, n: int, n_features: int) -> int:
    """Bytes: what this process, which has read and trained, took at the most, and what the later stages keep."""
    views = 2 * config.embed.cached_views * n * n_features * 2
    neighbors = n * config.select.max_neighbors * (8 + 4)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 + views * 3 // 2 + neighbors + n * n_features * 4


def report(findings: Findings, clusters_asked: bool) -> str:
    """Findings as lines for a person.

    Args:
        findings: of `examine`.
        clusters_asked: whether the number of clusters was given, or is an example.
    """
    rows = findings.rows
    status = Counter(row.status for row in rows)
    lines = [
        f"files        {len(rows):,}: {status['ok']:,} distinct images, {status['duplicate']:,} duplicates, "
        f"{status['quarantined']:,} unreadable"
    ]
    reasons = Counter(row.reason for row in rows if row.status == "quarantined").most_common()
    for reason, count in reasons[:10]:
        example = next(row.path for row in rows if row.reason == reason)
        lines.append(f"  {count:,} x {reason}, such as {example!r}")
    if reasons[10:]:
        lines.append(f"  {sum(count for _, count in reasons[10:]):,} for {len(reasons) - 10} other reasons")
    lines.append(_near_line(findings, status["ok"]))
    lines.extend(f"  {first!r} and {second!r}" for first, second in findings.near[:5])
    sides = sorted((row.width, row.height) for row in rows if row.status == "ok")
    shorter = sorted(min(side) for side in sides)
    lines.append(
        f"sizes        shorter side {shorter[0]:,} to {shorter[-1]:,} pixels, median {shorter[len(shorter) // 2]:,}; "
        f"{len(set(sides)):,} different sizes"
    )
    if findings.plan is not None:
        lines += _plan_lines(findings.plan, status["ok"], clusters_asked)
    return "\n".join(lines)


def _near_line(findings: Findings, n: int) -> str:
    sample = "" if findings.compared == n else f", of {findings.compared:,} images that were compared with all"
    return f"near copies  {len(findings.near):,} pairs of images that are nearly the same{sample}"


def _plan_lines(plan: Plan, n: int, clusters_asked: bool) -> list[str]:
    config = plan.config
    c = config.n_clusters
    example = "" if clusters_asked else " (an example: give --clusters)"
    total = sum(plan.seconds.values())
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    parts = ", ".join(f"{name} {_about(seconds)}" for name, seconds in plan.seconds.items())
    counted = ", ".join(f"{name} {steps:,}" for name, steps in plan.steps.items())
    return [
        f"clusters     {c}{example}: {n / c:,.0f} images in each, if all were equal; at most {n // 2:,} are possible",
        f"views        {config.views}, {plan.views}",
        f"chosen       {config.image_size} x {config.image_size} pixels, "
        f"{'grey' if config.channels == 1 else 'colour'}, "
        f"{config.backbone}, method {config.method}, {config.pretrain.epochs} epochs of stage 1",
        f"steps        {counted}",
        f"time         about {_about(total)} on this machine as it is now: {parts}",
        f"memory       about {plan.memory / 2**30:.1f} of {there / 2**30:.1f} GB",
    ]


def _about(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h"
