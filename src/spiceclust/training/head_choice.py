"""Trained heads on all images: how consistent each one is, and what the one that is kept leaves behind.

N images, H heads, C clusters.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from spiceclust.functional.reliable import agreement, consistency
from spiceclust.models.heads import ClusterHeads
from spiceclust.training.checkpoint import Artefact

SCORING_NEIGHBORS = 20
EQUAL_SIZES = 0.025  # share of neighbours more that equal sizes may part before they are given up (docs/log.md)


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


def prefer(equal: Artefact, free: Artefact, embedded: Artefact) -> Artefact:
    """Clusters of equal size, as SPICE assumes them, unless the neighbours contradict them.

    Equal sizes hold a class together that lies in several pieces, which free sizes do not; but where the classes are
    not equal they tear the large ones apart, and many neighbours with them.

    Args:
        equal: of a stage whose pseudo-labels have equal quotas.
        free: of one whose clusters may have any size.
        embedded: of the embed stage.

    Returns:
        One of the two; its facts tell in addition which (`sizes`), and how many neighbours agree in both (`agreement`).
    """
    neighbors = embedded.tensors["neighbors"][:, :SCORING_NEIGHBORS].long()
    agreements, filled = {}, {}
    for sizes, artefact in (("equal", equal), ("free", free)):
        labels = artefact.tensors["head_labels"][artefact.facts["kept"]].long()
        agreements[sizes] = float(agreement(labels, neighbors).double().mean())
        filled[sizes] = len(labels.bincount().nonzero())
    keep_equal = agreements["equal"] >= agreements["free"] - EQUAL_SIZES and filled["equal"] >= filled["free"]
    chosen, kept = ("equal", equal) if keep_equal else ("free", free)
    return Artefact(kept.tensors, {**kept.facts, "sizes": chosen, "agreement": agreements})


def _labels(logits: Tensor) -> Tensor:
    return logits.softmax(dim=2).argmax(dim=2)  # of the probabilities, whose ties are not those of the logits
