"""What a run does, in full: one frozen model per stage, and how a request becomes it.

N images, C clusters. `resolve` turns the few things a person says (a `Request`) and the few facts about the images
(`Facts`) into a `FitConfig` in which nothing is left open; the numbers come from `presets`. The resolved config is
written to run.json, and each stage's part of it decides whether that stage must run again.
"""

from __future__ import annotations

import math
from typing import Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from spiceclust.errors import ConfigError, SourceError
from spiceclust.presets import MAX_SIZE, PRESETS, Problem

Method = Literal["spice", "spice-paper", "scan"]
Domain = Literal["natural", "aligned", "glyph", "texture"]
Backbone = Literal["resnet_small", "resnet18", "resnet34", "wrn28_2", "wrn28_8", "wrn37_2"]
ENCODERS = {  # kinds, and how each is written; the last is written by `Spice` for a module of one's own
    "moco": "moco",
    "timm": "timm:NAME or timm:NAME@FILE",
    "checkpoint": "checkpoint:PATH",
    "embeddings": "embeddings:FILE.npy",
    "module": "module:NAME",
}
OWN_VIEWS = "own:"  # how a request names views that are a function of one's own
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
    neighbor_share: float = Field(ge=0, le=1, description="share of a batch for which one does")
    neighbor_start: float = Field(default=0.6, ge=0, le=1, description="share of the steps before that begins")


class EmbedConfig(_Frozen):
    """Between stages 1 and 2: plain, weak and strong views through the frozen encoder, once."""

    cached_views: int = Field(
        default=8, ge=0, description="V weak and V strong views kept of each image; 0: all views anew, as published"
    )


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

    train_encoder: bool = Field(default=True, description="whether the encoder learns too; if not, features are cached")
    steps: int = Field(gt=0)
    learning_rate: float = Field(default=0.03, gt=0)
    weight_decay: float = Field(default=5e-4, ge=0)
    ema: float = Field(default=0.999, ge=0, lt=1)
    settle: int = Field(
        default=200,
        ge=0,
        description="passes after which, and at each doubling, it ends if predictions move as much as before; 0: never",
    )


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
    encoder_digest: str = Field(default="", description="SHA-256 of weights or embeddings that were given")
    backbone: Backbone = Field(description="of `moco`; other encoders bring their own")
    views: Domain
    own_views: str = Field(default="", description="the function that makes views in the place of the domain's")
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
    benchmark: str = Field(default="", description="which data set of the paper they are, if one")
    encoder_size: int | None = Field(default=None, description="pixels a side that an encoder which is given takes")
    encoder_digest: str = ""
    our_encoder: bool = Field(
        default=True, description="whether the encoder is one of `Backbone`, trained here or before"
    )


DEFAULT_METHOD: dict[str, Method] = {"quick": "spice", "standard": "spice", "paper": "spice-paper"}
OVERRIDABLE = (
    "backbone", "pretrain", "embed", "graph_label", "self_label", "select", "semi", "scan", "confident",
)  # fmt: skip


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
    if not request.views.startswith(OWN_VIEWS):
        choose(dict.fromkeys(("auto", *get_args(Domain))), request.views, "views")
    kind, _, name = request.encoder.partition(":")
    form = choose(ENCODERS, kind, "encoder")
    if bool(name) != (":" in form):
        raise ConfigError(f"encoder {request.encoder!r} should be written {form}")
    for field in request.overrides:
        choose(dict.fromkeys(OVERRIDABLE), field, "config field")
    if kind != "moco" and "backbone" in request.overrides:
        raise ConfigError(f"config: backbone belongs to the encoder moco, and {request.encoder!r} brings its own")
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
    side = facts.encoder_size or image_size(request, facts.native_size)
    own_views = request.views.startswith(OWN_VIEWS)
    views = facts.domain if own_views or request.views == "auto" else request.views
    values: dict[str, Any] = {
        "n_clusters": c,
        "seed": request.seed,
        "method": DEFAULT_METHOD[request.preset] if request.method == "auto" else request.method,
        "preset": request.preset,
        "encoder": request.encoder,
        "encoder_digest": facts.encoder_digest,
        "views": views,
        "own_views": request.views.removeprefix(OWN_VIEWS) if own_views else "",
        "image_size": side,
        "channels": facts.channels,
        **PRESETS[request.preset](Problem(n, c, side, views, facts.benchmark)),
    }
    for stage in ("semi", "confident"):  # the encoders of others can be beyond what a CPU trains in minutes
        values[stage]["train_encoder"] = facts.our_encoder or request.preset != "quick"
    if encoder_kind(request.encoder) == "embeddings":
        values["embed"]["cached_views"] = 1
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


def encoder_kind(encoder: str) -> str:
    """The kind of an encoder as it is asked for: what stands before the colon."""
    return encoder.partition(":")[0]


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
