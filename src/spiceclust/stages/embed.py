"""Between stages 1 and 2: every image, and V weak and V strong views of it, through the frozen encoder once.

N images, V views of each kind, D features, K neighbours.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spiceclust.config import FitConfig
from spiceclust.data.views import Views
from spiceclust.errors import ConfigError
from spiceclust.models.encoders import Encoder
from spiceclust.training.checkpoint import Artefact
from spiceclust.training.context import Context
from spiceclust.training.inference import embed_images, neighbors_of
from spiceclust.training.pixels import Pixels


def run(images: Pixels, encoder: Encoder, config: FitConfig, context: Context) -> Artefact:
    """Embeds the images.

    Args:
        images: (N, channels, S, S) uint8, or what else the encoder takes.
        encoder: of stage 1.
        config: `embed`, `views`, `select.max_neighbors`, `encoder`.
        context: seed, device, progress.

    Returns:
        `plain` (N, D) float32, `weak` and `strong` (V, N, D) float16 unless V is 0, all L2-normalised; `neighbors`
        (N, K) int32, from the nearest on; facts: whether they are exact, and their recall.

    Raises:
        ConfigError: an encoder that was given says nothing of some images, or the same of all.
        TrainingError: the encoder of stage 1 puts out values that are not finite.
    """
    encoder.eval()
    views = context.views or Views(config.views)
    count = config.embed.cached_views
    with context.progress.task("2 embed", 1 + count * len(views.drawn & {"weak", "strong"})) as task:

        def embed(kind: str, view: int = 0) -> Tensor:
            def seen(batch: Tensor, number: int) -> Tensor:
                draws = context.generator("embed", kind, view, number)
                return views.plain(batch) if kind == "plain" else getattr(views, kind)(batch, draws)

            embeddings = embed_images(encoder, images, seen, context)
            task.advance()
            return embeddings

        plain = embed("plain")
        if config.encoder != "moco":
            _refuse_no_features(plain, config.encoder)
        tensors = {"plain": plain}
        if count:
            for kind in ("weak", "strong"):
                if kind in views.drawn:
                    tensors[kind] = torch.stack([embed(kind, view).half() for view in range(count)])
                else:
                    tensors[kind] = plain.half().expand(count, -1, -1)
    k = min(config.select.max_neighbors, len(plain) - 1)
    neighbors, recall, exact = neighbors_of(plain, k, context)
    if not exact:
        context.progress.say(f"neighbours are approximate: {recall:.1%} are as near as the exact ones, on a sample")
    return Artefact(
        {**tensors, "neighbors": neighbors.int()}, {"neighbors": "exact" if exact else "approximate", "recall": recall}
    )


def _refuse_no_features(plain: Tensor, name: str) -> None:
    """Raises ConfigError where the (N, D) float32 embeddings of an encoder that was given tell nothing.

    One that is learned here may end like that on images that are all alike, which is no mistake: it is warned of.
    """
    n = len(plain)
    without = int((plain.norm(dim=1) < 0.5).sum())  # the others have length 1
    if without:
        raise ConfigError(
            f"the encoder {name!r} puts out only zeros, or values too large or small for float32, for {without} of {n} "
            "images: leave these out, or give another encoder"
        )
    if (plain == plain[0]).all():
        raise ConfigError(
            f"the encoder {name!r} puts out the same for all {n} of {n} images, and so nothing to sort them by: "
            "look at its weights, or give another"
        )
