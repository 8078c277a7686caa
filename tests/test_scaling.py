"""docs/scaling.md: its tables are those of the formulas, the formulas those of a run, its commands those there are."""

import hashlib
import re
import shlex
import subprocess
import tracemalloc
from pathlib import Path
from typing import Any, Final

import pytest
import scaling_paper
import typer.main
import yaml
from safetensors.numpy import load_file
from scaling_paper import CASES, DISK, MEMORY, PAGE, value

from spiceclust import pipeline
from spiceclust.cli import app
from spiceclust.data.sources import open_source
from spiceclust.manifest import Row
from spiceclust.result import Result
from synthetic import shapes
from test_pipeline import TINY, request

TEXT: Final = PAGE.read_text("utf-8")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def fits(words: list[str]) -> dict[str, Any]:
    """What `spiceclust fit` understands of a command line of torchrun."""
    own = words[words.index("spiceclust") + 1 :]
    assert own[0] == "fit"
    command = typer.main.get_command(app).commands["fit"]  # type: ignore[attr-defined]
    parsed: dict[str, Any] = command.make_context("fit", own[1:]).params
    return parsed


def test_the_page_s_tables_are_those_of_the_formulas() -> None:
    assert scaling_paper.page_with(TEXT, scaling_paper.tables()) == TEXT


def test_formulas_are_read_as_they_are_written() -> None:
    assert value("4 D + 2 V D", {"D": 3, "V": 5}) == 42
    assert value("3 S²", {"S": 4}) == 48
    assert value("G (8 (D + C) + 8 K)", {"G": 2, "D": 1, "C": 2, "K": 3}) == 96


def arrays_of(file: Path, n: int) -> int:
    """Bytes of the tensors in a file that have a value for each of n images."""
    return sum(array.nbytes for array in load_file(file).values() if n in array.shape)


def test_what_a_run_writes_of_an_image_is_what_the_formulas_say(tmp_path: Path) -> None:
    images, _ = shapes(11)
    result: Result = pipeline.fit(open_source(images), request(TINY), tmp_path / "run")
    n, config = len(images), result.run["config"]
    letters = {
        "D": 128,
        "C": 3,
        "H": config["graph_label"]["heads"],
        "G": len(result.metrics["3-self"]),
        "V": config["embed"]["cached_views"],
        "K": config["select"]["max_neighbors"],
        "p": 0,
    }
    formulas = {(each.step, each.what): each.formula for each in DISK}
    for (step, what), formula in formulas.items():
        if "about" in what:
            continue  # text, and compressed
        assert n not in letters.values()
        file = what if step == "end" else f"{step}/tensors.safetensors"
        assert arrays_of(tmp_path / "run" / file, n) == n * value(formula, letters), (step, what)


def test_a_row_of_the_manifest_takes_what_the_page_says() -> None:
    count = 2000
    paths = [f"{number:0{scaling_paper.PATH}}" for number in range(count)]
    digests = [hashlib.sha256(path.encode()).hexdigest() for path in paths]
    tracemalloc.start()
    rows, first = [], {}
    for number, (path, digest) in enumerate(zip(paths, digests, strict=True)):
        rows.append(Row(path[:-1] + path[-1], "ok", "", 1000 + number, 2000 + number, digest[:-1] + digest[-1]))
        first[rows[-1].sha256] = number
    taken = tracemalloc.get_traced_memory()[0] / count
    tracemalloc.stop()
    assert taken == pytest.approx(scaling_paper.ROW, rel=0.2)


def test_the_widest_step_is_the_one_with_the_most_bytes() -> None:
    case = CASES[0]
    letters = case.letters(10**6)
    stays = sum(each.bytes(letters) for each in MEMORY if each.until == "end")
    assert scaling_paper.peak_of(case, 10**6, scaling_paper.FIRST) == (stays + 20 * 10 * 100, "3-self, SCAN")
    without = sum(each.bytes(letters) for each in MEMORY if each.where == scaling_paper.FIRST and each.until == "end")
    guard = 16 * (512 + 100) + 12 * 100
    assert scaling_paper.peak_of(case, 10**6, scaling_paper.EVERY) == (stays - without + guard, "guard")


def test_operations_are_those_of_the_networks() -> None:
    small, large = CASES
    assert small.operations == pytest.approx(2 * 0.555e9, rel=0.01)  # multiplications with additions, as published
    assert large.operations == pytest.approx(2 * 4.09e9, rel=0.01)
    assert (small.parameters, large.parameters) == (11_168_832, 23_508_032)


def test_commands_are_those_of_the_program() -> None:
    found = blocks("bash")
    assert len(found) == 3
    for text in found:
        subprocess.run(["bash", "-n"], input=text, text=True, check=True)
        command = text.replace("\\\n", " ").strip().splitlines()[-1]
        assert "torchrun" in command
        parsed = fits(shlex.split(command))
        assert (parsed["clusters"], parsed["preset"]) == (100, "standard")


def test_the_files_for_kubernetes_fit_together() -> None:
    (text,) = blocks("yaml")
    service, job = yaml.safe_load_all(text)
    assert (service["kind"], job["kind"]) == ("Service", "Job")
    name, spec = job["metadata"]["name"], job["spec"]
    pod = spec["template"]["spec"]
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": name}
    assert pod["subdomain"] == service["metadata"]["name"]
    (container,) = pod["containers"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    given = dict(word.split("=", 1) for word in container["args"] if word.startswith("--") and "=" in word)
    assert int(given["--nnodes"]) == spec["completions"] == spec["parallelism"]
    assert given["--rdzv-endpoint"].partition(":")[0] == f"{name}-0.{pod['subdomain']}"
    assert int(given["--nproc-per-node"]) == container["resources"]["limits"]["nvidia.com/gpu"]
    assert fits([*container["command"], *container["args"]])["out"] == Path("/data/runs/photos")
