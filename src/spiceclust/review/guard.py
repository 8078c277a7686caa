"""What every request must pass before a route sees it: the token, where it comes from, and how much it brings."""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection
from contextlib import suppress
from typing import Final

from h11 import LocalProtocolError
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_BYTES: Final = 8_000_000  # of a body: all rows of a million images
TOO_LARGE: Final = f"more than {MOST_BYTES:,} bytes in one request"
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",  # the address holds the token
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Guard:
    """An ASGI application before another one, which sees paths without the token.

    Args:
        app: what answers.
        token: how the path of every request must begin.
        hosts: what a request may name as its host: this keeps out pages whose names were made to lead here.
    """

    def __init__(self, app: ASGIApp, token: str, hosts: Collection[str]) -> None:
        self._app, self._token = app, token.encode()
        self._hosts = {host.encode() for host in hosts}
        self._origins = {f"http://{host}".encode() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers 403, or 413 to what is too large, or hands the request on."""
        if scope["type"] != "http":
            raise RuntimeError(f"{scope['type']} is not served")

        gone, taken, rest = False, 0, self._rest(scope)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                headers.setdefault("Cache-Control", "no-store")
            with suppress(LocalProtocolError):  # what came after the request was none, and the connection is closed
                if not gone:
                    await send(message)

        async def bounded() -> Message:
            nonlocal gone, taken
            message = await receive()
            gone = gone or message["type"] == "http.disconnect"
            taken += len(message.get("body", b""))
            if taken > MOST_BYTES:
                raise HTTPException(413, TOO_LARGE)
            return message

        if rest is None:
            await _refuse(answer, 403, "open the address that `spiceclust review` printed")
        elif _declared(scope) > MOST_BYTES:
            await _refuse(answer, 413, TOO_LARGE)
        else:
            inside = {**scope, "path": rest, "raw_path": rest.encode("utf-8", "replace"), "root_path": ""}
            await self._app(inside, bounded, answer)

    def _rest(self, scope: Scope) -> str | None:
        """The path behind the token; None for a request that may not enter."""
        headers = [value for name, value in scope["headers"] if name == b"host"]
        origins = [value for name, value in scope["headers"] if name == b"origin"]
        if len(headers) != 1 or headers[0] not in self._hosts or not self._origins.issuperset(origins):
            return None
        token, slash, rest = scope["path"].removeprefix("/").partition("/")
        known = secrets.compare_digest(token.encode("utf-8", "replace"), self._token)
        return f"/{rest}" if known and slash and scope["path"].startswith("/") else None


def _declared(scope: Scope) -> int:
    """The length that a request gives itself; 0 where it gives none that is a number."""
    lengths = [value for name, value in scope["headers"] if name == b"content-length"]
    return max((int(value) for value in lengths if value.isdigit() and len(value) < 20), default=0)


async def _refuse(send: Send, status: int, why: str) -> None:
    content = json.dumps({"error": why}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
