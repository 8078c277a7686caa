"""The script that counts: what kinds were run at other times stays."""

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

import faults


def test_kinds_are_counted_and_those_of_other_times_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[str, int, int]] = []
    for kind in faults.KINDS:
        module = ModuleType(f"_faults.{kind}", f"What becomes of {kind}.\n\nMore.")

        def run(count: int, seed: int, folder: Path, kind: str = kind) -> dict[str, int | float]:
            assert list(folder.iterdir()) == []
            asked.append((kind, count, seed))
            return {"damaged": count, "silently": 0}

        module.run = run  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(faults, "commit", lambda: "c0ffee")
    faults.main(["--kinds", "images", "--full", "--out", str(tmp_path)])
    monkeypatch.setattr(faults, "commit", lambda: "decaf")
    faults.main(["--kinds", "kill", "writes", "--counts", "7", "8", "--seed", "3", "--out", str(tmp_path)])
    assert asked == [("images", 1000, 0), ("kill", 7, 3), ("writes", 8, 3)]
    found = json.loads((tmp_path / "faults.json").read_text())
    assert list(found) == ["kill", "writes", "images"]  # in one order, whenever they were run
    assert [found[kind]["commit"] for kind in found] == ["decaf", "decaf", "c0ffee"]
    text = (tmp_path / "faults.md").read_text()
    assert "## images\n\nWhat becomes of images.\n" in text
    assert "python benchmarks/faults.py --kinds kill --counts 7 --seed 3" in text
    assert "| damaged | 1,000 |" in text
    assert "faults-" not in text  # no path of this machine
    capsys.readouterr()
    with pytest.raises(SystemExit):
        faults.main(["--kinds", "fire"])
