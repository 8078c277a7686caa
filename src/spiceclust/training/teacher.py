"""Training a classifier under its own moving average, which judges the weak views and is the result.

The average needs no gradient and sees averaged batch-norm statistics (EMAN, Cai et al. 2021).
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from spiceclust.config import TeacherConfig
from spiceclust.functional.fixmatch import fixmatch_schedule
from spiceclust.models.momentum import MomentumModel
from spiceclust.training.checkpoint import Artefact
from spiceclust.training.context import Context
from spiceclust.training.deferred import weights_later
from spiceclust.training.lanes import Lane
from spiceclust.training.loop import train
from spiceclust.training.movement import Movement
from spiceclust.training.snapshots import Kept


def train_with_teacher(
    model: nn.Module,
    step: Callable[[nn.Module, nn.Module, int], tuple[Tensor, Tensor]],
    settings: TeacherConfig,
    movement: Movement,
    lane: Lane,
    name: str,
    part: str,
    context: Context,
) -> Artefact:
    """Trains a copy of the model with Nesterov SGD; only weights decay, biases and batch norm do not.

    Args:
        model: a classifier or its head, where to start; it stays as it is.
        step: given student, teacher and the number of the step, returns the scalar loss and the share of images used.
        settings: steps, learning rate, weight decay, momentum of the average.
        movement: what `step` notes predictions in; when they have stopped moving, the training is over.
        lane: the second one.
        name: shown beside the progress.
        part: of the config that `settings` are.
        context: for progress.

    Returns:
        The averaged model's state dict; facts: the steps taken, the loss curve, the share of images used in the last
        tenth.
    """
    student = copy.deepcopy(model).train()
    teacher = MomentumModel(student, settings.ema)
    learning, judging = context.compiled(context.world.data_parallel(student)), context.compiled(teacher)
    used = torch.full((settings.steps,), -1.0, device=context.device)  # share by step, -1 before it is taken

    def taught(number: int) -> Tensor:
        if number:
            teacher.update()
        loss, share = step(learning, judging, number)
        used[number] = share
        return loss

    decayed = [p for p in student.parameters() if p.dim() > 1]
    plain = [p for p in student.parameters() if p.dim() <= 1]
    with weights_later(student, lane):
        curve = train(
            taught,
            steps=settings.steps,
            optimizer=torch.optim.SGD(
                [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}],
                lr=settings.learning_rate,
                momentum=0.9,
                nesterov=True,
                fused=True,
            ),
            rate=lambda number: fixmatch_schedule(number, settings.steps),
            state={"student": student, "teacher": teacher, "used": Kept(used=used), "movement": movement},
            name=name,
            part=part,
            context=context,
            over=movement.over,
            settle=lane.settle,
        )
    steps = int((used >= 0).sum())
    share = float(used[:steps][-max(1, steps // 10) :].mean())
    return Artefact(teacher.average.state_dict(), {"steps": steps, "loss": curve, "used": share})


def judged(teacher: nn.Module, taught: Tensor, context: Context) -> Tensor:
    """What the teacher says of views, in the precision of training, on whichever lane."""
    with context.autocast():
        weak: Tensor = teacher(taught)
    return weak
