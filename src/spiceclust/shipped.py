"""What a run ships, `model/`: a classifier and how images must be prepared for it; and what it says of images.

N distinct readable images, n rows of the manifest (bad files and duplicates included), C clusters, D features.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from spiceclust.data.images import Images
from spiceclust.errors import ConfigError, RunFolderError
from spiceclust.files import DAMAGED, read_json, write_json
from spiceclust.models.designs import build
from spiceclust.models.encoders import Design, Encoder
from spiceclust.models.heads import Classifier, build_head
from spiceclust.models.weights import misfit
from spiceclust.result import Result
from spiceclust.training.checkpoint import load_tensors, save_tensors
from spiceclust.training.inference import classify

MODEL_FORMAT: Final = 1
VERSION: Final = version("spiceclust")


@dataclass(frozen=True)
class Model:
    """What a run ships: a classifier, and how images must be prepared for it.

    One that was made of embeddings takes rows of these in the place of pixels.
    """

    classifier: Classifier
    image_size: int
    channels: Literal[1, 3]
    device: torch.device

    @property
    def encoder(self) -> Encoder:
        """The classifier's; its `design` says what it is."""
        return self.classifier.encoder

    def classify(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(N, channels, S, S) uint8 to probabilities (N, C) and embeddings (N, D), float32."""
        return classify(self.classifier, pixels, self.device)


def save_model(folder: Path, classifier: Classifier) -> None:
    """Writes `model/`: config.json and model.safetensors."""
    target = folder / "model"
    target.mkdir(exist_ok=True)
    design = classifier.encoder.design
    save_tensors(target / "model.safetensors", classifier.state_dict())
    write_json(
        target / "config.json",
        {
            "format": MODEL_FORMAT,
            "spiceclust": VERSION,
            "encoder": design.kind,
            "backbone": design.name,
            "image_size": design.image_size,
            "channels": design.channels,
            "n_features": design.n_features,
            "n_clusters": classifier.head[-1].out_features,  # type: ignore[index]
        },
    )


def load_model(folder: Path, device: torch.device, own: nn.Module | None = None) -> Model:
    """Reads `model/` of a run folder.

    Args:
        folder: the run.
        device: where the model is wanted.
        own: the encoder, where the run was made with a module of one's own; it stays as it is.

    Raises:
        RunFolderError: not there, damaged, or written by a newer version.
        ConfigError: the encoder cannot be built: a module that is not given or another, or an extra that is missing.
    """
    if not (folder / "model" / "config.json").exists():
        raise RunFolderError(f"{folder} has no finished model: give its `spiceclust fit` command again to finish it")
    facts = read_json(folder / "model" / "config.json")
    if facts.get("format") != MODEL_FORMAT:
        raise RunFolderError(
            f"{folder / 'model'} has format {facts.get('format')}, this version reads {MODEL_FORMAT}: update spiceclust"
        )
    tensors = load_tensors(folder / "model" / "model.safetensors", device)
    try:
        design = Design(
            str(facts.get("encoder", "moco")),  # the only one, before it was written
            str(facts["backbone"]),
            3 if facts["channels"] == 3 else 1,
            int(facts["image_size"]),
            int(facts.get("n_features", 0)),
        )
        encoder = build(design, own)
        classifier = Classifier(encoder, build_head(encoder.n_features, int(facts["n_clusters"])))
        if own is not None and (wrong := misfit(classifier.state_dict(), tensors)):
            raise ConfigError(f"the encoder given is not that of {folder} ({wrong}): give a {design.name} like it")
        classifier.load_state_dict(tensors)
    except ConfigError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise RunFolderError(f"{folder / 'model'} is damaged ({reason}): {DAMAGED}") from None
    return Model(classifier.to(device), design.image_size, design.channels, device)


def result_of(
    images: Images,
    probabilities: Tensor,
    embeddings: Tensor,
    reliable: Tensor | None,
    record: dict[str, Any],
    metrics: dict[str, Any],
) -> Result:
    """Spreads the N distinct images over the n rows of the manifest."""
    labels = probabilities.argmax(dim=1)
    members = F.one_hot(labels, probabilities.shape[1]).float()
    centres = F.normalize(members.T @ embeddings, dim=1)
    typicality = (embeddings * centres[labels]).sum(dim=1)
    return Result(
        rows=images.rows,
        labels=spread(images, labels, -1),
        probabilities=spread(images, probabilities, 0),
        reliable=spread(images, torch.zeros_like(labels).bool() if reliable is None else reliable, False),
        typicality=spread(images, typicality, 0),
        run=record,
        metrics=metrics,
    )


def spread(images: Images, values: Tensor, missing: float) -> NDArray[Any]:
    """(n, ...) for the manifest's rows of (N, ...) for the distinct images; `missing` where one could not be read."""
    rows: NDArray[Any] = values.cpu().numpy()[np.maximum(images.index, 0)]
    rows[images.index < 0] = missing
    return rows
