"""What every stage is given beside its inputs and its config: seed, device, number format, progress."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TypeVar, cast

import torch
from torch import nn

from spiceclust.data.own_views import ViewMaker
from spiceclust.errors import ConfigError
from spiceclust.progress import Progress, Silent
from spiceclust.training.distributed import ALONE, World
from spiceclust.training.lanes import in_lanes
from spiceclust.training.snapshots import Snapshots

T = TypeVar("T")
P = TypeVar("P")


@dataclass(frozen=True)
class Context:
    """The surroundings of a run.

    Attributes:
        seed: the run's seed; all randomness derives from it and from names and numbers, never from global state.
        device: where tensors live.
        bf16: whether forward passes are autocast to bfloat16.
        progress: where to tell what is done.
        snapshots: where trainings keep their state; None where they need not.
        views: what makes views of the images; None is the config's domain.
        compile: whether networks go through torch.compile, and heads become CUDA graphs: a minute at the start of each
            stage, which only long trainings get back (docs/log.md).
        lanes: how many things are computed side by side (`training.lanes`).
        world: the processes that train together (`training.distributed`).
    """

    seed: int
    device: torch.device
    bf16: bool
    progress: Progress = field(default_factory=Silent)
    snapshots: Snapshots | None = None
    views: ViewMaker | None = None
    compile: bool = False
    lanes: int = 1
    world: World = ALONE

    def each(self, function: Callable[[P], T], items: Iterable[P]) -> Iterator[T]:
        """As `map`, on all lanes at once."""
        return in_lanes(function, items, self.lanes)

    def within(self, name: str) -> Context:
        """The same for a part of a stage, whose trainings have the same names as another part's."""
        return replace(self, snapshots=self.snapshots and self.snapshots.within(name))

    def alone(self) -> Context:
        """The same for what the leader does alone."""
        return replace(self, world=ALONE)

    def generator(self, *names: str | int) -> torch.Generator:
        """A generator on the device, determined by the seed and `names` alone."""
        return torch.Generator(device=self.device).manual_seed(self.number(*names))

    def number(self, *names: str | int) -> int:
        """A seed below 2^31, determined by the run's seed and `names` alone."""
        text = "/".join(str(name) for name in (self.seed, *names))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1

    def compiled(self, module: nn.Module, mode: str = "default") -> nn.Module:
        """The module as it is to be called: compiled where that is asked for. Its weights stay those of `module`.

        Args:
            module: a network.
            mode: of torch.compile; `reduce-overhead` makes CUDA graphs of many small steps.
        """
        return cast(nn.Module, torch.compile(module, mode=mode, dynamic=False)) if self.compile else module

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Autocast to bfloat16 where that pays on this device."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)


def open_device(name: str) -> torch.device:
    """`auto` is the first GPU when there is one, otherwise the CPU.

    Raises:
        ConfigError: a name torch does not know, or a device that is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.ones(1, device=device).item()
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device {name!r} cannot be used ({reason}): choose auto, cpu or cuda") from None
    return device


def prefers_bf16(device: torch.device) -> bool:
    """Whether bfloat16 is native there: on other devices it is slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        # an older torch does not tell: float32 then
        capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
        return bool(capabilities.get("avx512_bf16", False))
    return False


def open_context(seed: int, device: str, progress: Progress | None, *, compile: bool = False) -> Context:
    """The surroundings of a run on the named device; silent when no progress is given.

    Raises:
        ConfigError: the device cannot be used, or what compiling needs is not there.
    """
    torch_device = open_device(device)
    if compile and torch_device.type == "cpu" and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
        raise ConfigError("compiling for a CPU needs a C++ compiler: install g++, or leave --compile out")
    if compile and torch_device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise ConfigError("compiling for a GPU needs the package triton: install it, or leave --compile out")
    return Context(seed, torch_device, prefers_bf16(torch_device), progress or Silent(), compile=compile)
