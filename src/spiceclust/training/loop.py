"""The one training loop, and the order in which images come.

N images, B images in a batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor

from spiceclust.errors import TrainingError
from spiceclust.interruption import patient
from spiceclust.training.checkpoint import Artefact, part
from spiceclust.training.context import Context
from spiceclust.training.pixels import HostPixels, Pixels
from spiceclust.training.snapshots import Kept, OptimizerState, Stateful

CURVE_POINTS = 200  # values kept of a loss curve, however long the training


def train(
    step: Callable[[int], Tensor],
    *,
    steps: int,
    optimizer: torch.optim.Optimizer,
    rate: Callable[[int], float],
    state: Mapping[str, Stateful],
    name: str,
    part: str,
    context: Context,
    over: Callable[[int], bool] = lambda number: False,
    settle: Callable[[], None] = lambda: None,
) -> list[float]:
    """Runs `steps` optimiser steps, or those that are left where a snapshot was kept.

    Args:
        step: given the number of the step, returns the scalar loss. What it does depends on that number and on `state`
            alone, so that a training that is taken up again, on a CPU with as many threads, ends as if it had never
            stopped.
        steps: how many.
        optimizer: its learning rates at the start are the base that `rate` scales.
        rate: factor on the learning rate at each step.
        state: everything else that a step changes, by name.
        name: shown beside the progress.
        part: of the config whose `learning_rate` the optimiser has; an error names it.
        context: for progress and snapshots.
        over: asked after each step, by its number, whether the training may end before its time.
        settle: called when the backward pass is over, before the optimiser looks at the gradients.

    Returns:
        The loss curve: means over equal stretches of steps, at most 200 values.

    Raises:
        TrainingError: the loss or a weight is not finite; no snapshot holds such.
        RunFolderError: a snapshot cannot be written.
        KeyboardInterrupt: the command was interrupted; the state before the next step is kept.
    """
    base = [group["lr"] for group in optimizer.param_groups]
    stretch = -(-steps // CURVE_POINTS)
    pending = torch.zeros(stretch, device=context.device)  # losses of the stretch that is not over
    everything = {**state, "optimizer": OptimizerState(optimizer), "loop": Kept(pending=pending)}
    snapshots = context.snapshots
    first, facts = _taken_up(name, everything, context)
    curve: list[float] = list(facts.get("curve", []))
    if first:
        context.progress.say(f"{name}: taken up again at step {first} of {steps}")
    watch = _Watch(everything, steps, name, f"{part}.learning_rate={base[0]:g}")
    number = first - 1
    with patient() as interrupted, context.progress.task(name, steps - first) as task:
        for number in range(first, first if facts.get("ended") else steps):
            place = number % stretch
            stop, due = context.world.any(interrupted(), snapshots is not None and snapshots.due())
            if number > first and (stop or due):
                watch.check_losses(pending[:place], number)
                watch.check_state(number)
                if snapshots:
                    snapshots.save(name, number, everything, {"curve": curve})
            if stop:
                raise KeyboardInterrupt
            factor = rate(number)
            for group, lr in zip(optimizer.param_groups, base, strict=True):
                group["lr"] = lr * factor
            optimizer.zero_grad(set_to_none=True)
            loss = step(number)
            loss.backward()  # type: ignore[no-untyped-call]
            settle()
            optimizer.step()
            pending[place] = loss.detach()
            ended = over(number)
            if place == stretch - 1 or number == steps - 1 or ended:
                watch.check_losses(pending[: place + 1], number + 1)
                curve.append(float(pending[: place + 1].mean()))
                task.advance(number + 1 - max(first, number - place), f"loss {curve[-1]:.3f}")
            if ended:
                context.progress.say(f"{name}: over after {number + 1} of {steps} steps")
                break
        watch.check_state(number + 1)
        if context.world.any(interrupted())[0]:  # in the last step
            if snapshots:
                snapshots.save(name, number + 1, everything, {"curve": curve, "ended": True})
            raise KeyboardInterrupt
    return curve


def _taken_up(name: str, state: Mapping[str, Stateful], context: Context) -> tuple[int, dict[str, Any]]:
    """Puts the newest snapshot, if there is one, into the state of all processes: its step and its facts."""

    def restored() -> Artefact:
        first, facts = context.snapshots.restore(name, state) if context.snapshots else (0, {})
        tensors = {f"{part}/{key}": t for part, each in state.items() for key, t in each.state_dict().items()}
        return Artefact(tensors if first else {}, {"first": first, "facts": facts})

    found = context.world.led(restored, context.device)
    if found.tensors and not context.world.leads:
        for part_name, each in state.items():
            each.load_state_dict(part(found.tensors, f"{part_name}/"))
    return found.facts["first"], found.facts["facts"]


class _Watch:
    """Stops a training whose losses or weights are no longer finite, before any of it is kept.

    Args:
        state: all that the training changes, by name.
        steps, name: of the training.
        rate: the learning rate, as the config writes it.
    """

    def __init__(self, state: Mapping[str, Stateful], steps: int, name: str, rate: str) -> None:
        self.state, self.steps, self.name, self.rate = state, steps, name, rate
        self.accepted = self._not_finite()  # from the start, such as the mask of an encoder of one's own

    def check_losses(self, losses: Tensor, number: int) -> None:
        """Losses of the last steps before step `number`."""
        bad = (~losses.isfinite()).nonzero().flatten().tolist()
        if not bad:
            return
        first = number - len(losses) + bad[0]
        what = f"the loss is {float(losses[bad[0]])} at step {first} of {self.steps}"
        if first:
            self._blame_rate(what)
        raise TrainingError(
            f"{self.name}: {what}, before anything is learned: an encoder or views of your own that put out values "
            "that are not finite, or too large, are the likely cause: look at what they make of your images"
        )

    def check_state(self, number: int) -> None:
        """The state before step `number`."""
        if broken := self._not_finite() - self.accepted:
            what = f"{len(broken)} of the tensors that it changes ({min(broken)}, ...) hold values that are not finite"
            self._blame_rate(f"{what} after step {number - 1} of {self.steps}")

    def _blame_rate(self, what: str) -> NoReturn:
        raise TrainingError(
            f"{self.name}: {what}; {self.rate} is the likely cause: lower it with --config in a new folder (finished "
            "1-pretrain and 2-embed can be copied there)"
        )

    def _not_finite(self) -> set[str]:
        tensors = {f"{name}/{key}": t for name, each in self.state.items() for key, t in each.state_dict().items()}
        return {name for name, t in tensors.items() if t.is_floating_point() and not t.isfinite().all()}


class Batch(NamedTuple):
    """Image numbers, int64.

    Attributes:
        rows: (B,) of the whole batch.
        own: (B',) this process's share of them; the very tensor `rows` where there is one process.
    """

    rows: Tensor
    own: Tensor


class Order:
    """The batches in which images come: permutations of all N after one another, cut every B.

    Every image comes once before any comes again. The order depends on the seed and `name` alone.

    Args:
        n: N.
        size: B.
        name: of the training.
        context: for the seed and the processes.
        pixels: the images themselves; where they lie in host memory, they are told of each share one step ahead.
    """

    def __init__(self, n: int, size: int, name: str, context: Context, pixels: Pixels | None = None) -> None:
        self.n, self.size, self.name, self.context, self.pixels = n, size, name, context, pixels
        self._epochs: dict[int, Tensor] = {}  # those that the last batch touched
        self._next: tuple[int, Batch] | None = None  # announced to the pixels

    def batch(self, number: int) -> Batch:
        """Batch `number`, from 0 on; quick for those that follow one another."""
        batch = self._next[1] if self._next and self._next[0] == number else self._batch(number)
        if isinstance(self.pixels, HostPixels):
            self._next = number + 1, self._batch(number + 1)
            self.pixels.expect(self._next[1].own)
        return batch

    def _batch(self, number: int) -> Batch:
        rows, world = self._rows(number), self.context.world
        return Batch(rows, rows if world.size == 1 else rows[world.share(self.size).rows])

    def _rows(self, number: int) -> Tensor:
        start, stop = number * self.size, (number + 1) * self.size
        touched = range(start // self.n, -(-stop // self.n))
        self._epochs = {
            epoch: self._epochs[epoch] if epoch in self._epochs else self._permutation(epoch) for epoch in touched
        }
        stream = torch.cat(list(self._epochs.values())) if len(touched) > 1 else self._epochs[touched[0]]
        offset = start - touched[0] * self.n
        return stream[offset : offset + self.size]

    def _permutation(self, epoch: int) -> Tensor:
        generator = self.context.generator(self.name, "order", epoch)
        return torch.randperm(self.n, generator=generator, device=self.context.device)


def cosine(step: int, steps: int, warmup: float) -> float:
    """Factor on the learning rate: a linear rise over the share `warmup` of the steps, then half a cosine to 0."""
    rise = warmup * steps
    if step < rise:
        return (step + 1) / (rise + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1.0, steps - rise)))
