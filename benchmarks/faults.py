"""What becomes of runs when the machine fails and what they read is bad, counted.

    python benchmarks/faults.py --kinds kill writes artefacts images degenerate --full
    python benchmarks/faults.py --kinds kill --counts 10 --seed 1

A kind is a module of `_faults/`. Kinds of other times stay in the results, each with its commit and command.
"""

from __future__ import annotations

import argparse
import importlib
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch
from _report import commit, machine, write_results

from spiceclust.files import read_json

# Kinds, with the counts of the full version and of the short one.
KINDS = {
    "kill": (100, 4),
    "writes": (200, 6),
    "artefacts": (1000, 60),
    "images": (1000, 60),
    "degenerate": (500, 5),
}


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--full", action="store_true", help="as many as the published counts")
    parser.add_argument("--counts", type=int, nargs="+", help="of the kinds in turn, in the place of the usual ones")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    counts = options.counts or [KINDS[kind][0 if options.full else 1] for kind in options.kinds]
    for kind, count in zip(options.kinds, counts, strict=True):
        module, start = importlib.import_module(f"_faults.{kind}"), time.perf_counter()
        about: dict[str, Any] = {
            "command": f"python benchmarks/faults.py --kinds {kind} --counts {count} --seed {options.seed}",
            "date": str(date.today()),
            "commit": commit(),
            "machine": machine("cpu"),
            "title": (module.__doc__ or kind).splitlines()[0],
        }
        with tempfile.TemporaryDirectory(prefix="faults-") as folder:
            found = module.run(count, options.seed, Path(folder))
        about["minutes"] = round((time.perf_counter() - start) / 60, 1)
        stem = options.out / "faults"
        earlier: dict[str, Any] = read_json(stem.with_suffix(".json")) if stem.with_suffix(".json").exists() else {}
        results = {**earlier, kind: {**about, "found": found}}
        write_results(stem, report(results), {name: results[name] for name in KINDS if name in results})


def report(results: dict[str, Any]) -> str:
    """Markdown: a table of counts for each kind."""
    lines = ["# Faults"]
    for kind in KINDS:
        if kind not in results:
            continue
        about = results[kind]
        lines += ["", f"## {kind}", "", about["title"], ""]
        lines += [f"{about['date']}, commit {about['commit']}, {about['machine']}, {about['minutes']} minutes.", ""]
        lines += [f"    {about['command']}", "", "| | |", "|---|---|"]
        lines += [f"| {name} | {value:,} |" for name, value in about["found"].items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
