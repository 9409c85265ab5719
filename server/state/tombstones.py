"""What a deleted key leaves: the index of its deletion, for those who watch a prefix that it was under.

A tombstone is kept for a while and then reaped. What makes the answers right afterwards is one remembered
index: no prefix answers with less than the newest that was reaped. Source: Consul, "tombstone_ttl".
"""

from __future__ import annotations

from gemot.server.model.upkeep import ReapTombstones
from gemot.server.state import digest
from gemot.server.state.names import end_of_prefix
from gemot.server.state.scope import Reading, Writing
from gemot.server.state.tables import Cursor

REAP_ROWS = 10_000
"""Tombstones that one ReapTombstones removes at most."""

REAP_WITH_DELETE = 2
"""Overdue tombstones that each delete removes on its way, so that no load piles them up."""

_TOMBSTONE = b"tombstone"
_MASK = b"mask"

_PUT = "insert into tombstone values (?, ?) on conflict (key) do update set idx = excluded.idx"
_COUNT_FROM = "select count(*) from (select 1 from tombstone where key >= ? limit ?)"
_COUNT_RANGE = "select count(*) from (select 1 from tombstone where key >= ? and key < ? limit ?)"
_NEWEST_FROM = "select max(idx) from tombstone where key >= ?"
_NEWEST_RANGE = "select max(idx) from tombstone where key >= ? and key < ?"


def bury(writing: Writing, key: bytes) -> None:
    """Leave a tombstone for a key that this entry deletes."""
    if before := of(writing.cursor, key):
        writing.meta.rows_sum -= digest.of_values(_TOMBSTONE, key, before)
    else:
        writing.buried += 1
    writing.cursor.execute(_PUT, (key, writing.index))
    writing.ends_moved = True
    writing.meta.rows_sum += digest.of_values(_TOMBSTONE, key, writing.index)
    if writing.meta.reaped_index:
        _remove(writing, writing.meta.reaped_index, REAP_WITH_DELETE)


def of(cursor: Cursor, key: bytes) -> int:
    """When the key was deleted last; 0 without a tombstone."""
    found: int | None = cursor.execute("select idx from tombstone where key = ?", (key,)).get
    return found or 0


def newest_under(reading: Reading, prefix: bytes) -> int:
    """The newest deletion under a prefix that is not reaped; 0 if there is none."""
    end = end_of_prefix(prefix)
    if end is None:
        reading.look_through_tombstones(_COUNT_FROM, (prefix,))
        newest: int | None = reading.cursor.execute(_NEWEST_FROM, (prefix,)).get
    else:
        reading.look_through_tombstones(_COUNT_RANGE, (prefix, end))
        newest = reading.cursor.execute(_NEWEST_RANGE, (prefix, end)).get
    return newest or 0


def reap(writing: Writing, command: ReapTombstones) -> bool:
    """ReapTombstones: from now on no prefix answers with less than `through`.

    What makes that hold is the remembered index; the rows behind it are merely room to be won back, so
    one command removes a bounded number of them. Deleted ranges that are purged go as well.
    """
    through = min(command.through, writing.index)
    _remove(writing, through, REAP_ROWS)
    for prefix, index in writing.masks.finished_through(through):
        writing.cursor.execute("delete from mask where prefix = ?", (prefix,))
        writing.meta.rows_sum -= digest.of_values(_MASK, prefix, index, None)
        writing.masks.forget(prefix)
        writing.meta.reaped_index = max(writing.meta.reaped_index, index)
    return True


def _remove(writing: Writing, through: int, limit: int) -> None:
    """Remove the oldest tombstones up to `through`, at most `limit`, and remember the highest due."""
    rows = writing.cursor.execute(
        "select key, idx from tombstone where idx <= ? order by idx limit ?", (through, limit)
    ).fetchall()
    for key, index in rows:
        writing.cursor.execute("delete from tombstone where key = ?", (key,))
        writing.meta.rows_sum -= digest.of_values(_TOMBSTONE, key, index)
    writing.buried -= len(rows)
    if rows:
        writing.ends_moved = True
        # All due tombstones count as reaped at once, the ones beyond the limit too.
        newest: int | None = writing.cursor.execute(
            "select max(idx) from tombstone where idx <= ?", (through,)
        ).get
        writing.meta.reaped_index = max(writing.meta.reaped_index, rows[-1][1], newest or 0)
