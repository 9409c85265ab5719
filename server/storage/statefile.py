"""The state file: one SQLite database in WAL mode, with a checksum in every page.

What it is: connections, transactions, checkpoints and copies. What it is not: it knows no row but the applied
index and term (`state/tables.py` has the schema, `state/` the rules).

What survives what:
- A commit (`synchronous=NORMAL`) is not synced. The Raft log holds every entry until the state that has
  it is proven durable, so a lost commit is applied again.
- *Proven durable* is the applied index that the main file alone holds after a whole checkpoint and a
  sync of that file (`checkpoint`). The write-ahead log never counts: SQLite ends it silently at its first
  bad frame, and cksumvfs does not cover it (measured: one flipped bit dropped half of the acknowledged
  commits).
- A page of the main file that was altered fails its checksum and reads as `Corrupt`.
- A crash during a checkpoint, or after one that a reader cut short, leaves the main file partly new, to
  be completed from the log beside it; if that log is damaged too, the pages do not fit each other though
  each is whole. So they do not where the disk lost a write or put it in a wrong place. Therefore the opener
  verifies the state (`State.verify`).
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import apsw

from gemot.server.model.errors import Corrupt, DiskFailed, StorageFailed
from gemot.server.state.tables import APPLICATION_ID, APPLIED, FORMAT, MIGRATIONS
from gemot.server.storage.sqlite import (
    CHECKSUM_VFS,
    Explained,
    damage_note,
    load_checksums,
    refuse_old_sqlite,
)

CHECKSUM_BYTES = 8
PAGE_BYTES = 4096
WAL_LIMIT_BYTES = 256 << 20
_FRAME_BYTES = PAGE_BYTES + 24
_CHECKPOINT_PASSES = 5
_BUSY_MS = 1_000
_READS = 50
"""Of a page whose checksum does not fit: half a write lasts for microseconds."""
_SMALL_REST_PAGES = 1_024
"""What a commit may move by the way: 4 MiB."""

_KEEP_WAL_BYTES = 64 << 20


class StateFile:
    """The open state file. All but the methods that say otherwise belong to one thread, the writer's.

    `cursor` writes, and reads for the same thread: between two batches it sees what was committed last,
    and its page cache stays warm across commits, which a second connection's does not (measured: 2.3
    against 9 us for a point read while writes go on). `sync=False` is for `-dev`: nothing is ever synced.

    Where writes never pause, the worker's checkpoints never catch the moment in which the write-ahead log may
    start over. So a commit moves the rest itself: past a quarter of `wal_limit_bytes` if a worker has just
    left little of it, past the whole limit in any case.
    """

    def __init__(
        self,
        path: Path,
        *,
        vfs: str = CHECKSUM_VFS,
        sync: bool = True,
        cache_bytes: int = 64 << 20,
        wal_limit_bytes: int = WAL_LIMIT_BYTES,
    ) -> None:
        self.path = path
        self.vfs = vfs
        self._sync = sync
        self._cache_bytes = cache_bytes
        self._wal_limit_pages = wal_limit_bytes // _FRAME_BYTES
        self._wal_pages = 0
        self._moved_pages = 0
        self._restart_at_pages = self._wal_limit_pages // 4
        self.explained = Explained(path, damage_note(path))
        """Context in which an error of SQLite leaves as DiskFailed or Corrupt.

        What is Corrupt is noted beside the file: a page that is bad need not be read at the next opening, and
        would stop the node again and again.
        """
        self.held_up: Callable[[], None] = _nobody
        """Called when the log has passed its limit and a reader of an older state keeps it so."""

        refuse_old_sqlite(apsw.sqlite_lib_version())
        load_checksums()
        self._open()

    # -- transactions ------------------------------------------------------------------------------

    def begin(self) -> None:
        with self.explained:
            self.cursor.execute("begin immediate")

    def commit(self) -> None:
        with self.explained:
            self.cursor.execute("commit")
        if self._wal_pages > self._restart_at_pages and (
            self._wal_pages - self._moved_pages < _SMALL_REST_PAGES or self._wal_pages > self._wal_limit_pages
        ):
            self._restart_wal()

    def rollback(self) -> None:
        """Undo the transaction, if SQLite has not done so by itself. Never raises."""
        with contextlib.suppress(apsw.Error):
            if not self._writer.get_autocommit():
                self.cursor.execute("rollback")

    def reader(self) -> apsw.Connection:
        """A connection that only reads, for a worker thread of the caller's, who closes it."""
        with self.explained:
            return self._connect(apsw.SQLITE_OPEN_READONLY)

    # -- size and durability -----------------------------------------------------------------------

    def size(self) -> int:
        """Bytes of the main file and of the log in use: about what a copy needs."""
        return self.path.stat().st_size + self.wal_bytes()

    def wal_bytes(self) -> int:
        """Bytes in use in the write-ahead log since it last started over."""
        return self._wal_pages * _FRAME_BYTES

    def sizes(self) -> tuple[int, int, int]:
        """Bytes of the file once its log is moved into it, of its pages that hold nothing, and of what main
        file and log may still grow by for that and up to the log's limit."""
        state = int(self._pragma("page_count")) * PAGE_BYTES
        unused = int(self._pragma("freelist_count")) * PAGE_BYTES
        logged = self._wal_limit_pages * _FRAME_BYTES - _size(Path(f"{self.path}-wal"))
        return state, unused, max(0, state - _size(self.path)) + max(0, logged)

    def read_pages(self, first: int, count: int) -> int:
        """Read pages of the main file as they lie there, from `first` (0) on; how many there were.

        For a worker thread. Raises Corrupt for one that does not fit its checksum; a commit that moves the
        log may be writing that very page, so it is read again first.
        """
        with self.explained:
            flags = [apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_READONLY, 0]
            file = apsw.VFSFile(self.vfs, str(self.path), flags)
            try:
                file.xRead(PAGE_BYTES, 0)  # the first page says that there are checksums
                pages = min(count, file.xFileSize() // PAGE_BYTES - first)
                for page in range(first, first + pages):
                    _read_page(file, page)
                return max(pages, 0)
            finally:
                file.xClose()

    def checkpoint(self) -> int:
        """Move the write-ahead log into the main file; the applied index proven durable there, or 0.

        For a worker thread; it makes its own connection and blocks neither writer nor readers (mode
        PASSIVE). Repeated while writes keep adding, so that the writer finds everything moved and starts
        the log over.

        The proof: everything was moved, the main file is synced, then read alone (`immutable=1` ignores
        the log), and what it says of itself is returned. 0 if a reader of an older state kept pages back:
        SQLite then leaves out each page that changed again later, and the main file alone is of no one state.
        """
        with self.explained:
            complete = self._move_log()
            self._sync_file(self.path)
            return self._applied_alone(self.path)[0] if complete else 0

    def _move_log(self) -> bool:
        """True if the last pass moved all that was in the log as it began."""
        connection = self._connect(apsw.SQLITE_OPEN_READWRITE)
        try:
            connection.execute(APPLIED).get  # noqa: B018 - the log is looked at only once it was read
            complete = False
            for _ in range(_CHECKPOINT_PASSES):
                logged, moved = connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
                complete = moved >= logged
                self._moved_pages = moved
                if complete and self._wal_pages <= logged:
                    break
            return complete
        except (apsw.BusyError, apsw.LockedError):
            # The writer is moving the log itself at this moment (`_restart_wal`).
            return False
        finally:
            connection.close()

    def _restart_wal(self) -> None:
        """Move what is left of the write-ahead log and cut it to nothing; blocks meanwhile.

        A reader that still needs the log (a snapshot being copied) is not waited for: the next try comes
        after as much growth again as a sixteenth of the limit. Past the limit, `held_up` is told.
        """
        with self.explained:
            self._writer.set_busy_timeout(0)
            try:
                self._writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
                self._log_is_new()
            except (apsw.BusyError, apsw.LockedError):
                self._restart_at_pages = self._wal_pages + self._wal_limit_pages // 16
                if self._wal_pages > self._wal_limit_pages:
                    self.held_up()
            finally:
                self._writer.set_busy_timeout(_BUSY_MS)

    # -- copies ------------------------------------------------------------------------------------

    def snapshot_to(self, path: Path) -> tuple[int, int]:
        """Write a synced copy to `path`, which must not exist. For a worker thread.

        Returns the applied index and term that the copy holds. It is copied in one read transaction, so
        the writer goes on meanwhile. The caller syncs the directory.
        """
        if path.exists():
            raise StorageFailed(f"a snapshot is not written over another: {path} exists")
        with self.explained:
            self._begin_copy(path)
            connection = self._connect(apsw.SQLITE_OPEN_READONLY)
            copy = self._connect_to_copy(path)
            try:
                with copy.backup("main", connection, "main") as backup:
                    while not backup.done:
                        backup.step()
            finally:
                copy.close()
                connection.close()
            self._sync_file(path)
            return self._applied_alone(path)

    def _begin_copy(self, path: Path) -> None:
        """Make a file that carries page checksums from its first byte, and close it.

        The checksums begin once the file's first page has been written, and SQLite writes that page of a new
        file last. So of a copy larger than SQLite's cache, all pages that had left the cache by then would
        have none: that is how VACUUM INTO fails from 2 MB on.
        """
        copy = self._connect_to_copy(path, apsw.SQLITE_OPEN_CREATE)
        try:
            copy.execute(f"pragma page_size={PAGE_BYTES}")
            copy.reserve_bytes(reserve=CHECKSUM_BYTES)
            copy.execute("pragma user_version=1")
        finally:
            copy.close()

    def _connect_to_copy(self, path: Path, more: int = 0) -> apsw.Connection:
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE | more, vfs=self.vfs)
        with _closing_on_failure(connection):
            # The copy is synced when it is whole, and thrown away if it never is.
            connection.execute("pragma synchronous=0; pragma journal_mode=off").get  # noqa: B018 - as above
        return connection

    def install(self, path: Path) -> None:
        """Put a copy of the state file at `path` in place of the present state, and open it.

        For a worker thread, or any other, if nobody uses the file until it is done: no thread reads or
        writes, no connection of `reader` is open. The old log goes before the old file does: a log beside a
        file that it does not belong to would be mixed into it. A crash on the way leaves the old file without
        its log, or the new file; either is behind the Raft log's start or at it, and whoever opens the
        directory installs again. Raises Corrupt, with the old state still in place, if `path` is not a whole
        state file.
        """
        self.check(path)
        self._put(path)

    def succeed(self, path: Path) -> None:
        """`install`, where the log goes on from the old state to the new one (a restore).

        A crash must leave either of them whole, so the old file is completed from its log before the log
        goes. Raises DiskFailed if it cannot be: somebody still reads.
        """
        self.check(path)
        with self.explained:
            self._writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        self._put(path)

    def _put(self, path: Path) -> None:
        staged = self.path.with_name(self.path.name + ".incoming")
        try:
            shutil.copyfile(path, staged)
            with self.explained:
                self._sync_file(staged)
                self._close_all()
            for suffix in ("-wal", "-shm", "-journal"):
                Path(f"{self.path}{suffix}").unlink(missing_ok=True)
            sync_directory(self.path.parent)
            os.replace(staged, self.path)
            damage_note(self.path).unlink(missing_ok=True)
            sync_directory(self.path.parent)
        except OSError as error:
            raise DiskFailed(f"the snapshot could not become the state file {self.path}: {error}") from error
        self._open()

    def check(self, path: Path) -> tuple[int, int]:
        """Read every page of a copy; its applied index and term. For any thread. Raises Corrupt."""
        with Explained(path):
            connection = self._connect_alone(path)
            try:
                self._validate(connection, path)
                if (found := connection.execute("pragma quick_check(1)").get) != "ok":
                    raise Corrupt(f"the state file {path} is damaged: {found}")
                index, term = connection.execute(APPLIED).get
                return index, term
            finally:
                connection.close()

    def sync_copy(self, path: Path) -> None:
        """Make a file that was written beside this one durable."""
        with self.explained:
            self._sync_file(path)

    def close(self) -> None:
        """Close every connection. The last one moves the log into the main file and removes it."""
        with self.explained:
            self._close_all()

    # -- opening -----------------------------------------------------------------------------------

    def _open(self) -> None:
        self._log_is_new()
        with self.explained:
            self._writer = self._connect(apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE)
            try:
                if self._is_new():
                    self._create()
                self._validate(self._writer, self.path)
                self._migrate()
                self._set_up_writer()
            except BaseException:
                self._writer.close()
                raise
        self.cursor = self._writer.cursor()

    def _is_new(self) -> bool:
        return bool(self._writer.execute("select count(*) from sqlite_schema").get == 0) and (
            self._pragma("user_version") == 0
        )

    def _create(self) -> None:
        """The first page must carry the reserved bytes, so they are asked for before anything is written."""
        writer = self._writer
        writer.execute(f"pragma page_size={PAGE_BYTES}")
        writer.reserve_bytes(reserve=CHECKSUM_BYTES)
        with transaction(writer):
            writer.execute(MIGRATIONS[0])
            writer.execute(f"pragma application_id={APPLICATION_ID}")
            writer.execute("pragma user_version=1")

    def _validate(self, connection: apsw.Connection, path: Path) -> None:
        name = connection.execute("pragma application_id").get
        version = connection.execute("pragma user_version").get
        if name != APPLICATION_ID:
            raise Corrupt(f"{path} is an SQLite database, but no state file of Gemot (application id {name})")
        if version > FORMAT:
            raise StorageFailed(
                f"{path} has format {version}, this release knows up to {FORMAT}: "
                "start the newer release again"
            )
        if connection.execute("pragma checksum_verification").get != "1":
            raise Corrupt(f"{path} carries no page checksums: it was not written by Gemot as it is")

    def _migrate(self) -> None:
        for version in range(int(self._pragma("user_version")), FORMAT):
            with transaction(self._writer):
                self._writer.execute(MIGRATIONS[version])
                self._writer.execute(f"pragma user_version={version + 1}")

    def _set_up_writer(self) -> None:
        wanted = {
            "journal_mode": "wal",
            "synchronous": 1 if self._sync else 0,
            "wal_autocheckpoint": 0,
            "mmap_size": 0,
            "cell_size_check": 1,
        }
        for name, value in wanted.items():
            self._writer.execute(f"pragma {name}={value}").get  # noqa: B018 - run to its end
            if self._pragma(name) != value:
                raise StorageFailed(f"SQLite refused to set {name} to {value} on {self.path}")
        self._writer.execute(f"pragma cache_size=-{self._cache_bytes >> 10}")
        self._writer.execute(f"pragma journal_size_limit={_KEEP_WAL_BYTES}")
        self._writer.set_wal_hook(self._on_commit)

    def _pragma(self, name: str) -> int | str:
        value: int | str = self._writer.execute(f"pragma {name}").get
        return value

    def _on_commit(self, _connection: object, _database: str, pages: int) -> int:
        if pages < self._wal_pages:
            self._log_is_new()
        self._wal_pages = pages
        return 0

    def _log_is_new(self) -> None:
        self._wal_pages = self._moved_pages = 0
        self._restart_at_pages = self._wal_limit_pages // 4

    def _connect(self, flags: int) -> apsw.Connection:
        connection = apsw.Connection(str(self.path), flags=flags, vfs=self.vfs, statementcachesize=256)
        with _closing_on_failure(connection):
            connection.set_busy_timeout(_BUSY_MS)
            connection.execute(f"pragma synchronous={1 if self._sync else 0}")
            connection.execute("pragma wal_autocheckpoint=0").get  # noqa: B018 - run to its end
        return connection

    def _connect_alone(self, path: Path) -> apsw.Connection:
        """Read the main file as it is, as if there were no log beside it."""
        flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
        return apsw.Connection(f"file:{quote(str(path))}?immutable=1", flags=flags, vfs=self.vfs)

    def _applied_alone(self, path: Path) -> tuple[int, int]:
        connection = self._connect_alone(path)
        try:
            index, term = connection.execute(APPLIED).get
            return index, term
        except apsw.SQLError as error:
            # Its first page is not the one that was written last: the disk lost that write.
            raise Corrupt(f"the state file {path} is damaged: {error}") from error
        finally:
            connection.close()

    def _sync_file(self, path: Path) -> None:
        """Sync through the VFS that wrote: it is what tests interpose, and it keeps SQLite's file locks."""
        if not self._sync:
            return
        file = apsw.VFSFile(self.vfs, str(path), [apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_READWRITE, 0])
        try:
            file.xSync(apsw.SQLITE_SYNC_NORMAL)
        finally:
            file.xClose()

    def _close_all(self) -> None:
        self._writer.close()


def _nobody() -> None:
    """Nobody reads but for those who may take their time."""


def _read_page(file: apsw.VFSFile, page: int) -> None:
    for tries_left in reversed(range(_READS)):
        try:
            file.xRead(PAGE_BYTES, page * PAGE_BYTES)
            return
        except apsw.IOError:
            if not tries_left:
                raise


def _size(path: Path) -> int:
    """0 for a file that is not there."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


@contextlib.contextmanager
def transaction(connection: apsw.Connection) -> Iterator[None]:
    """All or nothing. Where SQLite has undone it already (a bad disk), apsw's own context hides why."""
    connection.execute("begin immediate")
    try:
        yield
        connection.execute("commit")
    except BaseException:
        with contextlib.suppress(apsw.Error):
            if not connection.get_autocommit():
                connection.execute("rollback")
        raise


@contextlib.contextmanager
def _closing_on_failure(connection: apsw.Connection) -> Iterator[None]:
    """A damaged file fails the first statement: its connection must not stay open until it is collected."""
    try:
        yield
    except BaseException:
        connection.close()
        raise


def applied_of(path: Path, *, vfs: str = CHECKSUM_VFS) -> tuple[int, int]:
    """Applied index and term of a state file that nobody has open. Changes nothing; raises StorageFailed."""
    load_checksums()
    with Explained(path):
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY, vfs=vfs)
        try:
            index, term = connection.execute(APPLIED).get
            return index, term
        finally:
            connection.close()


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
