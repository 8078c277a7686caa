"""A finished run's model on other images: as a stream of chunks, and all at once.

n images of a source (files that cannot be read included), C clusters, D features.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spiceclust.data.encoded import Read
from spiceclust.data.images import planes, read_in_order, stamp
from spiceclust.data.sources import Source
from spiceclust.errors import SourceError
from spiceclust.files import sha256_json
from spiceclust.functional.prototypes import typicality
from spiceclust.manifest import Row
from spiceclust.progress import Progress, Silent
from spiceclust.result import Result
from spiceclust.shipped import VERSION, Model, load_model
from spiceclust.training.context import open_device
from spiceclust.training.inference import BATCH

CHUNK = 4096  # images at the most, fewer where they are large
CHUNK_BYTES = 2**27  # of the pixels of a chunk; reading is a chunk ahead


@dataclass(frozen=True)
class Chunk:
    """What the model says of some images that follow one another in a source; zeros where one cannot be read.

    Attributes:
        rows: n, with status `ok` or `quarantined`; copies are not sought.
        labels: (n,) int64, -1 where an image cannot be read.
        probabilities: (n, C) float32.
        embeddings: (n, D) float32, L2-normalised.
        novelty: (n,) float32 in [0, 1], the share of the training images that were closer to the others.
    """

    rows: list[Row]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    embeddings: NDArray[np.float32]
    novelty: NDArray[np.float32]

    def columns(self) -> dict[str, list[Any]]:
        """path, cluster, confidence and novelty of the images that could be read: the columns of a table."""
        there = self.labels >= 0
        return {
            "path": [row.path for row, ok in zip(self.rows, there, strict=True) if ok],
            "cluster": self.labels[there].tolist(),
            "confidence": self.probabilities[there].max(axis=1, initial=0).tolist(),
            "novelty": self.novelty[there].tolist(),
        }


def open_model(folder: Path, device: str = "auto") -> Model:
    """The model of a finished run.

    Args:
        folder: the run folder, of which only `model/` is read.
        device: where to compute.

    Raises:
        RunFolderError: no model there, or it is damaged.
        ConfigError: the device cannot be used.
    """
    return load_model(folder, open_device(device))


def stream(model: Model, source: Source, progress: Progress, *, first: int = 0) -> Iterator[Chunk]:
    """Clusters the images of a source, of which no more than a chunk is in memory at a time.

    Args:
        model: of `open_model`.
        source: the images.
        progress: told of each image.
        first: inputs of the source that are passed over; a multiple of the chunk's size gives the chunks that follow.

    Yields:
        Chunks of `chunk_size(model)` inputs, the last one of what is left.
    """
    size = chunk_size(model)
    with closing(read_in_order(source, model.image_size, progress, first, ahead=size)) as found:
        while some := list(islice(found, size)):
            yield _chunk(model, some)


def key_of(model: Model, source: Source) -> str:
    """Hexadecimal SHA-256 of all that the chunks of `stream` depend on."""
    return sha256_json([VERSION, model.digest, stamp(source), chunk_size(model)])


def chunk_size(model: Model) -> int:
    """Inputs in a chunk: up to 4,096, and no more than 128 MiB of pixels."""
    return min(CHUNK, max(BATCH, CHUNK_BYTES // (3 * model.image_size**2)))


def predict(folder: Path, source: Source, *, device: str = "auto", progress: Progress | None = None) -> Result:
    """Clusters new images with a finished run's model, all at once.

    Args:
        folder: the run folder, of which only `model/` is read.
        source: the images.
        device: where to compute.
        progress: told of each image.

    Returns:
        A Result of the new images; `reliable` is False throughout, since it is a statement about the images fitted.

    Raises:
        RunFolderError: no model there, or it is damaged.
        SourceError: not one image is readable.
    """
    chunks = list(stream(open_model(folder, device), source, progress or Silent()))
    labels, probabilities, embeddings = (
        np.concatenate([getattr(chunk, name) for chunk in chunks]) for name in ("labels", "probabilities", "embeddings")
    )
    if (labels < 0).all():
        raise SourceError(
            f"{source.description}: none of {len(labels)} can be read; the first: {chunks[0].rows[0].reason}"
        )
    return Result(
        rows=[row for chunk in chunks for row in chunk.rows],
        labels=labels,
        probabilities=probabilities,
        reliable=np.zeros(len(labels), dtype=bool),
        typicality=typicality(torch.from_numpy(labels), torch.from_numpy(embeddings), probabilities.shape[1]).numpy(),
        run={},
        metrics={},
    )


def transform(folder: Path, source: Source, *, device: str = "auto") -> NDArray[np.float32]:
    """Embeds images with a finished run's model: (n, D) float32, L2-normalised, zeros where an image cannot be read."""
    chunks = stream(open_model(folder, device), source, Silent())
    return np.concatenate([chunk.embeddings for chunk in chunks])


def _chunk(model: Model, found: list[Read]) -> Chunk:
    rows = [row for row, _ in found]
    there = np.array([picture is not None for _, picture in found])
    pictures = [planes(picture, model.channels) for _, picture in found if picture is not None]
    labels = np.full(len(rows), -1, dtype=np.int64)
    if pictures:
        probabilities, embeddings = model.classify(torch.from_numpy(np.stack(pictures)))
    else:
        widths = model.n_clusters, model.n_features
        probabilities, embeddings = (torch.zeros((0, width), device=model.device) for width in widths)
    labels[there] = probabilities.argmax(dim=1).cpu().numpy()

    def spread(values: Tensor) -> NDArray[Any]:
        whole = np.zeros((len(rows), *values.shape[1:]), dtype=np.float32)
        whole[there] = values.cpu().numpy()
        return whole

    return Chunk(rows, labels, *(spread(each) for each in (probabilities, embeddings, model.novelty(embeddings))))
