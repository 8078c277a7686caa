"""Stage 2: heads that learn partitions of the neighbour graph, on frozen features.

It stands beside SPICE-Self (Niu et al. 2022, section III-B; `self_label` follows that to the letter): H heads
learn pseudo-labels of strong and weak views, and one is kept without labels. But the pseudo-labels do not come from
prototypes with quotas of M / C images, which tear apart what is large and fill up what is small. They come from cuts of
the neighbour graph, which has clusters of any size. N images, V views, H heads, C clusters, D features, K neighbours.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spiceclust.config import FitConfig
from spiceclust.functional.partition import neighbor_votes, partition, partition_score
from spiceclust.models.heads import ClusterHeads
from spiceclust.training.checkpoint import Artefact
from spiceclust.training.context import Context
from spiceclust.training.features import Features
from spiceclust.training.head_choice import SCORING_NEIGHBORS, judge, keep
from spiceclust.training.loop import Order, cosine, train
from spiceclust.training.snapshots import Kept


def run(features: Features, config: FitConfig, context: Context) -> Artefact:
    """Parts the images H times, teaches each partition to a head, and keeps the head that parts them best.

    A head learns for each image the shares of the clusters among its neighbours (cross-entropy with soft targets), so
    that a stray image follows those around it.

    Args:
        features: of the images and their views.
        config: `graph_label`, `n_clusters`.
        context: seed, device, progress.

    Returns:
        The kept head's weights as `head.*`, its `probabilities` (N, C) float32, `head_labels` (H, N) int16 of every
        head and the weights of all as `heads.*`; facts: the loss curve, score and consistency of every head, and which
        was kept.
    """
    settings = config.graph_label
    plain = features.plain
    neighbors = features.neighbors[:, : settings.neighbors].long()
    partitions = _partitions(plain, neighbors, config, context)
    heads = ClusterHeads(settings.heads, plain.shape[1], config.n_clusters, context.number("graph", "heads"))
    heads = heads.to(context.device)
    learning = context.compiled(heads, "reduce-overhead")
    order = Order(len(plain), settings.batch_size, "graph", context)

    def step(number: int) -> Tensor:
        seen = features.strong if number % 2 else features.weak
        rows = order.batch(number).rows
        around = torch.cat([rows.unsqueeze(1), neighbors[rows, :SCORING_NEIGHBORS]], dim=1)
        votes = neighbor_votes(partitions, around, config.n_clusters)
        logits = learning(seen(number // 2 % features.views, rows))
        cross_entropy: Tensor = -(votes * logits.log_softmax(dim=2)).sum(dim=2).mean(dim=1).sum()
        return cross_entropy

    curve = train(
        step,
        steps=settings.steps,
        optimizer=torch.optim.Adam(heads.parameters(), lr=settings.learning_rate, fused=plain.is_cuda),
        rate=lambda number: cosine(number, settings.steps, 0),
        state={"heads": heads, "partitions": Kept(partitions=partitions)},
        name="3 self-label (graph)",
        part="graph_label",
        context=context,
    )
    logits, consistencies = judge(heads, features, config.n_clusters)
    scores = [partition_score(labels, neighbors, config.n_clusters) for labels in logits.softmax(dim=2).argmax(dim=2)]
    facts = {"loss": curve, "scores": scores, "consistency": consistencies}
    return keep(heads, scores.index(max(scores)), logits, facts)


def _partitions(plain: Tensor, neighbors: Tensor, config: FitConfig, context: Context) -> Tensor:
    """(H, N) int64: a partition for each head, from finer groups for every other one."""
    settings, found = config.graph_label, []
    with context.progress.task("3 parting the neighbour graph", settings.heads) as task:
        for head in range(settings.heads):
            finer = settings.groups_per_cluster * (1 + head % 2)
            seed = context.number("graph", "partition", head)
            found.append(partition(plain, neighbors, config.n_clusters, finer, seed))
            task.advance()
    return torch.stack(found)
