"""What a fit costs on this machine: a second of the pipeline on few images, scaled by passes and steps.

N distinct readable images, C clusters, D features, B images in a batch.
"""

from __future__ import annotations

import math
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch

from spiceclust import course, pipeline
from spiceclust.config import FitConfig, Request, SelfLabelConfig
from spiceclust.data.sources import open_source
from spiceclust.data.views import Views
from spiceclust.given import Given
from spiceclust.models.encoders import build_encoder
from spiceclust.models.heads import ClusterHeads
from spiceclust.training.context import open_context, open_device
from spiceclust.training.inference import batch_of, embed_images
from spiceclust.training.lanes import open_lanes

PROBE: Final = 1.0  # seconds
TRAINED: Final = 3  # what a pass forward and back costs, in forward passes


class Costs(NamedTuple):
    """What a fit takes.

    Attributes:
        steps: optimiser steps of each stage that trains.
        seconds: of each stage.
        memory: bytes at the most.
    """

    steps: dict[str, int]
    seconds: dict[str, float]
    memory: int


def estimate(n: int, extra: int, config: FitConfig, request: Request, given: Given | None, device: str) -> Costs:
    """Trains for a second, or lets a given encoder embed for one, to see how long all would take.

    Args:
        n: N.
        extra: images that only stage 1 sees.
        config: what the fit would do.
        request: what was asked for.
        given: the encoder, where it is not learned; its weights are loaded, as the fit would load them.
        device: where it would be computed.

    Raises:
        ConfigError: the weights of the encoder cannot be had, or do not fit.
    """
    steps = count_steps(config, n + extra, given)
    if given is None:
        one = _time_pretraining(n, config, request, device) / (config.pretrain.batch_size * (1 + TRAINED))
        channels = config.channels
        statistics = [0.0] * channels, [1.0] * channels
        n_features = build_encoder(config.backbone, channels, config.image_size, *statistics, seed=0).n_features
    else:
        one, n_features = _time_passes(config, given, device), given.design.n_features
    place = open_device(device)
    with open_lanes(place):
        head_step = _time_heads(config, n_features, place)
    return Costs(steps, count_seconds(config, n, extra, steps, one, head_step), _memory(config, n, n_features))


def count_steps(config: FitConfig, n: int, given: Given | None) -> dict[str, int]:
    """Optimiser steps by stage; stage 3 has those of all ways to cluster, each stage 5 its own.

    Args:
        config: of the fit.
        n: images that stage 1 sees.
        given: the encoder, where it is not learned.
    """
    label = config.self_label
    heads = {
        "prototypes": label.rounds * label.passes * math.ceil(label.meta_batch / label.batch_size),
        "cuts": config.graph_label.steps,
        "neighbors": config.scan.steps,
    }
    method = course.METHODS[config.method]
    steps = {
        "1-pretrain": max(1, config.pretrain.epochs * n // config.pretrain.batch_size),
        "3-self": sum(heads[name] for name in method.clusterings),
        "5-semi": getattr(config, method.retraining_part).steps * min(2, len(method.clusterings)),
    }
    if given:
        del steps["1-pretrain"]
        if given.vectors:
            del steps["5-semi"]
    return steps


def count_seconds(
    config: FitConfig, n: int, extra: int, steps: dict[str, int], one: float, head_step: float
) -> dict[str, float]:
    """By stage: what passes images through the encoder costs by the passes, what trains heads alone by the steps.

    In stage 1 a step passes B views forward and back, and B through the average. Of a retraining the labelled views and
    the strong ones go forward and back, the weak ones through the average.

    Args:
        config: of the fit.
        n: N.
        extra: images that only stage 1 sees.
        steps: of `count_steps`.
        one: seconds of a pass of one view through the encoder.
        head_step: seconds of a step of ten heads.
    """
    settings = config.pretrain
    sought = 10 * (1 - settings.neighbor_start) * _filled(n + extra, config) if settings.neighbor_share else 0
    views = _filled(n, config) * (1 + 2 * config.embed.cached_views)
    part = course.METHODS[config.method].retraining_part
    if part == "semi":
        unlabelled = config.semi.batch_size * config.semi.unlabelled_ratio
        taught = unlabelled + TRAINED * (config.semi.batch_size + unlabelled)
    else:
        taught = config.confident.batch_size * (1 + TRAINED)
    fresh = 0 if config.embed.cached_views else _fresh(config.self_label)
    seconds = {"2-embed": one * views, "3-self": (head_step + one * fresh) * steps["3-self"]}
    if "1-pretrain" in steps:
        seconds = {"1-pretrain": one * (settings.batch_size * (1 + TRAINED) * steps["1-pretrain"] + sought)} | seconds
    if "5-semi" in steps:
        step = one * taught if getattr(config, part).train_encoder else head_step  # the head alone, on features
        seconds["5-semi"] = step * steps["5-semi"] + 6 * one * _filled(n, config)  # with those that judge and ship
    return seconds


def _fresh(settings: SelfLabelConfig) -> float:
    """Views that a step embeds, where none are cached: in a round M weak ones, and M strong ones in each pass."""
    steps = settings.passes * math.ceil(settings.meta_batch / settings.batch_size)
    return settings.meta_batch * (1 + settings.passes) / steps


def _filled(n: int, config: FitConfig) -> int:
    """As many images as pass when n do: the last batch is filled up."""
    batch = _batch(config)
    return math.ceil(n / batch) * batch


def _batch(config: FitConfig) -> int:
    """B of the passes through an encoder."""
    return batch_of(torch.empty(1, config.channels, config.image_size, config.image_size))


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


def _time_passes(config: FitConfig, given: Given, device: str) -> float:
    """Seconds of a pass of one view through a given encoder, in the batches of stage 2; of embeddings there is none."""
    if given.vectors:
        return 0.0
    encoder = given.build()
    encoder.load_state_dict(dict(given.weights()))
    context = open_context(config.seed, device, None)
    encoder.to(context.device).eval()
    batch, side = _batch(config), config.image_size
    noise = torch.randint(256, (batch, config.channels, side, side), dtype=torch.uint8).to(context.device)
    views, draws = Views(config.views), context.generator("probe")

    def embed() -> float:
        start = time.perf_counter()
        float(embed_images(encoder, noise, lambda part, _: views.strong(part, draws), context).sum())
        return time.perf_counter() - start

    embed()  # the first one warms up
    taken = [embed()]
    while sum(taken) < PROBE:
        taken.append(embed())
    return sum(taken) / len(taken) / batch


def _time_heads(config: FitConfig, n_features: int, place: torch.device) -> float:
    """Seconds of a step of ten heads, forward, back and Adam, on features that all are one."""
    heads = ClusterHeads(config.self_label.heads, n_features, config.n_clusters, seed=0).to(place)
    optimizer = torch.optim.Adam(heads.parameters())
    features = torch.ones(config.self_label.batch_size, n_features, device=place)
    start, steps = time.perf_counter(), 0
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
