"""What every script says of itself: the date, the code, the machine and the command; and where results go."""

from __future__ import annotations

import platform
import subprocess
from datetime import date
from pathlib import Path
from typing import Any

import torch

from spiceclust.files import write_json, write_text
from spiceclust.training.context import open_device

ROOT = Path(__file__).parents[1]


def about(title: str, command: str, *, version: str = "", device: str = "cpu") -> str:
    """The head of a page of results, Markdown."""
    return f"# {title}\n\n{date.today()}, commit {version or commit()}, {machine(device)}.\n\n    {command}"


def commit() -> str:
    """The commit of the code that runs, marked when the code has changes on top."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    changed = git("status", "--porcelain", "--", "src", "benchmarks/*.py")  # not the results, which the scripts write
    return git("rev-parse", "--short", "HEAD") + ("-dirty" if changed else "")


def machine(device: str) -> str:
    kind = torch.cuda.get_device_name() if open_device(device).type == "cuda" else platform.machine()
    return f"{kind}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def write_results(stem: Path, markdown: str, values: dict[str, Any]) -> None:
    """Writes `stem`.md and `stem`.json, and prints the former."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    write_text(stem.parent / f"{stem.name}.md", markdown)
    write_json(stem.parent / f"{stem.name}.json", values)
    print(markdown)
