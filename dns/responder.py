"""A message in, its reply out: at once where the answer is known, else by a task that asks the catalog.

Knows nothing of sockets. The first look goes by the bytes of the question alone, without parsing: a kept
reply is found by header flags, lower-cased name and the rest, and takes over the asker's id and spelling.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable
from functools import partial

from gemot.dns import reply, wire
from gemot.dns.cache import Cache
from gemot.dns.catalog import Ask, Catalog
from gemot.dns.config import DnsConfig
from gemot.dns.reply import Random
from gemot.dns.resolve import MAX_ALIASES, Resolved, Resolver
from gemot.dns.wire import Edns, Query
from gemot.server.model.errors import GemotError

MAX_WAITING = 1024
"""Questions that wait for the catalog at one time; one more is answered SERVFAIL."""

CACHE_ENTRIES = 8192
CACHE_BYTES = 32 * 1024 * 1024

_MAX_FETCHES = MAX_ALIASES + 2
_COUNTS_PLAIN = b"\0\1\0\0\0\0\0\0"
_COUNTS_EDNS = b"\0\1\0\0\0\0\0\1"
_log = logging.getLogger(__name__)

DROPPED = ("", "dropped")
"""The label of messages that get no reply: no question, or no room to answer."""


class Responder:
    """Answers messages from one catalog. For one event loop."""

    def __init__(
        self, *, config: DnsConfig, catalog: Catalog, random: Random, now_s: Callable[[], float]
    ) -> None:
        self.counts: dict[tuple[str, str], int] = defaultdict(int)
        """Messages by type and by code of the reply ("dropped": no reply); counted, never taken back."""
        self.kept_replies = 0
        """How many of them were answered from kept bytes."""
        self._catalog = catalog
        self._random = random
        self._now_s = now_s
        self._udp = Cache(limit_entries=CACHE_ENTRIES, limit_bytes=CACHE_BYTES)
        self._tcp = Cache(limit_entries=CACHE_ENTRIES // 8, limit_bytes=CACHE_BYTES // 2)
        self._waiting = 0
        self.configure(config)

    def configure(self, config: DnsConfig) -> None:
        """Answer by other settings from now on."""
        self._config = config
        self._resolver = Resolver(config=config, peek=self._catalog.peek, now_s=self._now_s)
        self._udp.clear()
        self._tcp.clear()

    def respond(self, message: bytes, *, tcp: bool) -> bytes | asyncio.Task[bytes] | None:
        """The reply, or who is at work on it, or None for what is no question and gets no reply."""
        end = message.find(b"\0", wire.HEADER_BYTES)
        key = message[2:12] + message[12:end].lower() + message[end:]
        form = (self._tcp if tcp else self._udp).get(key)
        if form is not None:
            self.kept_replies += 1
            self.counts[form.label] += 1
            return message[:2] + form.head + message[12 : end + 5] + form.tail
        if len(message) < wire.HEADER_BYTES or message[2] & 0x80:
            self.counts[DROPPED] += 1
            return None
        query = wire.parse_query(message)
        if isinstance(query, int):
            self.counts["", wire.RCODES[query]] += 1
            return reply.compose_bare_error(message, query)
        return self._respond_anew(message, query, tcp)

    def _respond_anew(self, message: bytes, query: Query, tcp: bool) -> bytes | asyncio.Task[bytes]:
        refusal = _refuse(query)
        if refusal is not None:
            return self._fail(message, query, refusal)
        key = _make_key(query)
        if key is not None:
            form = (self._tcp if tcp else self._udp).get(key)
            if form is not None:
                self.kept_replies += 1
                self.counts[form.label] += 1
                return form.fill(message, query.end)
        labels = wire.split_name(query.name)
        resolved = self._resolver.resolve(query.name, labels, query.type)
        if isinstance(resolved, Resolved):
            return self._finish(message, query, resolved, tcp)
        if self._waiting >= MAX_WAITING:
            return self._fail(message, query, wire.SERVFAIL)
        self._waiting += 1
        work = self._respond_later(message, query, labels, resolved, tcp)
        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(self._on_done)
        return task

    def _on_done(self, task: asyncio.Task[bytes]) -> None:
        self._waiting -= 1

    async def _respond_later(
        self, message: bytes, query: Query, labels: tuple[str, ...], ask: Ask, tcp: bool
    ) -> bytes:
        try:
            for _ in range(_MAX_FETCHES):
                await self._catalog.fetch(ask)
                resolved = self._resolver.resolve(query.name, labels, query.type)
                if isinstance(resolved, Resolved):
                    return self._finish(message, query, resolved, tcp)
                ask = resolved
            _log.warning("dns: %s: what was found was lost again before it could be used", ".".join(labels))
        except GemotError as error:
            _log.debug("dns: %s: %s", ".".join(labels), error)
        return self._fail(message, query, wire.SERVFAIL)

    def _finish(self, message: bytes, query: Query, resolved: Resolved, tcp: bool) -> bytes:
        plan = resolved.plan
        room = reply.measure_room(self._config, query.edns, tcp=tcp)
        truncate, random = self._config.enable_truncate, self._random
        if plan.rcode == wire.REFUSED:
            return self._fail(message, query, plan.rcode)
        form = reply.compose(plan, query, room, truncate=truncate, random=random)
        self.counts[form.label] += 1
        key = _make_key(query) if resolved.found else None
        if key is not None and all(found.live for found in resolved.found):
            cache = self._tcp if tcp else self._udp
            again = partial(reply.compose, plan, query, room, truncate=truncate, random=random)
            make = again if plan.shuffled else None
            cache.put(key, form, resolved.found, make, len(plan.choices))
        return form.fill(message, query.end)

    def _fail(self, message: bytes, query: Query, rcode: int) -> bytes:
        form = reply.compose_error(query, rcode)
        self.counts[form.label] += 1
        return form.fill(message, query.end)


def _refuse(query: Query) -> int | None:
    """The code for a question of a kind that is never answered."""
    if query.edns is not None and query.edns.version:
        return wire.BADVERS
    if query.type in (wire.AXFR, wire.IXFR):
        return wire.NOTIMP
    if query.klass not in (wire.CLASS_IN, wire.CLASS_ANY):
        return wire.REFUSED
    return None


def _make_key(query: Query) -> bytes | None:
    """The simplest message (without its id) that asks the same; None if the reply is for this asker alone.

    Only flags that come back in the reply are kept, and of EDNS only size and DO. `respond` finds the end of
    a name by its first zero byte: right for every reply kept, since a name that can be found in the catalog
    has no zero byte inside a label.
    """
    flags = (query.flags & wire.ECHOED).to_bytes(2, "big")
    question = query.name + query.type.to_bytes(2, "big") + query.klass.to_bytes(2, "big")
    if query.edns is None:
        return flags + _COUNTS_PLAIN + question
    if query.edns.subnet:
        return None
    plain = Edns(query.edns.size, dnssec_ok=query.edns.dnssec_ok)
    return flags + _COUNTS_EDNS + question + wire.encode_opt(plain)
