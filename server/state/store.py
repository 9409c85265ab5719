"""The state of one server: opened over a state file, written by the machine, read by everyone else.

All of it but `read_on` belongs to one thread. Once a batch is settled, what is in memory here (running
values, masks, retries) and what is committed in the file are the same; a batch that fails loads the memory
anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from types import TracebackType
from typing import Any, Literal, Protocol

import msgspec

from gemot.server.model.catalog import Node
from gemot.server.model.errors import Corrupt, StorageFailed
from gemot.server.model.health import Check
from gemot.server.model.query import Query
from gemot.server.model.upkeep import VerifyState
from gemot.server.state import (
    autopilot,
    catalog,
    changes,
    coordinate,
    digest,
    expiry,
    health,
    history,
    kv,
    locks,
    retries,
    session,
    txn,
)
from gemot.server.state.masks import Masks
from gemot.server.state.meta import Meta, RestoreMark
from gemot.server.state.pages import Transaction
from gemot.server.state.permission import ALLOW_ALL, Authorizer, Operation, operations, require
from gemot.server.state.retries import Retries
from gemot.server.state.scope import Allowed, Reading, Writing
from gemot.server.state.tables import Cursor


class File(Protocol):
    """What the state needs of its file; `storage.statefile.StateFile` fulfils it."""

    @property
    def cursor(self) -> Cursor: ...

    @property
    def explained(self) -> AbstractContextManager[None]: ...

    def begin(self) -> None: ...

    def commit(self) -> None: ...

    def rollback(self) -> None: ...

    def wal_bytes(self) -> int: ...

    def sizes(self) -> tuple[int, int, int]: ...


class Connection(Protocol):
    """A worker's own connection (`StateFile.reader`)."""

    def cursor(self) -> Cursor: ...


class Found(msgspec.Struct, frozen=True):
    """What a read on a worker's connection came to: of which state (as readers count), of how many rows."""

    value: Any
    index: int
    as_of: int
    rows: int


class State:
    """Replicated state as of `applied_index`."""

    def __init__(self, *, file: File, authorizer: Authorizer = ALLOW_ALL) -> None:
        self._file = file
        self._authorizer = authorizer
        self._meta = Meta()
        self._masks = Masks()
        self._changes = changes.Extent()
        self._oldest_tombstone = 0
        self._unsettled: Writing | None = None
        self._buried = 0
        self.retries = Retries()
        self.reload()

    def reload(self) -> None:
        """Read from the file what is kept in memory: at the start, and when the file was replaced."""
        self._unsettled = None
        with self._file.explained, _as_written():
            cursor = self._file.cursor
            self._meta.load(cursor)
            self._masks.load(cursor)
            self.retries.load(cursor)
            self._look_at_ends(cursor)
            self._changes = changes.extent(cursor)
            self._buried = cursor.execute("select count(*) from tombstone").get

    # -- where it stands ---------------------------------------------------------------------------

    @property
    def applied_index(self) -> int:
        return self._meta.applied_index

    @property
    def index(self) -> int:
        """The applied index as readers know it: never goes back, whatever is restored."""
        return self._meta.index

    @property
    def restored_index(self) -> int:
        """The index of the last restore; 0 if there was none."""
        return self._meta.restored_index

    @property
    def restores(self) -> tuple[RestoreMark, ...]:
        """The last restores, oldest first."""
        return self._meta.restores

    @property
    def applied_term(self) -> int:
        return self._meta.applied_term

    @property
    def cluster_time_ms(self) -> int:
        return self._meta.time_ms

    @property
    def epoch(self) -> int:
        return self._meta.epoch

    @property
    def state_hash(self) -> bytes:
        """16 bytes that are equal on every server that has applied the same entries."""
        return self._meta.state_hash()

    def verify(self) -> None:
        """Compute the state hash from every row. Raises Corrupt if the rows are not those that were written.

        Takes about 2 us a row. Due at each start: a page may be whole, and older than it should be.
        """
        with self._file.explained, _as_written():
            total = digest.wrap(digest.sum_from_scratch(self._file.cursor) + self.retries.rows_sum())
        if total != digest.wrap(self._meta.rows_sum):
            raise Corrupt(
                f"the state at index {self.applied_index} does not fit its own hash: rows were lost or "
                "altered on disk; it must be rebuilt from a snapshot and the log"
            )

    # -- reading -----------------------------------------------------------------------------------

    def read(self, query: Query, accessor: str, limit: int = -1) -> tuple[Any, int]:
        """Value and index of a query, from the state as applied.

        One thread writes and reads here, and never between a batch's begin and end: the statements of one
        read see one state without a transaction of their own. Raises Forbidden for a single thing that the
        accessor may not see (lists leave out what it may not), and LongList if there are more rows than
        `limit` to be read.
        """
        with self._file.explained:
            reading = self._reading(query, accessor, self._file.cursor, self._meta, self._masks, limit)
            value, index = READERS[type(query)](reading, query)
            return value, max(index, self._meta.restored_index)

    def read_on(
        self,
        connection: Connection,
        query: Query,
        accessor: str = "",
        *,
        stopwatch_us: Callable[[], int] = lambda: 0,
        from_index: int = 0,
    ) -> Found:
        """`read` on a worker's own connection; touches nothing of the loop's.

        It sees every batch that was committed before it was called. Its read transaction ends after a second:
        longer lists of keys go on in another (`pages.py`), other lists are read in one.

        Raises Corrupt for a state older than `from_index`, which was committed: the disk lost a write.
        """
        with self._file.explained:
            cursor = connection.cursor()
            transaction = Transaction(cursor, stopwatch_us)
            meta, masks = transaction.begin()
            try:
                if meta.applied_index < from_index:
                    raise Corrupt(
                        f"the state file is at index {meta.applied_index}, but {from_index} was committed to "
                        "it: a write was lost; it must be rebuilt from a snapshot and the log"
                    )
                reading = self._reading(query, accessor, cursor, meta, masks, -1, transaction)
                value, index = READERS[type(query)](reading, query)
                index = max(index, reading.meta.restored_index)
                return Found(value, index, reading.meta.index, reading.read)
            finally:
                transaction.end()

    def _reading(
        self,
        query: Query,
        accessor: str,
        cursor: Cursor,
        meta: Meta,
        masks: Masks,
        limit: int,
        transaction: Transaction | None = None,
    ) -> Reading:
        allowed: Allowed | None = None
        if self._authorizer is not ALLOW_ALL:
            require(self._authorizer, accessor, operations(query))
            allowed = self.allowed_to(accessor)
        return Reading(
            cursor=cursor,
            meta=meta,
            masks=masks,
            allowed=allowed,
            limit=limit,
            buried=self._buried if limit >= 0 else 0,
            transaction=transaction,
            unsettled=self._unsettled.changes if transaction is None and self._unsettled else None,
        )

    def allowed_to(self, accessor: str) -> Allowed:
        """What this accessor may do, by the state as it is."""

        def allowed(operation: Operation) -> bool:
            return self._authorizer.allowed(accessor, operation)

        return allowed

    def service_name(self, node: str, service_id: str) -> str:
        """The name under which that instance is registered, "" if it is not."""
        return catalog.service_name(self._file.cursor, node, service_id)

    def session_node(self, id: str) -> str:
        """The node of that session, "" if there is none."""
        return session.node_of(self._file.cursor, id)

    # -- what the leader's chores go by --------------------------------------------------------------

    def deadlines_exist(self) -> bool:
        """Does anything wait for cluster time to pass?"""
        self.settle()
        with self._file.explained:
            cursor = self._file.cursor
            return (
                len(self.retries) > 0
                or retries.keys_exist(cursor)
                or session.leases_exist(cursor)
                or locks.delays_exist(cursor)
                or expiry.exist(cursor)
            )

    def leases_due(self, time_ms: int) -> tuple[tuple[str, int], ...]:
        """Leases of sessions that are over by that cluster time, for one entry: (session, generation)."""
        with self._file.explained:
            return session.due(self._file.cursor, self.epoch, time_ms)

    def keys_due(self, time_ms: int) -> tuple[tuple[bytes, int], ...]:
        """Keys that expire by that cluster time, for one entry: (key, modify index)."""
        with self._file.explained:
            return expiry.due(self._file.cursor, self.epoch, time_ms)

    def delays_over(self, time_ms: int) -> bool:
        """Are there lock delays that can be forgotten at that cluster time?"""
        with self._file.explained:
            return locks.delays_over(self._file.cursor, time_ms)

    def count(self, table: Literal["session", "held"]) -> int:
        """How many sessions there are, or keys that they hold."""
        with self._file.explained:
            found: int = self._file.cursor.execute(f"select count(*) from {table}").get
            return found

    def with_check(self, check_id: str) -> list[tuple[Node, Check]]:
        """Every node that has this check, with it, by name."""
        self.settle()
        with self._file.explained:
            return health.of_nodes(self._file.cursor, check_id)

    def has_node(self, name: str) -> bool:
        """Does the catalog have a node of this name?"""
        with self._file.explained:
            return catalog.has_node(self._file.cursor, name)

    def has_had(self, feature: str) -> bool:
        """Was anything of this family (`rpc.message.FEATURES`) ever written? Of others than these: no."""
        with self._file.explained:
            statement = "select 1 from latest where kind = ? and name = ''"
            return self._file.cursor.execute(statement, (feature,)).get is not None

    def purge_due(self) -> int:
        """How many rows one entry is to look through for what range deletes hid; 0 if they hide nothing."""
        if not self._masks.hiding:
            return 0
        with self._file.explained:
            return kv.purge_due(self._file.cursor, self._masks)

    def oldest_tombstone(self) -> int:
        """The lowest index of a tombstone or purged mask; 0 if there is none."""
        found = [index for index in (self._oldest_tombstone, self._masks.oldest()) if index]
        return min(found, default=0)

    @property
    def history(self) -> tuple[int, int, int]:
        """Of the history of keys: how many revisions of each are kept (0: none), since which index, and how
        many bytes they take."""
        return self._meta.history_revisions, self._meta.history_from, self._meta.history_bytes

    def history_is_overgrown(self, max_bytes: int) -> bool:
        """Is much of it more than is told of a key? `TrimHistory` then sweeps that away."""
        return history.is_overgrown(self._meta, max_bytes)

    def history_is_older(self, before_ms: int) -> bool:
        """Is there an old revision that ended before this wall time, or before what can be told?"""
        with self._file.explained:
            found = history.oldest(self._file.cursor)
        return found is not None and (found[0] <= self._meta.history_from or found[1] < before_ms)

    @property
    def changes(self) -> changes.Extent:
        """How much the change table holds."""
        return self._changes

    def changes_due(self) -> int:
        """The index through which changes are to go, for one entry; 0 if all may stay."""
        with self._file.explained:
            return changes.due(self._file.cursor, self._changes)

    def newest_checkpoint_hash(self) -> tuple[int, bytes]:
        """The newest noted state hash and its index; (0, b"") before the first."""
        return self._meta.marks[-1] if self._meta.marks else (0, b"")

    def wal_bytes(self) -> int:
        return self._file.wal_bytes()

    def file_bytes(self) -> tuple[int, int, int]:
        """Size of the state, how much of that holds nothing, and what its files may grow by as they are."""
        with self._file.explained:
            return self._file.sizes()

    # -- writing, for the machine --------------------------------------------------------------------

    def batch(self) -> Batch:
        """A context in which entries are applied: kept at its end for `settle`, undone if it raises."""
        return Batch(self)

    def open_batch(self) -> Writing:
        self.settle()
        self._file.begin()
        return Writing(cursor=self._file.cursor, meta=self._meta, masks=self._masks)

    def keep_batch(self, writing: Writing) -> None:
        self._unsettled = writing

    def settle(self) -> None:
        """Commit what was applied last. Until then `read` sees it, and other connections do not.

        Results need not wait for it: the Raft log holds the entries durably, and a state that was not
        committed applies them again.
        """
        writing, self._unsettled = self._unsettled, None
        if writing is None:
            return
        try:
            self._commit(writing)
        except BaseException:
            self.abandon_batch()
            raise

    def _commit(self, writing: Writing) -> None:
        cursor = writing.cursor
        with self._file.explained:
            changes.write(writing)
            self.retries.flush(cursor)
            self._meta.save(cursor)
            self._note_changes(writing)
            if writing.ends_moved:
                self._look_at_ends(cursor)
        self._file.commit()
        self._buried += writing.buried

    def abandon_batch(self) -> None:
        """Undo everything, in the file and in memory. The caller's error is the one that is told."""
        self._file.rollback()
        with suppress(StorageFailed):
            self.reload()

    @property
    def explained(self) -> AbstractContextManager[None]:
        return self._file.explained

    def _note_changes(self, writing: Writing) -> None:
        oldest, newest = self._changes.oldest, self._changes.newest
        if writing.ends_moved:
            oldest, newest = changes.indexes(writing.cursor)
        elif writing.changes:
            oldest, newest = oldest or writing.changes[0][0], writing.changes[-1][0]
        rows, size = writing.noted
        self._changes = changes.Extent(oldest, newest, self._changes.rows + rows, self._changes.bytes + size)

    def _look_at_ends(self, cursor: Cursor) -> None:
        self._oldest_tombstone = cursor.execute("select min(idx) from tombstone").get or 0


@contextmanager
def _as_written() -> Iterator[None]:
    """Rows are read that may be none of ours. Raises Corrupt.

    After a checkpoint that was cut short, with the log beside it damaged, each page is whole and a table may
    begin at a page of another one.
    """
    try:
        yield
    except (TypeError, ValueError, LookupError, msgspec.DecodeError) as error:
        raise Corrupt(
            f"rows of the state are not as they were written ({type(error).__name__}: {error}); it must be "
            "rebuilt from a snapshot and the log"
        ) from error


class Batch:
    """The life of one batch: begin, then keep or roll back. After a roll back the node is to stop."""

    __slots__ = ("_state", "_writing")

    def __init__(self, state: State) -> None:
        self._state = state
        self._writing: Writing | None = None

    def __enter__(self) -> Writing:
        self._writing = self._state.open_batch()
        return self._writing

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._writing is not None, "entered"
        try:
            if error is None:
                self._state.keep_batch(self._writing)
            else:
                with self._state.explained:
                    raise error
        except BaseException:
            self._state.abandon_batch()
            raise


def compare_hash(writing: Writing, command: VerifyState) -> bool:
    """VerifyState: no effect, or Corrupt if this server's hash of then is another one.

    Marks are part of the state, so every server remembers the same ones.
    """
    for index, noted in writing.meta.marks:
        if index == command.index and noted != command.digest:
            raise Corrupt(
                f"the state drifted apart from the leader's at or before index {index}: own hash "
                f"{noted.hex()}, the leader's {command.digest.hex()}; this server must be repaired"
            )
    return True


READERS: dict[type, Callable[[Reading, Any], tuple[Any, int]]] = {
    **kv.READERS,
    **catalog.READERS,
    **health.READERS,
    **autopilot.READERS,
    **coordinate.READERS,
    **session.READERS,
    **txn.READERS,
    **changes.READERS,
    **history.READERS,
}
"""Who answers which query."""
