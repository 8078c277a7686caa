"""Stage 2 of SCAN (Van Gansbeke et al. 2020, section 2.2): heads that give an image and its neighbours one cluster.

It is also one of the ways in which `spice` clusters. The features stay frozen, as in SPICE-Self, where the paper trains
them too. N images, H heads, B images in a batch, C clusters, D features, K neighbours, V views.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spiceclust.config import FitConfig
from spiceclust.functional.scan import scan_loss
from spiceclust.models.heads import ClusterHeads
from spiceclust.training.checkpoint import Artefact
from spiceclust.training.context import Context
from spiceclust.training.features import Features
from spiceclust.training.head_choice import judge, keep
from spiceclust.training.loop import Order, train


def run(features: Features, config: FitConfig, context: Context) -> Artefact:
    """Trains H heads and keeps the one with the lowest loss over all plain images and neighbours.

    Args:
        features: of the images and their views.
        config: `scan`, `n_clusters`.
        context: seed, device, progress.

    Returns:
        The kept head's weights as `head.*`, its `probabilities` (N, C) float32, `head_labels` (H, N) int16 of every
        head and the weights of all as `heads.*`; facts: the loss curve, the final loss (`scores`) and the consistency
        of every head, and which was kept.
    """
    settings = config.scan
    plain = features.plain
    neighbors = features.neighbors[:, : settings.neighbors].long()
    heads = ClusterHeads(settings.heads, plain.shape[1], config.n_clusters, context.number("scan", "heads"))
    heads = heads.to(context.device)
    learning = context.compiled(heads, "reduce-overhead")
    order = Order(len(plain), settings.batch_size, "scan", context)

    def step(number: int) -> Tensor:
        rows = order.batch(number).rows
        draws = context.generator("scan", number)

        def one_of(count: int) -> Tensor:
            return torch.randint(count, rows.shape, generator=draws, device=context.device)

        near = neighbors[rows, one_of(neighbors.shape[1])]
        strong, weak = features.strong(one_of(features.views), rows), features.weak(one_of(features.views), near)
        anchors, others = learning(torch.cat([strong, weak])).chunk(2, dim=1)
        return scan_loss(anchors, others, settings.entropy_weight).sum()

    curve = train(
        step,
        steps=settings.steps,
        optimizer=torch.optim.Adam(heads.parameters(), lr=settings.learning_rate, fused=plain.is_cuda),
        rate=lambda number: 1.0,
        state={"heads": heads},
        name="3 cluster (SCAN)",
        part="scan",
        context=context,
    )
    logits, consistencies = judge(heads, features, config.n_clusters)
    losses = [scan_loss(logits, logits[:, near], settings.entropy_weight) for near in neighbors.T]
    scores = torch.stack(losses).mean(dim=0).tolist()
    facts = {"loss": curve, "scores": scores, "consistency": consistencies}
    return keep(heads, scores.index(min(scores)), logits, facts)
