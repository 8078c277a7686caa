"""What has collapsed in a run, found without labels: a warning in one line each, with both numbers and what to do.

A collapse is no error: of images that are all alike there is nothing better. N images, D features, H heads, C clusters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from spiceclust.functional.spread import effective_clusters, effective_rank, mean_cosine

# Mean cosine above which heads cannot part the images: digits whose embeddings are drawn together are clustered nearly
# as well as before at 0.998, and far worse at 0.9998. Of features that were trained it was 0.97 at most (docs/log.md).
ALIKE = 0.999
LOST = 0.5  # share of the clusters in use, beyond the first, whose loss in the last training is a collapse


def of_features(plain: Tensor) -> tuple[dict[str, float], list[str]]:
    """Whether the features of stage 1 tell images apart.

    Args:
        plain: (N, D) float32, L2-normalised; zero where the encoder puts out nothing.

    Returns:
        Their mean cosine, effective rank and how many are zero; and the warnings.
    """
    long = plain.norm(dim=1) > 0.5
    zero = len(plain) - int(long.sum())
    there = plain[long] if zero else plain
    cosine = mean_cosine(there) if len(there) > 1 else 1.0
    warnings = []
    if zero:
        warnings.append(
            f"stage 1 collapsed: the features of {zero} of {len(plain)} images are all zero; lower "
            "pretrain.learning_rate with --config"
        )
    if cosine > ALIKE:
        warnings.append(
            f"the features of all images are nearly the same (mean cosine {cosine:.6f}, limit {ALIKE}), and clusters "
            "of them mean little: if the images are not that alike, lower pretrain.learning_rate or raise "
            "pretrain.epochs with --config, or give another encoder"
        )
    return {"mean_cosine": cosine, "effective_rank": effective_rank(plain), "zero": zero}, warnings


def of_heads(clustering: str, labels: Tensor, n_clusters: int) -> list[str]:
    """Which heads of a clustering have put every image into one cluster.

    Args:
        clustering: its name.
        labels: (H, N) integers in [0, C).
        n_clusters: C.
    """
    sizes = [head.long().bincount(minlength=n_clusters) for head in labels]
    collapsed = [number for number, each in enumerate(sizes) if int((each > 0).sum()) == 1]
    if not collapsed:
        return []
    names = ", ".join(map(str, collapsed))
    return [
        f"3-self, {clustering}: {len(collapsed)} of {len(sizes)} heads ({names}) put all {labels.shape[1]} images into "
        f"one of {n_clusters} clusters; ask for fewer clusters, or see whether the images differ"
    ]


def of_retraining(clustering: str, sizes: Mapping[str, Sequence[int]]) -> list[str]:
    """Whether clusters ran into each other in stage 3 of the paper.

    Args:
        clustering: its name.
        sizes: images in each cluster, by stage: `3-self`, and `5-semi` where that was not skipped.
    """
    if "5-semi" not in sizes:
        return []
    before, after = (effective_clusters(torch.tensor(sizes[stage])) for stage in ("3-self", "5-semi"))
    if after - 1 >= LOST * (before - 1):
        return []
    return [
        f"5-semi, {clustering}: clusters ran together, by their sizes {after:.1f} are in use and {before:.1f} were "
        f"before; lower the learning_rate of its part (semi or confident) with --config"
    ]


def of_result(sizes: Sequence[int]) -> list[str]:
    """Whether clusters of what ships are empty.

    Args:
        sizes: images in each of the C clusters.
    """
    used = sum(size > 0 for size in sizes)
    if used == len(sizes):
        return []
    if used == 1:
        return [f"all {sum(sizes)} images are in one of {len(sizes)} clusters: nothing was found to part them by"]
    return [f"{len(sizes) - used} of {len(sizes)} clusters hold no image: ask for {used}"]
