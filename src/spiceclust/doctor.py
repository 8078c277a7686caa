"""What a fit would find and do: the files, what is chosen for them, and what it costs on this machine.

N distinct readable images, C clusters, D features, S pixels a side.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from typing import Final, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from spiceclust.config import FitConfig, Request, encoder_kind, image_size, resolve
from spiceclust.costs import Costs, estimate
from spiceclust.data.arrays import Array
from spiceclust.data.domain import choose_domain, looked_at
from spiceclust.data.images import Images, load, planes, readers
from spiceclust.data.room import bytes_of, in_gb, in_memory
from spiceclust.data.sources import Source
from spiceclust.errors import ConfigError, SourceError
from spiceclust.facts import facts_of, why_these_views
from spiceclust.given import NOTHING, Given, open_encoder
from spiceclust.manifest import Row
from spiceclust.progress import Progress, Silent
from spiceclust.training.context import open_device

NEAR: Final = 0.998  # correlation of two thumbnails that show one picture saved twice (docs/log.md)
THUMB: Final = 16  # pixels
PAIRS: Final = 10**9  # thumbnails compared at most


class Plan(NamedTuple):
    """What a fit would do, and its cost.

    Attributes:
        config: the whole config.
        views: why its views fit.
        costs: steps, seconds and memory.
        disk: bytes of pixels that are kept in the run folder while it goes on; 0 where memory takes them.
    """

    config: FitConfig
    views: str
    costs: Costs
    disk: int


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


def examine(
    source: Source,
    request: Request,
    *,
    device: str = "auto",
    progress: Progress | None = None,
    pixels: str = "auto",
) -> Findings:
    """Reads the images as a fit would, and trains for a second to see how long it would take.

    Where a fit would keep pixels on disk, none are written here: thumbnails are looked at, and a thousand images.

    Args:
        source: the images.
        request: what is wanted.
        device: where it would be computed.
        progress: told of each image.
        pixels: as in `pipeline.fit`.

    Raises:
        SourceError: no readable images.
        ConfigError: the device cannot be used, or there is no such encoder.
        RunFolderError: the encoder is of a run that has no finished model.
    """
    place = open_device(device)
    native = source.native_size()
    given = open_encoder(request, native, NOTHING)
    size, channels = _looks(request, native, given)
    fits = in_memory(pixels, bytes_of(source, size, channels))
    images = load(source, size if fits else min(THUMB, size), channels, progress or Silent())
    near, compared = _near_duplicates(images)
    looks = torch.from_numpy(images.pixels if fits else _some(source, images, size))
    try:
        plan, refusal = _plan(images, looks, source, native, request, given, place), ""
    except (ConfigError, SourceError) as error:
        plan, refusal = None, str(error)
    if plan is not None and not fits:
        plan = plan._replace(disk=math.prod(images.pixels.shape[:2]) * size**2)
    return Findings(images.rows, near, compared, native, plan, refusal)


def _looks(request: Request, native: int, given: Given | None) -> tuple[int, Literal[1, 3] | None]:
    """Size and channels in which the images are read: as a fit reads them, but for the pictures of embeddings."""
    if given is None:
        return image_size(request, native), None
    return (THUMB if given.vectors else given.design.image_size), given.design.channels


def _some(source: Source, images: Images, size: int) -> NDArray[np.uint8]:
    """The images that decide on views, in full size: (m, channels, size, size) uint8."""
    channels: Literal[1, 3] = 1 if images.pixels.shape[1] == 1 else 3
    rows = np.flatnonzero([row.status == "ok" for row in images.rows])[looked_at(len(images.pixels)).numpy()]
    with readers(source) as pool:
        found = pool.map(lambda i: source.read(range(i, i + 1), size)[0][1], rows.tolist())
        return np.stack([planes(picture, channels) for picture in found if picture is not None])


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


def _plan(
    images: Images,
    looks: Tensor,
    source: Source,
    native: int,
    request: Request,
    given: Given | None,
    device: torch.device,
) -> Plan:
    domain = choose_domain(looks)
    config = resolve(request, facts_of(images, native, domain, source.benchmark, given))
    views = why_these_views(request, domain, given)
    if given and given.vectors:
        given.vectors.of(images)  # refuses those of others
    else:
        views = f"{config.views}, {views}"
    extra = len(source.extra) if isinstance(source, Array) and source.extra is not None else 0
    return Plan(config, views, estimate(len(images.pixels), extra, config, request, given, str(device)), 0)


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
    total = sum(plan.costs.seconds.values())
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    parts = ", ".join(f"{name} {_about(seconds)}" for name, seconds in plan.costs.seconds.items())
    counted = ", ".join(f"{name} {steps:,}" for name, steps in plan.costs.steps.items())
    return [
        f"clusters     {c}{example}: {n / c:,.0f} images in each, if all were equal; at most {n // 2:,} are possible",
        f"views        {plan.views}",
        f"chosen       {_chosen(config)}",
        f"steps        {counted}",
        f"time         about {_about(total)} on this machine as it is now: {parts}",
        f"memory       about {plan.costs.memory / 2**30:.1f} of {there / 2**30:.1f} GB",
        *([f"disk         {in_gb(plan.disk)} of pixels in the run folder until it is done"] if plan.disk else []),
    ]


def _chosen(config: FitConfig) -> str:
    kind = encoder_kind(config.encoder)
    size = f"{config.image_size} x {config.image_size} pixels, {'grey' if config.channels == 1 else 'colour'}, "
    if kind == "moco":
        return f"{size}{config.backbone}, method {config.method}, {config.pretrain.epochs} epochs of stage 1"
    return f"{'' if kind == 'embeddings' else size}{config.encoder}, method {config.method}"


def _about(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h"
