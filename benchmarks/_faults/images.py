"""Fuzzed image files, read as a fit reads them: each is accepted or refused with a reason."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

from _faults import hostile

FITTED = 60  # files of the part that is clustered
BRIEF = {
    "pretrain": {"epochs": 1},
    "embed": {"cached_views": 1},
    "self_label": {"rounds": 4, "heads": 2},
    "graph_label": {"steps": 4},
    "scan": {"steps": 4},
    "semi": {"steps": 4},
}
READ = """
import json, os, sys
from dataclasses import asdict
from spiceclust import pipeline  # what a fit holds in memory, too
from spiceclust.data.images import load
from spiceclust.data.sources import open_source
from spiceclust.progress import Silent
source = open_source(sys.argv[1])
source.native_size()
rows = load(source, 32, None, Silent()).rows
decoder = source.decoder
print(json.dumps({
    "rows": [asdict(row) for row in rows], "crashed": decoder.crashed, "stopped": decoder.stopped,
    "slowest": decoder.slowest, "workers": decoder.workers,
}))
"""


def run(count: int, seed: int, folder: Path) -> dict[str, int | float]:
    """Writes `count` files that do harm, reads them all, and clusters a part of them.

    Args:
        count: how many files.
        seed: of what is in them.
        folder: empty; what happens is in it.

    Returns:
        `files`; `accepted` and `quarantined`, with copies of accepted ones among these; `unaccounted`; `crashed`
        decoders, and those that `met the limit of time`; `slowest file, s`, by the clock and of processor time;
        `peak, bytes` of all processes of the reading, and of the fit; its `exit code`.
    """
    place = folder / "files"
    place.mkdir()
    hostile.write(place, count, seed)
    entries = {os.path.join(root, name) for root, _, names in os.walk(place) for name in names}
    done, peak = watched(["-c", READ, str(place)])
    if done.returncode:
        raise RuntimeError(done.stderr)
    found = json.loads(done.stdout)
    rows = found["rows"]
    status = Counter(row["status"] for row in rows)
    told = {str(place / row["path"]) for row in rows if row["status"] != "quarantined" or row["reason"]}
    (folder / "config.json").write_text(json.dumps(BRIEF))
    part = folder / "part"
    part.mkdir()
    kept = [row["path"] for row in rows if row["status"] == "ok"][: FITTED // 2]
    lost = [row["path"] for row in rows if row["status"] == "quarantined"][: FITTED // 2]
    for path in kept + lost:
        (part / path.replace("/", "-")).symlink_to(place / path)
    words = ["-m", "spiceclust", "fit", str(part), "--clusters", "3", "--out", str(folder / "run")]
    fitted, fit_peak = watched([*words, "--image-size", "16", "--config", str(folder / "config.json")])
    return {
        "files": len(entries),
        "accepted": status["ok"] + status["duplicate"],
        "quarantined": status["quarantined"],
        "unaccounted": len(entries - told) + abs(len(rows) - len(entries)),
        "crashed": found["crashed"],
        "met the limit of time": found["stopped"],
        "slowest file, s": round(found["slowest"][0], 2),
        "slowest file, s of processor time": round(found["slowest"][1], 2),
        "peak, bytes": peak,
        "peak of a fit, bytes": fit_peak,
        "exit code of a fit": fitted.returncode,
    }


def watched(words: list[str]) -> tuple[subprocess.CompletedProcess[str], int]:
    """Runs Python with `words`: what came of it, and the most memory that it and its children took together, bytes."""
    peak, over = 0, threading.Event()
    with subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:

        def watch() -> None:
            nonlocal peak
            while not over.wait(0.1):
                peak = max(peak, sum(map(memory, family(process.pid))))

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            out, errors = process.communicate()
        finally:
            over.set()
            watcher.join()
    return subprocess.CompletedProcess(words, process.returncode, out, errors), peak


def family(process: int) -> list[int]:
    """A process and all that it started, and they started."""
    try:
        tasks = [task / "children" for task in Path(f"/proc/{process}/task").iterdir()]
        children = [int(child) for task in tasks for child in task.read_text().split()]
    except OSError:  # it has ended
        return []
    return [process, *(one for child in children for one in family(child))]


def memory(process: int) -> int:
    """Bytes, with its share of what several processes hold together; 0 for one that has ended."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)
