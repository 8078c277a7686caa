"""Heads: features -> projection or clusters.

B images in a batch, D features, H heads, C clusters.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spiceclust.models.encoders import Encoder

HIDDEN_FACTOR = 4  # width of the projection's hidden layer, in D


def build_projection(n_features: int, dim: int, seed: int) -> nn.Module:
    """The two-layer projection of MoCo v2 (Chen et al. 2020), wider and with batch norm: (B, D) to (B, dim).

    Without the norm all keys begin alike, and a short training spends much of its time on parting them (docs/log.md).
    """
    hidden = HIDDEN_FACTOR * n_features
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        first, last = nn.Linear(n_features, hidden, bias=False), nn.Linear(hidden, dim)
    return nn.Sequential(first, nn.BatchNorm1d(hidden), nn.ReLU(), last)


class ClusterHeads(nn.Module):
    """H independent MLPs D -> D -> C with ReLU, run as one batched product (SPICE section III-B).

    Args:
        n_heads: H.
        n_features: D.
        n_clusters: C.
        seed: of the initial weights (uniform in +-1/sqrt(D), as torch.nn.Linear).
    """

    def __init__(self, n_heads: int, n_features: int, n_clusters: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        bound = 1 / math.sqrt(n_features)

        def uniform(*shape: int) -> nn.Parameter:
            return nn.Parameter((torch.rand(shape, generator=generator) * 2 - 1) * bound)

        self.weight1 = uniform(n_heads, n_features, n_features)
        self.bias1 = uniform(n_heads, 1, n_features)
        self.weight2 = uniform(n_heads, n_features, n_clusters)
        self.bias2 = uniform(n_heads, 1, n_clusters)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Embeddings (B, D), or (H, B, D) with other images for each head, to logits (H, B, C)."""
        if embeddings.dim() == 2:
            embeddings = embeddings.expand(len(self.weight1), -1, -1)
        hidden = F.relu(torch.baddbmm(self.bias1, embeddings, self.weight1))
        return torch.baddbmm(self.bias2, hidden, self.weight2)

    def extract(self, index: int) -> nn.Sequential:
        """Head `index` as an ordinary MLP with a copy of the weights."""
        head = build_head(self.weight1.shape[1], self.weight2.shape[2])
        weights = {
            "0.weight": self.weight1[index].T,
            "0.bias": self.bias1[index, 0],
            "2.weight": self.weight2[index].T,
            "2.bias": self.bias2[index, 0],
        }
        head.load_state_dict({name: weight.detach().cpu() for name, weight in weights.items()})
        return head


def build_head(n_features: int, n_clusters: int) -> nn.Sequential:
    """An MLP D -> D -> C, the shape that `ClusterHeads.extract` returns, to load weights into."""
    with torch.random.fork_rng(devices=[]):  # the values drawn here are never used
        return nn.Sequential(nn.Linear(n_features, n_features), nn.ReLU(), nn.Linear(n_features, n_clusters))


class Classifier(nn.Module):
    """An encoder and one clustering head: what a run ships."""

    def __init__(self, encoder: Encoder, head: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def embed(self, images: Tensor) -> Tensor:
        """Images (B, channels, S, S) float32 in [0, 1] to L2-normalised embeddings (B, D) float32."""
        return F.normalize(self.encoder(images).float(), dim=1)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, channels, S, S) float32 in [0, 1] to logits (B, C)."""
        logits: Tensor = self.head(self.embed(images))
        return logits
