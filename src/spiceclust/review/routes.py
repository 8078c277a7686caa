"""The routes of the review page: each asks the session one thing."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from spiceclust.errors import ConfigError, SourceError
from spiceclust.review.answers import Body, Json
from spiceclust.review.pictures import Pictures
from spiceclust.review.session import Session

MOST_TILES: Final = 256  # in a sheet
MOST_PATHS: Final = 10_000  # in an answer
MOST_SIMILAR: Final = 1000
LARGEST: Final = 2**31  # than which every number of a row is less
KEPT: Final = {"Cache-Control": "private, max-age=31536000, immutable"}  # a row's picture never changes
KINDS: Final = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}

router = APIRouter()


def _session(request: Request) -> Session:
    found: Session = request.app.state.session
    return found


def _pictures(session: Annotated[Session, Depends(_session)]) -> Pictures:
    if session.pictures is None:
        raise HTTPException(404, str(session.facts()["missing"]))
    return session.pictures


TheSession = Annotated[Session, Depends(_session)]
ThePictures = Annotated[Pictures, Depends(_pictures)]
Row = Annotated[int, Query(ge=0, lt=LARGEST)]


@cache
def static_files() -> dict[str, tuple[bytes, str]]:
    """Name to content and kind: the styles and scripts of this page, and those that it shares with the report."""
    found = {}
    for package in ("spiceclust.outputs.report", "spiceclust.review"):
        folder = files(package)
        folder = folder if package.endswith("report") else folder.joinpath("static")
        for file in folder.iterdir():
            kind = KINDS.get(f".{file.name.rpartition('.')[2]}")
            if kind is not None:
                found[file.name] = file.read_bytes(), kind
    return found


@router.get("/")
def page() -> Response:
    """The page itself."""
    return Response(files("spiceclust.review").joinpath("static/page.html").read_bytes(), media_type="text/html")


@router.get("/static/{name}")
def static(name: str) -> Response:
    """A style or script, from a fixed table."""
    found = static_files().get(name)
    if found is None:
        raise HTTPException(404, "there is no such file")
    return Response(found[0], media_type=found[1])


@router.get("/run")
def run(session: TheSession) -> Response:
    """{name, source, n, nClusters, missing, placed, kinds, command}."""
    return Json(session.facts())


@router.get("/points")
def points(session: TheSession) -> Response:
    """{positions, confidence, reliable, runnersUp, status} of all rows, packed."""
    return Json(session.points())


@router.get("/paths")
def paths(session: TheSession, start: Row, stop: Row) -> Response:
    """The paths of rows from `start` to before `stop`, as a list."""
    return Json([row.path for row in session.result.rows[start : min(stop, start + MOST_PATHS)]])


@router.get("/state")
def state(session: TheSession) -> Response:
    """{version, labels, fixed, nClusters, names, merged, sizes, head, undo, redo}."""
    return Json(session.state())


@router.get("/tiles")
def tiles(
    session: TheSession, pictures: ThePictures, rows: str, side: Annotated[int, Query(ge=8, le=256)] = 64
) -> Response:
    """A sheet of the images of `rows`, numbers between commas."""
    numbers = [session.known(_number(text)) for text in rows.split(",", MOST_TILES)]
    if len(numbers) > MOST_TILES:
        raise ConfigError(f"a sheet has room for {MOST_TILES} images")
    content, whole = pictures.sheet(numbers, side)
    return Response(content, media_type="image/webp", headers=KEPT if whole else None)


@router.get("/picture")
def picture(session: TheSession, pictures: ThePictures, row: Row) -> Response:
    """One image, up to 512 pixels."""
    try:
        found = pictures.picture(session.readable(row))
    except SourceError as error:
        raise HTTPException(404, str(error)) from None
    return Response(found.content, media_type=found.media_type, headers=KEPT)


@router.get("/similar")
def similar(session: TheSession, row: Row, k: Annotated[int, Query(ge=1, le=MOST_SIMILAR)] = 100) -> Response:
    """The rows of the images most like one, from the most like down, as a list."""
    return Json(session.embeddings.nearest(session.readable(row), k).tolist())


@router.post("/act")
def act(session: TheSession, body: Body) -> Response:
    """{do, ...}: one correction; answers as /state."""
    session.act(body)
    return Json(session.state())


@router.post("/undo")
def undo(session: TheSession, body: Body) -> Response:
    """{}: takes the last correction back; answers as /state."""
    session.ledger.undo()
    return Json(session.state())


@router.post("/redo")
def redo(session: TheSession, body: Body) -> Response:
    """{}: does again what was taken back; answers as /state."""
    session.ledger.redo()
    return Json(session.state())


@router.post("/split")
def split(session: TheSession, body: Body) -> Response:
    """{cluster} -> {rows, score}: which images would leave it."""
    return Json(session.split(_field(body, "cluster", int)))


@router.post("/learn")
def learn(session: TheSession, body: Body) -> Response:
    """{} -> {rows, from, to, head, n_changed, seconds}: what would change; {do: learn, head} to /act accepts it."""
    return Json(session.lessons.learn())


@router.get("/questions")
def questions(session: TheSession) -> Response:
    """{batch, rows, random}: the images whose answer helps most, and for each whether it was drawn at random."""
    return Json(session.lessons.questions())


@router.post("/answers")
def answers(session: TheSession, body: Body) -> Response:
    """{batch, answers: [{row, cluster | -2 | null}]} -> {state, purity: {estimate, low, high, ..., clusters}}."""
    purity = session.lessons.answer(body.get("batch"), body.get("answers"))
    return Json({"state": session.state(), "purity": purity})


@router.get("/heat")
def heat(session: TheSession, pictures: ThePictures, row: Row) -> Response:
    """{side, values, cluster}: what in an image speaks for its cluster."""
    try:
        return Json(session.heat(session.readable(row), pictures))
    except (ConfigError, SourceError) as error:
        raise HTTPException(404, str(error)) from None


@router.post("/export")
def export(session: TheSession, body: Body) -> Response:
    """{kind, to} -> {folder, images, left_out}."""
    return Json(session.export(_field(body, "kind", str), _field(body, "to", str)))


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 11):
        raise ConfigError("rows should be numbers between commas")
    return int(text)


def _field(body: dict[str, Any], name: str, kind: type) -> Any:
    value = body.get(name)
    if type(value) is not kind:
        raise ConfigError(f"{name} should be {'a number' if kind is int else 'text'}")
    return value
