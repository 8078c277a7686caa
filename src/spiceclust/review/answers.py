"""What goes in and out of the routes: JSON that cannot do harm, and errors of one line."""

from __future__ import annotations

import json
from typing import Annotated, Any, Final

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from spiceclust.errors import InputError, RunFolderError

KIND: Final = "application/json"
LONGEST: Final = 500  # characters of an error, which may hold what was sent


class Json(Response):
    """A value as JSON of ASCII alone: any text can be in it, half surrogate pairs too."""

    media_type = KIND

    def render(self, content: Any) -> bytes:
        return json.dumps(content, separators=(",", ":"), allow_nan=False).encode("ascii")


def failure(status: int, why: str) -> Json:
    """An error, as one line."""
    return Json({"error": " ".join(why[:LONGEST].split())}, status)


async def json_object(request: Request) -> dict[str, Any]:
    """The body of a request.

    Raises:
        HTTPException: it is not a JSON object.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != KIND:
        raise HTTPException(415, f"the body should be {KIND}")
    try:
        content = json.loads(await request.body(), parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise HTTPException(400, "the body is not JSON") from None
    except ClientDisconnect:
        raise HTTPException(400, "the body ends before its end") from None
    if not isinstance(content, dict):
        raise HTTPException(400, "the body should be a JSON object")
    return content


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


Body = Annotated[dict[str, Any], Depends(json_object)]


def answer_errors(app: FastAPI) -> None:
    """Makes every error of an application `{"error": one line}`: 400 for what was asked wrongly, 409 for the run."""

    async def of_input(request: Request, error: Exception) -> Response:
        return failure(409 if isinstance(error, RunFolderError) else 400, str(error))

    async def of_query(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        return failure(400, f"{'.'.join(map(str, first['loc'][1:]))}: {first['msg']}")

    async def of_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return failure(error.status_code, str(error.detail))

    async def of_program(request: Request, error: Exception) -> Response:
        return failure(500, f"{type(error).__name__}: this should not happen; the terminal tells more")

    app.add_exception_handler(InputError, of_input)
    app.add_exception_handler(RequestValidationError, of_query)
    app.add_exception_handler(HTTPException, of_http)
    app.add_exception_handler(Exception, of_program)
