"""Who may enter: on every route, only who has the token and comes from the page itself."""

import re
from collections.abc import Iterator

import pytest
from _review.fuzz import ROUTES

from review_runs import ORIGIN, PORT, TOKEN, Reviewed, reviewed
from spiceclust.review import guard
from spiceclust.review.routes import router

EVERY = [(method, path) for method, paths in ROUTES.items() for path in paths] + [("GET", "no/such/route")]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reviewed]:
    with reviewed(tmp_path_factory.mktemp("guard")) as page:
        yield page


def test_the_list_of_routes_is_whole() -> None:
    known = {(next(iter(route.methods)), route.path) for route in router.routes}  # type: ignore[attr-defined]
    named = {(method, re.sub("^static/.*", "static/{name}", path)) for method, path in EVERY[:-1]}
    assert known == {(method, f"/{path}") for method, path in named}


@pytest.mark.parametrize(("method", "path"), EVERY)
def test_no_route_answers_to_a_stranger(page: Reviewed, method: str, path: str) -> None:
    def status(token: str = TOKEN, **headers: str) -> int:
        sent = {"Content-Type": "application/json", **headers}
        return page.client.request(method, f"/{token}/{path}", headers=sent, content="{}").status_code

    for token in ("", "x", TOKEN[:-1], f"{TOKEN}x", TOKEN.swapcase(), f"x/{TOKEN}", "%00", "é"):
        assert status(token) == 403
    for host in (
        "evil.example",
        f"127.0.0.1:{PORT}.evil.example",
        "127.0.0.1",
        f"127.0.0.1:{PORT + 1}",
        f"[::1]:{PORT}",
        "",
    ):
        assert status(host=host) == 403
    for origin in (
        "http://evil.example",
        "null",
        ORIGIN.replace("http:", "https:"),
        "http://127.0.0.1",
        "",
        f"{ORIGIN}/",
    ):
        assert status(origin=origin) == 403
    for allowed in ({}, {"origin": ORIGIN}, {"host": f"localhost:{PORT}", "origin": f"http://localhost:{PORT}"}):
        assert status(**allowed) != 403


def test_a_refusal_tells_nothing(page: Reviewed) -> None:
    answer = page.client.get("/x/run")
    assert answer.json() == {"error": "open the address that `spiceclust review` printed"}
    assert TOKEN not in answer.text + str(answer.headers)
    assert page.client.get(f"/{TOKEN}").status_code == 403  # without its slash, for which nobody is sent on


def test_two_hosts_are_one_too_many(page: Reviewed) -> None:
    twice = [("host", f"127.0.0.1:{PORT}"), ("host", "evil.example")]
    assert page.client.get(f"/{TOKEN}/run", headers=twice).status_code == 403


@pytest.mark.parametrize("path", ["", "run", "tiles?rows=2", "static/page.css", "nothing", "../x"])
def test_every_answer_forbids_what_the_page_does_not_need(page: Reviewed, path: str) -> None:
    for address in (f"/{TOKEN}/{path}", f"/x/{path}"):
        found = page.client.get(address).headers
        policy = dict(part.strip().split(" ", 1) for part in found["content-security-policy"].split(";"))
        assert policy == {
            "default-src": "'none'",
            "script-src": "'self'",
            "style-src": "'self'",
            "img-src": "'self' blob: data:",
            "connect-src": "'self'",
            "base-uri": "'none'",
            "form-action": "'none'",
            "frame-ancestors": "'none'",
        }
        assert (found["referrer-policy"], found["x-content-type-options"]) == ("no-referrer", "nosniff")
        kept = path.startswith("tiles") and address.startswith(f"/{TOKEN}")
        assert found["cache-control"] == ("private, max-age=31536000, immutable" if kept else "no-store")
        assert not {"access-control-allow-origin", "server", "location", "set-cookie"} & set(found)


def test_a_body_has_bounds(page: Reviewed) -> None:
    def status(content: object, **headers: str) -> int:
        sent = {"Content-Type": "application/json", **headers}
        return page.client.post(f"/{TOKEN}/undo", content=content, headers=sent).status_code  # type: ignore[arg-type]

    large = b'{"a":"' + b"x" * guard.MOST_BYTES + b'"}'
    assert status(large) == 413
    assert status(iter([large[:5_000_000], large[5_000_000:]])) == 413  # no length is declared
    assert status(b"{}", **{"Content-Length": str(10**12)}) == 413
    assert status(large[: guard.MOST_BYTES - 10] + b'"}') == 400  # read, and there is nothing to undo


def test_web_sockets_are_not_served(page: Reviewed) -> None:
    with pytest.raises(RuntimeError, match="websocket is not served"), page.client.websocket_connect(f"/{TOKEN}/run"):
        pass


def test_the_token_is_compared_in_constant_time(page: Reviewed, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(guard.secrets, "compare_digest", lambda *pair: seen.append(pair))
    assert page.client.get(f"/{TOKEN}/run").status_code == 403
    assert seen == [(TOKEN.encode(), TOKEN.encode())]


def test_nothing_describes_the_routes(page: Reviewed) -> None:
    for path in ("docs", "redoc", "openapi.json", "static/page.html", "static/../page.html", "static/%2e%2e/routes.py"):
        assert page.client.get(f"/{TOKEN}/{path}").status_code == 404
