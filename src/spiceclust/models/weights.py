"""Weights that others have made: files of tensors, read without running a line of what is in them."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from spiceclust.errors import ConfigError

# Under what a training script keeps the weights beside its optimiser, the moving average first.
WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, by name and on the CPU.

    Args:
        path: a .safetensors file, or what `torch.save` made of a state dict or of a dict that holds one as
            `state_dict` or `model`. It is read with `weights_only=True`: tensors and plain containers.

    Raises:
        ConfigError: it cannot be read, holds anything else, or no tensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings(action="ignore"):  # torch's thoughts on a file's age and make
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ConfigError(f"weights {path} cannot be opened ({error.strerror or error}): give another file") from None
    except UnpicklingError:
        raise ConfigError(
            f"weights {path} hold more than tensors and plain containers, or no weights at all, and are not loaded: "
            "save the state dict alone, best as .safetensors"
        ) from None
    except (SafetensorError, Exception) as error:  # a damaged file may raise anything: zip, pickle and memory errors
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise ConfigError(
            f"weights {path} cannot be read ({reason}): give a .safetensors file or a state dict"
        ) from None
    for name in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
            break
    found = _tensors(content)
    if not found:
        raise ConfigError(f"weights {path} hold no tensors by name: save a model's state dict")
    return found


def digest_of(module: nn.Module) -> str:
    """Hexadecimal SHA-256 over the names, shapes and values of a module's state dict."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def misfit(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """What does not fit between the tensors of a model and those given: the first of each kind and how many; or "".

    The counters of batch norm, which older files lack and nothing reads, may be absent.
    """
    missing = [name for name in expected if name not in given and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in given if name not in expected]
    shapes = [name for name in expected if name in given and given[name].shape != expected[name].shape]
    parts = [
        f"{len(names)} {kind}, first {names[0]}"
        for kind, names in (("missing", missing), ("unexpected", unexpected))
        if names
    ]
    if shapes:
        theirs, ours = (tuple(each[shapes[0]].shape) for each in (given, expected))
        parts.append(f"{len(shapes)} of another shape, first {shapes[0]}: {theirs} instead of {ours}")
    return "; ".join(parts)


def _tensors(content: Any) -> dict[str, Tensor]:
    if not isinstance(content, dict):
        return {}
    return {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
