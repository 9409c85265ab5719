"""Long key-value lists in pages, over more than one read transaction, and yet of one state.

A read transaction holds on to the write-ahead log, so none may last. One that has lasted long enough is
ended between two pages, and the next one goes on behind the last key. Its state is newer; what changed
meanwhile is in the change table, for every key and deleted range, and is put right at the end. So the list
is that of the last transaction's state, as if it had been read in it alone.
"""

from __future__ import annotations

from collections.abc import Callable

from gemot.server.model.errors import Busy
from gemot.server.state import changes
from gemot.server.state.masks import Masks
from gemot.server.state.meta import Meta
from gemot.server.state.names import end_of_prefix
from gemot.server.state.scope import Reading, Renewable
from gemot.server.state.tables import Cursor

PAGE_ROWS = 1_000
LONGEST_US = 1_000_000
"""How long a read transaction lasts, but for the page at hand."""

Row = tuple[bytes, int, bytes]

_SINCE = "select idx, key, op, row from change where idx > ? and topic = 'kv' order by idx, seq"


class Transaction:
    """A worker's read transaction, on a connection of its own."""

    def __init__(self, cursor: Cursor, stopwatch_us: Callable[[], int]) -> None:
        self.cursor = cursor
        self._stopwatch_us = stopwatch_us
        self._began_us = 0
        self._open = False

    def begin(self) -> tuple[Meta, Masks]:
        self._began_us = self._stopwatch_us()
        self.cursor.execute("begin")
        self._open = True
        meta, masks = Meta(), Masks()
        meta.load(self.cursor)
        masks.load(self.cursor)
        return meta, masks

    def renew(self, reading: Reading) -> bool:
        """Go on in a newer state, if this one was held long enough."""
        if self._stopwatch_us() - self._began_us < LONGEST_US:
            return False
        self.end()
        reading.meta, reading.masks = self.begin()
        return True

    def end(self) -> None:
        if self._open:
            self._open = False
            # A failure of the disk has ended it already; that failure is the one to be told.
            if not self.cursor.get_connection().get_autocommit():
                self.cursor.execute("rollback")


def visible(reading: Reading, transaction: Renewable, prefix: bytes, open_end: str, closed: str) -> list[Row]:
    """Every row (key, modify index, row) under a prefix that no mask hides, by key.

    The statements are those of a range without an end and of one with. Raises Busy if more changed meanwhile
    than the change table keeps, and TooLarge for a list that is longer than any answer.
    """
    began_at = reading.meta.index
    found: list[Row] = []
    after, renewed = prefix, False
    while True:
        page = _page(reading, after, end_of_prefix(prefix), open_end, closed)
        found += reading.masks.visible(prefix, page)
        if len(page) < PAGE_ROWS:
            break
        after = page[-1][0] + b"\0"
        renewed = transaction.renew(reading) or renewed
    return _put_right(reading, found, prefix, began_at) if renewed else found


def _page(reading: Reading, start: bytes, end: bytes | None, open_end: str, closed: str) -> list[Row]:
    if end is None:
        return reading.take(reading.cursor.execute(open_end, (start, PAGE_ROWS)))
    return reading.take(reading.cursor.execute(closed, (start, end, PAGE_ROWS)))


def _put_right(reading: Reading, found: list[Row], prefix: bytes, began_at: int) -> list[Row]:
    """What was found in states from `began_at` on, as it is in the present one."""
    if changes.trimmed_to(reading.cursor) > began_at:
        raise Busy("more changed than is kept while this list was read: ask again, or for a longer prefix")
    rows = {row[0]: row for row in found}
    deleted = Masks()
    for index, key, op, row in reading.cursor.execute(_SINCE, (began_at,)).fetchall():
        if op == "delete-prefix":
            deleted.put(key, index)
        elif not key.startswith(prefix):
            continue
        elif op == "set":
            rows[key] = (key, index, row)
        else:
            rows.pop(key, None)
    return deleted.visible(prefix, [rows[key] for key in sorted(rows)])
