"""The report as a file: what is in it, and that nothing in it can do harm. What it shows is for test_report_page.py."""

import base64
import dataclasses
import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import spiceclust
from pictures import picture
from spiceclust.data.sources import open_source
from spiceclust.errors import RunFolderError, SourceError
from spiceclust.locks import locked
from spiceclust.manifest import write_manifest
from spiceclust.outputs.evaluate import evaluate, write_scores
from spiceclust.outputs.report import atlas
from spiceclust.outputs.report.atlas import COLUMNS, PER_ATLAS, Atlas, Tiles, draw_tiles
from spiceclust.outputs.report.cards import BETWEEN, DOUBTFUL, TYPICAL, cards_of
from spiceclust.outputs.report.heat import MOST, Heat, rows_to_heat
from spiceclust.outputs.report.page import SCRIPTS, json_for_html, page, write_report
from spiceclust.outputs.report.story import choices, curves, heads, scores, truth
from spiceclust.progress import Silent
from spiceclust.result import Result

MakeResult = Callable[..., Result]

METRICS = {
    "3-self": {
        "prototypes": {"consistency": [0.9, 0.8], "kept": 0, "partition_score": 4.5},
        "cuts": {"consistency": [0.7, 0.95], "kept": 1, "partition_score": 5.25, "scores": [5.0, 5.25]},
    },
    "4-select": {"prototypes": {"neighbors": 10, "share": 0.5}, "cuts": {"neighbors": 20, "share": 0.625}},
    "5-semi": {"prototypes": {"steps": 9, "used": 0.75}, "cuts": {"steps": 9, "used": 0.875}},
    "guard": {
        "prototypes": {"scores": {"3-self": 4.4, "5-semi": 4.3}, "shipped": "3-self", "agreement": 0.6},
        "cuts": {"scores": {"3-self": 5.1, "5-semi": 5.2}, "shipped": "5-semi", "agreement": 0.9},
        "together": {"prototypes": 5.5, "cuts": 7.25},
    },
    "calibration": {"temperature": 2.0, "confidence_before": 0.99, "confidence_after": 0.95},
    "reliable": {"neighbors": 20, "share": 0.65},
}
RUN = {
    "seed": 7,
    "device": "cpu",
    "clustering": "cuts",
    "shipped": "5-semi",
    "views": "chosen: it is all grey",
    "source": "folder photos, 6 files",
    "seconds": {"1-pretrain": 100.0, "2-embed": 25.0},
    "config": {"method": "spice", "preset": "quick", "encoder": "moco", "backbone": "resnet_small", "views": "glyph"},
}


def grey(n: int, side: int = 8) -> np.ndarray:
    """(n, side, side) uint8, each picture of its own."""
    return np.random.default_rng(0).integers(0, 256, (n, side, side), dtype=np.uint8)


def matched(result: Result, images: np.ndarray) -> Result:
    """The result of a run of these images, which lie in an array: row numbers for paths, and their digests."""
    read = open_source(images).read(range(len(images)), 8)
    rows = [
        dataclasses.replace(row, path=now.path, sha256=now.sha256)
        for row, (now, _) in zip(result.rows, read, strict=True)
    ]
    return dataclasses.replace(result, rows=rows, positions=np.random.default_rng(1).random((len(rows), 2), np.float32))


def written(folder: Path, result: Result, images: np.ndarray | None = None) -> str:
    source = None if images is None else open_source(images)
    return write_report(folder, result, source, missing="" if source else "they are gone").read_text()


def content_of(html: str) -> dict[str, Any]:
    (found,) = re.findall(r'<script type="application/json" id="content">(.*?)</script>', html, re.DOTALL)
    return dict(json.loads(found))


def unpacked(text: str, kind: str) -> list[int]:
    return [int(value) for value in np.frombuffer(base64.b64decode(text), kind)]


class Structure(HTMLParser):
    """The elements of a page with their attributes, and the text of styles and scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.raw: dict[str, str] = {}
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        tag, attributes = self.elements[-1] if self.elements else ("", {})
        if tag in ("style", "script") and "type" not in attributes:
            self.raw[tag] = self.raw.get(tag, "") + data  # it may come in parts

    def handle_endtag(self, tag: str) -> None:
        self.elements.append(("/", {}))


# Heat


def test_maps_of_typical_images_come_with_their_points(make_result: MakeResult, tmp_path: Path) -> None:
    result = make_result([-1, 0, 1, 0], 2)
    maps = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    html = write_report(tmp_path, result, None, heat=Heat([3, 1], maps)).read_text()
    found = content_of(html)["heat"]
    assert (found["side"], found["points"]) == (3, [2, 0])  # the first row is no point
    assert unpacked(found["values"], "<u1") == list(range(18))
    assert content_of(write_report(tmp_path, result, None, heat=Heat([], maps[:0])).read_text())["heat"] is None
    assert content_of(write_report(tmp_path, result, None).read_text())["heat"] is None


def test_the_most_typical_of_every_cluster_come_first_and_large_images_are_few(make_result: MakeResult) -> None:
    result = make_result([i % 5 for i in range(200)], 5)
    rows, cards = rows_to_heat(result, 16), cards_of(result)
    assert rows[:5] == [card.typical[0] for card in cards]
    assert sorted(rows) == sorted(row for card in cards for row in card.typical)
    assert rows_to_heat(result, 512) == rows[:16]
    assert rows_to_heat(result, 4096) == rows[:5]
    assert len(rows_to_heat(make_result([i % 300 for i in range(9000)], 300), 16)) == MOST


# Policy and safety


def test_the_policy_lets_in_what_is_in_the_file_and_nothing_else(make_result: MakeResult, tmp_path: Path) -> None:
    found = Structure(written(tmp_path, matched(make_result([0, 1, 0], 2), grey(3)), grey(3)))
    (policy,) = [a["content"] for tag, a in found.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    parts = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    digests = {
        tag: f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
        for tag, text in found.raw.items()
    }
    assert parts == {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": digests["style"],
        "script-src": digests["script"],
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert [tag for tag, _ in found.elements].count("script") == 2
    names = {name for _, attributes in found.elements for name in attributes}
    assert not {name for name in names if name.startswith("on") or name in ("src", "style", "srcset", "action")}
    assert {a["href"] for _, a in found.elements if "href" in a} == {"#clusters"}


def test_no_address_of_the_network_is_in_the_page(make_result: MakeResult, tmp_path: Path) -> None:
    html = written(tmp_path, matched(make_result([0, 1, 0], 2), grey(3)), grey(3))
    assert not re.search(r"https?:|//[a-z]+\.|@import|\bfetch\(|XMLHttpRequest|WebSocket|sendBeacon", html)


@pytest.mark.parametrize("name", [*SCRIPTS, "page.css", "page.html"])
def test_the_parts_of_the_page_can_stand_in_it(name: str) -> None:
    text = files("spiceclust.outputs.report").joinpath(name).read_text("utf-8")
    assert not re.search(r"</(script|style)|<!--", text) or name == "page.html"
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", text)


HOSTILE = [
    "</script><img src=x onerror=alert(1)>.png",
    "<!--<script>.png",
    "]]><svg onload=alert(1)>",
    "${alert(1)}`.png",
    "'\"><b>&lt;&amp;.png",
    "\u202egnp.exe",
    "line\u2028\u2029\nbreak\r\t.png",
    "\x00\x1b[31m.png",
    "http://evil.example/a.png",
    "__proto__",
    "a" * 4000,
    "\U0001f4a9 é.png",
]


def test_names_are_text_and_nothing_more(make_result: MakeResult, tmp_path: Path) -> None:
    names = [f"{i}{HOSTILE[i % len(HOSTILE)]}" for i in range(200)]
    result = make_result([i % 3 - (i % 50 == 0) for i in range(200)], 3)
    rows = [dataclasses.replace(row, path=name, reason=name) for row, name in zip(result.rows, names, strict=True)]
    run = {**RUN, "source": HOSTILE[0], "warnings": HOSTILE, "views": HOSTILE[1]}
    metrics = {**METRICS, "acc": 0.5, "match": {"0": HOSTILE[0]}, "confusion": {"0": {HOSTILE[0]: 3, HOSTILE[1]: 1}}}
    hostile = dataclasses.replace(result, rows=rows, run=run, metrics=metrics)
    plain = written(tmp_path, dataclasses.replace(result, run=RUN))
    folder = tmp_path / "<script>alert(1)<"
    folder.mkdir()
    html = written(folder, hostile)
    assert Structure(html).elements == Structure(plain).elements
    content = content_of(html)
    clustered = [name for name, label in zip(names, result.labels, strict=True) if label >= 0]
    assert content["points"]["paths"] == clustered
    assert content["quarantined"]["files"] == [
        [name, name] for name, label in zip(names, result.labels, strict=True) if label < 0
    ]
    assert content["warnings"] == HOSTILE


def test_json_in_html_reads_back_and_ends_nothing() -> None:
    values = {"<a>": HOSTILE, "n": [1, 0.5, None, True]}
    text = json_for_html(values)
    assert json.loads(text) == values
    assert not set(text) & set("<>&\u2028\u2029\n")
    with pytest.raises(ValueError, match="JSON"):
        json_for_html([float("nan")])


def test_a_title_is_escaped() -> None:
    assert "<title>&lt;/title&gt;&lt;b&gt; $content · spiceclust</title>" in page("</title><b> $content", {})


# What is in it


def test_counts_quarantine_and_warnings(make_result: MakeResult, tmp_path: Path) -> None:
    result = make_result([0, 0, -1, 2, 0], 4, reliable=[True, False, False, True, True], status={4: "duplicate"})
    content = content_of(written(tmp_path, dataclasses.replace(result, run={**RUN, "warnings": ["look out"]})))
    counts = {"images": 4, "clusters": 4, "empty": 2, "reliable": 3, "duplicates": 1, "quarantined": 1}
    assert content["counts"] == counts
    assert content["quarantined"] == {"reasons": [["empty file", 1]], "others": 0, "files": [["2.png", "empty file"]]}
    assert content["warnings"] == ["look out"]
    assert content["source"] == "folder photos, 6 files"
    assert content["missing"] == "they are gone"
    assert content["points"]["positions"] is None
    assert [cluster["size"] for cluster in content["clusters"]] == [3, 0, 1, 0]


def test_points_are_the_clustered_rows_in_order(make_result: MakeResult, tmp_path: Path) -> None:
    made = make_result([1, -1, 0, 1], 3, confidence=[0.5, 0, 1, 0.75], reliable=[True, False, False, True])
    places = np.array([[-1, 0], [9, 9], [3, 1], [1, 0.5]], dtype=np.float32)
    content = content_of(written(tmp_path, dataclasses.replace(made, positions=places)))
    points = content["points"]
    assert points["paths"] == ["0.png", "2.png", "3.png"]
    assert unpacked(points["labels"], "<u2") == [1, 0, 1]
    assert unpacked(points["runnersUp"], "<u2") == [0, 1, 0]
    assert unpacked(points["confidence"], "<u2") == [32768, 65535, 49151]
    assert unpacked(points["reliable"], "<u1") == [1, 0, 1]
    assert unpacked(content["tiles"], "<i4") == [-1, -1, -1]
    # the x axis is the longer one, 4 long, and fills the map; y keeps its scale, in the middle
    assert unpacked(points["positions"], "<u2") == [0, 24576, 65535, 40959, 32768, 32768]
    shown = {number for cluster in content["clusters"] for number in cluster["typical"] + cluster["doubtful"]}
    assert shown == {0, 1, 2}


def test_images_that_lie_on_one_point_are_no_division_by_zero(make_result: MakeResult, tmp_path: Path) -> None:
    result = dataclasses.replace(make_result([0, 1], 2), positions=np.ones((2, 2), np.float32))
    assert unpacked(content_of(written(tmp_path, result))["points"]["positions"], "<u2") == [32768] * 4


def test_only_evaluate_brings_true_labels(make_result: MakeResult, tmp_path: Path) -> None:
    result = make_result([1, 1, 0, 2, 0, 2], 4)
    write_manifest(tmp_path, result.rows)
    result.save(tmp_path)
    assert content_of(written(tmp_path, Result.load(tmp_path)))["truth"] is None
    classes = {f"{i}.png": name for i, name in enumerate(["2", "2", "10", "10", "10", "9"])}
    write_scores(tmp_path, result, *evaluate(result, classes))
    found = content_of(written(tmp_path, Result.load(tmp_path)))["truth"]
    assert found["classes"] == ["2", "9", "10"]
    assert found["scores"]["acc"] == pytest.approx(5 / 6)
    assert found["rows"] == [
        {"cluster": 1, "match": 0, "counts": {"0": 2}},
        {"cluster": 2, "match": 1, "counts": {"1": 1, "2": 1}},
        {"cluster": 0, "match": 2, "counts": {"2": 2}},
    ]


def test_clusters_without_a_class_come_last_and_old_scores_have_no_counts(make_result: MakeResult) -> None:
    metrics = {"acc": 1.0, "match": {"0": "a"}, "confusion": {"1": {"a": 1}, "0": {"a": 2}}}
    found = truth(dataclasses.replace(make_result([0, 1], 2), metrics=metrics))
    assert found is not None
    assert [(row["cluster"], row["match"]) for row in found["rows"]] == [(0, 0), (1, None)]
    old = truth(dataclasses.replace(make_result([0, 1], 2), metrics={"acc": 1.0, "match": {"0": "a"}}))
    assert old is not None
    assert (old["rows"], old["classes"]) == ([], [])


# Cards


def test_cards_are_their_slow_twins(make_result: MakeResult) -> None:
    n, n_clusters, numbers = 240, 4, np.random.default_rng(3)
    labels = numbers.integers(0, n_clusters, n)
    copies = dict.fromkeys(range(0, n, 5), "duplicate")
    made = make_result(labels, n_clusters, reliable=numbers.random(n) < 0.6, status=copies)
    probabilities = numbers.dirichlet(np.ones(n_clusters), n).astype(np.float32)
    probabilities[np.arange(n), labels] += 1
    result = dataclasses.replace(made, probabilities=probabilities / 2)
    for cluster, card in enumerate(cards_of(result)):
        members = [i for i in range(n) if labels[i] == cluster]
        assert card.size == len(members)
        assert card.reliable == pytest.approx(sum(result.reliable[i] for i in members) / len(members))
        assert card.confidence == pytest.approx(sum(result.confidence[i] for i in members) / len(members), rel=1e-5)
        masses = [sum(float(result.probabilities[i, other]) for i in members) for other in range(n_clusters)]
        nearest = max((c for c in range(n_clusters) if c != cluster), key=lambda c: masses[c])
        assert card.nearest == nearest
        hesitant = []
        for i in range(n):
            first, second = sorted(range(n_clusters), key=lambda c: -result.probabilities[i, c])[:2]
            torn = {first, second} == {cluster, nearest} and result.probabilities[i, second] >= 0.1
            if torn and i not in (*copies, *card.typical, *card.doubtful):
                hesitant.append((float(result.probabilities[i, first] - result.probabilities[i, second]), i))
        assert card.between == [i for _, i in sorted(hesitant)[:BETWEEN]]
        assert (len(card.typical), len(card.doubtful)) == (TYPICAL, DOUBTFUL)
        assert not copies.keys() & {*card.typical, *card.doubtful, *card.between}


def test_only_images_that_hesitate_are_between_two_clusters(make_result: MakeResult) -> None:
    sure = [0.95] * 30 + [0.55] * 12 + [0.85] * 3 + [0.92] * 10  # the doubtful, then those that hesitate less
    one, other = cards_of(make_result([0] * 55 + [1], 2, confidence=[*sure, 1], typicality=[1.0] * 56))
    assert (one.doubtful, one.between) == ([*range(30, 38)], [*range(38, 45)])
    assert (other.nearest, other.between) == (None, [])


def test_an_empty_cluster_and_one_without_a_neighbour_have_cards(make_result: MakeResult) -> None:
    full, empty = cards_of(make_result([0, 0, -1], 2, confidence=[1, 1, 0]))
    assert (full.size, full.nearest, full.between) == (2, None, [])
    assert empty == (0, None, None, [], [], None, [])


# Tiles


def tile_of(tiles: Tiles, digest: str) -> np.ndarray:
    sheet, number = divmod(tiles.places[digest], PER_ATLAS)
    side, content = tiles.atlases[sheet]
    y, x = divmod(number, COLUMNS)
    with Image.open(io.BytesIO(content)) as opened:
        assert (opened.format, opened.width) == ("WEBP", COLUMNS * side)
        return np.asarray(opened)[y * side : (y + 1) * side, x * side : (x + 1) * side]


def drawn(
    images: np.ndarray, first: Sequence[int], then: Sequence[int] = (), budget: int = 10**7
) -> tuple[Tiles, list[str]]:
    source = open_source(images)
    rows = [row for row, _ in source.read(range(len(images)), 8)]
    return draw_tiles(source, rows, list(first), list(then), budget, Silent()), [row.sha256 for row in rows]


def test_the_pixels_of_tiny_pictures_are_kept() -> None:
    images = grey(300)
    tiles, digests = drawn(images, range(300))
    assert [sheet.side for sheet in tiles.atlases] == [8, 8]
    for i in (0, 255, 256, 299):
        np.testing.assert_array_equal(tile_of(tiles, digests[i]), np.repeat(images[i][..., None], 3, axis=2))


def test_a_large_picture_is_its_centre_square_made_small(tmp_path: Path) -> None:
    wide = np.zeros((120, 200, 3), np.uint8)
    wide[:, :40], wide[:, 40:160], wide[:, 160:] = (255, 0, 0), (0, 200, 0), (0, 0, 255)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    source = open_source(tmp_path)
    rows = [source.read(range(1), 8)[0][0]]
    tile = tile_of(draw_tiles(source, rows, [0], [], 10**7, Silent()), rows[0].sha256).astype(int)
    assert tile.shape == (96, 96, 3)
    assert np.abs(tile[8:-8, 8:-8] - (0, 200, 0)).max() < 12


def test_cards_get_large_tiles_first_and_the_rest_small_ones_when_there_are_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(atlas, "MOST_LARGE", 20)
    images = np.stack([picture(i, 100, 100) for i in range(30)])
    tiles, digests = drawn(images, range(5), range(5, 30))
    assert [sheet.side for sheet in tiles.atlases] == [96, 48]
    assert [tiles.places[digest] < PER_ATLAS for digest in digests] == [True] * 5 + [False] * 25
    assert [sheet.side for sheet in drawn(images, range(5), range(5, 20))[0].atlases] == [96, 96]
    monkeypatch.setattr(atlas, "MOST", 12)
    assert len(drawn(images, range(5), range(5, 30))[0].places) == 12


def test_the_budget_ends_the_tiles() -> None:
    whole, _ = drawn(grey(1000), range(1000))
    sizes = [len(sheet.content) for sheet in whole.atlases]
    assert len(sizes) == 4
    tiles, digests = drawn(grey(1000), range(1000), budget=sum(sizes[:2]))
    assert tiles.atlases == whole.atlases[:2]
    assert set(tiles.places) == set(digests[: 2 * PER_ATLAS])


def test_what_changed_or_is_gone_has_no_tile_and_a_copy_shares_one(tmp_path: Path) -> None:
    for i in range(4):
        Image.fromarray(picture(i)).save(tmp_path / f"{i}.png")
    (tmp_path / "4.png").write_bytes((tmp_path / "0.png").read_bytes())
    source = open_source(tmp_path)
    rows = [row for row, _ in source.read(range(5), 8)]
    (tmp_path / "1.png").unlink()
    (tmp_path / "2.png").write_bytes((tmp_path / "3.png").read_bytes())
    for now in (source, open_source(tmp_path)):
        tiles = draw_tiles(now, rows, [0, 1, 2, 3], [], 10**7, Silent())
        assert set(tiles.places) == {rows[0].sha256, rows[3].sha256}
        assert rows[4].sha256 in tiles.places
        assert tiles.gone == {rows[1].sha256, rows[2].sha256}
    nothing = open_source(np.zeros((2, 8, 8), np.uint8))
    gone = {row.sha256 for row in rows[:3]}
    assert draw_tiles(nothing, rows, [0, 1], [2], 10**7, Silent()) == Tiles([], {}, gone)


def test_ten_thousand_images_stay_under_fifteen_megabytes(make_result: MakeResult, tmp_path: Path) -> None:
    n = 10_000
    images = np.random.default_rng(0).integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)  # nothing is larger than noise
    result = matched(make_result(np.arange(n) % 10, 10), images)
    html = written(tmp_path, result, images)
    content = content_of(html)
    assert len(html) < 15e6
    assert len(html) > 11e6  # the room is used
    places = unpacked(content["tiles"], "<i4")
    shown = {i for cluster in content["clusters"] for i in (*cluster["typical"], *cluster["doubtful"])}
    assert len(shown) == 10 * (TYPICAL + DOUBTFUL)
    assert all(places[i] >= 0 for i in shown)
    assert len(content["points"]["paths"]) == n


def test_long_names_leave_the_pictures_less_room(make_result: MakeResult, tmp_path: Path) -> None:
    n = 6000
    images = np.random.default_rng(0).integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
    made = matched(make_result(np.arange(n) % 10, 10), images)
    source = open_source(images)
    names = [f"{'é' * 180}{i}" for i in range(n)]
    rows = [dataclasses.replace(row, path=name) for row, name in zip(made.rows, names, strict=True)]
    path = write_report(tmp_path, dataclasses.replace(made, rows=rows), dataclasses.replace(source, paths=names))
    content = content_of(path.read_text())
    assert 14e6 < path.stat().st_size < 15e6
    assert content["without"] == {"gone": 0, "room": unpacked(content["tiles"], "<i4").count(-1)}
    assert content["without"]["room"] > 0


def test_of_many_clusters_each_gets_a_picture_before_one_gets_its_second(
    make_result: MakeResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atlas, "MOST", 60)
    result = matched(make_result(np.arange(400) % 40, 40), grey(400))
    content = content_of(written(tmp_path, result, grey(400)))
    places = unpacked(content["tiles"], "<i4")
    shown = [[places[point] >= 0 for point in cluster["typical"][:2]] for cluster in content["clusters"]]
    assert shown == [[True, number < 20] for number in range(40)]
    assert content["without"] == {"gone": 0, "room": 340}


def test_of_very_many_files_that_were_not_read_the_page_holds_the_first(
    make_result: MakeResult, tmp_path: Path
) -> None:
    made = make_result([0, 0, *[-1] * 3000], 1)
    rows = [dataclasses.replace(row, reason=f"why {i % 7 if i < 2000 else i}") for i, row in enumerate(made.rows)]
    told = content_of(written(tmp_path, dataclasses.replace(made, rows=rows)))["quarantined"]
    assert (len(told["files"]), told["files"][0], len(told["reasons"])) == (1000, ["2.png", "why 2"], 20)
    assert told["reasons"][0] == ["why 2", 286]
    assert told["others"] == 7 + 1002 - 20


def test_sources_are_read_in_their_order_and_nothing_stays_alive(tmp_path: Path) -> None:
    for i in range(40):
        Image.fromarray(picture(i)).save(tmp_path / f"{i:02}.png")
    source = open_source(tmp_path, workers=1)
    rows = [row for row, _ in source.read(range(40), 8)]
    places: list[int] = []

    class Watched(type(source)):  # type: ignore[misc]
        def read(self, part: range, size: int) -> Any:
            places.append(part.start)
            return super().read(part, size)

    watched = Watched(**{field.name: getattr(source, field.name) for field in dataclasses.fields(source)})
    order = np.random.default_rng(0).permutation(40).tolist()
    assert len(draw_tiles(watched, rows, order[:20], order[20:], 10**7, Silent()).places) == 40
    assert max(abs(place - i) for i, place in enumerate(places)) <= 2  # as many threads read at once
    assert source.decoder._idle == []


def test_a_run_folder_may_have_any_name(make_result: MakeResult, tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/run\xff"))
    folder.mkdir()
    html = written(folder, make_result([0, 1], 2))
    assert "<title>run\\xff · spiceclust</title>" in html
    assert content_of(html)["name"] == "run\\xff"


def test_the_same_run_gives_the_same_bytes(make_result: MakeResult, tmp_path: Path) -> None:
    result = matched(make_result([0, 1] * 200, 2), grey(400))
    assert written(tmp_path, result, grey(400)) == written(tmp_path, result, grey(400))


# How it was made


def test_the_choices_are_told_with_their_reasons(make_result: MakeResult) -> None:
    told = dict(choices(dataclasses.replace(make_result([0, 1], 2), run=RUN, metrics=METRICS)))
    assert told["Views"] == "glyph, chosen: it is all grey"
    assert told["Clustering"].startswith("cuts of the neighbour graph (7.25), ahead of prototypes")
    assert "(5.50)" in told["Clustering"]
    assert told["What ships"] == (
        "the classifier retrained in stage 5: neighbours give its labels 5.20, and those of the other 5.10"
    )
    assert told["Reliable"].startswith("65% of the images: their 20 nearest")
    assert told["Confidence"] == "0.95 on average, 0.99 before it was calibrated (temperature 2.00)"
    assert told["Run"] == "method spice, preset quick, seed 7, on cpu, stages took 2:05"


def test_the_scores_are_those_of_the_stages(make_result: MakeResult) -> None:
    result = dataclasses.replace(make_result([0, 1], 2), run=RUN, metrics=METRICS)
    found = scores(result)
    assert (len(found["columns"]), found["shipped"]) == (2, 1)
    rows = {what: texts for _, what, texts in found["rows"]}
    assert rows["neighbours together, clusters even"] == ["4.50", "5.25"]
    assert rows["neighbours that agree, kept head"] == ["90.0%", "95.0%"]
    assert rows["reliable images"] == ["50.0%", "62.5%"]
    assert rows["unlabelled images that teach in the end"] == ["75.0%", "87.5%"]
    assert rows["labels of stage 5, judged by neighbours"] == ["4.30", "5.20"]
    assert rows["all of it together"] == ["5.50", "7.25"]
    assert [(head["values"], head["kept"]) for head in heads(result)] == [([0.9, 0.8], 0), ([0.7, 0.95], 1)]


def test_embeddings_skip_a_stage_and_the_story_says_why(make_result: MakeResult) -> None:
    config = {**RUN["config"], "encoder": "embeddings:e.npy"}  # type: ignore[dict-item]
    run = {
        **RUN,
        "views": "none: of embeddings",
        "config": config,
        "skipped": {"5-semi": "skipped: no views"},
        "shipped": "3-self",
    }
    metrics = {**METRICS, "5-semi": {}}
    told = dict(choices(dataclasses.replace(make_result([0, 1], 2), run=run, metrics=metrics)))
    assert told["Features"] == "given as embeddings:e.npy"
    assert told["Views"] == "none: of embeddings"
    assert told["What ships"] == "the head of stage 3; stage 5 skipped: no views"


def test_no_clustering_is_ahead_of_its_equal(make_result: MakeResult) -> None:
    together = {"prototypes": 7.249, "cuts": 7.25, "neighbors": 5.0}
    result = dataclasses.replace(make_result([0, 1], 2), run=RUN, metrics={"guard": {"together": together}})
    assert dict(choices(result))["Clustering"].startswith(
        "cuts of the neighbour graph (7.25), level with prototypes with equal quotas (7.25), "
        "ahead of neighbours that belong together (5.00): "
    )


@pytest.mark.parametrize(
    "metrics",
    [
        {"3-self": {"consistency": [0.9, 0.8], "kept": 0, "steps": 5}, "5-semi": {"loss": 0.5}, "calibration": None},
        dict(zip(METRICS, [None, 3, "x", [1], 0.5, None], strict=True)),
        {"3-self": {"cuts": None}, "guard": {"cuts": 1, "together": None}, "acc": 0.5, "match": None},
    ],
)
def test_old_and_odd_runs_have_a_report(metrics: dict[str, Any], make_result: MakeResult, tmp_path: Path) -> None:
    odd = {**RUN, "versions": None, "seconds": None, "skipped": None}
    content = content_of(written(tmp_path, dataclasses.replace(make_result([0, 1], 2), run=odd, metrics=metrics)))
    assert (content["heads"], content["scores"]["rows"]) == ([], [])
    assert dict(content["choices"])["Views"] == "glyph, chosen: it is all grey"


def test_a_run_that_says_nothing_has_a_report(make_result: MakeResult, tmp_path: Path) -> None:
    silent = dataclasses.replace(make_result([0, 1, -1], 2), run={}, metrics={})
    content = content_of(written(tmp_path, silent))
    assert (content["choices"], content["scores"]["rows"], content["heads"]) == ([], [], [])
    assert (content["curves"], content["truth"], content["source"]) == ([], None, "")


def test_the_curves_are_those_in_the_stages_folders(tmp_path: Path) -> None:
    for stage, facts in {
        "1-pretrain": {"steps": 3, "loss": [3.0, 2.0]},
        "3-self": {"prototypes": {"loss": [1.0], "kept": 2}, "cuts": {"kept": 1}},
        "5-semi": {"cuts": {"loss": [0.5, 0.25]}},
    }.items():
        (tmp_path / stage).mkdir()
        (tmp_path / stage / "facts.json").write_text(json.dumps(facts))
    (tmp_path / "2-embed").mkdir()
    (tmp_path / "2-embed" / "facts.json").write_text("damaged")
    assert [(each["stage"][0], each["name"], each["values"]) for each in curves(tmp_path)] == [
        ("1", "", [3.0, 2.0]),
        ("3", "prototypes with equal quotas", [1.0]),
        ("5", "cuts of the neighbour graph", [0.5, 0.25]),
    ]


# Given later


def save(result: Result, folder: Path) -> Path:
    folder.mkdir()
    write_manifest(folder, result.rows)
    result.save(folder)
    return folder


def test_the_pictures_are_found_again_and_where_they_are_not_the_page_says_so(
    make_result: MakeResult, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(6):
        Image.fromarray(picture(i)).save(photos / f"{i}.png")
    source = open_source(photos)
    rows = [row for row, _ in source.read(range(6), 8)]
    run = {**RUN, "source": source.description, "source_root": source.root}
    made = save(dataclasses.replace(make_result([0, 1] * 3, 2), rows=rows, run=run), tmp_path / "run")
    path = spiceclust.report(str(made))
    assert path == made / "report.html"
    found = content_of(path.read_text())
    assert (found["missing"], len(found["atlases"]["sheets"])) == ("", 1)
    photos.rename(tmp_path / "elsewhere")
    found = content_of(spiceclust.report(made).read_text())
    assert "give them again, with --source" in found["missing"]
    assert found["atlases"]["sheets"] == []
    assert found["points"]["paths"] == [f"{i}.png" for i in range(6)]
    found = content_of(spiceclust.report(made, source=tmp_path / "elsewhere").read_text())
    assert (found["missing"], len(found["atlases"]["sheets"])) == ("", 1)
    with pytest.raises(SourceError, match="cannot be opened"):
        spiceclust.report(made, source=photos)
    with pytest.raises(RunFolderError, match="not a run folder"):
        spiceclust.report(tmp_path)


def test_no_page_is_written_while_another_process_writes_there(make_result: MakeResult, tmp_path: Path) -> None:
    made = save(make_result([0, 1], 2), tmp_path / "run")
    with locked(made, Silent()), pytest.raises(RunFolderError, match="is being written by process"):
        spiceclust.report(made)
    assert not (made / "report.html").exists()
    assert spiceclust.report(made).exists()


def test_built_in_digits_are_opened_again(make_result: MakeResult, tmp_path: Path) -> None:
    digits = open_source("builtin:digits")
    read = [row for row, _ in digits.read(range(20), 8)]
    rows = [*read, *(dataclasses.replace(read[0], path=str(i), sha256=f"{i:064x}") for i in range(20, 1797))]
    result = dataclasses.replace(
        make_result([0, 1, 2] * 599, 3),
        rows=rows,
        run={**RUN, "source": digits.description, "source_root": digits.root},
    )
    found = content_of(spiceclust.report(save(result, tmp_path / "run")).read_text())
    assert found["missing"] == ""
    assert [place >= 0 for place in unpacked(found["tiles"], "<i4")] == [True] * 20 + [False] * 1777


def test_atlases_are_told_to_the_page_with_their_sides(make_result: MakeResult, tmp_path: Path) -> None:
    content = content_of(written(tmp_path, matched(make_result([0, 1], 2), grey(2)), grey(2)))
    (sheet,) = content["atlases"]["sheets"]
    assert (sheet["side"], content["atlases"]["columns"], content["atlases"]["perAtlas"]) == (8, COLUMNS, PER_ATLAS)
    tiles = Tiles([Atlas(8, base64.b64decode(sheet["image"]))], {"first": 0}, set())
    np.testing.assert_array_equal(tile_of(tiles, "first")[..., 0], grey(2)[0])
