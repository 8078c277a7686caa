"""Learning, questions and heat maps through the routes of the page."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from review_runs import CLUSTERS, N, Reviewed, reviewed
from spiceclust.files import sha256_file
from spiceclust.models.encoders import build_encoder
from spiceclust.models.heads import Classifier, build_head
from spiceclust.progress import Silent
from spiceclust.review import learning
from spiceclust.review.session import open_session
from spiceclust.shipped import save_model


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reviewed]:
    monkeypatch.setattr(learning, "STEPS", 20)
    with reviewed(tmp_path) as page:
        yield page


def labels(state: dict[str, Any]) -> list[int]:
    return np.frombuffer(base64.b64decode(state["labels"]), "<i4").tolist()


def test_there_is_nothing_to_learn_from_at_first(page: Reviewed) -> None:
    assert "nothing to learn from" in page.post("learn", {}, 400)["error"]


def test_what_was_learned_counts_when_it_is_accepted(page: Reviewed) -> None:
    rows = [row for row in range(3, N) if page.result.labels[row] == 2]
    page.post("act", {"do": "merge", "clusters": [2], "into": 3})
    page.post("act", {"do": "split", "cluster": 3, "rows": rows[:1]})
    page.post("act", {"do": "move", "rows": rows[:3], "to": CLUSTERS})
    before = page.get("state")
    found = page.post("learn", {})
    assert page.get("state") == before
    assert found["n_changed"] == len(found["rows"]) == len(found["to"]) > 0
    assert [labels(before)[row] for row in found["rows"]] == found["from"]
    assert found["seconds"] > 0
    after = page.post("act", {"do": "learn", "head": found["head"]})
    assert [labels(after)[row] for row in found["rows"]] == found["to"]
    assert (after["head"], after["undo"]) == (found["head"], f"learn: {found['n_changed']} images changed")
    file = page.run / "review/heads" / f"{found['head']}.safetensors"
    assert sha256_file(file) == found["head"]
    back = page.post("undo", {})
    assert (labels(back), back["head"]) == (labels(before), "")
    assert labels(page.post("redo", {})) == labels(after)


def test_a_head_that_cannot_be_kept_is_not_accepted(page: Reviewed) -> None:
    page.post("act", {"do": "move", "rows": [9], "to": 1})
    found = page.post("learn", {})
    before = page.get("state")
    (page.run / "review/heads").write_text("in the way")
    error = page.post("act", {"do": "learn", "head": found["head"]}, 409)["error"]
    assert "review/heads cannot be made" in error
    assert page.get("state") == before
    (page.run / "review/heads").unlink()
    assert page.post("act", {"do": "learn", "head": found["head"]})["head"] == found["head"]


def test_what_was_learned_before_a_correction_is_not_accepted(page: Reviewed) -> None:
    page.post("act", {"do": "move", "rows": [9], "to": 1})
    found = page.post("learn", {})
    page.post("act", {"do": "move", "rows": [10], "to": 1})
    error = page.post("act", {"do": "learn", "head": found["head"]}, 400)["error"]
    assert error == "something was corrected meanwhile: ask again"
    assert not (page.run / "review/heads").exists()
    for head in ("f" * 64, None, 1, [], "../../x"):
        assert "learn again" in page.post("act", {"do": "learn", "head": head}, 400)["error"]


def test_questions_stay_the_same_until_they_are_answered(page: Reviewed) -> None:
    asked = page.get("questions")
    assert asked == page.get("questions")
    assert len(asked["rows"]) == len(set(asked["rows"])) == len(asked["random"]) == N - 2  # fewer than a batch
    assert 0 < sum(asked["random"]) < N - 2
    assert not {0, 2} & set(asked["rows"])  # could not be read, a copy
    page.post("act", {"do": "confirm", "rows": asked["rows"][:5]})
    later = page.get("questions")
    assert later["batch"] != asked["batch"]
    assert set(later["rows"]) == set(asked["rows"][5:])


def test_answers_move_confirm_and_tell_of_purity(page: Reviewed) -> None:
    asked, before = page.get("questions"), labels(page.get("state"))
    stay, go, nowhere, skip = asked["rows"][:4]
    to = (before[go] + 1) % CLUSTERS
    answers = [
        {"row": stay, "cluster": before[stay]},
        {"row": go, "cluster": to},
        {"row": nowhere, "cluster": -2},
        {"row": skip, "cluster": None},
        *({"row": row, "cluster": before[row]} for row in asked["rows"][4:]),
    ]
    found = page.post("answers", {"batch": asked["batch"], "answers": answers})
    after = labels(found["state"])
    assert [after[row] for row in (stay, go, nowhere, skip)] == [before[stay], to, -2, before[skip]]
    fixed = np.frombuffer(base64.b64decode(found["state"]["fixed"]), np.uint8)
    assert [int(fixed[row]) for row in (stay, go, nowhere, skip)] == [1, 1, 1, 0]
    purity = found["purity"]
    assert 0 <= purity["low"] <= purity["estimate"] <= purity["high"] <= 1
    assert [each["cluster"] for each in purity["clusters"]] == list(range(CLUSTERS))
    assert all({"estimate", "low", "high", "asked"} <= set(each) for each in purity["clusters"])
    again = page.post("answers", {"batch": asked["batch"], "answers": answers}, 400)
    assert again == {"error": "these questions are not open any more: ask again"}
    assert page.get("questions")["rows"] == []  # what was skipped is not asked again


def test_answers_that_are_none_change_nothing(page: Reviewed) -> None:
    asked = page.get("questions")
    row, before = asked["rows"][0], page.get("state")
    for answers in (
        None, [], "x", [1], [{}], [{"row": row}], [{"row": -1, "cluster": 0}], [{"row": 0, "cluster": 0}],
        [{"row": row, "cluster": CLUSTERS}], [{"row": row, "cluster": -1}], [{"row": row, "cluster": -3}],
        [{"row": row, "cluster": 1.0}], [{"row": row, "cluster": 0, "more": 1}], [{"row": 10**300, "cluster": 0}],
        [{"row": asked["rows"][1], "cluster": 1}, {"row": row, "cluster": CLUSTERS}],
    ):  # fmt: skip
        assert set(page.post("answers", {"batch": asked["batch"], "answers": answers}, 400)) == {"error"}
    good = [{"row": row, "cluster": 0}]
    for batch in (None, "", "9", 1, [], {}):
        page.post("answers", {"batch": batch, "answers": good}, 400)
    assert page.get("state") == before
    page.post("act", {"do": "name", "cluster": 0, "name": "A"})
    page.post("answers", {"batch": asked["batch"], "answers": good}, 400)


def test_another_day_goes_on_with_the_same_sample(tmp_path: Path) -> None:
    with reviewed(tmp_path) as page:
        asked, before = page.get("questions"), labels(page.get("state"))
        drawn = [row for row, random in zip(asked["rows"], asked["random"], strict=True) if random]
        page.post("act", {"do": "confirm", "rows": drawn[:3]})
        asked = page.get("questions")
        first = asked["rows"][0]
        answer = [{"row": first, "cluster": before[first]}]
        expected = page.post("answers", {"batch": asked["batch"], "answers": answer})["purity"]
        page.post("undo", {})
    with open_session(page.run, None, Silent()) as session:
        asked = session.lessons.questions()
        found = session.lessons.answer(asked["batch"], answer)
    assert found == expected
    assert found["known"] == 4


def test_a_heat_map_tells_what_speaks_for_the_cluster(page: Reviewed) -> None:
    torch.manual_seed(3)  # for some heads nothing speaks for the cluster
    encoder = build_encoder("resnet_small", 3, 20, [0.5] * 3, [0.25] * 3, 0)
    classifier = Classifier(encoder, build_head(encoder.n_features, CLUSTERS))
    save_model(page.run, classifier, torch.nn.functional.normalize(torch.randn(N, encoder.n_features), dim=1))
    found = page.get("heat?row=9")
    assert set(found) == {"side", "values", "cluster"}
    assert found["cluster"] == page.result.labels[9]
    values = np.frombuffer(base64.b64decode(found["values"]), np.uint8)
    assert len(values) == found["side"] ** 2
    assert values.max() == 255
    page.post("act", {"do": "split", "cluster": int(page.result.labels[9]), "rows": [9]})
    assert page.get("heat?row=9") == found  # the classifier knows no other cluster
    other = (found["cluster"] + 1) % CLUSTERS
    page.post("act", {"do": "move", "rows": [9], "to": other})
    assert page.get("heat?row=9")["cluster"] == other
    (page.photos / "009.png").unlink()
    assert page.get("heat?row=9", 404)["error"].startswith("009.png: cannot be opened")


def test_where_there_is_no_map_the_reason_is_told(page: Reviewed) -> None:
    page.get("heat?row=0", 404)
    page.get("heat?row=99", 404)
    page.get("heat", 400)
    assert "has no finished model" in page.get("heat?row=3", 409)["error"]
