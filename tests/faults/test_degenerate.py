"""Degenerate data sets end in a result without a flaw or in one clear line; see `benchmarks/_faults/degenerate.py`."""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from _faults import degenerate
from _faults.degenerate import IMAGES, METHODS, MODULES, PRESETS, VECTORS, Case, Outcome, outcome
from hypothesis import given, settings
from hypothesis import strategies as st


def ended(case: Case) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        return outcome(case, Path(folder) / "case")


@st.composite
def cases(draw: st.DrawFn, kinds: tuple[str, ...]) -> Case:
    """Few images, with C up to half of them and now and then beyond."""
    n = draw(st.integers(4, 30))
    return Case(
        draw(st.sampled_from(kinds)),
        n,
        draw(st.integers(2, n // 2 + 1)),
        draw(st.sampled_from(METHODS)),
        draw(st.sampled_from(PRESETS)),
        draw(st.integers(0, 999)),
    )


@settings(max_examples=8, derandomize=True)
@given(cases((*IMAGES, "files")))
def test_images_of_any_kind(case: Case) -> None:
    assert ended(case).flaws == []


@settings(max_examples=15, derandomize=True)
@given(cases((*VECTORS, *MODULES)))
def test_embeddings_and_encoders_of_any_kind(case: Case) -> None:
    assert ended(case).flaws == []


@pytest.mark.parametrize("n", [3, 4, 5])
def test_the_fewest_images_that_there_can_be(n: int) -> None:
    found = ended(Case("noise", n, 2))
    assert found.flaws == []
    assert found.error == "" if n >= 4 else "3 distinct readable images are too few for 2 clusters" in found.error


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("identical", "1 distinct readable images are too few for 3 clusters"),
        ("vectors, all one", "puts out the same for all 12 of 12 images"),
        ("vectors, a zero", "is zero, and 1 of 12 rows are"),
        ("vectors, a nan", "is not finite, and 1 of 12 rows are"),
        ("module, zero", "only zeros, or values too large or small for float32, for 12 of 12 images"),
        ("module, nan", "puts out values that are not finite for 12 of 12 images"),
    ],
)
def test_what_cannot_be_sorted_is_said_in_one_line(kind: str, says: str) -> None:
    found = ended(Case(kind, 12, 3))
    assert says in found.error
    assert found.flaws == []


@pytest.mark.parametrize(
    ("kind", "alike", "empty"), [("near identical", True, False), ("vectors, opposite", False, True)]
)
def test_what_is_sorted_for_want_of_better_is_warned_of(kind: str, alike: bool, empty: bool) -> None:
    found = ended(Case(kind, 30, 3))
    assert found.flaws == []
    assert found.error == ""
    assert any("nearly the same" in line for line in found.warnings) == alike
    assert any("clusters hold no image" in line for line in found.warnings) == empty


def test_flaws_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("vectors", 12, 3)
    whole = degenerate.pipeline.fit

    def damaged(*given: object, **named: object) -> object:
        result = whole(*given, **named)  # type: ignore[arg-type]
        spoilt = np.where(result.labels[:, None] == result.labels[0], np.nan, result.probabilities)
        return replace(result, probabilities=spoilt, reliable=result.labels != result.labels[0])

    monkeypatch.setattr(degenerate.pipeline, "fit", damaged)
    told = " ".join(ended(case).flaws)
    assert "with NaN: probabilities" in told
    assert "empty reliable sets: of clusters" in told
    monkeypatch.setattr(degenerate.pipeline, "fit", lambda *given, **named: 1 / 0)
    assert "other exceptions" in " ".join(ended(case).flaws)


def test_a_count_of_data_sets_is_counted_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flawed = [Outcome("", []), Outcome("too few", []), Outcome("", ["with NaN: x", "other exceptions: y"])]

    def made(case: Case, folder: Path) -> Outcome:
        folder.mkdir(parents=True)
        return flawed.pop()

    monkeypatch.setattr(degenerate, "outcome", made)
    counts = degenerate.run(3, 0, tmp_path)
    assert counts.pop("seconds") >= 0
    assert counts == {
        "results": 2,
        "clear errors": 1,
        "other exceptions": 1,
        "with NaN": 1,
        "empty reliable sets": 0,
        "other flaws": 0,
    }
    assert not list(tmp_path.iterdir())
