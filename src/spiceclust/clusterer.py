"""`Spice`: the whole method behind scikit-learn's contract."""

from __future__ import annotations

import numbers
import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.exceptions import NotFittedError
from sklearn.utils import check_random_state
from torch import Generator, Tensor, nn

from spiceclust import pipeline, prediction
from spiceclust.config import OWN_VIEWS, Request, make_request
from spiceclust.data.sources import open_source
from spiceclust.data.vectors import open_inputs
from spiceclust.errors import ConfigError
from spiceclust.given import Own
from spiceclust.progress import for_stderr
from spiceclust.result import Result
from spiceclust.staging import copy_folder

ImagesLike = str | Path | NDArray[Any] | Sequence[str | Path]
MakeViews = Callable[[Tensor, Generator], Tensor]


class _Workspace:
    """A temporary run folder that lives as long as a model uses it, and goes along with its copies and pickles."""

    def __init__(self) -> None:
        self.run = Path(tempfile.mkdtemp(prefix="spiceclust-"))
        weakref.finalize(self, shutil.rmtree, self.run, ignore_errors=True)

    def __getstate__(self) -> dict[str, bytes]:
        files = [path for path in self.run.rglob("*") if path.is_file()]
        return {path.relative_to(self.run).as_posix(): path.read_bytes() for path in files}

    def __setstate__(self, state: dict[str, bytes]) -> None:
        _Workspace.__init__(self)
        for name, content in state.items():
            (self.run / name).parent.mkdir(parents=True, exist_ok=True)
            (self.run / name).write_bytes(content)


class Spice(ClusterMixin, BaseEstimator):  # type: ignore[misc]
    """Sorts unlabelled images into semantic clusters (Niu et al. 2022).

    Args:
        n_clusters: C, at least 2; there must be at least 2 C distinct readable images.
        method: `spice`; `spice-paper`, with prototype pseudo-labels and equal quotas as published; or `scan`, the
            baseline of Van Gansbeke et al. (2020). `auto` is `spice-paper` in the preset `paper`, `spice` otherwise.
        preset: `quick` (CPU, minutes), `standard` (one GPU, or patience) or `paper` (the published schedule).
        encoder: `moco` learns the features from these images; `timm:NAME` (with weights of your own: `timm:NAME@FILE`)
            and `checkpoint:PATH` (a run of this package, or a ResNet as MoCo publishes it) bring them, and are trained
            in stage 3 alone, and there in the presets for a GPU; `embeddings:FILE.npy` has a row for each image. Or an
            nn.Module, (B, channels, S, S) float32 in [0, 1] to (B, D); `Spice.load` needs it again.
        views: `auto`, `natural`, `aligned`, `glyph` or `texture`: which changes leave the meaning of an image as it is.
            Or a function that makes them: given images (B, channels, S, S) uint8 and a torch.Generator, from which
            alone it may draw, it returns (B, channels, S, S) float32 in [0, 1].
        image_size: side in pixels to which images are resized; None derives it from the images and the preset.
        device: `auto`, `cpu`, `cuda`, ...
        pixels: where decoded images are kept while it learns: `memory`, `disk` (in the temporary folder), or `auto`,
            which is the disk where they would take more than half of the memory that can be had.
        config: parts of `spiceclust.config.FitConfig`, nested as in it, that override what the preset derives.
        verbose: whether progress goes to standard error.
        random_state: seed; None draws one.

    Attributes:
        labels_: (n,) int64 in [0, C), one for each input in its order; -1 where an image could not be read.
        probabilities_: (n, C) float32, rows sum to 1, zeros where an image could not be read.
        reliable_: (n,) bool, True where the nearest neighbours agree with the label.
        paths_: n strings: paths relative to the folder, paths as given, or row numbers of an array.
        result_: the whole `Result`, for reports.

    Example:
        >>> from spiceclust import Spice
        >>> model = Spice(n_clusters=10).fit("photos/")  # doctest: +SKIP
        >>> model.labels_  # doctest: +SKIP
    """

    def __init__(
        self,
        n_clusters: int = 10,
        *,
        method: str = "auto",
        preset: str = "quick",
        encoder: str | nn.Module = "moco",
        views: str | MakeViews = "auto",
        image_size: int | None = None,
        device: str = "auto",
        pixels: str = "auto",
        config: dict[str, Any] | None = None,
        verbose: bool = False,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.method = method
        self.preset = preset
        self.encoder = encoder
        self.views = views
        self.image_size = image_size
        self.device = device
        self.pixels = pixels
        self.config = config
        self.verbose = verbose
        self.random_state = random_state

    def fit(self, X: ImagesLike, y: object = None) -> Spice:
        """Learns clusters from images.

        Args:
            X: a folder (searched recursively), a list of image paths, an array (n, H, W[, 3]) uint8, or any source
                that the command takes: a .npy or .npz file, tars, Parquet, `hf:NAME`, `NAME:ROOT` of a benchmark.
            y: ignored; here for scikit-learn's contract. Labels are never read.

        Returns:
            self.

        Raises:
            ConfigError: a parameter cannot be.
            SourceError: no readable images, or fewer than 2 C distinct ones.
            TrainingError: a stage could not go on.
        """
        request, source = self._request(), open_source(X)
        workspace = _Workspace()
        progress = for_stderr() if self.verbose else None
        own = Own(self._module(), None if isinstance(self.views, str) else self.views)
        result = pipeline.fit(
            source, request, workspace.run, device=self.device, progress=progress, own=own, pixels=self.pixels
        )
        self._adopt(workspace, result)
        return self

    def predict(self, X: ImagesLike) -> NDArray[np.int64]:
        """Clusters of new images: (n,) int64 in [0, C), -1 where an image cannot be read.

        `X` as in `fit`. A model that was made of embeddings takes `embeddings:FILE.npy` or an array (n, D) of floats.
        """
        return self._apply(X).labels

    def predict_proba(self, X: ImagesLike) -> NDArray[np.float32]:
        """Probabilities of the clusters: (n, C) float32, zeros where an image cannot be read. `X` as in `predict`."""
        return self._apply(X).probabilities

    def transform(self, X: ImagesLike) -> NDArray[np.float32]:
        """L2-normalised embeddings: (n, D) float32, zeros where an image cannot be read. `X` as in `predict`."""
        return prediction.transform(self._run_folder(), open_inputs(X), device=self.device, own=self._module())

    def save(self, folder: str | Path) -> None:
        """Copies the run folder to `folder`, which must be new or empty, whole or not at all.

        `report` and `contact_sheet` make the rest.

        Raises:
            RunFolderError: there are files in it, or it cannot be written.
        """
        copy_folder(self._run_folder(), Path(folder))

    @classmethod
    def load(cls, folder: str | Path, *, encoder: nn.Module | None = None, views: MakeViews | None = None) -> Spice:
        """A fitted model from a run folder, whether `save` or the command `spiceclust fit` made it.

        Args:
            folder: the run.
            encoder: the module, where the run was made with one; its weights come from the run, if it learned there.
            views: the function that made the views, where the run had one and you mean to fit again.

        Raises:
            RunFolderError: `folder` is not a finished run.
            ConfigError: an encoder is needed and not given, or the other way round.
        """
        run = Path(folder)
        result = Result.load(run)
        asked = dict(result.run["request"])
        if asked["encoder"].startswith("module:") != (encoder is not None):
            wanted = (
                "is your own: give it, Spice.load(folder, encoder=...)"
                if encoder is None
                else "is in the run: give none"
            )
            raise ConfigError(f"the encoder of {run}, {asked['encoder'].removeprefix('module:')}, {wanted}")
        asked.update(({} if encoder is None else {"encoder": encoder}) | ({} if views is None else {"views": views}))
        model = cls(random_state=asked.pop("seed"), config=asked.pop("overrides") or None, **asked)
        model._adopt(run, result)
        return model

    def _adopt(self, home: _Workspace | Path, result: Result) -> None:
        self._home = home
        self.result_ = result
        self.labels_ = result.labels
        self.probabilities_ = result.probabilities
        self.reliable_ = result.reliable
        self.paths_ = [row.path for row in result.rows]

    def _apply(self, X: ImagesLike) -> Result:
        return prediction.predict(self._run_folder(), open_inputs(X), device=self.device, own=self._module())

    def _module(self) -> nn.Module | None:
        return self.encoder if isinstance(self.encoder, nn.Module) else None

    def _run_folder(self) -> Path:
        if not hasattr(self, "_home"):
            raise NotFittedError("this Spice is not fitted yet: call fit, or Spice.load on a run folder")
        return self._home if isinstance(self._home, Path) else self._home.run

    def _request(self) -> Request:
        state = self.random_state
        seed = int(state) if isinstance(state, numbers.Integral) else int(check_random_state(state).randint(2**31))
        return make_request(
            n_clusters=self.n_clusters,
            seed=seed,
            method=self.method,
            preset=self.preset,
            encoder=self.encoder if self._module() is None else f"module:{_name_of(type(self.encoder))}",
            views=f"{OWN_VIEWS}{_name_of(self.views)}" if callable(self.views) else self.views,
            image_size=self.image_size,
            overrides=self.config or {},
        )


def _name_of(thing: Any) -> str:
    """What a class or function is called; of a callable object, what its class is."""
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{named.__module__}.{named.__qualname__}"
