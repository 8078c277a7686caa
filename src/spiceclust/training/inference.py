"""Passing all images through a model in evaluation mode.

N images, B images in a batch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from spiceclust.errors import ConfigError, TrainingError
from spiceclust.functional.approximate import Neighbors, find_neighbors
from spiceclust.models.encoders import Encoder
from spiceclust.models.heads import Classifier
from spiceclust.training.context import Context
from spiceclust.training.distributed import ALONE, World
from spiceclust.training.lanes import in_lanes
from spiceclust.training.pixels import Pixels

BATCH = 256
BATCH_PIXELS = 2**22  # of large images fewer go at once: 64 of 224 pixels a side


@torch.inference_mode()
def apply_batched(
    function: Callable[[Tensor, int], Tensor],
    images: Pixels,
    device: torch.device,
    batch: int | None = None,
    lanes: int = 1,
    world: World = ALONE,
) -> Tensor:
    """Applies `function` to all images, in batches of one size.

    The last batch is filled up by repeating its last image: kernels choose their blocking by the batch size, and
    with one size the output for an image is the same to the last bit whichever images come with it.

    Args:
        function: given images (B, channels, S, S) uint8 on `device` and the number of the batch, returns (B, ...).
        images: (N, channels, S, S) uint8, or other rows of inputs, on any device; N > 0.
        device: where to compute.
        batch: B; None lets it follow from S, so that it is the same wherever images of that size are seen.
        lanes: batches at once.
        world: the processes that share the batches.

    Returns:
        (N, ...) on `device`.
    """
    size = batch or batch_of(images)
    batches = -(-len(images) // size)
    if batches < world.size:
        world = ALONE  # each sees them all

    @torch.inference_mode()
    def apply(number: int) -> Tensor:
        part = images[number * size : (number + 1) * size].to(device)
        count = len(part)
        if count < size:
            part = torch.cat([part, part[-1:].expand(size - count, *part.shape[1:])])
        return function(part, number)[:count].clone()

    own = world.share(batches).rows
    seen = torch.cat(list(in_lanes(apply, range(own.start, own.stop), lanes)))
    return world.gather(seen, len(images), size)


def batch_of(images: Pixels) -> int:
    """B for images (N, channels, S, S), or other rows of inputs: a power of two, at most 256."""
    side = images.shape[-1] if len(images.shape) == 4 else 1
    fitting = max(1, min(BATCH, BATCH_PIXELS // side**2))
    return 1 << (fitting.bit_length() - 1)


def embed_images(encoder: Encoder, images: Pixels, seen: Callable[[Tensor, int], Tensor], context: Context) -> Tensor:
    """(N, D) float32: L2-normalised features, in the precision of training.

    Args:
        encoder: in evaluation mode.
        images: (N, channels, S, S) uint8.
        seen: given a batch of images and its number, returns the views (B, channels, S, S) float32 in [0, 1].
        context: device and precision.

    Raises:
        ConfigError, TrainingError: as `refuse_not_finite`.
    """

    def features(batch: Tensor, number: int) -> Tensor:
        views = seen(batch, number)
        with context.autocast():
            return F.normalize(encoder(views).float(), dim=1)

    return refuse_not_finite(
        apply_batched(features, images, context.device, lanes=context.lanes, world=context.world), encoder
    )


def neighbors_of(embeddings: Tensor, k: int, context: Context) -> Neighbors:
    """The K nearest others of (N, D) float32 embeddings, as `find_neighbors`: on all lanes, of all processes."""
    n = len(embeddings)
    own = torch.arange(n, device=embeddings.device)[context.world.share(n).rows]
    found = find_neighbors(embeddings, k, each=context.each, rows=own)
    return found._replace(indices=context.world.gather(found.indices, n))


def classify(
    classifier: Classifier, images: Pixels, device: torch.device, lanes: int = 1, world: World = ALONE
) -> tuple[Tensor, Tensor]:
    """The one way in which images become clusters, used by fit and predict alike, always in float32.

    Args:
        classifier: an encoder with a head; put into evaluation mode.
        images: (N, channels, S, S) uint8.
        device: where to compute.
        lanes: batches at once.
        world: the processes that share them.

    Returns:
        Probabilities (N, C) and L2-normalised embeddings (N, D), float32.

    Raises:
        ConfigError, TrainingError: as `refuse_not_finite`.
    """
    classifier.eval()

    def both(batch: Tensor, number: int) -> Tensor:
        embeddings = classifier.embed(batch.float() / 255)
        return torch.cat([classifier.head(embeddings).softmax(dim=1), embeddings], dim=1)

    outputs = refuse_not_finite(apply_batched(both, images, device, lanes=lanes, world=world), classifier.encoder)
    n_clusters = outputs.shape[1] - classifier.encoder.n_features
    return outputs[:, :n_clusters], outputs[:, n_clusters:]


def refuse_not_finite(outputs: Tensor, encoder: Encoder) -> Tensor:
    """The outputs for N images, (N, ...) float, if all are finite.

    Raises:
        ConfigError: some are not, and the encoder was given.
        TrainingError: some are not, and it was trained here.
    """
    wrong = ~outputs.isfinite().flatten(1).all(dim=1)
    if not wrong.any():
        return outputs
    design, count = encoder.design, f"{int(wrong.sum())} of {len(wrong)}"
    what = f"the encoder {design.name} puts out values that are not finite for {count} images"
    if design.kind == "moco":
        raise TrainingError(f"{what}: a learning rate that is too high is the likely cause: lower it with --config")
    raise ConfigError(f"{what}: leave these out, or give another encoder")
