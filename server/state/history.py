"""The history of keys: how each was, as far back as is kept.

What it is: where a row of `kv` is replaced or deleted, the row as it stood goes to the end of the table
`old`, under the index at which it ended. Each row says `after`: the index at which its forerunner ended, 0 if
it had none. So from the row of `kv` a chain leads back through the old ones of its key; for a key that is not
there it begins in the table `absent`. The state at an index I is, of each key, the first of its chain with
idx <= I, if it ended after I. Rows that a range delete hides stay in `kv` until they are purged, and their
end is that of the range delete (`masks.py`), so it makes no difference whether they have been.

An overwrite thus costs one row more at the end of a table, and no page that lies elsewhere.

What it is not: a guess. From `meta.history_from` on, every state can be told, but for keys that were written
too often since: of those the oldest revisions are not told, and are swept away when there are many. Where a
chain breaks off before I, what was then is forgotten.

History begins with the first TrimHistory: before, the rows and their hash are those of older releases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
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

SWEEP_ROWS = 2_000
"""What one TrimHistory looks through at most where it sweeps."""

SWEEP_LEAST = 4_096
"""Surplus rows below which no sweep begins."""

ROW_BYTES = 96
"""What an old revision takes beside its key and its row, about."""

PAGE_BYTES = 4 << 20
"""Rows of one answer of revisions, at most, but for the first one."""

_RANGE_END = b"range_end"
_ABSENT = b"absent"
_COLUMNS = "until, key, idx, after, revision, ended_ms, ended_by, sum"
_INSERT = f"insert into old ({_COLUMNS}, row) values (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_OLDEST = f"select {_COLUMNS}, length(row) from old order by until, key limit ?"
_UNSWEPT = f"select {_COLUMNS}, length(row) from old where until > ? order by until, key limit ?"
_DELETE = "delete from old where until = ? and key = ?"
_LINK = "select idx, after, ended_ms, ended_by, length(row) from old where until = ? and key = ?"
_ROW = "select row from old where until = ? and key = ?"
_PRESENT = "select row from kv where key = ?"
_NEWEST = "select until, revision from absent where key = ?"
_decode = msgspec.msgpack.Decoder(KvEntry).decode


# -- what the rules of keys tell ---------------------------------------------------------------------


class Stored(msgspec.Struct, frozen=True, gc=False):
    """A row that leaves `kv`: what it says, its bytes, and what it was in the state hash."""

    entry: KvEntry
    row: bytes
    sum: int


def succeed(writing: Writing, new: KvEntry, before: Stored | None) -> KvEntry:
    """`new` signed, as it is to be stored; the row in whose place it comes, hidden or not, is an old one."""
    if before is None:
        absent_from, revision = _take_absent(writing, new.key)
        revision += 1
    else:
        entry = before.entry
        absent_from, revision = entry.absent_from, entry.revision
        if writing.masks.hides(new.key, entry.modify_index):
            ended = writing.masks.end_of(new.key, entry.modify_index)
            absent_from = ended.at if ended is not None else 0  # None: before history was kept
            if ended is not None:
                _keep(writing, before, *ended)
        else:
            _keep(writing, before, writing.index, writing.at_ms, writing.accessor)
        if entry.modify_index < writing.index:  # what one entry wrote twice is one revision
            revision += 1
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
        absent_from,
        new.ttl_ms,
    )


def end(writing: Writing, stored: Stored) -> None:
    """A row is deleted now."""
    _keep(writing, stored, writing.index, writing.at_ms, writing.accessor)
    entry = stored.entry
    if entry.modify_index < writing.index:
        _put_absent(writing, entry.key, writing.index, entry.revision)
    else:
        _put_absent(writing, entry.key, _after(entry), entry.revision - 1)


def end_hidden(writing: Writing, stored: Stored) -> None:
    """A row that a range delete hid is purged from `kv`."""
    entry = stored.entry
    ended = writing.masks.end_of(entry.key, entry.modify_index)
    if ended is not None:  # else it was before history was kept
        _keep(writing, stored, *ended)
        _put_absent(writing, entry.key, ended.at, entry.revision)


def _keep(writing: Writing, stored: Stored, at: int, at_ms: int, accessor: str) -> None:
    """Not what one entry wrote and wrote again: nobody saw it. Nor what history is too short for."""
    entry, meta = stored.entry, writing.meta
    key, index, revision, row = entry.key, entry.modify_index, entry.revision, stored.row
    if index >= at or at <= meta.history_from:
        return
    after = _after(entry)
    row_sum = stored.sum.to_bytes(16, "little")
    writing.cursor.execute(_INSERT, (at, key, index, after, revision, at_ms, accessor, row_sum, row))
    meta.rows_sum += digest.of_old(stored.sum, (at, index, after, revision, at_ms), accessor)
    meta.history_bytes += len(key) + len(row) + ROW_BYTES
    meta.history_rows += 1
    if revision > meta.history_revisions:  # another one of its key is too old from now on
        meta.history_surplus += 1


def _after(entry: KvEntry) -> int:
    """The index at which the revision before this one ended; 0 if there was none."""
    return entry.absent_from if entry.create_index == entry.modify_index else entry.modify_index


def _put_absent(writing: Writing, key: bytes, until: int, revision: int) -> None:
    """The key is not there any more; its newest old revision ended at `until`, if that is kept."""
    if until > writing.meta.history_from:
        _take_absent(writing, key)  # one from before history was turned off
        writing.cursor.execute("insert into absent values (?, ?, ?)", (key, until, revision))
        writing.meta.rows_sum += digest.of_values(_ABSENT, key, until, revision)


def _take_absent(writing: Writing, key: bytes, of: int = 0) -> tuple[int, int]:
    """Until and revision of the newest old one of a key that was not there, and now is noted no more.

    With `of` only if that is its until. (0, 0) if nothing is noted.
    """
    until, revision = writing.cursor.execute(_NEWEST, (key,)).get or (0, 0)
    if not until or of not in (0, until):
        return 0, 0
    writing.cursor.execute("delete from absent where key = ?", (key,))
    writing.meta.rows_sum -= digest.of_values(_ABSENT, key, until, revision)
    return until, revision


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
    """TrimHistory: a step of a sweep where one is due, else the oldest go, if they may not stay."""
    meta = writing.meta
    if command.revisions and not meta.history_revisions:
        _begin(writing)
    if command.revisions != meta.history_revisions:
        meta.history_surplus = meta.history_rows
    meta.history_revisions = max(0, command.revisions)
    if is_overgrown(meta, command.max_bytes):
        _sweep(writing)
    else:
        _forget(writing, command)
    return True


def is_overgrown(meta: Meta, max_bytes: int) -> bool:
    """Is a sweep due, or under way? It takes only what is surplus, so it comes before the oldest are
    forgotten, but not where there is far too much already."""
    if not meta.history_revisions or meta.history_bytes > max_bytes + max_bytes // 4:
        return False
    quarters = 1 if meta.history_bytes > max_bytes else 3
    return meta.history_swept > 0 or meta.history_surplus > max(
        SWEEP_LEAST, meta.history_rows * quarters // 4
    )


def _sweep(writing: Writing) -> None:
    """Look on through `old`: what is older than the newest so many of its key goes.

    Of more rows that ended at one index than are looked through at once, the last are left to the next sweep.
    """
    meta = writing.meta
    if not meta.history_swept:
        meta.history_surplus = 0
    rows = writing.cursor.execute(_UNSWEPT, (meta.history_swept, SWEEP_ROWS)).fetchall()
    newest: dict[bytes, int] = {}
    surplus = []
    for row in rows:
        key, revision = row[1], row[4]
        if (found := newest.get(key)) is None:
            found = newest[key] = _newest_revision(writing, key)
        if found - revision >= meta.history_revisions:
            surplus.append(row)
    _remove(writing, surplus)
    meta.history_swept = rows[-1][0] if len(rows) == SWEEP_ROWS else 0


def _newest_revision(writing: Writing, key: bytes) -> int:
    """The number of the newest old revision of a key."""
    stored: bytes | None = writing.cursor.execute(_PRESENT, (key,)).get
    if stored is not None:
        return _decode(stored).revision - 1
    found: tuple[int, int] | None = writing.cursor.execute(_NEWEST, (key,)).get
    return found[1] if found is not None else 0


def _forget(writing: Writing, command: TrimHistory) -> None:
    """The oldest go, as far as they must. That moves `history_from` on: no state before it can be told."""
    meta = writing.meta
    outlived, freed, excess = [], 0, meta.history_bytes - command.max_bytes
    for row in writing.cursor.execute(_OLDEST, (TRIM_ROWS,)).fetchall():
        until, key, _index, _after, _revision, ended_ms, *_, size = row
        over = not meta.history_revisions or until <= meta.history_from or ended_ms < command.before_ms
        if freed > TRIM_BYTES or not (over or excess > 0):
            break
        freed += size
        excess -= _bytes_of(row)
        outlived.append(row)
        _take_absent(writing, key, until)
        meta.history_from = max(meta.history_from, until)
    _remove(writing, outlived)


def _begin(writing: Writing) -> None:
    note_history(writing)
    writing.meta.history_from = writing.index
    for prefix, index in writing.masks.all_hiding():
        if index not in [ended.at for ended in writing.masks.ends_of(prefix)]:
            note_range(writing, prefix, RangeEnd(index, 0, ""))


def _remove(writing: Writing, rows: list[tuple[Any, ...]]) -> None:
    """These rows of `old`, as they were read here, go: out of the state hash too, and of what is counted."""
    meta = writing.meta
    writing.cursor.executemany(_DELETE, [row[:2] for row in rows])
    for row in rows:
        until, _key, index, after, revision, ended_ms, ended_by, row_sum, _size = row
        numbers = (until, index, after, revision, ended_ms)
        meta.rows_sum -= digest.of_old(digest.unpack(row_sum), numbers, ended_by)
        meta.history_bytes -= _bytes_of(row)
    meta.history_rows -= len(rows)


def _bytes_of(row: tuple[Any, ...]) -> int:
    size: int = len(row[1]) + row[-1] + ROW_BYTES
    return size


def oldest(cursor: Cursor) -> tuple[int, int] | None:
    """Index and wall time at which the oldest revision ended; None if there is none."""
    found: tuple[int, int] | None = cursor.execute(
        "select until, ended_ms from old order by until, key limit 1"
    ).get
    return found


# -- queries -----------------------------------------------------------------------------------------


class _Link(NamedTuple):
    """An old revision, without its row."""

    until: int
    began: int
    after: int
    ended_ms: int
    ended_by: str
    size: int


def _chain(reading: Reading, key: bytes, after: int) -> Iterator[_Link]:
    """The old revisions of a key, newest first, from the one that ended at `after`: as many as are told."""
    left = reading.meta.history_revisions
    while left and after > reading.meta.history_from:
        found = reading.cursor.execute(_LINK, (after, key)).get
        if found is None:
            return
        reading.count(1)
        link = _Link(after, *found)
        yield link
        after = link.after
        left -= 1


def revisions(reading: Reading, query: KvRevisions) -> tuple[Revisions, int]:
    """KvRevisions. A key of which nothing is known has none."""
    meta, key = reading.meta, query.key
    _require_kept(meta)
    limit = min(max(1, query.limit), MOST_REVISIONS)
    before = query.before or 1 << 62
    found, newer, after = _standing(reading, key, before)
    room = PAGE_BYTES
    for link in _chain(reading, key, after):
        if link.began >= before:
            newer = link.began
            continue
        room -= link.size
        if len(found) > limit or (room < 0 and len(found) > 1):
            break
        row = reading.cursor.execute(_ROW, (link.until, key)).get
        found.append((_decode(row), RangeEnd(link.until, link.ended_ms, link.ended_by)))
    # The last one is there to tell what the one behind it did, where more are to come.
    more = len(found) > limit or (room < 0 and len(found) > 1)
    told = _told(found, min(limit, len(found) - more), newer)
    return Revisions(told, meta.history_from, more), max(meta.index, 1)


_Ended = tuple[KvEntry, RangeEnd]


def _standing(reading: Reading, key: bytes, before: int) -> tuple[list[_Ended], int, int]:
    """The row in `kv`, also one that is hidden and not purged yet, if it is older than `before`; its index if
    it is not; and where the chain of the old ones begins."""
    stored: bytes | None = reading.cursor.execute(_PRESENT, (key,)).get
    if stored is None:
        until, _ = reading.cursor.execute(_NEWEST, (key,)).get or (0, 0)
        return [], 0, until
    entry = _decode(stored)
    if entry.modify_index >= before:
        return [], entry.modify_index, _after(entry)
    if not reading.masks.hides(key, entry.modify_index):
        return [(entry, RangeEnd(0, 0, ""))], 0, _after(entry)
    ended = reading.masks.end_of(key, entry.modify_index)
    if ended is None or ended.at <= reading.meta.history_from:
        return [], 0, 0
    return [(entry, ended)], 0, _after(entry)


def _told(found: list[_Ended], count: int, newer: int) -> list[Revision]:
    """The first `count` of these, newest first: what each did to the one before it, and how it ended.

    `newer` is the index of the one that follows the first.
    """
    told: list[Revision] = []
    for at, (row, ended) in enumerate(found[:count]):
        earlier = found[at + 1][0] if at + 1 < len(found) else None
        deleted = ended.at not in (0, newer)
        told.append(Revision(row, _op(row, earlier), ended.at, deleted, ended.at_ms, ended.accessor))
        newer = row.modify_index
    return told


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
        past.look("key >= ?", (query.prefix,))
    else:
        past.look("key >= ? and key < ?", (query.prefix, after))
    reading.close()
    rows, gone = past.rows(), past.gone()
    if not query.alone and (allowed := reading.allowed) is not None:
        rows = [row for row in rows if allowed(Operation("key", row.key, "read"))]
        gone = [key for key in gone if allowed(Operation("key", key, "read"))]
    return AsOf(rows, gone, meta.history_from), max(meta.index, 1)


class _Past:
    """Keys as they were at an index; and those of which that is forgotten."""

    def __init__(self, reading: Reading, index: int) -> None:
        self._reading = reading
        self._index = index
        self._rows: dict[bytes, bytes] = {}
        self._gone: list[bytes] = []

    def look(self, which: str, bindings: tuple[bytes, ...]) -> None:
        # Keys that changed since: when what came before the newest change ended.
        absent = f"select until, key from absent where {which} and until > ? order by key limit ?"
        since = {key: until for until, key in self._reading.rows(absent, (*bindings, self._index))}
        present = f"select key, modify_index, row from kv where {which} order by key limit ?"
        for key, modified, row in self._reading.rows(present, bindings):
            since.pop(key, None)
            if modified > self._index:
                since[key] = _after(_decode(row))
            elif self._stood(key, modified):
                self._rows[key] = row
        for key, after in since.items():
            self._look_back(key, after)

    def _look_back(self, key: bytes, after: int) -> None:
        """Down the chain to the one that had not ended by then."""
        if after <= self._index:
            return
        for link in _chain(self._reading, key, after):
            if link.began <= self._index:
                self._rows[key] = self._reading.cursor.execute(_ROW, (link.until, key)).get
                return
            after = link.after
            if after <= self._index:
                return
        self._gone.append(key)

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
        return sorted(self._gone)


def _require_kept(meta: Meta) -> None:
    if not meta.history_revisions:
        raise NotFound(
            "no history of keys is kept: kv_history.revisions is 0 on the leader, or not every server has "
            "said yet that its release knows of it"
        )


READERS: dict[type, Callable[[Reading, Any], tuple[Any, int]]] = {KvRevisions: revisions, KvAsOf: as_of}
