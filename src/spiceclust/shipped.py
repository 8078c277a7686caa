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
from torch import Tensor
from torch.nn import functional as F

from spiceclust.config import FitConfig
from spiceclust.data.images import Images
from spiceclust.errors import RunFolderError
from spiceclust.files import DAMAGED, read_json, write_json
from spiceclust.models.encoders import build_encoder
from spiceclust.models.heads import Classifier, build_head
from spiceclust.result import Result
from spiceclust.training.checkpoint import load_tensors, save_tensors
from spiceclust.training.inference import classify

MODEL_FORMAT: Final = 1
VERSION: Final = version("spiceclust")


@dataclass(frozen=True)
class Model:
    """What a run ships: a classifier, and how images must be prepared for it."""

    classifier: Classifier
    image_size: int
    channels: Literal[1, 3]
    device: torch.device

    def classify(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(N, channels, S, S) uint8 to probabilities (N, C) and embeddings (N, D), float32."""
        return classify(self.classifier, pixels, self.device)


def save_model(folder: Path, classifier: Classifier, config: FitConfig) -> None:
    """Writes `model/`: config.json and model.safetensors."""
    target = folder / "model"
    target.mkdir(exist_ok=True)
    save_tensors(target / "model.safetensors", classifier.state_dict())
    write_json(
        target / "config.json",
        {
            "format": MODEL_FORMAT,
            "spiceclust": VERSION,
            "backbone": config.backbone,
            "image_size": config.image_size,
            "channels": config.channels,
            "n_clusters": config.n_clusters,
        },
    )


def load_model(folder: Path, device: torch.device) -> Model:
    """Reads `model/` of a run folder, or a folder that holds the same files: a model that was exported.

    Raises:
        RunFolderError: not there, damaged, or written by a newer version.
    """
    home = folder / "model" if (folder / "model").is_dir() else folder
    if not (home / "config.json").exists():
        raise RunFolderError(f"{folder} has no finished model: give its `spiceclust fit` command again to finish it")
    facts = read_json(home / "config.json")
    if facts.get("format") != MODEL_FORMAT:
        raise RunFolderError(
            f"{home} has format {facts.get('format')}, this version reads {MODEL_FORMAT}: update spiceclust"
        )
    tensors = load_tensors(home / "model.safetensors", device)
    try:
        channels: Literal[1, 3] = 3 if facts["channels"] == 3 else 1
        size = int(facts["image_size"])
        encoder = build_encoder(facts["backbone"], channels, size, [0.0] * channels, [1.0] * channels, seed=0)
        classifier = Classifier(encoder, build_head(encoder.n_features, int(facts["n_clusters"])))
        classifier.load_state_dict(tensors)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise RunFolderError(f"{home} is damaged ({reason}): {DAMAGED}") from None
    return Model(classifier.to(device), size, channels, device)


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
