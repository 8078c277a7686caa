"""The demo, whole: 1,797 real handwritten digits through every stage."""

import json
import time
from pathlib import Path

import numpy as np
import pytest

from spiceclust.result import Result
from test_cli import command


@pytest.mark.slow
def test_the_demo_sorts_the_digits(tmp_path: Path) -> None:
    start = time.monotonic()
    done = command(tmp_path, "demo", "--out", "digits")
    assert done.returncode == 0, done.stderr
    seconds = time.monotonic() - start
    scores = json.loads(command(tmp_path, "evaluate", "digits", "--labels", "digits").stdout)
    print(f"demo: {seconds:.0f} s, {scores}")
    assert scores["acc"] >= 0.94
    assert scores["n"] == 1797
    result = Result.load(tmp_path / "digits")
    assert result.run["config"]["views"] == "glyph"
    assert (np.bincount(result.labels, minlength=10) > 100).all()
    predicted = command(tmp_path, "predict", "digits", "builtin:digits", "--out", "again.csv")
    assert predicted.returncode == 0, predicted.stderr
    fitted = [line.split(",")[:2] for line in (tmp_path / "digits/clusters.csv").read_text().splitlines()]
    assert [line.split(",")[:2] for line in (tmp_path / "again.csv").read_text().splitlines()] == fitted
