"""A finished run's model on other images: as a stream of chunks, and all at once.

n images of a source (files that cannot be read included), C clusters, D features.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spiceclust.data.images import planes, read_in_order, stamp
from spiceclust.data.sources import Source
from spiceclust.data.vectors import PREFIX, Inputs, Vectors
from spiceclust.data.wording import one_line
from spiceclust.errors import SourceError
from spiceclust.files import sha256_json
from spiceclust.functional.prototypes import typicality
from spiceclust.manifest import Row
from spiceclust.progress import Progress, Silent
from spiceclust.result import Result
from spiceclust.shipped import VERSION, Model, load_model
from spiceclust.training.context import open_device

CHUNK = 4096  # images at the most, fewer where they are large
SOME = 16  # images whose channels are put in order at once
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


class GrowingTable(Protocol):
    """What a table is to `fill`, such as `outputs.table.Table`: parts that are there, and parts that are added."""

    parts: list[Path]

    @property
    def rows(self) -> int: ...

    def append(self, columns: dict[str, list[Any]]) -> None: ...

    def finish(self) -> None: ...

    def discard(self) -> None: ...


def open_model(folder: Path, device: str = "auto", own: nn.Module | None = None) -> Model:
    """The model of a finished run.

    Args:
        folder: the run folder, of which only `model/` is read.
        device: where to compute.
        own: the encoder, where the run was made with a module of one's own.

    Raises:
        RunFolderError: no model there, or it is damaged.
        ConfigError: the device cannot be used, or the encoder needs a module that is not given, or an extra.
    """
    return load_model(folder, open_device(device), own)


def check_inputs(model: Model, source: Inputs) -> None:
    """Refuses inputs that are not of the model's kind, before anything is computed or written.

    Raises:
        SourceError: embeddings where images are needed, images where embeddings are, or embeddings of another width.
    """
    design = model.encoder.design
    if design.kind != "embeddings":
        if isinstance(source, Vectors):
            raise SourceError("the model was made of images, not of embeddings: give it images")
        return
    if not isinstance(source, Vectors):
        raise SourceError(
            f"the model was made of embeddings ({design.name}) and cannot look at images: give embeddings of the new "
            f"ones by the same encoder, {PREFIX}FILE.npy with floats (n, {design.n_features})"
        )
    if source.values.shape[1] != design.n_features:
        raise SourceError(
            f"{source.description} has {source.values.shape[1]} features a row, the model was made with "
            f"{design.n_features}: embed with the same encoder"
        )


def stream(model: Model, source: Inputs, progress: Progress, *, first: int = 0) -> Iterator[Chunk]:
    """Clusters the images of a source, of which no more than a chunk is in memory at a time.

    Args:
        model: of `open_model`.
        source: the images; embeddings of them, where the model was made of embeddings.
        progress: told of each image.
        first: inputs of the source that are passed over; a multiple of the chunk's size gives the chunks that follow.

    Returns:
        Chunks of `chunk_size(model)` inputs, the last one of what is left.

    Raises:
        SourceError: as `check_inputs`, at once.
    """
    check_inputs(model, source)
    if isinstance(source, Vectors):
        return _of_vectors(model, source, progress, first)
    return _of_images(model, source, progress, first)


def fill(table: GrowingTable, model: Model, source: Inputs, progress: Progress) -> float:
    """Writes what the model says of a source, chunk by chunk, into a table, from where an earlier call was cut off.

    Args:
        table: with the parts of the first chunks, or none; it is finished then, or discarded if nothing can be read.
        model, source: as in `stream`; `key_of` both tells whether the parts that are there are theirs.
        progress: told of each image, and of each that cannot be read.

    Returns:
        Images a second, of those that were not there already.

    Raises:
        SourceError: as `check_inputs`, or not one image is readable.
    """
    first, start = min(len(table.parts) * chunk_size(model), len(source)), time.perf_counter()
    if first:
        progress.say(f"taken up again after {first} of {len(source)}")
    for chunk in stream(model, source, progress, first=first):
        for row in chunk.rows:
            if row.status == "quarantined":
                progress.say(f"not read: {one_line(row.path)}: {row.reason}")
        table.append(chunk.columns())
    if not table.rows:
        table.discard()
        raise SourceError(f"{source.description}: none of {len(source)} can be read, so there is nothing to write")
    rate = (len(source) - first) / (time.perf_counter() - start)
    table.finish()
    return rate


def key_of(model: Model, source: Inputs) -> str:
    """Hexadecimal SHA-256 of all that the chunks of `stream` depend on."""
    what = source.stamp() if isinstance(source, Vectors) else stamp(source)
    return sha256_json([VERSION, model.digest, what, chunk_size(model)])


def chunk_size(model: Model) -> int:
    """Inputs in a chunk: up to 4,096, and no more than 128 MiB of pixels."""
    return min(CHUNK, max(1, CHUNK_BYTES // (3 * model.image_size**2)))


def predict(
    folder: Path,
    source: Inputs,
    *,
    device: str = "auto",
    progress: Progress | None = None,
    own: nn.Module | None = None,
) -> Result:
    """Clusters new images with a finished run's model, all at once.

    Args:
        folder: the run folder, of which only `model/` is read.
        source: the images; embeddings of them, where the run was made of embeddings.
        device: where to compute.
        progress: told of each image.
        own: the encoder, where the run was made with a module of one's own.

    Returns:
        A Result of the new images; `reliable` is False throughout, since it is a statement about the images fitted.

    Raises:
        RunFolderError: no model there, or it is damaged.
        ConfigError: its encoder needs a module that is not given, or an extra.
        SourceError: not one image is readable, or images are given where embeddings are needed.
    """
    chunks = list(stream(open_model(folder, device, own), source, progress or Silent()))
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


def transform(
    folder: Path, source: Inputs, *, device: str = "auto", own: nn.Module | None = None
) -> NDArray[np.float32]:
    """Embeds images with a finished run's model: (n, D) float32, L2-normalised, zeros where an image cannot be read."""
    chunks = stream(open_model(folder, device, own), source, Silent())
    return np.concatenate([chunk.embeddings for chunk in chunks])


def _of_images(model: Model, source: Source, progress: Progress, first: int) -> Iterator[Chunk]:
    size = chunk_size(model)
    with closing(read_in_order(source, model.image_size, progress, first, ahead=size)) as found:
        while some := list(islice(found, size)):
            pictures = [picture for _, picture in some if picture is not None]
            yield _chunk(model, [row for row, _ in some], _inputs(pictures, model.channels) if pictures else None)


def _inputs(pictures: list[NDArray[np.uint8]], channels: Literal[1, 3]) -> NDArray[np.uint8]:
    """(n, channels, S, S) of n pictures (S, S, 3), some at a time: one by one takes longer, all at once more memory."""
    inputs = np.empty((len(pictures), channels, *pictures[0].shape[:2]), np.uint8)
    for start in range(0, len(pictures), SOME):
        inputs[start : start + SOME] = planes(np.stack(pictures[start : start + SOME]), channels)
    return inputs


def _of_vectors(model: Model, source: Vectors, progress: Progress, first: int) -> Iterator[Chunk]:
    size = chunk_size(model)
    with progress.task("sorting embeddings", len(source) - first) as task:
        for start in range(first, len(source), size):
            rows = source.rows(start, start + size)
            yield _chunk(model, rows, source.values[start : start + size])
            task.advance(len(rows))


def _chunk(model: Model, rows: list[Row], inputs: NDArray[Any] | None) -> Chunk:
    """What the model says of the inputs, which are those of the rows that could be read; None where none could."""
    there = np.array([row.status == "ok" for row in rows])
    labels = np.full(len(rows), -1, dtype=np.int64)
    if inputs is not None:
        probabilities, embeddings = model.classify(torch.from_numpy(inputs))
    else:
        widths = model.n_clusters, model.n_features
        probabilities, embeddings = (torch.zeros((0, width), device=model.device) for width in widths)
    labels[there] = probabilities.argmax(dim=1).cpu().numpy()

    def spread(values: Tensor) -> NDArray[Any]:
        whole = np.zeros((len(rows), *values.shape[1:]), dtype=np.float32)
        whole[there] = values.cpu().numpy()
        return whole

    return Chunk(rows, labels, *(spread(each) for each in (probabilities, embeddings, model.novelty(embeddings))))
