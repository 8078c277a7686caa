"""`Spice`: the whole method behind scikit-learn's contract."""

from __future__ import annotations

import numbers
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.exceptions import NotFittedError
from sklearn.utils import check_random_state

from spiceclust import pipeline, prediction
from spiceclust.config import Request, make_request
from spiceclust.data.sources import open_source
from spiceclust.errors import RunFolderError
from spiceclust.progress import for_stderr
from spiceclust.result import Result

ImagesLike = str | Path | NDArray[Any] | Sequence[str | Path]


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
        encoder: `moco` learns the features from these images.
        views: `auto`, `natural`, `aligned`, `glyph` or `texture`: which changes leave the meaning of an image as it is.
        image_size: side in pixels to which images are resized; None derives it from the images and the preset.
        device: `auto`, `cpu`, `cuda`, ...
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
        encoder: str = "moco",
        views: str = "auto",
        image_size: int | None = None,
        device: str = "auto",
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
        result = pipeline.fit(source, request, workspace.run, device=self.device, progress=progress)
        self._adopt(workspace, result)
        return self

    def predict(self, X: ImagesLike) -> NDArray[np.int64]:
        """Clusters of new images: (n,) int64 in [0, C), -1 where an image cannot be read. `X` as in `fit`."""
        return self._apply(X).labels

    def predict_proba(self, X: ImagesLike) -> NDArray[np.float32]:
        """Probabilities of the clusters: (n, C) float32, zeros where an image cannot be read. `X` as in `fit`."""
        return self._apply(X).probabilities

    def transform(self, X: ImagesLike) -> NDArray[np.float32]:
        """L2-normalised embeddings: (n, D) float32, zeros where an image cannot be read. `X` as in `fit`."""
        return prediction.transform(self._run_folder(), open_source(X), device=self.device)

    def save(self, folder: str | Path) -> None:
        """Copies the run folder to `folder`, which must be new or empty; `contact_sheet` draws what the command adds.

        Raises:
            RunFolderError: there are files in it, or it cannot be written.
        """
        target = Path(folder)
        source = self._run_folder()
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise RunFolderError(f"{target} is not an empty folder: choose another one")
        try:
            shutil.copytree(source, target, dirs_exist_ok=True)
        except OSError as error:
            raise RunFolderError(f"{target} cannot be written ({error}): choose another folder") from None

    @classmethod
    def load(cls, folder: str | Path) -> Spice:
        """A fitted model from a run folder, whether `save` or the command `spiceclust fit` made it.

        Raises:
            RunFolderError: `folder` is not a finished run.
        """
        run = Path(folder)
        result = Result.load(run)
        asked = dict(result.run["request"])
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
        return prediction.predict(self._run_folder(), open_source(X), device=self.device)

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
            encoder=self.encoder,
            views=self.views,
            image_size=self.image_size,
            overrides=self.config or {},
        )
