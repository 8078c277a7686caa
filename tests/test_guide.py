"""Every block of docs/guide.md runs as it stands, in the order of its section, and shows what the guide shows."""

import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Final, NamedTuple

import pytest

import guide_inputs

GUIDE: Final = (Path(__file__).resolve().parents[1] / "docs/guide.md").read_text("utf-8")
# What a reader of each section has, and whether the section learns features, which takes more than a minute.
SECTIONS: Final[dict[str, tuple[Callable[..., None], bool]]] = {
    "A folder of photos": (guide_inputs.photos, True),
    "Microscopy crops": (guide_inputs.cells, True),
    "Satellite tiles": (guide_inputs.tiles, False),
    "Ready embeddings": (guide_inputs.products, False),
    "How many clusters?": (guide_inputs.products, True),
    "An encoder of your own": (guide_inputs.tiles, True),
}
# A torchvision without its operators (conftest.py says why) is mended in every process that imports it.
MENDED = """
import sys
from importlib.abc import MetaPathFinder

class Mend(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch
            self.library = torch.library.Library("torchvision", "DEF")
            for operator in ("nms", "qnms"):
                self.library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            sys.mended = self

sys.meta_path.insert(0, Mend())
"""


class Block(NamedTuple):
    """A fenced block: the word behind its fence, its text, and the line of the guide that it begins at."""

    kind: str
    text: str
    line: int


def sections() -> dict[str, list[Block]]:
    """The blocks under each heading that has any, whatever their kind and indentation."""
    found: dict[str, list[Block]] = {}
    title, opened = "", None
    for number, line in enumerate(GUIDE.splitlines(), 1):
        if opened is None and line.startswith("## "):
            title = line.removeprefix("## ")
        elif line.lstrip().startswith(("```", "~~~")):
            if opened is None:
                opened = Block(line.strip().strip("`~"), "", number)
            else:
                found.setdefault(title, []).append(opened._replace(text=textwrap.dedent(opened.text)))
                opened = None
        elif opened is not None:
            opened = opened._replace(text=f"{opened.text}{line}\n")
    assert opened is None
    return found


def test_no_block_is_left_out() -> None:
    assert sections().keys() == SECTIONS.keys()
    for blocks in sections().values():
        kinds = [block.kind for block in blocks]
        assert set(kinds) <= {"bash", "python", "text"}
        assert all(before != "text" for before, kind in pairwise(kinds) if kind == "text")
        assert kinds[0] != "text"
    assert not re.search(r"^(    |\t)", re.sub(r"```.*?```", "", GUIDE, flags=re.DOTALL), re.MULTILINE)


def run(block: Block, folder: Path, environment: dict[str, str]) -> str:
    """What a block prints, on either stream."""
    interpreter = ["bash", "-e"] if block.kind == "bash" else [sys.executable]
    script = folder.parent / f"block at line {block.line}"
    script.write_text(block.text)
    done = subprocess.run(
        [*interpreter, str(script)],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"docs/guide.md, line {block.line}:\n{done.stdout}"
    return done.stdout.replace(str(folder), "/home/me")


def loosely(line: str) -> str:
    """A line without what another run may change: numbers and their units, and yes or no."""
    line = re.sub(r"\d[\d.,:]*(e[+-]?\d+,?)?( (s|min|h)\b)?", "0", line.strip())
    return re.sub(r"\b(true|True|false|False)\b", "yes", line)


def assert_shows(block: Block, output: str) -> None:
    """Each line shown is in the output, in this order; `...` stands for what is not shown."""
    lines = iter([loosely(line) for line in output.splitlines()])
    for line in block.text.splitlines():
        if line.strip() != "...":
            assert loosely(line) in lines, (
                f"docs/guide.md, line {block.line}: {line!r} is not, or not there, in\n{output}"
            )


@pytest.mark.parametrize(
    "title", [pytest.param(title, marks=[pytest.mark.slow] * slow) for title, (_, slow) in SECTIONS.items()]
)
def test_every_block_runs_and_shows_what_the_guide_shows(title: str, timm: ModuleType, tmp_path: Path) -> None:
    folder, mended = tmp_path / "me", tmp_path / "site"
    for each in (folder, mended):
        each.mkdir()
    (mended / "sitecustomize.py").write_text(MENDED)
    write = SECTIONS[title][0]
    write(folder, timm) if write is guide_inputs.tiles else write(folder)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(mended), os.environ.get("PYTHONPATH")])),
    }
    output = ""
    for block in sections()[title]:
        if block.kind == "text":
            assert_shows(block, output)
        else:
            output = run(block, folder, environment)
            print(f"--- line {block.line}\n{block.text}--- prints\n{output}")  # for who writes the guide: pytest -s
    scored = [json.loads(file.read_text()) for file in folder.glob("runs/*/metrics.json")]
    assert all(scores.get("acc", 1) > 0.9 for scores in scored)  # the example is worth being one
