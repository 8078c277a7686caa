"""The review page of very many images: how long its routes take, and how much memory the server has."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from _review.fuzz import Answer, Request, ask
from _review.runs import Server, make_run, rows_of, served
from spiceclust.data.sources import open_source

SIDE, CLUSTERS, FEATURES = 32, 20, 512
SHEET = 256  # images
READERS = 4  # sheets that a page asks for at once
REPEATS = 5


def make_images(file: Path, n: int) -> None:
    """An .npy file of (n, 32, 32, 3) uint8: blotches, each image of its own."""
    images = np.lib.format.open_memmap(file, "w+", np.uint8, (n, SIDE, SIDE, 3))  # type: ignore[no-untyped-call]
    rng = np.random.default_rng(0)
    for start in range(0, n, 10_000):
        few = rng.integers(0, 256, (min(10_000, n - start), 8, 8, 3), dtype=np.uint8)
        images[start : start + 10_000] = few.repeat(4, axis=1).repeat(4, axis=2)
    images.flush()


def run(n: int, folder: Path) -> dict[str, Any]:
    """Milliseconds of each route, seconds in which all images come as tiles, and bytes of memory."""
    images, place = folder / "images.npy", folder / "run"
    make_images(images, n)
    make_run(place, rows_of(open_source(images)), CLUSTERS, FEATURES)
    begin = time.perf_counter()
    with served(place, "--source", str(images), errors=folder / "errors.txt") as server:
        found: dict[str, Any] = {"images": n, "start, s": round(time.perf_counter() - begin, 2)}
        found["memory at the start, MB"] = server.memory("VmHWM") // 10**6
        found["ms"] = _times(server, n)
        begin = time.perf_counter()
        with ThreadPoolExecutor(READERS) as pool:
            for answer in pool.map(lambda start: _get(server, _tiles(start, n)), range(0, n, SHEET)):
                assert answer.status == 200
        found["all tiles once, s"] = round(time.perf_counter() - begin, 1)
        found["memory at the most, MB"] = server.memory("VmHWM") // 10**6
        found["of it at the end without pages of files, MB"] = server.memory("RssAnon") // 10**6
    assert not (folder / "errors.txt").read_text()
    return found


def _times(server: Server, n: int) -> dict[str, list[float]]:
    """By route: milliseconds of the first request, and the median of some more."""
    rng = np.random.default_rng(1)

    def some() -> str:
        return f"tiles?side=64&rows={','.join(map(str, rng.integers(0, n, SHEET)))}"

    gets = {
        "run": lambda: "run",
        "points": lambda: "points",
        "state": lambda: "state",
        "paths, 1,000": lambda: f"paths?start={n // 2}&stop={n // 2 + 1000}",
        "tiles, 256 in a row": lambda: _tiles(int(rng.integers(0, max(1, n - SHEET))), n),
        "tiles, 256 from anywhere": some,
        "picture": lambda: f"picture?row={rng.integers(n)}",
        "similar, 100": lambda: f"similar?row={rng.integers(n)}&k=100",
    }
    posts = {
        "act, 1 image": lambda: ("act", {"do": "move", "rows": [int(rng.integers(n))], "to": 3}),
        "act, a tenth": lambda: (
            "act",
            {"do": "move", "rows": np.arange(0, n, 10).tolist(), "to": int(rng.integers(9))},
        ),
        "undo": lambda: ("undo", {}),
        "split": lambda: ("split", {"cluster": 7}),
    }
    times = {name: _repeated(lambda path=path: _get(server, path())) for name, path in gets.items()}  # type: ignore[misc]
    return times | {name: _repeated(lambda call=call: _post(server, *call())) for name, call in posts.items()}  # type: ignore[misc]


def _repeated(call: Any) -> list[float]:
    times = []
    for _ in range(1 + REPEATS):
        begin = time.perf_counter()
        answer = call()
        times.append(1000 * (time.perf_counter() - begin))
        assert answer.status == 200, answer.body[:300]
    return [round(times[0], 1), round(float(np.median(times[1:])), 1)]


def _tiles(start: int, n: int) -> str:
    return f"tiles?side=64&rows={','.join(map(str, range(start, min(start + SHEET, n))))}"


def _get(server: Server, path: str) -> Answer:
    return ask(server.port, Request(_head(server, "GET", path) + b"\r\n", True, True))


def _post(server: Server, path: str, content: dict[str, Any]) -> Answer:
    body = json.dumps(content).encode()
    more = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    return ask(server.port, Request(_head(server, "POST", path) + more + body, True, True))


def _head(server: Server, method: str, path: str) -> bytes:
    head = f"{method} /{server.token}/{path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nConnection: close\r\n"
    return head.encode()
