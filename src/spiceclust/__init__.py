"""spiceclust sorts unlabelled images into semantic clusters with SPICE.

    >>> from spiceclust import Spice
    >>> Spice(n_clusters=10).fit_predict("photos/")  # doctest: +SKIP

The names below are loaded on first use, so that importing the package takes no time and loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spiceclust.clusterer import Spice as Spice
    from spiceclust.errors import ConfigError as ConfigError
    from spiceclust.errors import InputError as InputError
    from spiceclust.errors import RunFolderError as RunFolderError
    from spiceclust.errors import SourceError as SourceError
    from spiceclust.errors import SpiceError as SpiceError
    from spiceclust.errors import TrainingError as TrainingError
    from spiceclust.exports import export as export
    from spiceclust.exports import report as report
    from spiceclust.outputs.contact_sheet import contact_sheet as contact_sheet
    from spiceclust.result import Result as Result

_HOMES = {
    "Spice": "clusterer",
    "Result": "result",
    "contact_sheet": "outputs.contact_sheet",
    "export": "exports",
    "report": "exports",
    **dict.fromkeys(
        ("SpiceError", "InputError", "SourceError", "ConfigError", "RunFolderError", "TrainingError"), "errors"
    ),
}
__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("spiceclust")
    if name not in _HOMES:
        raise AttributeError(f"module 'spiceclust' has no attribute {name!r}")
    return getattr(import_module(f"spiceclust.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
