from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spiceclust.errors import RunFolderError, SourceError
from spiceclust.functional.metrics import Scores, Trust
from spiceclust.outputs.evaluate import evaluate, write_scores
from spiceclust.result import Result

MakeResult = Callable[..., Result]

CLASSES = dict(zip(("0.png", "1.png", "2.png", "3.png", "4.png"), "aabba", strict=True))


def test_a_run_is_scored_by_hand(make_result: MakeResult) -> None:
    result = make_result(
        [0, 0, 1, 1, 1, -1], 2, confidence=[1, 1, 1, 1, 0.5, 0], reliable=[True, True, True, False, True, False]
    )
    scores, trust = evaluate(result, CLASSES)
    assert (scores.acc, scores.n, scores.match) == (4 / 5, 5, {0: "a", 1: "b"})
    assert trust == pytest.approx(Trust(ece=0.5 / 5, reliable_share=4 / 5, reliable_precision=3 / 4))


def test_images_without_a_label_count_nowhere(make_result: MakeResult) -> None:
    result = make_result([0, 1, 0, 0], 2, confidence=[1, 1, 0.7, 0.7], reliable=[False, False, True, True])
    scores, trust = evaluate(result, {"0.png": "a", "1.png": "b", "nowhere.png": "c"})
    assert scores == Scores(1, pytest.approx(1), 1, 2, {0: "a", 1: "b"}, {0: {"a": 1}, 1: {"b": 1}})
    assert trust == Trust(0, 0, None)
    with pytest.raises(SourceError, match="none of the 1 labels belongs to one of the 4 clustered"):
        evaluate(result, {"nowhere.png": "c"})


def test_scores_are_added_to_the_label_free_ones(make_result: MakeResult, tmp_path: Path) -> None:
    result = make_result([0, 0, 1, 1, 1], 2, reliable=[False] * 5)
    result.save(tmp_path)
    added = write_scores(tmp_path, result, *evaluate(result, CLASSES))
    trusted = {"ece", "reliable_share", "reliable_precision"}
    assert {"acc", "nmi", "ari", "n", "match", "confusion", *trusted} == added.keys()
    written = Result.load(tmp_path).metrics
    assert written == {**result.metrics, **added}
    assert written["match"] == {"0": "a", "1": "b"}
    assert written["confusion"] == {"0": {"a": 2}, "1": {"a": 1, "b": 2}}
    assert written["reliable_precision"] is None


@pytest.mark.parametrize("what", ["labels", "confidence", "reliable"])
def test_scores_of_a_result_that_was_replaced_meanwhile_are_not_written(
    what: str, make_result: MakeResult, tmp_path: Path
) -> None:
    earlier: dict[str, Any] = {"labels": [0, 0, 1, 1, 1], "confidence": [1.0] * 5, "reliable": [False] * 5}
    later = earlier | {what: {"labels": [0, 1, 1, 1, 1], "confidence": [0.9] * 5, "reliable": [True] * 5}[what]}
    loaded, fitted = (
        make_result(each["labels"], 2, confidence=each["confidence"], reliable=each["reliable"])
        for each in (earlier, later)
    )
    fitted.save(tmp_path)
    before = (tmp_path / "metrics.json").read_bytes()
    with pytest.raises(RunFolderError, match="was written anew after it was loaded: give the same command again"):
        write_scores(tmp_path, loaded, *evaluate(loaded, CLASSES))
    assert (tmp_path / "metrics.json").read_bytes() == before
