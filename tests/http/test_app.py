"""The application without a transport: dispatch, methods, errors as statuses, permissions, browsers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gemot.agent.http import failure
from gemot.agent.http.app import App, Call
from gemot.agent.http.message import Handler, Request, Response, Route
from gemot.agent.metrics import Metrics
from gemot.server.model import errors


def say(text: str) -> Handler:
    return lambda request: Response(body=text.encode() + b"|" + request.path)


def route(path: str, handler: Handler | None = None, *methods: str, max_body: int = 0) -> Route:
    methods = methods or ("GET",)
    handlers = {method: handler or say(path) for method in methods}
    return Route(path=path, handlers=handlers, permission=dict.fromkeys(methods, "none"), max_body=max_body)


def make(*routes: Route, **options: Any) -> App:
    return App(routes=routes, metrics=Metrics(), **options)


def ask(app: App, method: str, target: str, body: bytes = b"", **headers: str) -> Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    call = app.open(method, target, {"host": "localhost", **named}, "127.0.0.1")
    if isinstance(call, Response):
        return call
    given = app.answer(call, body)
    if isinstance(given, Response):
        return given

    async def settle() -> Response:
        return await given

    return asyncio.run(settle())


def opened(app: App, method: str, target: str, **headers: str) -> Request:
    call = app.open(method, target, {name.replace("_", "-"): value for name, value in headers.items()}, "::1")
    assert isinstance(call, Call)
    return call.request


def test_an_exact_path_wins_over_a_prefix_and_a_longer_prefix_over_a_shorter() -> None:
    app = make(route("/v1/a/"), route("/v1/a/b/"), route("/v1/a/b/exact"))
    assert ask(app, "GET", "/v1/a/x/y").body == b"/v1/a/|x/y"
    assert ask(app, "GET", "/v1/a/b/x").body == b"/v1/a/b/|x"
    assert ask(app, "GET", "/v1/a/b/exact").body == b"/v1/a/b/exact|"
    assert ask(app, "GET", "/v1/a/b/exact/").body == b"/v1/a/b/|exact/"
    assert ask(app, "GET", "/v1/a/").body == b"/v1/a/|"


def test_a_prefix_without_its_slash_is_moved_there() -> None:
    moved = ask(make(route("/v1/kv/")), "GET", "/v1/kv?recurse")
    assert (moved.status, moved.headers["Location"]) == (301, "/v1/kv/?recurse")


@pytest.mark.parametrize("path", ["/v1/none", "/v1/kvx", "/v1/", "/x/v1/y"])
def test_an_unknown_path_under_v1_is_404_in_consuls_words(path: str) -> None:
    answer = ask(make(route("/v1/kv/")), "GET", path)
    assert answer.status == 404
    assert answer.body == b"Invalid URL path: not a recognized HTTP API endpoint\n"


@pytest.mark.parametrize("path", ["/kv/a", "/favicon.ico", "/v2/kv/a", "/v1"])
def test_any_other_unknown_path_is_404_with_a_hint(path: str) -> None:
    answer = ask(make(route("/v1/kv/")), "GET", path)
    assert answer.status == 404
    assert isinstance(answer.body, bytes)
    assert b"start with /v1/" in answer.body


def test_the_root_shows_one_line() -> None:
    answer = ask(make(), "GET", "/")
    assert (answer.status, answer.body) == (200, b"Gemot agent: the API is under /v1/\n")


@pytest.mark.parametrize("method", ["POST", "HEAD", "PATCH", "TRACE", "DELETE"])
def test_a_wrong_method_is_405_naming_the_right_ones(method: str) -> None:
    answer = ask(make(route("/v1/a", None, "PUT", "GET")), method, "/v1/a")
    assert answer.status == 405
    assert answer.body == f"method {method} not allowed".encode()
    assert answer.headers == {"Allow": "OPTIONS,GET,PUT"}


def test_options_tells_the_methods_with_an_empty_body() -> None:
    answer = ask(make(route("/v1/a", None, "PUT")), "OPTIONS", "/v1/a")
    assert (answer.status, answer.body, answer.headers) == (200, b"", {"Allow": "OPTIONS,PUT"})


_TABLE = [
    (errors.BadRequest("Missing key name"), 400, "Missing key name"),
    (errors.TooLarge("too big"), 413, "too big"),
    (errors.Forbidden("Permission denied"), 403, "Permission denied"),
    (errors.NotFound("no such thing"), 404, "no such thing"),
    (errors.Conflict("another body"), 422, "another body"),
    (errors.RuleFailed("Must provide node"), 500, "Must provide node"),
    (errors.NoLeader(), 500, "No cluster leader"),
    (errors.NotLeader("srv2"), 500, "No cluster leader"),
    (errors.Unavailable("No known Consul servers"), 500, "No known Consul servers"),
    (errors.Unavailable(""), 500, "No cluster leader"),
    (errors.Busy("more than 1000 writes wait"), 503, "more than 1000 writes wait"),
    (errors.OutcomeUnknown("the leader was lost"), 500, "Outcome unknown: the leader was lost"),
    (errors.OutcomeUnknown(""), 500, "Outcome unknown: the write may or may not have been done"),
    (errors.PeerBroke("spoke wrongly"), 500, "spoke wrongly"),
    (errors.DiskFailed("disk"), 500, "disk"),
    (errors.Corrupt("bytes"), 500, "bytes"),
    (errors.GemotError("odd"), 500, "odd"),
]


@pytest.mark.parametrize(("error", "status", "text"), _TABLE)
def test_an_error_has_one_status_however_it_is_raised(
    error: errors.GemotError, status: int, text: str
) -> None:
    def at_once(request: Request) -> Response:
        raise error

    async def later(request: Request) -> Response:
        await asyncio.sleep(0)
        raise error

    for handler in (at_once, later):
        answer = ask(make(route("/v1/a", handler)), "GET", "/v1/a")
        assert (answer.status, answer.body) == (status, text.encode())
        assert answer.content_type == "text/plain; charset=utf-8"


def test_every_kind_of_error_has_a_status() -> None:
    kinds = [errors.GemotError]
    for kind in kinds:
        kinds.extend(kind.__subclasses__())
        assert 400 <= failure.status_of(kind("x")) < 600
    assert errors.DiskFailed in kinds


def test_unknown_is_told_from_failed() -> None:
    assert failure.to_response(errors.OutcomeUnknown("x")).headers == {"X-Gemot-Outcome": "unknown"}
    assert failure.to_response(errors.NoLeader()).headers == {"X-Gemot-Outcome": "not-done"}
    assert failure.to_response(errors.Busy("x")).headers == {
        "X-Gemot-Outcome": "not-done",
        "Retry-After": "1",
    }
    assert "X-Gemot-Outcome" not in failure.to_response(errors.RuleFailed("x")).headers


def test_a_crash_in_a_handler_is_a_500_that_shows_nothing_of_it(caplog: pytest.LogCaptureFixture) -> None:
    def crash(request: Request) -> Response:
        raise ZeroDivisionError("secret detail")

    async def later(request: Request) -> Response:
        raise KeyError("secret detail")

    for handler in (crash, later):
        caplog.clear()
        answer = ask(make(route("/v1/a", handler)), "GET", "/v1/a")
        assert (answer.status, answer.body) == (500, b"Internal error: it is in the log of this agent")
        assert "secret detail" in caplog.text


def test_the_token_is_looked_for_in_consuls_order() -> None:
    app = make(route("/v1/a"))
    both = {"x_consul_token": "header", "authorization": "Bearer auth"}
    assert opened(app, "GET", "/v1/a?token=query", **both).token == "query"
    assert opened(app, "GET", "/v1/a?token=", **both).token == "header"
    assert opened(app, "GET", "/v1/a", **both).token == "header"
    assert opened(app, "GET", "/v1/a", authorization="bearer  auth").token == "auth"
    assert opened(app, "GET", "/v1/a", authorization="Basic auth").token == ""
    assert opened(app, "GET", "/v1/a").token == ""


def test_a_route_without_a_permission_for_each_method_is_refused() -> None:
    bad = Route(path="/v1/a", handlers={"GET": say("a"), "PUT": say("a")}, permission={"GET": "none"})
    with pytest.raises(ValueError, match="does not declare a permission"):
        make(bad)
    with pytest.raises(ValueError, match="declared twice"):
        make(route("/v1/a"), route("/v1/a"))


def test_unprintable_paths_are_refused_unless_allowed() -> None:
    assert ask(make(route("/v1/kv/")), "GET", "/v1/kv/a%00b").status == 400
    allowed = make(route("/v1/kv/"), allow_unprintable=True)
    assert ask(allowed, "GET", "/v1/kv/a%00b").body == b"/v1/kv/|a\x00b"


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("PUT", {"host": "localhost:8500", "origin": "http://evil.example"}),
        ("PUT", {"host": "localhost:8500", "origin": "http://localhost:3000"}),
        ("PUT", {"host": "localhost:8500", "origin": "null"}),
        ("PUT", {"host": "127.0.0.1:8500", "sec_fetch_site": "cross-site"}),
        ("GET", {"host": "127.0.0.1:8500", "origin": "http://evil.example"}),
        ("GET", {"host": "rebound.evil.example:8500", "user_agent": "Mozilla/5.0"}),
        ("GET", {"host": "rebound.evil.example:8500", "accept_language": "en"}),
        ("PUT", {"host": "rebound.evil.example:8500", "origin": "http://rebound.evil.example:8500"}),
        ("PUT", {"host": "127.0.0.1.evil.example", "referer": "http://127.0.0.1.evil.example/"}),
    ],
)
def test_a_web_page_from_elsewhere_gets_403(method: str, headers: dict[str, str]) -> None:
    app = make(route("/v1/a", None, "GET", "PUT"))
    assert ask(app, method, "/v1/a", b"", **headers).status == 403


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("PUT", {"host": "consul.example.com:8500"}),
        ("PUT", {"host": "consul.example.com:8500", "user_agent": "python-requests/2.31", "accept": "*/*"}),
        ("PUT", {"host": "localhost:8500", "origin": "http://localhost:8500", "user_agent": "Mozilla/5.0"}),
        ("PUT", {"host": "[::1]:8500", "origin": "http://[::1]:8500"}),
        (
            "PUT",
            {"host": "10.0.0.5:8500", "origin": "https://10.0.0.5:8500", "sec_fetch_site": "same-origin"},
        ),
        ("GET", {"host": "web1:8500", "user_agent": "Mozilla/5.0"}),
        ("GET", {"host": "consul.service.consul:8500", "accept_language": "de"}),
        ("GET", {"host": "ui.example.com", "user_agent": "Mozilla/5.0"}),
        ("GET", {"host": "a.b.internal.example", "accept_language": "en"}),
    ],
)
def test_programs_and_our_own_pages_are_let_through(method: str, headers: dict[str, str]) -> None:
    app = make(route("/v1/a", None, "GET", "PUT"), allowed_hosts=("ui.example.com", ".internal.example"))
    assert ask(app, method, "/v1/a", b"", **headers).status == 200


def test_a_reload_takes_new_routes_and_headers() -> None:
    app = make(route("/v1/a"))
    app.reload(routes=[route("/v1/b")], response_headers={"X-Mine": "1", "content-security-policy": "none"})
    assert ask(app, "GET", "/v1/a").status == 404
    assert ask(app, "GET", "/v1/b").status == 200
    names = [name.lower() for name, _ in app.always]
    assert "x-mine" in names
    assert names.count("content-security-policy") == 1


def test_requests_are_counted_by_route_never_by_what_callers_make_up() -> None:
    metrics = Metrics()
    app = App(routes=[route("/v1/kv/")], metrics=metrics)
    for target in ("/v1/kv/a", "/v1/kv/b", "/v1/none/1", "/v1/none/2"):
        ask(app, "GET", target)
    ask(app, "BREW", "/v1/kv/a")
    text = metrics.text().decode()
    assert 'gemot_http_requests_total{method="GET",route="/v1/kv/",status="200"} 2.0' in text
    assert 'gemot_http_requests_total{method="GET",route="none",status="404"} 2.0' in text
    assert "BREW" not in text
