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

from spiceclust.errors import RunFolderError
from spiceclust.files import read_json, sha256_file, write_json
from spiceclust.training.checkpoint import load_tensors, save_tensors

SECONDS = 30.0  # between two snapshots, at least
SHARE = 0.02  # of the time that writing snapshots may take
SLOTS = ("a", "b")


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
    """What an optimiser remembers of its parameters, as one Stateful; rates and such are set anew."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    def state_dict(self) -> dict[str, Tensor]:
        state = self.optimizer.state_dict()["state"]
        return {f"{number}.{name}": value for number, values in state.items() for name, value in values.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        values: dict[int, dict[str, Tensor]] = {}
        for key, tensor in state.items():
            number, name = key.split(".", 1)
            values.setdefault(int(number), {})[name] = tensor
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": values})


@dataclass
class Clock:
    """How long a stage has been computed: in this process, and before it was cut off."""

    started: float = field(default_factory=time.monotonic)
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
    last: float = field(default_factory=time.monotonic)

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
        found = {slot: self._step(training, slot) for slot in SLOTS}
        slot = min(found, key=found.__getitem__)
        stem = self._stem(training, slot)
        stem.parent.mkdir(parents=True, exist_ok=True)
        stem.with_suffix(".json").unlink(missing_ok=True)
        tensors = {f"{part}/{name}": t for part, each in parts.items() for name, t in each.state_dict().items()}
        save_tensors(stem.with_suffix(".safetensors"), tensors)
        digest = sha256_file(stem.with_suffix(".safetensors"))
        about = {"key": self.key, "step": step, "sha256": digest, "seconds": self.clock.seconds(), "facts": dict(facts)}
        write_json(stem.with_suffix(".json"), about)
        self.last = time.monotonic()
        self.cost = self.last - start

    def restore(self, training: str, parts: Mapping[str, Stateful]) -> tuple[int, dict[str, Any]]:
        """Puts the newest whole state into `parts`.

        Returns:
            The step to go on with and the facts; 0 and none where there is no snapshot that fits.
        """
        for slot in sorted(SLOTS, key=lambda slot: self._step(training, slot), reverse=True):
            step, stem = self._step(training, slot), self._stem(training, slot)
            if step < 0:
                continue
            try:
                saved = read_json(stem.with_suffix(".json"))
                if saved["sha256"] != sha256_file(stem.with_suffix(".safetensors")):
                    continue
                tensors = load_tensors(stem.with_suffix(".safetensors"), self.device)
                self.clock.before = max(self.clock.before, float(saved["seconds"]))
            except (RunFolderError, OSError, KeyError):
                continue
            for part, each in parts.items():
                prefix = f"{part}/"
                own = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
                each.load_state_dict(own)
            return step, saved["facts"]
        return 0, {}

    def clear(self) -> None:
        """Removes them all: the stage is done."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _stem(self, training: str, slot: str) -> Path:
        return self.folder / f"{re.sub(r'[^a-z0-9]+', '-', training.lower()).strip('-')}-{slot}"

    def _step(self, training: str, slot: str) -> int:
        """The step of a snapshot, -1 where there is none that fits."""
        try:
            saved = read_json(self._stem(training, slot).with_suffix(".json"))
            return int(saved["step"]) if saved["key"] == self.key else -1
        except (RunFolderError, OSError, KeyError, TypeError, ValueError):
            return -1
