"""What the classifier that ships makes of the images that it was made from: `embeddings.safetensors` in a run.

N distinct readable images, D features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from spiceclust.errors import RunFolderError
from spiceclust.files import sha256_file, write_bytes

EMBEDDINGS: Final = "embeddings.safetensors"
NAME: Final = "embeddings"  # of the array
RECORDED: Final = "embeddings_sha256"  # the entry of run.json with the file's checksum
AGAIN: Final = "give the same `spiceclust fit` command again, which writes it anew"


def write_embeddings(folder: Path, embeddings: NDArray[np.floating]) -> str:
    """Writes (N, D) L2-normalised embeddings as float16, and returns the checksum that run.json keeps.

    Raises:
        RunFolderError: no space, no permission, or the device failed.
    """
    from safetensors.numpy import save

    content = save({NAME: embeddings.astype(np.float16)})
    write_bytes(folder / EMBEDDINGS, content)
    return hashlib.sha256(content).hexdigest()


def read_embeddings(folder: Path, record: Mapping[str, Any]) -> NDArray[np.float16]:
    """Reads them: (N, D) float16, in the order of the rows with the status `ok`.

    They are checked here and not when a result is loaded, which most commands do and few need them.

    Args:
        folder: the run.
        record: its run.json.

    Raises:
        RunFolderError: not there, as in runs from before they were kept, or damaged.
    """
    from safetensors import SafetensorError, safe_open

    path = folder / EMBEDDINGS
    try:
        if sha256_file(path) != record[RECORDED]:
            raise RunFolderError(f"{path} is damaged, or was changed: {AGAIN}")
        with safe_open(path, "numpy") as tensors:
            return np.asarray(tensors.get_tensor(NAME))
    except (FileNotFoundError, KeyError):
        raise RunFolderError(f"{path} is missing, or not in run.json: {AGAIN}") from None
    except (SafetensorError, OSError) as error:
        raise RunFolderError(f"{path} is damaged ({error}): {AGAIN}") from None
