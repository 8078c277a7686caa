"""What in an image made it belong to its cluster: heat maps of a finished run's classifier.

N images of S pixels a side, B of them in a batch, h x h places of a map.
"""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from spiceclust.data.images import planes, readers
from spiceclust.data.sources import Source
from spiceclust.errors import ConfigError
from spiceclust.functional.localisation import combined, contributions, margin
from spiceclust.manifest import Row
from spiceclust.models.encoders import Encoder
from spiceclust.progress import Progress
from spiceclust.shipped import Model

STAGES: Final = 3  # of the network, from the last one back, whose places are combined
BATCH, BATCH_PIXELS = 64, 2**18  # images at once: all that lies between layers is kept for the gradient
EVEN: Final = 1e-3  # how far a gradient may differ from place to place and still be that of an average
STORED_SIDE: Final = 16  # places a side of a map that is handed to a page


def heat(model: Model, pixels: Tensor, clusters: Tensor) -> NDArray[np.float32]:
    """Where each image speaks for a cluster: the gradient of its log-odds at the last stages of the encoder.

    The length of the features is held: to a gradient through the normalisation only what is unlike the rest of the
    image counts, and an image that is all of one kind would show nothing.

    Args:
        model: what a run ships.
        pixels: (N, channels, S, S) uint8, N > 0, prepared as for `Model.classify`.
        clusters: (N,) int64 in [0, C): its own cluster, or any other one.

    Returns:
        (N, h, h) float32 in [0, 1], all 0 where no place speaks for the cluster. h follows from the encoder: S or a
        fraction of it.

    Raises:
        ConfigError: no map of features is averaged: ready embeddings, a transformer, most modules of one's own.
    """
    refuse_embeddings(model)
    classifier = model.classifier.eval()
    layers = _layers(classifier.encoder, pixels[:1].to(model.device).float() / 255)
    size = max(1, min(BATCH, BATCH_PIXELS // pixels.shape[-1] ** 2))
    found = []
    for start in range(0, len(pixels), size):
        images = (pixels[start : start + size].to(model.device).float() / 255).requires_grad_()
        with torch.enable_grad(), _kept(classifier.encoder, layers) as kept:
            features = classifier.encoder(images).float()
            logits = classifier.head(features / features.detach().norm(dim=1, keepdim=True).clamp_min(1e-12))
            score = margin(logits, clusters[start : start + size].to(model.device)).sum()
            maps = [kept[name] for name in layers]
            gradients = torch.autograd.grad(score, maps)
        shares = [
            contributions(*pair).float() for pair in zip((each.detach() for each in maps), gradients, strict=True)
        ]
        found.append(combined(shares).cpu())
    return np.asarray(torch.cat(found).numpy(), dtype=np.float32)


def heat_of_rows(
    model: Model, source: Source, rows: list[Row], labels: NDArray[np.int64], chosen: list[int], progress: Progress
) -> tuple[list[int], NDArray[np.uint8]]:
    """Maps of some images of a run, for the clusters that they are in.

    Args:
        model: what the run ships.
        source: its images; those that it does not hold as they were are passed over.
        rows, labels: the manifest, and the cluster of each of its rows.
        chosen: numbers of rows.
        progress: told of each image.

    Returns:
        The rows that are there, m of them in the order of `chosen`, and `stored` maps (m, side, side).

    Raises:
        ConfigError: as `heat`.
    """
    numbers = {path: i for i, path in enumerate(source.paths)}
    sought = [(row, numbers[rows[row].path]) for row in chosen if rows[row].path in numbers]

    def read(pair: tuple[int, int]) -> NDArray[np.uint8] | None:
        row, place = pair
        now, picture = source.read(range(place, place + 1), model.image_size)[0]
        return None if picture is None or now.sha256 != rows[row].sha256 else planes(picture, model.channels)

    with readers(source) as pool:
        read_ones = list(zip(sought, pool.map(read, sought), strict=True))
    there = [(row, picture) for (row, _), picture in read_ones if picture is not None]
    maps = []
    with progress.task("heat maps for the report", len(there)) as task:
        for start in range(0, len(there), BATCH):
            some = there[start : start + BATCH]
            pixels = torch.from_numpy(np.stack([picture for _, picture in some]))
            maps.append(stored(heat(model, pixels, torch.from_numpy(labels[[row for row, _ in some]]))))
            task.advance(len(some))
    return [row for row, _ in there], np.concatenate(maps) if maps else np.zeros((0, 1, 1), np.uint8)


def heat_answer(model: Model, pixels: Tensor, cluster: int) -> dict[str, Any]:
    """What a page asks for: `side`, `values` (base64 of side x side bytes, row by row) and `cluster`.

    Args:
        model: what the run ships.
        pixels: (channels, S, S) uint8, one image.
        cluster: what its heat is sought for.

    Raises:
        ConfigError: as `heat`, or the model knows no such cluster: one that a person split off.
    """
    if not 0 <= cluster < model.n_clusters:
        raise ConfigError(f"cluster {cluster} is none of the {model.n_clusters} that the model knows: no map of it")
    found = stored(heat(model, pixels[None], torch.tensor([cluster])))[0]
    return {"side": len(found), "values": base64.b64encode(found.tobytes()).decode("ascii"), "cluster": cluster}


def stored(maps: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Maps (N, h, h) in [0, 1] as bytes, (N, side, side) uint8, with at most `STORED_SIDE` places a side."""
    side = min(STORED_SIDE, maps.shape[1])
    fewer = F.adaptive_avg_pool2d(torch.from_numpy(maps), side)
    most = fewer.amax(dim=(1, 2), keepdim=True).clamp_min(1e-12)
    return np.asarray((255 * fewer / most).round().to(torch.uint8).numpy(), dtype=np.uint8)


def refuse_embeddings(model: Model) -> None:
    """Refuses a model that never sees an image.

    Raises:
        ConfigError: it was made of ready embeddings.
    """
    if model.encoder.design.kind == "embeddings":
        raise ConfigError("the run was made of ready embeddings, in which no place of an image can be found again")


def _layers(encoder: Encoder, image: Tensor) -> list[str]:
    """Names of modules that put out the maps of the last stages, from the finest to the one that is averaged.

    The averaged one is known by its gradient, the same everywhere. Of each finer size it is the last one
    of the outermost: the output of a stage, not of a branch within it.

    Args:
        encoder: in evaluation mode.
        image: (1, channels, S, S) float32 on its device.
    """
    with torch.enable_grad(), _kept(encoder) as kept:
        features = encoder(image.requires_grad_()).float()
        ramp = torch.linspace(1, 2, features.shape[1], device=features.device)
        names = [name for name, out in kept.items() if out.requires_grad]
        gradients = torch.autograd.grad((features * ramp).sum(), [kept[name] for name in names], allow_unused=True)
    averaged = [place for place, gradient in enumerate(gradients) if gradient is not None and _is_even(gradient)]
    if not averaged:
        raise ConfigError(
            f"the encoder {encoder.design.name} does not average a map of features over the image, as convolutional "
            "ones do and transformers do not, so that no place of an image can be told from another"
        )
    last = averaged[-1]
    found = {kept[names[last]].shape[-1]: names[last]}
    before = [name for name, gradient in zip(names[:last], gradients, strict=False) if gradient is not None]
    for name in reversed(before):
        side = kept[name].shape[-1]
        if side > max(found):
            same = [each for each in reversed(before) if kept[each].shape[-1] == side]
            found[side] = min(same, key=lambda each: each.count("."))
    return [found[side] for side in sorted(found)[:STAGES]][::-1]


def _is_even(gradient: Tensor) -> bool:
    """Whether a gradient (1, D, h, h) is the same at all places, and not zero."""
    most = float(gradient.abs().max())
    return most > 0 and float((gradient - gradient[:, :, :1, :1]).abs().max()) <= EVEN * most


@contextmanager
def _kept(encoder: Encoder, names: list[str] | None = None) -> Iterator[dict[str, Tensor]]:
    """What modules of the encoder put out while the block lasts, by name: maps (B, D, h, h) with h > 1, this thread's.

    Args:
        encoder: whose modules.
        names: which of them; None is all.
    """
    kept: dict[str, Tensor] = {}
    thread = threading.get_ident()

    def keep(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, out: Any) -> None:
            is_map = isinstance(out, Tensor) and out.dim() == 4 and out.shape[-1] == out.shape[-2] > 1
            if is_map and threading.get_ident() == thread:
                kept.pop(name, None)  # the order is that of the last call
                kept[name] = out

        return hook

    modules = dict(encoder.named_modules())
    hooks = [modules[name].register_forward_hook(keep(name)) for name in names or modules if name]
    try:
        yield kept
    finally:
        for hook in hooks:
            hook.remove()
