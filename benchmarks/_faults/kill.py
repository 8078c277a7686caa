"""Runs that are killed, at random moments or within a write, and resumed: they end with the unbroken run's bytes."""

from __future__ import annotations

import re
import shutil
import signal
import time
from pathlib import Path

import numpy as np

from _faults import child
from _faults.child import FIT, RESULTS, Fault

EVERY = 2  # steps between two snapshots
WITHIN = 0.3  # of the kills: the process kills itself within a call that writes
AT_MOST = 3  # kills of one run
STAGE = re.compile(r"\d-[a-z]+")  # in the path of a stage's file, and of its snapshots


def run(count: int, seed: int, folder: Path) -> dict[str, int | float]:
    """Kills `count` times, with SIGKILL, and resumes each run until it is done.

    Args:
        count: how many kills.
        seed: of the moments.
        folder: empty; what happens is in it.

    Returns:
        `kills`; of these `within a write`, and `within a write of a stage or snapshot`; `runs` that were killed once to
        three times, and how many of them ended with the `same results`.
    """
    draw = np.random.default_rng(seed)
    place, run_folder = folder / "place", folder / "place/run"
    child.make_place(place)
    if child.run(FIT, place, every=EVERY):
        raise RuntimeError((place / child.LOG).read_text())
    start = time.perf_counter()
    shutil.rmtree(run_folder)
    child.run(FIT, place, every=EVERY)
    whole, calls = time.perf_counter() - start, child.note(place)["calls"]
    unbroken = {name: (run_folder / name).read_bytes() for name in RESULTS}
    found = {"kills": 0, "within a write": 0, "within a write of a stage or snapshot": 0, "runs": 0, "same results": 0}
    while found["kills"] < count:
        shutil.rmtree(run_folder)
        killed = 0
        for _ in range(min(int(draw.integers(1, AT_MOST + 1)), count - found["kills"])):
            within = draw.random() < WITHIN
            fault = Fault(int(draw.integers(1, calls + 1)), share=float(draw.random())) if within else Fault()
            process = child.start(FIT, place, every=EVERY, fault=fault)
            process.join(None if within else float(draw.uniform(0, whole)))
            process.kill()  # which does nothing to one that has ended
            process.join()
            if process.exitcode != -signal.SIGKILL:
                break  # it was done before
            killed += 1
            if within:
                found["within a write"] += 1
                found["within a write of a stage or snapshot"] += bool(STAGE.search(child.note(place)["path"]))
        if not killed:
            continue
        found["kills"] += killed
        found["runs"] += 1
        ended = child.run(FIT, place, every=EVERY) == 0
        found["same results"] += ended and all((run_folder / name).read_bytes() == unbroken[name] for name in RESULTS)
    return {**found}


def wrong(found: dict[str, int | float]) -> int:
    """Runs that did not end as the unbroken one."""
    return int(found["runs"] - found["same results"])
