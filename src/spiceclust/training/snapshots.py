"""The state of a training that goes on, so that a run that is cut off loses seconds instead of hours.

A snapshot is a safetensors file and, written last, a JSON file with the step and the checksum. Two are kept in turn, so
that one is whole whenever the power goes; a damaged one is passed over.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from spiceclust.errors import NewerFormatError, RunFolderError
from spiceclust.files import read_sealed, sha256_file, write_sealed
from spiceclust.training.checkpoint import load_tensors, part, save_tensors

SECONDS = 30.0  # between two snapshots, at least
SHARE = 0.02  # of the time that writing snapshots may take
SLOTS = ("a", "b")
FORMAT = 1


class Stateful(Protocol):
    """Something whose state is tensors under names, as that of torch.nn.Module is."""

    def state_dict(self) -> Mapping[str, Tensor]: ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> Any: ...


class Kept:
    """Tensors that a training changes in place, as one Stateful."""

    def __init__(self, **tensors: Tensor) -> None:
        self.tensors = tensors

    def state_dict(self) -> dict[str, Tensor]:
        return self.tensors

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for name, tensor in self.tensors.items():
            tensor.copy_(state[name])


class OptimizerState:
    """What an optimiser remembers of its parameters, as one Stateful; rates and such are set anew.

    Memory formats come back too: a fused optimiser walks parameter and momentum side by side as they lie in memory.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    def state_dict(self) -> dict[str, Tensor]:
        state = self.optimizer.state_dict()["state"]
        return {f"{number}.{name}": value for number, values in state.items() for name, value in values.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        values: dict[int, dict[str, Tensor]] = {}
        for key, tensor in state.items():
            number, name = key.split(".", 1)
            # a counter stays on the CPU, where it is read at every step
            own = torch.empty_like(parameters[int(number)]).copy_(tensor) if tensor.dim() else tensor.cpu()
            values.setdefault(int(number), {})[name] = own
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": values})


@dataclass
class Clock:
    """How long a stage has been computed: in this process, and before it was cut off."""

    started: float = field(default_factory=lambda: time.monotonic())
    before: float = 0.0

    def seconds(self) -> float:
        return time.monotonic() - self.started + self.before


@dataclass
class Snapshots:
    """Snapshots of the trainings of one stage.

    Attributes:
        folder: their own; made with the first snapshot.
        key: of the stage; snapshots of another key are passed over.
        device: where tensors are wanted.
        clock: of the stage.
    """

    folder: Path
    key: str
    device: torch.device
    clock: Clock = field(default_factory=Clock)
    cost: float = 0.0
    last: float = field(default_factory=lambda: time.monotonic())

    def within(self, name: str) -> Snapshots:
        """Those of a part of the stage whose trainings have the same names as another part's."""
        return Snapshots(self.folder / name, self.key, self.device, self.clock)

    def due(self) -> bool:
        """Whether the last one is long enough ago, by the clock and by what it cost."""
        return time.monotonic() - self.last >= max(SECONDS, self.cost / SHARE)

    def save(self, training: str, step: int, parts: Mapping[str, Stateful], facts: Mapping[str, Any]) -> None:
        """Writes the state before `step` in the place of the older of the two that are kept.

        Raises:
            RunFolderError: it cannot be written; the other one stays.
        """
        start = time.monotonic()
        found = {slot: self._about(training, slot).get("step", -1) for slot in SLOTS}
        stem = self._stem(training, min(found, key=found.__getitem__))
        tensors = {f"{name}/{key}": t for name, each in parts.items() for key, t in each.state_dict().items()}
        try:
            stem.parent.mkdir(parents=True, exist_ok=True)
            stem.with_suffix(".json").unlink(missing_ok=True)
            save_tensors(stem.with_suffix(".safetensors"), tensors)
            digest = sha256_file(stem.with_suffix(".safetensors"))
        except OSError as error:
            raise RunFolderError(f"{stem} cannot be written ({error.strerror}): free it and resume") from None
        about = {
            "key": self.key,
            "training": self._name(training),
            "step": step,
            "seconds": self.clock.seconds(),
            "facts": dict(facts),
            "tensors": digest,
        }
        write_sealed(stem.with_suffix(".json"), about, FORMAT)
        self.last = time.monotonic()
        self.cost = self.last - start

    def restore(self, training: str, parts: Mapping[str, Stateful]) -> tuple[int, dict[str, Any]]:
        """Puts the newest whole state into `parts`.

        Returns:
            The step to go on with and the facts; 0 and none where there is no snapshot that fits.

        Raises:
            NewerFormatError: a newer version left one, which stays.
        """
        abouts = {slot: self._about(training, slot) for slot in SLOTS}
        for slot in sorted((slot for slot in SLOTS if abouts[slot]), key=lambda slot: -abouts[slot]["step"]):
            about, file = abouts[slot], self._stem(training, slot).with_suffix(".safetensors")
            try:
                tensors = load_tensors(file, self.device) if about["tensors"] == sha256_file(file) else None
            except (RunFolderError, OSError):
                tensors = None
            if tensors is None:
                file.with_suffix(".json").unlink(missing_ok=True)  # or the next one would take the place of a whole one
                continue
            states = {name: part(tensors, f"{name}/") for name in parts}
            if all(_fits(each.state_dict(), states[name]) for name, each in parts.items()):
                for name, each in parts.items():
                    each.load_state_dict(states[name])
                self.clock.before = max(self.clock.before, about["seconds"])
                return about["step"], about["facts"]
        return 0, {}

    def clear(self) -> None:
        """Removes them all: the stage is done."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _stem(self, training: str, slot: str) -> Path:
        return self.folder / f"{re.sub(r'[^a-z0-9]+', '-', training.lower()).strip('-')}-{slot}"

    def _name(self, training: str) -> str:
        return f"{self.folder.name}/{training}"

    def _about(self, training: str, slot: str) -> dict[str, Any]:
        """What is known of a snapshot; nothing where there is none that is whole and of this key."""
        try:
            about = read_sealed(self._stem(training, slot).with_suffix(".json"), FORMAT)
        except NewerFormatError:
            raise
        except (RunFolderError, OSError):
            return {}
        return about if (about.get("key"), about.get("training")) == (self.key, self._name(training)) else {}


def _fits(own: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> bool:
    """Whether a state can be loaded; one that is empty as yet takes any."""
    return not own or {name: t.shape for name, t in own.items()} == {name: t.shape for name, t in saved.items()}
