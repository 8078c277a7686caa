"""Last stage: probabilities that mean something, by temperature scaling against second opinions.

N images, C clusters, D features, K neighbours.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from spiceclust.config import FitConfig
from spiceclust.functional.calibration import fit_temperature
from spiceclust.models.heads import Classifier
from spiceclust.training.checkpoint import Artefact
from spiceclust.training.context import Context
from spiceclust.training.head_choice import SCORING_NEIGHBORS
from spiceclust.training.inference import classify
from spiceclust.training.pixels import Pixels


def run(
    images: Pixels, shipped: Classifier, opinions: Tensor, neighbors: Tensor, config: FitConfig, context: Context
) -> Artefact:
    """Fits the temperature and puts it into the head's last layer, so that predict need not know of it.

    The voters are an image's neighbours in the features of stage 1, each with what all heads of stage 2 say of it.
    Both are older than what stage 3 learned, and so not a mere echo of it; where stage 2 ships, its head has a say on
    its own labels.

    Args:
        images: (N, channels, S, S) uint8.
        shipped: the classifier that the guard chose; it stays as it is.
        opinions: (N, C) float32, rows sum to 1, of the clustering that ships: what the heads of stage 2 say.
        neighbors: (N, K) integers, of the embed stage.
        config: not used; every stage takes one.
        context: device.

    Returns:
        The calibrated classifier's state dict as `classifier.*`, its outputs on the plain images, `probabilities`
        (N, C) and `embeddings` (N, D) float32; facts: the temperature, mean confidence before and after.
    """
    before, _ = classify(shipped, images, context.device, context.lanes, context.world)
    near = neighbors[:, :SCORING_NEIGHBORS].long()
    votes = torch.zeros_like(opinions)
    for column in near.T:  # one at a time: together they would take K times the memory
        votes += opinions[column] / near.shape[1]
    temperature = fit_temperature(before.clamp(min=torch.finfo(before.dtype).tiny).log(), votes)
    calibrated = copy.deepcopy(shipped)
    last = calibrated.head[-1]  # type: ignore[index]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.weight.div_(temperature)
        last.bias.div_(temperature)
    probabilities, embeddings = classify(calibrated, images, context.device, context.lanes, context.world)
    state = {f"classifier.{name}": value for name, value in calibrated.state_dict().items()}
    confidence = [float(each.max(dim=1).values.mean()) for each in (before, probabilities)]
    facts = {"temperature": temperature, "confidence_before": confidence[0], "confidence_after": confidence[1]}
    return Artefact({**state, "probabilities": probabilities, "embeddings": embeddings}, facts)
