"""A finished run and shards for it, for the tests of bulk predictions."""

import io
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from spiceclust import pipeline
from spiceclust.config import make_request
from spiceclust.data.sources import open_source
from synthetic import shapes
from test_pipeline import TINY


def make_run(folder: Path) -> Path:
    pipeline.fit(open_source(shapes(20)[0]), make_request(n_clusters=3, overrides=TINY), folder)
    return folder


def contents(seed: int) -> list[bytes]:
    """Six pictures as files, the fourth of seed 1 damaged."""
    found = []
    for image in shapes(2, seed=seed)[0]:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "png")
        found.append(file.getvalue())
    return [content[:20] if (seed, i) == (1, 3) else content for i, content in enumerate(found)]


def write_source(root: Path, kind: str) -> None:
    for seed in range(3):
        names = [f"{seed}{i}.png" for i in range(6)]
        if kind == "tables":
            root.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.table({"image": contents(seed), "path": names}), root / f"s{seed}.parquet")
        elif kind == "tars":
            root.mkdir(parents=True, exist_ok=True)
            with tarfile.open(root / f"s{seed}.tar", "w") as tar:
                for name, content in zip(names, contents(seed), strict=True):
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
        else:
            (root / str(seed)).mkdir(parents=True, exist_ok=True)
            for name, content in zip(names, contents(seed), strict=True):
                (root / str(seed) / name).write_bytes(content)
