"""Trained heads on all images: how consistent each one is, which speaks for a clustering, and which clusterings go on.

N images, H heads, C clusters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from spiceclust.functional.opinions import consensus, opinions
from spiceclust.functional.partition import TOLERANCE, partition_score
from spiceclust.functional.reliable import consistency
from spiceclust.models.heads import ClusterHeads
from spiceclust.training.checkpoint import Artefact, part
from spiceclust.training.features import Features

SCORING_NEIGHBORS = 20
AT_ONCE = 4096  # images that all heads judge together
BEHIND = 0.8  # partition score by which a clustering may lie behind the best and still be carried on (docs/log.md)


@torch.no_grad()
def judge(heads: ClusterHeads, features: Features, n_clusters: int) -> tuple[Tensor, list[float]]:
    """(H, N, C) float32 logits of the plain images, and the consistency of each head's labels with the neighbours."""
    logits = _said(heads, features.plain)
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
        The kept head's weights as `head.*` and its `probabilities` (N, C) float32; `head_labels` (H, N) int16, and the
        weights of all heads as `heads.*`.
    """
    weights = {f"heads.{name}": value for name, value in heads.state_dict().items()}
    return Artefact(
        {**_speech(heads, best, logits), **weights, "head_labels": _labels(logits).short()}, {**facts, "kept": best}
    )


@torch.no_grad()
def finalists(candidates: Mapping[str, Artefact], features: Features, n_clusters: int) -> dict[str, Artefact]:
    """Of clusterings that were come by in different ways the heads that speak for them, and those worth carrying on.

    Where there are several ways, each is spoken for by the head with the best `partition_score` - log(1 - agreement +
    0.01): few neighbours apart, clusters evenly used, and `consensus` with all heads of all ways. A method with one way
    keeps the head that its stage prefers.

    Each way fails on some images: equal sizes tear apart what is large, cuts of the neighbour graph merge what is
    alike. Scored by `partition_score`, the best is carried on, and beside it the first, which is the published one and
    owes nothing to the neighbours that judge, unless it is behind by more than `BEHIND`.

    Args:
        candidates: name and artefact, of `keep`, of each clustering.
        features: of the images.
        n_clusters: C.

    Returns:
        One or two by name, the first candidate first. Tensors: the weights of the kept head as `head.*`, its
        `probabilities` (N, C) float32, `head_labels` (H, N) int16, and what the heads of all candidates say of its
        labels, `opinions` (N, C) float32. Facts: those of the stage, `kept`, and the `partition_score`.
    """
    near = features.neighbors[:, :SCORING_NEIGHBORS].long()
    heads = {name: artefact.tensors["head_labels"].long() for name, artefact in candidates.items()}
    everyone = torch.cat(list(heads.values()))
    scores = torch.tensor([partition_score(labels, near, n_clusters) for labels in everyone], dtype=torch.float64)
    by_way = dict(zip(heads, scores.split([len(labels) for labels in heads.values()]), strict=True))  # type: ignore[no-untyped-call]
    kept = {name: artefact.facts["kept"] for name, artefact in candidates.items()}
    if len(heads) > 1:
        worth = scores - (1 - consensus(everyone, scores, n_clusters) + TOLERANCE).log()
        each = worth.split([len(labels) for labels in heads.values()])  # type: ignore[no-untyped-call]
        kept = {name: int(part.argmax()) for name, part in zip(heads, each, strict=True)}
    own = {name: float(by_way[name][kept[name]]) for name in heads}
    first, best = next(iter(own)), max(own, key=own.__getitem__)
    rivals = [name for name in own if name != first]
    if best == first and rivals:
        best = max(rivals, key=own.__getitem__)
    found = {}
    for name, artefact in candidates.items():
        if name in (first, best) and own[name] >= max(own.values()) - BEHIND:
            said = opinions(everyone, scores, heads[name][kept[name]], n_clusters)
            facts = {**artefact.facts, "kept": kept[name], "partition_score": own[name]}
            spoken = artefact.tensors
            if kept[name] != artefact.facts["kept"]:
                all_heads = _heads_of(artefact)
                spoken = {**spoken, **_speech(all_heads, kept[name], _said(all_heads, features.plain))}
            carried = {key: tensor for key, tensor in spoken.items() if not key.startswith("heads.")}
            found[name] = Artefact({**carried, "opinions": said}, facts)
    return found


def _said(heads: ClusterHeads, plain: Tensor) -> Tensor:
    """(H, N, C) logits: the hidden layers of all heads would take more than all else, of all images at once."""
    return torch.cat([heads(some) for some in plain.split(AT_ONCE)], dim=1)  # type: ignore[no-untyped-call]


def _speech(heads: ClusterHeads, kept: int, logits: Tensor) -> dict[str, Tensor]:
    """One head, and what it says of the plain images, of which `logits` (H, N, C) are what all heads say."""
    weights = {f"head.{name}": value for name, value in heads.extract(kept).state_dict().items()}
    return {**weights, "probabilities": logits[kept].softmax(dim=1)}


def _heads_of(artefact: Artefact) -> ClusterHeads:
    """All heads of a clustering stage."""
    state = part(artefact.tensors, "heads.")
    n_heads, n_features, n_clusters = state["weight2"].shape
    heads = ClusterHeads(n_heads, n_features, n_clusters, seed=0).to(state["weight2"].device)
    heads.load_state_dict(state)
    return heads


def _labels(logits: Tensor) -> Tensor:
    return logits.softmax(dim=2).argmax(dim=2)  # of the probabilities, whose ties are not those of the logits
