"""Trained heads on all images: how consistent each one is, and what the one that is kept leaves behind.

N images, H heads, C clusters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from spiceclust.functional.partition import partition_score
from spiceclust.functional.reliable import consistency
from spiceclust.models.heads import ClusterHeads
from spiceclust.training.checkpoint import Artefact

SCORING_NEIGHBORS = 20


@torch.no_grad()
def judge(heads: ClusterHeads, embedded: Artefact, n_clusters: int) -> tuple[Tensor, list[float]]:
    """(H, N, C) float32 logits of the plain images, and the consistency of each head's labels with the neighbours."""
    logits: Tensor = heads(embedded.tensors["plain"])
    neighbors = embedded.tensors["neighbors"][:, :SCORING_NEIGHBORS].long()
    return logits, [consistency(labels, neighbors, n_clusters) for labels in _labels(logits)]


def keep(heads: ClusterHeads, best: int, logits: Tensor, facts: dict[str, Any]) -> Artefact:
    """The artefact of a clustering stage.

    Args:
        heads: trained.
        best: number of the head that is kept.
        logits: (H, N, C) float32, of `judge`.
        facts: what the stage found; `kept` is added.

    Returns:
        The kept head's weights as `head.*`, its `probabilities` (N, C) float32, and `head_labels` (H, N) int16.
    """
    weights = {f"head.{name}": value for name, value in heads.extract(best).state_dict().items()}
    found = {"probabilities": logits[best].softmax(dim=1), "head_labels": _labels(logits).short()}
    return Artefact({**weights, **found}, {**facts, "kept": best})


def prefer(candidates: Mapping[str, Artefact], embedded: Artefact, n_clusters: int) -> Artefact:
    """The clustering that parts the images best, of several that were come by in different ways.

    Each way fails on some images: equal sizes tear apart what is large, cuts of the neighbour graph merge what is
    alike. What counts is how few neighbours are parted, and how evenly the clusters are used (`partition_score`).

    Args:
        candidates: name and artefact of each clustering; of equals the first is kept.
        embedded: of the embed stage.
        n_clusters: C.

    Returns:
        One of the artefacts; its facts tell in addition which (`clustering`), and what all scored (`partition_scores`).
    """
    neighbors = embedded.tensors["neighbors"][:, :SCORING_NEIGHBORS].long()
    scores = {}
    for name, artefact in candidates.items():
        labels = artefact.tensors["head_labels"][artefact.facts["kept"]].long()
        scores[name] = partition_score(labels, neighbors, n_clusters)
    best = max(scores, key=scores.__getitem__)
    facts = {**candidates[best].facts, "clustering": best, "partition_scores": scores}
    return Artefact(candidates[best].tensors, facts)


def _labels(logits: Tensor) -> Tensor:
    return logits.softmax(dim=2).argmax(dim=2)  # of the probabilities, whose ties are not those of the logits
