"""A finished run's model on other images.

n images, D features.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from spiceclust.data.images import Images, load
from spiceclust.data.vectors import PREFIX, Inputs, Vectors
from spiceclust.errors import SourceError
from spiceclust.progress import Progress, Silent
from spiceclust.result import Result
from spiceclust.shipped import Model, load_model, result_of, spread
from spiceclust.training.context import open_device


def predict(
    folder: Path,
    source: Inputs,
    *,
    device: str = "auto",
    progress: Progress | None = None,
    own: nn.Module | None = None,
) -> Result:
    """Clusters new images with a finished run's model.

    Args:
        folder: the run folder, of which only `model/` is read.
        source: the images; embeddings of them, where the run was made of embeddings.
        device: where to compute.
        progress: where to tell what is done.
        own: the encoder, where the run was made with a module of one's own.

    Returns:
        A Result of the new images; `reliable` is False throughout, since it is a statement about the images fitted.

    Raises:
        RunFolderError: no model there, or it is damaged.
        ConfigError: its encoder needs a module that is not given, or an extra.
        SourceError: no readable images, or images where embeddings are needed.
    """
    model = load_model(folder, open_device(device), own)
    images = _load(folder, model, source, progress or Silent())
    probabilities, embeddings = model.classify(torch.from_numpy(images.pixels))
    return result_of(images, probabilities, embeddings, None, {}, {})


def transform(
    folder: Path, source: Inputs, *, device: str = "auto", own: nn.Module | None = None
) -> NDArray[np.float32]:
    """Embeds images with a finished run's model: (n, D) float32, L2-normalised, zeros where an image cannot be read."""
    model = load_model(folder, open_device(device), own)
    images = _load(folder, model, source, Silent())
    _, embeddings = model.classify(torch.from_numpy(images.pixels))
    return spread(images, embeddings, 0)


def _load(folder: Path, model: Model, source: Inputs, progress: Progress) -> Images:
    """The images as the model wants them, or the embeddings that it wants in their place."""
    design = model.encoder.design
    if design.kind != "embeddings":
        if isinstance(source, Vectors):
            raise SourceError(f"{folder} was made of images, not of embeddings: give it images")
        return load(source, model.image_size, model.channels, progress)
    if not isinstance(source, Vectors):
        raise SourceError(
            f"{folder} was made of embeddings ({design.name}) and cannot look at images: give embeddings of the new "
            f"ones by the same encoder, {PREFIX}FILE.npy with floats (n, {design.n_features})"
        )
    if source.values.shape[1] != design.n_features:
        raise SourceError(
            f"{source.description} has {source.values.shape[1]} features a row, {folder} was made with "
            f"{design.n_features}: embed with the same encoder"
        )
    return source.alone()
