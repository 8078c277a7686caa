import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pictures import write_tar
from spiceclust.cli import main
from spiceclust.locks import locked_beside
from spiceclust.manifest import write_manifest
from spiceclust.progress import Silent
from spiceclust.result import Result
from synthetic import shapes
from test_pipeline import TINY, contents


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos/KIND/NUMBER.png, one broken file, tiny.json, and a finished run of them."""
    root = tmp_path_factory.mktemp("cli")
    images, classes = shapes(10)
    for i, (image, kind) in enumerate(zip(images, classes, strict=True)):
        folder = root / "photos" / f"kind {kind}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{i}.png")
    (root / "photos/broken.png").write_bytes(b"no picture")
    (root / "tiny.json").write_text(json.dumps(TINY))
    done = command(root, "fit", "photos", "--clusters", "3", "--out", "run", "--config", "tiny.json")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("30 images in 3 clusters")
    assert done.stdout.endswith("run/report.html\n")
    return root


def command(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "spiceclust", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


DYING = """
import os, signal, sys
from spiceclust.cli import main
from spiceclust.data import packed

packed.PART_ROWS = 8
append = packed.Packed.append


def dies(self, rows, pictures):
    if len(self.parts) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    append(self, rows, pictures)


packed.Packed.append = dies
sys.argv[0] = "spiceclust"
main()
"""


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_a_fit_from_shards_with_pixels_on_disk_goes_on_after_a_kill(kind: str, place: Path, tmp_path: Path) -> None:
    files = sorted(path for path in (place / "photos").rglob("*.png") if path.name != "broken.png")
    for shard in range(3):
        inside = [(path.name, path.read_bytes()) for path in files[shard::3]]
        if kind == "tar":
            write_tar(tmp_path / f"{shard}.tar", inside)
        else:
            table = pa.table({"file_name": [name for name, _ in inside], "image": [content for _, content in inside]})
            pq.write_table(table, tmp_path / f"{shard}.parquet", row_group_size=4)
    words = ["fit", f"*.{kind}", "--clusters", "3", "--config", str(place / "tiny.json")]
    expected = command(tmp_path, *words, "--out", "memory", "--pixels", "memory")
    assert expected.returncode == 0, expected.stderr
    killed = subprocess.run(
        [sys.executable, "-c", DYING, *words, "--out", "disk", "--pixels", "disk"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    done = command(tmp_path, *words, "--out", "disk")
    assert done.returncode == 0, done.stderr
    assert "reading images: 16 of 30 are in disk/pixels" in done.stderr.splitlines()
    assert "reading images: 14/14 in" in done.stderr
    for name in ("clusters.csv", "images.parquet", "5-semi/tensors.safetensors", "contact_sheet.png"):
        assert (tmp_path / "disk" / name).read_bytes() == (tmp_path / "memory" / name).read_bytes()
    assert not (tmp_path / "disk/pixels").exists()


def test_another_place_for_pixels_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], place: Path
) -> None:
    monkeypatch.chdir(place)
    for words in (["fit", "photos", "--clusters", "3", "--out", "new"], ["doctor", "photos"]):
        line = rejected(monkeypatch, capsys, *words, "--pixels", "tape")
        assert line == "error: unknown place for pixels 'tape': choose one of auto, memory, disk"
    assert not (place / "new").exists()


def rejected(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Runs the command in this process; checks that it exits with 2 and one line after progress; returns the line."""
    monkeypatch.setattr(sys, "argv", ["spiceclust", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    shown = capsys.readouterr()
    assert caught.value.code == 2
    assert shown.out == ""
    *before, line = shown.err.splitlines()
    assert line.startswith("error: ")
    assert not any("error" in text or "Traceback" in text for text in before)
    return line


def test_fit_leaves_a_contact_sheet_that_opens(place: Path) -> None:
    with Image.open(place / "run/contact_sheet.png") as sheet:
        assert sheet.width > 500
        assert sheet.height > 3 * 56


def test_fit_leaves_a_report_and_the_command_writes_it_again_wherever_the_images_are(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = (place / "run/report.html").read_bytes()
    assert b'"sheets":[{"side":16' in first
    assert b'"heat":{"side":16' in first
    assert b'"without":{"gone":0,"room":0}' in first  # every image has its picture
    shutil.copytree(place / "run", tmp_path / "run")
    done = command(tmp_path, "report", "run")
    assert (done.returncode, done.stdout) == (0, "run/report.html\n")
    assert (tmp_path / "run/report.html").read_bytes() == first
    monkeypatch.chdir(tmp_path)
    assert "nowhere" in rejected(monkeypatch, capsys, "report", "run", "--source", "nowhere")
    assert "is not a run folder" in rejected(monkeypatch, capsys, "report", str(place / "photos"))


def test_a_run_folder_may_have_a_name_that_is_no_text(make_result: Callable[..., Result], tmp_path: Path) -> None:
    run = os.fsencode(tmp_path) + b"/run\xff"
    os.mkdir(run)
    result = make_result([0, 1], 2)
    write_manifest(Path(os.fsdecode(run)), result.rows)
    result.save(Path(os.fsdecode(run)))
    told = subprocess.run([sys.executable, "-m", "spiceclust", "report", run], capture_output=True, check=True).stdout
    assert told == run + b"/report.html\n"
    assert "<title>run\\xff ·" in Path(os.fsdecode(told[:-1])).read_text()


def test_progress_is_plain_lines_when_not_on_a_terminal(place: Path, tmp_path: Path) -> None:
    again = command(place, "fit", "photos", "--clusters", "3", "--out", str(tmp_path / "r"), "--config", "tiny.json")
    assert "\x1b" not in again.stderr
    assert "31 found: 30 distinct images, 0 duplicates, 1 quarantined" in again.stderr
    assert "1-pretrain done" in again.stderr


def test_fit_takes_a_method(place: Path, tmp_path: Path) -> None:
    asked = ["--clusters", "3", "--out", str(tmp_path / "run"), "--config", "tiny.json", "--method", "scan"]
    done = command(place, "fit", "photos", *asked)
    assert done.returncode == 0, done.stderr
    assert "SCAN" in done.stderr
    assert json.loads((tmp_path / "run/run.json").read_text())["config"]["method"] == "scan"


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_predict_writes_the_clusters_of_the_fit(ending: str, place: Path) -> None:
    done = command(place, "predict", "run", "photos", "--out", f"new.{ending}")
    assert done.returncode == 0, done.stderr
    assert "not read: broken.png: " in done.stderr
    with (place / "run/clusters.csv").open(newline="") as file:
        fitted = {row["path"]: int(row["cluster"]) for row in csv.DictReader(file)}
    if ending == "csv":
        with (place / "new.csv").open(newline="") as file:
            predicted = {row["path"]: int(row["cluster"]) for row in csv.DictReader(file)}
    else:
        table = pq.read_table(place / "new.parquet").to_pydict()
        predicted = dict(zip(table["path"], table["cluster"], strict=True))
    assert predicted == fitted


def test_export_says_what_it_wrote_and_what_it_left_out(place: Path, tmp_path: Path) -> None:
    done = command(place, "export", "run", "--to", str(tmp_path / "sorted"), "--as", "folders", "--link", "symlink")
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        f"30 images in {tmp_path}/sorted\nopen it with: torchvision.datasets.ImageFolder('{tmp_path}/sorted')\n"
    )
    assert "left out, 1: not an image in a supported format" in done.stderr
    with (place / "run/clusters.csv").open(newline="") as file:
        fitted = {row["path"]: f"cluster_{int(row['cluster']):02}" for row in csv.DictReader(file)}
    found = {os.path.realpath(path): path.parent.name for path in (tmp_path / "sorted").glob("cluster_*/*")}
    assert found == {os.path.realpath(place / "photos" / path): name for path, name in fitted.items()}


def test_an_array_is_exported_from_its_file_or_when_it_is_given_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("images.npy", shapes(10)[0])
    Path("tiny.json").write_text(json.dumps(TINY))
    command(tmp_path, "fit", "images.npy", "--clusters", "3", "--out", "run", "--config", "tiny.json")
    asked = ("export", "run", "--to", "out", "--as", "imagefolder")
    done = command(tmp_path, "export", "run", "--to", "first", "--as", "imagefolder")
    assert done.returncode == 0, done.stderr
    Path("images.npy").rename("moved.npy")
    assert "give them again, with --source" in rejected(monkeypatch, capsys, *asked)
    done = command(tmp_path, *asked, "--source", "moved.npy")
    assert done.returncode == 0, done.stderr
    assert len(list(Path("out/train").glob("cluster_*/*.png"))) == 30
    assert len(list(Path("first/train").glob("cluster_*/*.png"))) == 30


@pytest.mark.parametrize("prefix", ["", "photos/", "absolute"])
def test_evaluate_takes_paths_as_people_write_them(prefix: str, place: Path, tmp_path: Path) -> None:
    before = {path: path.parent.name for path in (place / "photos").rglob("[0-9]*.png")}
    base = place / "photos" if prefix == "" else place
    names = {path: path if prefix == "absolute" else path.relative_to(base) for path in before}
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["label", "path", "note"])
        writer.writerows([kind, names[path], "x"] for path, kind in before.items())
    by_csv = command(place, "evaluate", "run", "--labels", str(tmp_path / "labels.csv"))
    by_folder = command(place, "evaluate", "run", "--labels", "folders")
    scores = json.loads(by_csv.stdout)
    assert scores == json.loads(by_folder.stdout)
    assert scores["n"] == 30
    assert 1 / 3 <= scores["acc"] <= 1
    metrics = json.loads((place / "run/metrics.json").read_text())
    assert metrics["acc"] == scores["acc"]
    assert "guard" in metrics


def test_array_runs_are_scored_by_npz(tmp_path: Path) -> None:
    images, classes = shapes(10)
    np.savez(tmp_path / "shapes.npz", images=images, labels=classes)
    (tmp_path / "tiny.json").write_text(json.dumps(TINY))
    command(tmp_path, "fit", "shapes.npz", "--clusters", "3", "--out", "run", "--config", "tiny.json")
    assert json.loads(command(tmp_path, "evaluate", "run", "--labels", "shapes.npz").stdout)["n"] == 30
    np.savez(tmp_path / "short.npz", labels=classes[:9])
    short = command(tmp_path, "evaluate", "run", "--labels", "short.npz")
    assert short.returncode == 2
    assert short.stderr == "error: short.npz has 9 labels and the run 30 images: they should be equal\n"


def test_labels_that_cannot_belong_to_the_run_are_refused(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "rows.npz", labels=np.arange(31))
    (tmp_path / "bad.npz").write_bytes(b"no archive")
    np.save(tmp_path / "images.npy", shapes(10)[0])
    (tmp_path / "tiny.json").write_text(json.dumps(TINY))
    arrays = str(tmp_path / "arrays")
    command(tmp_path, "fit", "images.npy", "--clusters", "3", "--out", arrays, "--config", "tiny.json")

    def evaluate(run: str, labels: str) -> str:
        return rejected(monkeypatch, capsys, "evaluate", run, "--labels", labels)

    assert "counts rows of an array, but this run clustered files" in evaluate(
        str(place / "run"), f"{tmp_path}/rows.npz"
    )
    assert "lie in no folders" in evaluate(arrays, "folders")
    assert "cannot be read as arrays" in evaluate(arrays, f"{tmp_path}/bad.npz")
    assert "1797 labels and the run 30 images" in evaluate(arrays, "digits")


def test_two_predictions_into_one_table_are_refused(place: Path, tmp_path: Path) -> None:
    with locked_beside(tmp_path / "new.csv", Silent()):
        done = command(place, "predict", "run", "photos", "--out", str(tmp_path / "new.csv"))
    assert done.returncode == 2
    assert "new.csv is being written by process" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_predict_leaves_out_a_run_inside_the_source(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "photos", tmp_path / "photos")
    (tmp_path / "tiny.json").write_text(json.dumps(TINY))
    command(tmp_path, "fit", "photos", "--clusters", "3", "--out", "photos/run", "--config", "tiny.json")
    done = command(tmp_path, "predict", "photos/run", "photos", "--out", "new.csv")
    assert done.stdout.startswith("30 images in new.csv, 1 could not be read; ")


@pytest.mark.parametrize("arguments", [(), ("--help",)])
def test_help_names_every_command(arguments: tuple[str, ...]) -> None:
    shown = command(Path.cwd(), *arguments)
    assert shown.returncode == 0
    for name in ("demo", "fit", "predict", "evaluate", "export", "doctor"):
        assert f"  {name} " in shown.stdout


def test_bad_usage_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert "'--clusters'" in rejected(monkeypatch, capsys, "fit", "photos", "--out", "run")
    assert "No such command 'fits'" in rejected(monkeypatch, capsys, "fits")
    assert "'--clusters': Input should be a valid integer" in rejected(
        monkeypatch, capsys, "fit", "photos", "--clusters", "many", "--out", "run"
    )


def test_bad_input_is_one_line_that_says_what_to_do(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.txt").write_text("no picture")
    (tmp_path / "half.json").write_text('{"semi": ')
    before = contents(place)

    def fit(*changes: str, source: str = "photos", clusters: str = "3", out: str = str(tmp_path / "new")) -> str:
        return rejected(monkeypatch, capsys, "fit", source, "--clusters", clusters, "--out", out, *changes)

    assert "30 distinct readable images are too few for 16 clusters: at least 32" in fit(clusters="16")
    assert "n_clusters=1 should be >= 2" in fit(clusters="1")
    assert str(tmp_path / "empty") in fit(source=str(tmp_path / "empty"))
    assert "texts" in fit(source=str(tmp_path / "texts"))
    assert "no such" in fit(source="nowhere").lower()
    assert "choose another folder" in fit(out=str(place / "tiny.json"))
    assert "choose another folder" in fit(out="/proc/nowhere")
    assert "unknown preset 'fast': choose one of quick, standard, paper" in fit("--preset", "fast")
    assert "unknown method 'scam': choose one of auto, spice, spice-paper, scan" in fit("--method", "scam")
    assert "half.json cannot be read" in fit("--config", str(tmp_path / "half.json"))
    assert "n_clusters 3 there, 4 now" in fit("--config", "tiny.json", clusters="4", out="run")
    assert "photos holds other files" in fit(out="photos")
    assert "is not a run folder" in rejected(monkeypatch, capsys, "evaluate", "photos", "--labels", "folders")
    assert "no finished model" in rejected(monkeypatch, capsys, "predict", "photos", "photos", "--out", "x.csv")
    assert "unknown kind of table '.xls'" in rejected(monkeypatch, capsys, "predict", "run", "photos", "--out", "a.xls")
    assert "folder no is not there" in rejected(monkeypatch, capsys, "predict", "run", "photos", "--out", "no/a.csv")
    assert "no such file" in rejected(monkeypatch, capsys, "evaluate", "run", "--labels", "nothing.csv")
    export = ("export", "run", "--to", str(tmp_path / "new"), "--as")
    assert "unknown kind of export 'zip'" in rejected(monkeypatch, capsys, *export, "zip")
    assert "unknown link 'soft'" in rejected(monkeypatch, capsys, *export, "csv", "--link", "soft")
    assert "nothing is overwritten" in rejected(monkeypatch, capsys, *export[:3], "photos", "--as", "csv")
    assert "holds no images" in rejected(monkeypatch, capsys, *export, "onnx", "--only", "reliable")
    (tmp_path / "labels.csv").write_text("file,label\na.png,x\n")
    wrong = rejected(monkeypatch, capsys, "evaluate", "run", "--labels", str(tmp_path / "labels.csv"))
    assert "has the columns file, label: it needs path and label" in wrong
    (tmp_path / "labels.csv").write_text("path,label\nother.png,x\n")
    strange = rejected(monkeypatch, capsys, "evaluate", "run", "--labels", str(tmp_path / "labels.csv"))
    assert "none of the" in strange
    assert contents(place) == before
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("number", "code"), [(5, 1), (28, 1), (2, 2), (13, 2)])
def test_a_system_that_fails_is_no_bad_input(
    number: int, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def failing(*arguments: object, **named: object) -> None:
        raise OSError(number, "what it says", "disk")

    monkeypatch.setattr("spiceclust.pipeline.fit", failing)
    arguments = ["fit", "builtin:digits", "--clusters", "10", "--out", str(tmp_path / "run")]
    monkeypatch.setattr(sys, "argv", ["spiceclust", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == code
    assert capsys.readouterr().err == "error: disk cannot be read or written (what it says)\n"


def test_what_should_not_happen_is_one_line_and_a_traceback_with_debug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def broken(*arguments: object, **named: object) -> None:
        raise KeyError("surprise")

    monkeypatch.setattr("spiceclust.pipeline.fit", broken)
    arguments = ["spiceclust", "fit", "builtin:digits", "--clusters", "10", "--out", str(tmp_path / "run")]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 1
    assert capsys.readouterr().err.count("\n") == 1
    monkeypatch.setattr(sys, "argv", [*arguments, "--debug"])
    with pytest.raises(KeyError, match="surprise"):
        main()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_fit_exits_with_130_and_goes_on_where_it_was(
    how: signal.Signals, place: Path, tmp_path: Path
) -> None:
    (tmp_path / "long.json").write_text(json.dumps({**TINY, "semi": {"steps": 100_000}}))
    arguments = ["fit", "photos", "--clusters", "3", "--out", str(tmp_path / "run"), "--config"]
    # Ctrl-C reaches it, also where these tests are a shell's work in the background, which ignores it
    code = "import signal as s; s.signal(s.SIGINT, s.default_int_handler); import spiceclust.cli as c; c.main()"
    started = subprocess.Popen(
        [sys.executable, "-c", code, *arguments, str(tmp_path / "long.json")],
        cwd=place,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
    )
    deadline = time.monotonic() + 100
    assert started.stderr is not None
    for line in started.stderr:
        if line.startswith("stage 5 from"):
            break
        assert time.monotonic() < deadline
    time.sleep(2)  # some steps of a hundred thousand, and much less than until the first snapshot
    started.send_signal(how)
    _, text = started.communicate(timeout=100)
    assert started.returncode == 130
    assert text.splitlines()[-1].startswith("error: interrupted")
    assert text.count("error: ") == 1
    assert "Traceback" not in text
    kept = list((tmp_path / "run/snapshots/5-semi").rglob("*.json"))
    assert [json.loads(file.read_text())["step"] > 0 for file in kept] == [True]
    assert not (tmp_path / "run/.lock").exists()
    assert (tmp_path / "run/1-pretrain/done.json").exists()
    assert not (tmp_path / "run/clusters.csv").exists()
    unfinished = command(place, "predict", str(tmp_path / "run"), "photos", "--out", str(tmp_path / "x.csv"))
    assert unfinished.returncode == 2
    assert "no finished model" in unfinished.stderr


def test_fit_ends_with_what_it_warns_of(place: Path, tmp_path: Path) -> None:
    shown = place / "photos/kind 0"
    signs = np.where(np.arange(len(list(shown.iterdir()))) < 4, 1.0, -1.0)
    np.save(tmp_path / "e.npy", np.outer(signs, [1.0, 2.0]))
    asked = ["--clusters", "3", "--out", str(tmp_path / "run"), "--config", "tiny.json"]
    done = command(place, "fit", str(shown), *asked, "--encoder", f"embeddings:{tmp_path / 'e.npy'}")
    assert done.returncode == 0, done.stderr
    warnings = json.loads((tmp_path / "run/run.json").read_text())["warnings"]
    assert "1 of 3 clusters hold no image: ask for 2" in warnings
    assert done.stderr.splitlines()[-len(warnings) :] == [f"warning: {line}" for line in warnings]


def test_fit_and_predict_take_ready_embeddings(place: Path, tmp_path: Path) -> None:
    shown = place / "photos/kind 0"
    n = len(list(shown.iterdir()))
    file = tmp_path / "e.npy"
    np.save(file, np.random.default_rng(0).normal(size=(n, 6)).astype(np.float32))
    asked = [
        "--clusters",
        "3",
        "--out",
        str(tmp_path / "run"),
        "--config",
        "tiny.json",
        "--encoder",
        f"embeddings:{file}",
    ]
    done = command(place, "fit", str(shown), *asked)
    assert done.returncode == 0, done.stderr
    assert "5-semi skipped: it learns from views of images, and of ready embeddings there are none" in done.stderr
    done = command(place, "predict", str(tmp_path / "run"), f"embeddings:{file}", "--out", str(tmp_path / "new.csv"))
    assert done.returncode == 0, done.stderr
    with (tmp_path / "new.csv").open(newline="") as new, (tmp_path / "run/clusters.csv").open(newline="") as fitted:
        predicted, clustered = list(csv.DictReader(new)), list(csv.DictReader(fitted))
    assert [row["path"] for row in predicted] == [str(i) for i in range(n)]  # row numbers
    for row, known in zip(predicted, clustered, strict=True):
        assert (row["cluster"], row["confidence"]) == (known["cluster"], known["confidence"])
    done = command(place, "predict", str(tmp_path / "run"), "photos", "--out", str(tmp_path / "new.csv"))
    assert done.returncode == 2
    assert "cannot look at images: give embeddings of the new ones by the same encoder" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e.npy", "new.csv", "run"]  # no parts of a table


@pytest.mark.parametrize(
    ("encoder", "says"),
    [
        ("clip", "unknown encoder 'clip'"),
        ("timm", "should be written timm:NAME"),
        ("checkpoint:nowhere.pth", "nowhere.pth cannot be opened"),
        ("embeddings:nowhere.npy", "embeddings nowhere.npy cannot be opened"),
        ("module:mine.Net", "made and resumed in Python alone"),
    ],
)
def test_an_encoder_that_cannot_be_is_one_line(
    encoder: str,
    says: str,
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = ["--clusters", "3", "--out", str(tmp_path / "run"), "--encoder", encoder]
    assert says in rejected(monkeypatch, capsys, "fit", str(place / "photos"), *given)
    assert not (tmp_path / "run").exists()
