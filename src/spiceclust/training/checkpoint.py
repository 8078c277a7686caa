"""Stage folders: what a stage made, whole or absent, and whether it still fits.

A stage folder holds `tensors.safetensors`, `facts.json` and `done.json` with the key of the inputs and config, the
checksums of the two files and its own, the seconds and the versions. It grows beside its place and is renamed at last.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spiceclust.errors import NewerFormatError, RunFolderError
from spiceclust.files import (
    DAMAGED,
    UNFINISHED,
    read_json,
    read_sealed,
    sha256_file,
    sync_folder,
    write_bytes,
    write_json,
    write_sealed,
)

FORMAT = 2


@dataclass(frozen=True)
class Artefact:
    """What a stage made.

    Attributes:
        tensors: named tensors, on any device.
        facts: JSON values: choices and their reasons, scores, curves.
    """

    tensors: Mapping[str, Tensor]
    facts: dict[str, Any] = field(default_factory=dict)


def bundle(artefacts: Mapping[str, Artefact]) -> Artefact:
    """Several artefacts as one: tensors under `NAME.`, facts under NAME. Names hold no dot."""
    tensors = {f"{name}.{key}": tensor for name, each in artefacts.items() for key, tensor in each.tensors.items()}
    return Artefact(tensors, {name: each.facts for name, each in artefacts.items()})


def unbundle(bundled: Artefact) -> dict[str, Artefact]:
    """The artefacts that `bundle` was given, in their order."""
    return {name: Artefact(part(bundled.tensors, f"{name}."), facts) for name, facts in bundled.facts.items()}


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


@dataclass(frozen=True)
class Finished:
    """A stage that is done.

    Attributes:
        artefact: what it made.
        digest: SHA-256 of the tensors: what a later stage's key depends on.
        seconds: how long it took.
        resumed: whether it was done before this call.
    """

    artefact: Artefact
    digest: str
    seconds: float
    resumed: bool


def run_stage(
    folder: Path,
    key: str,
    device: torch.device,
    compute: Callable[[], Artefact],
    before: Callable[[], float] = lambda: 0.0,
) -> Finished:
    """Loads the stage's artefact when it is there, whole, and made from the same key; otherwise computes and saves it.

    Args:
        folder: the stage's own folder.
        key: digest of everything that the artefact depends on.
        device: where the tensors are wanted.
        compute: makes the artefact.
        before: seconds that it took in earlier processes; asked when it is made.

    Raises:
        NewerFormatError: a newer version made what is there, which stays.
        RunFolderError: it cannot be written.
    """
    loaded = _load(folder, key, device)
    if loaded is not None:
        return loaded
    start = time.perf_counter()
    artefact = compute()
    seconds = round(time.perf_counter() - start + before(), 3)
    try:
        digest = _save(folder, key, artefact, seconds)
    except OSError as error:
        raise RunFolderError(f"{folder} cannot be written ({error.strerror}): free it and resume") from None
    return Finished(artefact, digest, seconds, resumed=False)


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes safetensors atomically; weights that share their memory are written under each of their names."""
    from safetensors.torch import save

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    places = Counter(tensor.untyped_storage().data_ptr() for tensor in plain.values())
    alone = {name: t.clone() if places[t.untyped_storage().data_ptr()] > 1 else t for name, t in plain.items()}
    write_bytes(path, save(alone))


def load_tensors(path: Path, device: torch.device) -> dict[str, Tensor]:
    """Reads safetensors.

    Raises:
        RunFolderError: missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path, device=str(device))
    except FileNotFoundError:
        raise RunFolderError(f"{path} is missing: give the same `spiceclust fit` command again to finish it") from None
    except (SafetensorError, OSError) as error:
        raise RunFolderError(f"{path} is damaged ({error}): {DAMAGED}") from None


def read_done(folder: Path) -> dict[str, Any]:
    """What `done.json` says of a stage: its key, the checksums of its files, the seconds.

    Raises:
        RunFolderError: it is missing or damaged.
        NewerFormatError: it is of a newer format.
    """
    return read_sealed(folder / "done.json", FORMAT, lambda content: content.get("format") == 1)


def _save(folder: Path, key: str, artefact: Artefact, seconds: float) -> str:
    growing, old = (folder.with_name(f"{UNFINISHED}{name}") for name in (folder.name, f"old-{folder.name}"))
    for left in (growing, old):
        _remove(left)
    growing.mkdir(parents=True)
    save_tensors(growing / "tensors.safetensors", artefact.tensors)
    write_json(growing / "facts.json", artefact.facts)
    digests = {name: sha256_file(growing / name) for name in ("tensors.safetensors", "facts.json")}
    about = {"key": key, "seconds": seconds, "torch": torch.__version__, "sha256": digests}
    write_sealed(growing / "done.json", about, FORMAT)
    sync_folder(growing)
    if os.path.lexists(folder):
        os.rename(folder, old)
    os.rename(growing, folder)
    sync_folder(folder.parent)
    _remove(old)
    return digests["tensors.safetensors"]


def _remove(folder: Path) -> None:
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)


def _load(folder: Path, key: str, device: torch.device) -> Finished | None:
    try:
        done = read_done(folder)
        if done.get("key") != key:
            return None
        for name in ("tensors.safetensors", "facts.json"):
            if sha256_file(folder / name) != done["sha256"][name]:
                return None
        tensors = load_tensors(folder / "tensors.safetensors", device)
        artefact = Artefact(tensors, read_json(folder / "facts.json"))
        return Finished(artefact, done["sha256"]["tensors.safetensors"], float(done["seconds"]), resumed=True)
    except NewerFormatError:
        raise  # a newer version can use it, so it stays
    except (RunFolderError, OSError, KeyError, TypeError, ValueError, AttributeError):
        return None  # not done, or damaged: either way it is made again
