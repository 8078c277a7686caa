"""Bulk prediction: a source in shards, a folder of tables, and an engine that goes from one to the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

from spiceclust.bulk.places import Place
from spiceclust.bulk.shards import Shard, find_shards
from spiceclust.bulk.tables import Done, Tables
from spiceclust.bulk.work import Job, work_here
from spiceclust.config import choose
from spiceclust.data.wording import counted, one_line
from spiceclust.errors import EngineError, SourceError
from spiceclust.files import sha256_bytes, sha256_json
from spiceclust.locks import locked
from spiceclust.prediction import open_model
from spiceclust.progress import Progress
from spiceclust.shipped import VERSION, WEIGHTS, files_of_model

Engine: TypeAlias = Callable[[Job, dict[str, bytes], Sequence[Shard], str, Progress], Iterator[Done]]


def _local(
    job: Job, model: dict[str, bytes], shards: Sequence[Shard], address: str, progress: Progress
) -> Iterator[Done]:
    return work_here(job, model, shards)


def _ray(
    job: Job, model: dict[str, bytes], shards: Sequence[Shard], address: str, progress: Progress
) -> Iterator[Done]:
    from spiceclust.bulk.ray_engine import work_on_ray

    return work_on_ray(job, model, shards, address, progress)


ENGINES: Final[dict[str, Engine]] = {"local": _local, "ray": _ray}


class Summary(NamedTuple):
    """What a bulk prediction found: all its shards, rows in tables, unread images, and images a second of this call."""

    shards: int
    rows: int
    unread: int
    rate: float


def predict_shards(
    run: Path,
    source: str,
    out: str,
    progress: Progress,
    *,
    engine: str = "local",
    address: str = "",
    device: str = "auto",
    embeddings: bool = False,
) -> Summary:
    """Writes what a finished run's model says of the shards of a source, a Parquet file for each.

    The same call again goes on where an earlier one stopped: shards whose table is whole are passed over.

    Args:
        run: the run folder, of which only `model/` is read.
        source: as `find_shards` takes it.
        out: a folder, on this machine or behind a URL.
        progress: told of each shard.
        engine: `local`, in this process; or `ray`.
        address: of a Ray cluster; empty for one on this machine.
        device: where workers compute.
        embeddings: whether tables have a column of embeddings, (D,) float32, L2-normalised.

    Raises:
        SourceError: there are no shards, or the model was made of embeddings, or not one image can be read.
        ConfigError: an unknown engine, or a package that it needs is not installed.
        RunFolderError: no model in `run`; `out` holds something else, is written by another, or cannot be written.
        EngineError: some shards have no table: they are named, and the same call tries them again.
    """
    work = choose(ENGINES, engine, "engine")
    listing = find_shards(source, exclude=[run, Path(out)])
    place, files = Place(out), files_of_model(run)
    model = open_model(run, "cpu")
    if model.encoder.design.kind == "embeddings":
        raise SourceError(
            "the model was made of embeddings, and shards hold images: predict into one table, --out FILE"
        )
    features = model.n_features if embeddings else 0
    del model
    digest = sha256_bytes(files[WEIGHTS])
    job = Job(
        root=listing.root,
        kind=listing.kind,
        column=listing.column,
        out=str(place.local.absolute()) if place.local else place.url,
        key=sha256_json([VERSION, digest, features, listing.kind, listing.column, listing.root]),
        features=features,
        device=device,
    )
    with _alone(place, progress):
        tables = Tables(place, job.key, features)
        done = tables.open(listing.shards)
        left = [shard for shard in listing.shards if shard.name not in done]
        if done:
            progress.say(f"taken up again after {len(done)} of {counted(len(listing.shards), 'shard')}")
        start, images = time.perf_counter(), 0
        with progress.task("sorting shards", len(left)) as task:
            for each in work(job, files, left, address, progress) if left else ():
                done[each.shard] = each
                images += each.rows + each.unread
                rate = images / (time.perf_counter() - start)
                task.advance(1, f"{rate:,.0f} images/s")
                if each.failure:
                    progress.say(f"not done: {one_line(each.shard)}: {each.failure}")
        tables.finish(list(done.values()))
    failed = [each for each in done.values() if each.failure]
    if failed:
        raise EngineError(
            f"{len(failed)} of {len(done)} shards have no table, such as {one_line(failed[0].shard)}: "
            f"{failed[0].failure}; the same command tries these again"
        )
    rows, unread = sum(each.rows for each in done.values()), sum(each.unread for each in done.values())
    if not rows:
        raise SourceError(
            f"{one_line(listing.root)}: none of {unread} images can be read: see _unread in {place.shown}"
        )
    return Summary(len(done), rows, unread, images / (time.perf_counter() - start))


def _alone(place: Place, progress: Progress) -> AbstractContextManager[None]:
    """Keeps other processes of this machine out of a local folder; behind a URL two write the same bytes twice."""
    return locked(place.local, progress) if place.local else nullcontext()
