"""Runs that are killed, at random moments or within a write, and resumed: they end with the unbroken run's bytes."""

from __future__ import annotations

import math
import re
import shutil
import signal
import time
from pathlib import Path

import numpy as np

from _faults import child
from _faults.child import FIT, RESULTS, Fault

EVERY = 2  # steps between two snapshots
WITHIN = 0.3  # of the kills that are not aimed: the process kills itself within a call that writes
AT_STAGES = 0.15  # of the kills at least: at a call that writes a stage or a snapshot; runs are aimed there as needed
AT_MOST = 3  # kills of one run
KILLS = "kills"
AT_A_MOMENT = "of the kills: from outside, at a random moment"
AT_A_CALL = "of the kills: at a call that writes (open, write, fsync, rename, ...), part of its bytes written"
AT_A_STAGE = "of those at a call: of a file of a stage or snapshot"
IN_TWO_THREADS = "of the kills: of a process with two threads"
RUNS = "runs that were killed, and resumed to their end"
SAME = "of the runs: ended with the bytes of a run that was never killed"
STAGE = re.compile(r"\d-[a-z]+")  # in the path of a stage's file, and of its snapshots


def run(count: int, seed: int, folder: Path) -> dict[str, int | float]:
    """Kills `count` times, with SIGKILL, and resumes each run until it is done.

    Args:
        count: how many kills.
        seed: of the moments.
        folder: empty; what happens is in it.

    Returns:
        How many kills there were, by when they came and with how many threads; how many runs were killed, once to three
        times, and how many of them ended with the bytes of a run in one thread that was never killed.
    """
    draw = np.random.default_rng(seed)
    place, run_folder = folder / "place", folder / "place/run"
    child.make_place(place)
    if child.run(FIT, place, every=EVERY):
        raise RuntimeError((place / child.LOG).read_text())
    start = time.perf_counter()
    shutil.rmtree(run_folder)
    child.run(FIT, place, every=EVERY)
    whole, paths = time.perf_counter() - start, child.note(place)["paths"]
    of_stages = [number for number, path in enumerate(paths, 1) if STAGE.search(path)]
    unbroken = {name: (run_folder / name).read_bytes() for name in RESULTS}
    found = dict.fromkeys((KILLS, AT_A_MOMENT, AT_A_CALL, AT_A_STAGE, IN_TWO_THREADS, RUNS, SAME), 0)
    while found[KILLS] < count:
        shutil.rmtree(run_folder)
        killed = 0
        for _ in range(min(int(draw.integers(1, AT_MOST + 1)), count - found[KILLS])):
            # only in a fresh run is it known which call is which
            aimed = not killed and found[AT_A_STAGE] < AT_STAGES * (found[KILLS] + AT_MOST)
            within = aimed or bool(draw.random() < WITHIN)
            call = int(draw.choice(of_stages) if aimed else draw.integers(1, len(paths) + 1))
            fault = Fault(call, share=float(draw.random())) if within else Fault()
            threads = int(draw.integers(1, 3))
            process = child.start(FIT, place, every=EVERY, fault=fault, threads=threads)
            process.join(None if within else float(draw.uniform(0, whole)))
            process.kill()  # which does nothing to one that has ended
            process.join()
            if process.exitcode != -signal.SIGKILL:
                break  # it was done before
            killed += 1
            found[KILLS] += 1
            found[AT_A_CALL if within else AT_A_MOMENT] += 1
            found[AT_A_STAGE] += within and bool(STAGE.search(child.note(place)["path"]))
            found[IN_TWO_THREADS] += threads == 2
        if not killed:
            continue
        found[RUNS] += 1
        ended = child.run(FIT, place, every=EVERY, threads=int(draw.integers(1, 3))) == 0
        found[SAME] += ended and all((run_folder / name).read_bytes() == unbroken[name] for name in RESULTS)
    return {**found}


def wrong(found: dict[str, int | float]) -> int:
    """Runs that did not end as the unbroken one; kills at stages and snapshots that are missing to their share."""
    missing = max(0, math.ceil(AT_STAGES * found[KILLS]) - found[AT_A_STAGE])
    return int(found[RUNS] - found[SAME] + missing)
