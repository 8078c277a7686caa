"""The processes that train together under torchrun, and what they tell each other.

Every process goes through the same stages. Each sees its share of a batch; what they find is put together again, so
that each then computes with the whole, as one process would. Process 0 leads: it alone reads and writes, and whatever
it makes or decides alone it hands to the others, who follow. N rows, W processes.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import PrefixStore, Store, rendezvous  # type: ignore[attr-defined]  # they are public
from torch.nn.parallel import DistributedDataParallel

from spiceclust.data.own_views import Share
from spiceclust.errors import ConfigError, SpiceError, TrainingError
from spiceclust.progress import Progress
from spiceclust.training.checkpoint import Artefact
from spiceclust.training.pulse import heard
from spiceclust.training.synced import synchronize

PATIENCE: Final = timedelta(days=7)  # that a process waits for the others: a source may take long to read
GLANCE: Final = 0.05  # seconds between two looks whether the others are there
WORTH_SAYING: Final = 30.0  # seconds of waiting for the others
PIECE: Final = 2**28  # bytes that are sent at once
BACKEND: Final = "cpu:gloo,cuda:nccl"
SHOWN: Final = 8  # processes that a line names
DEVICE_BYTES: Final = 64  # for the name of a device
GIVEN: Final = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # what torchrun tells a process


@dataclass(frozen=True)
class World:
    """The processes that train together.

    Attributes:
        rank: number of this one; 0 leads.
        size: W; 1 where there are no others, and then nothing here costs anything.
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process reads and writes."""
        return self.rank == 0

    def share(self, n: int) -> Share:
        """This process's share of N rows: they follow one another, and shares differ by one at most."""
        return self._share(n, self.rank)

    def _share(self, n: int, rank: int) -> Share:
        return Share(n, slice(rank * n // self.size, (rank + 1) * n // self.size))

    def gather(self, own: Tensor, n: int, batch: int = 1) -> Tensor:
        """Puts shares together.

        Args:
            own: (n', ...) any dtype, the values of this process's share.
            n: N, the rows of all.
            batch: rows that stay together: what is shared are batches of so many, of which the last may be shorter.

        Returns:
            (N, ...) on every process, without gradient.
        """
        if self.size == 1:
            return own
        shares = [self._share(-(-n // batch), rank).rows for rank in range(self.size)]
        lengths = [min(n, rows.stop * batch) - rows.start * batch for rows in shares]
        most = max(lengths)
        padded = own.new_zeros((most, *own.shape[1:]))
        padded[: len(own)] = own.detach()
        found = padded.new_empty((self.size * most, *own.shape[1:]))
        dist.all_gather([_bytes(part) for part in found.view(self.size, *padded.shape)], _bytes(padded))
        if most * self.size == n:
            return found
        return torch.cat([found[rank * most :][:length] for rank, length in enumerate(lengths)])

    def join(self, own: Tensor, n: int) -> Tensor:
        """As `gather`, with the gradient of this process's share.

        It is W times as large, since `data_parallel` takes the mean over processes and each has a share of the sum.
        """
        if self.size == 1:
            return own
        whole = self.gather(own, n)
        if not own.requires_grad:
            return whole
        scaled = own.view_as(own)
        scaled.register_hook(lambda gradient: gradient * self.size)  # type: ignore[no-untyped-call]
        rows = self.share(n).rows
        return torch.cat([whole[: rows.start], scaled, whole[rows.stop :]])

    def mean(self, own: Tensor, n: int) -> Tensor:
        """The mean of N values of which `own` is the scalar mean over this process's share; with its gradient."""
        if self.size == 1:
            return own
        rows = self.share(n).rows
        weighted = own * ((rows.stop - rows.start) * self.size / n)
        total = weighted.detach().clone()
        dist.all_reduce(total)
        whole: Tensor = weighted + (total / self.size - weighted.detach())
        return whole

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag, whether it is set on any process."""
        if self.size == 1:
            return flags
        found = torch.tensor(flags, dtype=torch.int32)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return tuple(found.bool().tolist())

    def led(self, make: Callable[[], Artefact], device: torch.device) -> Artefact:
        """What the leader makes, on all processes; facts and the names of tensors pass through JSON.

        Args:
            make: called by the leader alone.
            device: where the tensors are wanted.
        """
        return make() if self.size == 1 else self._handed_on(make() if self.leads else None, 0, device)

    def divided(self, works: Mapping[str, Callable[[], Artefact]], device: torch.device) -> dict[str, Artefact]:
        """What several works make, each done by one process while others do others, on all processes."""
        makers = {name: number % self.size for number, name in enumerate(works)}
        own = {name: work() for name, work in works.items() if makers[name] == self.rank}
        if self.size == 1:
            return own
        return {name: self._handed_on(own.get(name), maker, device) for name, maker in makers.items()}

    def _handed_on(self, made: Artefact | None, maker: int, device: torch.device) -> Artefact:
        """What process `maker` made, on all; None everywhere else."""
        if made is None:
            told = json.loads(self._said(b"", maker))
            empty = {
                name: torch.empty(shape, dtype=getattr(torch, dtype), device=device)
                for name, (dtype, shape) in told["tensors"].items()
            }
            made = Artefact(empty, told["facts"])
        else:
            about = {name: [str(t.dtype).removeprefix("torch."), list(t.shape)] for name, t in made.tensors.items()}
            self._said(json.dumps({"facts": made.facts, "tensors": about}).encode(), maker)
        for tensor in made.tensors.values():
            for piece in _bytes(tensor.detach().to(device).contiguous()).split(PIECE):  # type: ignore[no-untyped-call]
                dist.broadcast(piece, maker)
        return made

    def _said(self, message: bytes, speaker: int) -> bytes:
        """The message of process `speaker`, on all."""
        length = torch.tensor([len(message)])
        dist.broadcast(length, speaker)
        content = torch.empty(int(length), dtype=torch.uint8)
        if self.rank == speaker:
            content = torch.frombuffer(bytearray(message), dtype=torch.uint8)
        dist.broadcast(content, speaker)
        return content.numpy().tobytes()

    def data_parallel(self, model: nn.Module) -> nn.Module:
        """The model as it is to be called on a share: gradients are averaged over the processes, as batch norm is.

        Its parameters and buffers stay those of `model`, under their names. The buckets in which gradients travel stay
        as they are from the first step on, so that a training that is taken up again adds in the same order.

        Raises:
            ConfigError: it has layers of batch norm that cannot be shared.
        """
        if self.size == 1:
            return model
        shared = synchronize(model, dist.all_reduce)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of a name that torch 2.13 gives to broadcast_buffers
            return DistributedDataParallel(shared, broadcast_buffers=False, find_unused_parameters=True)


ALONE: Final = World()


def expected() -> World:
    """What torchrun tells this process of the others, before it has met them; `ALONE` without torchrun.

    Raises:
        ConfigError: it is told of no such processes.
    """
    if any(name not in os.environ for name in GIVEN) or os.environ["WORLD_SIZE"] == "1":
        return ALONE
    rank, size = os.environ["RANK"], os.environ["WORLD_SIZE"]
    if not (rank.isdecimal() and size.isdecimal() and int(rank) < int(size)):
        raise ConfigError(f"RANK={rank} of WORLD_SIZE={size} is no process: start it with torchrun, or unset them")
    return World(int(rank), int(size))


def refuse_devices(world: World, device: torch.device) -> None:
    """Raises ConfigError, on all processes, where these compute on devices of two kinds, or two on the same GPU.

    Every process calls it, with its own device.
    """
    if world.size == 1:
        return
    own = torch.zeros(1, DEVICE_BYTES, dtype=torch.uint8)
    name = identity_of(device).encode()[:DEVICE_BYTES]
    own[0, : len(name)] = torch.frombuffer(bytearray(name), dtype=torch.uint8)
    found = [bytes(row.tolist()).rstrip(b"\0").decode() for row in world.gather(own, world.size)]
    kinds = {each.partition(" ")[0]: rank for rank, each in enumerate(found)}
    if len(kinds) > 1:
        named = ", ".join(f"{kind} in process {rank}" for kind, rank in kinds.items())
        raise ConfigError(f"processes compute on devices of two kinds ({named}): name one with --device")
    for rank, each in enumerate(found):
        if "cuda" in kinds and (first := found.index(each)) != rank:
            raise ConfigError(
                f"processes {first} and {rank} compute on the same GPU ({each}): start one process for each GPU "
                "(torchrun --nproc-per-node), and name none of them in --device"
            )


def identity_of(device: torch.device) -> str:
    """The kind of a device, and which GPU it is."""
    which = f" {torch.cuda.get_device_properties(device).uuid}" if device.type == "cuda" else ""
    return device.type + which


@contextmanager
def open_world(progress: Progress) -> Iterator[World]:
    """Meets the other processes, if torchrun started any, and parts from them with the block.

    Args:
        progress: is told when the others are long in coming.

    Raises:
        TrainingError: one of them is gone.
    """
    world = expected()
    if world.size == 1:
        yield world
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    backend = BACKEND if torch.cuda.is_available() else "gloo"
    try:
        store = meeting_of(world, next(rendezvous("env://", world.rank, world.size, timeout=PATIENCE))[0], progress)
        dist.init_process_group(backend, store=store, rank=world.rank, world_size=world.size, timeout=PATIENCE)
        with heard(world.rank, world.size, store.clone()):  # type: ignore[attr-defined]  # its types lack it
            yield world
    except (SpiceError, KeyboardInterrupt):
        raise
    except RuntimeError as error:
        if not _is_of_the_network(error):
            raise
        raise TrainingError(
            f"process {world.rank} of {world.size} has lost the others: what one of them says is the cause; the same "
            "command goes on from the last state that was kept"
        ) from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def meeting_of(world: World, store: Store, progress: Progress) -> Store:
    """A part of the store in which nothing lies that processes of an earlier start have left.

    torchrun keeps its store when it starts all processes again, and the addresses of those that ended would be taken
    for those of the living (pytorch/pytorch, issue 135712). So each process gives itself a name that there never was,
    and the leader answers whoever is there until all have come to the meeting that it has named.

    Args:
        world: of processes that all call this.
        store: that they have in common.
        progress: is told whom the leader waits for, when that takes long.
    """
    own = secrets.token_hex(8)
    if world.leads:
        missing = set(range(1, world.size))
        worth_saying = time.monotonic() + WORTH_SAYING
        while missing:
            if time.monotonic() > worth_saying:
                named = ", ".join(map(str, sorted(missing)[:SHOWN])) + ", ..." * (len(missing) > SHOWN)
                progress.say(f"waiting for {len(missing)} of {world.size} processes: {named}")
                worth_saying = math.inf
            for rank in sorted(missing):
                if store.check([f"{own}/{rank}"]):
                    missing.remove(rank)
                elif store.check([f"here/{rank}"]):
                    store.set(f"answer/{store.get(f'here/{rank}').decode()}", own)
            time.sleep(GLANCE)
        return PrefixStore(own, store)
    store.set(f"here/{world.rank}", own)
    while not store.check([f"answer/{own}"]):  # not `get`, which waits and hears no signal
        time.sleep(GLANCE)
    meeting = store.get(f"answer/{own}").decode()
    store.set(f"{meeting}/{world.rank}", "")
    return PrefixStore(meeting, store)


def _is_of_the_network(error: RuntimeError) -> bool:
    text = str(error).lower()
    return isinstance(error, dist.DistError) or any(word in text for word in ("gloo", "nccl", "connection", "peer"))


def _bytes(tensor: Tensor) -> Tensor:
    """The memory of a contiguous tensor."""
    return tensor.view(-1).view(torch.uint8)
