"""What a run ships, `model/`: a classifier, and how images must be prepared for it.

N images, C clusters, D features.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final, Literal

import torch
from torch import Tensor

from spiceclust.config import FitConfig
from spiceclust.errors import RunFolderError
from spiceclust.files import DAMAGED, read_json, sha256_file, write_json
from spiceclust.functional.novelty import Reference, make_reference, novelty
from spiceclust.models.encoders import build_encoder
from spiceclust.models.heads import Classifier, build_head
from spiceclust.training.checkpoint import load_tensors, part, save_tensors
from spiceclust.training.inference import classify
from spiceclust.training.pixels import Pixels

MODEL_FORMAT: Final = 2
REFERENCE: Final = "reference."  # how the names of what is kept of the training images begin
VERSION: Final = version("spiceclust")


@dataclass(frozen=True)
class Model:
    """What a run ships: a classifier, the training images it compares with, and how images must be prepared for it.

    `digest` is the SHA-256 of its file.
    """

    classifier: Classifier
    reference: Reference
    image_size: int
    channels: Literal[1, 3]
    device: torch.device
    digest: str

    @property
    def n_clusters(self) -> int:
        """C."""
        return int(self.classifier.head[-1].out_features)  # type: ignore[index]

    @property
    def n_features(self) -> int:
        """D."""
        return self.classifier.encoder.n_features

    def classify(self, pixels: Pixels) -> tuple[Tensor, Tensor]:
        """(N, channels, S, S) uint8 to probabilities (N, C) and embeddings (N, D), float32."""
        return classify(self.classifier, pixels, self.device)

    def novelty(self, embeddings: Tensor) -> Tensor:
        """(N,) float32 in [0, 1] of embeddings (N, D): the share of training images that were closer to the others."""
        return novelty(embeddings, self.reference)


def save_model(folder: Path, classifier: Classifier, embeddings: Tensor, config: FitConfig) -> None:
    """Writes `model/`: config.json and model.safetensors, which keeps some of the training embeddings (N, D)."""
    target = folder / "model"
    target.mkdir(exist_ok=True)
    reference = {f"{REFERENCE}{name}": tensor for name, tensor in make_reference(embeddings)._asdict().items()}
    save_tensors(target / "model.safetensors", {**classifier.state_dict(), **reference})
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
    found = facts.get("format")
    if found != MODEL_FORMAT:
        older = isinstance(found, int) and found < MODEL_FORMAT
        way_out = "fit into a new folder" if older else "update spiceclust"
        raise RunFolderError(f"{home} has format {found}, this version reads {MODEL_FORMAT}: {way_out}")
    file = home / "model.safetensors"
    tensors = load_tensors(file, device)
    reference = part(tensors, REFERENCE)
    try:
        channels: Literal[1, 3] = 3 if facts["channels"] == 3 else 1
        size = int(facts["image_size"])
        encoder = build_encoder(facts["backbone"], channels, size, [0.0] * channels, [1.0] * channels, seed=0)
        classifier = Classifier(encoder, build_head(encoder.n_features, int(facts["n_clusters"])))
        classifier.load_state_dict({name: t for name, t in tensors.items() if not name.startswith(REFERENCE)})
        kept = Reference(**reference)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise RunFolderError(f"{home} is damaged ({reason}): {DAMAGED}") from None
    return Model(classifier.to(device), kept, size, channels, device, sha256_file(file))
