"""Fits of several processes, here and on two hosts: what one process would have seen, learned and written."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from _faults.child import BRIEF, RESULTS
from _ranks.job import Job

from hosts import hosts_or_skip
from spiceclust.functional.metrics import score_clusters
from spiceclust.result import Result
from synthetic import shapes

pytestmark = [pytest.mark.dist, pytest.mark.timeout(900)]  # on a busy machine
LONGEST = 400.0  # seconds; a tenth is usual
TRAININGS = ("1-pretrain", "3-self", "5-semi")
LONG = {**BRIEF, "pretrain": {"epochs": 60, "batch_size": 16}, "semi": {"steps": 40, "unlabelled_ratio": 2}}


class Place:
    """A folder with images, and what fits of them left behind; each is made once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        images, self.classes = shapes(20)
        np.save(folder / "shapes.npy", images)
        for name, config in (("brief", BRIEF), ("long", LONG)):
            (folder / f"{name}.json").write_text(json.dumps(config))

    def words(self, out: Path, config: str = "brief") -> list[str]:
        given = [str(self.folder / name) for name in ("shapes.npy", f"{config}.json")]
        return ["fit", given[0], "--clusters", "3", "--out", str(out), "--config", given[1]]

    def run(self, name: str, processes: int, *child: str, config: str = "brief") -> Path:
        """The folder of a job; the run itself is in `run`."""
        folder = self.folder / f"{name}-{processes}"
        if not folder.exists():
            with Job([self.words(folder / "run", config)], processes, folder, child=child) as job:
                assert job.wait(LONGEST), job.said()
        return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("ranks"))


class Batch(NamedTuple):
    """Views that were made together: by the number of each image in its batch, which it was and how it was seen."""

    images: dict[int, float]
    views: dict[int, float]


def seen(folder: Path) -> dict[tuple[Any, ...], Batch]:
    """What all ranks saw, by kind of view, generator and how often that had been used."""
    found: dict[tuple[Any, ...], Batch] = {}
    for file in sorted((folder / "seen").iterdir()):
        for line in file.read_text().splitlines():
            *key, first, images, views = json.loads(line)
            batch = found.setdefault(tuple(key), Batch({}, {}))
            batch.images.update(enumerate(images, first))
            batch.views.update(enumerate(views, first))
    return found


def losses(folder: Path, stage: str) -> dict[str, list[float]]:
    """Of every step, by clustering where there are several: so few steps make a point of the curve each."""
    facts = json.loads((folder / "run" / stage / "facts.json").read_text())
    each = facts if "loss" not in facts else {"": facts}
    return {name: found["loss"] for name, found in each.items()}


def contents(run: Path) -> dict[str, bytes]:
    return {name: (run / name).read_bytes() for name in RESULTS}


@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_processes_see_what_one_sees_and_lose_as_much(place: Place, processes: int) -> None:
    alone, shared = (place.run("plain", n, "--seen", "--plain") for n in (1, processes))
    expected, found = seen(alone), seen(shared)
    assert len(list((shared / "seen").iterdir())) == processes
    assert found.keys() == expected.keys()
    assert {kind for kind, *_ in found} == {"contrastive", "weak", "strong"}
    for key, batch in expected.items():
        assert found[key].images == batch.images, key
        assert found[key].views.keys() == batch.views.keys()
        np.testing.assert_allclose([found[key].views[row] for row in batch.views], [*batch.views.values()], rtol=1e-6)
    for stage in TRAININGS:
        expected_losses, found_losses = losses(alone, stage), losses(shared, stage)
        assert found_losses.keys() == expected_losses.keys()
        for name, curve in expected_losses.items():
            np.testing.assert_allclose(found_losses[name], curve, rtol=1e-5, atol=1e-5, err_msg=f"{stage} {name}")
    results = [Result.load(folder / "run") for folder in (alone, shared)]
    np.testing.assert_array_equal(*(result.labels for result in results))
    np.testing.assert_allclose(*(result.probabilities for result in results), atol=1e-3)


@pytest.mark.slow
def test_clusters_of_two_processes_are_as_good(place: Place) -> None:
    runs = [place.run("whole", processes, config="long") / "run" for processes in (1, 2)]
    results = [Result.load(run) for run in runs]
    assert [result.run["processes"] for result in results] == [1, 2]
    accuracies = [score_clusters(result.labels, place.classes).acc for result in results]
    assert accuracies[1] >= accuracies[0] - 0.02
    assert accuracies[1] >= 0.9


def test_two_hosts_without_a_common_file_system_end_as_two_processes(place: Place) -> None:
    """The second host is given no images and no config, and a folder in which nothing comes to be."""
    folder = place.folder / "hosts"
    folder.mkdir()
    mine, elsewhere = folder / "run", folder / "elsewhere"
    words = [place.words(mine), ["fit", "not there.npy", "--clusters", "3", "--out", str(elsewhere)]]
    with hosts_or_skip(folder) as hosts, Job(words, 1, folder, hosts=hosts) as job:
        assert job.wait(LONGEST), job.said()
    assert contents(mine) == contents(place.run("brief", 2) / "run")
    assert not elsewhere.exists()


def wait_for_a_snapshot(job: Job, run: Path, stage: str) -> None:
    end = time.monotonic() + LONGEST
    while not list((run / "snapshots" / stage).rglob("*.json")):
        assert not job.over(), job.said()
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.parametrize(("stage", "rank"), [("1-pretrain", 1), pytest.param("5-semi", 0, marks=pytest.mark.slow)])
def test_a_killed_rank_is_started_again_to_the_same_result(place: Place, stage: str, rank: int) -> None:
    unbroken = place.run("kept", 2, "--every", "1") / "run"
    folder = place.folder / f"killed {rank}"
    with Job([place.words(folder / "run")], 2, folder, restarts=2, child=["--every", "1"]) as job:
        wait_for_a_snapshot(job, folder / "run", stage)
        os.kill(job.pids()[rank], signal.SIGKILL)
        assert job.wait(LONGEST), job.said()
    assert "taken up again at step" in job.said()
    assert contents(folder / "run") == contents(unbroken)


@pytest.mark.slow
def test_a_host_that_dies_is_taken_in_again_to_the_same_result(place: Place) -> None:
    unbroken = place.run("kept", 2, "--every", "1") / "run"
    folder = place.folder / "host dies"
    folder.mkdir()
    words = [place.words(folder / "run")]
    with hosts_or_skip(folder) as hosts, Job(words, 1, folder, hosts=hosts, restarts=2, child=["--every", "1"]) as job:
        wait_for_a_snapshot(job, folder / "run", "1-pretrain")
        hosts[1].stop()
        job.begin(1)
        assert job.wait(LONGEST), job.said()
    assert "taken up again at step" in job.said()
    assert contents(folder / "run") == contents(unbroken)


@pytest.mark.slow
def test_processes_that_a_cut_cable_parts_end_and_say_so(place: Place) -> None:
    unbroken = place.run("kept", 2, "--every", "1") / "run"
    folder = place.folder / "cut"
    folder.mkdir()
    words, child = [place.words(folder / "run")], ["--every", "1", "--silence", "3"]
    with hosts_or_skip(folder) as hosts, Job(words, 1, folder, hosts=hosts, child=child) as job:
        wait_for_a_snapshot(job, folder / "run", "1-pretrain")
        hosts[1].cut()
        end = time.monotonic() + LONGEST
        while not all(f"process {rank} of 2 has heard nothing" in job.said() for rank in (0, 1)):
            assert time.monotonic() < end, job.said()
            time.sleep(0.1)
    with Job(words, 2, folder, child=["--every", "1"]) as job:
        assert job.wait(LONGEST), job.said()
    assert "taken up again at step" in job.said()
    assert contents(folder / "run") == contents(unbroken)
