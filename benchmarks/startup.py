"""How long a person waits before anything happens: `import spiceclust` and `spiceclust --help`, each in a new process.

python benchmarks/startup.py
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from _report import about, write_results

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import spiceclust": ["-c", "import spiceclust, sys; assert 'torch' not in sys.modules"],
    "spiceclust --help": ["-m", "spiceclust", "--help"],
    "spiceclust fit --help": ["-m", "spiceclust", "fit", "--help"],
}


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args(words)
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for repeat in range(options.repeats + 1):
        for name, command in COMMANDS.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
            if repeat:  # the first fills the disk's cache
                seconds[name].append(time.perf_counter() - start)
    lines = [about("Start-up", "python benchmarks/startup.py"), ""]
    lines += [f"Seconds, {options.repeats} alternating runs; `import spiceclust` is seen not to import torch.", ""]
    lines += ["| command | median | least | most |", "|---|---|---|---|"]
    for name, values in seconds.items():
        lines.append(f"| `{name}` | {statistics.median(values):.3f} | {min(values):.3f} | {max(values):.3f} |")
    write_results(options.out / "startup", "\n".join(lines) + "\n", {"seconds": seconds})


if __name__ == "__main__":
    main()
