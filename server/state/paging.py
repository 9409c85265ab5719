"""Lists of keys a page at a time: what stands behind a key, up to so many. What it is not: `pages.py`, which
reads whole long lists in more than one read transaction.

A page costs its own rows, and the hidden ones and tombstones between them, however long the list is. Its
index is that of the newest change from its beginning to the entry behind its end, deletes included: who
waits at a page is woken by what may change it. Names that are cut at a separator are found by one seek each;
what is behind a name is not looked at, so their index is that of the newest change to any key.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import msgspec

from gemot.server.model.errors import BadRequest
from gemot.server.model.kv import MAX_PAGE, EntryPage, KeyPage, KvEntry, KvKeysPage, KvListPage
from gemot.server.state.names import cut_name, end_of_prefix
from gemot.server.state.permission import Operation
from gemot.server.state.scope import Reading

Row = tuple[bytes, int, bytes]
Access = Literal["read", "list"]

_STEP = 100
"""Rows that are looked through at least, where a deleted range hides some."""

_ROWS = "select key, modify_index, row from kv where key >= ? and {} order by key limit ?"
_KEYS = "select key, modify_index, x'' from kv where key >= ? and {} order by key limit ?"
_BURIED = "select count(*) from (select 1 from tombstone where key >= ? and {} limit ?)"
_NEWEST_BURIED = "select max(idx) from tombstone where key >= ? and {}"
_decode = msgspec.msgpack.Decoder(KvEntry).decode


def page_of_entries(reading: Reading, query: KvListPage) -> tuple[EntryPage, int]:
    rows, index = _page(reading, query, _ROWS, "read")
    shown, following = _split(rows, query.limit)
    return EntryPage([_decode(row) for _, _, row in shown], following), index


def page_of_keys(reading: Reading, query: KvKeysPage) -> tuple[KeyPage, int]:
    if query.separator:
        _check(query.limit)
        return _page_of_names(reading, query), max(reading.meta.kv_index, 1)
    rows, index = _page(reading, query, _KEYS, "list")
    shown, following = _split(rows, query.limit)
    return KeyPage([key for key, _, _ in shown], following), index


def _check(limit: int) -> None:
    """It comes from outside: what agents let through is not all that there is."""
    if not 1 <= limit <= MAX_PAGE:
        raise BadRequest(f"a page has 1 to {MAX_PAGE} entries, not {limit}")


def _split(rows: list[Row], limit: int) -> tuple[list[Row], bytes]:
    """Those to be shown, and what the next page is behind."""
    return rows[:limit], rows[limit - 1][0] if len(rows) > limit else b""


def _page(
    reading: Reading, query: KvListPage | KvKeysPage, statement: str, access: Access
) -> tuple[list[Row], int]:
    """The rows of a page and the one behind it, and the page's index."""
    prefix, limit = query.prefix, query.limit
    _check(limit)
    start, end = _behind(prefix, query.after), end_of_prefix(prefix)
    rows = _visible(reading, prefix, start, end, limit + 1, statement, access)
    if len(rows) > limit:
        end = rows[-1][0] + b"\0"
    return rows, _index(reading, prefix, start, end, rows)


def _behind(prefix: bytes, after: bytes) -> bytes:
    """Where a page begins."""
    return max(prefix, after + b"\0") if after else prefix


def _visible(
    reading: Reading,
    prefix: bytes,
    start: bytes,
    end: bytes | None,
    wanted: int,
    statement: str,
    access: Access,
) -> list[Row]:
    """Up to `wanted` rows that no mask hides and that the caller may see, by key."""
    found: list[Row] = []
    allowed = reading.allowed
    while True:
        asked = wanted - len(found)
        if reading.masks.hiding or allowed is not None:
            asked = max(asked, _STEP)
        bound, bindings = _bounded(start, end)
        rows: list[Row] = reading.rows(statement.format(bound), bindings, asked)
        shown = reading.masks.visible(prefix, rows)
        if allowed is not None:
            shown = [row for row in shown if allowed(Operation("key", row[0], access))]
        found += shown
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
    prefix, separator = query.prefix, query.separator
    end, names = end_of_prefix(prefix), list[bytes]()
    start: bytes | None = _behind(prefix, query.after)
    if query.after.startswith(prefix):
        start = _behind_name(query.after, len(prefix), separator)
    while start is not None and (rows := _visible(reading, prefix, start, end, 1, _KEYS, "list")):
        key = rows[0][0]
        if len(names) == query.limit:
            return KeyPage(names, names[-1])
        names.append(cut_name(key, len(prefix), separator))
        start = _behind_name(key, len(prefix), separator)
    return KeyPage(names)


def _behind_name(key: bytes, cut_from: int, separator: bytes) -> bytes | None:
    """Where what has another name than this key begins; None if nothing can.

    A separator within the prefix cuts nothing: under `a/` the key `a/` is a name, and not that of all others.
    """
    at = key.find(separator, cut_from)
    return key + b"\0" if at < 0 else end_of_prefix(key[: at + len(separator)])


READERS: dict[type, Callable[[Reading, Any], tuple[Any, int]]] = {
    KvListPage: page_of_entries,
    KvKeysPage: page_of_keys,
}
