"""The key-value family: `/v1/kv/`. Keys are the path's bytes, whatever they are. Source: Consul, KV store.

Ours are the parameters `lock` and `fence` of every write (`fence.py`), `ttl` of one that sets a
key, `limit` and `after` of lists (`page.py`), and headers that tell of them.
"""

from __future__ import annotations

import asyncio
from urllib.parse import urlencode

from gemot.agent.http import fence, listing, page, parse, render
from gemot.agent.http.message import Request, Response, Route
from gemot.agent.servers import Servers
from gemot.server.model.command import IdempotencyKey
from gemot.server.model.errors import BadRequest, GemotError
from gemot.server.model.kv import (
    KvDelete,
    KvDeletePrefix,
    KvEntry,
    KvGet,
    KvKeys,
    KvKeysPage,
    KvList,
    KvListPage,
    KvSet,
)
from gemot.server.model.query import Options
from gemot.server.model.txn import CheckFence, FoundKey, Txn, as_op, decode

DEFAULT_MAX_VALUE_BYTES = 512 * 1024
EXPIRES_IN = "X-Gemot-Expires-In"
"""Of a key with a TTL: what is left of it when it is read, all of it when it was written; where the write
was perhaps an earlier one (`Idempotency-Key`), what is left of that. What knows no TTL writes a key that
stays, and does not say this."""

_LEARN_S = 1.0
"""How long a write that is done waits to learn that."""

FENCE = "X-Gemot-Fence"
"""Of a lock that was acquired: greater than that of every acquisition of this key before it."""

_TRUE, _FALSE = b"true", b"false"
_RAW_HEADERS = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox"}


def routes(
    *, servers: Servers, datacenter: str = "dc1", max_value_bytes: int = DEFAULT_MAX_VALUE_BYTES
) -> list[Route]:
    family = _Kv(servers=servers, datacenter=datacenter)
    return [
        Route(
            path="/v1/kv/",
            handlers={"GET": family.get, "PUT": family.put, "DELETE": family.delete},
            permission={"GET": "key:read", "PUT": "key:write", "DELETE": "key:write"},
            max_body=max_value_bytes,
            limit_name="limits.kv_max_value_size",
        )
    ]


class _Kv:
    def __init__(self, *, servers: Servers, datacenter: str) -> None:
        self._servers = servers
        self._datacenter = datacenter

    async def get(self, request: Request) -> Response:
        options = parse.read_options(request, datacenter=self._datacenter)
        key = parse.check_key(request.path)
        raw = False
        if request.query:
            names = {name for name, _ in request.query}
            if "keys" in names:
                return await self._keys(request)
            if "recurse" in names:
                return await self._list(request)
            page.refuse(request)
            raw = "raw" in names
        if not key:
            raise BadRequest("Missing key name")
        answer = await self._servers.query(KvGet(key), options)
        headers = render.read_headers(answer, options)
        if answer.value is None:
            return Response(status=404, headers=headers)
        if answer.value.ttl_ms:
            headers[EXPIRES_IN] = render.duration(answer.value.remaining_ms)
        if raw:
            headers.update(_RAW_HEADERS)
            return Response(body=answer.value.value, content_type="text/plain", headers=headers)
        return render.json_bytes(request, b"[" + render.kv_entry(answer.value) + b"]", headers=headers)

    async def _list(self, request: Request) -> Response:
        options, asked = parse.read_options(request, datacenter=self._datacenter), page.read(request)
        if asked is None:
            answer = await self._servers.query(KvList(request.path), options)
            entries, headers = answer.value, render.read_headers(answer, options)
        else:
            answer = await self._servers.query(KvListPage(request.path, *asked), options)
            entries, headers = answer.value.entries, render.read_headers(answer, options)
            headers.update(page.headers(answer.value.next))
        if not entries:
            return Response(status=404, headers=headers)
        size = sum([len(entry.value) for entry in entries])
        return await listing.json_entries(request, entries, size=size, headers=headers)

    async def _keys(self, request: Request) -> Response:
        options = parse.read_options(request, datacenter=self._datacenter)
        # The misspelt name is one that early releases of Consul documented; scripts still send it.
        separator = parse.first(request, "separator") or parse.first(request, "seperator") or ""
        if (asked := page.read(request)) is None:
            answer = await self._servers.query(KvKeys(request.path, separator.encode()), options)
            keys, headers = answer.value, render.read_headers(answer, options)
        else:
            query = KvKeysPage(request.path, separator.encode(), *asked)
            answer = await self._servers.query(query, options)
            keys, headers = answer.value.keys, render.read_headers(answer, options)
            headers.update(page.headers(answer.value.next))
        if not keys and request.path:
            return Response(status=404, headers=headers)
        return await listing.json_rows(request, keys, render.key, headers=headers)

    async def put(self, request: Request) -> Response:
        return await self._write(request, self._read_put(request))

    def _read_put(self, request: Request) -> KvSet:
        parse.check_scope(request, datacenter=self._datacenter)
        key = parse.check_key(request.path)
        if not key:
            raise BadRequest("Missing key name")
        _refuse_conflict(request, ("cas", "acquire", "release"))
        flags, cas = parse.first(request, "flags"), parse.first(request, "cas")
        ttl = parse.first(request, "ttl")
        acquire, release = _session_in(request, "acquire"), _session_in(request, "release")
        return KvSet(
            key,
            request.body,
            parse.uint64(flags) if flags is not None else 0,
            parse.uint64(cas) if cas is not None else None,
            acquire,
            release,
            parse.ttl_ms(ttl) if ttl is not None else 0,
        )

    async def delete(self, request: Request) -> Response:
        return await self._write(request, self._read_delete(request))

    def _read_delete(self, request: Request) -> KvDelete | KvDeletePrefix:
        parse.check_scope(request, datacenter=self._datacenter)
        key = parse.check_key(request.path)
        _refuse_conflict(request, ("recurse", "cas"))
        if parse.flag(request, "recurse"):
            return KvDeletePrefix(key)
        if not key:
            raise BadRequest("Missing key name")
        cas = parse.first(request, "cas")
        return KvDelete(key, parse.uint64(cas) if cas is not None else None)

    async def _write(self, request: Request, command: KvSet | KvDelete | KvDeletePrefix) -> Response:
        # Of a lock the answer is as of now: that of an earlier try may tell of one that is lost since.
        locks = isinstance(command, KvSet) and command.acquire is not None
        named = None if locks else parse.idempotency_key(request)
        if request.query and (guard := fence.read_guard(request)) is not None:
            return await self._write_guarded(request, guard, command, named)
        applied = await self._servers.apply(command, token=request.token, key=named)
        headers = render.write_headers(applied, named)
        if applied.value and isinstance(command, KvSet) and command.acquire is not None:
            headers[FENCE] = str(int(applied.value))
        if applied.value:
            headers.update(await self._expiry(request, command, named, applied.index))
        return render.json_bytes(request, _TRUE if applied.value else _FALSE, headers=headers)

    async def _write_guarded(
        self,
        request: Request,
        guard: CheckFence,
        command: KvSet | KvDelete | KvDeletePrefix,
        named: IdempotencyKey | None,
    ) -> Response:
        """The write if its lock is held: 409 if it is not, else what the write alone would answer."""
        applied = await self._servers.apply(Txn((guard, as_op(command))), token=request.token, key=named)
        answer, headers = decode(applied.value), render.write_headers(applied, named)
        if why := fence.lost(answer):
            return Response(status=409, body=why.encode(), headers=headers)
        headers[fence.CHECKED] = str(guard.fence)
        acquires = isinstance(command, KvSet) and command.acquire is not None
        for found in answer.results:
            if acquires and isinstance(found, FoundKey):
                headers[FENCE] = str(found.row.fence)
        if not answer.errors:
            headers.update(await self._expiry(request, command, named, applied.index))
        return render.json_bytes(request, _FALSE if answer.errors else _TRUE, headers=headers)

    async def _expiry(
        self,
        request: Request,
        command: KvSet | KvDelete | KvDeletePrefix,
        named: IdempotencyKey | None,
        index: int,
    ) -> dict[str, str]:
        if not isinstance(command, KvSet) or not command.ttl_ms:
            return {}
        # Under a caller's own name this may be the answer to an earlier request: its TTL has begun.
        left_ms = command.ttl_ms if named is None else await self._left_ms(command, index, request.token)
        return {EXPIRES_IN: render.duration(left_ms)} if left_ms is not None else {}

    async def _left_ms(self, command: KvSet, index: int, token: str) -> int | None:
        """What is left of the TTL that was set at that index; 0 where the key is gone or another's since, and
        None where that cannot be learned soon: the write is done, and its answer does not wait for it."""
        try:
            async with asyncio.timeout(_LEARN_S):
                answer = await self._servers.query(KvGet(command.key), Options(token=token))
        except (GemotError, TimeoutError):
            return None
        entry: KvEntry | None = answer.value
        if entry is None or entry.modify_index > index:
            return 0
        return max(0, min(command.ttl_ms, entry.remaining_ms))


def _session_in(request: Request, name: str) -> str | None:
    given = parse.first(request, name)
    return parse.session_id(given) if given is not None else None


def _refuse_conflict(request: Request, names: tuple[str, ...]) -> None:
    if request.query and len({name for name, _ in request.query if name in names}) > 1:
        # As Go encodes a query: sorted by name.
        pairs = sorted((pair for pair in request.query if pair[0] != "token"), key=lambda p: p[0])
        shown = urlencode(pairs, errors="surrogateescape")
        raise BadRequest(f"Conflicting flags: {shown[:1000]}\n")
