"""HTTP to an agent: one request at a time, over the standard library only (a command must start quickly).

The address is `host:port`, a URL, or `unix:///path`. Errors say what was asked of whom.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import IO, Any
from urllib.parse import quote, urlencode, urlsplit

DEFAULT_ADDRESS = "127.0.0.1:8500"
SLOW_S = 1.0
"""After which a question has taken long enough to say so."""

FENCE_CHECK = "/v1/gemot/fence/check"
FENCE_CHECKED = "x-gemot-fence-checked"
"""The header that says of a write under a fence that its fence was looked at."""

CANNOT_BE_SENT = "the request cannot be sent: a header of it has a value that no header can have"
"""All that is told of it: what Python says quotes the value, which may be a secret."""

Slow = Callable[[str, float, threading.Event], None]
"""Told the path, how many seconds the answer may take in all, and an event that is set when it is there."""


class ClientError(Exception):
    """Root of what can go wrong for a caller of the client."""


class CannotConnect(ClientError):
    """No agent answered: nothing was done."""


class ConnectionBroke(ClientError):
    """The connection broke or timed out after the request left: a write may or may not be done."""


class Refused(ClientError):
    """The agent answered with an error. `status` is HTTP's, `text` the agent's own words.

    `undone`: of a write that failed, the agent knows that it was not done.
    """

    def __init__(self, status: int, text: str, *, undone: bool = False) -> None:
        told = text or f"HTTP status {status}"
        super().__init__(f"{told}. The write was surely not done" if undone else told)
        self.status = status
        self.text = text
        self.undone = undone


class NotAnAgent(ClientError):
    """What answered did not speak as an agent does."""


class NoFences(ClientError):
    """What answers does not know fences: a write under one would be done whoever holds the lock.

    Consul ignores parameters that it does not know in silence. Where nothing else is said, nothing was sent.
    """


class Reply:
    """An answer: status, headers (lower-case names), body."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    def json(self) -> Any:
        """Raises NotAnAgent for a body that is not JSON."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as error:
            shown = self.body[:60].decode(errors="replace")
            raise NotAnAgent(f"the answer is not JSON but {shown!r}: is this the API of an agent?") from error

    def check(self, method: str, ok: tuple[int, ...]) -> None:
        """Raises Refused where the status is none of these."""
        if self.status not in ok:
            undone = method != "GET" and self.headers.get("x-gemot-outcome") == "not-done"
            raise Refused(self.status, self.body.decode(errors="replace").strip(), undone=undone)

    @property
    def known_leader(self) -> bool:
        return self.headers.get("x-consul-knownleader", "true") != "false"

    @property
    def last_contact_ms(self) -> int:
        """How long before it answered the server had heard a leader; 0 if that is not told."""
        text = self.headers.get("x-consul-lastcontact", "")
        return int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else 0

    @property
    def index(self) -> int:
        """X-Consul-Index, 0 if there is none."""
        text = self.headers.get("x-consul-index", "")
        return int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else 0


def check_token(token: str) -> None:
    """Raises ClientError for one that no header carries as it is; what is wrong is told without the token."""
    for place, one in enumerate(token, 1):
        if not (one.isascii() and one.isprintable()):
            what = "a line break" if one in "\r\n" else "not a printable ASCII character"
            told = f"character {place} of {len(token)} is {what}"
            raise ClientError(f"the token cannot be sent as the header X-Consul-Token: {told}")


class Fences:
    """Whether what answers at an address knows fences: asked before the first write under one. Pure."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._known = False

    def question(self, method: str, params: dict[str, Any] | None) -> dict[str, Any] | None:
        """What to ask FENCE_CHECK before such a request, None for nothing.

        Whether the lock is held is not what it is for: the write asks that itself.
        """
        if self._known or method == "GET" or "fence" not in (params or {}):
            return None
        return {name: (params or {}).get(name) for name in ("lock", "fence", "session")}

    def answered(self, told: Reply | Refused) -> None:
        """By FENCE_CHECK. Raises NoFences, or the error where that says nothing of fences."""
        if isinstance(told, Refused):
            if told.status not in (301, 302, 307, 308, 404, 405, 501):
                raise told
        else:
            try:
                self._known = "Held" in told.json()
            except (NotAnAgent, TypeError):
                pass
        if not self._known:
            raise NoFences(
                f"the write was not sent: {self._address} does not know fences, and would do it whoever "
                "holds the lock. Is it an agent of Gemot?"
            )

    def done(self, method: str, params: dict[str, Any] | None, reply: Reply) -> None:
        """Raises NoFences for a write that was done by what did not look at its fence."""
        fenced = method != "GET" and "fence" in (params or {})
        if fenced and reply.status == 200 and FENCE_CHECKED not in reply.headers:
            self._known = False
            raise NoFences(
                f"the write was done, and {self._address} does not say that it looked at the fence"
            )


class Connection:
    """Keeps one connection open and dials it again when the agent closed it between requests.

    That is looked for before each request, so that a write does not go where nobody reads it: it cannot be
    sent again, since nobody would know whether it was done. A read can, and is.
    """

    def __init__(
        self, address: str = "", *, token: str = "", timeout_s: float = 60.0, slow: Slow | None = None
    ) -> None:
        """`slow` is called in a thread of its own when an answer is late that is not meant to be.

        Raises ClientError for a token that cannot be sent.
        """
        check_token(token)
        self.slow = slow
        self.address = address or DEFAULT_ADDRESS
        self.token = token
        self._timeout_s = timeout_s
        self._fences = Fences(self.address)
        self._http: http.client.HTTPConnection | None = None

    def close(self) -> None:
        if self._http is not None:
            self._http.close()
            self._http = None

    def request(
        self,
        method: str,
        path: str,
        *,
        params: dict[str, Any] | None = None,
        body: bytes | IO[bytes] | None = None,
        headers: dict[str, str] | None = None,
        timeout_s: float | None = None,
        ok: tuple[int, ...] = (200,),
    ) -> Reply:
        """Ask, and give the answer if its status is among `ok`; else raise Refused.

        Before the first write with `fence` among its `params` it is asked whether fences are known there;
        raises NoFences where they are not.
        """
        if (question := self._fences.question(method, params)) is not None:
            try:
                told: Reply | Refused = self.request(
                    "GET", FENCE_CHECK, params=question, timeout_s=timeout_s, ok=(200, 409)
                )
            except Refused as error:
                told = error
            self._fences.answered(told)
        target = target_of(path, params)
        sent = dict(headers or {})
        if self.token:
            sent["X-Consul-Token"] = self.token
        with self._told_when_slow(path, params, timeout_s or self._timeout_s):
            reply = self._exchange(method, target, body, sent, timeout_s or self._timeout_s)
        reply.check(method, ok)
        self._fences.done(method, params, reply)
        return reply

    def stream(
        self,
        path: str,
        params: dict[str, Any] | None = None,
        *,
        headers: dict[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> http.client.HTTPResponse:
        """An answer read piece by piece, each within the time limit if there is one; the caller closes it."""
        connection = self._dial(timeout_s)
        sent = (headers or {}) | self._auth() | {"Connection": "close"}
        try:
            with self._told_when_slow(path, params, timeout_s or 0.0):
                response = self._begin(connection, target_of(path, params), sent)
        except BaseException:
            connection.close()
            raise
        if connection.sock is not None:  # kept for another request, which there will not be: the answer's
            connection.sock.close()
        if response.status != 200:
            raise Refused(response.status, _refusal(response))
        return response

    def _begin(
        self, connection: http.client.HTTPConnection, target: str, headers: dict[str, str]
    ) -> http.client.HTTPResponse:
        """Ask on a fresh connection."""
        try:
            connection.connect()
        except (OSError, UnicodeError) as error:
            raise CannotConnect(self._unreachable(error)) from error
        try:
            connection.request("GET", target, headers=headers)
            return connection.getresponse()
        except OSError as error:
            raise ConnectionBroke(f"no answer from the agent at {self.address}: {why(error)}") from error
        except http.client.HTTPException as error:
            raise NotAnAgent(f"{self.address}: {error}") from error
        except ValueError:
            raise ClientError(CANNOT_BE_SENT) from None

    @contextlib.contextmanager
    def _told_when_slow(self, path: str, params: dict[str, Any] | None, within_s: float) -> Iterator[None]:
        """A blocking query is meant to wait, and what ends as soon needs no telling."""
        if self.slow is None or "index" in (params or {}) or within_s <= SLOW_S:
            yield
            return
        answered = threading.Event()
        clock = threading.Timer(SLOW_S, self.slow, (path, within_s, answered))
        clock.daemon = True
        clock.start()
        try:
            yield
        finally:
            answered.set()
            clock.cancel()

    def _exchange(
        self,
        method: str,
        target: str,
        body: bytes | IO[bytes] | None,
        headers: dict[str, str],
        timeout_s: float,
    ) -> Reply:
        """What ends it before its end, a signal as well, ends the connection: half an exchange is on it."""
        try:
            return self._asked(method, target, body, headers, timeout_s)
        except BaseException:
            self.close()
            raise

    def _asked(
        self,
        method: str,
        target: str,
        body: bytes | IO[bytes] | None,
        headers: dict[str, str],
        timeout_s: float,
    ) -> Reply:
        if self._http is not None and _is_over(self._http.sock):
            self.close()
        fresh = self._http is None
        if self._http is None:
            self._http = self._dial(timeout_s)
        else:
            self._http.sock.settimeout(timeout_s)
        try:
            self._http.connect() if fresh else None
        except (OSError, UnicodeError) as error:
            raise CannotConnect(self._unreachable(error)) from error
        try:
            self._http.request(method, target, body=body, headers=headers)
            response = self._http.getresponse()
            return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError) as error:
            if not fresh and method == "GET":
                self.close()
                return self._asked(method, target, body, headers, timeout_s)
            raise ConnectionBroke(
                f"{outcome(method)}the agent at {self.address} closed the connection: {why(error)}"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise ConnectionBroke(
                f"{outcome(method)}no answer from the agent at {self.address}: {why(error)}"
            ) from error
        except ValueError:
            raise ClientError(CANNOT_BE_SENT) from None

    def _dial(self, timeout_s: float | None) -> http.client.HTTPConnection:
        if self.address.startswith("unix://"):
            return _UnixConnection(self.address.removeprefix("unix://"), timeout_s)
        scheme, host, port = split_address(self.address)
        if scheme == "https":
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(host, port, timeout=timeout_s, context=context)
        return http.client.HTTPConnection(host, port, timeout=timeout_s)

    def _auth(self) -> dict[str, str]:
        return {"X-Consul-Token": self.token} if self.token else {}

    def _unreachable(self, error: OSError | UnicodeError) -> str:
        return unreachable(self.address, error)


def _is_over(kept: socket.socket | None) -> bool:
    """Of one without a request under way: whether the agent closed it, or says what nobody asked for."""
    if kept is None:
        return True
    looked = select.poll()
    looked.register(kept, select.POLLIN)
    return bool(looked.poll(0))


def split_address(address: str) -> tuple[str, str, int]:
    """Scheme, host and port of one that is no unix://. Raises CannotConnect."""
    try:
        url = urlsplit(address if "://" in address else f"http://{address}")
        host, port = url.hostname, url.port
    except ValueError as error:
        raise CannotConnect(f"{address!r} is no address: {error}") from error
    if not host or not host.isprintable() or " " in host or url.scheme not in ("http", "https"):
        raise CannotConnect(f"{address!r} is no address: give host:port, a URL or unix:///path")
    return url.scheme, host, port or (8501 if url.scheme == "https" else 8500)


def unreachable(address: str, error: Exception) -> str:
    return (
        f"cannot reach an agent at {address}: {why(error)} "
        "(is it running? -http-addr or GEMOT_HTTP_ADDR tell where)"
    )


def why(error: Exception) -> str:
    """The system's words, where it has some, without its numbers."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def _refusal(response: http.client.HTTPResponse) -> str:
    """Its beginning, which is all that people are told."""
    try:
        return response.read1(1 << 16).decode(errors="replace").strip()
    except (OSError, http.client.HTTPException):
        return ""
    finally:
        response.close()


def outcome(method: str) -> str:
    """What is known of a request whose connection broke: a write left, and may have been done."""
    return "" if method == "GET" else "Outcome unknown, it may have been done: "


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float | None) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def target_of(path: str, params: dict[str, Any] | None) -> str:
    return quote(path, safe="/:@!$&'()*+,;=-._~%", errors="surrogateescape") + _query(params)


def _query(params: dict[str, Any] | None) -> str:
    """`?a=1&b`: True stands bare, None and False are left out, lists repeat."""
    if not params:
        return ""
    pairs: list[str] = []
    for name, value in params.items():
        for each in value if isinstance(value, list | tuple) else [value]:
            if each is True:
                pairs.append(quote(name))
            elif each is not None and each is not False:
                pairs.append(urlencode({name: each}, errors="surrogateescape"))
    return "?" + "&".join(pairs) if pairs else ""
