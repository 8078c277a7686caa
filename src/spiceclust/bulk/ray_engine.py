"""Shards on Ray Data: workers that hold the model, on one machine or many. The only file that imports ray.

Ray starts workers again and gives a shard that was lost to another, so a shard may be worked on more than once; its
table has one name and the same bytes each time. The ledger counts beginnings: a shard that takes too many workers
along is given up, and the others go on.
"""

from __future__ import annotations

import _thread
import json
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from spiceclust.bulk.shards import Shard
from spiceclust.bulk.tables import Done
from spiceclust.bulk.watchdog import TRIES, Held, Signs, Watch, cause
from spiceclust.bulk.work import Job, Work
from spiceclust.data.wording import one_line
from spiceclust.errors import ConfigError, EngineError, SpiceError
from spiceclust.progress import Progress

# Nothing is told to anyone, nothing is drawn, and a driver's end is noticed soon.
SETTINGS: Final = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}
# A cluster of our own is on 127.0.0.1, which no other machine reaches, and its workers are no nicer than its driver.
ALONE: Final = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_worker_niceness": "0"}
STORE: Final = 2**28  # bytes of the object store of a cluster on this machine: it holds names and one model
SPARE: Final = 2  # logical processors of such a cluster beyond its workers', for what Ray Data asks for itself
BLOCKS: Final = 10_000  # tasks at the most; with more shards than that, a task has several
STARTS: Final = 3  # tries to start a cluster here: Ray gives up soon on a machine that is busy
TICK: Final = 1.0  # seconds between two looks at the ledger


class Workers(NamedTuple):
    """How many workers there are, and what each asks for."""

    number: int
    cpus: int
    gpus: int


class Ledger:
    """Which shards were begun and finished, by whom. One actor of the cluster, which ends with the driver."""

    def __init__(self) -> None:
        self.begun: dict[str, int] = {}
        self.held: dict[str, tuple[float, str, Any]] = {}
        self.last: float | None = None
        self.ended = 0
        self.kills: dict[str, tuple[int, int]] = {}  # by machine: processes killed before, and until now
        self.memory = 0.0

    def begin(self, shard: str, worker: dict[str, Any], handle: Any) -> int:
        """Notes that a worker has taken a shard, and says how many have."""
        self.ended += shard in self.held
        self.last = time.time()
        self.held[shard] = self.last, f"worker {worker['process']} on {worker['machine']}", handle
        self.begun[shard] = self.begun.get(shard, 0) + 1
        first, _ = self.kills.get(worker["machine"], (worker["kills"], 0))
        self.kills[worker["machine"]] = first, worker["kills"]
        self.memory = worker["memory"]
        return self.begun[shard]

    def finish(self, shard: str) -> None:
        """Notes that a shard is done with."""
        self.last = time.time()
        self.held.pop(shard, None)

    def read(self) -> dict[str, Any]:
        """What is known."""
        return {
            "held": [(shard, since, worker, handle) for shard, (since, worker, handle) in self.held.items()],
            "last": self.last,
            "ended": self.ended,
            "killed": sum(now - before for before, now in self.kills.values()),
            "memory": self.memory,
        }


class Worker:
    """What Ray Data calls with shards. The model is read with the first one, so that what is wrong with it is told.

    Args:
        job: as JSON.
        model: a reference to its files, in a list: by itself Ray would replace it, for the first start alone.
        ledger: the actor.
        decoders: processes.
    """

    def __init__(self, job: str, model: list[Any], ledger: Any, decoders: int) -> None:
        self.job, self.model, self.ledger, self.decoders = Job(**json.loads(job)), model, ledger, decoders
        self.work: Work | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A batch of one shard, as JSON, becomes one of what became of it."""
        import numpy as np

        return {"done": np.array([json.dumps(self._one(Shard(**json.loads(text)))) for text in batch["shard"]])}

    def _one(self, shard: Shard) -> dict[str, Any]:
        import ray

        handle = ray.get_runtime_context().current_actor
        begun = ray.get(self.ledger.begin.remote(shard.name, _myself(), handle))
        try:
            if begun > TRIES:
                done = Done(shard.name, failure=f"{TRIES} workers ended or hung over it")
            else:
                if self.work is None:
                    self.work = Work(self.job, ray.get(self.model[0]), self.decoders)
                # what another worker finished just before it was lost, or another driver
                done = self.work.tables.find(shard) or self.work(shard)
            told = {"done": json.loads(done.to_json())}
        except SpiceError as error:  # of what all shards share
            told = {"fatal": str(error), "kind": type(error).__name__}
        except Exception as error:
            told = {
                "done": json.loads(Done(shard.name, failure=one_line(f"{type(error).__name__}: {error}")).to_json())
            }
        self.ledger.finish.remote(shard.name)
        return told


def work_on_ray(
    job: Job, model: dict[str, bytes], shards: Sequence[Shard], address: str, progress: Progress
) -> Iterator[Done]:
    """Turns shards into tables on a Ray cluster.

    Args:
        job: what they have in common.
        model: the files of `model/` by name.
        shards: which.
        address: of the cluster, as `ray.init` takes it; empty for one on this machine that ends with this.
        progress: told why it takes long, where it does.

    Yields:
        What became of each shard, as they come.

    Raises:
        ConfigError: the package ray is not installed, or there is no cluster at the address.
        EngineError: no cluster starts here, or nothing moves any more; the message says why, as far as it can be known.
    """
    os.environ.update(SETTINGS if address else SETTINGS | ALONE)  # before it is imported
    try:
        import ray
    except ImportError:
        raise ConfigError("the engine ray needs the package: pip install 'spiceclust[ray]'") from None
    with _cluster(address):
        workers = workers_for(_resources(), job.device)
        progress.say(
            f"{workers.number} workers on Ray, each with {workers.cpus} CPUs" + (" and a GPU" if workers.gpus else "")
        )
        ledger = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Ledger).remote()
        data = _data(job, model, shards, workers, ledger)
        with closing(_watched(data, ledger, workers, progress)) as found:
            yield from found


def workers_for(there: dict[str, float], device: str) -> Workers:
    """A worker for each GPU, with its share of the processors; without GPUs, or where none are wanted, for each CPU.

    Args:
        there: what the cluster has, as Ray names it.
        device: auto, cpu, cuda...
    """
    cpus, gpus = int(there.get("CPU", 0)), int(there.get("GPU", 0))
    mine = cpus - SPARE if there.get(OURS) else cpus
    if gpus and device != "cpu":
        return Workers(gpus, max(1, mine // gpus), 1)
    return Workers(max(1, mine), 1, 1 if device.startswith("cuda") else 0)


def _resources() -> dict[str, float]:
    import ray

    return dict(ray.cluster_resources())  # type: ignore[no-untyped-call]


OURS: Final = "spiceclust"  # a resource by which a cluster of our own is known


@contextmanager
def _cluster(address: str) -> Iterator[None]:
    """Joins a cluster, or starts one that only this machine reaches."""
    import ray
    import ray.data

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL, "configure_logging": True}
    if not address:
        quiet |= {
            "num_cpus": len(os.sched_getaffinity(0)) + SPARE,
            "resources": {OURS: 1},
            "include_dashboard": False,
            "object_store_memory": STORE,
        }
    if ray.is_initialized():
        raise ConfigError("this program has joined a Ray cluster already: leave it first, with ray.shutdown()")
    ours = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for left in reversed(range(1 if address else STARTS)):
        try:
            ray.init(address or "local", **quiet)
            break
        except Exception as error:  # of many kinds
            ray.shutdown()
            why = one_line(str(error))[:200] or type(error).__name__
            if address:
                raise ConfigError(f"no Ray cluster at {address} ({why})") from None
            if not left:
                raise EngineError(f"Ray does not start on this machine, {STARTS} tries ({why})") from None
    if threading.current_thread() is threading.main_thread():
        for number, handler in ours.items():  # Ray's would end this with a trace
            signal.signal(number, handler)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    for name in ("ray.data", "ray"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what goes wrong is told by us
    try:
        yield
    finally:
        ray.shutdown()


def _data(job: Job, model: dict[str, bytes], shards: Sequence[Shard], workers: Workers, ledger: Any) -> Any:
    """What became of each shard, a data set that is made as it is read."""
    import ray
    import ray.data

    rows = [{"shard": shard.to_json()} for shard in shards]
    return ray.data.from_items(rows, override_num_blocks=min(len(rows), BLOCKS)).map_batches(
        Worker,
        fn_constructor_args=(job.to_json(), [ray.put(model)], ledger, workers.cpus),
        batch_size=1,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(size=min(workers.number, len(rows))),
        num_cpus=workers.cpus,
        num_gpus=workers.gpus or None,
    )


def _watched(data: Any, ledger: Any, workers: Workers, progress: Progress) -> Generator[Done]:
    """Reads the data set, while a thread looks whether anything moves; it interrupts this one where nothing will."""
    watch, verdict, stop = Watch(time.time()), list[str](), threading.Event()

    def guard() -> None:
        while not stop.wait(TICK):
            try:
                _look(watch, ledger, workers, progress)
            except EngineError as error:
                verdict.append(str(error))
                _thread.interrupt_main()
                return

    thread = threading.Thread(target=guard, daemon=True)
    thread.start()
    rows = iter(data.iter_rows())
    try:
        for row in rows:
            told = json.loads(row["done"])
            if "fatal" in told:
                raise EngineError(told["fatal"])
            done = Done(**told["done"])
            watch.finished(time.time(), done.seconds)
            yield done
    except KeyboardInterrupt:
        if verdict:
            raise EngineError(verdict[0]) from None
        raise
    except SpiceError:
        raise
    except Exception as error:  # of Ray's many kinds
        raise EngineError(f"Ray gave up ({one_line(str(error))[:300] or type(error).__name__}): try again") from None
    finally:
        stop.set()
        thread.join()
        rows.close()


def _look(watch: Watch, ledger: Any, workers: Workers, progress: Progress) -> None:
    """Where nothing came for too long: says why, ends workers that hang, and in the end this."""
    import ray

    now = time.time()
    if now - watch.moved < watch.patience:
        return
    try:
        told = ray.get(ledger.read.remote(), timeout=10)
    except Exception:  # it may be starting anew itself
        told = {"held": [], "last": None, "ended": 0, "killed": 0, "memory": 0.0}
    handles = {shard: handle for shard, _, _, handle in told["held"]}
    signs = Signs(
        workers=workers.number,
        asked={"CPU": workers.number * workers.cpus, "GPU": workers.number * workers.gpus},
        there=_resources(),
        held=[Held(shard, since, worker) for shard, since, worker, _ in told["held"]],
        last=told["last"],
        ended=told["ended"],
        killed=told["killed"],
        memory=told["memory"],
    )
    if watch.over(now, signs):
        raise EngineError(f"no shard was begun or finished for {now - watch.moved:.0f} s: {cause(now, signs)}")
    if watch.stalled(now):
        progress.say(f"no shard was finished for {now - watch.moved:.0f} s: {cause(now, signs)}")
    for each in watch.hung(now, signs):
        progress.say(f"{one_line(each.shard)} hangs: its worker is ended, and another one tries")
        ray.kill(handles[each.shard], no_restart=False)


def _myself() -> dict[str, Any]:
    """This worker, and what its machine says of memory."""
    return {"process": os.getpid(), "machine": socket.gethostname(), "kills": _kills(), "memory": _memory()}


def _kills() -> int:
    """Processes that the kernel has killed for want of memory."""
    return _numbers("/proc/vmstat", " ").get("oom_kill", 0)


def _memory() -> float:
    """The share of memory that is in use."""
    told = _numbers("/proc/meminfo", ":")
    return 1 - told["MemAvailable"] / told["MemTotal"] if told.get("MemTotal") else 0.0


def _numbers(path: str, mark: str) -> dict[str, int]:
    try:
        lines = [line.partition(mark) for line in Path(path).read_text().splitlines()]
    except OSError:
        return {}
    return {name: int(rest.split()[0]) for name, _, rest in lines if rest.split()}
