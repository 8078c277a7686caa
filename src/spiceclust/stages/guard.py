"""The guard: of the classifiers of stages 2 and 3, the one whose labels part the images better ships.

Stage 3 can make things worse: a cluster can swallow others. Neither stage may judge in its own favour: each labelling
is scored by the neighbours in the features of stage 1, on which stage 2 was built, and in those of stage 3, and the
mean decides. Where stage 2 learned from the very neighbours that judge, it must win by a margin.
N images, C clusters, D features, K neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from spiceclust.config import FitConfig
from spiceclust.functional.opinions import renumbered
from spiceclust.functional.partition import TOLERANCE, partition_score
from spiceclust.models.heads import Classifier
from spiceclust.training.checkpoint import Artefact
from spiceclust.training.context import Context
from spiceclust.training.inference import classify, neighbors_of
from spiceclust.training.pixels import Pixels

MARGIN = 0.1  # for a stage 2 that learned from the neighbours that judge; in units of the score (docs/log.md)


def run(
    images: Pixels,
    first: Classifier,
    second: Classifier | None,
    opinions: Tensor,
    neighbors: Tensor,
    margin: float,
    config: FitConfig,
    context: Context,
) -> Artefact:
    """Chooses what ships.

    Args:
        images: (N, channels, S, S) uint8.
        first, second: classifiers of stage 2 and stage 3; None where stage 3 was skipped, and so the first ships.
        opinions: (N, C) float32, rows sum to 1: what all heads of stage 2 say, in the numbers of these clusters.
        neighbors: (N, K) integers, of the embed stage.
        margin: by how much the first must score higher to ship.
        config: `n_clusters`.
        context: device.

    Returns:
        No tensors; facts: both scores, the images in each cluster by both, the name of the stage that ships, what this
        one scores by the neighbours of stage 1 alone, and its agreement with the opinions, in [0, 1].
    """
    outputs = {"3-self": classify(first, images, context.device, context.lanes, context.world)}
    if second is not None:
        outputs["5-semi"] = classify(second, images, context.device, context.lanes, context.world)
    other = neighbors.long()
    if second is not None:
        other = neighbors_of(outputs["5-semi"][1], neighbors.shape[1], context).indices
    scores, by_stage_1, agreement, sizes = {}, {}, {}, {}
    for name, (probabilities, _) in outputs.items():
        labels = probabilities.argmax(dim=1)
        sizes[name] = labels.bincount(minlength=config.n_clusters).tolist()
        by_stage_1[name], own = (partition_score(labels, near, config.n_clusters) for near in (neighbors.long(), other))
        scores[name] = (by_stage_1[name] + own) / 2
        named = renumbered(labels, opinions.argmax(dim=1), config.n_clusters)  # stage 3 may have swapped clusters
        agreement[name] = float(opinions.gather(1, named.unsqueeze(1)).mean())
    shipped = "3-self" if second is None or scores["3-self"] > scores["5-semi"] + margin else "5-semi"
    told = {"by_stage_1": by_stage_1[shipped], "agreement": agreement[shipped]}
    return Artefact({}, {"scores": scores, "sizes": sizes, "shipped": shipped, **told})


def margin_of(clustering: str) -> float:
    """By how much stage 2 must win: prototypes learned from no neighbour, all other clusterings did."""
    return 0.0 if clustering == "prototypes" else MARGIN


def choose(verdicts: Mapping[str, Artefact], used: Mapping[str, float]) -> tuple[str, dict[str, float]]:
    """Of clusterings carried through stage 3, the one that scores best with neighbours, views and heads together.

    The neighbours are those of stage 1, since all clusterings have them in common. The views speak for what stage 3
    made of a clustering, so they do not count where that does not ship: clusters that ran away leave no doubt either.
    The heads of all clusterings agree where the images leave no choice, and on what is right more often than on one
    clustering's own mistakes.

    Args:
        verdicts: of `run`, by clustering.
        used: share of the unlabelled images whose weak view was confident enough to teach in the end, in [0, 1].

    Returns:
        The name, and each one's score - log(1 - used + 0.01) - log(1 - agreement + 0.01), with 0 for `used` where
        stage 2 ships: doubt and dissent count as parted neighbours do.
    """
    together = {}
    for name, verdict in verdicts.items():
        sure = used[name] if verdict.facts["shipped"] == "5-semi" else 0.0
        surety = sum(math.log(1 - share + TOLERANCE) for share in (sure, verdict.facts["agreement"]))
        together[name] = verdict.facts["by_stage_1"] - surety
    return max(together, key=together.__getitem__), together
