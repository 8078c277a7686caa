"""A finished run's classifier as files of its own: ONNX, or safetensors with a model card.

N images, C clusters, D features, S pixels a side.
"""

from __future__ import annotations

import importlib.util
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

from spiceclust.config import choose
from spiceclust.errors import ConfigError
from spiceclust.files import sha256_file, write_bytes, write_text
from spiceclust.model_card import card_of, onnx_readme
from spiceclust.models.heads import Classifier
from spiceclust.result import Result
from spiceclust.shipped import VERSION, Model, load_model
from spiceclust.staging import new_folder, refuse_full


class Form(NamedTuple):
    """One form of the classifier.

    Attributes:
        write: given the new folder, the run, its Result and its model, writes the files.
        needs: packages that are no dependency of this one.
    """

    write: Callable[[Path, Path, Result, Model], None]
    needs: tuple[str, ...]


def export_model(run: Path, target: Path, kind: str, hint: str) -> None:
    """Writes the classifier of a run into a new folder.

    Args:
        run: the run folder.
        target: the folder, new or empty.
        kind: a name of `MODELS`.
        hint: how to open it; `{}` stands for the folder.

    Raises:
        ConfigError: an unknown kind, or a package that it needs is not installed.
        RunFolderError: `run` is not finished or damaged; `target` is not empty or cannot be written.
    """
    form = choose(MODELS, kind, "kind of export")
    missing = [name for name in form.needs if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"{kind} needs {' and '.join(missing)}: pip install 'spiceclust[onnx]'")
    refuse_full(target)
    result = Result.load(run)
    model = load_model(run, torch.device("cpu"))
    about = {
        "kind": kind,
        "n_clusters": result.n_clusters,
        "model": sha256_file(run / "model" / "model.safetensors"),
        "open_with": hint.format("."),
    }
    with new_folder(target, about) as folder:
        form.write(folder, run, result, model)


class _FromPixels(nn.Module):
    """What `training.inference.classify` computes of a batch, as one module."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (N, channels, S, S) uint8 to probabilities (N, C) and L2-normalised embeddings (N, D), float32."""
        embeddings = self.classifier.embed(images.float() / 255)
        return self.classifier.head(embeddings).softmax(dim=1), embeddings


def _write_onnx(folder: Path, run: Path, result: Result, model: Model) -> None:
    """`model.onnx`, which says in its metadata how images must be prepared, and a README that shows it."""
    example = torch.zeros(2, model.channels, model.image_size, model.image_size, dtype=torch.uint8)
    with warnings.catch_warnings(action="ignore"):  # about torch's own parts
        program = torch.onnx.export(
            _FromPixels(model.classifier).eval(),
            (example,),
            dynamo=True,
            verbose=False,
            input_names=["images"],
            output_names=["probabilities", "embeddings"],
            dynamic_shapes={"images": {0: torch.export.Dim("N")}},
        )
    assert program is not None
    proto = program.model_proto
    for key, value in _onnx_metadata(result, model).items():
        proto.metadata_props.add(key=key, value=value)
    write_bytes(folder / "model.onnx", proto.SerializeToString())
    write_text(folder / "README.md", onnx_readme(result, model.image_size, model.channels))


def _onnx_metadata(result: Result, model: Model) -> dict[str, str]:
    colours = "RGB" if model.channels == 3 else "grey, the luminance of ITU-R 601"
    size = model.image_size
    return {
        "spiceclust": VERSION,
        "image_size": str(size),
        "channels": str(model.channels),
        "n_clusters": str(result.n_clusters),
        "input": f"images: (N, {model.channels}, {size}, {size}) uint8 in [0, 255], {colours}; normalised inside",
        "preprocessing": (
            "turn as EXIF says, lay transparency on white, crop the centre square, resize to image_size with Lanczos "
            "where that shrinks and bicubic where it enlarges (Pillow, reducing_gap=3.0)"
        ),
        "output": "probabilities: (N, n_clusters), rows sum to 1; embeddings: (N, D), L2-normalised; float32",
        "cluster_names": json.dumps(result.cluster_names),
    }


def _write_safetensors(folder: Path, run: Path, result: Result, model: Model) -> None:
    """The files of the run's `model/`, with a model card."""
    for path in sorted((run / "model").iterdir()):
        write_bytes(folder / path.name, path.read_bytes())
    write_text(folder / "README.md", card_of(result))


MODELS: Final[dict[str, Form]] = {
    "onnx": Form(_write_onnx, ("onnx", "onnxscript")),
    "safetensors": Form(_write_safetensors, ()),
}
