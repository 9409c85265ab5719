"""The history of keys: how each was, as far back as is kept.

What it is: where a row of `kv` is replaced or deleted, the row as it stood goes to the table `old`, with
the index at which it ended. So the state at an index I is, of each key, the row of `kv` if it is not newer
than I, else the old row with idx <= I < until. Rows that a range delete hides stay in `kv` until they are
purged, and their end is that of the range delete (`masks.py`), so it makes no difference whether they have
been.

What it is not: a guess. From `meta.history_from` on, every state can be told, but for keys that were written
too often since: of those the oldest revisions go first. That one is missing is seen by `after` of the row
behind it: the index at which its forerunner ended, 0 if it had none.

History begins with the first TrimHistory: before, the rows and their hash are those of older releases.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from gemot.server.model.errors import BadRequest, Forgotten, NotFound
from gemot.server.model.history import MOST_REVISIONS, AsOf, KvAsOf, KvRevisions, Op, Revision, Revisions
from gemot.server.model.kv import KvEntry
from gemot.server.model.upkeep import TrimHistory
from gemot.server.state import digest
from gemot.server.state.latest import note_history
from gemot.server.state.masks import RangeEnd
from gemot.server.state.meta import Meta
from gemot.server.state.names import end_of_prefix
from gemot.server.state.permission import Operation
from gemot.server.state.scope import Reading, Writing
from gemot.server.state.tables import Cursor

TRIM_ROWS = 500
TRIM_BYTES = 8 << 20
"""What one TrimHistory forgets at most."""

PRUNE_EVERY = 16
"""Revisions of a key between two looks at how many there are: so many more than the bound may be kept."""

ROW_BYTES = 96
"""What an old revision takes beside its key and its row, about."""

PAGE_BYTES = 4 << 20
"""Rows of one answer of revisions, at most, but for the first one."""

_RANGE_END = b"range_end"
_COLUMNS = "key, idx, until, after, revision, ended_ms, ended_by"
_INSERT = f"insert into old ({_COLUMNS}, sum, row) values (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_SMALL = f"select {_COLUMNS}, sum, length(row) from old"
_SURPLUS = f"{_SMALL} where key = ? order by idx desc limit -1 offset ?"
_OLDEST = f"{_SMALL} order by until, key, idx limit ?"
_NEWEST = "select until, revision from old where key = ? order by idx desc limit 1"
_decode = msgspec.msgpack.Decoder(KvEntry).decode


# -- what the rules of keys tell ---------------------------------------------------------------------


class Stored(NamedTuple):
    """A row that leaves `kv`: what it says, its bytes, and what it was in the state hash."""

    entry: KvEntry
    row: bytes
    sum: int


def succeed(writing: Writing, new: KvEntry, before: Stored | None) -> KvEntry:
    """`new` signed, as it is to be stored; the row in whose place it comes, hidden or not, is an old one."""
    if before is None:
        ended, revision = writing.cursor.execute(_NEWEST, (new.key,)).get or (0, 0)
    elif writing.masks.hides(new.key, before.entry.modify_index):
        revision, ended = before.entry.revision, end_hidden(writing, before)
    else:
        revision, ended = before.entry.revision, before.entry.absent_from
        end(writing, before)
    revision += 1
    if revision % PRUNE_EVERY == 0:
        _prune(writing, new.key)
    return KvEntry(
        new.key,
        new.value,
        new.flags,
        new.lock_index,
        new.session,
        new.create_index,
        new.modify_index,
        new.fence,
        writing.accessor,
        writing.at_ms,
        revision,
        ended,
        new.ttl_ms,
    )


def end(writing: Writing, stored: Stored) -> None:
    """A row is replaced or deleted now."""
    _keep(writing, stored, RangeEnd(writing.index, writing.at_ms, writing.accessor))


def end_hidden(writing: Writing, stored: Stored) -> int:
    """A row that a range delete hid goes from `kv`; the index at which it ended."""
    ended = writing.masks.end_of(stored.entry.key, stored.entry.modify_index)
    if ended is None:  # before history was kept
        return 0
    _keep(writing, stored, ended)
    return ended.at


def _keep(writing: Writing, stored: Stored, ended: RangeEnd) -> None:
    """Not what one entry wrote and wrote again: nobody saw it. Nor what history is too short for."""
    entry = stored.entry
    if entry.modify_index >= ended.at or ended.at <= writing.meta.history_from:
        return
    columns = (
        entry.key,
        entry.modify_index,
        ended.at,
        _after(entry),
        entry.revision,
        ended.at_ms,
        ended.accessor,
    )
    row_sum = digest.pack(stored.sum)
    writing.cursor.execute(_INSERT, (*columns, row_sum, stored.row))
    writing.meta.rows_sum += digest.of_old(columns, row_sum)
    writing.meta.history_bytes += len(entry.key) + len(stored.row) + ROW_BYTES


def _after(entry: KvEntry) -> int:
    """The index at which the revision before this one ended; 0 if there was none."""
    return entry.absent_from if entry.create_index == entry.modify_index else entry.modify_index


def note_range(writing: Writing, prefix: bytes, ended: RangeEnd) -> None:
    """A range delete: the rows that it hides tell their end by it until they are purged."""
    writing.cursor.execute("insert into range_end values (?, ?, ?, ?)", (prefix, *ended))
    writing.meta.rows_sum += digest.of_values(_RANGE_END, prefix, *ended)
    writing.masks.put_end(prefix, ended)


def forget_ranges(writing: Writing, prefix: bytes) -> None:
    """Nothing is hidden by them any more; called before the mask is finished."""
    ends = writing.masks.ends_of(prefix)
    for ended in ends:
        writing.meta.rows_sum -= digest.of_values(_RANGE_END, prefix, *ended)
    if ends:
        writing.cursor.execute("delete from range_end where prefix = ?", (prefix,))


# -- bounds ------------------------------------------------------------------------------------------


def trim(writing: Writing, command: TrimHistory) -> bool:
    """TrimHistory. What goes moves `history_from` on: no state before it can be told."""
    meta = writing.meta
    if command.revisions and not meta.history_revisions:
        _begin(writing)
    meta.history_revisions = max(0, command.revisions)
    freed = 0
    for row in writing.cursor.execute(_OLDEST, (TRIM_ROWS,)).fetchall():
        key, index, until, _after, _revision, ended_ms, *_, size = row
        outlived = not meta.history_revisions or until <= meta.history_from or ended_ms < command.before_ms
        if freed > TRIM_BYTES or not (outlived or meta.history_bytes > command.max_bytes):
            break
        freed += size
        writing.cursor.execute("delete from old where key = ? and idx = ?", (key, index))
        _subtract(writing, [row])
        meta.history_from = max(meta.history_from, until)
    return True


def _begin(writing: Writing) -> None:
    note_history(writing)
    writing.meta.history_from = writing.index
    for prefix, index in writing.masks.all_hiding():
        if index not in [ended.at for ended in writing.masks.ends_of(prefix)]:
            note_range(writing, prefix, RangeEnd(index, 0, ""))


def _prune(writing: Writing, key: bytes) -> None:
    """Forget all but the newest old revisions of one key, in one stroke."""
    bound = writing.meta.history_revisions
    surplus = writing.cursor.execute(_SURPLUS, (key, bound)).fetchall()
    if surplus:
        writing.cursor.execute("delete from old where key = ? and idx <= ?", (key, surplus[0][1]))
        _subtract(writing, surplus)


def _subtract(writing: Writing, rows: list[tuple[Any, ...]]) -> None:
    """Those rows (as `_SMALL` reads them) are gone: out of the state hash, and of what is counted."""
    meta = writing.meta
    for *columns, row_sum, size in rows:
        meta.rows_sum -= digest.of_old(tuple(columns), row_sum)
        meta.history_bytes -= len(columns[0]) + size + ROW_BYTES


def oldest(cursor: Cursor) -> tuple[int, int] | None:
    """Index and wall time at which the oldest revision ended; None if there is none."""
    found: tuple[int, int] | None = cursor.execute(
        "select until, ended_ms from old order by until, key, idx limit 1"
    ).get
    return found


# -- queries -----------------------------------------------------------------------------------------


def revisions(reading: Reading, query: KvRevisions) -> tuple[Revisions, int]:
    """KvRevisions. A key of which nothing is known has none."""
    meta = reading.meta
    _require_kept(meta)
    limit = min(max(1, query.limit), MOST_REVISIONS)
    before = min(query.before or 1 << 62, 1 << 62)
    found = _standing(reading, query.key, before)
    statement = """select idx, until, ended_ms, ended_by, length(row) from old
        where key = ? and idx < ? and until > ? order by idx desc limit ?"""
    listed = reading.cursor.execute(statement, (query.key, before, meta.history_from, limit + 1)).fetchall()
    room = PAGE_BYTES
    for index, until, ended_ms, ended_by, size in listed:
        room -= size
        if len(found) > limit or (room < 0 and len(found) > 1):
            break
        row = reading.cursor.execute("select row from old where key = ? and idx = ?", (query.key, index)).get
        found.append((_decode(row), RangeEnd(until, ended_ms, ended_by)))
    # The last one is there to tell what the one behind it did, where more are to come.
    more = len(found) > limit or (room < 0 and len(found) > 1)
    told = _told(reading, found, min(limit, len(found) - more))
    return Revisions(told, meta.history_from, more), max(meta.index, 1)


_Ended = tuple[KvEntry, RangeEnd]


def _standing(reading: Reading, key: bytes, before: int) -> list[_Ended]:
    """The row in `kv`, if it is older than that; also one that is hidden and not purged yet."""
    stored: bytes | None = reading.cursor.execute("select row from kv where key = ?", (key,)).get
    if stored is None or (entry := _decode(stored)).modify_index >= before:
        return []
    if not reading.masks.hides(key, entry.modify_index):
        return [(entry, RangeEnd(0, 0, ""))]
    ended = reading.masks.end_of(key, entry.modify_index)
    return [(entry, ended)] if ended is not None and ended.at > reading.meta.history_from else []


def _told(reading: Reading, found: list[_Ended], count: int) -> list[Revision]:
    """The first `count` of these, newest first: what each did to the one before it, and how it ended."""
    told: list[Revision] = []
    for at, (row, ended) in enumerate(found[:count]):
        earlier = found[at + 1][0] if at + 1 < len(found) else None
        replaced = found[at - 1][0].modify_index == ended.at if at else _begins(reading, row, ended.at)
        deleted = ended.at > 0 and not replaced
        told.append(Revision(row, _op(row, earlier), ended.at, deleted, ended.at_ms, ended.accessor))
    return told


def _begins(reading: Reading, row: KvEntry, index: int) -> bool:
    """Does a newer revision of this key begin at that index?"""
    cursor = reading.cursor
    if cursor.execute("select 1 from old where key = ? and idx = ?", (row.key, index)).get is not None:
        return True
    present: int | None = cursor.execute("select modify_index from kv where key = ?", (row.key,)).get
    return present == index


def _op(row: KvEntry, earlier: KvEntry | None) -> Op:
    session = earlier.session if earlier is not None else row.session
    if row.session and (row.create_index == row.modify_index or row.session != session):
        return "lock"
    if row.create_index == row.modify_index:
        return "create"
    return "unlock" if session and not row.session else "set"


def as_of(reading: Reading, query: KvAsOf) -> tuple[AsOf, int]:
    """KvAsOf. Raises Forgotten, or BadRequest for an index that is still to come."""
    meta, index = reading.meta, query.index
    _require_kept(meta)
    if index > meta.index:
        raise BadRequest(f"the index {index} is still to come: the newest is {meta.index}")
    if index < meta.history_from:
        raise Forgotten(
            f"how keys were at the index {index} is forgotten: history is kept from {meta.history_from} on"
        )
    past = _Past(reading, index)
    if query.alone:
        past.look("key = ?", (query.prefix,))
    elif (after := end_of_prefix(query.prefix)) is None:
        reading.scans("old")
        past.look("key >= ?", (query.prefix,))
    else:
        reading.scans("old")
        past.look("key >= ? and key < ?", (query.prefix, after))
    reading.close()
    rows, gone = past.rows(), past.gone()
    if not query.alone and (allowed := reading.allowed) is not None:
        rows = [row for row in rows if allowed(Operation("key", row.key, "read"))]
        gone = [key for key in gone if allowed(Operation("key", key, "read"))]
    return AsOf(rows, gone, meta.history_from), max(meta.index, 1)


class _Past:
    """Keys as they were at an index. `_after` has those with a newer row, and what that one comes after."""

    def __init__(self, reading: Reading, index: int) -> None:
        self._reading = reading
        self._index = index
        self._rows: dict[bytes, bytes] = {}
        self._after: dict[bytes, int] = {}

    def look(self, which: str, bindings: tuple[bytes, ...]) -> None:
        old = f"""select key, idx, until, after, case when idx <= ? then row else x'' end from old
            where until > ? and {which} order by key, idx limit ?"""
        for key, index, _until, after, row in self._reading.rows(old, (self._index, self._index, *bindings)):
            if index <= self._index:
                self._rows[key] = row
            else:
                self._after.setdefault(key, after)
        present = f"select key, modify_index, row from kv where {which} order by key limit ?"
        for key, modified, row in self._reading.rows(present, bindings):
            if modified > self._index:
                if key not in self._after:
                    self._after[key] = _after(_decode(row))
            elif self._stood(key, modified):
                self._rows[key] = row

    def _stood(self, key: bytes, modified: int) -> bool:
        """Was it not deleted by then, with its range?"""
        ended = self._reading.masks.end_of(key, modified)
        if ended is not None:
            return ended.at > self._index
        hidden: bool = self._reading.masks.hides(key, modified)
        return not hidden

    def rows(self) -> list[KvEntry]:
        return [_decode(self._rows[key]) for key in sorted(self._rows)]

    def gone(self) -> list[bytes]:
        """Keys whose first row that is left comes after one that ended later than this index."""
        left = [key for key, after in self._after.items() if after > self._index and key not in self._rows]
        return sorted(left)


def _require_kept(meta: Meta) -> None:
    if not meta.history_revisions:
        raise NotFound(
            "no history of keys is kept: kv_history.revisions is 0 on the leader, or not every server has "
            "said yet that its release knows of it"
        )


READERS: dict[type, Callable[[Reading, Any], tuple[Any, int]]] = {KvRevisions: revisions, KvAsOf: as_of}
