"""The review page in a browser, from a real server: what a person does with keys and mouse, and what comes of it."""

import csv
import json
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import uvicorn
from _review.runs import make_run, rows_of
from PIL import Image

from browser import BINARY, Page, chromium
from spiceclust.data.sources import open_source
from spiceclust.models.encoders import build_encoder
from spiceclust.models.heads import Classifier, build_head
from spiceclust.progress import Silent
from spiceclust.review import learning
from spiceclust.review.serve import make_app
from spiceclust.review.session import open_session
from spiceclust.shipped import save_model

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(BINARY is None, reason="there is no Chromium on this machine"),
]

N, CLUSTERS = 60, 4
HARMFUL = "<img src=x onerror=harm()>.png"


@dataclass(frozen=True)
class Review:
    """A page with its server, and the run under review."""

    page: Page
    run: Path
    url: str

    def log(self) -> list[dict[str, Any]]:
        """The corrections, as the log has them, without its first line."""
        path = self.run / "review/corrections.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()[1:]] if path.exists() else []

    def labels(self) -> list[int]:
        return list(self.page.js("[...store.labels]"))

    def told(self, text: str) -> None:
        """Waits until the page says something."""
        self.page.until(f"document.getElementById('told').textContent.includes({text!r})")

    def closed(self) -> None:
        """Waits until no dialog is open."""
        self.page.until("!document.querySelector('dialog')")

    def rows(self) -> list[int]:
        return list(self.page.js("[...grid.rows]"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    with chromium() as found:
        yield found


@contextmanager
def serving(run: Path) -> Iterator[str]:
    """The address of a review of a run, served by a thread."""
    import socket

    with closing(socket.create_server(("127.0.0.1", 0))) as listening, open_session(run, None, Silent()) as session:
        port, token = listening.getsockname()[1], "token"
        config = uvicorn.Config(make_app(session, token, port), lifespan="off", log_level="error", ws="none")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{port}/{token}/"
        finally:
            server.should_exit = True
            server.force_exit = True
            thread.join()


def make_images(folder: Path) -> None:
    """Pictures of one colour each; number 5 is a copy of 4, 6 cannot be read, 7 has the name of an attack."""
    folder.mkdir()
    for i in range(N):
        name = HARMFUL if i == 7 else f"{i:03}.png"
        colour = ((37 * i) % 256, (101 * i) % 256, (7 * i) % 256)
        Image.new("RGB", (16, 16), colour).save(folder / name)
    (folder / "005.png").write_bytes((folder / "004.png").read_bytes())
    (folder / "006.png").write_bytes(b"no picture")


@pytest.fixture
def review(browser: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Review]:
    monkeypatch.setattr(learning, "STEPS", 20)
    photos, run = tmp_path / "photos", tmp_path / "run"
    make_images(photos)
    make_run(run, rows_of(open_source(photos)), CLUSTERS, root=str(photos))
    with serving(run) as url:
        browser.view(1280, 800)
        browser.open(url)
        yield Review(browser, run, url)
        harmless = [text for text in browser.complaints() if " 400 (Bad Request)" not in text]
        assert harmless == []
        asked = [
            event["params"]["request"]["url"]
            for event in browser.events
            if event.get("method") == "Network.requestWillBeSent"
        ]
        assert all(address.startswith((url, "data:", "blob:")) for address in asked), asked
        browser.send("Page.navigate", url="about:blank")


def drawn(page: Page, place: int) -> list[int]:
    """The colour in the middle of a picture of the grid."""
    page.until(f"grid.cells.get({place}) && !grid.cells.get({place}).firstChild.hidden")
    canvas = f"grid.cells.get({place}).firstChild"
    return list(page.js(f"[...{canvas}.getContext('2d').getImageData({canvas}.width / 2, 9, 1, 1).data].slice(0, 3)"))


def colour_of(review: Review, row: int) -> list[int]:
    path = json.loads(review.page.js("api.get('paths?start=0&stop=100').then(JSON.stringify)"))[row]
    with Image.open(review.run.parent / "photos" / path) as image:
        return list(image.convert("RGB").getpixel((0, 0)))  # type: ignore[arg-type]


def test_it_shows_the_clusters_and_the_images_of_one(review: Review) -> None:
    page, labels = review.page, review.labels()
    sizes = [labels.count(cluster) for cluster in range(CLUSTERS)]
    numbers = page.js("[...document.querySelectorAll('#clusters .number')].map(e => Number(e.textContent))")
    assert numbers == [N - 1, *sizes]
    assert page.js("document.querySelector('#view-title').textContent") == "Cluster 0"
    assert sorted(review.rows()) == [row for row, label in enumerate(labels) if label == 0]
    confidence = page.js("[...grid.rows].map(row => 2 * store.reliable[row] + store.confidence(row))")
    assert confidence == sorted(confidence)
    for place in (0, 3):
        np.testing.assert_allclose(drawn(page, place), colour_of(review, review.rows()[place]), atol=12)
    page.click(".entry[data-cluster='2']")
    assert sorted(review.rows()) == [row for row, label in enumerate(labels) if label == 2]
    page.press("]")
    assert page.js("view.cluster") == 3


def test_every_control_has_a_name(review: Review) -> None:
    page = review.page
    page.until("[...grid.cells.values()].every(cell => cell.hasAttribute('aria-label'))")
    tree = page.send("Accessibility.getFullAXTree")["nodes"]
    controls = {"button", "listbox", "option", "combobox", "slider", "textbox", "link", "toolbar", "navigation"}
    nameless = [
        node["role"]["value"]
        for node in tree
        if not node.get("ignored") and node.get("role", {}).get("value") in controls and not node["name"].get("value")
    ]
    assert nameless == []


def test_a_name_of_a_file_stays_text(review: Review) -> None:
    page, row = review.page, 0
    paths = json.loads(page.js("api.get('paths?start=0&stop=100').then(JSON.stringify)"))
    row = paths.index(HARMFUL)
    page.js(f"showCluster(store.labels[{row}]); moveTo(grid, grid.rows.indexOf({row})); openImage({row})")
    page.until(f"document.querySelector('dialog .dialog-title').textContent === {HARMFUL!r}")
    assert page.js("document.querySelectorAll('dialog .dialog-title img').length") == 0
    name = "<b onclick=harm()>"
    page.press("Escape")
    review.closed()
    page.press("n")
    page.type(name)
    page.press("Enter")
    review.told(name)
    assert name in page.js("document.querySelector('#clusters').textContent")
    assert page.js("document.querySelectorAll('#clusters b, #view-title b, #told b').length") == 0


def test_clicks_and_arrow_keys_select(review: Review) -> None:
    page, rows = review.page, review.rows()
    assert len(rows) > 8
    page.click(".cell[data-place='1']")
    assert page.js("grid.chosen()") == [rows[1]]
    page.click(".cell[data-place='4']", "Shift")
    assert page.js("grid.chosen()") == rows[1:5]
    page.click(".cell[data-place='2']", "Control")
    assert page.js("grid.chosen()") == [rows[1], rows[3], rows[4]]
    assert page.js("document.querySelectorAll('.cell[aria-selected=true]').length") == 3
    page.press("ArrowRight")
    assert page.js("grid.chosen()") == [rows[3]]
    page.press("End")
    assert page.js("grid.chosen()") == [rows[-1]]
    page.press("Home", "Shift")
    assert page.js("grid.chosen()") == rows
    page.press("Escape")
    page.press("ArrowRight", "Control")
    page.press(" ")
    assert page.js("grid.chosen()") == [rows[1]]
    page.press("a", "Control")
    assert page.js("grid.chosen()") == rows
    assert page.js("document.getElementById('selected').textContent") == f"{len(rows)} selected"


def test_name_merge_and_undo_by_keys(review: Review) -> None:
    page, before = review.page, review.labels()
    page.press("F2")
    page.type("Apples")
    page.press("Enter")
    review.told("Apples")
    assert page.js("document.querySelector('#view-title').textContent") == "Apples"
    page.press("m")
    page.type("3")
    page.press("Enter")
    review.told("Merged Apples into Cluster 3.")
    assert review.labels() == [3 if label == 0 else label for label in before]
    assert page.js("view.cluster") == 3
    assert page.js("document.querySelectorAll('.entry').length") == CLUSTERS
    page.press("z", "Control")
    review.told("Undone: merge")
    assert review.labels() == before
    page.press("z", "Control", "Shift")
    review.told("Done again: merge")
    assert review.labels()[before.index(0)] == 3
    page.click("#history button")
    review.told("Undone: merge")
    assert [line["do"] for line in review.log()] == ["name", "merge", "undo", "redo", "undo"]


def test_a_name_that_is_taken_is_refused_in_words(review: Review) -> None:
    page = review.page
    for cluster in (0, 1):
        page.js(f"showCluster({cluster})")
        page.press("n")
        page.type("Pears")
        page.press("Enter")
        if not cluster:
            review.closed()
    page.until("document.querySelector('dialog .complaint')")
    assert "Pears" in page.js("document.querySelector('.complaint').textContent")
    page.press("Escape")
    assert len(review.log()) == 1


def test_moved_images_go_and_copies_with_them(review: Review) -> None:
    page = review.page
    page.click(".cell[data-place='0']")
    first, second = review.rows()[:2]
    page.press("2")
    review.told("Moved 1 image to Cluster 2.")
    assert review.labels()[first] == 2
    assert page.js("grid.chosen()") == [second]  # the next one, for the next key
    page.press("v")
    page.until("document.querySelectorAll('#choices li').length === 3")
    page.type("cluster 1")
    page.press("Enter")
    review.told("Moved 1 image to Cluster 1.")
    assert review.labels()[second] == 1
    copy, original = 5, 4
    page.js(f"showCluster(store.labels[{original}]); moveTo(grid, grid.rows.indexOf({original}))")
    target = (review.labels()[original] + 1) % CLUSTERS
    page.js("grid.element.focus()")
    page.press(str(target))
    page.until(f"store.labels[{original}] === {target}")
    assert review.labels()[copy] == target


def test_nowhere_and_right_as_it_is(review: Review) -> None:
    page, rows = review.page, review.rows()
    page.click(".cell[data-place='0']")
    page.press("ArrowRight", "Shift")
    page.press("x")
    review.told("2 images belong nowhere.")
    assert [review.labels()[row] for row in rows[:2]] == [-2, -2]
    assert rows[0] not in review.rows()
    page.click(".entry[data-cluster='-2']")
    assert sorted(review.rows()) == sorted(rows[:2])
    page.js("showCluster(0); grid.element.focus()")
    page.press("Home")
    confirmed = page.js("grid.chosen()")
    page.click("#image-actions button:nth-child(3)")
    review.told("1 image is right.")
    assert page.js(f"store.fixed[{confirmed[0]}]") == 1
    assert review.rows()[-1] == confirmed[0]  # nothing is less in doubt
    assert [line["do"] for line in review.log()] == ["nowhere", "confirm"]


def test_an_action_without_a_selection_says_what_it_needs(review: Review) -> None:
    review.page.press("x")
    review.told("Select images first.")
    review.page.click(".entry[data-cluster='-3']")
    review.page.press("s")
    review.told("Show a cluster first.")
    assert review.log() == []


def test_keys_that_follow_at_once_act_on_one_image_each(review: Review) -> None:
    page, rows = review.page, review.rows()
    page.click(".cell[data-place='0']")
    page.js("window.press = key => grid.element.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true}))")
    page.js("['1', '2', 'x'].forEach(press)")
    page.until(f"store.labels[{rows[2]}] === -2")
    assert [review.labels()[row] for row in rows[:3]] == [1, 2, -2]


def test_a_split_is_shown_before_it_is_made(review: Review) -> None:
    page, before = review.page, review.labels()
    page.press("s")
    page.until("document.querySelectorAll('.half .cell:not([hidden])').length > 4")
    halves = page.js(
        "[...document.querySelectorAll('.half h4')].map(e => Number(e.textContent.match(/(\\d+) image/)[1]))"
    )
    assert halves[0] + halves[1] in (before.count(0), before.count(0) - 1)  # one of a pair of copies is shown
    page.press("Escape")
    review.closed()
    assert review.labels() == before
    page.press("s")
    page.until("document.querySelector('.half .cell')")
    page.press("Enter")
    review.told("as cluster 4")
    assert review.labels().count(4) >= halves[1]
    assert page.js("document.querySelectorAll('.entry').length") == CLUSTERS + 2
    page.js("showCluster(4)")
    page.press("z", "Control")
    review.told("Undone: split")
    assert page.js("view.cluster") == -3
    assert review.labels() == before


def test_an_image_opens_with_what_is_known_of_it(review: Review) -> None:
    page, rows = review.page, review.rows()
    page.click(".cell[data-place='1']", times=2)
    page.until("document.querySelector('dialog .whole')?.naturalWidth === 16")
    facts = page.js("[...document.querySelectorAll('dialog dd')].map(e => e.textContent)")
    assert facts[0] == "Cluster 0"
    page.press("ArrowRight")
    page.until(f"document.querySelector('dialog .whole').src.endsWith('row={rows[2]}')")
    page.press("3")
    page.until(f"store.labels[{rows[2]}] === 3")
    page.until(f"document.querySelector('dialog .whole').src.endsWith('row={rows[3]}')")
    page.press("i")
    page.until("view.title.startsWith('Similar')")
    similar = review.rows()
    assert rows[3] not in similar
    assert len(similar) == N - 3  # but itself, a copy, and what could not be read
    assert page.js("document.querySelectorAll('.cell .swatch:not(.gone)').length") > 10
    page.press("Escape")
    assert page.js("view.cluster") == 0


def test_heat_lies_on_the_picture(review: Review) -> None:
    page = review.page
    torch.manual_seed(2)
    encoder = build_encoder("resnet_small", 3, 16, [0.5] * 3, [0.25] * 3, 0)
    classifier = Classifier(encoder, build_head(encoder.n_features, CLUSTERS))
    save_model(review.run, classifier, torch.nn.functional.normalize(torch.randn(N, encoder.n_features), dim=1))
    page.click(".cell[data-place='0']", times=2)
    page.until("document.querySelector('dialog .whole')?.naturalWidth === 16")
    page.press("h")
    page.until("document.querySelector('.heat')")
    alpha = "[...h.getContext('2d').getImageData(0, 0, h.width, h.height).data].filter((v, i) => i % 4 === 3)"
    shown = page.js(f"(() => {{ const h = document.querySelector('.heat'); return {alpha}; }})()")
    assert max(shown) == 190
    assert "Cluster 0" in page.js("document.querySelector('.heat-note').textContent")
    page.press("h")
    assert page.js("document.querySelector('.heat')") is None
    page.press("Escape")
    review.closed()


def test_what_changes_no_image_can_be_accepted_for_the_classifier(
    review: Review, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn = learning.learn
    monkeypatch.setattr(
        learning,
        "learn",
        lambda *given: replace(learn(*given), **dict.fromkeys(("rows", "now", "to"), np.empty(0, np.int64))),
    )
    page = review.page
    page.js(f"perform({json.dumps({'do': 'merge', 'clusters': [2], 'into': 3})}, '')")
    page.until("2 in store.merged")
    before = review.labels()
    page.press("l")
    page.until("document.querySelector('dialog .accept')")
    page.press("Enter")
    review.told("Learned: no image changed.")
    review.closed()
    assert review.log()[-1]["do"] == "learn"
    assert review.labels() == before


def test_what_would_be_learned_is_shown_before_it_counts(review: Review) -> None:
    page = review.page
    page.press("l")
    page.until("document.querySelector('.complaint')")
    assert "nothing to learn from" in page.js("document.querySelector('.complaint').textContent")
    page.press("Escape")
    review.closed()
    rows = [row for row, label in enumerate(review.labels()) if label == 2 and row not in (4, 5)]
    for action in (
        {"do": "merge", "clusters": [2], "into": 3},
        {"do": "split", "cluster": 3, "rows": rows[:1]},
        {"do": "move", "rows": rows[:3], "to": CLUSTERS},
    ):
        page.js(f"perform({json.dumps(action)}, '')")
    before = review.labels()
    page.press("l")
    page.until("document.querySelector('.flows')")
    title = page.js("document.querySelector('.flows').closest('dialog').querySelector('h3').textContent")
    flows = page.js("[...document.querySelectorAll('.flows button')].map(e => e.textContent)")
    n = int(title.split()[0])
    assert title == f"{n} image{'s' * (n > 1)} would change"
    assert flows[0] == f"All {n}"
    assert f"Cluster 3→Cluster {CLUSTERS}" in "".join(flows)
    page.press("Escape")
    review.closed()
    assert review.labels() == before
    page.press("l")
    page.until("document.querySelector('.flows')")
    page.press("Enter")
    review.told("Learned:")
    after = review.labels()
    assert sum(a != b for a, b in zip(after, before, strict=True)) >= n
    assert review.log()[-1]["do"] == "learn"
    page.press("z", "Control")
    review.told("Undone: learn")
    assert review.labels() == before


def test_review_these_asks_and_tells_what_the_answers_say(review: Review) -> None:
    page, before = review.page, review.labels()
    page.press("r")
    page.until("document.querySelector('.question .whole')?.naturalWidth === 16")
    rows = page.js("api.get('questions').then(asked => asked.rows)")
    title = "document.querySelector('.dialog-title').textContent"
    assert page.js(title) == f"Image 1 of {len(rows)}"
    runners_up = page.js("[...store.runnersUp]")
    for key in ("Enter", "n", "x", " ", "0", "Backspace"):
        page.press(key)
    assert page.js(title) == f"Image 5 of {len(rows)}"
    assert page.js("document.querySelector('.question').textContent").count("Cluster 0") >= 1
    for key in ("v", "1", "Enter"):  # another cluster, by the list
        page.press(key)
        page.until("true")
    page.until(f"{title} === 'Image 6 of {len(rows)}'")
    page.press("Escape")
    page.until("document.querySelector('.purity')")
    after = review.labels()
    assert [after[row] for row in rows[:6]] == [
        before[rows[0]],
        runners_up[rows[1]],
        -2,
        before[rows[3]],
        1,
        before[rows[5]],
    ]
    assert [page.js(f"store.fixed[{row}]") for row in rows[:4]] == [1, 1, 1, 0]
    assert page.js("document.querySelector('.purity').textContent").startswith("About ")
    assert page.js("document.querySelectorAll('.purities tbody tr').length") == CLUSTERS
    page.press("Escape")
    review.closed()
    review.told("Took 4 answers.")
    assert {line["do"] for line in review.log()} == {"confirm", "move", "nowhere"}


def test_questions_that_were_not_answered_change_nothing(review: Review) -> None:
    page = review.page
    page.press("r")
    page.until("document.querySelector('.question')")
    page.press("Escape")
    page.until("!document.querySelector('dialog')")
    assert review.log() == []


def test_questions_that_were_skipped_are_not_asked_again(review: Review) -> None:
    page = review.page
    page.press("r")
    page.until("document.querySelector('.question')")
    page.until("document.querySelector('.question .path')?.textContent")
    skipped = page.js("document.querySelector('.question .path').textContent")
    page.press(" ")
    page.press("Escape")
    page.until("document.querySelector('.question')?.textContent.startsWith('0 answers taken')")
    page.press("Escape")
    page.until("!document.querySelector('dialog')")
    assert review.log() == []
    page.press("r")
    page.until("document.querySelector('.question .path')?.textContent")
    assert page.js("document.querySelector('.question .path').textContent") != skipped


def test_the_lasso_selects_images_for_an_action(review: Review) -> None:
    page = review.page
    page.press("g")
    page.until("plane.map.image && plane.map.frame === null")
    page.js("showCluster(ALL)")
    box = page.js("plane.stage.canvas.getBoundingClientRect().toJSON()")
    left, top, right, bottom = (
        box["x"] + 5,
        box["y"] + 60,
        box["x"] + box["width"] / 2,
        box["y"] + box["height"] - 5,
    )
    inside = page.js(
        "[...plane.rows].filter((row, i) => plane.map.screenX(i) < plane.map.width / 2 && plane.map.screenY(i) > 60)"
    )
    assert 5 < len(inside) < N - 5
    page.click(".tools button")
    page.drag((left, top), (right, top), (right, bottom), (left, bottom), (left, bottom - 1))
    page.until("view.title === 'Selected on the map'")
    assert sorted(page.js("grid.chosen()")) == inside
    page.press("1")
    review.told(f"Moved {len(inside)} images to Cluster 1.")
    assert {review.labels()[row] for row in inside} == {1}
    assert page.js("[...plane.map.labels].join()") == page.js("[...plane.rows].map(row => store.labels[row]).join()")


def test_exports_hold_what_was_corrected(review: Review) -> None:
    page = review.page
    page.press("n")
    page.type("Apples")
    page.press("Enter")
    review.told("Apples")
    page.click(".cell[data-place='0']")
    moved, gone = review.rows()[:2]
    page.press("3")
    review.told("Moved 1 image")
    page.press("x")
    review.told("1 image belongs nowhere.")
    for kind in ("folders", "csv"):
        page.press("e")
        if kind == "csv":
            page.press("ArrowDown")  # the kinds are a list, which has the focus
        page.click("dialog .primary")
        page.until("document.querySelector('.export-result pre')")
        folder = Path(page.js("document.querySelector('.export-result pre').textContent"))
        assert folder == review.run / "review/exports" / kind
        page.press("Escape")
        review.closed()
    paths = json.loads(page.js("api.get('paths?start=0&stop=100').then(JSON.stringify)"))
    with (review.run / "review/exports/csv/clusters.csv").open(newline="") as file:
        found = {line["path"]: line["cluster"] for line in csv.DictReader(file)}
    assert found[paths[moved]] == "3"
    assert paths[gone] not in found
    folders = {path.name for path in (review.run / "review/exports/folders").iterdir() if path.is_dir()}
    assert any("Apples" in name for name in folders)
    images = list((review.run / "review/exports/folders").rglob("*.png"))
    assert len(images) == len(found)


def test_a_server_that_is_gone_is_told_with_what_to_do(review: Review) -> None:
    page = review.page
    page.click(".cell[data-place='0']")
    page.js("window.fetch = () => Promise.reject(new TypeError('Failed to fetch'))")
    page.press("x")
    page.until("!document.getElementById('banner').hidden")
    assert f"spiceclust review {review.run}" in page.js("document.getElementById('banner').textContent")
    review.told("The review has stopped")
    assert -2 not in review.labels()


def test_the_list_of_keys(review: Review) -> None:
    review.page.press("?")
    text = review.page.js("document.querySelector('dialog').textContent")
    assert all(word in text for word in ("Undo".lower(), "skip", "heat map", "select all"))
    review.page.press("Escape")
    review.closed()


def test_only_what_is_in_view_is_in_the_page(review: Review) -> None:
    page = review.page
    page.js("grid.show(Int32Array.from({length: 2_000_000}, (_, i) => 10 + i % 40)); grid.resize(48)")
    cells = page.js("grid.cells.size")
    assert cells < 600
    page.press("End")
    page.until("grid.cells.has(1_999_999)")
    time.sleep(0.1)
    assert page.js("grid.cells.size") <= cells
    box = page.js("grid.cells.get(1_999_999).getBoundingClientRect().toJSON()")
    edge = page.js("grid.element.getBoundingClientRect().bottom")
    assert edge - 60 < box["bottom"] <= edge
    page.press("Home")
    page.until("grid.cells.has(0)")
    assert page.js("grid.cells.get(0).getBoundingClientRect().top - grid.element.getBoundingClientRect().top") < 10
