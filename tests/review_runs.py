"""A run under review, without a server: its routes are called as they are."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _review.runs import make_run, rows_of
from numpy.typing import NDArray
from PIL import Image
from starlette.testclient import TestClient

from pictures import picture
from spiceclust.data.sources import open_source
from spiceclust.progress import Silent
from spiceclust.result import Result
from spiceclust.review.serve import make_app
from spiceclust.review.session import Session, open_session

PORT, TOKEN = 8765, "Zx" * 21 + "a"
ORIGIN = f"http://127.0.0.1:{PORT}"
N, CLUSTERS = 40, 4


@dataclass(frozen=True)
class Reviewed:
    """What a test of a route needs."""

    run: Path
    photos: Path
    result: Result
    session: Session
    client: TestClient

    def get(self, path: str, status: int = 200) -> Any:
        """The JSON at a path; checks the status."""
        answer = self.client.get(f"/{TOKEN}/{path}")
        assert answer.status_code == status, answer.text
        return answer.json()

    def post(self, path: str, content: Any, status: int = 200) -> Any:
        """What comes back for JSON; checks the status."""
        answer = self.client.post(f"/{TOKEN}/{path}", json=content, headers={"Origin": ORIGIN})
        assert answer.status_code == status, answer.text
        return answer.json()

    def sheet(self, path: str) -> NDArray[np.uint8]:
        """(H, W, 3) of a picture at a path."""
        answer = self.client.get(f"/{TOKEN}/{path}")
        assert answer.status_code == 200, answer.text
        return np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGB"))


def make_photos(folder: Path, n: int = N) -> None:
    """PNG files: number 0 cannot be read, 2 is a copy of 1, 3 is tiny, 4 is large and wide, the others 20 x 20."""
    folder.mkdir(parents=True)
    sizes = {3: (8, 8), 4: (900, 300)}
    for i in range(n):
        Image.fromarray(picture(i, *sizes.get(i, (20, 20)))).save(folder / f"{i:03}.png")
    (folder / "000.png").write_bytes(b"no picture")
    (folder / "002.png").write_bytes((folder / "001.png").read_bytes())


@contextmanager
def reviewed(folder: Path, photos: Path | None = None, source: str | None = None) -> Iterator[Reviewed]:
    """A run of `make_photos`, or of given ones, under review."""
    if photos is None:
        photos = folder / "photos"
        make_photos(photos)
    run = folder / "run"
    found = open_source(photos)
    result = make_run(run, rows_of(found), CLUSTERS, root=str(photos))
    with open_session(run, source, Silent()) as session:
        client = TestClient(make_app(session, TOKEN, PORT), base_url=ORIGIN, follow_redirects=False)
        yield Reviewed(run, photos, result, session, client)
