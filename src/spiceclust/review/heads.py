"""Heads that were learned from corrections, on disk: `review/heads/DIGEST.safetensors` in a run.

N images, C' clusters, D features.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from spiceclust.errors import RunFolderError
from spiceclust.files import DAMAGED, write_bytes
from spiceclust.journal import FOLDER
from spiceclust.models.heads import Classifier, build_head
from spiceclust.shipped import load_model

HEADS: Final = "heads"


def keep_head(run: Path, head: dict[str, Tensor]) -> str:
    """Writes a head's weights, unless they are there, and returns their digest, which a `Learn` names.

    Raises:
        RunFolderError: no space, no permission, or the device failed.
    """
    from safetensors.torch import save

    content = save({name: weights.detach().cpu().contiguous() for name, weights in head.items()})
    digest = hashlib.sha256(content).hexdigest()
    folder = run / FOLDER / HEADS
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(f"{folder} cannot be made ({error.strerror}): free it and go on") from None
    write_bytes(folder / f"{digest}.safetensors", content)
    return digest


def read_head(run: Path, digest: str) -> dict[str, Tensor]:
    """The weights of a head.

    Args:
        run: the run.
        digest: of `keep_head`, from the state of a journal.

    Raises:
        RunFolderError: missing or damaged.
    """
    from safetensors.torch import load

    path = run / FOLDER / HEADS / f"{digest}.safetensors"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read ({error.strerror}): learn again") from None
    if hashlib.sha256(content).hexdigest() != digest:
        raise RunFolderError(f"{path} is damaged: {DAMAGED}, or learn again")
    return dict(load(content))


def told_by(head: dict[str, Tensor], embeddings: NDArray[np.floating]) -> NDArray[np.float32]:
    """(N, C') float32: the probabilities that a head gives to embeddings (N, D)."""
    points = F.normalize(torch.from_numpy(embeddings.astype(np.float32)), dim=1)
    with torch.inference_mode():
        return np.asarray(_built(head)(points).softmax(dim=1).numpy())


def corrected_classifier(run: Path, digest: str, device: torch.device) -> Classifier:
    """The classifier of a run with a learned head in the place of its own.

    Raises:
        RunFolderError: as `read_head` and `shipped.load_model`.
    """
    model = load_model(run, device)
    return Classifier(model.encoder, _built(read_head(run, digest))).to(device)


def _built(head: dict[str, Tensor]) -> torch.nn.Sequential:
    clusters, features = head["2.weight"].shape
    built = build_head(features, clusters)
    built.load_state_dict(head)
    return built
