"""The state file: what it refuses, what it finds damaged, and what it calls durable."""

from __future__ import annotations

import contextlib
import errno
import gc
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest
from support.lossy_vfs import LossyVfs, registered

from gemot.server.machine import Machine
from gemot.server.model.autopilot import GetAutopilot
from gemot.server.model.command import ENVELOPE_VERSION, Envelope, encode
from gemot.server.model.errors import Corrupt, DiskFailed, StorageFailed
from gemot.server.model.kv import KvGet, KvList, KvSet
from gemot.server.raft.types import Entry, EntryKind
from gemot.server.state.store import State
from gemot.server.state.tables import FORMAT
from gemot.server.storage import statefile
from gemot.server.storage.sqlite import refuse_old_sqlite
from gemot.server.storage.statefile import PAGE_BYTES, StateFile


def _entry(index: int, key: bytes = b"", value: bytes = b"v" * 300) -> Entry:
    command = KvSet(key or b"%06d" % index, value)
    return Entry(1, index, EntryKind.COMMAND, encode(Envelope(ENVELOPE_VERSION, 0, "", None, command)))


class _Node:
    """A state over a file, and its machine."""

    def __init__(self, path: Path, *, sync: bool = True, wal_limit_bytes: int = 1 << 30) -> None:
        self.path = path
        self.file = StateFile(path, sync=sync, wal_limit_bytes=wal_limit_bytes)
        self.state = State(file=self.file)
        self._machine = Machine(state=self.state)

    @property
    def wal(self) -> Path:
        return Path(f"{self.path}-wal")

    def write(self, count: int, key: bytes = b"") -> None:
        first = self.state.applied_index + 1
        self._machine.apply([_entry(index, key) for index in range(first, first + count)])

    def keys(self) -> int:
        return len(self.state.read(KvList(b""), "")[0])

    def copy_as_a_crash_would_leave_it(self, folder: Path) -> Path:
        """The files as they are now, with all that the page cache holds."""
        folder.mkdir()
        shutil.copy(self.path, folder / "state.db")
        if self.wal.exists():
            shutil.copy(self.wal, folder / "state.db-wal")
        return folder / "state.db"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[_Node]:
    node = _Node(tmp_path / "state.db")
    yield node
    node.file.close()


# -- opening ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["3.7.0", "3.45.3", "3.51", "3.51.0", "3.51.2"])
def test_a_sqlite_that_can_lose_commits_is_refused(version: str) -> None:
    with pytest.raises(StorageFailed, match=r"install apsw 3\.51\.3 or newer"):
        refuse_old_sqlite(version)


@pytest.mark.parametrize("version", ["3.51.3", "3.52.0", "3.54.1", "4.0"])
def test_a_sqlite_without_the_bug_is_taken(version: str) -> None:
    refuse_old_sqlite(version)


def test_the_file_is_set_up_as_promised(node: _Node) -> None:
    cursor = node.file.cursor
    settings = {
        name: cursor.execute(f"pragma {name}").get
        for name in ("journal_mode", "synchronous", "wal_autocheckpoint", "mmap_size", "user_version")
    }
    assert settings == {
        "journal_mode": "wal",
        "synchronous": 1,
        "wal_autocheckpoint": 0,
        "mmap_size": 0,
        "user_version": FORMAT,
    }
    assert cursor.execute("pragma checksum_verification").get == "1"
    assert node.path.read_bytes()[20] == 8, "bytes reserved for the checksum in each page"
    connection = node.file.reader()
    with pytest.raises(apsw.ReadOnlyError):
        connection.execute("delete from kv")
    connection.close()


def test_an_empty_file_becomes_a_state_file_and_opens_again(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.touch()
    for wanted in (0, 5):
        node = _Node(path)
        assert node.state.applied_index == wanted
        if not wanted:
            node.write(5)
        node.file.close()
    assert [child.name for child in tmp_path.iterdir()] == ["state.db"]


def test_a_file_that_is_no_state_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(b"this is a text, and no database " * 200)
    before = path.read_bytes()
    with pytest.raises(Corrupt, match=r"state\.db"):
        StateFile(path)
    assert path.read_bytes() == before
    path.unlink()
    connection = sqlite3.connect(path)
    connection.execute("create table other(x)")
    connection.commit()
    connection.close()
    with pytest.raises(Corrupt, match="no state file of Gemot"):
        StateFile(path)


def test_a_file_of_a_newer_format_is_refused(node: _Node, tmp_path: Path) -> None:
    node.file.cursor.execute("pragma user_version=99")
    copy = node.copy_as_a_crash_would_leave_it(tmp_path / "copy")
    with pytest.raises(StorageFailed, match=f"has format 99, this release knows up to {FORMAT}"):
        StateFile(copy)


def test_a_file_of_the_first_format_is_brought_up_to_date(tmp_path: Path) -> None:
    """Rows and hash stay what they were; a snapshot of the old format is installed in the same way."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statefile, "FORMAT", 1)
        with contextlib.closing(StateFile(tmp_path / "state.db", sync=False)) as old:
            assert old.cursor.execute("pragma user_version").get == 1
            old.cursor.execute("update meta set applied_index = 7")
            old.snapshot_to(tmp_path / "copy")
    file = StateFile(tmp_path / "state.db", sync=False)
    for _ in range(2):
        assert file.cursor.execute("pragma user_version").get == FORMAT
        state = State(file=file)
        state.verify()
        assert state.applied_index == 7
        assert state.read(GetAutopilot(), "")[0] is None
        file.install(tmp_path / "copy")
    file.close()


def test_a_folder_that_is_not_there_is_a_failure_of_the_disk(tmp_path: Path) -> None:
    with pytest.raises(DiskFailed, match="cannot be opened"):
        StateFile(tmp_path / "none" / "state.db")


def _verify_after_crash(path: Path) -> None:
    opened = StateFile(path)
    try:
        State(file=opened).verify()
    finally:
        opened.close()


# -- damage ----------------------------------------------------------------------------------------


def _flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_a_flipped_bit_in_any_page_fails_the_check(node: _Node, tmp_path: Path, place: float) -> None:
    node.write(500)
    node.file.snapshot_to(tmp_path / "copy")
    assert node.file.check(tmp_path / "copy") == (500, 1)
    _flip(tmp_path / "copy", int((tmp_path / "copy").stat().st_size * place))
    with pytest.raises(Corrupt):
        node.file.check(tmp_path / "copy")


def test_a_flipped_bit_in_a_value_is_never_served(node: _Node, tmp_path: Path) -> None:
    node.write(500)
    node.file.checkpoint()
    copy = node.copy_as_a_crash_would_leave_it(tmp_path / "copy")
    Path(f"{copy}-wal").unlink()
    row = node.file.cursor.execute("select row from kv where key = ?", (b"000250",)).get
    at = copy.read_bytes().find(row)
    assert at > 0
    _flip(copy, at + 100)
    damaged = _Node(copy)
    with pytest.raises(Corrupt, match="does not fit its checksum"):
        damaged.state.read(KvGet(b"000250"), "")
    with pytest.raises(Corrupt):
        damaged.state.read(KvList(b""), "")
    assert damaged.state.read(KvGet(b"000001"), "")[0].value == b"v" * 300
    damaged.file.close()


def test_a_checkpoint_cut_short_beside_a_damaged_log_is_found(node: _Node, tmp_path: Path) -> None:
    """Each page is whole by itself; only the state's own hash tells that they do not fit each other."""
    node.write(200)
    node.file.checkpoint()
    old = node.path.read_bytes()
    for _ in range(20):
        node.write(10, key=b"000100")
    copy = node.copy_as_a_crash_would_leave_it(tmp_path / "copy")
    node.file.checkpoint()
    new = node.path.read_bytes()
    mixed = bytearray(old)
    changed = [
        at
        for at in range(PAGE_BYTES, len(old), PAGE_BYTES)
        if old[at : at + PAGE_BYTES] != new[at : at + PAGE_BYTES]
    ]
    found = 0
    for at in changed:
        mixed[at : at + PAGE_BYTES] = new[at : at + PAGE_BYTES]
        copy.write_bytes(mixed)
        wal = Path(f"{copy}-wal")
        shutil.copy(node.wal, wal)
        _flip(wal, 8)
        try:
            _verify_after_crash(copy)
        except Corrupt:
            found += 1
    assert changed
    assert found >= len(changed) - 1, "but for the last one, with which the file is the new one"


def test_a_log_beside_the_file_is_read_with_it_and_a_clean_close_leaves_none(
    node: _Node, tmp_path: Path
) -> None:
    node.write(10)
    copy = node.copy_as_a_crash_would_leave_it(tmp_path / "copy")
    again = _Node(copy)
    assert again.state.applied_index == 10
    again.state.verify()
    again.file.close()
    assert not Path(f"{copy}-wal").exists()


# -- checkpoints -----------------------------------------------------------------------------------


def test_what_is_only_in_the_log_is_not_proven_durable(node: _Node, tmp_path: Path) -> None:
    node.write(10)
    assert node.file.checkpoint() == 10
    node.write(5)
    copy = node.copy_as_a_crash_would_leave_it(tmp_path / "copy")
    Path(f"{copy}-wal").unlink()
    alone = _Node(copy)
    assert (alone.state.applied_index, alone.keys()) == (10, 10)
    alone.state.verify()
    alone.file.close()
    assert node.file.checkpoint() == 15


def test_while_an_old_reader_keeps_pages_back_nothing_is_proven_and_nothing_is_lost(
    node: _Node, tmp_path: Path
) -> None:
    node.write(5)
    assert node.file.checkpoint() == 5
    node.write(5)
    connection = node.file.reader()
    connection.execute("begin")
    assert connection.execute("select applied_index from meta").get == 10
    node.write(10)
    assert node.file.checkpoint() == 0, "the file alone says 5, and is not the state of then any more"
    copy = node.copy_as_a_crash_would_leave_it(tmp_path / "copy")
    node.write(10)
    assert node.keys() == 30
    connection.execute("rollback")
    connection.close()
    assert node.file.checkpoint() == 30
    crashed = _Node(copy)
    assert crashed.keys() == 20
    crashed.state.verify()
    crashed.file.close()


def test_the_log_starts_over_after_a_checkpoint(node: _Node) -> None:
    node.write(200)
    grown = node.file.wal_bytes()
    assert grown > 20 * PAGE_BYTES
    node.file.checkpoint()
    node.write(1)
    assert node.file.wal_bytes() < grown / 5


def test_past_its_limit_the_log_starts_over_without_a_pause_in_writes(tmp_path: Path) -> None:
    limit = 100 * PAGE_BYTES
    node = _Node(tmp_path / "state.db", wal_limit_bytes=limit)
    connection = node.file.reader()
    connection.execute("begin")
    connection.execute("select * from meta").fetchall()
    for _ in range(30):
        node.write(20)
    held = node.file.wal_bytes()
    assert held > limit, "a reader is not waited for"
    connection.execute("rollback")
    connection.close()
    largest = 0
    for _ in range(60):
        node.write(20)
        largest = max(largest, node.file.wal_bytes())
    assert node.file.wal_bytes() <= limit
    assert node.keys() == 1800
    node.state.verify()
    node.file.close()


# -- snapshots -------------------------------------------------------------------------------------


def test_a_snapshot_is_the_state_of_its_moment_and_installs_elsewhere(node: _Node, tmp_path: Path) -> None:
    node.write(100)
    hash_then = node.state.state_hash
    assert node.file.snapshot_to(tmp_path / "copy") == (100, 1)
    assert node.file.check(tmp_path / "copy") == (100, 1)
    node.write(50)
    other = _Node(tmp_path / "other.db")
    other.write(7)
    other.file.install(tmp_path / "copy")
    other.state.reload()
    assert (other.state.applied_index, other.state.state_hash, other.keys()) == (100, hash_then, 100)
    assert other.file.cursor.execute("pragma journal_mode").get == "wal"
    assert other.file.cursor.execute("pragma checksum_verification").get == "1"
    other.state.verify()
    other.write(50)
    assert other.state.state_hash == node.state.state_hash
    assert (tmp_path / "copy").exists(), "the snapshot is kept"
    other.file.close()


def test_a_snapshot_larger_than_any_cache_is_whole(node: _Node, tmp_path: Path) -> None:
    for _ in range(20):
        node.write(1000)
    assert node.file.snapshot_to(tmp_path / "copy") == (20_000, 1)
    assert (tmp_path / "copy").stat().st_size > 5_000_000
    assert node.file.check(tmp_path / "copy") == (20_000, 1)
    _flip(tmp_path / "copy", 4_000_000)
    with pytest.raises(Corrupt):
        node.file.check(tmp_path / "copy")


def test_a_snapshot_is_not_written_over_another(node: _Node, tmp_path: Path) -> None:
    node.write(1)
    node.file.snapshot_to(tmp_path / "copy")
    with pytest.raises((StorageFailed, apsw.SQLError)):
        node.file.snapshot_to(tmp_path / "copy")
    assert node.file.check(tmp_path / "copy") == (1, 1)


def test_a_damaged_snapshot_is_not_installed(node: _Node, tmp_path: Path) -> None:
    node.write(100)
    node.file.snapshot_to(tmp_path / "copy")
    data = bytearray((tmp_path / "copy").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "copy").write_bytes(data)
    node.write(1)
    with pytest.raises(Corrupt):
        node.file.install(tmp_path / "copy")
    (tmp_path / "copy").write_bytes(data[: len(data) // 2])
    with pytest.raises(Corrupt):
        node.file.install(tmp_path / "copy")
    assert node.keys() == 101
    node.write(1)


@pytest.mark.parametrize("step", ["unlink", "replace"])
def test_an_install_cut_short_leaves_the_old_file_or_the_new_one(
    node: _Node, tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.write(100)
    node.file.checkpoint()
    node.file.snapshot_to(tmp_path / "copy")
    other = _Node(tmp_path / "other.db")
    other.write(5)

    def crash(*_args: object, **_keywords: object) -> None:
        raise OSError(errno.EIO, "the power went")

    target = Path if step == "unlink" else __import__("os")
    monkeypatch.setattr(target, step, crash)
    with pytest.raises(DiskFailed, match="could not become the state file"):
        other.file.install(tmp_path / "copy")
    monkeypatch.undo()
    again = _Node(tmp_path / "other.db")
    assert (again.state.applied_index, again.keys()) == (5, 5)
    again.state.verify()
    again.file.install(tmp_path / "copy")
    again.state.reload()
    assert again.state.applied_index == 100
    again.file.close()


# -- a disk that forgets ---------------------------------------------------------------------------


@pytest.fixture
def lossy() -> Iterator[LossyVfs]:
    with registered() as vfs:
        yield vfs


@pytest.mark.parametrize("sync_works", [True, False], ids=["sync", "a sync that does nothing"])
def test_what_is_proven_durable_survives_the_loss_of_everything_unsynced(
    lossy: LossyVfs, tmp_path: Path, sync_works: bool
) -> None:
    disk = lossy.attach(str(tmp_path))
    node = _Node(tmp_path / "state.db")
    node.write(100)
    node.file.checkpoint()
    disk.sync_works = sync_works
    node.write(100)
    proven = node.file.checkpoint()
    assert proven == 200
    node.write(100)
    lossy.crash(str(tmp_path))
    with pytest.raises(StorageFailed):
        node.file.close()
    del node
    gc.collect()
    again = _Node(tmp_path / "state.db")
    assert (again.state.applied_index >= proven) is sync_works, "a sync left out must show here"
    again.state.verify()
    again.file.close()


def test_a_sync_that_fails_stops_the_checkpoint(lossy: LossyVfs, tmp_path: Path) -> None:
    disk = lossy.attach(str(tmp_path))
    node = _Node(tmp_path / "state.db")
    node.write(100)
    disk.fail_sync = errno.EIO
    with pytest.raises(DiskFailed):
        node.file.checkpoint()
    node.file.close()


def test_a_sync_that_fails_stops_an_installation_as_a_failure_of_the_disk(
    lossy: LossyVfs, tmp_path: Path
) -> None:
    """Simulator, seed 38 of the first swarm: it left as an error of SQLite's, which names no exit code."""
    disk = lossy.attach(str(tmp_path))
    node = _Node(tmp_path / "state.db")
    node.write(10)
    node.file.snapshot_to(tmp_path / "copy.db")
    disk.fail_sync = errno.EIO
    with pytest.raises(DiskFailed):
        node.file.install(tmp_path / "copy.db")
    node.file.close()


def test_a_read_that_fails_elsewhere_is_told_as_a_failure_of_the_disk(
    lossy: LossyVfs, tmp_path: Path
) -> None:
    """Simulator, seed 28 of the first swarm: the rollback of what the failure had ended hid the failure."""
    disk = lossy.attach(str(tmp_path))
    node = _Node(tmp_path / "state.db")
    node.write(500)
    left = 8

    def fail(path: str) -> None:
        nonlocal left
        left -= path.endswith(("state.db", "state.db-wal"))
        if left < 0:
            raise DiskFailed(f"cannot read {path}: Input/output error (EIO)")

    with contextlib.closing(node.file.reader()) as connection:
        disk.on_read = fail
        with pytest.raises(DiskFailed):
            node.state.read_on(connection, KvList(b""))
        disk.on_read = None
    node.file.close()


def test_a_state_older_than_what_was_committed_is_not_read(node: _Node) -> None:
    """Simulator, seed 14 of the first swarm: the disk lost a write, and a list was told without it."""
    node.write(10)
    with contextlib.closing(node.file.reader()) as connection:
        assert node.state.read_on(connection, KvList(b""), from_index=10).as_of == 10
        with pytest.raises(Corrupt, match="is at index 10, but 11 was committed"):
            node.state.read_on(connection, KvList(b""), from_index=11)


def test_a_full_disk_is_told_as_such_and_the_batch_is_undone(lossy: LossyVfs, tmp_path: Path) -> None:
    disk = lossy.attach(str(tmp_path))
    node = _Node(tmp_path / "state.db")
    node.write(10)
    before = node.state.state_hash
    disk.space_left = 10_000
    with pytest.raises(DiskFailed, match=r"space is left|failed"):
        node.write(500)
    disk.space_left = None
    assert (node.state.applied_index, node.state.state_hash) == (10, before)
    assert node.state.read(KvGet(b"000011"), "")[0] is None
    node.file.close()
