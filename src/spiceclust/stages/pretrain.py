"""Stage 1, representation: MoCo v2 (He et al. 2020, Chen et al. 2020) with averaged batch norm (EMAN).

Towards the end, when neighbours in the features tend to show the same, some images are paired with a neighbour
instead of with themselves (as in neighbourhood discovery, Huang et al. 2019, and NNCLR, Dwibedi et al. 2021): what
tells two images of a kind apart is then no longer worth learning. N images, B images in a batch, Q keys in the queue.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spiceclust.config import FitConfig
from spiceclust.data.views import Views
from spiceclust.functional.contrast import enqueue, info_nce
from spiceclust.models.encoders import Encoder, build_encoder
from spiceclust.models.heads import build_projection
from spiceclust.models.momentum import MomentumModel
from spiceclust.training.checkpoint import Artefact
from spiceclust.training.context import Context
from spiceclust.training.deferred import weights_later
from spiceclust.training.inference import embed_images, neighbors_of
from spiceclust.training.lanes import Ahead, Lane
from spiceclust.training.loop import Order, cosine, train
from spiceclust.training.partners import Partners
from spiceclust.training.pixels import Pixels
from spiceclust.training.snapshots import Kept

REFRESHES = 10  # the neighbours hold for a tenth of the training, then they are sought anew


def run(images: Pixels, config: FitConfig, context: Context) -> Artefact:
    """Trains the encoder so that two views of one image lie close and views of other images far.

    Args:
        images: (N, channels, S, S) uint8, wherever `training.pixels.place` put them.
        config: `pretrain`, `backbone`, `views`.
        context: seed, device, progress.

    Returns:
        The momentum encoder's state dict; facts: the loss curve.
    """
    settings = config.pretrain
    encoder = new_encoder(images, config, context)
    projection = build_projection(encoder.n_features, settings.projection_dim, context.number("pretrain", "projection"))
    query_model = nn.Sequential(encoder, projection).to(context.device).train()
    key_model = MomentumModel(query_model, settings.key_momentum)
    world, share = context.world, context.world.share(settings.batch_size)
    query, key = context.compiled(world.data_parallel(query_model)), context.compiled(key_model)
    views = context.views or Views(config.views)

    generator = context.generator("pretrain", "queue")
    queue = torch.randn((settings.queue_size, settings.projection_dim), device=context.device, generator=generator)
    queue = F.normalize(queue, dim=1)
    order = Order(len(images), settings.batch_size, "pretrain", context, images)
    steps = max(1, settings.epochs * len(images) // settings.batch_size)
    key_encoder: Encoder = key_model.average[0]  # type: ignore[index]

    def seek() -> Tensor:
        plain = embed_images(key_encoder, images, lambda batch, _: views.plain(batch), context)
        return neighbors_of(plain, min(settings.neighbors, len(images) - 1), context).indices

    first = math.ceil(settings.neighbor_start * steps)
    partners = Partners(seek, settings.neighbor_share, first, max(1, steps // REFRESHES))

    def two_views(number: int) -> tuple[Tensor, Tensor]:
        rows, own = order.batch(number)
        draws = context.generator("pretrain", "views", number)
        others = partners.of(rows, number, draws)
        seen = images[own]
        partnered = seen if others is rows else images[others[share.rows]]
        return views.contrastive(seen, draws, share), views.contrastive(partnered, draws, share)

    def projected(model: nn.Module, seen: Tensor) -> Tensor:
        with context.autocast():
            return F.normalize(model(seen).float(), dim=1)

    def step(number: int) -> Tensor:
        if number:
            key_model.update()
        one, other = ahead.of(number)
        to_come = lane.begin(lambda: projected(key, other))
        queries, keys = projected(query, one), to_come()
        if not partners.due(number + 1):
            ahead.begin(number + 1)
        loss = info_nce(queries, keys, queue.clone(), settings.temperature)
        enqueue(queue, world.gather(keys, settings.batch_size), number)
        return world.mean(loss, settings.batch_size)

    with Lane(context.lanes) as lane, weights_later(query_model, lane):
        ahead = Ahead(two_views, steps, lane)
        curve = train(
            step,
            steps=steps,
            optimizer=torch.optim.SGD(
                query_model.parameters(),
                lr=settings.learning_rate,
                momentum=0.9,
                weight_decay=settings.weight_decay,
                fused=True,
            ),
            rate=lambda number: cosine(number, steps, settings.warmup),
            state={"query": query_model, "key": key_model, "queue": Kept(queue=queue), "partners": partners},
            name="1 pretrain (MoCo v2)",
            part="pretrain",
            context=context,
            settle=lane.settle,
        )
    return Artefact(key_encoder.state_dict(), {"steps": steps, "loss": curve})


def new_encoder(images: Pixels, config: FitConfig, context: Context) -> Encoder:
    """An untrained encoder with the pixel statistics of `images`; a later stage loads trained weights into it."""
    sample = images[:: max(1, len(images) // 2000)].float() / 255
    mean = sample.mean(dim=(0, 2, 3))
    std = sample.std(dim=(0, 2, 3)).clamp(min=1 / 255)
    seed = context.number("pretrain", "encoder")
    return build_encoder(config.backbone, config.channels, config.image_size, mean.tolist(), std.tolist(), seed)
