"""What each route answers."""

import base64
import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _review.runs import make_run, rows_of
from PIL import Image

from pictures import picture
from review_runs import CLUSTERS, TOKEN, N, Reviewed, make_photos, reviewed
from spiceclust.data.sources import open_source
from spiceclust.embeddings import EMBEDDINGS, RECORDED
from spiceclust.errors import RunFolderError
from spiceclust.progress import Silent
from spiceclust.result import Result
from spiceclust.review.session import open_session

STATUS = {"ok": 0, "duplicate": 1, "quarantined": 2}


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Reviewed]:
    with reviewed(tmp_path) as page:
        yield page


def unpacked(text: str, kind: str) -> list[int]:
    return [int(value) for value in np.frombuffer(base64.b64decode(text), kind)]


def labels(state: dict[str, Any]) -> list[int]:
    return unpacked(state["labels"], "<i4")


# What a run found


def test_the_page_and_its_files_come_from_a_fixed_table(page: Reviewed) -> None:
    html = page.client.get(f"/{TOKEN}/")
    assert html.headers["content-type"] == "text/html; charset=utf-8"
    assert html.text.startswith("<!doctype html>")
    script = page.client.get(f"/{TOKEN}/static/map.js")
    assert script.headers["content-type"] == "text/javascript; charset=utf-8"
    assert script.content
    for name in (
        "page.html",
        "routes.py",
        "__init__.py",
        "",
        "%2e%2e%2fpage.py",
        "/etc/passwd",
        "map.js/",
        "map.js%00",
    ):
        page.get(f"static/{name}", 404)


def test_the_facts_of_a_run(page: Reviewed) -> None:
    facts = page.get("run")
    assert facts == {
        "name": "run",
        "source": "drawn",
        "n": N,
        "nClusters": CLUSTERS,
        "missing": "",
        "placed": "PCA",
        "kinds": ["folders", "csv", "parquet", "imagefolder", "coco", "labelstudio", "fiftyone"],
        "command": f"spiceclust review {page.run}",
    }


def test_points_are_numbers_of_every_row(page: Reviewed) -> None:
    points, result = page.get("points"), page.result
    assert unpacked(points["status"], "<u1") == [STATUS[row.status] for row in result.rows]
    assert unpacked(points["status"], "<u1")[:4] == [2, 0, 1, 0]
    np.testing.assert_allclose(np.array(unpacked(points["confidence"], "<u2")) / 65535, result.confidence, atol=1e-5)
    assert unpacked(points["reliable"], "<u1") == result.reliable.astype(int).tolist()
    places = np.array(unpacked(points["positions"], "<u2")).reshape(N, 2)
    assert (places[0] == 0).all()
    assert places[1:].max() == 65535
    second = np.argsort(-result.probabilities[5], kind="stable")[1]
    assert unpacked(points["runnersUp"], "<u2")[5] == second


def test_a_run_without_places_has_none(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos")
    make_run(tmp_path / "run", rows_of(open_source(tmp_path / "photos")), 2)
    result = Result.load(tmp_path / "run")
    with open_session(tmp_path / "run", str(tmp_path / "photos"), Silent()) as session:
        object.__setattr__(session.result, "positions", None)
        assert session.points()["positions"] is None
        assert result.positions is not None


def test_paths_are_those_of_a_range(page: Reviewed) -> None:
    assert page.get("paths?start=1&stop=4") == ["001.png", "002.png", "003.png"]
    assert page.get("paths?start=38&stop=99") == ["038.png", "039.png"]
    assert page.get("paths?start=9&stop=3") == page.get("paths?start=99&stop=100") == []
    for query in ("", "start=1", "start=-1&stop=2", "start=x&stop=2", f"start=0&stop={2**31}", "start=1e3&stop=2"):
        assert set(page.get(f"paths?{query}", 400)) == {"error"}


def test_an_error_names_the_parameter_in_one_line(page: Reviewed) -> None:
    error = page.get("paths?start=x&stop=2", 400)["error"]
    assert error == "start: Input should be a valid integer, unable to parse string as an integer"
    assert page.get("no/such", 404) == {"error": "Not Found"}
    assert page.client.delete(f"/{TOKEN}/run").json() == {"error": "Method Not Allowed"}


# Corrections


def test_the_state_at_first_is_the_result(page: Reviewed) -> None:
    state, result = page.get("state"), page.result
    assert labels(state) == result.labels.tolist()
    assert unpacked(state["fixed"], "<u1") == [0] * N
    assert state["sizes"] == [int((result.labels == cluster).sum()) for cluster in range(CLUSTERS)]
    assert [state[name] for name in ("version", "nClusters", "names", "merged", "head", "undo", "redo")] == [
        0, CLUSTERS, {}, {}, "", "", "",
    ]  # fmt: skip


def test_corrections_are_done_undone_and_done_again(page: Reviewed) -> None:
    first = page.get("state")
    named = page.post("act", {"do": "name", "cluster": 1, "name": " Cats "})
    assert (named["names"], named["version"], named["undo"]) == ({"1": "Cats"}, 1, 'name cluster 1 "Cats"')
    moved = page.post("act", {"do": "move", "rows": [2, 5], "to": 3})
    assert [labels(moved)[row] for row in (1, 2, 5)] == [3, 3, 3]  # a copy goes along
    assert [row for row, fixed in enumerate(unpacked(moved["fixed"], "<u1")) if fixed] == [1, 2, 5]
    assert moved["undo"] == "move 2 images to cluster 3"
    gone = page.post("act", {"do": "nowhere", "rows": [6]})
    assert labels(gone)[6] == -2
    back = page.post("undo", {})
    assert (labels(back), back["redo"], back["undo"]) == (labels(moved), "put 1 image nowhere", moved["undo"])
    assert page.post("redo", {}) | {"version": 3} == gone
    for _ in range(3):
        last = page.post("undo", {})
    assert last | {"redo": "", "version": 0} == first
    assert page.post("undo", {}, 400) == {"error": "there is nothing to undo"}


def test_merges_and_splits_keep_the_numbers(page: Reviewed) -> None:
    merged = page.post("act", {"do": "merge", "clusters": [0], "into": 2})
    assert (merged["merged"], merged["sizes"][0], merged["undo"]) == ({"0": 2}, 0, "merge 0 into 2")
    row = labels(merged).index(2)
    split = page.post("act", {"do": "split", "cluster": 2, "rows": [row]})
    assert (split["nClusters"], labels(split)[row], split["undo"]) == (5, 4, "split 1 image off cluster 2")
    assert page.post("act", {"do": "confirm", "rows": [row]})["undo"] == "confirm 1 image"


def test_what_is_no_correction_is_refused_and_changes_nothing(page: Reviewed) -> None:
    before = page.get("state")
    for wrong in (
        {},
        {"do": "drop"},
        {"do": "move", "rows": [0], "to": 1},  # could not be read
        {"do": "move", "rows": [N], "to": 1},
        {"do": "move", "rows": [1.0], "to": 1},
        {"do": "move", "rows": [True], "to": 1},
        {"do": "move", "rows": "1", "to": 1},
        {"do": "move", "rows": [1], "to": CLUSTERS},
        {"do": "move", "rows": [1], "to": 1, "more": 1},
        {"do": "name", "cluster": 0, "name": "\ud800"},
        {"do": "name", "cluster": 10**300, "name": "x"},
        {"do": "\ud800"},
        {"do": "move", "x" * 10_000: 1},
    ):
        answer = page.client.post(
            f"/{TOKEN}/act", content=json.dumps(wrong), headers={"Content-Type": "application/json"}
        )
        assert (answer.status_code, set(answer.json())) == (400, {"error"})
        assert "\n" not in answer.json()["error"]
        assert len(answer.json()["error"]) <= 500
    assert page.get("state") == before
    assert not (page.run / "review/corrections.jsonl").exists()


@pytest.mark.parametrize(
    ("content", "status"),
    [(b"", 400), (b"[]", 400), (b"{", 400), (b'{"a":NaN}', 400), (b"\xff\xfe\x00", 400), (b"[" * 100_000, 400),
     (b'{"cluster":' + b"9" * 5000 + b"}", 400)],
)  # fmt: skip
def test_what_is_no_json_object_is_refused(page: Reviewed, content: bytes, status: int) -> None:
    for path in ("act", "undo", "redo", "split", "export"):
        answer = page.client.post(f"/{TOKEN}/{path}", content=content, headers={"Content-Type": "application/json"})
        assert (answer.status_code, set(answer.json())) == (status, {"error"})


def test_a_form_of_another_page_is_refused(page: Reviewed) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        answer = page.client.post(f"/{TOKEN}/undo", content=b"{}", headers={"Content-Type": kind})
        assert answer.status_code == 415


def test_a_run_is_reviewed_once_at_a_time_and_corrections_last(tmp_path: Path) -> None:
    with reviewed(tmp_path) as page:
        page.post("act", {"do": "name", "cluster": 0, "name": "A"})
        with pytest.raises(RunFolderError, match="is being written by"), open_session(page.run, None, Silent()):
            pass
    with open_session(page.run, None, Silent()) as session:
        assert session.state()["names"] == {"0": "A"}
        assert session.state()["undo"] == 'name cluster 0 "A"'


def test_a_full_disk_loses_no_correction(page: Reviewed, monkeypatch: pytest.MonkeyPatch) -> None:
    page.post("act", {"do": "name", "cluster": 0, "name": "A"})
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    error = page.post("act", {"do": "name", "cluster": 1, "name": "B"}, 409)["error"]
    assert "No space left on device" in error
    monkeypatch.undo()
    assert page.get("state")["names"] == {"0": "A"}
    assert page.post("act", {"do": "name", "cluster": 1, "name": "B"})["names"] == {"0": "A", "1": "B"}


# Embeddings


def test_similar_images_are_the_nearest_by_cosine(page: Reviewed) -> None:
    rows = page.session.embeddings.rows
    vectors = page.session.embeddings.all().astype(np.float32)
    likeness = vectors @ vectors[list(rows).index(7)]
    likeness[list(rows).index(7)] = -2
    order = rows[np.argsort(-likeness)].tolist()
    assert page.get("similar?row=7&k=5") == order[:5]
    assert page.get("similar?row=7&k=1000") == order[:-1]
    assert page.get("similar?row=2&k=9") == page.get("similar?row=1&k=9")  # copies
    assert page.get("similar?row=0", 400) == {"error": "image 0 could not be read"}
    for query in ("row=40", "row=-1", "row=1&k=0", "row=1&k=1001", "", "row=1&k=x"):
        page.get(f"similar?{query}", 400)


def test_a_split_is_shown_and_then_accepted(page: Reviewed) -> None:
    page.post("act", {"do": "merge", "clusters": [0], "into": 1})
    found = page.post("split", {"cluster": 1})
    assert labels(page.get("state")) != page.result.labels.tolist()
    ok = page.session.embeddings.rows
    first, second = (set(ok[page.result.labels[ok] == cluster].tolist()) for cluster in (0, 1))
    assert set(found["rows"]) in (first, second)
    assert 0.5 < found["score"] <= 1
    assert found == page.post("split", {"cluster": 1})
    after = page.post("act", {"do": "split", "cluster": 1, "rows": found["rows"]})
    assert all(labels(after)[row] == CLUSTERS for row in found["rows"])


def test_what_cannot_be_split_says_why(page: Reviewed) -> None:
    ok = list(range(3, N))
    page.post("act", {"do": "move", "rows": ok, "to": 0})
    page.post("act", {"do": "move", "rows": [1], "to": 1})  # and its copy
    assert page.post("split", {"cluster": 1}, 400)["error"] == "cluster 1 has 1 different image: two are needed"
    assert page.post("split", {"cluster": 2}, 400)["error"] == "cluster 2 has 0 different images: two are needed"
    page.post("act", {"do": "move", "rows": [9], "to": 1})
    assert len(page.post("split", {"cluster": 1})["rows"]) == 1
    for wrong in ({}, {"cluster": "1"}, {"cluster": True}, {"cluster": -1}, {"cluster": 4}, {"cluster": 10**300}):
        page.post("split", wrong, 400)


@pytest.mark.parametrize("harm", ["gone", "changed", "others"])
def test_without_embeddings_the_rest_works(tmp_path: Path, harm: str) -> None:
    with reviewed(tmp_path) as page:
        file = page.run / EMBEDDINGS
        if harm == "gone":
            file.unlink()
        elif harm == "changed":
            content = bytearray(file.read_bytes())
            content[-1] ^= 1
            file.write_bytes(content)
        else:
            others = make_run(tmp_path / "other", rows_of(open_source(np.stack([picture(i) for i in range(7)]))), 2)
            file.write_bytes((tmp_path / "other" / EMBEDDINGS).read_bytes())
            page.result.run[RECORDED] = page.session.result.run[RECORDED] = others.run[RECORDED]
        page.post("act", {"do": "move", "rows": [9], "to": 1})
        for answer in (
            page.get("similar?row=3", 409), page.post("split", {"cluster": 1}, 409), page.post("learn", {}, 409),
            page.get("questions", 409),
        ):  # fmt: skip
            assert "embeddings" in answer["error"]
        page.post("act", {"do": "name", "cluster": 0, "name": "A"})
        assert page.sheet("tiles?rows=3").shape == (64, 1024, 3)


# Exports


def test_an_export_holds_the_corrections(page: Reviewed) -> None:
    page.post("act", {"do": "name", "cluster": 1, "name": "Cats"})
    page.post("act", {"do": "nowhere", "rows": [5]})
    page.post("act", {"do": "move", "rows": [6], "to": 1})
    done = page.post("export", {"kind": "folders", "to": "clean"})
    folder = page.run / "review/exports/clean"
    assert done == {"folder": str(folder), "images": N - 2, "left_out": 2}
    assert (folder / "Cats/006.png").read_bytes() == (page.photos / "006.png").read_bytes()
    assert "clean is not empty" in page.post("export", {"kind": "folders", "to": "clean"}, 409)["error"]
    page.post("export", {"kind": "csv", "to": "table"})
    table = (page.run / "review/exports/table/clusters.csv").read_text().splitlines()
    assert "005.png" not in {line[0] for line in csv.reader(table)}


@pytest.mark.parametrize(
    "name", ["../../x", "/etc/x", "..", "a/../../b", "CON", "\0", "a\nb", "\ud800", "~", "-rf", ".hidden", "x" * 5000]
)
def test_an_export_stays_in_its_folder_whatever_its_name(page: Reviewed, name: str) -> None:
    before = sorted(path for path in page.run.parent.rglob("*") if "review" not in path.parts)
    sent = json.dumps({"kind": "csv", "to": name})
    answer = page.client.post(f"/{TOKEN}/export", content=sent, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200
    (made,) = (page.run / "review/exports").iterdir()
    assert Path(answer.json()["folder"]) == made
    assert sorted(path for path in page.run.parent.rglob("*") if "review" not in path.parts) == before


def test_an_export_that_cannot_be_says_why(page: Reviewed) -> None:
    for wrong in (
        {"kind": "onnx", "to": "x"}, {"kind": "folders"}, {"to": "x"}, {"kind": [], "to": "x"},
        {"kind": "csv", "to": 1}, {"kind": "csv", "to": " "},
    ):  # fmt: skip
        assert set(page.post("export", wrong, 400)) == {"error"}
    assert not (page.run / "review/exports").exists()


# Names


def test_two_hundred_hostile_names_are_text(tmp_path: Path) -> None:
    signs = [
        "<img src=x onerror=alert(1)>",
        "</script><script>alert(1)</script>",
        "\u202egnp",
        "a\nb",
        "'\"`;$(x)",
        "&lt;",
    ]
    signs += [
        "{{7*7}}",
        "%00%2e%2e",
        "\x1b[31m",
        "\u2028",
        "javascript:alert(1)",
        "\u0000".replace("\0", "\x01"),
        "é" * 90,
    ]
    photos = tmp_path / "photos"
    photos.mkdir()
    made = [f"{signs[i % len(signs)].replace('/', '_')}{i}.png" for i in range(199)]
    for i, name in enumerate(made):
        Image.fromarray(picture(i)).save(photos / name, format="PNG")
    with open(os.fsencode(photos) + b"/\xff\xfe.png", "wb") as file:
        Image.fromarray(picture(999)).save(file, format="PNG")
    with reviewed(tmp_path, photos) as page:
        answer = page.client.get(f"/{TOKEN}/paths?start=0&stop=200")
        assert answer.headers["content-type"] == "application/json"
        assert answer.content.isascii()
        assert not {0, 7, 10, 13, 27} & set(answer.content)
        assert set(answer.json()) == {*made, "\\xff\\xfe.png"}
        assert page.get("run")["n"] == 200
        assert (page.sheet("tiles?rows=" + ",".join(map(str, range(200))) + "&side=8").std(axis=(0, 1)) > 50).all()
        done = page.post("export", {"kind": "folders", "to": "out"})
        assert (done["images"], done["left_out"]) == (200, 0)
        written = list((page.run / "review/exports/out").rglob("*.png"))
        assert len(written) == 200
        assert all(path.name.isprintable() for path in written)
