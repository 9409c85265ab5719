"""The state hash: a sum over rows, so that a write moves it by the rows it touches and no others.

Each row of a table is one number of 128 bits (BLAKE2b of table name and row); the sum of all of them,
modulo 2**128, does not depend on the order in which they came. It finds servers that drifted apart; it
is no defence against one who would forge rows on purpose.

Every replicated table is in it but `change` and `session_check`, which repeat what the other tables were
told, and the ages in `retry_origin`. The row of a word is hashed as it was stored: a release that encodes a
word otherwise must bring a migration that encodes the stored rows anew.
"""

from __future__ import annotations

from hashlib import blake2b

import msgspec

from gemot.server.state.tables import FORMAT, SINCE, Cursor

_MASK = (1 << 128) - 1
_NUMBERS = msgspec.msgpack.Encoder().encode

_HASHED = (
    (b"kv", "select row from kv"),
    (b"node", "select row from node"),
    (b"service", "select node, row from service"),
    (b"check", "select row from health"),
    (b"mask", "select prefix, idx, resume from mask"),
    (b"tombstone", "select key, idx from tombstone"),
    (b"latest", "select kind, name, idx from latest"),
    (b"idempotency", "select row from idempotency"),
    (b"autopilot", "select row from autopilot"),
    (b"coordinate", "select row from coordinate"),
    (b"session", "select row from session"),
    (b"lease", "select row from lease"),
    (b"held", "select session, key, node from held"),
    (b"lock_delay", "select key, until_ms from lock_delay"),
    (b"guard", "select resource, fence from guard"),
    (b"absent", "select key, until, revision from absent"),
    (b"range_end", "select prefix, idx, at_ms, accessor from range_end"),
    (b"expiry", "select key, epoch, deadline_ms from expiry"),
)

_OLD = b"old"
_OLD_ROWS = "select key, until, idx, after, revision, ended_ms, ended_by, row from old"
_FACTOR = (1 << 61) - 1


def of_row(table: bytes, row: bytes) -> int:
    """The number of one row. `table` keeps equal rows of two tables apart (16 bytes at most)."""
    return int.from_bytes(blake2b(row, digest_size=16, person=table).digest(), "little")


def of_values(table: bytes, *values: bytes | str | int | None) -> int:
    """The number of a row that has no encoded word."""
    return of_row(table, _NUMBERS(values))


def of_old(row_sum: int, numbers: tuple[int, ...], ended_by: str) -> int:
    """The number of an old revision: the one that its row had in `kv`, times one that stands for what is said
    of it there. It is made for each write: nothing is hashed for it but the name of who ended it, if any."""
    said = of_values(_OLD, ended_by) if ended_by else 0
    for number in numbers:
        said = said * _FACTOR + number
    return row_sum * (2 * said + 1) & _MASK


def pack(rows_sum: int) -> bytes:
    return rows_sum.to_bytes(16, "little")


def unpack(data: bytes) -> int:
    return int.from_bytes(data, "little")


def wrap(rows_sum: int) -> int:
    return rows_sum & _MASK


def of_state(rows_sum: int, scalars: tuple[int, ...]) -> bytes:
    """The 16 bytes that servers compare: the rows, and the numbers that stand beside them."""
    return blake2b(pack(rows_sum) + _NUMBERS(scalars), digest_size=16).digest()


def sum_from_scratch(cursor: Cursor, version: int = FORMAT) -> int:
    """The sum over every row as it stands in the tables, but for the retry results (see `retries`).

    `version` is the format of the state: those before the present one lack some tables.
    """
    total = 0
    for table, statement in _HASHED:
        if SINCE.get(table.decode(), 1) > version:
            continue
        for columns in cursor.execute(statement):
            total += of_row(table, columns[0]) if len(columns) == 1 else of_values(table, *columns)
    if SINCE[_OLD.decode()] <= version:
        for key, *numbers, ended_by, row in cursor.execute(_OLD_ROWS):
            if row.startswith(_NUMBERS(key), 1):  # its key is the first that a row tells of itself
                total += of_old(of_row(b"kv", row), tuple(numbers), ended_by)
    return total & _MASK
