"""What a run does, in full: one frozen model per stage, and the presets that derive every number from N and C.

N images, C clusters. `resolve` turns the few things a person says (a `Request`) and the few facts about the images
(`Facts`) into a `FitConfig` in which nothing is left open. The resolved config is written to run.json, and each
stage's part of it decides whether that stage must run again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from spiceclust.errors import ConfigError, SourceError

Method = Literal["spice", "spice-paper", "scan"]
Domain = Literal["natural", "aligned", "glyph", "texture"]
Backbone = Literal["resnet_small", "resnet18", "resnet34", "wrn28_2"]
T = TypeVar("T")
M = TypeVar("M", bound="_Frozen")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PretrainConfig(_Frozen):
    """Stage 1, MoCo v2 (He et al. 2020, Chen et al. 2020)."""

    epochs: int = Field(gt=0, description="passes over the N images")
    batch_size: int = Field(gt=1)
    queue_size: int = Field(gt=0, description="past keys, the negatives; no older than the key encoder's memory")
    key_momentum: float = Field(ge=0, lt=1)
    temperature: float = Field(gt=0)
    projection_dim: int = Field(default=128, gt=0)
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    warmup: float = Field(default=0.05, ge=0, lt=1, description="share of the steps in which the rate rises linearly")
    neighbors: int = Field(gt=0, description="nearest images, of which one may stand in for the second view")
    neighbor_share: float = Field(default=0.5, ge=0, le=1, description="share of a batch for which one does")
    neighbor_start: float = Field(default=0.6, ge=0, le=1, description="share of the steps before that begins")


class EmbedConfig(_Frozen):
    """Between stages 1 and 2: plain, weak and strong views through the frozen encoder, once."""

    cached_views: int = Field(default=8, gt=0, description="V weak and V strong views kept of each image")


class GraphLabelConfig(_Frozen):
    """Stage 2 of `spice`: heads that learn partitions of the neighbour graph."""

    heads: int = Field(default=10, gt=0, description="H partitions and heads, of which one is chosen without labels")
    neighbors: int = Field(gt=0, description="K of the graph; a group much smaller than K is held to others")
    groups_per_cluster: int = Field(default=10, gt=1, description="small groups that are parted, in C")
    steps: int = Field(gt=0)
    batch_size: int = Field(default=128, gt=1)
    learning_rate: float = Field(default=0.005, gt=0)


class SelfLabelConfig(_Frozen):
    """Stage 2 of `spice` and `spice-paper`, SPICE-Self (Niu et al. 2022, section III-B)."""

    heads: int = Field(default=10, gt=0, description="H independent heads, of which one is chosen without labels")
    ratio: float = Field(default=0.5, gt=0, le=1, description="share of a cluster's quota that makes its prototype")
    meta_batch: int = Field(gt=1, description="M images labelled together")
    batch_size: int = Field(default=128, gt=1)
    rounds: int = Field(gt=0, description="meta-batches labelled in all")
    passes: int = Field(default=1, gt=0, description="passes over one meta-batch's pseudo-labels")
    learning_rate: float = Field(default=0.005, gt=0)


class SelectConfig(_Frozen):
    """Stage 2b, reliable labels by local consistency (section III-C)."""

    max_neighbors: int = Field(gt=0, description="largest K considered; K itself is derived from the data")
    agreement: float = Field(default=0.95, gt=0, le=1, description="share of the K neighbours that must agree")
    floor: float = Field(default=0.1, gt=0, le=1, description="share of each cluster that is taken at the least")


class TeacherConfig(_Frozen):
    """Stage 3 of any method: a classifier that learns under its own moving average."""

    steps: int = Field(gt=0)
    learning_rate: float = Field(default=0.03, gt=0)
    weight_decay: float = Field(default=5e-4, ge=0)
    ema: float = Field(default=0.999, ge=0, lt=1)


class SemiConfig(TeacherConfig):
    """Stage 3, SPICE-Semi: FixMatch (Sohn et al. 2020) started from stage 1."""

    batch_size: int = Field(gt=0, description="labelled images in a step")
    unlabelled_ratio: int = Field(default=7, gt=0, description="mu: unlabelled images for each labelled one")
    unlabelled_weight: float = Field(default=1.0, ge=0, description="lambda")
    threshold: float = Field(default=0.95, gt=0, lt=1)


class ScanConfig(_Frozen):
    """Stage 2 of SCAN, one of three in `spice` (Van Gansbeke et al. 2020, section 2.2)."""

    heads: int = Field(default=10, gt=0, description="H independent heads, of which the lowest loss chooses one")
    neighbors: int = Field(gt=0, description="K nearest, at most select.max_neighbors")
    entropy_weight: float = Field(default=5.0, ge=0, description="lambda")
    batch_size: int = Field(gt=1, description="images whose mean stands for the clusters' shares")
    steps: int = Field(gt=0)
    learning_rate: float = Field(gt=0)


class ConfidentConfig(TeacherConfig):
    """Stage 3 of SCAN, self-labelling (section 2.3)."""

    batch_size: int = Field(gt=0)
    threshold: float = Field(default=0.99, gt=0, lt=1)
    floor: float = Field(default=0.1, gt=0, le=1, description="share of each cluster that teaches where none is sure")


class FitConfig(_Frozen):
    """Everything that decides what a run computes; two runs with equal configs and images give equal clusters."""

    n_clusters: int = Field(gt=1)
    seed: int = Field(ge=0)
    method: Method
    preset: str
    encoder: str = Field(description="how stage 1 gets its encoder; `moco` learns it from these images")
    backbone: Backbone
    views: Domain
    image_size: int = Field(ge=8, description="pixels; images are resized to a square of this side")
    channels: Literal[1, 3]
    pretrain: PretrainConfig
    embed: EmbedConfig
    graph_label: GraphLabelConfig
    self_label: SelfLabelConfig
    select: SelectConfig
    semi: SemiConfig
    scan: ScanConfig
    confident: ConfidentConfig


class Request(_Frozen):
    """What a person asks for; None means: derive it."""

    n_clusters: int
    seed: int = 0
    method: str = "auto"
    preset: str = "quick"
    encoder: str = "moco"
    views: str = "auto"
    image_size: int | None = None
    overrides: dict[str, Any] = Field(default_factory=dict, description="fields of a FitConfig, nested as in it")


class Facts(_Frozen):
    """What the images say."""

    n_images: int = Field(description="distinct readable images, N")
    native_size: int = Field(description="median of the shorter sides, pixels")
    channels: Literal[1, 3]
    domain: Domain = Field(description="the domain that `auto` would choose")


def quick(n: int, c: int, side: int) -> dict[str, Any]:
    """Minutes on a CPU: a small ResNet, and epochs that fall with the square root of N and grow with the image."""
    batch = _power_of_two(n / 32, min(32, n), 64 if n < 20_000 else 128)
    epochs = 5000 / math.sqrt(n)  # what 16 pixels need
    return {
        "backbone": "resnet_small",
        "pretrain": _moco(n, epochs=max(10, min(300, round(epochs * max(1, min(2, side / 16))))), batch_size=batch),
        "embed": {"cached_views": 8},
        "graph_label": _graph_heads(n, c),
        "self_label": _heads(n, c),
        "select": {"max_neighbors": _max_neighbors(n, c)},
        "scan": _scan(n, c),
        **_teachers(n, epochs=max(4, min(50, epochs / 6)), batch_size=32, unlabelled_ratio=3),
    }


def standard(n: int, c: int, side: int) -> dict[str, Any]:
    """One GPU, or patience: ResNet-18 and a few hundred epochs."""
    epochs = max(100, min(800, round(50_000 / math.sqrt(n))))
    return {
        "backbone": "resnet18",
        "pretrain": _moco(n, epochs=epochs, batch_size=_power_of_two(n / 32, min(32, n), 512)),
        "embed": {"cached_views": 8},
        "graph_label": _graph_heads(n, c),
        "self_label": _heads(n, c),
        "select": {"max_neighbors": _max_neighbors(n, c)},
        "scan": _scan(n, c),
        **_teachers(n, epochs=max(20, epochs // 6), batch_size=64, unlabelled_ratio=7),
    }


def paper(n: int, c: int, side: int) -> dict[str, Any]:
    """The published schedule: ResNet-34, 1,000 epochs, M = 100 C, five passes, K up to 100, 2^20 FixMatch steps."""
    batch = _power_of_two(n / 8, min(32, n), 128)
    scan = _scan(n, c)
    return {
        "backbone": "resnet34",
        "pretrain": {
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
        "embed": {"cached_views": 40},
        "graph_label": _graph_heads(n, c),
        "self_label": {**_heads(n, c), "passes": 5},
        "select": {"max_neighbors": _max_neighbors(n, c)},
        "semi": {"steps": 2**20, "batch_size": 64},
        "scan": {**scan, "steps": 100 * n // scan["batch_size"], "learning_rate": 1e-4},
        "confident": {"steps": max(1, 200 * n // 128), "batch_size": 128, "learning_rate": 0.01},
    }


PRESETS: dict[str, Callable[[int, int, int], dict[str, Any]]] = {"quick": quick, "standard": standard, "paper": paper}
DEFAULT_METHOD: dict[str, Method] = {"quick": "spice", "standard": "spice", "paper": "spice-paper"}
OVERRIDABLE = (
    "backbone", "pretrain", "embed", "graph_label", "self_label", "select", "semi", "scan", "confident",
)  # fmt: skip
MAX_SIZE = {"quick": 32, "standard": 96, "paper": 224}


def make_request(**values: Any) -> Request:
    """A Request, with everything refused that can be refused before an image is opened.

    Raises:
        ConfigError: fewer than two clusters, an unknown method, preset, view domain or encoder, a size out of range, or
            a value of the wrong type.
    """
    request = _validated(Request, values)
    if request.n_clusters < 2:
        raise ConfigError(f"n_clusters={request.n_clusters} should be >= 2: one cluster sorts nothing")
    choose(dict.fromkeys(("auto", *get_args(Method))), request.method, "method")
    choose(PRESETS, request.preset, "preset")
    choose(dict.fromkeys(("auto", *get_args(Domain))), request.views, "views")
    choose({"moco": None}, request.encoder, "encoder")
    for field in request.overrides:
        choose(dict.fromkeys(OVERRIDABLE), field, "config field")
    if request.image_size is not None and not 8 <= request.image_size <= 1024:
        raise ConfigError(f"image_size={request.image_size} should lie between 8 and 1024 pixels")
    if not 0 <= request.seed < 2**63:
        raise ConfigError(f"seed={request.seed} should lie between 0 and 2^63")
    return request


def image_size(request: Request, native_size: int) -> int:
    """The side in pixels to which images are resized: the native one, within 16 and what the preset can afford."""
    if request.image_size is not None:
        return request.image_size
    return max(16, min(MAX_SIZE[request.preset], math.ceil(native_size / 4) * 4))


def resolve(request: Request, facts: Facts) -> FitConfig:
    """Fills in everything that was left open.

    Raises:
        ConfigError: an override names an unknown field or a value out of range.
        SourceError: fewer distinct images than twice the clusters.
    """
    n, c = facts.n_images, request.n_clusters
    if n < 2 * c:
        raise SourceError(
            f"{n} distinct readable images are too few for {c} clusters: at least {2 * c} are needed; "
            f"add images or ask for {f'at most {n // 2}' if n >= 4 else 'fewer'} clusters"
        )
    side = image_size(request, facts.native_size)
    values: dict[str, Any] = {
        "n_clusters": c,
        "seed": request.seed,
        "method": DEFAULT_METHOD[request.preset] if request.method == "auto" else request.method,
        "preset": request.preset,
        "encoder": request.encoder,
        "views": facts.domain if request.views == "auto" else request.views,
        "image_size": side,
        "channels": facts.channels,
        **PRESETS[request.preset](n, c, side),
    }
    max_neighbors = _given(request.overrides, "select", "max_neighbors")
    if isinstance(max_neighbors, int) and max_neighbors > 0:
        for stage in ("graph_label", "scan"):
            values[stage]["neighbors"] = min(values[stage]["neighbors"], max_neighbors)
    for key, value in request.overrides.items():
        values[key] = {**values[key], **value} if isinstance(value, dict) and isinstance(values[key], dict) else value
    _follow(values["pretrain"], n)
    config = _validated(FitConfig, values)
    for stage, field in (("pretrain", "batch_size"), ("self_label", "meta_batch")):
        size = getattr(getattr(config, stage), field)
        if size > n:
            raise ConfigError(f"config: {stage}.{field}={size} should be <= the {n} distinct readable images")
    if config.self_label.meta_batch < c:
        raise ConfigError(f"config: self_label.meta_batch={config.self_label.meta_batch} should be >= {c} clusters")
    for name, neighbors in (("graph_label", config.graph_label.neighbors), ("scan", config.scan.neighbors)):
        if neighbors > config.select.max_neighbors:
            raise ConfigError(
                f"config: {name}.neighbors={neighbors} should be <= "
                f"select.max_neighbors={config.select.max_neighbors}: no more are kept"
            )
    if config.pretrain.queue_size % config.pretrain.batch_size:
        raise ConfigError(
            f"config: pretrain.queue_size={config.pretrain.queue_size} should be a multiple of "
            f"pretrain.batch_size={config.pretrain.batch_size}: leave it out, and it follows"
        )
    return config


def _given(overrides: dict[str, Any], stage: str, field: str) -> Any:
    part = overrides.get(stage)
    return part.get(field) if isinstance(part, dict) else None


def _follow(pretrain: Any, n: int) -> None:
    """Fills in what follows from the number of epochs and the batch size, unless it is given.

    The key encoder forgets within a hundredth of the training, and the queue holds the keys of a third of its memory:
    older ones come from an encoder that no longer is, and an encoder learns to tell them by their age (docs/log.md).
    """
    if not isinstance(pretrain, dict):
        return
    try:  # what is no number yet, pydantic may read as one; what is none, it refuses
        epochs, batch_size = float(pretrain["epochs"]), int(pretrain["batch_size"])
        memory = max(10.0, min(1000.0, epochs * n / batch_size / 100))
        memory = 1 / (1 - float(pretrain.setdefault("key_momentum", 1 - 1 / memory)))
    except (TypeError, ValueError, ArithmeticError):
        pretrain.update(key_momentum=pretrain.get("key_momentum", 0.99), queue_size=pretrain.get("queue_size", 1))
        return
    pretrain.setdefault("queue_size", batch_size * max(1, min(round(memory / 3), n // 4 // batch_size)))


def _validated(model: type[M], values: dict[str, Any]) -> M:
    try:
        return model(**values)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"config: {field}: {first['msg'].lower()} (given: {first['input']!r})") from None


def choose(table: dict[str, T], name: str, what: str) -> T:
    """Looks `name` up; a miss lists what there is.

    Raises:
        ConfigError: no such name.
    """
    if name not in table:
        raise ConfigError(f"unknown {what} {name!r}: choose one of {', '.join(table)}")
    return table[name]


def _moco(n: int, *, epochs: int, batch_size: int) -> dict[str, Any]:
    return {
        "neighbors": max(1, min(5, n // 40)),
        "epochs": epochs,
        "batch_size": batch_size,
        "temperature": 0.5,
        "learning_rate": 0.06 * max(1.0, batch_size / 128),
        "weight_decay": 5e-4,
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
