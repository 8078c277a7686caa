"""A finished run in a form that others use: its images by cluster, its labels as a table, its classifier, a report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from spiceclust.config import choose
from spiceclust.corrections import corrected
from spiceclust.data.sources import Source, open_source
from spiceclust.errors import ConfigError, InputError
from spiceclust.journal import read_corrections
from spiceclust.outputs.export import Exported, export_images
from spiceclust.outputs.layouts import LAYOUTS
from spiceclust.outputs.originals import images_of
from spiceclust.outputs.report.heat import Heat, rows_to_heat
from spiceclust.outputs.report.page import write_report
from spiceclust.progress import Progress, Silent
from spiceclust.result import Result

# How to open each kind; `{}` stands for the folder.
HINTS: Final = {
    **{kind: layout.hint for kind, layout in LAYOUTS.items()},
    "onnx": "onnxruntime.InferenceSession('{}/model.onnx')",
    "safetensors": "spiceclust predict '{}' SOURCE --out clusters.csv",
}


def export(
    run: str | Path,
    to: str | Path,
    kind: str,
    *,
    only: str = "all",
    link: str = "copy",
    source: Any = None,
    encoder: Any = None,
    corrections: bool = True,
    progress: Progress | None = None,
) -> Exported:
    """Writes a finished run into a new folder, in a form that other programs read.

    Args:
        run: a run folder.
        to: the folder to make, new or empty; nothing is overwritten. It is there only when it is whole, and the same
            call again goes on where an interrupted one stopped.
        kind: `folders` (a folder for each cluster), `csv`, `parquet`, `imagefolder` (Hugging Face), `coco`,
            `labelstudio`, `fiftyone`; or the classifier as `onnx` or `safetensors`.
        only: `all` images or the `reliable` ones.
        link: `copy`, `hard` or `symlink`: how files come into the folder. A hard link is the same file under another
            name: a program that changes one in place changes both.
        source: the images, as in `fit`; None opens the folder that was clustered.
        encoder: the module, where the run was made with one of your own and `kind` is `onnx`.
        corrections: whether those that a person made in `spiceclust review`, if any, are applied; a classifier has
            the names, and the rest as far as its head has learned from it there.
        progress: told of each image; silent by default.

    Returns:
        The folder, how many images are in it, and path and reason of each that is not.

    Raises:
        ConfigError: an unknown kind or choice, a choice that does not go with the kind, an extra is missing, or the
            encoder cannot be written as `onnx`.
        SourceError: the images are not there any more.
        RunFolderError: `run` is not a finished run, its corrections are damaged or of another result, or `to` is not
            empty or cannot be written.
    """
    hint = choose(HINTS, kind, "kind of export")
    if kind not in LAYOUTS and (only, link, source) != ("all", "copy", None):
        raise ConfigError(f"{kind} holds no images: leave out only, link and source, which choose among images")
    images = None if source is None else open_source(source, exclude=[Path(to)])
    result = Result.load(Path(run))
    state = read_corrections(Path(run), result) if corrections else None
    if state is not None and (kind in LAYOUTS or state.head):  # a classifier knows what its head has learned
        result = corrected(result, state)
    elif state is not None:
        names = {cluster: name for cluster, name in state.names.items() if cluster < result.n_clusters}
        result = replace(result, names=names)
    if kind in LAYOUTS:
        return export_images(result, Path(to), kind, only=only, link=link, source=images, progress=progress)
    from spiceclust.model_export import export_model  # loads torch, which no other kind needs

    export_model(Path(run), result, Path(to), kind, hint, encoder, state.head if state else "")
    return Exported(Path(to), 0, [])


def report(run: str | Path, *, source: Any = None, progress: Progress | None = None) -> Path:
    """Writes what a finished run found as one page, `report.html` in its folder, which needs no network.

    Args:
        run: a run folder.
        source: the images, as in `fit`; None opens those that were clustered. Where these are not there any more, the
            report is made without pictures, and says so.
        progress: told of each picture that is read, and of pictures that are missing; silent by default.

    Returns:
        The path of the page.

    Raises:
        SourceError: the images that are given cannot be opened.
        RunFolderError: `run` is not a finished run, cannot be written, or another process is writing there.
    """
    folder, told = Path(run), progress or Silent()
    result = Result.load(folder)
    images, missing = images_of(result, folder, source, told)
    heat = None if images is None else heat_of(folder, result, images, progress=told)
    return write_report(folder, result, images, missing=missing, heat=heat, progress=told)


def heat_of(
    run: Path, result: Result, images: Source, *, device: str = "auto", progress: Progress | None = None
) -> Heat | None:
    """What made the typical images of a run belong to their clusters, for its report; None where its model cannot tell.

    Args:
        run: the run folder.
        result: what it found.
        images: those that were clustered.
        device: where to compute.
        progress: told of each image, and why there is none.
    """
    from spiceclust.localisation import heat_of_rows, refuse_embeddings  # these load torch
    from spiceclust.prediction import open_model

    told = progress or Silent()
    try:
        model = open_model(run, device)
        refuse_embeddings(model)
        chosen = rows_to_heat(result, model.image_size)
        return Heat(*heat_of_rows(model, images, result.rows, result.labels, chosen, told))
    except InputError as error:
        told.say(f"no heat maps: {error}")
        return None
