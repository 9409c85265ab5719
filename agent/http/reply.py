"""Our responses as bytes on the wire.

A `Reply` takes the place of aiohttp's response object (it needs `prepare`, `write_eof` and `keep_alive`): its
head is built in one go from parts made beforehand and leaves in one write with the body. That saves about
a third of aiohttp's cost a request. It frames by Content-Length, or by chunks when the body is a stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import zlib
from collections.abc import AsyncIterator
from email.utils import formatdate
from http import HTTPStatus
from time import time
from typing import Any

from aiohttp.web import BaseRequest

from gemot.agent.http.message import Pushed, Response
from gemot.agent.http.outflow import SLICE_BYTES, Outflow

log = logging.getLogger(__name__)

GZIP_OVER_BYTES = 1400
"""Smaller bodies fit one packet and are never compressed."""

_GZIP_IN_THREAD_BYTES = 64 * 1024
_SHORT_WRITE_BYTES = 16 * 1024
_UNSENDABLE = b"Internal error: it is in the log of this agent"
_PACKED_TYPES = frozenset(("application/x-gzip", "application/gzip", "application/octet-stream"))
_STATUS_LINES = {s.value: f"{s.value} {s.phrase}\r\n".encode() for s in HTTPStatus}


class Heads:
    """What all heads share: the headers that are always on, and the date, made anew each second."""

    def __init__(self, always: tuple[tuple[str, str], ...]) -> None:
        self._always = always
        # Our own code spells header names in one way: as here, or in lower case.
        self._names = frozenset(given for name, _ in always for given in (name, name.lower()))
        self._block = "".join(f"{name}: {value}\r\n" for name, value in always)
        self._date = ""
        self._date_s = 0

    def build(self, response: Response, extra: str) -> bytes:
        """The head of a response, final empty line included. Raises ValueError on a line break inside."""
        second = int(time())
        if second != self._date_s:
            self._date, self._date_s = f"Date: {formatdate(second, usegmt=True)}\r\n", second
        block = self._block
        own = ""
        if response.headers:
            own = "".join([f"{name}: {value}\r\n" for name, value in response.headers.items()])
            if own.count("\n") != len(response.headers) or own.count("\r") != len(response.headers):
                raise ValueError(f"a header of the response holds a line break: {own!r:.200}")
            if not response.headers.keys().isdisjoint(self._names):
                given = {name.lower() for name in response.headers}
                kept = (pair for pair in self._always if pair[0].lower() not in given)
                block = "".join(f"{name}: {value}\r\n" for name, value in kept)
        text = f"{block}{own}Content-Type: {response.content_type}\r\n{self._date}{extra}\r\n"
        line = _STATUS_LINES.get(response.status) or f"{response.status} Status\r\n".encode()
        return line + text.encode("latin-1")


class Reply:
    """One response to one request; `keep_alive` says whether another request may follow.

    `streams` holds the tasks that send a stream, for as long as they do: cancel one to cut it. A client that
    takes nothing of a whole body for `patience_s` is cut; a stream waits for its reader.
    """

    def __init__(
        self,
        *,
        heads: Heads,
        response: Response,
        keep_alive: bool,
        streams: set[asyncio.Task[Any]],
        patience_s: float,
    ) -> None:
        self.keep_alive = keep_alive
        self.status = response.status
        self._heads = heads
        self._response = response
        self._streams = streams
        self._patience_s = patience_s
        self._request: BaseRequest | None = None

    @property
    def is_stream(self) -> bool:
        return not isinstance(self._response.body, bytes)

    async def prepare(self, request: BaseRequest) -> None:
        self._request = request

    async def write_eof(self) -> None:
        request, response = self._request, self._response
        assert request is not None
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client is gone")
        body = response.body
        if not isinstance(body, bytes):
            await self._stream(request, transport, body)
            return
        extra = self._connection(request)
        if len(body) > GZIP_OVER_BYTES and response.content_type not in _PACKED_TYPES and takes_gzip(request):
            body = await _compress(body)
            extra += "Content-Encoding: gzip\r\n"
        try:
            head = self._heads.build(response, f"{extra}Content-Length: {len(body)}\r\n")
        except ValueError:
            log.exception("Response dropped: its head cannot be sent")
            body = _UNSENDABLE
            head = self._heads.build(Response(status=500), f"Content-Length: {len(body)}\r\n")
        if request.method == "HEAD":
            body = b""
        head = _line(request) + head
        if len(body) <= _SHORT_WRITE_BYTES and not request.protocol._paused:
            transport.write(head + body)
            return
        out = Outflow(request, transport, patience_s=self._patience_s)
        for piece in (head + body,) if len(body) <= SLICE_BYTES else (head, body):
            await out.send(piece)

    async def _stream(
        self, request: BaseRequest, transport: Any, body: AsyncIterator[bytes] | Pushed
    ) -> None:
        """Pieces as they come, each a chunk; a failure on the way cuts the connection, so that it shows."""
        chunked = request.version >= (1, 1)
        self.keep_alive = self.keep_alive and chunked
        extra = self._connection(request) + ("Transfer-Encoding: chunked\r\n" if chunked else "")
        task = asyncio.current_task()
        assert task is not None
        self._streams.add(task)
        transport.write(_line(request) + self._heads.build(self._response, extra))

        out = Outflow(request, transport, chunked=chunked)
        if not isinstance(body, AsyncIterator):
            body.attach(out.send_now, transport.abort)
        pieces = aiter(body)
        try:
            async for piece in pieces:
                if piece:
                    await out.send(piece)
        except BaseException as error:
            transport.abort()
            if not isinstance(error, Exception):
                raise
            log.exception("Response cut: its stream failed")
            raise ConnectionResetError("the stream failed") from error
        finally:
            self._streams.discard(task)
            close = getattr(pieces, "aclose", None)
            if close is not None:
                with contextlib.suppress(Exception):
                    await close()
        if chunked:
            transport.write(b"0\r\n\r\n")

    def _connection(self, request: BaseRequest) -> str:
        if not self.keep_alive:
            return "Connection: close\r\n"
        return "" if request.version >= (1, 1) else "Connection: keep-alive\r\n"


def _line(request: BaseRequest) -> bytes:
    return b"HTTP/1.1 " if request.version >= (1, 1) else b"HTTP/1.0 "


def takes_gzip(request: BaseRequest) -> bool:
    given = request.headers.get("Accept-Encoding", "")
    if "gzip" not in given:
        return False
    for part in given.split(","):
        coding, _, weight = part.replace(" ", "").partition(";q=")
        if coding == "gzip":
            return weight.strip("0.") != "" if weight else True
    return False


async def _compress(body: bytes) -> bytes:
    if len(body) <= _GZIP_IN_THREAD_BYTES:
        return _gzip(body)
    return await asyncio.to_thread(_gzip, body)


def _gzip(body: bytes) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    return packer.compress(body) + packer.flush()
