import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from ray_engine import SPY, below, command

from bulk_runs import make_run, write_source
from spiceclust.bulk.ray_engine import OURS, SPARE, Ledger, Workers, workers_for
from spiceclust.bulk.run import predict_shards
from spiceclust.bulk.watchdog import TRIES
from spiceclust.progress import Silent


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "run")


WORKER = {"process": 7, "machine": "there", "kills": 3, "memory": 0.5}


@pytest.mark.parametrize(
    ("there", "device", "workers"),
    [
        ({"CPU": 4.0}, "auto", Workers(4, 1, 0)),
        ({"CPU": 4.0 + SPARE, OURS: 1.0}, "auto", Workers(4, 1, 0)),
        ({"CPU": 16.0, "GPU": 2.0}, "auto", Workers(2, 8, 1)),
        ({"CPU": 16.0, "GPU": 2.0}, "cpu", Workers(16, 1, 0)),
        ({"CPU": 1.0, "GPU": 2.0}, "cuda", Workers(2, 1, 1)),
        ({"CPU": 4.0}, "cuda", Workers(4, 1, 1)),
        ({}, "auto", Workers(1, 1, 0)),
    ],
)
def test_there_is_a_worker_for_each_gpu_or_else_for_each_cpu(
    there: dict[str, float], device: str, workers: Workers
) -> None:
    assert workers_for(there, device) == workers


def test_the_ledger_counts_who_began_what() -> None:
    ledger = Ledger()
    assert ledger.read() == {"held": [], "last": None, "ended": 0, "killed": 0, "memory": 0.0}
    assert ledger.begin("a", WORKER, "handle") == 1
    assert ledger.begin("b", WORKER, "other") == 1
    assert ledger.begin("a", WORKER | {"process": 8, "kills": 5, "memory": 0.9}, "third") == 2
    ledger.finish("b")
    told = ledger.read()
    assert [(shard, worker, handle) for shard, _, worker, handle in told["held"]] == [
        ("a", "worker 8 on there", "third")
    ]
    assert (told["ended"], told["killed"], told["memory"]) == (1, 2, 0.9)


def on_ray(run: Path, tmp_path: Path, spy: str = "") -> subprocess.Popen[str]:
    """The command, whose workers meet a spy."""
    pytest.importorskip("ray", reason="needs the extra ray")
    (tmp_path / "spy").mkdir()
    (tmp_path / "spy/sitecustomize.py").write_text(spy)
    paths = [str(tmp_path / "spy"), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return subprocess.Popen(
        command(run, str(tmp_path / "in"), tmp_path / "out", "ray"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "EXECUTIONS": str(tmp_path / "begun")},
    )


def tables(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.glob("*.parquet")}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_ray_writes_what_the_local_engine_writes_and_no_other_machine_reaches_it(run: Path, tmp_path: Path) -> None:
    write_source(tmp_path / "in", "tars")
    predict_shards(run, str(tmp_path / "in"), str(tmp_path / "local"), Silent())
    driver = on_ray(run, tmp_path, SPY)
    heard: set[str] = set()
    while driver.poll() is None:
        heard |= listening(set(below(driver.pid)))
        time.sleep(0.5)
    out, err = driver.communicate()
    assert driver.returncode == 0, err
    assert "17 images in 3 tables" in out
    known = ("workers on Ray", "sorting shards", "Set ray log level")
    assert [line for line in err.splitlines() if not any(words in line for words in known)] == []
    assert tables(tmp_path / "out") == tables(tmp_path / "local")
    assert len((tmp_path / "begun").read_text().splitlines()) == 3
    assert heard
    assert heard <= {"127.0.0.1", "::1"}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_shard_that_takes_its_workers_along_is_given_up_and_the_others_are_done(run: Path, tmp_path: Path) -> None:
    write_source(tmp_path / "in", "tars")
    deadly = SPY.replace(
        "return done", "if shard.name == 's1.tar': os.kill(os.getpid(), 9)\n                return done"
    )
    driver = on_ray(run, tmp_path, deadly)
    _, err = driver.communicate()
    assert driver.returncode == 1
    assert f"s1.tar: {TRIES} workers ended or hung over it" in err
    assert sorted(tables(tmp_path / "out")) == ["s0.tar.parquet", "s2.tar.parquet"]
    begun = [line.split()[0] for line in (tmp_path / "begun").read_text().splitlines()]
    assert begun.count("s1.tar") == TRIES


def listening(processes: set[int]) -> set[str]:
    """The addresses on which some processes listen for TCP."""
    sockets = set()
    for process in processes:
        try:
            for file in Path(f"/proc/{process}/fd").iterdir():
                sockets.add(os.readlink(file))
        except OSError:
            continue
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields: list[Any] = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                found.add(_address(fields[1].split(":")[0]))
    return found


def _address(digits: str) -> str:
    content = bytes.fromhex(digits)
    if len(content) == 4:
        return ".".join(str(byte) for byte in content[::-1])
    words = [content[i : i + 4][::-1] for i in range(0, 16, 4)]
    if words[:2] == [bytes(4)] * 2 and words[2] == b"\0\0\xff\xff":
        return ".".join(str(byte) for byte in words[3])
    return "::1" if b"".join(words) == bytes(15) + b"\1" else b"".join(words).hex()
