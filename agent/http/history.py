"""The history of keys: `GET /v1/gemot/history/<key>`. Ours; Consul has none.

By itself the revisions of one key, newest first (`limit`, and `before` for the next page); with `at` the key
as it was at an index, with `recurse` every key under it. How far back it goes: `X-Gemot-History-Since`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

from gemot.agent.http import listing, parse, render
from gemot.agent.http.message import Request, Response, Route
from gemot.agent.servers import Servers
from gemot.server.model.errors import BadRequest
from gemot.server.model.history import MOST_REVISIONS, AsOf, KvAsOf, KvRevisions, Revision, Revisions
from gemot.server.model.kv import KvEntry

SINCE = "X-Gemot-History-Since"
MORE = "X-Gemot-History-More"
"""There are older revisions: ask on with `before`, the ModifyIndex of the last one."""

GONE = "X-Gemot-History-Gone"
"""Keys under a prefix, by count, of which it is not known any more how they were."""

_MOST_INDEX = 1 << 62
_LAST_MS = 253_402_300_799_999
"""The end of the year 9999."""


def routes(*, servers: Servers, datacenter: str = "dc1") -> list[Route]:
    family = _History(servers=servers, datacenter=datacenter)
    return [Route("/v1/gemot/history/", {"GET": family.get}, {"GET": "key:read"})]


class _History:
    def __init__(self, *, servers: Servers, datacenter: str) -> None:
        self._servers = servers
        self._datacenter = datacenter

    async def get(self, request: Request) -> Response:
        if parse.flag(request, "index") or parse.flag(request, "wait"):
            raise BadRequest(
                "history is not waited for: leave index and wait out; ?at= tells what to look at"
            )
        key, recurse = parse.check_key(request.path), parse.flag(request, "recurse")
        if not key and not recurse:
            raise BadRequest("Missing key name")
        if parse.flag(request, "at"):
            return await self._as_of(request, KvAsOf(key, _number(request, "at", 0), not recurse))
        if recurse:
            raise BadRequest("?recurse needs ?at=INDEX: revisions are listed of one key")
        limit = _number(request, "limit", 64)
        if not 1 <= limit <= MOST_REVISIONS:
            raise BadRequest(f"?limit must be from 1 to {MOST_REVISIONS}, not {limit}")
        return await self._revisions(request, KvRevisions(key, _number(request, "before", 0), limit))

    async def _revisions(self, request: Request, query: KvRevisions) -> Response:
        options = parse.read_options(request, datacenter=self._datacenter)
        answer = await self._servers.query(query, options)
        found: Revisions = answer.value
        headers = render.read_headers(answer, options) | {SINCE: str(found.since)}
        if found.more:
            headers[MORE] = "true"
        size = sum(len(one.row.value) for one in found.rows)
        if size > listing.SHORT_BYTES:
            body = await asyncio.to_thread(_rendered, found.rows)
        else:
            body = _rendered(found.rows)
        return render.json_bytes(request, body, status=200 if found.rows else 404, headers=headers)

    async def _as_of(self, request: Request, query: KvAsOf) -> Response:
        options = parse.read_options(request, datacenter=self._datacenter)
        answer = await self._servers.query(query, options)
        found: AsOf = answer.value
        headers = render.read_headers(answer, options)
        headers |= {SINCE: str(found.since), GONE: str(len(found.gone))}
        short = len(found.rows) + len(found.gone) <= listing.SHORT_ROWS
        if short and sum(len(row.value) for row in found.rows) <= listing.SHORT_BYTES:
            body = _as_of_rendered(found)
        else:
            body = await asyncio.to_thread(_as_of_rendered, found)
        status = 200 if found.rows or found.gone else 404
        return render.json_bytes(request, body, status=status, headers=headers)


def _number(request: Request, name: str, default: int) -> int:
    text = parse.first(request, name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 19 and int(text) < _MOST_INDEX):
        raise BadRequest(f"?{name} must be a whole number of at most 18 digits, not {text[:40]!r}")
    return int(text)


def _rendered(rows: Sequence[Revision]) -> bytes:
    return b"[" + b",".join([_revision(one) for one in rows]) + b"]"


def _revision(one: Revision) -> bytes:
    """The key as Consul shows it, and ours behind that. `Until` 0: so it still is."""
    more = {
        "Op": one.op,
        "Until": one.until,
        "Deleted": one.deleted,
        "EndTime": _time(one.ended_ms),
        "EndAccessor": one.ended_by,
    }
    return _entry(one.row)[:-1] + b"," + render.encode(more)[1:]


def _entry(row: KvEntry) -> bytes:
    signed = {"Time": _time(row.at_ms), "Accessor": row.accessor}
    return render.kv_entry(row)[:-1] + b"," + render.encode(signed)[1:]


def _as_of_rendered(found: AsOf) -> bytes:
    entries = b",".join([_entry(row) for row in found.rows])
    return (
        b'{"Entries":[' + entries + b'],"Gone":' + render.encode([render.key(k) for k in found.gone]) + b"}"
    )


def _time(at_ms: int) -> str:
    """ "" where it was not noted."""
    if not 0 < at_ms <= _LAST_MS:
        return ""
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
