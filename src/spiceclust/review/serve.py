"""The review page on this machine's own address, until it is stopped."""

from __future__ import annotations

import importlib.util
import secrets
import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

from spiceclust.errors import ConfigError
from spiceclust.progress import Progress

if TYPE_CHECKING:
    from spiceclust.review.guard import Guard
    from spiceclust.review.session import Session

ADDRESS: Final = "127.0.0.1"
NEEDED: Final = ("fastapi", "uvicorn")
PATIENCE: Final = 2  # seconds that answers under way have at the end


def serve(
    run: Path, source: str | None, port: int, progress: Progress, ready: Callable[[str], None] = lambda url: None
) -> None:
    """Serves the review of a run until SIGINT or SIGTERM.

    Args:
        run: the run folder.
        source: the images; None opens those that were clustered.
        port: to listen on; 0 for a free one.
        progress: told of what is missing.
        ready: given the address of the page when it can be opened.

    Raises:
        ConfigError: the extra is missing, or the port cannot be had.
        SourceError, RunFolderError: as `open_session`.
        KeyboardInterrupt: it was stopped.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"review needs {' and '.join(missing)}: pip install 'spiceclust[review]'")
    import uvicorn

    from spiceclust.review.session import open_session

    with closing(_listen(port)) as listening, open_session(run, source, progress) as session:
        port = listening.getsockname()[1]
        token = secrets.token_urlsafe(32)
        config = uvicorn.Config(
            make_app(session, token, port),
            http="h11",
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_level="error",
            access_log=False,  # it would show the token
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=PATIENCE,
        )
        ready(f"http://{ADDRESS}:{port}/{token}/")
        uvicorn.Server(config).run([listening])


def make_app(session: Session, token: str, port: int) -> Guard:
    """The application that serves a session under a token."""
    from fastapi import FastAPI

    from spiceclust.review.answers import answer_errors
    from spiceclust.review.guard import Guard
    from spiceclust.review.routes import router

    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.session = session
    app.include_router(router)
    answer_errors(app)
    return Guard(app, token, (f"{ADDRESS}:{port}", f"localhost:{port}"))


def _listen(port: int) -> socket.socket:
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((ADDRESS, port))
        listening.listen()
    except OSError as error:
        listening.close()
        raise ConfigError(f"port {port} cannot be had ({error.strerror}): choose another, with --port") from None
    return listening
