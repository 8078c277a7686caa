"""Stage 3 of SCAN, self-labelling: the network learns from its confident images (Van Gansbeke et al. 2020, 2.3).

The weak views are judged by the moving average of the classifier, which is what ships; optimiser and schedule are those
of SPICE-Semi, so that the two methods differ in what teaches. N images, C clusters.
"""

from __future__ import annotations

from torch import nn

from spiceclust.config import FitConfig
from spiceclust.data.views import Views
from spiceclust.functional.scan import ConfidentLoss, confident_loss
from spiceclust.models.heads import Classifier
from spiceclust.training.checkpoint import Artefact
from spiceclust.training.context import Context
from spiceclust.training.loop import Order
from spiceclust.training.movement import Movement
from spiceclust.training.pixels import Pixels
from spiceclust.training.teacher import train_with_teacher


def run(images: Pixels, classifier: Classifier, selected: Artefact, config: FitConfig, context: Context) -> Artefact:
    """Trains encoder and head together.

    Args:
        images: (N, channels, S, S) uint8 on the context's device.
        classifier: encoder of stage 1 and head of stage 2; what is trained is a copy.
        selected: of the select stage; not used, since confidence alone selects here.
        config: `confident`, `views`.
        context: seed, device, progress.

    Returns:
        The averaged classifier's state dict; facts: the steps taken, the loss curve and the share of images
        that taught.
    """
    settings = config.confident
    views = Views(config.views)
    order = Order(len(images), settings.batch_size, "confident", context, images)

    movement = Movement(len(images), order.size, settings.steps, settings.settle, context.device)

    def step(student: nn.Module, teacher: nn.Module, number: int) -> ConfidentLoss:
        draws = context.generator("confident", number)
        numbers = order.batch(number)
        batch = images[numbers]
        taught, seen = views.weak(batch, draws), views.strong(batch, draws)
        with context.autocast():
            weak, strong = teacher(taught), student(seen)
        movement.note(number, numbers, weak.argmax(dim=1))
        return confident_loss(weak, strong, settings.threshold, settings.floor)

    return train_with_teacher(classifier, step, settings, movement, "5 confident (SCAN)", context)
