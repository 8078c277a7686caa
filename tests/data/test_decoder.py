"""Processes that decode: how many, when they begin and when they end. What files do to them is in `test_worker.py`."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pictures import encoded, picture, told
from spiceclust import pipeline
from spiceclust.config import make_request
from spiceclust.data import decoder as module
from spiceclust.data import processes, worker
from spiceclust.data.decode import DecodeError, decode_square
from spiceclust.data.decoder import Decoder
from spiceclust.data.images import Images, load
from spiceclust.data.sources import open_source
from spiceclust.progress import Silent
from test_pipeline import TINY

GOOD = [encoded(i) for i in range(6)]


def children(process: int) -> list[int]:
    tasks = Path(f"/proc/{process}/task")
    return [int(child) for task in tasks.iterdir() for child in (task / "children").read_text().split()]


def first_process() -> int:
    assert processes.FIRST._process is not None
    return processes.FIRST._process.pid


def test_a_killed_first_process_is_replaced() -> None:
    with Decoder(1) as decoder:
        told(decoder, GOOD)
        killed = first_process()
        os.kill(killed, signal.SIGKILL)
        assert told(decoder, GOOD) == [""] * 6
    with Decoder(1) as decoder:
        assert told(decoder, GOOD) == [""] * 6
        assert first_process() != killed


def kill_fresh_workers(monkeypatch: pytest.MonkeyPatch, times: int, *, first_too: bool = False) -> list[int]:
    """Has the next workers killed before they answer: as many as are listed, which are those it was done to."""
    killed: list[int] = []
    start = processes.FIRST.start

    def start_and_kill(room: int) -> processes.Worker:
        worker = start(room)
        if len(killed) < times:
            killed.append(worker._requests.number)
            if first_too:  # nobody can say how the worker ended
                os.kill(first_process(), signal.SIGKILL)
            os.kill(worker._requests.number, signal.SIGKILL)
        return worker

    monkeypatch.setattr(processes.FIRST, "start", start_and_kill)
    return killed


@pytest.mark.parametrize("first_too", [False, True])
def test_a_file_is_not_blamed_for_a_worker_that_was_killed_once(
    first_too: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = kill_fresh_workers(monkeypatch, 1, first_too=first_too)
    with Decoder(2) as decoder:
        assert told(decoder, GOOD) == [""] * 6
        assert decoder.header(GOOD[0]) is not None
        assert len(killed) == decoder.crashed == 1
    killed.clear()
    with Decoder(2) as decoder:
        assert not isinstance(decoder.square(lambda: GOOD[0], 5), DecodeError)
        assert len(killed) == decoder.crashed == 1


def test_a_file_whose_workers_are_killed_twice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    killed = kill_fresh_workers(monkeypatch, 2)
    with Decoder(2) as decoder:
        assert str(decoder.square(lambda: GOOD[0], 5)) == "the decoder crashed (signal 9)"
        assert len(killed) == 2
        assert told(decoder, GOOD) == [""] * 6


def test_a_large_picture_to_look_at_is_made_smaller(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "PICTURE_PIXELS", 100)
    Image.fromarray(picture(0, 40, 30)).save(tmp_path / "a.png")
    source = open_source(tmp_path)
    assert source.picture(0).shape == (8, 10, 3)  # a quarter: a third would leave 140 pixels
    assert abs(source.picture(0).mean() - picture(0, 40, 30).mean()) < 2


# The number of workers


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mixed")
    for i in range(60):
        Image.fromarray(picture(i % 50, 9 + i, 70 - i)).save(root / f"{i:02}.{('png', 'jpg', 'bmp')[i % 3]}")
        if i % 9 == 0:
            (root / f"{i:02}.txt").write_bytes(encoded(i)[: 20 * i])
    return root


def same(one: Images, other: Images) -> bool:
    arrays = zip((one.pixels, one.index), (other.pixels, other.index), strict=True)
    return (one.rows, one.fingerprint) == (other.rows, other.fingerprint) and all(
        np.array_equal(*two) for two in arrays
    )


def test_images_do_not_depend_on_the_number_of_workers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {workers: load(open_source(folder, workers=workers), 12, None, Silent()) for workers in (0, 1, 4)}
    assert {row.status for row in found[0].rows} == {"ok", "quarantined"}
    assert same(found[0], found[1])
    assert same(found[0], found[4])
    monkeypatch.setattr("spiceclust.data.encoded.LARGE", 200)  # most are fetched and decoded alone
    assert same(found[0], load(open_source(folder, workers=2), 12, None, Silent()))
    monkeypatch.setattr(module, "SHARED_ROOM", 2)  # all take more than a share
    assert same(found[0], load(open_source(folder, workers=2), 12, None, Silent()))


def test_sizes_and_pictures_do_not_depend_on_the_number_of_workers(folder: Path) -> None:
    here, there = (open_source(folder, workers=workers) for workers in (0, 2))
    assert here.native_size() == there.native_size() == 23
    assert np.array_equal(here.picture(3), there.picture(3))
    with pytest.raises(DecodeError, match="empty file"):
        there.picture(1)


def test_the_default_is_a_worker_for_each_processor() -> None:
    assert Decoder().workers == min(8, len(os.sched_getaffinity(0)))


def test_few_files_take_one_worker(tmp_path: Path) -> None:
    for i in range(5):
        (tmp_path / f"{i}.png").write_bytes(GOOD[i])
    source = open_source(tmp_path, workers=4)
    with source.decoder:
        load(source, 8, None, Silent())
        assert len(children(first_process())) == 1


def test_threads_share_the_workers() -> None:
    results: list[list[str]] = []
    with Decoder(2) as decoder:
        threads = [threading.Thread(target=lambda: results.append(told(decoder, GOOD))) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(children(first_process())) <= 2
    assert results == [[""] * 6] * 6


# Processes begin and end


def test_nothing_is_left_after_reading(folder: Path) -> None:
    load(open_source(folder, workers=3), 8, None, Silent())
    assert children(first_process()) == []
    source = open_source(folder, workers=3)
    assert source.native_size() == 23
    assert len(children(first_process())) == 1
    del source
    assert children(first_process()) == []
    first = first_process()
    processes.FIRST.close()
    assert first not in children(os.getpid())  # nor a zombie


def test_the_first_process_starts_while_a_folder_is_looked_through(folder: Path) -> None:
    processes.FIRST.close()
    source = open_source(folder, workers=0)
    assert processes.FIRST._process is None
    source = open_source(folder, workers=1)
    begun = first_process()
    load(source, 8, None, Silent())
    assert first_process() == begun


def test_a_first_process_that_is_killed_while_it_starts_is_replaced() -> None:
    processes.FIRST.close()
    processes.FIRST.begin()
    killed = first_process()
    os.kill(killed, signal.SIGKILL)
    decoder = Decoder(1)
    assert told(decoder, GOOD) == [""] * 6
    assert decoder.workers == 1
    assert first_process() != killed


def test_without_an_executable_this_process_decodes_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    processes.FIRST.close()
    for executable in ("", "/nowhere/python", "/bin/true"):
        monkeypatch.setattr(sys, "executable", executable)
        decoder = Decoder(2)
        with pytest.warns(RuntimeWarning, match="decoded without limits of time and memory: no process could be"):
            assert told(decoder, GOOD) == [""] * 6
        assert decoder.workers == 0
        assert told(decoder, GOOD) == [""] * 6


def let_fork(monkeypatch: pytest.MonkeyPatch, condition: str, pauses: tuple[float, ...] = (0.0,)) -> None:
    """Has the first process fork only where an expression over `count`, calls so far, and `copies` is true."""
    code = f"""
import os
count, fork = -1, os.fork
def limited():
    global count
    count += 1
    copies = len(open(f"/proc/self/task/{{os.getpid()}}/children").read().split())
    if {condition}:
        return fork()
    raise BlockingIOError(11, "Resource temporarily unavailable")
os.fork = limited
"""
    monkeypatch.setattr(processes, "BOOT", f"exec({code!r}); {processes.BOOT}")
    monkeypatch.setattr(module, "PAUSES", pauses)
    processes.FIRST.close()


@pytest.fixture
def own_first() -> Iterator[None]:
    yield
    processes.FIRST.close()


def told_by_threads(decoder: Decoder) -> list[list[str]]:
    with ThreadPoolExecutor(6) as pool:
        return list(pool.map(lambda _: told(decoder, GOOD), range(6)))


@pytest.mark.usefixtures("own_first")
def test_a_fork_that_fails_once_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    let_fork(monkeypatch, "count != 1", (0.0, 0.01))
    with Decoder(2) as decoder:
        busy = processes.FIRST.start(10**8)
        assert told(decoder, GOOD) == [""] * 6
        assert (decoder.workers, decoder.crashed) == (2, 0)
        assert list(busy.ask(worker.HEADER, 0, [GOOD[0]])) == [(None, *decode_square(GOOD[0], 5)[1:])]
        busy.close()


@pytest.mark.usefixtures("own_first")
def test_workers_that_cannot_be_started_are_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    let_fork(monkeypatch, "copies < 1")
    answers = Decoder._answers

    def late(self: Decoder, *given: Any) -> list[processes.Answer]:
        deadline = time.monotonic() + 30
        while self.workers > 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        return answers(self, *given)

    with Decoder(3) as decoder:
        monkeypatch.setattr(Decoder, "_answers", late)
        assert told_by_threads(decoder) == [[""] * 6] * 6
        assert (decoder.workers, decoder.crashed) == (1, 0)
        assert not isinstance(decoder.square(lambda: GOOD[0], 5), DecodeError)  # in the place of the idle one
        assert told(decoder, GOOD) == [""] * 6
        assert decoder.workers == 1


@pytest.mark.usefixtures("own_first")
@pytest.mark.parametrize(
    ("condition", "workers", "why"),
    [("False", 2, "the limit of processes"), ("os._exit(1)", 1, "the process that copies itself was killed")],
    ids=["no fork", "killed by each fork"],
)
def test_without_one_worker_this_process_decodes_and_says_so(
    condition: str, workers: int, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_fork(monkeypatch, condition)
    with Decoder(workers) as decoder:
        with pytest.warns(RuntimeWarning, match=rf"without limits .*: no process could be started \({why}"):
            assert told(decoder, GOOD) == [""] * 6
        assert decoder.workers == 0
        assert told(decoder, GOOD) == [""] * 6


@pytest.mark.usefixtures("own_first")
def test_a_run_keeps_that_its_images_were_decoded_without_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").mkdir()
    for i, content in enumerate(GOOD):
        (tmp_path / f"photos/{i}.png").write_bytes(content)
    let_fork(monkeypatch, "False")
    asked = make_request(n_clusters=2, image_size=8, overrides=TINY)
    with pytest.warns(RuntimeWarning, match="without limits"):
        result = pipeline.fit(open_source(tmp_path / "photos"), asked, tmp_path / "run")
    assert [line for line in result.run["warnings"] if "decoded without limits of time and memory" in line]


@pytest.mark.usefixtures("own_first")
def test_without_one_worker_a_large_file_is_decoded_here(monkeypatch: pytest.MonkeyPatch) -> None:
    let_fork(monkeypatch, "False")
    with Decoder(2) as decoder:
        with pytest.warns(RuntimeWarning, match="without limits"):
            answer = decoder.square(lambda: GOOD[0], 5)
        assert not isinstance(answer, DecodeError)
        assert decoder.workers == 0


SCRIPT = """
import os, signal, sys, time
from spiceclust.data import processes
from spiceclust.data.images import load
from spiceclust.data.sources import open_source
from spiceclust.progress import Silent
print("begun", flush=True)
source = open_source(sys.argv[1], workers=2)
size = source.native_size()
first = processes.FIRST._process.pid
"""


def run_script(folder: Path, path: Path, code: str, end: int | None = None) -> tuple[str, str]:
    """Runs a script without `if __name__`; with `end`, its whole process group is sent that signal once it is ready."""
    (path / "script.py").write_text(SCRIPT + code)
    words = [sys.executable, str(path / "script.py"), str(folder)]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True, start_new_session=True, cwd=path) as process:
        out = ""
        if end is not None:
            assert process.stdout is not None
            while "ready" not in out:
                out += process.stdout.readline()
            os.killpg(process.pid, end)
        rest, errors = process.communicate(timeout=60)
    return out + rest, errors


def test_a_script_is_run_once_and_its_forks_have_decoders_of_their_own(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "struct.py").write_text("raise SystemExit('not the one of the standard library')")
    (tmp_path / "struct.py").rename(tmp_path / "numpy_not.py")
    code = """
one = load(source, 12, None, Silent()).fingerprint
source.native_size()
child = os.fork()
two = load(source, 12, None, Silent()).fingerprint
if not child:
    os._exit(0 if one == two and processes.FIRST._process.pid != first else 1)
print(os.waitpid(child, 0)[1], one == two)
"""
    assert run_script(folder, tmp_path, code) == ("begun\n0 True\n", "")


def gone(processes: list[int]) -> bool:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if not any(Path(f"/proc/{process}").exists() for process in processes):
            return True
        time.sleep(0.05)
    return False


def test_processes_end_with_a_parent_that_is_killed(folder: Path, tmp_path: Path) -> None:
    code = """
children = open(f"/proc/{first}/task/{first}/children").read().split()
print(first, *children, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    out, errors = run_script(folder, tmp_path, code)
    processes = [int(number) for number in out.split()[1:]]
    assert len(processes) == 2
    assert errors == ""
    assert gone(processes)


def test_ctrl_c_is_heard_by_the_parent_alone(folder: Path, tmp_path: Path) -> None:
    code = """
import signal
heard = []
def interrupt(*_):
    heard.append(True)  # a finalizer may be running, where what is raised is lost
    raise KeyboardInterrupt
signal.signal(signal.SIGINT, interrupt)
try:
    print("ready", flush=True)
    while not heard:
        load(source, 12, None, Silent())
except KeyboardInterrupt:
    pass
load(source, 12, None, Silent())
print(processes.FIRST._process.pid == first)
"""
    assert run_script(folder, tmp_path, code, end=signal.SIGINT) == ("begun\nready\nTrue\n", "")


def test_the_decoding_process_imports_little() -> None:
    code = """
import sys, time
import spiceclust.data.worker
heavy = {"torch", "scipy", "sklearn", "pyarrow", "pydantic"} & set(sys.modules)
sys.exit(f"{heavy}" if heavy or time.process_time() > 1 else 0)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
