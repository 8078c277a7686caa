"""The pictures of pages in this folder, taken in a headless Chromium.

    python docs/screenshots.py runs/digits

RUN is a finished run with its report. `report.png` shows its beginning, and below it the map with a lasso's selection.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from PIL import Image

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

from browser import Page, chromium  # noqa: E402

WIDTH, TOP, BOTTOM = 1280, 836, 740  # pixels


def main(run: Path) -> None:
    """Writes docs/report.png."""
    with chromium() as page, tempfile.TemporaryDirectory() as folder:
        page.view(WIDTH, TOP)
        page.open(run / "report.html")
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
    sheet = Image.new("RGB", (WIDTH, TOP + BOTTOM))
    for part, top in zip(parts, (0, TOP), strict=True):
        sheet.paste(part, (0, top))
    sheet.save(HERE / "report.png", optimize=True)


def _taken(page: Page, path: Path) -> Image.Image:
    page.js("new Promise(done => setTimeout(done, 1000))")
    page.picture(path)
    return Image.open(path).convert("RGB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
