"""The command: parse, call one function, print. What is slow to import is imported by the command that needs it."""

from __future__ import annotations

import io
import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from spiceclust import interruption
from spiceclust.errors import ConfigError, InputError, SourceError, SpiceError

INTERRUPTED = 130
GIVEN_WRONGLY = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)  # paths that cannot be
# Spins of a waiting OpenMP thread: without end, the default, a busy neighbour starves the run (docs/log.md).
SPINS = "20000"

app = typer.Typer(
    help="Sort unlabelled images into semantic clusters with SPICE. Add --debug to any command for tracebacks.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

SourceArgument = Annotated[
    str, typer.Argument(help="A folder, a picture, .npy, .npz, .tar or .parquet, hf:NAME, NAME:ROOT, builtin:digits.")
]
RunArgument = Annotated[Path, typer.Argument(help="A run folder, as `fit` makes it.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, ...")]
PixelsOption = Annotated[
    str,
    typer.Option(help="Where decoded images are kept: memory, disk (OUT/pixels), auto: disk where they do not fit."),
]


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Run folder.")] = Path("runs/digits"),
    seed: Annotated[int, typer.Option(help="Seed of all randomness.")] = 0,
    device: DeviceOption = "auto",
) -> None:
    """Cluster 1,797 handwritten digits, which come with a dependency, and compare with the true digits."""
    fit(source="builtin:digits", clusters=10, out=out, seed=seed, device=device)
    from spiceclust.exports import report as write_page
    from spiceclust.outputs.evaluate import evaluate, read_truth, write_scores
    from spiceclust.result import Result
    from spiceclust.training.distributed import expected

    if not expected().leads:
        return
    result = Result.load(out)
    scores, trust = evaluate(result, read_truth("digits", result))
    write_scores(out, result, scores, trust)
    write_page(out, source="builtin:digits")
    print(f"accuracy {scores.acc:.3f}, NMI {scores.nmi:.3f}, ARI {scores.ari:.3f} against the true digits, which")
    print("the clustering never saw. Next: spiceclust fit YOUR_FOLDER --clusters 10 --out runs/mine")


@app.command()
def fit(
    source: SourceArgument,
    clusters: Annotated[int, typer.Option(help="How many clusters, C.")],
    out: Annotated[Path, typer.Option(help="Run folder; the same command again resumes it.")],
    method: Annotated[str, typer.Option(help="auto, spice, spice-paper (as published) or scan.")] = "auto",
    preset: Annotated[str, typer.Option(help="quick (CPU, minutes), standard (one GPU) or paper.")] = "quick",
    encoder: Annotated[
        str,
        typer.Option(help="moco (learn from these images), timm:NAME[@FILE], checkpoint:PATH, embeddings:FILE.npy."),
    ] = "moco",
    views: Annotated[str, typer.Option(help="auto, natural, aligned, glyph or texture.")] = "auto",
    image_size: Annotated[int | None, typer.Option(help="Side in pixels; derived when not given.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of all randomness.")] = 0,
    device: DeviceOption = "auto",
    config: Annotated[Path | None, typer.Option(help="JSON file whose fields override the preset's.")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes that decode images; 0 for none, which sets no limits.", min=0)
    ] = None,
    pixels: PixelsOption = "auto",
    compile: Annotated[
        bool, typer.Option("--compile", help="Compile the networks first, which only long trainings get back.")
    ] = False,
) -> None:
    """Cluster the images of SOURCE into the run folder OUT."""
    from spiceclust.config import make_request

    request = make_request(
        n_clusters=clusters,
        seed=seed,
        method=method,
        preset=preset,
        encoder=encoder,
        views=views,
        image_size=image_size,
        overrides=_read_overrides(config),
    )
    from spiceclust import pipeline
    from spiceclust.data.sources import open_source
    from spiceclust.exports import heat_of
    from spiceclust.locks import locked, refuse_locked
    from spiceclust.outputs.contact_sheet import write_contact_sheet
    from spiceclust.outputs.report.page import write_report
    from spiceclust.progress import for_stderr
    from spiceclust.training.distributed import open_world

    progress = for_stderr()
    with open_world(progress) as world:
        if not world.leads:
            pipeline.follow(world, device=device, compile=compile)
            return
        refuse_locked(out, progress)
        images = open_source(source, exclude=[out], workers=workers)
        result = pipeline.fit(
            images, request, out, device=device, progress=progress, compile=compile, world=world, pixels=pixels
        )
    with locked(out, progress):
        write_contact_sheet(out / "contact_sheet.png", result, images.picture)
    heat = heat_of(out, result, images, device=device, progress=progress)
    page = write_report(out, result, images, heat=heat, progress=progress)
    clustered = int((result.labels >= 0).sum())
    for line in result.run["warnings"]:
        print(f"warning: {line}", file=sys.stderr)
    print(f"{clustered} images in {result.n_clusters} clusters, {int(result.reliable.sum())} of them reliable")
    print(f"{out / 'clusters.csv'}  {out / 'contact_sheet.png'}  {page}")


@app.command()
def predict(
    run: RunArgument,
    source: SourceArgument,
    out: Annotated[
        str,
        typer.Option(
            help="Table to write, .csv or .parquet: path, cluster, confidence, novelty. Or a folder of tables."
        ),
    ],
    device: DeviceOption = "auto",
    engine: Annotated[str, typer.Option(help="local or ray (a folder of tables, one for each shard).")] = "local",
    address: Annotated[str, typer.Option(help="Of a Ray cluster; one on this machine if not given.")] = "",
    embeddings: Annotated[bool, typer.Option("--embeddings", help="Embeddings too, in a folder of tables.")] = False,
) -> None:
    """Cluster other images with a finished run, however many; the same command again goes on where it stopped."""
    from spiceclust.outputs.table import is_table
    from spiceclust.progress import for_stderr

    progress = for_stderr()
    if not is_table(out):
        from spiceclust.bulk.run import predict_shards

        done = predict_shards(
            run, source, out, progress, engine=engine, address=address, device=device, embeddings=embeddings
        )
        print(
            f"{done.rows} images in {done.shards} tables in {out}, {done.unread} could not be read; "
            f"{done.rate:,.0f} images/s"
        )
        return
    if engine != "local" or embeddings:
        raise ConfigError(f"one table has no embeddings, and one engine, local: give a folder in the place of {out}")
    from spiceclust import prediction
    from spiceclust.data.vectors import open_inputs
    from spiceclust.locks import locked_beside
    from spiceclust.outputs.table import Table, check_table_path, parts_folder

    path = Path(out)
    check_table_path(path)
    images = open_inputs(source, exclude=[run, path, parts_folder(path)])  # first: decoders start meanwhile
    model = prediction.open_model(run, device)
    prediction.check_inputs(model, images)  # before the table's parts have a folder
    with locked_beside(path, progress):
        table = Table(path, prediction.key_of(model, images))
        rate = prediction.fill(table, model, images, progress)
    print(f"{table.rows} images in {out}, {len(images) - table.rows} could not be read; {rate:,.0f} images/s")


@app.command()
def evaluate(
    run: RunArgument,
    labels: Annotated[
        str, typer.Option(help="A .csv (path,label), a .npz with labels, folders, digits, or NAME:ROOT.")
    ],
) -> None:
    """Score a finished run against true labels and print JSON."""
    from spiceclust.outputs.evaluate import evaluate, read_truth, write_scores
    from spiceclust.result import Result

    result = Result.load(run)
    scores, trust = evaluate(result, read_truth(labels, result))
    added = write_scores(run, result, scores, trust)
    added.pop("confusion")  # long; in metrics.json and in the report
    print(json.dumps(added, indent=2, ensure_ascii=False))


@app.command()
def report(
    run: RunArgument,
    source: Annotated[str | None, typer.Option(help="The images; those that were clustered if not given.")] = None,
) -> None:
    """Write what a finished run found as one page, RUN/report.html, that opens in any browser."""
    from spiceclust.exports import report as write_page
    from spiceclust.progress import for_stderr

    print(write_page(run, source=source, progress=for_stderr()))


@app.command()
def export(
    run: RunArgument,
    to: Annotated[Path, typer.Option(help="Folder to make, new or empty; nothing is overwritten.")],
    kind: Annotated[
        str,
        typer.Option(
            "--as", help="folders, csv, parquet, imagefolder, coco, labelstudio, fiftyone, onnx or safetensors."
        ),
    ],
    only: Annotated[str, typer.Option(help="all or reliable: which images.")] = "all",
    link: Annotated[str, typer.Option(help="copy, hard or symlink: how files come into the folder.")] = "copy",
    source: Annotated[str | None, typer.Option(help="The images; the folder that was clustered if not given.")] = None,
    corrections: Annotated[bool, typer.Option(help="Apply what was corrected in `review`, if anything was.")] = True,
) -> None:
    """Write a finished run's images, table or classifier in a form that other programs read."""
    from collections import Counter

    from spiceclust.exports import HINTS
    from spiceclust.exports import export as export_run
    from spiceclust.progress import for_stderr

    done = export_run(
        run, to, kind, only=only, link=link, source=source, corrections=corrections, progress=for_stderr()
    )
    reasons = Counter(reason for _, reason in done.left_out).most_common()
    for reason, count in reasons[:5]:
        print(f"left out, {count}: {reason}", file=sys.stderr)
    if reasons[5:]:
        print(f"left out, {sum(count for _, count in reasons[5:])}: see {to / 'left_out.csv'}", file=sys.stderr)
    print(f"{done.images} images in {to}" if done.images else f"the classifier in {to}")
    print(f"open it with: {HINTS[kind].format(to.absolute())}")


@app.command()
def review(
    run: RunArgument,
    port: Annotated[
        int, typer.Option(help="Where the page is served on this machine; 0 for any.", min=0, max=65535)
    ] = 8765,
    source: Annotated[str | None, typer.Option(help="The images; those that were clustered if not given.")] = None,
) -> None:
    """Look at a finished run in the browser and correct it; what is corrected is kept in RUN/review at once."""
    from spiceclust.progress import for_stderr
    from spiceclust.review.serve import serve

    def ready(url: str) -> None:
        print(f"{url}\nopen it in a browser on this machine; Ctrl-C here ends it, and nothing is lost", flush=True)

    with suppress(KeyboardInterrupt):
        serve(run, source, port, for_stderr(), ready)


@app.command()
def doctor(
    source: SourceArgument,
    clusters: Annotated[int | None, typer.Option(help="How many clusters, C.")] = None,
    method: Annotated[str, typer.Option(help="As in fit.")] = "auto",
    preset: Annotated[str, typer.Option(help="As in fit.")] = "quick",
    encoder: Annotated[str, typer.Option(help="As in fit.")] = "moco",
    views: Annotated[str, typer.Option(help="As in fit.")] = "auto",
    image_size: Annotated[int | None, typer.Option(help="As in fit.")] = None,
    device: DeviceOption = "auto",
    config: Annotated[Path | None, typer.Option(help="As in fit.")] = None,
    pixels: PixelsOption = "auto",
) -> None:
    """Say what `fit` would find in SOURCE, choose and cost; exit 2 when it would refuse."""
    from spiceclust.config import make_request

    request = make_request(
        n_clusters=10 if clusters is None else clusters,
        method=method,
        preset=preset,
        encoder=encoder,
        views=views,
        image_size=image_size,
        overrides=_read_overrides(config),
    )
    from spiceclust.data.sources import open_source
    from spiceclust.doctor import examine
    from spiceclust.doctor import report as told
    from spiceclust.progress import for_stderr

    findings = examine(open_source(source), request, device=device, progress=for_stderr(), pixels=pixels)
    print(told(findings, clusters is not None))
    if findings.refusal:
        raise SourceError(findings.refusal)


def main() -> None:
    """Runs the command. Errors are one line on stderr: 2 for bad usage or input, 130 on Ctrl-C or SIGTERM, or 1."""
    interruption.install()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # a path is printed as the bytes that it is
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)  # read when torch is loaded
    if "TORCHELASTIC_RUN_ID" in os.environ:  # a warning of every process about what `data_parallel` does on purpose
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"] or ["--help"]
    if "--debug" in sys.argv:
        app(arguments)
        return
    try:
        if app(arguments, standalone_mode=False) == INTERRUPTED:  # how typer tells of Ctrl-C
            raise KeyboardInterrupt
    except TyperException as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "spiceclust"
        _fail(f"{error.format_message().rstrip('.')}. See `{command} --help`.", 2)
    except SpiceError as error:
        _fail(str(error), 2 if isinstance(error, InputError) else 1)
    except KeyboardInterrupt:
        _fail("interrupted: give the same command again to go on; little is lost", 130)
    except OSError as error:
        code = 2 if isinstance(error, GIVEN_WRONGLY) else 1  # 1: the system failed
        _fail(f"{error.filename or 'a file'} cannot be read or written ({error.strerror})", code)
    except Exception as error:
        _fail(f"{type(error).__name__}: {error}. This should not happen: add --debug for the traceback.", 1)


def _read_overrides(config: Path | None) -> dict[str, Any]:
    if config is None:
        return {}
    try:
        content = json.loads(config.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"--config {config} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"--config {config} should hold a JSON object, it holds {type(content).__name__}")
    return content


def _fail(text: str, code: int) -> None:
    print("error: " + " ".join(text.split()), file=sys.stderr)
    sys.exit(code)
