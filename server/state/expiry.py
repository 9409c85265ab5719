"""When keys expire: for each key with a TTL one row with its deadline, hidden by a deleted range or not.

A deadline is cluster time, which stands still without a leader: a key can expire late, never early. It is of
one epoch, as a lease is: in another one it begins anew. What deletes the keys is in `kv.py`.
"""

from __future__ import annotations

from gemot.server.model.errors import RuleFailed
from gemot.server.model.kv import LEAST_TTL_MS, MAX_TTL_MS, KvEntry
from gemot.server.state import digest
from gemot.server.state.scope import STEP_BYTES, Reading, Writing
from gemot.server.state.tables import Cursor

LATE_SHARE = 16
LEAST_LATE_MS = 250
"""A key is due a sixteenth of its TTL late, since its writer's clock may be slower than the leader's; and by
no less than a leap of the leader's clock may add to cluster time (`server/clock.py`)."""

MOST_KEYS = 512
"""Keys that one `ExpireKeys` looks at; fewer where they take more than STEP_BYTES."""

_EXPIRY = b"expiry"
_DUE = """select expiry.key, coalesce(modify_index, 0), coalesce(length(row), 0)
    from expiry left join kv on kv.key = expiry.key
    where {} order by epoch, deadline_ms, expiry.key limit ?"""


def check(ttl_ms: int) -> None:
    """Raise RuleFailed for what is no TTL of a key; 0 is none, and right."""
    if ttl_ms and not LEAST_TTL_MS <= ttl_ms <= MAX_TTL_MS:
        raise RuleFailed(
            f"Invalid TTL of a key: {ttl_ms} ms, must be from {LEAST_TTL_MS} to {MAX_TTL_MS} (ten years)"
        )


def begin(writing: Writing, key: bytes, ttl_ms: int) -> None:
    """The key lives for so long from now on."""
    forget(writing, key)
    epoch, deadline_ms = writing.meta.epoch, writing.time_ms + ttl_ms + _late_ms(ttl_ms)
    writing.cursor.execute("insert into expiry values (?, ?, ?)", (key, epoch, deadline_ms))
    writing.meta.rows_sum += digest.of_values(_EXPIRY, key, epoch, deadline_ms)


def forget(writing: Writing, key: bytes) -> None:
    """The key is gone, or stays; one without a deadline is right."""
    if (found := deadline(writing.cursor, key)) is not None:
        writing.cursor.execute("delete from expiry where key = ?", (key,))
        writing.meta.rows_sum -= digest.of_values(_EXPIRY, key, *found)


def deadline(cursor: Cursor, key: bytes) -> tuple[int, int] | None:
    """Epoch and cluster time."""
    found: tuple[int, int] | None = cursor.execute(
        "select epoch, deadline_ms from expiry where key = ?", (key,)
    ).get
    return found


def due(cursor: Cursor, epoch: int, time_ms: int) -> tuple[tuple[bytes, int], ...]:
    """Keys that are over by that cluster time, or were written in another epoch: (key, modify index).

    As many as one entry takes, the oldest first.
    """
    rows: list[tuple[bytes, int, int]] = []
    for where, bindings in (("epoch < ?", (epoch,)), ("epoch = ? and deadline_ms <= ?", (epoch, time_ms))):
        rows += cursor.execute(_DUE.format(where), (*bindings, MOST_KEYS - len(rows))).fetchall()
    found: list[tuple[bytes, int]] = []
    size = 0
    for key, modify_index, length in rows:
        size += length
        if found and size > STEP_BYTES:
            break
        found.append((key, modify_index))
    return tuple(found)


def exist(cursor: Cursor) -> bool:
    return cursor.execute("select 1 from expiry limit 1").get is not None


def remaining_ms(reading: Reading, entry: KvEntry) -> int:
    """Of the TTL, as the key's writer counts it: what comes after is not promised."""
    found = deadline(reading.cursor, entry.key)
    if found is None or found[0] != reading.meta.epoch:
        return entry.ttl_ms
    due_in_ms = found[1] - reading.meta.time_ms
    return max(0, min(due_in_ms - _late_ms(entry.ttl_ms), entry.ttl_ms))


def _late_ms(ttl_ms: int) -> int:
    return max(ttl_ms // LATE_SHARE, LEAST_LATE_MS)
