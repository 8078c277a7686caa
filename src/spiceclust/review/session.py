"""A run under review: what is known of it, its corrections, its pictures. Everything that the routes ask for.

n rows of the manifest, C' clusters with those that were split off.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from spiceclust.config import choose
from spiceclust.corrections import Action, Learn, Merge, Name, Split, action_of, corrected
from spiceclust.data.images import planes, readers
from spiceclust.data.sources import Source
from spiceclust.data.wording import counted, printable
from spiceclust.errors import ConfigError, SourceError
from spiceclust.functional.halves import halves
from spiceclust.journal import FOLDER, Journal, open_journal
from spiceclust.outputs.export import export_images
from spiceclust.outputs.layouts import LAYOUTS
from spiceclust.outputs.originals import images_of
from spiceclust.outputs.packing import STEPS, fitted, packed
from spiceclust.outputs.report.cards import runners_up
from spiceclust.outputs.safe_names import safe_names
from spiceclust.progress import Progress
from spiceclust.result import Result
from spiceclust.review.embeddings import Embeddings
from spiceclust.review.ledger import Ledger
from spiceclust.review.lessons import Lessons
from spiceclust.review.pictures import Pictures

if TYPE_CHECKING:
    from spiceclust.shipped import Model

EXPORTS: Final = "exports"  # in the review folder of a run
STATUS: Final = {"ok": 0, "duplicate": 1, "quarantined": 2}


class Session:
    """One run, for any number of threads; one change at a time. `open_session` gives it.

    Attributes:
        result: what the run found, which never changes.
        pictures: its images; None where they are not there any more.
        embeddings: of its images.
        ledger: its corrections.
        lessons: what is learned from them.
    """

    def __init__(
        self,
        run: Path,
        result: Result,
        journal: Journal,
        source: Source | None,
        pictures: Pictures | None,
        missing: str,
    ) -> None:
        self.result, self.pictures = result, pictures
        self.embeddings = Embeddings(run, result.run, result.rows)
        self.ledger = Ledger(journal)
        self.lessons = Lessons(run, result, self.ledger, self.embeddings)
        self._run, self._source, self._missing = run, source, missing
        self._exporting, self._loading = threading.Lock(), threading.Lock()
        self._loaded: Model | None = None

    def facts(self) -> dict[str, Any]:
        """What stays as it is while the page is open."""
        return {
            "name": printable(self._run.resolve().name),
            "source": self.result.run.get("source", ""),
            "n": len(self.result.rows),
            "nClusters": self.result.n_clusters,
            "missing": self._missing,
            "placed": self.result.run.get("positions", "PCA"),
            "kinds": list(LAYOUTS),
            "command": f"spiceclust review {printable(str(self._run))}",
        }

    def points(self) -> dict[str, Any]:
        """Numbers of all n rows, as base64 of little-endian integers; zeros for a quarantined row."""
        result = self.result
        found = result.labels >= 0
        positions = None
        if result.positions is not None:
            places = np.zeros((len(found), 2))
            places[found] = fitted(result.positions[found]) if found.any() else 0
            positions = packed(places, "<u2")
        return {
            "positions": positions,
            "confidence": packed(np.rint(result.confidence * STEPS), "<u2"),
            "reliable": packed(result.reliable, "<u1"),
            "runnersUp": packed(np.where(found, runners_up(result), 0), "<u2"),
            "status": packed(np.array([STATUS[row.status] for row in result.rows]), "<u1"),
        }

    def state(self) -> dict[str, Any]:
        """What the corrections so far make of the result."""
        version, state, done, undone = self.ledger.now()
        return {
            "version": version,
            "labels": packed(state.labels, "<i4"),
            "fixed": packed(state.fixed, "<u1"),
            "nClusters": state.n_clusters,
            "names": {str(cluster): name for cluster, name in state.names.items()},
            "merged": {str(cluster): into for cluster, into in state.merged.items()},
            "sizes": np.bincount(state.labels[state.labels >= 0], minlength=state.n_clusters).tolist(),
            "head": state.head,
            "undo": told(done[-1]) if done else "",
            "redo": told(undone) if undone else "",
        }

    def act(self, content: dict[str, Any]) -> None:
        """Does what a person said: `learn` needs only the digest of what `lessons.learn` proposed.

        Raises:
            ConfigError: it is no correction, or cannot be.
            RunFolderError: it cannot be written; nothing has changed.
        """
        if content.get("do") == "learn":
            self.lessons.accept(content.get("head"))
        else:
            self.ledger.do(action_of(content))

    def known(self, row: int) -> int:
        """The number of a row.

        Raises:
            ConfigError: there is no such row.
        """
        if not 0 <= row < len(self.result.rows):
            raise ConfigError(f"there is no image {row}: they count from 0 to {len(self.result.rows) - 1}")
        return row

    def readable(self, row: int) -> int:
        """The number of a row that has an image.

        Raises:
            ConfigError: there is no such row, or it could not be read.
        """
        if self.result.rows[self.known(row)].status == "quarantined":
            raise ConfigError(f"image {row} could not be read")
        return row

    def heat(self, row: int, pictures: Pictures) -> dict[str, Any]:
        """Where an image speaks for the cluster that it is in, or was found in where the classifier knows no other.

        Raises:
            ConfigError: the encoder has no map, or cannot be had.
            SourceError: the image is not there as the run saw it.
            RunFolderError: the model is damaged.
        """
        import torch

        from spiceclust.localisation import heat_answer, refuse_embeddings

        model = self._model()
        refuse_embeddings(model)
        label = int(self.ledger.now().state.labels[row])
        cluster = label if 0 <= label < self.result.n_clusters else int(self.result.labels[row])
        pixels = planes(pictures.square(row, model.image_size), model.channels)
        return heat_answer(model, torch.from_numpy(pixels.copy()), cluster)

    def _model(self) -> Model:
        import torch

        from spiceclust.shipped import load_model

        with self._loading:
            if self._loaded is None:
                self._loaded = load_model(self._run, torch.device("cpu"))
            return self._loaded

    def split(self, cluster: int) -> dict[str, Any]:
        """Which images of a cluster would leave it, if its embeddings are parted in two, and how well that fits.

        Raises:
            ConfigError: there is no such cluster, or it has fewer than two different images.
            RunFolderError: the embeddings are not there.
        """
        state = self.ledger.now().state
        if cluster not in state.active:
            raise ConfigError("there is no such cluster")
        rows = self.embeddings.rows[state.labels[self.embeddings.rows] == cluster]
        if len(rows) < 2:
            raise ConfigError(f"cluster {cluster} has {counted(len(rows), 'different image')}: two are needed")
        vectors = self.embeddings.all()[self.embeddings.index[rows]]
        leaving, score = halves(vectors.astype(np.float32))
        return {"rows": rows[leaving].tolist(), "score": round(score, 4)}

    def export(self, kind: str, name: str) -> dict[str, Any]:
        """Writes the images, as they are corrected, into a new folder of the run.

        Raises:
            ConfigError: an unknown kind.
            SourceError: the images are not there, or none is in a cluster.
            RunFolderError: there is such an export already, or it cannot be written.
        """
        if choose(LAYOUTS, kind, "kind of export").images and self._source is None:
            raise SourceError(f"there are no images to export ({self._missing})")
        if not name.strip():
            raise ConfigError("the export needs a name")
        (safe,) = safe_names([name], [""])
        target = self._run / FOLDER / EXPORTS / safe
        with self._exporting:
            done = export_images(corrected(self.result, self.ledger.now().state), target, kind, source=self._source)
        return {"folder": printable(str(done.folder)), "images": done.images, "left_out": len(done.left_out)}


@contextmanager
def open_session(run: Path, source: str | None, progress: Progress) -> Iterator[Session]:
    """A run to review; other processes are kept from correcting it meanwhile.

    Args:
        run: its folder.
        source: the images; None opens those that were clustered. Where these are not there any more, there are no
            pictures, and that is said.
        progress: told of it.

    Raises:
        SourceError: the images that are given cannot be opened.
        RunFolderError: it is no finished run, or another process reviews it.
    """
    result = Result.load(run)
    images, missing = images_of(result, run, source, progress)
    pictures = None
    with ExitStack() as opened:
        journal = opened.enter_context(open_journal(run, result, progress))
        if images is not None:
            pictures = Pictures(images, result.rows, opened.enter_context(readers(images)))
        yield Session(run, result, journal, images, pictures, missing)


def told(action: Action) -> str:
    """An action in words, for the buttons that take it back."""
    match action:
        case Name(cluster=cluster, name=name):
            return (
                f'name cluster {cluster} "{name.strip()}"'
                if name.strip()
                else f"take the name of cluster {cluster} away"
            )
        case Merge(clusters=clusters, into=into):
            return f"merge {', '.join(map(str, clusters[:5]))}{', ...' if clusters[5:] else ''} into {into}"
        case Split(cluster=cluster, rows=rows):
            return f"split {counted(len(rows), 'image')} off cluster {cluster}"
        case Learn(rows=rows):
            return f"learn: {counted(len(rows), 'image')} changed"
        case _:
            images = counted(len(action.rows), "image")
            return {
                "move": f"move {images} to cluster {getattr(action, 'to', '')}",
                "confirm": f"confirm {images}",
                "nowhere": f"put {images} nowhere",
            }[action.do]
