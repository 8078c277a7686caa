"""The guard: of the classifiers of stages 2 and 3, the one whose labels part the images better ships.

Stage 3 can make things worse: a cluster can swallow others. Neither stage may judge in its own favour: each labelling
is scored by the neighbours in the features of stage 1, on which stage 2 was built, and in those of stage 3, and the
mean decides. Where stage 2 learned from the very neighbours that judge, it must win by a margin.
N images, C clusters, D features, K neighbours.
"""

from __future__ import annotations

from torch import Tensor

from spiceclust.config import FitConfig
from spiceclust.functional.neighbors import nearest_neighbors
from spiceclust.functional.partition import partition_score
from spiceclust.models.heads import Classifier
from spiceclust.training.checkpoint import Artefact
from spiceclust.training.context import Context
from spiceclust.training.inference import classify

MARGIN = 0.1  # for a stage 2 that learned from the neighbours that judge; in units of the score (docs/log.md)


def run(
    images: Tensor,
    first: Classifier,
    second: Classifier,
    neighbors: Tensor,
    margin: float,
    config: FitConfig,
    context: Context,
) -> Artefact:
    """Chooses what ships.

    Args:
        images: (N, channels, S, S) uint8.
        first, second: classifiers of stage 2 and stage 3.
        neighbors: (N, K) integers, of the embed stage.
        margin: by how much the first must score higher to ship.
        config: `n_clusters`.
        context: device.

    Returns:
        The shipped classifier's outputs on the plain images, `probabilities` (N, C) and `embeddings` (N, D) float32;
        facts: both scores and the name of the stage that ships.
    """
    outputs = {"3-self": classify(first, images, context.device), "5-semi": classify(second, images, context.device)}
    other, _ = nearest_neighbors(outputs["5-semi"][1], neighbors.shape[1])
    scores = {}
    for name, (probabilities, _) in outputs.items():
        labels = probabilities.argmax(dim=1)
        spaces = (neighbors.long(), other)
        scores[name] = sum(partition_score(labels, near, config.n_clusters) for near in spaces) / len(spaces)
    shipped = "3-self" if scores["3-self"] > scores["5-semi"] + margin else "5-semi"
    context.progress.say(
        f"guard: {shipped} ships, scores " + ", ".join(f"{name} {score:.3f}" for name, score in scores.items())
    )
    probabilities, embeddings = outputs[shipped]
    facts = {"scores": scores, "shipped": shipped}
    return Artefact({"probabilities": probabilities, "embeddings": embeddings}, facts)
