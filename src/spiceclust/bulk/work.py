"""From a shard to its table: what a worker does, on whatever machine; and the engine that does it here, one by one."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from spiceclust.bulk.places import Place
from spiceclust.bulk.shards import Shard, open_shard
from spiceclust.bulk.tables import Done, Tables
from spiceclust.data.decoder import Decoder
from spiceclust.data.wording import why
from spiceclust.errors import SourceError
from spiceclust.prediction import open_model, stream
from spiceclust.progress import Silent

PAUSES: Final = (1.0, 5.0, 20.0)  # seconds before each further try of a place that does not answer


@dataclass(frozen=True)
class Job:
    """What all shards have in common.

    Attributes:
        root, kind, column: of the listing.
        out: the path or URL of the folder of tables.
        key: of these.
        features: D, where embeddings are written too; otherwise 0.
        device: where to compute.
    """

    root: str
    kind: str
    column: str
    out: str
    key: str
    features: int
    device: str

    def to_json(self) -> str:
        """As text."""
        return json.dumps(asdict(self))


class Work:
    """Holds a model and turns shards into tables, with processes that decode; use it in a `with` statement, or end it.

    Args:
        job: what they have in common.
        model: the files of `model/` by name.
        decoders: processes; None for one for each processor.

    Raises:
        RunFolderError, ConfigError: as `open_model`.
    """

    def __init__(self, job: Job, model: dict[str, bytes], decoders: int | None = None) -> None:
        with tempfile.TemporaryDirectory() as home:
            for name, content in model.items():
                (Path(home) / name).write_bytes(content)
            self.model = open_model(Path(home), job.device)
        self.job, self.tables = job, Tables(Place(job.out), job.key, job.features)
        self.decoder = Decoder(decoders).__enter__()  # kept from shard to shard

    def close(self) -> None:
        """Ends the processes."""
        self.decoder.__exit__()

    def __call__(self, shard: Shard) -> Done:
        """Makes the table of a shard; the same shard gives the same bytes.

        Raises:
            RunFolderError: it cannot be written.
            ConfigError, TrainingError: the model puts out what is not finite.
        """
        start = time.perf_counter()
        for pause in (*PAUSES, None):
            try:
                return replace(self._done(shard), seconds=time.perf_counter() - start)
            except SourceError as error:
                return Done(shard.name, failure=str(error))
            except OSError as error:
                if pause is None:
                    return Done(shard.name, failure=f"cannot be read ({why(error)}), {len(PAUSES) + 1} tries")
                time.sleep(pause)
        raise AssertionError

    def _done(self, shard: Shard) -> Done:
        job = self.job
        with tempfile.TemporaryDirectory() as scratch:
            source = replace(open_shard(shard, job.root, job.kind, job.column, Path(scratch)), decoder=self.decoder)
            with closing(stream(self.model, source, Silent())) as chunks:  # type: ignore[type-var]
                return self.tables.write(shard, chunks)


def work_here(job: Job, model: dict[str, bytes], shards: Sequence[Shard]) -> Iterator[Done]:
    """Turns shards into tables in this process, one after the other.

    Raises:
        As `Work`.
    """
    with closing(Work(job, model)) as work:
        yield from map(work, shards)
