"""Commands of which a write fails, or all from then on: what they say, what stays, and what the next call makes."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import numpy as np

from _faults import child
from _faults.child import FIT, LOG, NOTE, Fault
from spiceclust.errors import SpiceError
from spiceclust.result import Result

EVERY = 8  # steps between two snapshots
COMMANDS = (
    FIT,
    ["evaluate", "run", "--labels", "folders"],
    ["predict", "run", "photos", "--out", "table.csv"],
    FIT,  # into the run that is finished: its result must stay
    ["export", "run", "--to", "sorted", "--as", "folders"],
)
ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES)
TIMES = ("run.json", "done.json", "report.html", LOG, NOTE)  # files that say when


def run(count: int, seed: int, folder: Path) -> dict[str, int | float]:
    """Fails `count` calls that write, one at a time, and gives each command again without failures.

    Args:
        count: how many, spread evenly over all calls of all commands.
        seed: of what fails how: with which error, after which share of the bytes, once or from then on.
        folder: empty; what happens is in it.

    Returns:
        `calls` of all commands, `calls that failed`, and for how many of these: the command's `exit code was 0`; it had
        `no clear line`, which is one that begins with `error: ` and is the last; a finished run `did not load`
        afterwards; the next call `did not end as unbroken`.
    """
    draw, place = np.random.default_rng(seed), folder / "place"
    child.make_place(place)
    calls: list[tuple[int, int]] = []  # number of the command, and of the call in it
    after = []
    for number, words in enumerate(COMMANDS):
        shutil.copytree(place, folder / f"before-{number}")
        if child.run(words, place, every=EVERY):
            raise RuntimeError((place / LOG).read_text())
        after.append(child.contents(place, without=TIMES))
        calls += [(number, call + 1) for call in range(child.note(place)["calls"])]
    outcomes = ("exit code was 0", "no clear line", "did not load", "did not end as unbroken")
    found = {"calls": len(calls), "calls that failed": 0, **dict.fromkeys(outcomes, 0)}
    for number, call in (calls[i] for i in spread(len(calls), count, float(draw.random()))):
        shutil.rmtree(place)
        shutil.copytree(folder / f"before-{number}", place)
        how = int(draw.choice(ERRORS)), float(draw.random()), bool(draw.random() < 0.5)
        code = child.run(COMMANDS[number], place, every=EVERY, fault=Fault(call, *how))
        said = (place / LOG).read_text().splitlines()
        clear = [line for line in said if line.startswith("error: ")] == said[-1:]
        bad = {"exit code was 0": code == 0, "no clear line": not clear or any("Traceback" in line for line in said)}
        bad["did not load"] = number > 0 and not _loads(place / "run")
        whole = child.contents(place, without=TIMES) == after[number]  # it failed at last: the next call may refuse
        ended = child.run(COMMANDS[number], place, every=EVERY) == 0
        bad["did not end as unbroken"] = not (ended or whole) or child.contents(place, without=TIMES) != after[number]
        found["calls that failed"] += 1
        for name, is_bad in bad.items():
            found[name] += is_bad
        if any(bad.values()):
            print(COMMANDS[number][0], call, how, code, *(name for name, is_bad in bad.items() if is_bad), *said[-1:])
    return {**found}


def wrong(found: dict[str, int | float]) -> int:
    """How often something was not as it should be."""
    return int(sum(value for name, value in found.items() if not name.startswith("calls")))


def spread(length: int, count: int, start: float) -> list[int]:
    """`count` places in a list of `length`, one in each of as many equal pieces; all places where there are no more.

    Args:
        length: of the list.
        count: how many places.
        start: in [0, 1), where in its piece each lies.
    """
    count = min(count, length)
    return [int((piece + start) * length / count) for piece in range(count)]


def _loads(folder: Path) -> bool:
    try:
        return bool(Result.load(folder).run["state"] == "done")
    except SpiceError:
        return False
