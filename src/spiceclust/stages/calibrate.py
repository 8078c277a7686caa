"""Last stage: probabilities that mean something, by temperature scaling against the neighbours' labels.

N images, C clusters, D features, K neighbours.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from spiceclust.config import FitConfig
from spiceclust.functional.calibration import fit_temperature
from spiceclust.functional.partition import neighbor_votes
from spiceclust.models.heads import Classifier
from spiceclust.training.checkpoint import Artefact
from spiceclust.training.context import Context
from spiceclust.training.head_choice import SCORING_NEIGHBORS
from spiceclust.training.inference import classify


def run(
    images: Tensor, shipped: Classifier, labelling: Tensor, neighbors: Tensor, config: FitConfig, context: Context
) -> Artefact:
    """Fits the temperature and puts it into the head's last layer, so that predict need not know of it.

    The voters are the neighbours in the features of stage 1 with their labels of stage 2: both are older than what
    stage 3 learned, and so not a mere echo of it; where stage 2 ships they judge their own labels.

    Args:
        images: (N, channels, S, S) uint8.
        shipped: the classifier that the guard chose; it stays as it is.
        labelling: (N, C) float32 probabilities of stage 2.
        neighbors: (N, K) integers, of the embed stage.
        config: `n_clusters`.
        context: device.

    Returns:
        The calibrated classifier's state dict as `classifier.*`, its outputs on the plain images, `probabilities`
        (N, C) and `embeddings` (N, D) float32; facts: the temperature, mean confidence before and after.
    """
    before, _ = classify(shipped, images, context.device)
    near = neighbors[:, :SCORING_NEIGHBORS].long()
    votes = neighbor_votes(labelling.argmax(dim=1).unsqueeze(0), near, config.n_clusters)[0]
    temperature = fit_temperature(before.clamp(min=torch.finfo(before.dtype).tiny).log(), votes)
    calibrated = copy.deepcopy(shipped)
    last = calibrated.head[-1]  # type: ignore[index]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.weight.div_(temperature)
        last.bias.div_(temperature)
    probabilities, embeddings = classify(calibrated, images, context.device)
    state = {f"classifier.{name}": value for name, value in calibrated.state_dict().items()}
    confidence = [float(each.max(dim=1).values.mean()) for each in (before, probabilities)]
    facts = {"temperature": temperature, "confidence_before": confidence[0], "confidence_after": confidence[1]}
    return Artefact({**state, "probabilities": probabilities, "embeddings": embeddings}, facts)
