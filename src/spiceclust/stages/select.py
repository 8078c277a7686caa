"""Stage 2b, reliable labels by local semantic consistency (Niu et al. 2022, section III-C).

N images, K neighbours, C clusters.
"""

from __future__ import annotations

from torch import Tensor

from spiceclust.config import FitConfig
from spiceclust.functional.reliable import agreement, choose_k, select_reliable
from spiceclust.training.checkpoint import Artefact
from spiceclust.training.context import Context


def run(probabilities: Tensor, neighbors: Tensor, config: FitConfig, context: Context) -> Artefact:
    """Marks the images whose label can be trusted.

    Args:
        probabilities: (N, C) float32.
        neighbors: (N, K_max) integers, from the nearest on.
        config: `select`, `n_clusters`.
        context: unused but for its device; every stage takes one.

    Returns:
        `labels` (N,) int64, `reliable` (N,) uint8; facts: the K derived, the share selected, the count per cluster.
    """
    settings = config.select
    confidence, labels = probabilities.max(dim=1)
    near = neighbors.long()
    k = choose_k(labels, near, settings.agreement)
    agreements = agreement(labels, near[:, :k])
    reliable = select_reliable(labels, confidence, agreements, config.n_clusters, settings.agreement, settings.floor)
    facts = {
        "neighbors": k,
        "share": float(reliable.float().mean()),
        "per_cluster": labels[reliable].bincount(minlength=config.n_clusters).tolist(),
    }
    return Artefact({"labels": labels, "reliable": reliable.byte()}, facts)
