"""Encoders that are given instead of learned from the images: from timm, a checkpoint, ready embeddings, one's own.

D features. B images in a batch, S pixels a side.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import torch
from torch import Tensor, nn

from spiceclust.config import Request, image_size
from spiceclust.data.own_views import OwnViews
from spiceclust.data.vectors import Vectors, read_vectors
from spiceclust.errors import ConfigError
from spiceclust.files import sha256_file
from spiceclust.models.designs import build, n_features_of, timm_model, timm_weights
from spiceclust.models.encoders import Design, Encoder
from spiceclust.models.resnet import RESNETS, SIZE, ResNet
from spiceclust.models.weights import digest_of, misfit, read_weights
from spiceclust.shipped import load_model
from spiceclust.training.checkpoint import part
from spiceclust.training.context import Context

# Under what MoCo v1 and v2 keep the query encoder, and others a whole network; the longest comes first.
PREFIXES = ("module.encoder_q.", "encoder_q.", "module.", "")
PROJECTION = "fc."  # in a ResNet's place of the classifier, also MoCo v2's fc.0 and fc.2
GLANCE = 8  # pixels; pictures that come with embeddings are read only to know that they can be


@dataclass(frozen=True)
class Own:
    """What only Python can give, and a request only names.

    Attributes:
        encoder: (B, channels, S, S) float32 in [0, 1] to (B, D). Its weights are part of a run's key.
        views: given images (B, channels, S, S) uint8 and a generator, from which alone it may draw, returns
            (B, channels, S, S) float32 in [0, 1]. Its name is part of a run's key, what it does is not.
    """

    encoder: nn.Module | None = None
    views: Callable[[Tensor, torch.Generator], Tensor] | None = None


NOTHING: Final = Own()


@dataclass(frozen=True)
class Given:
    """An encoder that is given.

    Attributes:
        design: what it is, and so what images it takes.
        digest: SHA-256 of the weights or embeddings; empty where the design's name is enough.
        weights: gets the state dict of the encoder, on any device.
        own: the module of one's own.
        vectors: the embeddings, where these take the place of images.
    """

    design: Design
    digest: str
    weights: Callable[[], Mapping[str, Tensor]]
    own: nn.Module | None = None
    vectors: Vectors | None = None

    def build(self) -> Encoder:
        """The encoder, whose weights mean nothing yet."""
        return build(self.design, self.own)


def open_encoder(request: Request, native_size: int, own: Own) -> Given | None:
    """What the request's encoder is, before an image is read; None for `moco`, which the images teach.

    Args:
        request: `encoder`, `image_size`.
        native_size: of the images, pixels.
        own: with the module, where the encoder is one's own; it stays as it is.

    Raises:
        ConfigError: there is no such model or file, it does not fit, or an extra is missing.
        RunFolderError: a run folder that is named has no finished model, or it is damaged.
        SourceError: the embeddings cannot be used.
    """
    kind, _, name = request.encoder.partition(":")
    if kind == "moco":
        return None
    if kind == "module":
        return _open_own(request.encoder, own.encoder, image_size(request, native_size))
    return OPENERS[kind](name, request.image_size)


def open_views(name: str, own: Own, images: Tensor, context: Context) -> OwnViews:
    """One's own views, tried on a few `images` (n, channels, S, S) uint8.

    Raises:
        ConfigError: the function is not given, or does not return views.
    """
    if own.views is None:
        raise ConfigError(f"views {name!r} are a function of one's own: such a run is made and resumed in Python alone")
    views = OwnViews(own.views)
    views.check(images.to(context.device), context.generator("own views"))
    return views


def _open_timm(name: str, size: int | None) -> Given:
    """`NAME`, or `NAME@FILE` with weights in a file."""
    name, _, file = name.partition("@")
    path = Path(file) if file else None
    digest = _digest(path) if path else ""
    model, about = timm_model(name, size)
    channels, own_size, _ = about["input_size"]
    if channels != 3:
        raise ConfigError(f"timm:{name} takes images of {channels} channels, needed 3: choose another model")
    size = size or int(own_size)
    design = Design("timm", name, 3, size, _width(model, f"timm:{name}", 3, size))

    def weights() -> Mapping[str, Tensor]:
        return timm_weights(design, _unprefixed(read_weights(path)) if path else None, str(path))

    return Given(design, digest, weights)


def _open_checkpoint(name: str, size: int | None) -> Given:
    """A run folder, its `model/` or an exported model, or a ResNet's weights in a file."""
    path = Path(name)
    if path.is_dir():
        return _open_run(path, size)
    digest = _digest(path)
    everything = _unprefixed(read_weights(path))
    tensors = {name: value for name, value in everything.items() if not name.startswith(PROJECTION)}
    with torch.device("meta"):
        candidates = {name: ResNet(name) for name in RESNETS}
    expected = {name: model.state_dict() for name, model in candidates.items()}
    best = min(expected, key=lambda name: len(expected[name].keys() ^ tensors.keys()))
    if wrong := misfit(expected[best], tensors):
        raise ConfigError(
            f"checkpoint {path} is nearest to a {best}, and does not fit ({wrong}): needed the weights of "
            f"{', '.join(RESNETS)} under torchvision's names, as MoCo publishes them"
        )
    design = Design("resnet", best, 3, size or SIZE, candidates[best].n_features)

    def weights() -> Mapping[str, Tensor]:
        encoder = build(design)
        encoder.backbone.load_state_dict(tensors, strict=False)  # which counters of batch norm it may lack
        return encoder.state_dict()

    return Given(design, digest, weights)


def _open_run(folder: Path, size: int | None) -> Given:
    model = load_model(folder, torch.device("cpu"))
    design = model.encoder.design
    if design.kind == "embeddings":
        raise ConfigError(f"checkpoint {folder} was made of embeddings and has no encoder: choose another run")
    if size not in (None, design.image_size):
        raise ConfigError(
            f"checkpoint {folder} takes images of {design.image_size} px, not image_size={size}: leave that out"
        )
    return Given(design, model.digest, model.encoder.state_dict)


def _open_embeddings(name: str, size: int | None) -> Given:
    vectors = read_vectors(Path(name))
    design = Design("embeddings", Path(name).name, 3, GLANCE, vectors.values.shape[1])
    return Given(design, _digest(Path(name)), dict, vectors=vectors)


def _open_own(name: str, own: nn.Module | None, size: int) -> Given:
    """A module: with images of three channels if it takes them, otherwise of one."""
    if own is None:
        raise ConfigError(f"encoder {name!r} is a module of one's own: such a run is made and resumed in Python alone")
    frozen, label = copy.deepcopy(own), name.partition(":")[2]
    channels: Literal[1, 3] = 3
    try:
        n_features = _width(frozen, name, channels, size)
    except ConfigError as refusal:
        channels = 1
        try:
            n_features = _width(frozen, name, channels, size)
        except ConfigError:
            raise refusal from None
    design = Design("module", label, channels, size, n_features)
    return Given(design, digest_of(frozen), build(design, frozen).state_dict, own=frozen)


OPENERS: dict[str, Callable[[str, int | None], Given]] = {
    "timm": _open_timm,
    "checkpoint": _open_checkpoint,
    "embeddings": _open_embeddings,
}


def _width(module: nn.Module, name: str, channels: int, size: int) -> int:
    """D; raises ConfigError where the module does not take such images."""
    try:
        return n_features_of(module, channels, size)
    except Exception as error:  # a module of another's may raise anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ConfigError(
            f"encoder {name!r} does not take images of {channels} x {size} x {size} ({reason}): give another image_size"
        ) from None


def _unprefixed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the first prefix that any of them has, without it."""
    prefix = next(prefix for prefix in PREFIXES if any(name.startswith(prefix) for name in tensors))
    return part(tensors, prefix)


def _digest(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be opened ({error.strerror}): give the encoder's file") from None
