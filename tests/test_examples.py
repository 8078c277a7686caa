import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_spice_in_100_lines_runs_and_learns() -> None:
    """Two epochs instead of sixty: enough to run every line and to be far above the 0.1 of chance."""
    example = ROOT / "examples/spice_in_100_lines.py"
    assert len(example.read_text().splitlines()) <= 100
    done = subprocess.run([sys.executable, str(example), "2"], capture_output=True, text=True, check=True)
    last = done.stdout.splitlines()[-1]
    assert last.startswith("accuracy: SPICE-Self ")
    assert float(last.rsplit(" ", 1)[1]) > 0.3
