"""The report in a browser, opened from disk: what it shows, and what a person does with it."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from browser import BINARY, Page, chromium
from spiceclust.data.sources import open_source
from spiceclust.outputs.report.cards import cards_of
from spiceclust.outputs.report.heat import Heat
from spiceclust.outputs.report.page import write_report
from spiceclust.result import Result

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(BINARY is None, reason="there is no Chromium on this machine"),
]

MakeResult = Callable[..., Result]
PER_CLUSTER = 12
SCORES = {"acc": 0.75, "nmi": 0.5, "ari": 0.25, "ece": 0.125, "reliable_precision": None, "n": 36}


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with chromium() as found:
        found.view(1280, 900)
        yield found


def flat(n: int) -> np.ndarray:
    """(n, 8, 8) uint8: pictures that are each of one grey, 3 levels apart."""
    return np.broadcast_to((3 * np.arange(n, dtype=np.uint8))[:, None, None], (n, 8, 8)).copy()


def placed(make_result: MakeResult, n_clusters: int = 3, **changes: Any) -> tuple[Result, np.ndarray]:
    """A run whose clusters are heaps at the corners of a square, as many as there are corners, then anywhere."""
    n = n_clusters * PER_CLUSTER
    images = flat(n)
    made = make_result(np.arange(n) % n_clusters, n_clusters)
    read = open_source(images).read(range(n), 8)
    rows = [
        dataclasses.replace(row, path=now.path, sha256=now.sha256)
        for row, (now, _) in zip(made.rows, read, strict=True)
    ]
    numbers = np.random.default_rng(0)
    corners = np.concatenate([[(0, 0), (1, 0), (1, 1), (0, 1)], numbers.random((max(0, n_clusters - 4), 2))])
    positions = corners[made.labels] + numbers.uniform(-0.05, 0.05, (n, 2))
    values = {"rows": rows, "positions": positions.astype(np.float32), "run": {"source": "heaps"}, **changes}
    return dataclasses.replace(made, **values), images


def show(page: Page, folder: Path, result: Result, images: np.ndarray | None = None) -> None:
    page.open(write_report(folder, result, None if images is None else open_source(images)))


def middle(page: Page, selector: str) -> tuple[float, float]:
    page.js(f"document.querySelector({selector!r}).scrollIntoView({{block: 'center', behavior: 'instant'}})")
    box = page.js(f"document.querySelector({selector!r}).getBoundingClientRect().toJSON()")
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def pixels(selector: str) -> str:
    """An expression for what is on a canvas: the numbers of its pixels, red, green, blue, alpha."""
    canvas = f"document.querySelector({selector!r})"
    return f"{canvas}.getContext('2d').getImageData(0, 0, {canvas}.width, {canvas}.height).data"


def luminance(colour: list[int]) -> float:
    """Of red, green, blue in 0 to 255: the relative luminance of WCAG, in [0, 1]."""
    shares = [value / 255 for value in colour]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def winding(loop: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(n,) bool: whether a closed line goes around a point, by the angle under which the point sees it."""
    seen = loop[None] - points[:, None]
    angles = np.arctan2(seen[..., 1], seen[..., 0])
    turns = (np.roll(angles, -1, axis=1) - angles + np.pi) % (2 * np.pi) - np.pi
    return np.asarray(np.abs(turns.sum(axis=1)) > np.pi)


def test_it_builds_itself_without_a_word_to_console_or_network(
    page: Page, make_result: MakeResult, tmp_path: Path
) -> None:
    show(page, tmp_path, *placed(make_result))
    assert page.js("document.querySelectorAll('.card').length") == 3
    assert page.js("[...document.querySelectorAll('#counts dd')].map(e => e.textContent)") == [
        "36",
        "3",
        "100%",
        "0",
        "0",
    ]
    page.until("document.querySelector('.card .picture').width === 8")
    shown = int(page.js("document.querySelector('.card .tile').title").split(",")[0])
    assert page.js(f"[...{pixels('.card .picture')}]") == [3 * shown, 3 * shown, 3 * shown, 255] * 64
    page.until("map.frame === null")
    assert page.js(f"{pixels('#canvas')}.filter((value, i) => i % 4 === 3 && value > 200).length") > 36 * 20
    assert page.complaints() == []
    assert page.requests() == []


def test_points_are_painted_where_they_lie_in_their_clusters_colours(
    page: Page, make_result: MakeResult, tmp_path: Path
) -> None:
    result, images = placed(make_result)
    show(page, tmp_path, result, images)
    page.until("map.image && map.frame === null")
    last = page.js("[0, 1, 2].map(c => map.order.findLast(i => map.labels[i] === c))")  # on top of the others
    for cluster, point in enumerate(last):
        x, y = (round(value) for value in page.js(f"[map.screenX({point}), map.screenY({point})]"))
        at = "[...map.image.data.slice(4 * ({y} * map.image.width + {x}), 4 * ({y} * map.image.width + {x}) + 3)]"
        found = page.js(at.format(x=x, y=y))
        wanted = page.js(f"map.theme().palette[{cluster}]")
        assert "#" + "".join(f"{value:02x}" for value in found) == wanted
    page.js("pick(1)")
    page.until("map.frame === null")
    x, y = (round(value) for value in page.js(f"[map.screenX({last[0]}), map.screenY({last[0]})]"))
    assert "#" + "".join(f"{value:02x}" for value in page.js(at.format(x=x, y=y))) == page.js("map.theme().grey")


def test_the_policy_holds_off_a_script_that_was_put_in(page: Page, make_result: MakeResult, tmp_path: Path) -> None:
    show(page, tmp_path, *placed(make_result))
    page.js("document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.harm = 1'}))")
    page.js("document.body.append(Object.assign(new Image(), {src: 'https://example.org/a.png'}))")
    assert page.js("window.harm") is None
    page.js("new Promise(done => setTimeout(done, 100))")
    assert any("Content Security Policy" in text for text in page.complaints())
    assert not any(
        event.get("method") == "Network.responseReceived" and "example" in str(event) for event in page.events
    )


def test_the_lasso_lists_what_is_inside_and_copies_its_paths(
    page: Page, make_result: MakeResult, tmp_path: Path
) -> None:
    result, images = placed(make_result)
    show(page, tmp_path, result, images)
    x, y = middle(page, "#canvas")
    reach = page.js("map.scale() / 2")
    page.js("[...document.querySelectorAll('.tools button')].find(b => b.textContent === 'Lasso').click()")
    left, right, top, bottom = x - reach - 12, x - reach / 2, y + reach / 2, y + reach + 12  # around the heap at (0, 0)
    page.drag((left, top), (right, top), (right, bottom), (left, bottom), (left, top + 5))
    assert page.js("document.querySelector('#selection h3').textContent") == "12 images in 1 cluster"
    assert page.js("document.querySelectorAll('#selection .tile').length") == 12
    page.js("navigator.clipboard.writeText = async (text) => { window.copied = text; }")
    page.js("[...document.querySelectorAll('#selection button')].find(b => b.textContent === 'Copy paths').click()")
    page.until("window.copied")
    inside = [row.path for row, label in zip(result.rows, result.labels, strict=True) if label == 0]
    assert page.js("window.copied").split("\n") == inside
    page.js("[...document.querySelectorAll('#selection button')].find(b => b.textContent === 'Clear').click()")
    assert page.js("document.querySelector('#selection h3').textContent") == "Nothing selected"
    everything = "[[0, 0], [map.width, 0], [map.width, map.height], [0, map.height]]"
    assert page.js(f"map.inside({everything}).length") == 36
    page.js("pick(2)")
    assert page.js(f"map.inside({everything}).every(i => map.labels[i] === 2)")
    assert page.complaints() == []


def test_a_lasso_may_be_of_any_shape(page: Page, make_result: MakeResult, tmp_path: Path) -> None:
    result, images = placed(make_result, 40)
    show(page, tmp_path, result, images)
    numbers = np.random.default_rng(5)
    angles = np.sort(numbers.uniform(0, 2 * np.pi, 30))
    width, height, scale = page.js("[map.width, map.height, map.scale()]")
    reach = numbers.uniform(0.1, 0.6, 30) * scale
    loop = np.stack([width / 2 + reach * np.cos(angles), height / 2 + reach * np.sin(angles)], axis=1)
    points = np.array(page.js("Array.from(map.x, (_, i) => [map.screenX(i), map.screenY(i)])"))
    inside = np.flatnonzero(winding(loop, points)).tolist()
    assert 20 < len(inside) < len(points) - 20
    assert page.js(f"map.inside({loop.tolist()})") == inside


def test_hover_tells_of_an_image_and_a_click_brings_out_its_cluster(
    page: Page, make_result: MakeResult, tmp_path: Path
) -> None:
    result, images = placed(make_result)
    show(page, tmp_path, result, images)
    middle(page, "#canvas")
    x, y = page.js(
        "(() => { const b = document.getElementById('canvas').getBoundingClientRect();"
        " return [b.x + map.screenX(7), b.y + map.screenY(7)]; })()"
    )
    page.hover(x, y)
    page.until("!document.getElementById('tip').hidden")
    assert page.js("document.querySelector('#tip p').textContent") == "7"
    page.until("document.querySelector('#tip canvas').width === 8")
    page.drag((x, y), (x, y))
    assert page.js("map.picked") == result.labels[7]
    assert page.js("document.querySelector('#selection h3').textContent") == "12 images in 1 cluster"
    pressed = "[...document.querySelectorAll('.chip')].map(c => c.getAttribute('aria-pressed'))"
    assert page.js(pressed) == ["false", "true", "false"]
    page.js("document.activeElement.blur()")
    page.js("document.querySelector('#cluster-1 button.small').click()")  # of the card, which never hides it again
    assert page.js("map.picked") == 1
    assert page.js("document.activeElement.id") == "canvas"


def test_the_map_zooms_about_a_place_and_moves_by_keys(page: Page, make_result: MakeResult, tmp_path: Path) -> None:
    show(page, tmp_path, *placed(make_result))
    before = page.js("[map.screenX(5), map.screenY(5)]")
    page.js("map.magnify(3, map.screenX(5), map.screenY(5))")
    assert page.js("[map.screenX(5), map.screenY(5)]") == pytest.approx(before, abs=0.01)
    page.js("document.getElementById('canvas').focus()")
    page.press("ArrowRight")
    assert page.js("map.screenX(5)") == pytest.approx(before[0] - 60, abs=0.01)
    page.press("0")
    assert page.js("map.zoom") == 1


def test_an_image_opens_by_keys_and_says_what_is_known(page: Page, make_result: MakeResult, tmp_path: Path) -> None:
    result, images = placed(make_result)
    show(page, tmp_path, result, images)
    page.js("document.querySelector('.tile').focus()")
    page.press("ArrowRight")
    assert page.js("[...document.querySelectorAll('.card .tiles')][0].children[1] === document.activeElement")
    assert page.js("[...document.querySelectorAll('.card .tiles')][0].querySelectorAll('[tabindex=\"0\"]').length") == 1
    page.js("document.activeElement.click()")
    path = page.js("document.activeElement.closest('dialog').querySelector('h3').textContent")
    told = page.js("[...document.querySelectorAll('#detail dd')].map(e => e.textContent)")
    row = [each.path for each in result.rows].index(path)
    assert told[:2] == [str(result.labels[row]), f"{result.confidence[row]:.3f}"]
    page.js("document.querySelector('#detail button').click()")
    assert page.js("document.getElementById('detail').open") is False


def test_what_made_typical_images_belong_is_laid_over_them(page: Page, make_result: MakeResult, tmp_path: Path) -> None:
    result, images = placed(make_result)
    rows = [row for card in cards_of(result) for row in card.typical]
    maps = np.zeros((len(rows), 4, 4), dtype=np.uint8)
    maps[np.arange(len(rows)), 1, np.array(rows) % 4] = 255  # the hottest place tells which image it is
    page.open(write_report(tmp_path, result, open_source(images), heat=Heat(rows, maps)))
    assert page.js("document.querySelectorAll('.heat').length") == 0
    assert page.js("getComputedStyle(document.querySelector('.heat-legend')).display") == "none"
    page.js("document.getElementById('heat').click()")
    assert page.js("document.querySelectorAll('#cards .heat').length") == len(rows)
    shown = page.js(
        "[...document.querySelectorAll('.heat')].map(c => {"
        " const all = c.getContext('2d').getImageData(0, 0, 4, 4).data;"
        " const alpha = [...all].filter((_, i) => i % 4 === 3);"
        " return [c.closest('.tile').title, alpha.indexOf(Math.max(...alpha)), alpha.filter(a => a).length]; })"
    )
    for title, hottest, visible in shown:
        assert (hottest, visible) == (4 + int(title.split(",")[0]) % 4, 1)
    page.js("document.querySelector('.card .tile').click()")
    laid = "getComputedStyle(document.querySelector('#detail .heat')).display"
    assert page.js(laid) == "block"  # as the cards are
    assert page.js("document.activeElement.textContent") == "Close"
    for width in (390, 1280):
        page.view(width, 900)
        boxes = "['.large', '.heat'].map(n => document.querySelector(`#detail ${n}`).getBoundingClientRect().toJSON())"
        picture, over = page.js(boxes)
        assert picture == over
    page.js("document.querySelector('#detail input').click()")
    assert page.js(laid) == "none"
    page.js("document.querySelector('#detail button').click(); document.getElementById('heat').click()")
    assert page.js("getComputedStyle(document.querySelector('#cards .heat')).display") == "none"
    assert page.complaints() == []


def test_without_maps_there_is_nothing_to_switch(page: Page, make_result: MakeResult, tmp_path: Path) -> None:
    show(page, tmp_path, *placed(make_result))
    assert page.js("document.getElementById('heat-switch').offsetParent") is None
    page.js("document.querySelector('.card .tile').click()")
    assert page.js("document.querySelectorAll('#detail input').length") == 0


def test_clusters_are_put_in_another_order(page: Page, make_result: MakeResult, tmp_path: Path) -> None:
    result, _ = placed(make_result)
    labels = result.labels.copy()
    labels[:6] = 2
    show(page, tmp_path, dataclasses.replace(result, labels=labels, reliable=labels != 1))
    for order, expected in {"size": [2, 0, 1], "doubt": [1, 0, 2], "number": [0, 1, 2]}.items():
        page.js(
            f"(() => {{ const s = document.getElementById('order'); s.value = {order!r};"
            " s.dispatchEvent(new Event('change')); })()"
        )
        shown = page.js("[...document.querySelectorAll('.card')].map(c => c.id)")
        assert shown == [f"cluster-{number}" for number in expected]


def test_true_labels_show_only_after_they_were_compared_with(
    page: Page, make_result: MakeResult, tmp_path: Path
) -> None:
    result, _ = placed(make_result)
    show(page, tmp_path, result)
    assert page.js("document.querySelectorAll('table.matrix').length") == 0
    assert "spiceclust evaluate" in page.js("document.getElementById('truth-body').textContent")
    confusion = {"0": {"a": 3, "b": 9}, "1": {"a": 12}, "2": {"c": 12}}
    metrics = {**SCORES, "match": {"0": "b", "1": "a", "2": "c"}, "confusion": confusion}
    show(page, tmp_path, dataclasses.replace(result, metrics=metrics))
    cells = page.js(
        "[...document.querySelectorAll('table.matrix tbody tr')].map(r => [...r.children].map(c => c.textContent))"
    )
    assert cells == [["1", "12", "", "", "12"], ["0", "3", "9", "", "12"], ["2", "", "", "12", "12"]]
    assert page.js("document.querySelectorAll('.matrix .right').length") == 3
    assert page.complaints() == []


def test_an_image_between_two_clusters_bears_the_colour_of_its_own(
    page: Page, make_result: MakeResult, tmp_path: Path
) -> None:
    show(page, tmp_path, *placed(make_result, 2))
    marks = page.js(
        "[...document.querySelectorAll('.figure:last-child .tile')].map(tile =>"
        " [tile.title, tile.querySelector('.swatch').className])"
    )
    for title, mark in marks:
        assert mark == f"swatch c{title.split('cluster ')[1][0]}"
    assert {mark for _, mark in marks} == {"swatch c0", "swatch c1"}
    assert page.js("document.querySelectorAll('.figure:not(:last-child) .swatch').length") == 0


def test_on_paper_every_card_has_its_pictures(page: Page, make_result: MakeResult, tmp_path: Path) -> None:
    show(page, tmp_path, *placed(make_result, 12))
    page.until("document.querySelector('.card .picture').width === 8")
    assert page.js("document.querySelectorAll('.card .picture.waiting').length") > 50
    page.js("window.dispatchEvent(new Event('beforeprint'))")  # as printing does, which does not wait
    assert page.js("[...document.querySelectorAll('.card .picture')].every(canvas => canvas.width === 8)")
    page.send("Emulation.setEmulatedMedia", media="print")
    assert page.js("getComputedStyle(document.querySelector('.card')).contentVisibility") == "visible"
    page.send("Emulation.setEmulatedMedia", media="")


@pytest.mark.parametrize("dark", [False, True])
def test_the_counts_of_every_shade_can_be_read(dark: bool, page: Page, make_result: MakeResult, tmp_path: Path) -> None:
    confusion = {
        "0": {str(i): share for i, share in enumerate([1, 5, 12, 25, 40, 60, 110, 300])},
        "1": {"0": 1},
        "2": {"1": 1},
    }
    metrics = {**SCORES, "match": {"0": "7", "1": "0", "2": "2"}, "confusion": confusion}
    page.view(1280, 900, dark=dark)
    try:
        show(page, tmp_path, dataclasses.replace(placed(make_result)[0], metrics=metrics))
        cells = page.js(
            "(() => { const c = document.createElement('canvas').getContext('2d');"
            " const rgb = (colour) => { c.fillStyle = colour; c.fillRect(0, 0, 1, 1);"
            " return [...c.getImageData(0, 0, 1, 1).data].slice(0, 3); };"
            " return [...document.querySelectorAll('.matrix .right, .matrix .wrong')].map(cell => {"
            " const style = getComputedStyle(cell); return [rgb(style.backgroundColor), rgb(style.color)]; }); })()"
        )
    finally:
        page.view(1280, 900)
    assert len(cells) == 10
    shades = [luminance(ground) for ground, _ in cells]
    assert (max(shades) + 0.05) / (min(shades) + 0.05) > 2  # and the shades can be told apart
    for ground, ink in cells:
        low, high = sorted((luminance(ground), luminance(ink)))
        assert (high + 0.05) / (low + 0.05) >= 4.5


def test_it_says_what_has_no_picture_and_what_was_not_read_once(
    page: Page, make_result: MakeResult, tmp_path: Path
) -> None:
    result, images = placed(make_result)
    links = "[...document.querySelectorAll('#links a')].map(a => a.textContent)"
    show(page, tmp_path, result, images)
    assert "Not read" not in page.js(links)
    assert page.js(
        "[document.querySelectorAll('#quarantine').length, document.getElementById('notes').textContent]"
    ) == [0, ""]
    empty = "1 of 4 clusters hold no image: ask for 3"
    rows = [dataclasses.replace(row, status="quarantined", reason="torn") for row in result.rows[:2]]
    rows += [dataclasses.replace(row, sha256="0") if i < 5 else row for i, row in enumerate(result.rows[2:])]
    labels = np.where(np.arange(36) < 2, -1, result.labels)
    probabilities = np.pad(result.probabilities, ((0, 0), (0, 1)))
    run = {"warnings": [empty], "config": {"n_clusters": 4}}
    changed = {"rows": rows, "labels": labels, "probabilities": probabilities, "run": run}
    show(page, tmp_path, dataclasses.replace(result, **changed), images)
    told = page.js("[...document.querySelectorAll('#notes p')].map(p => p.textContent)")
    assert told == [empty, "5 of 34 images have no picture: they changed or are gone."]
    assert "Not read" in page.js(links)
    assert page.js("document.querySelector('.reasons').textContent") == "2 files: torn"
    assert page.complaints() == []


def test_a_selection_is_told_by_its_heading_alone(page: Page, make_result: MakeResult, tmp_path: Path) -> None:
    show(page, tmp_path, *placed(make_result))
    told = "[...document.querySelectorAll('#map [aria-live], #map [role=status]')].map(e => e.textContent)"
    assert page.js(told) == ["Nothing selected"]
    page.js("window.teller = document.querySelector('#map [role=status]')")
    page.js("pick(1)")
    assert page.js(told) == ["12 images in 1 cluster"]
    assert page.js("window.teller.isConnected")  # one that is new is not read out


def test_of_many_files_that_were_not_read_it_says_where_the_rest_are(
    page: Page, make_result: MakeResult, tmp_path: Path
) -> None:
    show(page, tmp_path, make_result([0, 0, 1, *[-1] * 2234], 2))
    assert page.js("document.querySelectorAll('.files tbody tr').length") == 1000
    assert page.js("document.querySelector('.reasons').textContent") == "2,234 files: empty file"
    assert page.js("document.querySelector('#quarantine-body > p').textContent") == "and 1,234 more in quarantine.csv"


def test_the_scores_are_grouped_by_stage(page: Page, make_result: MakeResult, tmp_path: Path) -> None:
    heads = {"cuts": {"consistency": [0.5, 0.75], "kept": 1, "partition_score": 5.0}}
    metrics = {"3-self": heads, "4-select": {"cuts": {"neighbors": 10, "share": 0.5}}}
    show(page, tmp_path, placed(make_result, metrics=metrics)[0])
    groups = page.js(
        "[...document.querySelectorAll('.scores tbody')].map(group =>"
        " [group.querySelector('th[scope=rowgroup]').textContent, group.rows.length])"
    )
    assert groups == [["3 · clustering heads", 3], ["4 · reliable labels", 3]]
    assert "Higher is better" in page.js("document.getElementById('choices-body').textContent")


def test_hostile_names_do_nothing(page: Page, make_result: MakeResult, tmp_path: Path) -> None:
    result, images = placed(make_result)
    evil = "</script><img src=x onerror=window.harm=1><svg onload=window.harm=1>{}"
    rows = [dataclasses.replace(row, path=evil.format(i)) for i, row in enumerate(result.rows)]
    rows[0] = dataclasses.replace(rows[0], status="quarantined", reason=evil.format("why"))
    labels = result.labels.copy()
    labels[0] = -1
    metrics = {**SCORES, "match": {"1": evil}, "confusion": {"1": {evil: 12}}}
    run = {"source": evil, "warnings": [evil], "views": evil, "config": {"views": evil}}
    show(page, tmp_path, dataclasses.replace(result, rows=rows, labels=labels, metrics=metrics, run=run), images)
    page.js("document.querySelector('.tile').click()")
    page.js("pick(1)")
    page.js("new Promise(done => setTimeout(done, 200))")
    assert page.js("window.harm") is None
    assert page.js("document.querySelectorAll('main img, main svg [onload], [onerror]').length") == 0
    assert page.js("document.querySelector('#detail-path').textContent").startswith("</script><img")
    assert page.js("document.querySelector('.files th[scope=row]').textContent") == evil.format(0)
    assert page.complaints() == []


def test_every_control_has_a_name(page: Page, make_result: MakeResult, tmp_path: Path) -> None:
    show(page, tmp_path, *placed(make_result))
    page.js("document.querySelectorAll('.card').forEach(card => { card.style.contentVisibility = 'visible'; })")
    page.js("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    nodes = page.send("Accessibility.getFullAXTree")["nodes"]
    controls = [
        node
        for node in nodes
        if node.get("role", {}).get("value") in ("button", "combobox", "link", "application", "dialog", "img", "region")
    ]
    assert len(controls) > 60
    assert [node for node in controls if not node.get("name", {}).get("value")] == []


@pytest.mark.parametrize("width", [1280, 820, 390])
def test_nothing_sticks_out_at_the_side(width: int, page: Page, make_result: MakeResult, tmp_path: Path) -> None:
    result, _ = placed(make_result, 60)
    rows = [dataclasses.replace(row, path=f"{'long' * 60}/{i}.png") for i, row in enumerate(result.rows)]
    rows[0] = dataclasses.replace(rows[0], status="quarantined", reason="why" * 50)
    labels = result.labels.copy()
    labels[0] = -1
    confusion = {str(c): {f"{'class' * 9} {c}": PER_CLUSTER} for c in range(60)}
    metrics = {**SCORES, "match": {}, "confusion": confusion}
    run = {"source": "s" * 200, "warnings": ["w" * 200], "views": "v" * 200, "config": {"views": "glyph"}}
    try:
        page.view(width, 900)
        changed = {"rows": rows, "labels": labels, "metrics": metrics, "run": run}
        show(page, tmp_path, dataclasses.replace(result, **changed))
        page.js("pick(3)")
        assert page.js("document.documentElement.scrollWidth") <= width
        assert page.js("document.getElementById('canvas').clientHeight") <= width  # room beside it to scroll the page
    finally:
        page.view(1280, 900)


def test_an_old_run_has_all_but_the_map(page: Page, make_result: MakeResult, tmp_path: Path) -> None:
    result, images = placed(make_result)
    show(page, tmp_path, dataclasses.replace(result, positions=None), images)
    assert page.js("document.querySelectorAll('#canvas').length") == 0
    assert "before positions were kept" in page.js("document.getElementById('map-body').textContent")
    assert page.js("document.querySelectorAll('.card').length") == 3
    assert page.complaints() == []


def test_an_image_that_is_gone_is_an_empty_tile_with_its_name(
    page: Page, make_result: MakeResult, tmp_path: Path
) -> None:
    result, images = placed(make_result)
    rows = [dataclasses.replace(row, path=f"some folder/{row.path}.png") for row in result.rows]
    show(page, tmp_path, dataclasses.replace(result, rows=rows))
    names = page.js("[...document.querySelectorAll('.card .tile')].map(tile => tile.textContent)")
    assert len(names) > 30
    assert set(names) <= {f"{i}.png" for i in range(len(rows))}
    show(page, tmp_path, result, images)
    assert page.js("document.querySelector('.card .tile').textContent") == ""


def test_colours_of_many_clusters_repeat_only_far_apart(page: Page, make_result: MakeResult, tmp_path: Path) -> None:
    result, _ = placed(make_result, 12)
    show(page, tmp_path, result)
    colours, middles = page.js("[map.colours, map.middles.map(([x, y]) => [x, y])]")
    assert colours[:10] == list(range(10))
    for cluster in (10, 11):
        away = [np.hypot(*np.subtract(middles[cluster], middles[other])) for other in range(cluster)]
        nearest_of = [min((d for d, c in zip(away, colours, strict=False) if c == colour)) for colour in range(10)]
        assert colours[cluster] == int(np.argmax(nearest_of))
