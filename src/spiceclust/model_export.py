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
from spiceclust.errors import ConfigError, RunFolderError
from spiceclust.files import sha256_file, write_bytes
from spiceclust.journal import head_file
from spiceclust.model_card import card_of, onnx_readme
from spiceclust.models.heads import Classifier, build_head
from spiceclust.result import Result
from spiceclust.shipped import VERSION, WEIGHTS, Model, describe_model, files_of_model, load_model
from spiceclust.staging import new_folder, refuse_full
from spiceclust.training.checkpoint import load_tensors

Head = dict[str, Tensor]  # weights, as those of `models.heads.build_head`


class Form(NamedTuple):
    """One form of the classifier.

    Attributes:
        make: given the run, its Result, the module that is one's own and the head that was learned from corrections,
            if there are any, returns the files by name.
        needs: packages that are no dependency of this one.
    """

    make: Callable[[Path, Result, nn.Module | None, Head | None], dict[str, bytes]]
    needs: tuple[str, ...]


def export_model(
    run: Path, result: Result, target: Path, kind: str, hint: str, own: nn.Module | None = None, learned: str = ""
) -> None:
    """Writes the classifier of a run into a new folder.

    Args:
        run: the run folder.
        result: what was found there, with corrections where its head learned from them.
        target: the folder, new or empty.
        kind: a name of `MODELS`.
        hint: how to open it; `{}` stands for the folder.
        own: the encoder, where the run was made with a module of one's own.
        learned: digest of the head that learned from corrections, in the place of the shipped one; empty for that.

    Raises:
        ConfigError: an unknown kind, a package that it needs is not installed, or an encoder that cannot be exported.
        RunFolderError: `run` is not finished or damaged; `target` is not empty or cannot be written.
    """
    form = choose(MODELS, kind, "kind of export")
    missing = [name for name in form.needs if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"{kind} needs {' and '.join(missing)}: pip install 'spiceclust[onnx]'")
    refuse_full(target)
    head = _learned_head(run, learned) if learned else None
    files = form.make(run, result, own, head)
    about = {
        "kind": kind,
        "n_clusters": result.n_clusters if head is None else len(head["2.bias"]),
        "model": sha256_file(run / "model" / WEIGHTS),
        "head": learned,
        "open_with": hint.format("."),
    }
    with new_folder(target, about) as folder:
        for name, content in files.items():
            write_bytes(folder / name, content)


def _learned_head(run: Path, digest: str) -> Head:
    file = head_file(run, digest)
    head = load_tensors(file, torch.device("cpu"))
    if sha256_file(file) != digest:
        raise RunFolderError(f"{file} is damaged: undo the learning in `spiceclust review`, or leave corrections out")
    return head


class _FromPixels(nn.Module):
    """What `training.inference.classify` computes of a batch, as one module."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (N, channels, S, S) uint8 to probabilities (N, C) and L2-normalised embeddings (N, D), float32."""
        embeddings = self.classifier.embed(images.float() / 255)
        return self.classifier.head(embeddings).softmax(dim=1), embeddings


def _onnx(run: Path, result: Result, own: nn.Module | None, head: Head | None) -> dict[str, bytes]:
    """`model.onnx`, which says in its metadata how images must be prepared, and a README that shows it."""
    design = describe_model(run).design
    if design.kind == "embeddings":
        raise ConfigError(
            f"onnx takes images, and {run} was made of embeddings ({design.name}), of which it has no encoder: "
            "export it as safetensors"
        )
    model = load_model(run, torch.device("cpu"), own)
    if head is not None:
        model.classifier.head = build_head(model.n_features, len(head["2.bias"]))
        model.classifier.head.load_state_dict(head)
    proto = _traced(model).model_proto
    for key, value in _onnx_metadata(result, model).items():
        proto.metadata_props.add(key=key, value=value)
    readme = onnx_readme(model.n_clusters, model.image_size, model.channels)
    return {"model.onnx": proto.SerializeToString(), "README.md": readme.encode("utf-8")}


def _traced(model: Model) -> torch.onnx.ONNXProgram:
    """The classifier as torch follows it through one batch; raises ConfigError where it cannot."""
    example = torch.zeros(2, model.channels, model.image_size, model.image_size, dtype=torch.uint8)
    try:
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
    except Exception as error:  # what the code of another's module makes torch raise is not one family
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        design = model.encoder.design
        raise ConfigError(
            f"torch cannot write the encoder {design.name} as ONNX ({reason}): export it as safetensors"
        ) from None
    assert program is not None
    return program


def _onnx_metadata(result: Result, model: Model) -> dict[str, str]:
    colours = "RGB" if model.channels == 3 else "grey, the luminance of ITU-R 601"
    size = model.image_size
    return {
        "spiceclust": VERSION,
        "image_size": str(size),
        "channels": str(model.channels),
        "n_clusters": str(model.n_clusters),
        "input": f"images: (N, {model.channels}, {size}, {size}) uint8 in [0, 255], {colours}; normalised inside",
        "preprocessing": (
            "turn as EXIF says, lay transparency on white, crop the centre square, resize to image_size with Lanczos "
            "where that shrinks and bicubic where it enlarges (Pillow, reducing_gap=3.0)"
        ),
        "output": "probabilities: (N, n_clusters), rows sum to 1; embeddings: (N, D), L2-normalised; float32",
        "cluster_names": json.dumps(result.cluster_names[: model.n_clusters]),  # others were split off since it learned
    }


def _safetensors(run: Path, result: Result, own: nn.Module | None, head: Head | None) -> dict[str, bytes]:
    """The files of the run's `model/`, with a model card; no encoder is built, so that none need be at hand."""
    design = describe_model(run).design
    card = card_of(result, design.kind, design.name, design.n_features, head is not None)
    return {**files_of_model(run, head), "README.md": card.encode("utf-8")}


MODELS: Final[dict[str, Form]] = {
    "onnx": Form(_onnx, ("onnx", "onnxscript")),
    "safetensors": Form(_safetensors, ()),
}
