"""A finished run's model on other images.

n images, D features.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from spiceclust.data.images import load
from spiceclust.data.sources import Source
from spiceclust.progress import Progress, Silent
from spiceclust.result import Result
from spiceclust.shipped import load_model, result_of, spread
from spiceclust.training.context import open_device


def predict(folder: Path, source: Source, *, device: str = "auto", progress: Progress | None = None) -> Result:
    """Clusters new images with a finished run's model.

    Args:
        folder: the run folder, of which only `model/` is read.
        source: the images.
        device: where to compute.
        progress: where to tell what is done.

    Returns:
        A Result of the new images; `reliable` is False throughout, since it is a statement about the images fitted.

    Raises:
        RunFolderError: no model there, or it is damaged.
        SourceError: no readable images.
    """
    model = load_model(folder, open_device(device))
    images = load(source, model.image_size, model.channels, progress or Silent())
    probabilities, embeddings = model.classify(torch.from_numpy(images.pixels))
    return result_of(images, probabilities, embeddings, None, {}, {})


def transform(folder: Path, source: Source, *, device: str = "auto") -> NDArray[np.float32]:
    """Embeds images with a finished run's model: (n, D) float32, L2-normalised, zeros where an image cannot be read."""
    model = load_model(folder, open_device(device))
    images = load(source, model.image_size, model.channels, Silent())
    _, embeddings = model.classify(torch.from_numpy(images.pixels))
    return spread(images, embeddings, 0)
