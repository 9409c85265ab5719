"""The disk that forgets, beneath SQLite: the tests of durability are only as good as it is."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path
from random import Random

import apsw
import apsw.sqlite_extra
import pytest
from support.lossy_disk import LossyDisk
from support.lossy_vfs import LossyVfs, registered


@pytest.fixture(scope="module", params=["plain", "checksums"])
def stack(request: pytest.FixtureRequest) -> Iterator[tuple[LossyVfs, str]]:
    """The VFS, and the name to open databases by: itself, or cksumvfs above it."""
    with registered() as vfs:
        if request.param == "plain":
            yield vfs, vfs.name
        else:
            apsw.sqlite_extra.load(apsw.Connection(":memory:"), "cksumvfs")
            yield vfs, "cksmvfs"


class _Database:
    def __init__(self, stack: tuple[LossyVfs, str], folder: Path, disk: LossyDisk | None = None) -> None:
        self.vfs, self.name = stack
        self.folder = folder
        self.path = str(folder / "state.db")
        self.disk = self.vfs.attach(str(folder), disk)
        self.connections: list[apsw.Connection] = []
        self.writer = self.connect()
        self.writer.reserve_bytes(reserve=8)
        self.writer.execute("pragma journal_mode=wal")
        self.writer.execute("pragma synchronous=normal; pragma wal_autocheckpoint=0")
        self.writer.execute("create table if not exists t(n integer primary key, data)")

    def connect(self) -> apsw.Connection:
        connection = apsw.Connection(self.path, vfs=self.name)
        self.connections.append(connection)
        return connection

    def insert(self, first: int, count: int) -> None:
        with self.writer:
            self.writer.executemany(
                "insert into t values(?, ?)", [(n, f"{n}" * 300) for n in range(first, first + count)]
            )

    def rows(self) -> list[int]:
        return [n for (n,) in self.writer.execute("select n from t order by n")]

    def close(self) -> None:
        for connection in self.connections:
            with contextlib.suppress(apsw.Error):
                connection.close()
        self.connections = []

    def after_crash(self, random: Random | None = None) -> _Database:
        disk = self.vfs.crash(str(self.folder), random)
        self.close()
        return _Database((self.vfs, self.name), self.folder, disk)


def test_readers_on_other_connections_see_what_was_committed_and_not_synced(
    stack: tuple[LossyVfs, str], tmp_path: Path
) -> None:
    database = _Database(stack, tmp_path)
    reader = database.connect()
    for n in range(1, 20):
        database.insert(n, 1)
        assert reader.execute("select max(n) from t").get == n
    database.close()


def test_commits_are_not_on_the_real_disk_before_a_sync(stack: tuple[LossyVfs, str], tmp_path: Path) -> None:
    database = _Database(stack, tmp_path)
    database.insert(1, 50)
    assert Path(f"{database.path}-wal").stat().st_size < 50 * 300
    assert database.rows() == list(range(1, 51))
    database.close()


def test_a_crash_loses_what_was_not_checkpointed_and_keeps_what_was(
    stack: tuple[LossyVfs, str], tmp_path: Path
) -> None:
    database = _Database(stack, tmp_path)
    database.insert(1, 50)
    database.writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
    database.insert(51, 50)
    after = database.after_crash()
    assert after.rows() == list(range(1, 51))
    assert after.writer.execute("pragma integrity_check").get == "ok"
    after.insert(51, 10)
    assert after.rows() == list(range(1, 61))
    after.close()


@pytest.mark.parametrize("seed", range(12))
def test_whatever_a_crash_leaves_sqlite_finds_whole_commits_and_all_that_were_checkpointed(
    stack: tuple[LossyVfs, str], tmp_path: Path, seed: int
) -> None:
    random = Random(seed)
    database, proven, last = _Database(stack, tmp_path), 0, 0
    for _ in range(6):
        for _ in range(random.randrange(1, 5)):
            database.insert(last + 1, 7)
            last += 7
        if random.randrange(2):
            database.writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            proven = last
        if random.randrange(2):
            database = database.after_crash(random)
            rows = database.rows()
            assert proven <= len(rows) <= last
            assert len(rows) % 7 == 0
            assert rows == list(range(1, len(rows) + 1))
            assert database.writer.execute("pragma integrity_check").get == "ok"
            last = len(rows)
    database.close()


def test_connections_from_before_the_crash_can_do_nothing_any_more(
    stack: tuple[LossyVfs, str], tmp_path: Path
) -> None:
    database = _Database(stack, tmp_path)
    database.insert(1, 5)
    database.writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
    database.insert(6, 5)
    database.vfs.crash(str(tmp_path))
    with pytest.raises(apsw.IOError):
        database.insert(11, 5)
    with pytest.raises(apsw.IOError, match="before the crash"):
        apsw.Connection(database.path, vfs=database.name).execute("select * from t")
    database.close()
    assert _Database(stack, tmp_path, database.vfs._disks[str(tmp_path)]).rows() == [1, 2, 3, 4, 5]


def test_with_a_sync_that_lies_a_checkpoint_is_lost(stack: tuple[LossyVfs, str], tmp_path: Path) -> None:
    """The planted bug that a test of durability must notice."""
    database = _Database(stack, tmp_path)
    database.disk.sync_works = False
    database.insert(1, 50)
    database.writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    assert database.rows() == list(range(1, 51))
    after = database.after_crash()
    assert after.rows() != list(range(1, 51))
    after.close()


def test_failures_of_the_disk_reach_the_caller_as_sqlite_errors(
    stack: tuple[LossyVfs, str], tmp_path: Path
) -> None:
    database = _Database(stack, tmp_path)
    database.insert(1, 5)
    database.disk.fail_sync = errno.EIO
    with pytest.raises(apsw.IOError):
        database.writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
    database.disk.space_left = 100
    with pytest.raises(apsw.FullError):
        database.insert(6, 50)
    database.disk.space_left = None
    database.close()


def test_a_file_that_was_replaced_behind_sqlite_is_seen_at_the_next_open(
    stack: tuple[LossyVfs, str], tmp_path: Path
) -> None:
    database = _Database(stack, tmp_path)
    database.insert(1, 5)
    database.writer.execute("vacuum into ?", (str(tmp_path / "copy"),))
    database.insert(6, 5)
    database.close()
    (tmp_path / "copy").replace(database.path)
    again = _Database(stack, tmp_path, database.disk)
    assert len(again.rows()) in (0, 5), "the copy was synced by SQLite or is empty; never the old file"
    again.close()


def test_a_log_that_was_removed_behind_sqlite_does_not_come_back(
    stack: tuple[LossyVfs, str], tmp_path: Path
) -> None:
    database = _Database(stack, tmp_path)
    database.insert(1, 5)
    database.writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
    database.insert(6, 5)
    after = database.vfs.crash(str(tmp_path), Random(3))
    database.close()
    for suffix in ("-wal", "-shm"):
        Path(f"{database.path}{suffix}").unlink()
    again = _Database(stack, tmp_path, after)
    assert again.rows() == [1, 2, 3, 4, 5]
    again.close()


def test_paths_that_are_not_attached_go_to_the_real_disk(stack: tuple[LossyVfs, str], tmp_path: Path) -> None:
    connection = apsw.Connection(str(tmp_path / "other.db"), vfs=stack[1])
    connection.execute("create table t(n); insert into t values(1)")
    assert (tmp_path / "other.db").stat().st_size > 0
    connection.close()
