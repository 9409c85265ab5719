"""Lists of keys a page at a time: what stands behind a key, up to so many. What it is not: `pages.py`, which
reads whole long lists in more than one read transaction.

A page costs its own rows, and the hidden ones and tombstones between them, however long the list is. Its
index is that of the newest change from its beginning to the entry behind its end, deletes included: who
waits at a page is woken by what may change it. Names that are cut at a separator are found by one seek each;
what is behind a name is not looked at, so their index is that of the newest change to any key.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from gemot.server.model.kv import EntryPage, KeyPage, KvEntry, KvKeysPage, KvListPage
from gemot.server.state.names import cut_name, end_of_prefix
from gemot.server.state.permission import Operation
from gemot.server.state.scope import Reading

Row = tuple[bytes, int, bytes]

_STEP = 100
"""Rows that are looked through at least, where a deleted range hides some."""

_ROWS = "select key, modify_index, row from kv where key >= ? and {} order by key limit ?"
_KEYS = "select key, modify_index, x'' from kv where key >= ? and {} order by key limit ?"
_BURIED = "select count(*) from (select 1 from tombstone where key >= ? and {} limit ?)"
_NEWEST_BURIED = "select max(idx) from tombstone where key >= ? and {}"
_decode = msgspec.msgpack.Decoder(KvEntry).decode


def page_of_entries(reading: Reading, query: KvListPage) -> tuple[EntryPage, int]:
    rows, index = _page(reading, query.prefix, query.after, query.limit, _ROWS)
    shown, following = _split(reading, rows, query.limit, "read")
    return EntryPage([_decode(row) for _, _, row in shown], following), index


def page_of_keys(reading: Reading, query: KvKeysPage) -> tuple[KeyPage, int]:
    if query.separator:
        return _page_of_names(reading, query), max(reading.meta.kv_index, 1)
    rows, index = _page(reading, query.prefix, query.after, query.limit, _KEYS)
    shown, following = _split(reading, rows, query.limit, "list")
    return KeyPage([key for key, _, _ in shown], following), index


def _split(reading: Reading, rows: list[Row], limit: int, access: Any) -> tuple[list[Row], bytes]:
    """Those to be shown, and what the next page is behind: the last that was looked at, shown or not."""
    page, allowed = rows[:limit], reading.allowed
    following = page[-1][0] if len(rows) > limit else b""
    if allowed is not None:
        page = [row for row in page if allowed(Operation("key", row[0], access))]
    return page, following


def _page(reading: Reading, prefix: bytes, after: bytes, limit: int, statement: str) -> tuple[list[Row], int]:
    """The rows of a page and the one behind it, and the page's index."""
    start, end = _behind(prefix, after), end_of_prefix(prefix)
    rows = _visible(reading, prefix, start, end, limit + 1, statement)
    if len(rows) > limit:
        end = rows[-1][0] + b"\0"
    return rows, _index(reading, prefix, start, end, rows)


def _behind(prefix: bytes, after: bytes) -> bytes:
    """Where a page begins."""
    return max(prefix, after + b"\0") if after else prefix


def _visible(
    reading: Reading, prefix: bytes, start: bytes, end: bytes | None, wanted: int, statement: str
) -> list[Row]:
    """Up to `wanted` rows that no mask hides, by key."""
    found: list[Row] = []
    while True:
        asked = wanted - len(found)
        if reading.masks.hiding:
            asked = max(asked, _STEP)
        bound, bindings = _bounded(start, end)
        rows: list[Row] = reading.rows(statement.format(bound), bindings, asked)
        found += reading.masks.visible(prefix, rows)
        if len(found) >= wanted or len(rows) < asked:
            return found[:wanted]
        start = rows[-1][0] + b"\0"


def _bounded(start: bytes, end: bytes | None) -> tuple[str, tuple[bytes, ...]]:
    return ("true", (start,)) if end is None else ("key < ?", (start, end))


def _index(reading: Reading, prefix: bytes, start: bytes, end: bytes | None, rows: list[Row]) -> int:
    """The newest change between `start` and `end`; of all keys where there is none. Never below what was
    reaped: a tombstone of this range may have been among it."""
    meta = reading.meta
    bound, bindings = _bounded(start, end)
    reading.look_through_tombstones(_BURIED.format(bound), bindings)
    buried: int | None = reading.cursor.execute(_NEWEST_BURIED.format(bound), bindings).get
    newest = max(max((row[1] for row in rows), default=0), buried or 0, reading.masks.index_over(prefix))
    return max(newest or meta.kv_index, meta.reaped_index, 1)


def _page_of_names(reading: Reading, query: KvKeysPage) -> KeyPage:
    prefix, separator, allowed = query.prefix, query.separator, reading.allowed
    end, names = end_of_prefix(prefix), list[bytes]()
    start: bytes | None = _behind(prefix, query.after)
    if query.after.startswith(prefix):
        start = _behind_name(cut_name(query.after, len(prefix), separator), query.after, separator)
    while start is not None and (rows := _visible(reading, prefix, start, end, 1, _KEYS)):
        key = rows[0][0]
        if allowed is not None and not allowed(Operation("key", key, "list")):
            start = key + b"\0"
            continue
        if len(names) == query.limit:
            return KeyPage(names, names[-1])
        name = cut_name(key, len(prefix), separator)
        names.append(name)
        start = _behind_name(name, key, separator)
    return KeyPage(names)


def _behind_name(name: bytes, key: bytes, separator: bytes) -> bytes | None:
    """Where what has another name begins; None if nothing can."""
    return end_of_prefix(name) if name.endswith(separator) else key + b"\0"


READERS: dict[type, Callable[[Reading, Any], tuple[Any, int]]] = {
    KvListPage: page_of_entries,
    KvKeysPage: page_of_keys,
}
