"""Stage 2, SPICE-Self: heads taught by prototype pseudo-labels on frozen features (Niu et al. 2022, section III-B).

N images, M images in a meta-batch, H heads, C clusters, D features, P pseudo-labels of a round.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from spiceclust.config import FitConfig
from spiceclust.functional.prototypes import balanced_quotas, double_softmax_loss, labels_of, prototypes, pseudo_labels
from spiceclust.models.heads import ClusterHeads
from spiceclust.training.checkpoint import Artefact
from spiceclust.training.context import Context
from spiceclust.training.features import Features
from spiceclust.training.head_choice import judge, keep
from spiceclust.training.loop import Order, train
from spiceclust.training.snapshots import Kept


def run(features: Features, config: FitConfig, context: Context) -> Artefact:
    """Trains H heads and keeps the one whose labels the neighbours agree with most.

    Args:
        features: of the images and their views.
        config: `self_label`, `n_clusters`.
        context: seed, device, progress.

    Returns:
        The kept head's weights as `head.*`, its `probabilities` (N, C) float32, `head_labels` (H, N) int16 of every
        head and the weights of all as `heads.*`; facts: the consistency of every head and which was kept.
    """
    settings = config.self_label
    plain = features.plain
    n, n_features = plain.shape
    heads = ClusterHeads(settings.heads, n_features, config.n_clusters, context.number("self", "heads"))
    heads = heads.to(context.device)
    learning = context.compiled(heads, "reduce-overhead")
    quotas = balanced_quotas(settings.meta_batch, config.n_clusters)
    clusters = labels_of(quotas).to(context.device)
    per_pass = -(-len(clusters) // settings.batch_size)
    per_round = settings.passes * per_pass
    order = Order(n, settings.meta_batch, "self", context)
    assigned = torch.zeros((settings.heads, len(clusters)), dtype=torch.int64, device=context.device)

    def new_round(number: int) -> None:
        meta = order.batch(number).rows
        with torch.no_grad():
            probabilities = heads(features.weak(number % features.views, meta)).softmax(dim=2)
        centres = prototypes(plain[meta], probabilities, quotas, settings.ratio)
        assigned.copy_(meta[pseudo_labels(plain[meta], centres, quotas)])

    @lru_cache(maxsize=1)
    def strong_views(round_number: int, pass_number: int) -> tuple[Tensor, Tensor]:
        """A view of each image in a pass, for whichever heads it teaches: numbers (M,), ascending, and views (M, D)."""
        meta = order.batch(round_number).rows  # in their order, on which fresh views depend
        ascending, places = meta.sort()
        return ascending, features.strong((round_number + pass_number) % features.views, meta)[places]

    def step(number: int) -> Tensor:
        round_number, within = divmod(number, per_round)
        if within == 0:
            new_round(round_number)
        pass_number, position = divmod(within, per_pass)
        shuffled = torch.randperm(
            len(clusters),
            generator=context.generator("self", "shuffle", round_number, pass_number),
            device=context.device,
        )
        chosen = shuffled[position * settings.batch_size : (position + 1) * settings.batch_size]
        meta, strong = strong_views(round_number, pass_number)
        strong = strong[torch.searchsorted(meta, assigned[:, chosen])]
        return double_softmax_loss(learning(strong), clusters[chosen].expand(settings.heads, -1))

    curve = train(
        step,
        steps=settings.rounds * per_round,
        optimizer=torch.optim.Adam(heads.parameters(), lr=settings.learning_rate, fused=plain.is_cuda),
        rate=lambda number: 1.0,
        state={"heads": heads, "round": Kept(assigned=assigned)},
        name="3 self-label (SPICE)",
        part="self_label",
        context=context,
    )
    logits, consistencies = judge(heads, features, config.n_clusters)
    best = consistencies.index(max(consistencies))
    return keep(heads, best, logits, {"loss": curve, "consistency": consistencies})
