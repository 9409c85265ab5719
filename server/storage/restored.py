"""The state as it is after a restore, made as a file of its own from the blob and the state before it.

The rows are the blob's. The names of writes (`retry`, `idempotency`) are both theirs: whoever asks again for
a write that was done before the restore is told so, and it is not done a second time. What went before in the
change table is forgotten, as after a trim: it does not lead here.

For a worker; the same on every server, byte for byte in what the state hash covers.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw

from gemot.server.model.errors import DiskFailed
from gemot.server.state import digest
from gemot.server.state.meta import Meta
from gemot.server.state.restore import Placement
from gemot.server.state.retries import Retries
from gemot.server.state.tables import FORMAT, MIGRATIONS
from gemot.server.storage.sqlite import explain
from gemot.server.storage.statefile import StateFile, transaction

_ROWS = 500


def build(*, live: StateFile, blob: Path, out: Path, place: Placement, vfs: str) -> None:
    """Write `out`, not synced yet. Raises Corrupt, DiskFailed."""
    try:
        shutil.copyfile(blob, out)
    except OSError as error:
        raise DiskFailed(f"the snapshot could not be prepared at {out}: {error}") from error
    reader = live.reader()
    try:
        connection = apsw.Connection(str(out), flags=apsw.SQLITE_OPEN_READWRITE, vfs=vfs)
        try:
            # What is not whole at a crash is thrown away.
            for setting in ("journal_mode=delete", "journal_mode=off", "synchronous=0"):
                connection.execute(f"pragma {setting}").get  # noqa: B018 - run to its end
            _migrate(connection)
            with transaction(connection):
                _merge_retries(reader, connection)
                connection.execute("delete from change")
                _place(connection.cursor(), place)
        finally:
            connection.close()
    except apsw.Error as error:
        if (ours := explain(error, out)) is not None:
            raise ours from error
        raise
    finally:
        reader.close()


def _migrate(connection: apsw.Connection) -> None:
    for version in range(int(connection.execute("pragma user_version").get), FORMAT):
        with transaction(connection):
            connection.execute(MIGRATIONS[version])
            connection.execute(f"pragma user_version={version + 1}")


def _merge_retries(live: apsw.Connection, restored: apsw.Connection) -> None:
    """All that the live state remembers; of the blob what the live state knows nothing of."""
    for (origin,) in _all(live, "select origin from retry_origin"):
        restored.execute("delete from retry_origin where origin = ?", (origin,))
        restored.execute("delete from retry where origin = ?", (origin,))
    for table, columns in (("retry_origin", 3), ("retry", 3), ("idempotency", 4)):
        marks = ", ".join("?" * columns)
        restored.executemany(
            f"insert or replace into {table} values ({marks})", _all(live, f"select * from {table}")
        )


def _all(connection: apsw.Connection, statement: str) -> Iterator[tuple[Any, ...]]:
    cursor = connection.cursor()
    cursor.execute(statement)
    while rows := [row for row, _ in zip(cursor, range(_ROWS), strict=False)]:
        yield from rows


def _place(cursor: apsw.Cursor, place: Placement) -> None:
    meta, retries = Meta(), Retries()
    meta.load(cursor)
    retries.load(cursor)
    meta.applied_index, meta.applied_term = place.applied_index, place.applied_term
    meta.shift, meta.restored_index, meta.restores = place.shift, place.restored_index, place.restores
    meta.epoch = place.epoch
    meta.time_ms = max(meta.time_ms, place.time_ms)
    meta.marks = ()
    if meta.history_revisions:  # between the snapshot's newest index and this one other things were true
        meta.history_from = place.restored_index
    meta.rows_sum = digest.sum_from_scratch(cursor) + retries.rows_sum()
    meta.save(cursor)
