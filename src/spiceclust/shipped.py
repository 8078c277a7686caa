"""What a run ships, `model/`: a classifier, and how images must be prepared for it.

N images, C clusters, D features.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import torch
from safetensors.torch import save
from torch import Tensor, nn

from spiceclust.errors import ConfigError, RunFolderError
from spiceclust.files import DAMAGED, json_text, read_sealed, sealed, sha256_file, write_sealed
from spiceclust.functional.novelty import Reference, make_reference, novelty
from spiceclust.models.designs import build
from spiceclust.models.encoders import Design, Encoder
from spiceclust.models.heads import Classifier, build_head
from spiceclust.models.weights import misfit
from spiceclust.training.checkpoint import load_tensors, part, save_tensors
from spiceclust.training.inference import classify
from spiceclust.training.lanes import open_lanes
from spiceclust.training.pixels import Pixels

MODEL_FORMAT: Final = 3
WEIGHTS: Final = "model.safetensors"
CONFIG: Final = "config.json"
HEAD: Final = "head."  # how the names of the head's weights begin
REFERENCE: Final = "reference."  # how the names of what is kept of the training images begin
VERSION: Final = version("spiceclust")


@dataclass(frozen=True)
class Model:
    """What a run ships: a classifier, the training images it compares with, and how images must be prepared for it.

    One that was made of embeddings takes rows of these in the place of pixels. `digest` is the SHA-256 of its file.
    """

    classifier: Classifier
    reference: Reference
    image_size: int
    channels: Literal[1, 3]
    device: torch.device
    digest: str

    @property
    def encoder(self) -> Encoder:
        """The classifier's; its `design` says what it is."""
        return self.classifier.encoder

    @property
    def n_clusters(self) -> int:
        """C."""
        return int(self.classifier.head[-1].out_features)  # type: ignore[index]

    @property
    def n_features(self) -> int:
        """D."""
        return self.encoder.n_features

    def classify(self, pixels: Pixels) -> tuple[Tensor, Tensor]:
        """(N, channels, S, S) uint8 to probabilities (N, C) and embeddings (N, D), float32."""
        own = self.encoder.design.kind == "module"  # which may remember what it was called with
        with open_lanes(self.device) as lanes:
            return classify(self.classifier, pixels, self.device, 1 if own else lanes)

    def novelty(self, embeddings: Tensor) -> Tensor:
        """(N,) float32 in [0, 1] of embeddings (N, D): the share of training images that were closer to the others."""
        return novelty(embeddings, self.reference)


def save_model(folder: Path, classifier: Classifier, embeddings: Tensor) -> None:
    """Writes `model/`: model.safetensors, which keeps some of the training embeddings (N, D), and config.json.

    Raises:
        RunFolderError: no space, no permission, or the device failed.
    """
    target = folder / "model"
    try:
        target.mkdir(exist_ok=True)
    except OSError as error:
        raise RunFolderError(f"{target} cannot be made ({error.strerror}): free it and resume") from None
    design = classifier.encoder.design
    reference = {f"{REFERENCE}{name}": tensor for name, tensor in make_reference(embeddings)._asdict().items()}
    save_tensors(target / WEIGHTS, {**classifier.state_dict(), **reference})
    write_sealed(
        target / CONFIG,
        {
            "spiceclust": VERSION,
            "encoder": design.kind,
            "backbone": design.name,
            "image_size": design.image_size,
            "channels": design.channels,
            "n_features": design.n_features,
            "n_clusters": classifier.head[-1].out_features,  # type: ignore[index]
            "weights": sha256_file(target / WEIGHTS),
        },
        MODEL_FORMAT,
    )


def files_of_model(folder: Path, head: dict[str, Tensor] | None = None) -> dict[str, bytes]:
    """The files of `model/` by name, with another head where one is given; no encoder is built.

    Args:
        folder: of a run.
        head: weights as those of `models.heads.build_head`, D to any number of clusters.

    Raises:
        RunFolderError: as `load_model`.
    """
    about = describe_model(folder)
    tensors, _ = load_weights(about, torch.device("cpu"))  # refuses a file that is damaged
    files = {name: (about.home / name).read_bytes() for name in (CONFIG, WEIGHTS)}
    if head is None:
        return files
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(HEAD)}
    weights = save({**tensors, **{f"{HEAD}{name}": tensor for name, tensor in head.items()}})
    facts = _read_config(about.home)
    facts |= {"n_clusters": len(head["2.bias"]), "weights": hashlib.sha256(weights).hexdigest()}
    return {CONFIG: json_text(sealed(facts, MODEL_FORMAT)).encode("utf-8"), WEIGHTS: weights}


class Description(NamedTuple):
    """Where a model lies, what its encoder is, C, and the SHA-256 of its weights; of format 2 this is None."""

    home: Path
    design: Design
    n_clusters: int
    weights: str | None


def describe_model(folder: Path) -> Description:
    """What config.json says of the model in such a folder; no weights are read.

    Raises:
        RunFolderError: as `load_model`.
    """
    home = folder / "model" if (folder / "model").is_dir() else folder
    if not (home / CONFIG).exists():
        raise RunFolderError(f"{folder} has no finished model: give its `spiceclust fit` command again to finish it")
    facts = _read_config(home)
    try:
        design = Design(
            str(facts.get("encoder", "moco")),  # the only one, before it was written
            str(facts["backbone"]),
            3 if facts["channels"] == 3 else 1,
            int(facts["image_size"]),
            int(facts.get("n_features", 0)),
        )
        return Description(home, design, int(facts["n_clusters"]), facts.get("weights"))
    except (KeyError, TypeError, ValueError) as error:
        raise RunFolderError(f"{home} is damaged ({error}): {DAMAGED}") from None


def _read_config(home: Path) -> dict[str, Any]:
    return read_sealed(home / CONFIG, MODEL_FORMAT, lambda content: content.get("format") == 2)


def load_weights(about: Description, device: torch.device) -> tuple[dict[str, Tensor], str]:
    """The tensors of a model, and the SHA-256 of their file.

    Raises:
        RunFolderError: missing, or not those that config.json names.
    """
    file = about.home / WEIGHTS
    tensors = load_tensors(file, device)
    digest = sha256_file(file)
    if about.weights not in (None, digest):
        raise RunFolderError(f"{file} is damaged, or not of the config.json beside it: {DAMAGED}")
    return tensors, digest


def load_model(folder: Path, device: torch.device, own: nn.Module | None = None) -> Model:
    """Reads `model/` of a run folder, or a folder that holds the same files: a model that was exported.

    Args:
        folder: the run.
        device: where the model is wanted.
        own: the encoder, where the run was made with a module of one's own; it stays as it is.

    Raises:
        RunFolderError: not there, damaged, or written by a newer version.
        ConfigError: the encoder cannot be built: a module that is not given or another, or an extra that is missing.
    """
    about = describe_model(folder)
    home, design = about.home, about.design
    tensors, digest = load_weights(about, device)
    reference = part(tensors, REFERENCE)
    weights = {name: tensor for name, tensor in tensors.items() if not name.startswith(REFERENCE)}
    try:
        encoder = build(design, own)
        classifier = Classifier(encoder, build_head(encoder.n_features, about.n_clusters))
        if own is not None and (wrong := misfit(classifier.state_dict(), weights)):
            raise ConfigError(f"the encoder given is not that of {folder} ({wrong}): give a {design.name} like it")
        classifier.load_state_dict(weights)
        kept = Reference(**reference)
    except ConfigError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise RunFolderError(f"{home} is damaged ({reason}): {DAMAGED}") from None
    return Model(classifier.to(device), kept, design.image_size, design.channels, device, digest)
