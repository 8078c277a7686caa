"""Stage 3, SPICE-Semi: FixMatch (Sohn et al. 2020) on the reliable labels, started from stages 1 and 2.

The weak views are judged by the moving average of the classifier (EMAN, Cai et al. 2021), which needs no gradient and
is what ships. N images, B labelled and U unlabelled images in a step, C clusters.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spiceclust.config import FitConfig
from spiceclust.functional.fixmatch import FixMatchLoss, fixmatch_loss
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
        selected: of the select stage.
        config: `semi`.
        context: seed, device, progress.

    Returns:
        The averaged model's state dict; facts: the steps taken, the loss curve and the share of unlabelled images that
        taught.
    """
    settings = config.semi
    labels = selected.tensors["labels"]
    sampler = _BalancedSampler(labels, selected.tensors["reliable"].bool())
    unlabelled = Order(sight.n, settings.batch_size * settings.unlabelled_ratio, "semi", context, sight.pixels)
    movement = Movement(sight.n, unlabelled.size, settings.steps, settings.settle, context.device)
    world = context.world
    known, unknown = world.share(settings.batch_size), world.share(unlabelled.size)

    def views_of(number: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        draws = context.generator("semi", number)
        rows = sampler.draw(settings.batch_size, draws)
        numbers, own = unlabelled.batch(number)
        others = sight.take(own)
        taught = sight.weak(others, draws, unknown)
        seen = torch.cat([sight.weak(sight.take(rows[known.rows]), draws, known), sight.strong(others, draws, unknown)])
        return rows, numbers, taught, seen

    def step(student: nn.Module, teacher: nn.Module, number: int) -> FixMatchLoss:
        rows, numbers, taught, seen = ahead.of(number)
        to_come = lane.begin(lambda: judged(teacher, taught, context))
        with context.autocast():
            labelled, strong = student(seen).tensor_split([len(seen) - len(taught)])
        labelled, strong = world.join(labelled, known.of), world.join(strong, unknown.of)
        weak = world.gather(to_come(), unknown.of)
        ahead.begin(number + 1)
        movement.note(number, numbers, weak.argmax(dim=1))
        return fixmatch_loss(labelled, labels[rows], weak, strong, settings.threshold, settings.unlabelled_weight)

    with Lane(context.lanes) as lane:
        ahead = Ahead(views_of, settings.steps, lane)
        return train_with_teacher(model, step, settings, movement, lane, "5 semi (FixMatch)", "semi", context)


class _BalancedSampler:
    """Draws labelled images: clusters in equal shares, images of a cluster with replacement.

    Args:
        labels: (N,) int64.
        reliable: (N,) bool, not empty.
    """

    def __init__(self, labels: Tensor, reliable: Tensor) -> None:
        members = reliable.nonzero().squeeze(1)
        self.members = members[labels[members].argsort(stable=True)]
        per_cluster = labels[members].bincount()
        self.counts = per_cluster[per_cluster > 0]
        self.starts = self.counts.cumsum(0) - self.counts

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """(count,) int64 image numbers."""
        device = self.members.device
        first = torch.randint(len(self.counts), (1,), generator=generator, device=device)
        pool = (first + torch.arange(count, device=device)) % len(self.counts)
        place = torch.rand(count, generator=generator, device=device) * self.counts[pool]
        return self.members[self.starts[pool] + place.long().clamp(max=self.counts[pool] - 1)]
