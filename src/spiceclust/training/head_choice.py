"""Trained heads on all images: how consistent each one is, what the one that is kept leaves behind, and which go on.

N images, H heads, C clusters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from spiceclust.functional.opinions import opinions
from spiceclust.functional.partition import partition_score
from spiceclust.functional.reliable import consistency
from spiceclust.models.heads import ClusterHeads
from spiceclust.training.checkpoint import Artefact
from spiceclust.training.features import Features

SCORING_NEIGHBORS = 20
BEHIND = 0.8  # partition score by which a clustering may lie behind the best and still be carried on (docs/log.md)


@torch.no_grad()
def judge(heads: ClusterHeads, features: Features, n_clusters: int) -> tuple[Tensor, list[float]]:
    """(H, N, C) float32 logits of the plain images, and the consistency of each head's labels with the neighbours."""
    logits: Tensor = heads(features.plain)
    neighbors = features.neighbors[:, :SCORING_NEIGHBORS].long()
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


def finalists(candidates: Mapping[str, Artefact], neighbors: Tensor, n_clusters: int) -> dict[str, Artefact]:
    """Of clusterings that were come by in different ways, those worth carrying on: at most two.

    Each way fails on some images: equal sizes tear apart what is large, cuts of the neighbour graph merge what is
    alike. Scored by `partition_score`, the best is carried on, and beside it the first, which is the published one and
    owes nothing to the neighbours that judge, unless it is behind by more than `BEHIND`.

    Args:
        candidates: name and artefact of each clustering.
        neighbors: (N, K) integers, from the nearest on.
        n_clusters: C.

    Returns:
        One or two of the artefacts by name, the first candidate first; the facts of each tell its `partition_score`,
        and its tensors what the heads of all candidates say of its labels: `opinions` (N, C) float32.
    """
    near = neighbors[:, :SCORING_NEIGHBORS].long()
    heads = {name: artefact.tensors["head_labels"].long() for name, artefact in candidates.items()}
    scores = {name: [partition_score(labels, near, n_clusters) for labels in heads[name]] for name in heads}
    kept = {name: artefact.facts["kept"] for name, artefact in candidates.items()}
    own = {name: scores[name][kept[name]] for name in heads}
    first, best = next(iter(own)), max(own, key=own.__getitem__)
    rivals = [name for name in own if name != first]
    if best == first and rivals:
        best = max(rivals, key=own.__getitem__)
    everyone, weights = torch.cat(list(heads.values())), torch.cat([torch.tensor(each) for each in scores.values()])
    found = {}
    for name, artefact in candidates.items():
        if name in (first, best) and own[name] >= max(own.values()) - BEHIND:
            said = opinions(everyone, weights, heads[name][kept[name]], n_clusters)
            facts = {**artefact.facts, "partition_score": own[name]}
            found[name] = Artefact({**artefact.tensors, "opinions": said}, facts)
    return found


def _labels(logits: Tensor) -> Tensor:
    return logits.softmax(dim=2).argmax(dim=2)  # of the probabilities, whose ties are not those of the logits
