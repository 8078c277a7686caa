"""Fits under torchrun: as good with 1, 2 and 4 processes and on two hosts as with one, and the same after a kill.

    python benchmarks/ranks.py --seeds 3 --kills 20

The hosts are network namespaces of this machine, which only root may make; all processes share its processors, so the
seconds tell what sharing costs and not what more machines would gain. Labels score what is finished.

Each kill is a run of its own, of a few digits: SIGKILL for a random rank at a random moment of a phase of the run, then
torchrun starts all ranks again (`--max-restarts`). It must end with the bytes of a run of as many ranks that was never
killed.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from _faults.child import RESULTS
from _ranks.hosts import HERE, Host, two_hosts
from _ranks.job import Job
from _report import about, commit, write_results

from spiceclust.data.datasets import digits
from spiceclust.outputs.evaluate import evaluate, read_truth
from spiceclust.result import Result

STAGES: Final = ("1-pretrain", "2-embed", "3-self", "4-select", "5-semi")
BEFORE, AFTER = "start", "end"  # phases of a run before its first stage and after its last
TIMED: Final = ("1-pretrain", "2-embed", "3-self", "5-semi")
MEASURES: Final = ("acc", "nmi", "ari")
ON_HOSTS: Final = "2 hosts, 1 each"
BRIEF: Final[dict[str, Any]] = {
    "pretrain": {"epochs": 1},
    "embed": {"cached_views": 1},
    "self_label": {"rounds": 6},
    "graph_label": {"steps": 12},
    "scan": {"steps": 12},
    "semi": {"steps": 4},
}  # of the runs that are killed
FEW: Final = 300  # digits, the first ones, that these cluster
EVERY: Final = 2  # steps between two snapshots of these
RESTARTS: Final = 3
LONGEST: Final = 3600.0  # seconds that a run may take

Found = dict[str, Any]


@contextmanager
def place_of(layout: str, folder: Path) -> Iterator[tuple[Sequence[Host], int]]:
    """The hosts of a layout, and the processes on each."""
    if layout == ON_HOSTS:
        with two_hosts(folder) as hosts:
            yield hosts, 1
    else:
        yield (HERE,), int(layout)


def words_of(out: Path, seed: int, config: Path | None, source: str = "builtin:digits") -> list[str]:
    words = ["fit", source, "--clusters", "10", "--seed", str(seed), "--out", str(out)]
    return [*words, "--config", str(config)] if config else words


def measure(layout: str, seed: int, folder: Path, config: Path | None) -> Found:
    """A whole fit: its scores, and its seconds by stage and in all. What is finished is not made again."""
    run, noted = folder / "run", folder / "seconds.json"
    if not noted.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        elsewhere = folder / "of the second host"
        words = [words_of(out, seed, config) for out in (run, elsewhere)]
        start = time.perf_counter()
        with place_of(layout, folder) as (hosts, processes), Job(words, processes, folder, hosts=hosts) as job:
            if not job.wait(LONGEST):
                raise RuntimeError(job.said())
        if elsewhere.exists():
            raise RuntimeError(f"the second host wrote {elsewhere}")
        noted.write_text(json.dumps(time.perf_counter() - start))
    result = Result.load(run)
    scores, _ = evaluate(result, read_truth("digits", result))
    return {measure: getattr(scores, measure) for measure in MEASURES} | {
        "seconds": {stage: result.run["seconds"][stage] for stage in TIMED} | {"all": json.loads(noted.read_text())}
    }


def kill(count: int, processes: int, seed: int, folder: Path) -> Iterator[Found]:
    """Kills a rank in each of `count` runs.

    Yields:
        After each: how many runs were killed, by the phase in which that was and by rank, how many ended with exit code
        0, and how many of these with the bytes of the unbroken run.
    """
    draw = np.random.default_rng(seed)
    config, source = folder / "brief.json", folder / "digits.npy"
    config.write_text(json.dumps(BRIEF))
    np.save(source, digits()[:FEW])

    def job(name: str) -> Job:
        words = words_of(folder / name / "run", 0, config, str(source))
        return Job([words], processes, folder / name, restarts=RESTARTS, child=["--every", str(EVERY)])

    with job("whole") as whole:
        if not whole.wait(LONGEST):
            raise RuntimeError(whole.said())
    taken = seconds_of(folder / "whole")
    unbroken = contents(folder / "whole/run")
    phases, ranks = Counter[str](), Counter[str]()
    ended = same = 0
    while phases.total() < count:
        aimed = list(taken)[phases.total() % len(taken)]
        rank, moment = int(draw.integers(processes)), float(draw.uniform(0, taken[aimed]))
        run = folder / "killed/run"
        shutil.rmtree(run.parent, ignore_errors=True)
        with job("killed") as broken:
            while not broken.over() and not (rank in broken.pids() and reached(run, aimed)):
                time.sleep(0.01)
            time.sleep(moment)
            phase, pid = phase_of(run), broken.pids().get(rank)
            if broken.over() or pid is None:
                continue  # too late
            os.kill(pid, signal.SIGKILL)
            phases[phase] += 1
            ranks[str(rank)] += 1
            well = broken.wait(LONGEST)
            ended += well
            as_unbroken = well and contents(run) == unbroken
            same += as_unbroken
            print(f"rank {rank} in {phase}: {'same' if as_unbroken else broken.said()}", flush=True)
        yield {"processes": processes, "phases": dict(phases), "ranks": dict(ranks), "ended": ended, "same": same}


def contents(run: Path) -> dict[str, bytes]:
    return {name: (run / name).read_bytes() for name in RESULTS}


def seconds_of(job: Path) -> dict[str, float]:
    """How long each phase took that can be aimed at, of a job that has just ended."""
    run = job / "run"
    stages = Result.load(run).run["seconds"]
    begun, first, last = (
        file.stat().st_mtime for file in (job / "pids/0", run / STAGES[0] / "done.json", run / STAGES[-1] / "done.json")
    )
    before, after = first - stages[STAGES[0]] - begun, time.time() - last
    return {BEFORE: max(0.0, before), **{stage: stages[stage] for stage in TIMED}, AFTER: after}


def reached(run: Path, phase: str) -> bool:
    """Whether a run has come to a phase."""
    order = [BEFORE, *STAGES, AFTER]
    return phase == BEFORE or order.index(phase_of(run)) >= order.index(phase)


def phase_of(run: Path) -> str:
    """Which phase a run is in, by what lies there."""
    if not (run / "run.json").exists():
        return BEFORE
    left = [stage for stage in STAGES if not (run / stage / "done.json").exists()]
    return left[0] if left else AFTER


def report(head: str, measured: dict[str, list[Found]], kills: list[Found]) -> str:
    """Markdown: scores and seconds by layout, then the kills."""
    lines = [head, ""]
    if measured:
        lines += [f"| processes | {' | '.join(('ACC', 'NMI', 'ARI', 'least ACC', 'seeds', *TIMED, 'all, s'))} |"]
        lines += ["|---" * (7 + len(TIMED)) + "|"]
        for layout, seeds in measured.items():
            cells = []
            for name in MEASURES:
                values = [each[name] for each in seeds]
                cells.append(f"{np.mean(values):.3f} ± {np.std(values):.3f}")
            cells += [f"{min(each['acc'] for each in seeds):.3f}", str(len(seeds))]
            cells += [f"{np.mean([each['seconds'][stage] for each in seeds]):.0f}" for stage in (*TIMED, "all")]
            lines.append(f"| {layout} | {' | '.join(cells)} |")
    for found in kills:
        phases, ranks = (
            ", ".join(f"{name} {times}" for name, times in sorted(found[of].items())) for of in ("phases", "ranks")
        )
        lines += [
            "",
            f"{sum(found['ranks'].values())} runs of {found['processes']} processes had a rank killed, by phase: "
            f"{phases}; by rank: {ranks}.",
            f"{found['ended']} ended well, {found['same']} with the bytes of a run that was never killed ("
            f"{', '.join(RESULTS)}).",
        ]
    return "\n".join(lines) + "\n"


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layouts", nargs="*", default=["1", "2", "4", ON_HOSTS], help="processes, or the two hosts")
    parser.add_argument("--seeds", type=int, default=3, help="how many: 0, 1, ...")
    parser.add_argument("--config", type=Path, help="JSON file whose fields override the preset's")
    parser.add_argument("--kills", type=int, default=20, help="how many runs")
    parser.add_argument("--killed", type=int, nargs="+", default=[2], help="processes of these")
    parser.add_argument("--seed", type=int, default=0, help="of the kills")
    parser.add_argument("--name", default="ranks", help="stem of the files with the results")
    parser.add_argument("--runs", type=Path, default=Path("runs/ranks"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args(words)

    version = commit()
    head = about("Many processes", command(options), version=version)
    if options.config:
        head += f"\n\nPreset quick with {options.config.read_text('utf-8').strip()}."
    folder = (options.runs / version / (options.config.stem if options.config else "quick")).absolute()
    measured: dict[str, list[Found]] = {}
    kills: list[Found] = []

    def write() -> None:
        write_results(
            options.out / options.name,
            report(head, measured, kills),
            {"about": head, "fits": measured, "kills": kills},
        )

    for layout in options.layouts:
        for seed in range(options.seeds):
            stem = f"{layout.replace(', ', '-').replace(' ', '-')}-{seed}"
            config = options.config.absolute() if options.config else None
            measured.setdefault(layout, []).append(measure(layout, seed, folder / stem, config))
            write()
    for processes in options.killed if options.kills else []:
        kills.append({})
        with tempfile.TemporaryDirectory() as place:
            for kills[-1] in kill(options.kills, processes, options.seed, Path(place)):
                write()


def command(options: argparse.Namespace) -> str:
    """What reproduces the figures; files and folders are those of the reader."""
    words = ["python", "benchmarks/ranks.py", "--layouts", *options.layouts, "--seeds", str(options.seeds)]
    words += ["--config", options.config.name] if options.config else []
    words += ["--kills", str(options.kills), "--killed", *map(str, options.killed)]
    return shlex.join(words)


if __name__ == "__main__":
    main()
