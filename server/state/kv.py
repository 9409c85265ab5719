"""The rules of keys and values, as Consul has them.

Flags, lock index and session of a plain or cas write: flags from the request, lock index 0, and the
session stays. A write that leaves a key exactly as it is moves no index and wakes no one; if the key has a
TTL, that begins anew all the same. A cas that fails is an answer (False), never an error.

Any write of a value, of whatever kind, sets the key's TTL or, without one, clears it. The end of a session
that held it is none. What expires is deleted as by a delete.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from gemot.server.model.errors import RuleFailed
from gemot.server.model.kv import (
    ExpireKeys,
    KvDelete,
    KvDeletePrefix,
    KvEntry,
    KvGet,
    KvKeys,
    KvList,
    KvPurge,
    KvSet,
)
from gemot.server.model.restore import MOST_EPOCH
from gemot.server.model.session import Session
from gemot.server.state import digest, expiry, history, locks, pages, paging, tombstones
from gemot.server.state.latest import note_expiry
from gemot.server.state.masks import Masks, RangeEnd
from gemot.server.state.names import cut_name, end_of_prefix
from gemot.server.state.permission import Operation
from gemot.server.state.scope import STEP_BYTES, Reading, Writing
from gemot.server.state.tables import Cursor

PURGE_ROWS = 500
"""Rows that one KvPurge looks at, where they are short."""

_TABLE = b"kv"
_MASK = b"mask"
_encoded = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(KvEntry).decode

_GET = "select row from kv where key = ?"
_PUT = """insert into kv values (?, ?, ?)
    on conflict (key) do update set modify_index = excluded.modify_index, row = excluded.row"""
_DELETE = "delete from kv where key = ?"
_FROM = "select key, modify_index, row from kv where key >= ? order by key limit ?"
_RANGE = "select key, modify_index, row from kv where key >= ? and key < ? order by key limit ?"
_KEYS_FROM = "select key, modify_index, key from kv where key >= ? order by key limit ?"
_KEYS_RANGE = "select key, modify_index, key from kv where key >= ? and key < ? order by key limit ?"
_SIZES_FROM = "select length(row) from kv where key >= ? order by key limit ?"
_SIZES_RANGE = "select length(row) from kv where key >= ? and key < ? order by key limit ?"
_ANY_NEWER = "select 1 from kv where key >= ? and {} and modify_index >= ? limit 1"
_HOW_MANY = "select count(*) from kv where key >= ? and {}"


# -- commands --------------------------------------------------------------------------------------


def set_key(writing: Writing, command: KvSet) -> bool | int:
    """KvSet: plain, cas, acquire or release.

    Raises RuleFailed for a session that cannot hold a lock, and for a TTL that no key can have.
    """
    expiry.check(command.ttl_ms)
    stored: bytes | None = writing.cursor.execute(_GET, (command.key,)).get
    row = _decode(stored) if stored is not None else None
    old = row
    if old is not None and writing.masks.hides(old.key, old.modify_index):
        old = None
    cas = command.cas
    if cas is not None and cas != (old.modify_index if old is not None else 0):
        return False
    if (lock := _lock(writing, command, old)) is None:
        return False
    result = lock.fence if command.acquire is not None else True
    if old is not None and (
        old.value == command.value
        and old.flags == command.flags
        and old.session == lock.session
        and old.lock_index == lock.index
        and old.ttl_ms == command.ttl_ms
    ):
        if command.ttl_ms:
            expiry.begin(writing, command.key, command.ttl_ms)
        return result
    index = writing.index
    new = KvEntry(
        command.key,
        command.value,
        command.flags,
        lock.index,
        lock.session,
        old.create_index if old is not None else index,
        index,
        lock.fence,
        ttl_ms=command.ttl_ms,
    )
    _put(writing, new, row, stored)
    if command.ttl_ms:
        note_expiry(writing)
        expiry.begin(writing, command.key, command.ttl_ms)
    elif row is not None and row.ttl_ms:
        expiry.forget(writing, command.key)
    return result


class _Lock(msgspec.Struct, frozen=True, gc=False):
    """Who holds a key, as it is to be stored."""

    session: str
    index: int
    fence: int


def _lock(writing: Writing, command: KvSet, old: KvEntry | None) -> _Lock | None:
    """The lock that the key will have; None if the lock's rules say False."""
    held_by, index, fence = (old.session, old.lock_index, old.fence) if old is not None else ("", 0, 0)
    if command.acquire is not None:
        return _acquired(writing, command.key, command.acquire, _Lock(held_by, index, fence))
    if command.release is not None:
        if not command.release:
            raise RuleFailed("missing session")
        return _Lock("", index, fence) if held_by == command.release else None
    return _Lock(held_by, 0, fence)


def _acquired(writing: Writing, key: bytes, session: str, lock: _Lock) -> _Lock | None:
    if not session:
        raise RuleFailed("missing session")
    if not (node := locks.node_of(writing.cursor, session)):
        raise RuleFailed(f'invalid session "{session}"')
    if lock.session:
        return lock if lock.session == session else None
    if locks.is_delayed(writing, key):
        return None
    if locks.held_at_most(writing.cursor, node):
        raise RuleFailed(
            f"the sessions of node {node} hold {locks.MAX_HELD} locks, as many as they may: release some"
        )
    if writing.meta.epoch > MOST_EPOCH:
        raise RuleFailed(f"no fence is left: the cluster is in epoch {writing.meta.epoch}")
    return _Lock(session, lock.index + 1, locks.fence(writing.meta.epoch, writing.index))


def _put(writing: Writing, new: KvEntry, before: KvEntry | None, stored: bytes | None) -> None:
    """A row in the place of the one before (`stored` as it is encoded), and what is noted of its holder."""
    left: history.Stored | None = None
    if before is not None and stored is not None:
        left = history.Stored(before, stored, writing.take(_TABLE, stored))
    if writing.meta.history_revisions:
        new = history.succeed(writing, new, left)
    row = _encode(new)
    writing.add(_TABLE, row)
    writing.cursor.execute(_PUT, (new.key, new.modify_index, row))
    held_by = before.session if before is not None else ""
    if held_by != new.session:
        if held_by:
            locks.unhold(writing, held_by, new.key)
        if new.session:
            locks.hold(writing, new.session, new.key)
    writing.record("kv", new.key, "set", row)
    writing.touched.append(("kv", new.key))
    writing.meta.kv_index = writing.index


def _encode(entry: KvEntry) -> bytes:
    """What it does not have as releases before that encode it: the state hash is of these bytes."""
    later: tuple[int | str, ...] = ()
    if entry.revision or entry.ttl_ms:
        later = (entry.fence, entry.accessor, entry.at_ms, entry.revision, entry.absent_from)
        later = (*later, entry.ttl_ms) if entry.ttl_ms else later
    elif entry.fence:
        later = (entry.fence,)
    return _encoded(
        (
            entry.key,
            entry.value,
            entry.flags,
            entry.lock_index,
            entry.session,
            entry.create_index,
            entry.modify_index,
            *later,
        )
    )


def end_locks(writing: Writing, session: Session) -> None:
    """A session ends: what it holds is released or deleted, and is not to be had for its lock delay."""
    for key in locks.keys_of(writing.cursor, session.id):
        stored: bytes | None = writing.cursor.execute(_GET, (key,)).get
        old = _decode(stored) if stored is not None else None
        if old is None or stored is None or writing.masks.hides(key, old.modify_index):
            continue  # what is noted of it goes with its row
        if session.behavior == "delete":
            _remove(writing, old, stored)
        else:
            new = msgspec.structs.replace(old, session="", modify_index=writing.index)
            _put(writing, new, old, stored)
        if delay_ms := -(-session.lock_delay_ns // 1_000_000):
            locks.delay(writing, key, delay_ms)


def delete_key(writing: Writing, command: KvDelete) -> bool:
    """KvDelete. A missing key is deleted already, whatever `cas` says."""
    stored: bytes | None = writing.cursor.execute(_GET, (command.key,)).get
    old = _decode(stored) if stored is not None else None
    if stored is None or old is None or writing.masks.hides(old.key, old.modify_index):
        return True
    if command.cas is not None and command.cas != old.modify_index:
        return False
    _remove(writing, old, stored)
    return True


def _remove(writing: Writing, old: KvEntry, stored: bytes) -> None:
    writing.cursor.execute(_DELETE, (old.key,))
    left = history.Stored(old, stored, writing.take(_TABLE, stored))
    if writing.meta.history_revisions:
        history.end(writing, left)
    if old.session:
        locks.unhold(writing, old.session, old.key)
    if old.ttl_ms:
        expiry.forget(writing, old.key)
    tombstones.bury(writing, old.key)
    writing.record("kv", old.key, "delete", None)
    writing.touched.append(("kv", old.key))
    writing.meta.kv_index = writing.index


def expire_keys(writing: Writing, command: ExpireKeys) -> int:
    """ExpireKeys: how many were deleted. One that was written since has another modify index or deadline."""
    deleted = 0
    for key, modify_index in command.keys:
        deadline = expiry.deadline(writing.cursor, key)
        stored: bytes | None = writing.cursor.execute(_GET, (key,)).get
        old = _decode(stored) if stored is not None else None
        if stored is None or old is None or not old.ttl_ms or writing.masks.hides(key, old.modify_index):
            expiry.forget(writing, key)
        elif deadline is None or old.modify_index != modify_index:
            continue
        elif deadline[0] != writing.meta.epoch:
            expiry.begin(writing, key, old.ttl_ms)
        elif deadline[1] <= writing.time_ms:
            _remove(writing, old, stored)
            deleted += 1
    return deleted


def delete_prefix(writing: Writing, command: KvDeletePrefix) -> bool:
    """KvDeletePrefix: one mask. Where nothing is to be seen under the prefix, nothing happens.

    A mask hides what is older than its entry. What a transaction wrote before, in the same one, is not.
    """
    prefix = command.prefix
    for key in writing.changed("kv", prefix):
        delete_key(writing, KvDelete(key))
    if not _is_any_visible(writing, prefix):
        return True
    index = writing.index
    before = writing.cursor.execute("select prefix, idx, resume from mask where prefix = ?", (prefix,)).get
    if before is not None:
        writing.meta.rows_sum -= digest.of_values(_MASK, *before)
    writing.cursor.execute("insert or replace into mask values (?, ?, ?)", (prefix, index, prefix))
    writing.meta.rows_sum += digest.of_values(_MASK, prefix, index, prefix)
    writing.masks.put(prefix, index)
    if writing.meta.history_revisions:
        history.note_range(writing, prefix, RangeEnd(index, writing.at_ms, writing.accessor))
    writing.record("kv", prefix, "delete-prefix", None)
    writing.touched.append(("kv-prefix", prefix))
    writing.meta.kv_index = index
    return True


def _is_any_visible(writing: Writing, prefix: bytes) -> bool:
    """Of a range that was deleted and is not purged yet SQLite says sooner that all of it is hidden."""
    if above := writing.masks.hides_all_below(prefix):
        end = end_of_prefix(prefix)
        bound, bindings = ("true", (prefix,)) if end is None else ("key < ?", (prefix, end))
        if writing.cursor.execute(_ANY_NEWER.format(bound), (*bindings, above)).get is None:
            writing.scanned += writing.cursor.execute(_HOW_MANY.format(bound), bindings).get
            return False
    return next(_visible_keys(writing, prefix), None) is not None


def _visible_keys(writing: Writing, prefix: bytes) -> Iterator[bytes]:
    """By key, looked for in pages, since masked rows may stand before the first visible one."""
    start, page = prefix, 64
    while True:
        rows = _rows(writing, start, end_of_prefix(prefix), _KEYS_FROM, _KEYS_RANGE, page)
        writing.scanned += len(rows)
        for row in writing.masks.visible(prefix, rows):
            yield row[0]
        if len(rows) < page:
            return
        start, page = rows[-1][0] + b"\0", 1024


def entry_in(view: Reading | Writing, key: bytes) -> KvEntry | None:
    """One key as it is here, or in the middle of an entry; None if it is hidden or not there."""
    stored: bytes | None = view.cursor.execute(_GET, (key,)).get
    if stored is None:
        return None
    entry = _decode(stored)
    return None if view.masks.hides(key, entry.modify_index) else entry


def entries_in(writing: Writing, prefix: bytes, limit_bytes: int) -> list[KvEntry] | None:
    """Every key under a prefix, in the middle of an entry; None if they take more than so many bytes."""
    found: list[KvEntry] = []
    for key in _visible_keys(writing, prefix):
        row: bytes = writing.cursor.execute(_GET, (key,)).get
        limit_bytes -= len(row)
        if limit_bytes < 0:
            return None
        found.append(_decode(row))
    return found


def purge_due(cursor: Cursor, masks: Masks) -> int:
    """How many rows the next KvPurge is to look at, fewer where they are long; 0 if nothing is hidden."""
    looked_at = size = 0
    for prefix, _ in masks.by_age():
        start: bytes = cursor.execute("select resume from mask where prefix = ?", (prefix,)).get
        end, limit = end_of_prefix(prefix), PURGE_ROWS - looked_at
        if end is None:
            rows = cursor.execute(_SIZES_FROM, (start, limit)).fetchall()
        else:
            rows = cursor.execute(_SIZES_RANGE, (start, end, limit)).fetchall()
        for (length,) in rows:
            looked_at, size = looked_at + 1, size + length
            if size >= STEP_BYTES:
                return looked_at
        looked_at += not rows
        if looked_at >= PURGE_ROWS:
            break
    return PURGE_ROWS if looked_at else 0


def purge(writing: Writing, command: KvPurge) -> int:
    """KvPurge: look at up to `limit` rows of the oldest masks and remove the hidden ones.

    Returns how many deleted ranges are not purged yet. Nobody sees a difference: no index moves. (A
    transaction may: what is hidden counts among the keys that it may look through, until it is gone.)
    """
    limit = command.limit
    while limit > 0 and (mask := writing.masks.unfinished()) is not None:
        limit -= _purge_mask(writing, *mask, limit)
    return writing.masks.hiding


def _purge_mask(writing: Writing, prefix: bytes, index: int, limit: int) -> int:
    resume: bytes = writing.cursor.execute("select resume from mask where prefix = ?", (prefix,)).get
    rows = _rows(writing, resume, end_of_prefix(prefix), _FROM, _RANGE, limit)
    for key, modified, row in rows:
        if modified < index:
            writing.cursor.execute(_DELETE, (key,))
            entry = _decode(row)
            left = history.Stored(entry, row, writing.take(_TABLE, row))
            if writing.meta.history_revisions:
                history.end_hidden(writing, left)
            if entry.session:
                locks.unhold(writing, entry.session, key)
            if entry.ttl_ms:
                expiry.forget(writing, key)
    after = rows[-1][0] + b"\0" if len(rows) == limit else None
    writing.cursor.execute("update mask set resume = ? where prefix = ?", (after, prefix))
    writing.meta.rows_sum -= digest.of_values(_MASK, prefix, index, resume)
    writing.meta.rows_sum += digest.of_values(_MASK, prefix, index, after)
    if after is None:
        history.forget_ranges(writing, prefix)
        writing.masks.finish(prefix)
    return max(1, len(rows))


# -- queries ---------------------------------------------------------------------------------------


def get(reading: Reading, query: KvGet) -> tuple[KvEntry | None, int]:
    """One key, with its modify index; a missing one has the index of the newest change to any key."""
    entry = entry_in(reading, query.key)
    if entry is not None and entry.ttl_ms:
        entry = msgspec.structs.replace(entry, remaining_ms=expiry.remaining_ms(reading, entry))
    return entry, entry.modify_index if entry is not None else max(reading.meta.kv_index, 1)


def newest_of(reading: Reading, key: bytes) -> int:
    """The newest change of one key, its deletion included; never below what was reaped, where it is gone."""
    entry = entry_in(reading, key)
    if entry is not None:
        return entry.modify_index
    return max(tombstones.of(reading.cursor, key), reading.masks.index_on(key), reading.meta.reaped_index)


def list_entries(reading: Reading, query: KvList) -> tuple[list[KvEntry], int]:
    prefix = query.prefix
    rows = _visible(reading, prefix, _FROM, _RANGE)
    index = _prefix_index(reading, prefix, rows)
    reading.close()
    if (allowed := reading.allowed) is not None:
        rows = [row for row in rows if allowed(Operation("key", row[0], "read"))]
    return [_decode(row) for _, _, row in rows], index


def entries_of_one_state(reading: Reading, prefix: bytes) -> list[KvEntry]:
    """Every key under a prefix, allowed or not, and never in pages of more than one read transaction."""
    return [_decode(row) for _, _, row in _visible_at_once(reading, prefix, _FROM, _RANGE)]


def list_keys(reading: Reading, query: KvKeys) -> tuple[list[bytes], int]:
    prefix, separator = query.prefix, query.separator
    rows = _visible(reading, prefix, _KEYS_FROM, _KEYS_RANGE)
    index = _prefix_index(reading, prefix, rows)
    reading.close()
    if (allowed := reading.allowed) is not None:
        rows = [row for row in rows if allowed(Operation("key", row[0], "list"))]
    keys = [key for key, _, _ in rows]
    if not separator:
        return keys, index
    return list(dict.fromkeys(cut_name(key, len(prefix), separator) for key in keys)), index


def _visible(reading: Reading, prefix: bytes, open_end: str, closed: str) -> list[tuple[bytes, int, bytes]]:
    if reading.transaction is not None:
        return pages.visible(reading, reading.transaction, prefix, open_end, closed)
    return _visible_at_once(reading, prefix, open_end, closed)


def _visible_at_once(
    reading: Reading, prefix: bytes, open_end: str, closed: str
) -> list[tuple[bytes, int, bytes]]:
    end = end_of_prefix(prefix)
    rows = reading.rows(open_end, (prefix,)) if end is None else reading.rows(closed, (prefix, end))
    return reading.masks.visible(prefix, rows)


def _rows(
    writing: Writing, start: bytes, end: bytes | None, open_end: str, closed: str, limit: int
) -> list[tuple[bytes, int, bytes]]:
    """Up to `limit` rows (key, modify index, row) from `start` to before `end`, by key."""
    if end is None:
        rows = writing.cursor.execute(open_end, (start, limit))
    else:
        rows = writing.cursor.execute(closed, (start, end, limit))
    found: list[tuple[bytes, int, bytes]] = rows.fetchall()
    return found


def _prefix_index(reading: Reading, prefix: bytes, rows: list[tuple[bytes, int, bytes]]) -> int:
    """The newest change under a prefix, deletes included; of the whole table for the empty prefix.

    Where nothing is left to tell, the table's index. Never below what was reaped: a tombstone under this
    prefix may have been among it.
    """
    meta = reading.meta
    if not prefix:
        return max(meta.kv_index, 1)
    buried = tombstones.newest_under(reading, prefix)
    newest = max(max((row[1] for row in rows), default=0), buried, reading.masks.index_over(prefix))
    return max(newest or meta.kv_index, meta.reaped_index, 1)


READERS: dict[type, Callable[[Reading, Any], tuple[Any, int]]] = {
    KvGet: get,
    KvList: list_entries,
    KvKeys: list_keys,
    **paging.READERS,
}
