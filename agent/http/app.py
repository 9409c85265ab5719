"""The API as one thing: finds the route of a request, asks its handler, turns errors into answers.

Knows no transport: it is given a request's head, later its body, and gives a `Response` or an awaitable of
one. It never raises. Dispatch is an exact look-up, then the longest prefix; there are no patterns.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from time import perf_counter
from typing import Protocol

import msgspec

from gemot.agent.http import failure
from gemot.agent.http.browser import refuse_foreign_page
from gemot.agent.http.message import Handler, Request, Response, Route
from gemot.agent.http.target import as_ascii, is_printable, read_target
from gemot.server.model.errors import BadRequest, GemotError, TooLarge

log = logging.getLogger(__name__)

_DROPPED_BODY_BYTES = 64 * 1024
"""Bodies where none is looked at (GET, or a route that takes none) are read up to this and dropped."""

ALWAYS = (
    ("X-Content-Type-Options", "nosniff"),
    ("Content-Security-Policy", "sandbox"),
    ("Vary", "Accept-Encoding"),
    ("X-Consul-Default-Acl-Policy", "allow"),
)
"""Headers of every response that does not set them itself. `sandbox` keeps a stored value from running."""

_NO_LOCATION = "Invalid URL path: not a recognized HTTP API endpoint\n"
_NO_VERSION = "Invalid URL path: the paths of the HTTP API start with /v1/\n"


class Meter(Protocol):
    def count(self, name: str, labels: tuple[str, ...] = ()) -> None: ...

    def observe(self, name: str, value: float, labels: tuple[str, ...] = ()) -> None: ...


class Call(msgspec.Struct, frozen=True):
    """A request whose head was accepted: what is still needed is its body, `max_body` bytes at most."""

    route: Route
    handler: Handler
    request: Request
    max_body: int
    limit_name: str
    started_s: float

    @property
    def waits(self) -> bool:
        """Is it a blocking read? Who asks one and goes wants no answer any more."""
        query = self.request.query if self.request.method == "GET" else ()
        return any(name in ("index", "hash") and value not in ("", "0") for name, value in query)


class App:
    """All routes of an agent.

    `allowed_hosts` are the names under which browsers may reach the API (see browser.py);
    `response_headers` go with every response and may take the place of those in ALWAYS.
    """

    def __init__(
        self,
        *,
        routes: Iterable[Route],
        metrics: Meter,
        banner: str = "Gemot agent: the API is under /v1/\n",
        allowed_hosts: tuple[str, ...] = (),
        allow_unprintable: bool = False,
        response_headers: Mapping[str, str] | None = None,
    ) -> None:
        self._metrics = metrics
        self._banner = banner
        self._allow_unprintable = allow_unprintable
        self.reload(routes=routes, allowed_hosts=allowed_hosts, response_headers=response_headers or {})

    def reload(
        self,
        *,
        routes: Iterable[Route],
        allowed_hosts: tuple[str, ...] = (),
        response_headers: Mapping[str, str],
    ) -> None:
        """Take these in place of what was given before; requests under way keep their route."""
        self.always: tuple[tuple[str, str], ...] = _merge_headers(response_headers)
        self.routes = (*routes, _banner_route(self._banner))
        self._allowed_hosts = allowed_hosts
        self._exact: dict[bytes, Route] = {}
        self._prefixes: dict[bytes, Route] = {}
        for route in self.routes:
            self._add(route)
        self._lengths = sorted({len(prefix) for prefix in self._prefixes}, reverse=True)

    def _add(self, route: Route) -> None:
        if set(route.handlers) != set(route.permission):
            raise ValueError(f"route {route.path} does not declare a permission for each of its methods")
        path = route.path.encode()
        table = self._prefixes if path.endswith(b"/") and path != b"/" else self._exact
        if path in table:
            raise ValueError(f"route {route.path} is declared twice")
        table[path] = route

    def open(self, method: str, target: str, headers: dict[str, str], remote: str) -> Call | Response:
        """Find who answers. A Response is final: the body is not wanted."""
        try:
            return self._open(method, target, headers, remote)
        except GemotError as error:
            return self._refuse(failure.to_response(error), method, target)
        except Exception:
            return self._refuse(_crashed(method, target), method, target)

    def _open(self, method: str, target: str, headers: dict[str, str], remote: str) -> Call | Response:
        found = read_target(target)
        refuse_foreign_page(method, headers, self._allowed_hosts)
        if found.moved:
            return self._refuse(Response(status=301, headers={"Location": found.moved}), method, target)
        if not self._allow_unprintable and not is_printable(found.path):
            raise BadRequest("the URL path holds characters that cannot be printed")
        route, rest = self._find(found.path)
        if route is None:
            return self._refuse(self._not_found(found.path, target), method, target)
        handler = route.handlers.get(method)
        if handler is None:
            return self._refuse(_wrong_method(route, method), method, target)
        token = _read_token(found.query, headers)
        request = Request(method, rest, found.query, headers, b"", token, remote, route=route.path)
        ignored = method == "GET" or not route.max_body
        limit = _DROPPED_BODY_BYTES if ignored else route.max_body
        return Call(route, handler, request, limit, "" if ignored else route.limit_name, perf_counter())

    def _find(self, path: bytes) -> tuple[Route | None, bytes]:
        route = self._exact.get(path)
        if route is not None:
            return route, b""
        for length in self._lengths:
            route = self._prefixes.get(path[:length])
            if route is not None:
                return route, path[length:]
        return None, b""

    def _not_found(self, path: bytes, target: str) -> Response:
        if path + b"/" in self._prefixes:
            raw, mark, query = target.partition("?")
            return Response(status=301, headers={"Location": as_ascii(f"{raw}/{mark}{query}")})
        return Response(status=404, body=(_NO_LOCATION if b"/v1/" in path else _NO_VERSION).encode())

    def answer(
        self, call: Call, body: bytes, stream: AsyncIterator[bytes] | None = None
    ) -> Response | Awaitable[Response]:
        """Ask the handler. Cancel the awaitable when the caller is gone."""
        request = call.request
        if stream is not None:
            request = msgspec.structs.replace(request, stream=stream)
        if body and request.method != "GET" and call.route.max_body:
            request = msgspec.structs.replace(request, body=body)
        try:
            given = call.handler(request)
        except GemotError as error:
            return self._finish(call, failure.to_response(error))
        except Exception:
            return self._finish(call, _crashed(request.method, call.route.path))
        if isinstance(given, Response):
            return self._finish(call, given)
        return self._settle(call, given)

    async def _settle(self, call: Call, given: Awaitable[Response]) -> Response:
        try:
            response = await given
        except GemotError as error:
            response = failure.to_response(error)
        except Exception:
            response = _crashed(call.request.method, call.route.path)
        return self._finish(call, response)

    def too_large(self, call: Call, size: int | None) -> Response:
        """The answer to a body over the call's limit; `size` None when its length was not declared."""
        shown = f"{size}" if size is not None else f"more than {call.max_body}"
        hint = f" The limit is {call.limit_name}." if call.limit_name else ""
        text = f"Request body({shown} bytes) too large, max size: {call.max_body} bytes.{hint}"
        return self._finish(call, failure.to_response(TooLarge(text)))

    def _finish(self, call: Call, response: Response) -> Response:
        seconds = perf_counter() - call.started_s
        method = call.request.method
        self._metrics.count("gemot_http_requests_total", (method, call.route.path, str(response.status)))
        self._metrics.observe("gemot_http_request_seconds", seconds, (method, call.route.path))
        if log.isEnabledFor(logging.DEBUG):
            log.debug(
                "Request finished: method=%s route=%s status=%d from=%s latency=%.3fms",
                method,
                call.route.path,
                response.status,
                call.request.remote,
                seconds * 1e3,
            )
        return response

    def _refuse(self, response: Response, method: str, target: str) -> Response:
        self._metrics.count("gemot_http_requests_total", (_known(method), "none", str(response.status)))
        log.debug("Request refused: method=%s path=%.200r status=%d", method, target, response.status)
        return response


def _merge_headers(given: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    names = {name.lower() for name in given}
    return (*(pair for pair in ALWAYS if pair[0].lower() not in names), *given.items())


_METHODS = frozenset(("GET", "PUT", "POST", "DELETE", "HEAD", "OPTIONS", "PATCH"))


def _known(method: str) -> str:
    """The method as a metric label: callers must not be able to make up label values."""
    return method if method in _METHODS else "other"


def _wrong_method(route: Route, method: str) -> Response:
    allow = {"Allow": ",".join(["OPTIONS", *sorted(route.handlers)])}
    if method == "OPTIONS":
        return Response(headers=allow)
    return Response(status=405, body=f"method {method:.32} not allowed".encode(), headers=allow)


def _banner_route(banner: str) -> Route:
    answer: Callable[[Request], Response] = lambda request: Response(body=banner.encode())  # noqa: E731
    return Route(path="/", handlers={"GET": answer}, permission={"GET": "none"})


def _crashed(method: str, where: str) -> Response:
    log.exception("Request failed inside: method=%s path=%.200r", method, where)
    return Response(status=500, body=b"Internal error: it is in the log of this agent")


def _read_token(query: tuple[tuple[str, str], ...], headers: dict[str, str]) -> str:
    for name, value in query:
        if name == "token" and value:
            return value
    name, token = "X-Consul-Token", headers.get("x-consul-token", "")
    if not token:
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            name, token = "Authorization", given.strip()
    try:
        token.encode()  # bytes that are not UTF-8 came as surrogate escapes: no message to a server has those
    except UnicodeEncodeError as error:
        raise BadRequest(f"the token in the header {name} is not valid UTF-8") from error
    return token
