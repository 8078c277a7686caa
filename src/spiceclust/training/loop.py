"""The one training loop, and the order in which images come.

N images, B images in a batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from spiceclust.errors import TrainingError
from spiceclust.training.context import Context

CURVE_POINTS = 200  # values kept of a loss curve, however long the training


def train(
    step: Callable[[int], Tensor],
    *,
    steps: int,
    optimizer: torch.optim.Optimizer,
    rate: Callable[[int], float],
    name: str,
    context: Context,
) -> list[float]:
    """Runs `steps` optimiser steps.

    Args:
        step: given the number of the step, returns the scalar loss.
        steps: how many.
        optimizer: its learning rates at the start are the base that `rate` scales.
        rate: factor on the learning rate at each step.
        name: shown beside the progress.
        context: for progress.

    Returns:
        The loss curve: means over equal stretches of steps, at most 200 values.

    Raises:
        TrainingError: the loss is not finite.
    """
    base = [group["lr"] for group in optimizer.param_groups]
    stretch = -(-steps // CURVE_POINTS)
    curve: list[float] = []
    pending: list[Tensor] = []
    with context.progress.task(name, steps) as task:
        for number in range(steps):
            factor = rate(number)
            for group, lr in zip(optimizer.param_groups, base, strict=True):
                group["lr"] = lr * factor
            optimizer.zero_grad(set_to_none=True)
            loss = step(number)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            pending.append(loss.detach())
            if len(pending) == stretch or number == steps - 1:
                curve.append(_mean_loss(pending, name, number))
                task.advance(len(pending), f"loss {curve[-1]:.3f}")
                pending.clear()
    return curve


def _mean_loss(losses: list[Tensor], name: str, number: int) -> float:
    mean = float(torch.stack(losses).mean())
    if not math.isfinite(mean):
        raise TrainingError(
            f"{name}: the loss became {mean} within the {len(losses)} steps before step {number}; "
            f"a learning rate that is too high is the usual cause: lower it with --config"
        )
    return mean


def batches(n: int, size: int, name: str, context: Context) -> Iterator[Tensor]:
    """Endless batches (B,) int64 of image numbers: permutations of all N after one another, cut every `size`.

    Every image comes once before any comes again. Batch order depends on the seed and `name` alone.
    """
    epoch = 0
    rest = torch.empty(0, dtype=torch.int64, device=context.device)
    while True:
        while len(rest) < size:
            generator = context.generator(name, "order", epoch)
            order = torch.randperm(n, generator=generator, device=context.device)
            rest = torch.cat([rest, order])
            epoch += 1
        yield rest[:size]
        rest = rest[size:]


def cosine(step: int, steps: int, warmup: float) -> float:
    """Factor on the learning rate: a linear rise over the share `warmup` of the steps, then half a cosine to 0."""
    rise = warmup * steps
    if step < rise:
        return (step + 1) / (rise + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1.0, steps - rise)))
