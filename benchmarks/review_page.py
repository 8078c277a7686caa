"""The review page with many images in one grid: seconds until it shows, and frames a second while it is scrolled.

    python benchmarks/review_page.py --images 100000

Images of waves are drawn, with a run that was never computed; the page is opened in a headless Chromium from
`spiceclust review`, and the grid of all images scrolled by the wheel.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from _review.runs import make_run, rows_of, served
from numpy.typing import NDArray

from spiceclust.data.sources import open_source

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from browser import Page, chromium

WIDTH, HEIGHT = 1280, 800  # pixels
COUNT = """
(() => {
  const own = window.frames = [];
  (function count(now) { own.push(now); if (window.frames === own) requestAnimationFrame(count); })(performance.now());
})()
"""


def main() -> None:
    """Prints what is measured, of several rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--side", type=int, default=32, help="of an image, in pixels")
    parser.add_argument("--clusters", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5, help="of scrolling, in each round and at each speed")
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images.npy"
        np.save(images, drawn(words.images, words.side))
        run = Path(folder) / "run"
        make_run(run, rows_of(open_source(str(images))), words.clusters, root=str(images))
        errors = Path(folder) / "errors.txt"
        with served(run, "--source", str(images), errors=errors) as server, chromium() as page:
            page.view(WIDTH, HEIGHT)
            for number in range(words.rounds):
                url = f"http://127.0.0.1:{server.port}/{server.token}/"
                painted, filled = opened(page, url)
                print(f"round {number + 1}: first paint {painted:.2f} s, first pictures {filled:.2f} s")
                page.js("showCluster(ALL)")
                for speed in (120, 1200):
                    rate, longest, waited = scrolled(page, speed, words.seconds)
                    print(
                        f"  wheel by {speed} pixels: {rate:.0f} frames/s, longest {longest * 1000:.0f} ms, "
                        f"pictures there {waited:.2f} s after"
                    )
            print(f"cells in the page: {page.js('grid.cells.size')} of {page.js('grid.rows.length'):,}")


def drawn(n: int, side: int) -> NDArray[np.uint8]:
    """(n, side, side, 3): each a sum of two coloured waves."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side].astype(np.float32) / side
    found = np.empty((n, side, side, 3), np.uint8)
    for i in range(n):
        colours, (a, b, c, d) = rng.uniform(0, 110, (2, 3)), rng.uniform(-12, 12, 4)
        waves = np.stack([np.sin(a * x + b * y) + 1, np.cos(c * x + d * y) + 1], axis=-1)
        found[i] = waves @ colours / 2
    return found


def opened(page: Page, url: str) -> tuple[float, float]:
    """Seconds from asking for the page to its first paint with the grid, and to the first pictures."""
    page.send("Network.clearBrowserCache")
    begun = time.perf_counter()
    page.open(url)
    page.js("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    painted = time.perf_counter() - begun
    page.until(FILLED)
    return painted, time.perf_counter() - begun


FILLED = "[...grid.cells.values()].slice(0, 40).every(cell => !cell.firstChild.hidden)"
IN_VIEW_FILLED = """
(([from, to]) => [...grid.cells].every(([place, cell]) =>
  place < from || place >= to || !cell.firstChild.hidden))(grid.places())
"""


def scrolled(page: Page, step: int, seconds: float) -> tuple[float, float, float]:
    """Frames a second while the wheel turns, the longest time between two, and how long pictures were waited for."""
    x, y = WIDTH * 0.6, HEIGHT / 2
    page.js(COUNT)
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds:
        page.wheel(x, y, step)
        time.sleep(0.01)
    times = np.array(page.js("(own => { window.frames = null; return own; })(frames)"))
    done = time.perf_counter()
    page.until(IN_VIEW_FILLED)
    waited = time.perf_counter() - done
    gaps = np.diff(times) / 1000
    return (len(times) - 1) / ((times[-1] - times[0]) / 1000), float(gaps.max()), waited


if __name__ == "__main__":
    main()
