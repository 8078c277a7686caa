"""Requests that no browser sends, by the thousand: what the server of the review page makes of them."""

from __future__ import annotations

import json
import socket
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from typing import Any, NamedTuple

import numpy as np

from _review.runs import Server

ROUTES = {
    "GET": [
        "",
        "run",
        "points",
        "paths",
        "state",
        "tiles",
        "picture",
        "similar",
        "heat",
        "questions",
        "static/page.js",
    ],
    "POST": ["act", "act", "act", "act", "undo", "redo", "split", "export", "learn", "answers"],
}
METHODS = ["HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "get", "BREW", "G\0T", "", "A" * 300]
PATHS = [
    "..", "../../../../etc/passwd", "%2e%2e/%2e%2e/etc/passwd", "static/../run", "static/..%2fpage.py", "static/%00",
    "static/page.js%00.html", "static//etc/passwd", "static/" + "a" * 5000, "%ff%fe", "docs", "openapi.json", "redoc",
    "run/", "/run", "run;x=1", "run%23", "%", "%zz", "\x7f", "\xe9", "*", "http://127.0.0.1/run", "static/", "?", "#",
]  # fmt: skip
NAMES = ["rows", "side", "row", "k", "start", "stop", "x", "row[]", "\xe9", ""]
VALUES = [
    "0", "1", "5", "39", "40", "-1", "1,2,3", "0,0,0", ",", "1,,2", ",".join("1" * 300), "NaN", "Infinity", "1e308",
    "1e400", "9" * 30, "9" * 6000, "-" + "9" * 30, "0x10", "1_000", "\u0661", "٣".encode().decode("latin-1"), "%00",
    "%ff", "../..", "true", "null", "[]", "", " ", "64", "255", "0.5", "+5", "2147483647", "2147483648",
]  # fmt: skip
THINGS: list[Any] = [
    0, 1, 2, -1, 5, 39, 40, 2**31, 2**63, 2**64, 10**300, -(10**300), 0.5, 1e308, -0.0, True, False, None, "", "x", "0",
    "\0", "\ud800", "../../x", "CON", "a" * 90, "\u202egnp.exe", "<img src=x onerror=alert(1)>", [], {}, [0], [1, 2, 3],
    [0] * 3000, [[0]], [None], {"a": 1}, ["1"], [1.5], [-1], [2**40], "folders", "csv", "onnx", "f" * 64,
]  # fmt: skip
FIELDS = [
    "do",
    "cluster",
    "clusters",
    "into",
    "name",
    "rows",
    "to",
    "head",
    "kind",
    "batch",
    "answers",
    "row",
    "\ud800",
]
SENSIBLE = [
    ("do=name", "cluster", "name"), ("do=merge", "clusters", "into"), ("do=split", "cluster", "rows"),
    ("do=move", "rows", "to"), ("do=confirm", "rows"), ("do=nowhere", "rows"), ("do=learn", "head"),
    ("cluster",), ("kind=csv", "to=../x"), ("kind=folders", "to=a"), ("batch", "answers"), (),
]  # fmt: skip
BODIES = [
    b"", b"null", b"[]", b"0", b'"x"', b"{", b'{"do":', b"NaN", b'{"cluster":NaN}', b'{"cluster":Infinity}',
    b"\xff\xfe",
    b'{"name":"\xc3\x28"}', b"[" * 100_000, b'{"a":' * 50_000, b'{"cluster":' + b"9" * 5000 + b"}", b"\0" * 100,
    b'{"cluster":1e999}', b'{"do":"name","cluster":0,"name":"\\ud800"}', b'{"do":"move","do":"name"}',
    b"\xef\xbb\xbf{}", b'{"do":"move","to":0,"rows":[' + b"0," * 200_000 + b"0]}", b"x" * 200_000,
]  # fmt: skip
HOSTS = ["evil.example", "127.0.0.1", "localhost", "127.0.0.1:1", "[::1]", "", "127.0.0.1:{port}.evil.example", "\xe9"]
ORIGINS = ["http://evil.example", "null", "https://127.0.0.1:{port}", "http://127.0.0.1", "", "file://", "\xe9"]
KINDS = [
    "text/plain",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "",
    "application/json, x",
]


ODD = ["Transfer-Encoding: chunked", "Expect: 100-continue", "X: " + "y" * 70_000, "no colon", ":"]


class Request(NamedTuple):
    """A request as it goes over the wire.

    Attributes:
        content: all of it.
        enters: whether token, host and origin are right; what is wrong elsewhere may still keep it from being read.
        whole: whether as much follows as its head says, as far as it says so.
    """

    content: bytes
    enters: bool
    whole: bool


class Answer(NamedTuple):
    """What came back; the status is 0 where nothing did."""

    status: int
    body: bytes


def draw(rng: np.random.Generator, port: int, token: str) -> Request:
    """A request that is strange in some of its parts."""

    def pick(things: Sequence[Any]) -> Any:
        return things[int(rng.integers(len(things)))]

    def rarely(share: float) -> bool:
        return bool(rng.random() < share)

    method = pick(METHODS) if rarely(0.1) else pick(("GET", "POST"))
    path = pick(PATHS) if rarely(0.2) else pick(ROUTES.get(method, ROUTES["GET"]))
    enters = True
    begin = token
    if rarely(0.15):
        begin = pick(
            ["", "x", token[:-1], token + "x", token.swapcase(), "%00", token + "%00", "../" + token, "a" * 43]
        )
        enters = begin == token
    query = "&".join(f"{pick(NAMES)}={pick(VALUES)}" for _ in range(int(rng.integers(0, 4))))
    if rarely(0.4):
        query = "&".join(f"{name}={pick(VALUES)}" for name in NAMES[:6])
    elif rarely(0.6):
        query = f"rows=3,{rng.integers(45)}&row={rng.integers(45)}&start=0&stop={rng.integers(50)}"
    target = f"/{begin}/{path}" + (f"?{query}" if query else "")
    hosts = [f"127.0.0.1:{port}"]
    if rarely(0.1):
        hosts = [pick(HOSTS).format(port=port) for _ in range(int(rng.integers(0, 3)))]
        enters = False
    lines = [f"Host: {host}" for host in hosts]
    if rarely(0.3):
        origin = f"http://127.0.0.1:{port}"
        if rarely(0.5):
            origin, enters = pick(ORIGINS).format(port=port), False
        lines.append(f"Origin: {origin}")
    body, whole = b"", True
    if method not in ("GET", "HEAD") or rarely(0.1):
        body = pick(BODIES) if rarely(0.3) else _object(rng)
        lines.append(f"Content-Type: {pick(KINDS) if rarely(0.1) else 'application/json'}")
    if rarely(0.05):
        lines.append(pick(ODD))
        whole = False
    if body or rarely(0.5):
        whole = whole and not rarely(0.05)
        length = len(body) if whole else pick([-1, "x", 10**9, 10**30, 0, len(body) + 5])
        lines.append(f"Content-Length: {length}")
    version = pick(["HTTP/1.0", "HTTP/2.0", "HTTP/9", ""]) if rarely(0.02) else "HTTP/1.1"
    head = "\r\n".join([f"{method} {target} {version}", "Connection: close", *lines, "", ""])
    return Request(head.encode("latin-1", "replace") + body, enters, whole)


def _object(rng: np.random.Generator) -> bytes:
    """What a page might send, or nearly so, more often than not."""
    names = SENSIBLE[int(rng.integers(len(SENSIBLE)))] if rng.random() < 0.7 else rng.permutation(FIELDS)[:4].tolist()
    content: dict[str, Any] = {}
    for name in names:
        if "=" in name:
            name, _, value = name.partition("=")
            content[name] = value
        elif name in ("rows", "clusters"):
            content[name] = rng.integers(0, 42 if name == "rows" else 4, 1 + int(rng.integers(3))).tolist()
        elif name == "answers":
            content[name] = [{"row": int(rng.integers(0, 45)), "cluster": int(rng.integers(-2, 4))} for _ in range(3)]
        else:
            content[name] = f"name {rng.integers(100)}" if name == "name" else int(rng.integers(0, 4))
        if rng.random() < 0.05 or len(names) == 4:
            content[name] = THINGS[int(rng.integers(len(THINGS)))]
    return json.dumps(content).encode()


def ask(port: int, request: Request) -> Answer:
    """Sends a request and reads the answer to its end; of one that is not whole, what comes at once."""
    received = bytearray()
    with socket.create_connection(("127.0.0.1", port), timeout=60) as line, suppress(ConnectionError):
        line.sendall(request.content)
        with suppress(TimeoutError) if not request.whole else nullcontext():
            line.settimeout(60 if request.whole else 0.1)
            while part := line.recv(65536):
                received += part
    head, _, body = bytes(received).partition(b"\r\n\r\n")
    words = head.split(b" ", 2)
    return Answer(int(words[1]) if len(words) > 1 and words[1].isdigit() else 0, body)


def run(server: Server, count: int, seed: int) -> dict[str, int]:
    """Asks so many things; counts the answers by status, and what must not be."""
    rng = np.random.default_rng(seed)
    found: Counter[str] = Counter({"requests": 0, "5xx": 0, "tracebacks in answers": 0, "let in wrongly": 0})
    for number in range(count):
        request = draw(rng, server.port, server.token)
        answer = ask(server.port, request)
        found["requests"] += 1
        found[f"answered {answer.status}" if answer.status else "not answered"] += 1
        found["5xx"] += answer.status >= 500
        found["tracebacks in answers"] += b"Traceback" in answer.body or b'File "' in answer.body
        found["let in wrongly"] += not request.enters and answer.status not in (0, 400, 403)
        if number % 1000 == 999 or number == count - 1:
            found["alive after"] = number + 1 if _alive(server) else 0
    return dict(sorted(found.items(), key=lambda pair: pair[0].startswith("answered")))


def _alive(server: Server) -> bool:
    request = f"GET /{server.token}/state HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nConnection: close\r\n\r\n"
    return ask(server.port, Request(request.encode(), True, True)).status == 200
