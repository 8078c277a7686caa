"""Answers that spread to the images around them: diffusion of certain labels over the neighbour graph.

A walk over the graph goes on with probability alpha at each step. It ends at nodes that are answered, which say their
cluster, and at others, which say their present label and count for little (after Zhou et al. 2003, Learning with Local
and Global Consistency; there the others say nothing). L nodes of the graph, B other images, F answered nodes, C
clusters, D features, K neighbours.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

ALPHA: Final = 0.9
NEIGHBORS: Final = 10
PRIORS: Final = (10.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)  # weights of a present label beside an answer's 1
TOLERANCE: Final = 0.005  # of surprise: less is not worth believing present labels less
LEAST: Final = 1e-3  # share of a present label that every cluster has: it may be wrong


class Spread(NamedTuple):
    """What walks end at, from each of some images; not normalised.

    Attributes:
        answers: (L, C) float32, not negative: what answered nodes say.
        present: (L, C) float32, not negative: what the present labels of others say, with their weight.
    """

    answers: Tensor
    present: Tensor


class Trust(NamedTuple):
    """How far present labels are believed.

    Attributes:
        prior: their weight beside an answer's 1, of `PRIORS`.
        surprise: mean over the answers of -log of the probability that they and the other answers give it.
    """

    prior: float
    surprise: float


def transitions(nodes: Tensor, neighbors: int = NEIGHBORS) -> Tensor:
    """(L, L) float32, rows sum to 1: where a walk goes on to, a node's nearest and those whose nearest it is.

    An edge weighs as in `closeness`; where both are among each other's nearest, the two weights add up.

    Args:
        nodes: (L, D) float32, L2-normalised, L > 1.
        neighbors: K; fewer where there are no more.
    """
    cosines = nodes @ nodes.T
    cosines.fill_diagonal_(-torch.inf)
    near, columns = cosines.topk(min(neighbors, len(nodes) - 1), dim=1)
    weights = torch.zeros_like(cosines).scatter_(1, columns, closeness(near))
    weights += weights.T.clone()
    return weights / weights.sum(dim=1, keepdim=True)


def closeness(cosines: Tensor) -> Tensor:
    """(B, K) weights exp((cos - 1) / (1 - cos_K)) in (0, 1] of neighbours, from the nearest on; 1 / e for the last."""
    return ((cosines - 1) / (1 - cosines[:, -1:]).clamp(min=1e-6)).exp()


def spread(walk: Tensor, beliefs: Tensor, answered: Tensor, answers: Tensor) -> tuple[Spread, Trust]:
    """Lets answers spread; present labels get the weight with which the answers foretell each other.

    With R = (1 - alpha) (I - alpha W)^-1, an answered node gives R at its column to its cluster, and another one R
    times a weight to its beliefs. An answer weighs (m / k)^(1/2), where k answers are for its cluster and m for one on
    average, so that a thousand that confirm one cluster do not drown the others. For each weight of `PRIORS` every
    answer is foretold as if it had not been given; the largest weight is taken whose mean surprise is within
    `TOLERANCE` of the least. So where answers confirm what is there, it stays, and where they do not, it hardly
    counts. Images of a cluster that was never asked about, neither in it nor for it, count as an answer each.

    Args:
        walk: (L, L) float32, of `transitions`.
        beliefs: (L, C) float32, what the present labels say, each cluster more than 0, rows sum to 1.
        answered: (F,) int64 numbers of nodes, each once.
        answers: (F,) int64 clusters. Without any, the present labels alone are spread.
    """
    clusters, here = beliefs.shape[1], beliefs.argmax(dim=1)
    counts = answers.bincount(minlength=clusters)
    told = F.one_hot(answers, clusters) * _evened(counts)
    asked = (counts > 0).index_fill(0, here[answered], True)
    sources = torch.zeros(len(walk), len(answered), dtype=walk.dtype, device=walk.device)
    sources[answered, torch.arange(len(answered), device=walk.device)] = 1
    others = beliefs.index_fill(0, answered, 0)
    left_alone = others * ~asked[here].unsqueeze(1)
    system = torch.eye(len(walk), dtype=walk.dtype, device=walk.device) - ALPHA * walk
    reached = (1 - ALPHA) * torch.linalg.solve(system, torch.cat([sources, others - left_alone, left_alone], dim=1))
    by_answer, by_present, by_rest = reached.clamp(min=0).split([len(answered), clusters, clusters], dim=1)
    own = by_answer[answered].diagonal().unsqueeze(1)
    without = by_answer[answered] @ told - own * told + by_rest[answered]
    before = by_present[answered] + own * beliefs[answered]
    surprises = [_surprise(without + prior * before, answers) for prior in PRIORS]
    best = next(i for i, surprise in enumerate(surprises) if surprise <= min(surprises) + TOLERANCE)
    present = PRIORS[best] * by_present + by_rest
    return Spread(by_answer @ told, present), Trust(PRIORS[best], surprises[best])


def _evened(counts: Tensor) -> Tensor:
    """(C,) weights of answers for clusters that have so many: (mean count / count)^(1/2), 0 where there are none."""
    return torch.where(counts > 0, (counts[counts > 0].float().mean() / counts.clamp(min=1)).sqrt(), 0)


def extend(found: Spread, nodes: Tensor, images: Tensor, beliefs: Tensor, prior: float) -> Spread:
    """What walks end at that begin at other images, each with one step to its nearest nodes.

    Args:
        found: at the nodes.
        nodes: (L, D) float32, L2-normalised.
        images: (B, D) float32, L2-normalised, none of them a node.
        beliefs: (B, C) float32, what their present labels say.
        prior: weight of these.
    """
    near, columns = (images @ nodes.T).topk(min(NEIGHBORS, len(nodes)), dim=1)
    step = closeness(near)
    step = ALPHA * step / step.sum(dim=1, keepdim=True)
    answers, present = ((step.unsqueeze(1) @ each[columns]).squeeze(1) for each in found)
    return Spread(answers, present + (1 - ALPHA) * prior * beliefs)


def softened(probabilities: Tensor) -> Tensor:
    """Probabilities (N, C) of which every cluster gets at least a thousandth, since present labels may be wrong."""
    clusters = probabilities.shape[1]
    return (1 - LEAST * clusters) * probabilities + LEAST if clusters * LEAST < 1 else probabilities * 0 + 1 / clusters


def _surprise(mass: Tensor, answers: Tensor) -> float:
    shares = mass / mass.sum(dim=1, keepdim=True)
    surprises = -shares.gather(1, answers.unsqueeze(1)).log()
    return float(surprises.double().mean()) if len(answers) else 0.0
