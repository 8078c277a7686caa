"""Stage 3 of SCAN, self-labelling: the network learns from its confident images (Van Gansbeke et al. 2020, 2.3).

The weak views are judged by the moving average of the classifier, which is what ships; optimiser and schedule are those
of SPICE-Semi, so that the two methods differ in what teaches. N images, C clusters.
"""

from __future__ import annotations

from torch import Tensor, nn

from spiceclust.config import FitConfig
from spiceclust.functional.scan import ConfidentLoss, confident_loss
from spiceclust.training.checkpoint import Artefact
from spiceclust.training.context import Context
from spiceclust.training.lanes import Ahead, Lane
from spiceclust.training.loop import Order
from spiceclust.training.movement import Movement
from spiceclust.training.sights import Sight
from spiceclust.training.teacher import judged, train_with_teacher


def run(sight: Sight, model: nn.Module, selected: Artefact, config: FitConfig, context: Context) -> Artefact:
    """Trains encoder and head together, or the head alone.

    Args:
        sight: of the N images, on the context's device.
        model: what takes what the sight shows, the encoder of stage 1 with a head of stage 2, or that head; what is
            trained is a copy.
        selected: of the select stage; not used, since confidence alone selects here.
        config: `confident`.
        context: seed, device, progress.

    Returns:
        The averaged model's state dict; facts: the steps taken, the loss curve and the share of images that taught.
    """
    settings = config.confident
    order = Order(sight.n, settings.batch_size, "confident", context, sight.pixels)
    movement = Movement(sight.n, order.size, settings.steps, settings.settle, context.device)
    world, share = context.world, context.world.share(order.size)

    def views_of(number: int) -> tuple[Tensor, Tensor, Tensor]:
        draws = context.generator("confident", number)
        rows, own = order.batch(number)
        batch = sight.take(own)
        return rows, sight.weak(batch, draws, share), sight.strong(batch, draws, share)

    def step(student: nn.Module, teacher: nn.Module, number: int) -> ConfidentLoss:
        rows, taught, seen = ahead.of(number)
        to_come = lane.begin(lambda: judged(teacher, taught, context))
        with context.autocast():
            strong = student(seen)
        strong, weak = world.join(strong, share.of), world.gather(to_come(), share.of)
        ahead.begin(number + 1)
        movement.note(number, rows, weak.argmax(dim=1))
        return confident_loss(weak, strong, settings.threshold, settings.floor)

    with Lane(context.lanes) as lane:
        ahead = Ahead(views_of, settings.steps, lane)
        return train_with_teacher(model, step, settings, movement, lane, "5 confident (SCAN)", "confident", context)
