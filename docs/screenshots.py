"""The pictures of pages in this folder, taken in a headless Chromium.

    python docs/screenshots.py runs/digits
    python docs/screenshots.py runs/signs -signs.webp heat

RUN is a finished run with its report. `report.png` shows its beginning, and below it the map with a lasso's selection;
`review.png` the review page with some images selected, and below it a question of "Review these".
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "tests"), str(HERE.parent / "benchmarks")]

from _review.runs import served  # noqa: E402

from browser import Page, chromium  # noqa: E402

WIDTH, TOP, BOTTOM = 1280, 836, 740  # pixels
REVIEW = 760  # pixels, of the review page


def main(run: Path, ending: str = ".png", switch: str = "") -> None:
    """Writes docs/report.png and docs/review.png; `ending` takes the place of theirs, `heat` switches heat maps on."""
    report(run, f"report{ending}", switch)
    review(run, f"review{ending}")


def report(run: Path, name: str, switch: str) -> None:
    """Writes a picture of the report, with one of its boxes checked if it is named."""
    with chromium() as page, tempfile.TemporaryDirectory() as folder:
        page.view(WIDTH, TOP)
        page.open(run / "report.html")
        if switch:
            page.click(f"#{switch}")
        parts = [_taken(page, Path(folder) / "top.png")]
        page.view(WIDTH, BOTTOM)
        page.js("document.querySelector('nav').hidden = true")
        page.js("scrollTo({top: document.querySelector('#map').offsetTop - 24, behavior: 'instant'})")
        box = page.js("document.querySelector('#canvas').getBoundingClientRect().toJSON()")
        x, y, reach = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, box["height"] / 4
        page.js("document.querySelector('.tools button').click()")
        page.drag(
            *((x + a * reach, y + b * reach) for a, b in ((-1, -0.4), (0.2, -1), (0.8, 0), (0.3, 1), (-0.9, 0.8)))
        )
        parts.append(_taken(page, Path(folder) / "map.png"))
    _written(parts, name)


def review(run: Path, name: str) -> None:
    """Writes a picture of the review of a copy of the run: what is corrected for it is in the picture alone."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / run.resolve().name
        shutil.copytree(run, copy, ignore=shutil.ignore_patterns("review", ".lock", "*.html", "*.png"))
        with served(copy, errors=Path(folder) / "errors.txt") as server, chromium() as page:
            page.view(WIDTH, REVIEW)
            page.open(f"http://127.0.0.1:{server.port}/{server.token}/")
            page.click(".cell[data-place='2']")
            page.click(".cell[data-place='5']", "Shift")
            page.press("c")  # right as they are
            page.until("store.undo")
            page.press("]")
            page.click(".cell[data-place='1']")
            for place in (4, 11, 12):
                page.click(f".cell[data-place='{place}']", "Control")
            parts = [_taken(page, Path(folder) / "grid.png")]
            page.press("r")
            page.until("document.querySelector('.question .whole')?.complete")
            page.press("Enter")
            page.until("document.querySelector('.question .whole')?.complete")
            parts.append(_taken(page, Path(folder) / "question.png"))
    _written(parts, name)


def _written(parts: list[Image.Image], name: str) -> None:
    sheet = Image.new("RGB", (WIDTH, sum(part.height for part in parts)))
    top = 0
    for part in parts:
        sheet.paste(part, (0, top))
        top += part.height
    sheet.save(HERE / name, optimize=True, quality=92)


def _taken(page: Page, path: Path) -> Image.Image:
    page.js("new Promise(done => setTimeout(done, 1000))")
    page.picture(path)
    return Image.open(path).convert("RGB")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
