import importlib
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import spiceclust

HOMES = {
    "Spice": "spiceclust.clusterer",
    "Result": "spiceclust.result",
    "SpiceError": "spiceclust.errors",
    "InputError": "spiceclust.errors",
    "SourceError": "spiceclust.errors",
    "ConfigError": "spiceclust.errors",
    "RunFolderError": "spiceclust.errors",
    "TrainingError": "spiceclust.errors",
    "contact_sheet": "spiceclust.outputs.contact_sheet",
    "export": "spiceclust.exports",
    "report": "spiceclust.exports",
}
HEAVY = {"torch", "numpy", "scipy", "sklearn", "PIL", "pyarrow", "pydantic", "typer", "rich"}


def fresh_import(module: str) -> tuple[float, set[str]]:
    """Seconds that importing `module` takes in a new interpreter, and the top-level packages it loads."""
    code = f"""
import json, sys, time
start = time.perf_counter()
import {module}
seconds = time.perf_counter() - start
print(json.dumps([seconds, sorted({{name.partition(".")[0] for name in sys.modules}})]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, loaded = json.loads(done.stdout)
    return seconds, set(loaded)


@pytest.mark.parametrize("name", sorted(HOMES))
def test_a_public_name_is_the_one_from_its_home(name: str) -> None:
    assert getattr(spiceclust, name) is getattr(importlib.import_module(HOMES[name]), name)


def test_these_names_are_public_and_no_others() -> None:
    assert sorted(spiceclust.__all__) == sorted([*HOMES, "__version__"])
    assert set(spiceclust.__all__) <= set(dir(spiceclust))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Spicy"):
        spiceclust.Spicy  # noqa: B018


def test_the_version_is_that_of_the_project() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))["project"]
    assert spiceclust.__version__ == project["version"]


def test_the_package_says_that_it_is_typed() -> None:
    assert spiceclust.__file__ is not None
    assert (Path(spiceclust.__file__).parent / "py.typed").is_file()


def test_importing_the_package_is_light_and_fast() -> None:
    seconds, loaded = zip(*(fresh_import("spiceclust") for _ in range(5)), strict=True)
    assert loaded[0] & HEAVY == set()
    assert min(seconds) < 0.3


@pytest.mark.parametrize(
    "module", ["spiceclust.result", "spiceclust.outputs.contact_sheet", "spiceclust.config", "spiceclust.exports"]
)
def test_these_modules_load_without_torch(module: str) -> None:
    _, loaded = fresh_import(module)
    assert "spiceclust" in loaded
    assert "torch" not in loaded
