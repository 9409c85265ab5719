"""A restore as the log decides it: what the state is afterwards, what was told, and what a crash leaves."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from support.archives import altered, archive_of, blobs_at, parts, take_in
from support.one_state import OneState
from support.virtual import chance

from gemot.server.copies import prepare_restored, put_restored
from gemot.server.machine import Machine
from gemot.server.model.catalog import Node, Register, Service
from gemot.server.model.command import (
    ENVELOPE_VERSION,
    Command,
    Envelope,
    IdempotencyKey,
    RetryId,
    encode,
)
from gemot.server.model.errors import Forgotten, GemotError, NotFound, RuleFailed
from gemot.server.model.history import KvAsOf, KvRevisions
from gemot.server.model.kv import KvGet, KvKeys, KvSet
from gemot.server.model.query import Applied
from gemot.server.model.restore import Restore
from gemot.server.model.upkeep import TrimHistory
from gemot.server.raft.types import Batch, Entry, EntryKind, HardState, RaftConfig, Voters, encode_voters
from gemot.server.recovery import DataConfig, Opened, open_data
from gemot.server.state.permission import ALLOW_ALL
from gemot.server.storage.blobs import Blobs
from gemot.server.storage.durable import Save
from gemot.server.storage.realdisk import RealDisk
from gemot.server.storage.snapshot import Snapshots
from gemot.server.storage.sqlite import CHECKSUM_VFS
from gemot.server.storage.statefile import StateFile

VOTERS = ("a", "b", "c")
ME = "a" * 36


def replace_by_blob(
    file: StateFile, snapshots: Snapshots, blobs: Blobs, vfs: str, sha256: str, place: Any, voters: Any
) -> None:
    """Both steps, as a server takes them."""
    put_restored(file, snapshots, prepare_restored(file, snapshots, blobs, vfs, sha256, place, voters))


class Scene:
    """One server's state, and the blobs and snapshots that a restore needs."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.one = OneState(folder)
        self.blobs = blobs_at(folder)
        self.snapshots = Snapshots.open(RealDisk(sync=False), str(folder / "snap"))

    def put(self, *keys: str) -> None:
        for key in keys:
            self.one.apply(KvSet(key.encode(), b"of " + key.encode()))

    def named(self, command: Command, name: RetryId | IdempotencyKey | None) -> Applied | GemotError:
        (outcome,) = self.one.machine.apply((self.one.entry(command, name=name),))
        return outcome.result

    def restore(self, archive: bytes, *, epoch: int = 0, id: bytes = b"r1") -> int | GemotError:
        """The index that was told, or the refusal."""
        command = command_of(archive, epoch=epoch, id=id)
        (result,) = self.apply(self.one.entry(command), archive)
        return result.index if isinstance(result, Applied) else result

    def apply(self, entry: Entry, archive: bytes) -> list[Any]:
        outcomes = self.one.machine.apply((entry,))
        due = self.one.machine.restore_due
        if due is None:
            return [outcome.result for outcome in outcomes]
        assert outcomes == []
        self.one.state.settle()
        take_in(self.blobs, archive)
        replace_by_blob(
            self.one.file, self.snapshots, self.blobs, CHECKSUM_VFS, due.command.sha256, due.placement, VOTERS
        )
        self.one.state.reload()
        self.one.state.verify()
        return [Applied(due.placement.restored_index, True)]

    @property
    def keys(self) -> list[bytes]:
        keys: list[bytes] = self.one.state.read(KvKeys(b"", ""), "")[0]
        return keys

    def index_of(self, key: str) -> int:
        return self.one.state.read(KvGet(key.encode()), "")[1]


def command_of(archive: bytes, *, epoch: int = 0, id: bytes = b"r1") -> Restore:
    head, _ = parts(archive)
    return Restore(id, head.sha256, head.size, head.index, head.epoch, epoch)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path / "one")
    yield made
    made.one.close()


@pytest.fixture
def archive(scene: Scene, tmp_path: Path) -> bytes:
    scene.put("a", "b")
    return archive_of(scene.one, tmp_path / "source")


def test_the_rows_are_those_of_the_snapshot(scene: Scene, archive: bytes) -> None:
    scene.put("c", "a")
    scene.restore(archive)
    assert scene.keys == [b"a", b"b"]
    assert scene.one.state.read(KvGet(b"a"), "")[0].modify_index == 1, "as it was when it was saved"


def test_every_index_is_above_all_that_were_told_before(scene: Scene, archive: bytes) -> None:
    scene.put("c", "a")
    told = max(scene.index_of("a"), scene.index_of("c"), scene.one.index)
    at = scene.restore(archive)
    assert isinstance(at, int)
    assert at > told
    for key in ("a", "b", "c", "never was"):
        assert scene.index_of(key) == at, "whoever waits sees that something changed"
    scene.put("d")
    assert scene.index_of("d") == at + 1


def test_a_snapshot_of_a_later_index_raises_the_index(scene: Scene, archive: bytes, tmp_path: Path) -> None:
    far = Scene(tmp_path / "far")
    far.one.skip(1_000)
    far.put("x")
    later = archive_of(far.one, tmp_path / "far source")
    far.one.close()
    at = scene.restore(later)
    assert at == 1_002
    assert scene.index_of("x") == at
    scene.put("y")
    assert scene.one.state.read(KvGet(b"y"), "")[0].modify_index == at + 1
    assert scene.one.state.applied_index == scene.one.index, "Raft's own index goes on as it was"
    again = scene.restore(archive, id=b"r2")
    assert again == at + 2, "and it stays raised"


def test_a_snapshot_of_a_raised_state_has_the_index_that_readers_know(scene: Scene, tmp_path: Path) -> None:
    far = Scene(tmp_path / "far")
    far.one.skip(1_000)
    far.put("x")
    scene.put("a")
    at = scene.restore(archive_of(far.one, tmp_path / "s1"))
    far.one.close()
    head, _ = parts(archive_of(scene.one, tmp_path / "s2"))
    assert head.index == at
    assert head.epoch == 1


def test_the_epoch_goes_up_with_each_restore_and_above_the_snapshots(scene: Scene, archive: bytes) -> None:
    epochs = []
    for number in range(3):
        scene.restore(archive, id=b"%d" % number)
        epochs.append(scene.one.state.epoch)
    assert epochs == [1, 2, 3]
    scene.restore(archive, epoch=10, id=b"given")
    assert scene.one.state.epoch == 10
    refused = scene.restore(archive, epoch=10, id=b"again")
    assert isinstance(refused, RuleFailed)
    assert "give 11 or more" in refused.message
    assert scene.one.state.epoch == 10


def test_an_empty_cluster_is_told_the_epoch(archive: bytes, tmp_path: Path) -> None:
    fresh = Scene(tmp_path / "fresh")
    own = Register(Node("srv1", "10.0.0.1"), (Service("consul", "consul"),))
    fresh.one.apply(own)
    refused = fresh.restore(archive)
    assert isinstance(refused, RuleFailed)
    assert "-epoch=N" in refused.message
    assert fresh.keys == []
    assert isinstance(fresh.restore(archive, epoch=1, id=b"r2"), int)
    assert fresh.keys == [b"a", b"b"]
    fresh.one.close()


def test_a_restore_that_is_logged_twice_is_done_once(scene: Scene, archive: bytes) -> None:
    scene.restore(archive)
    scene.put("after")
    epoch = scene.one.state.epoch
    scene.restore(archive)
    assert scene.keys == [b"a", b"after", b"b"]
    assert scene.one.state.epoch == epoch


def test_what_was_written_before_is_not_done_again_afterwards(scene: Scene, archive: bytes) -> None:
    """Its effect is gone with the restore; asked again, its caller is told what was true."""
    named: list[RetryId | IdempotencyKey] = [RetryId(b"agent", 1, 0), IdempotencyKey("k", b"hash")]
    first = [scene.named(KvSet(b"late", b"1"), name) for name in named]
    scene.restore(archive)
    again = [scene.named(KvSet(b"late", b"1"), name) for name in named]
    assert again == first
    assert scene.keys == [b"a", b"b"]


def test_names_that_only_the_snapshot_knows_are_kept_too(scene: Scene, tmp_path: Path) -> None:
    key = IdempotencyKey("k", b"hash")
    scene.named(KvSet(b"paid", b"1"), key)
    archive = archive_of(scene.one, tmp_path / "s")
    fresh = Scene(tmp_path / "fresh")
    fresh.restore(archive, epoch=5)
    before = fresh.index_of("paid")
    fresh.named(KvSet(b"paid", b"1"), key)
    assert fresh.index_of("paid") == before
    fresh.one.close()


def test_a_snapshot_of_the_first_format_is_restored(scene: Scene, archive: bytes, tmp_path: Path) -> None:
    def back(connection: apsw.Connection) -> None:
        history = ("from", "revisions", "bytes", "rows", "surplus", "swept")
        for column in ("restores", "restored_index", "shift", *(f"history_{name}" for name in history)):
            connection.execute(f"alter table meta drop column {column}")
        later = "autopilot coordinate session session_check lease held lock_delay guard old absent range_end"
        for table in (*later.split(), "expiry"):
            connection.execute(f"drop table {table}")
        connection.execute("pragma user_version=1")

    first = altered(archive, tmp_path, back)
    scene.put("c")
    scene.restore(first)
    assert scene.keys == [b"a", b"b"]


def test_after_a_restore_history_begins_anew_and_tells_nothing_of_between(
    scene: Scene, tmp_path: Path
) -> None:
    """At the indexes between the snapshot and the restore another state was true."""
    scene.one.apply(TrimHistory(64, 0, 1 << 30))
    scene.put("d")
    archive = archive_of(scene.one, tmp_path / "kept")
    scene.put("d")
    between = scene.one.state.index
    scene.restore(archive)
    restored = scene.one.state.restored_index
    with pytest.raises(Forgotten):
        scene.one.value(KvAsOf(b"", between))
    assert [row.key for row in scene.one.value(KvAsOf(b"", restored)).rows] == [b"d"]
    scene.one.apply(KvSet(b"d", b"after"))
    assert len(scene.one.value(KvRevisions(b"d")).rows) == 2
    scene.one.state.verify()


def test_two_servers_come_to_the_same_state_hash(scene: Scene, archive: bytes, tmp_path: Path) -> None:
    other = Scene(tmp_path / "other")
    commands: list[tuple[Command, Any]] = [
        (KvSet(b"a", b"of a"), None), (KvSet(b"b", b"of b"), None),
        (KvSet(b"c", b"1"), RetryId(b"agent", 1, 0)), (KvSet(b"d", b"1"), IdempotencyKey("k", b"h")),
    ]  # fmt: skip
    for command, name in commands:
        other.named(command, name)
    for command, name in commands[2:]:
        scene.named(command, name)
    for one in (scene, other):
        one.restore(archive)
        one.put("after")
    assert scene.one.state.state_hash == other.one.state.state_hash
    other.one.reopen()
    other.one.state.verify()
    assert scene.one.state.state_hash == other.one.state.state_hash
    other.one.close()


def test_the_slice_ends_before_the_restore_and_goes_on_behind_it(scene: Scene, archive: bytes) -> None:
    before, due = scene.one.entry(KvSet(b"before", b"")), scene.one.entry(command_of(archive))
    after = scene.one.entry(KvSet(b"after", b""))
    outcomes = scene.one.machine.apply((before, due, after))
    assert [outcome.index for outcome in outcomes] == [before.index]
    assert scene.keys == [b"a", b"b", b"before"]
    scene.apply(due, archive)
    scene.one.machine.apply((after,))
    assert scene.keys == [b"a", b"after", b"b"]


def test_a_blob_that_was_damaged_on_disk_is_not_put_in_place(scene: Scene, archive: bytes) -> None:
    scene.put("c")
    sha256 = take_in(scene.blobs, archive)
    scene.one.machine.apply((scene.one.entry(command_of(archive)),))
    due = scene.one.machine.restore_due
    assert due is not None
    scene.one.state.settle()
    path = Path(scene.blobs.path(sha256))
    data = bytearray(path.read_bytes())
    data[5_000] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(NotFound, match="damaged on disk"):
        replace_by_blob(
            scene.one.file, scene.snapshots, scene.blobs, CHECKSUM_VFS, sha256, due.placement, VOTERS
        )
    assert scene.keys == [b"a", b"b", b"c"]


# -- crashes -----------------------------------------------------------------------------------------


class Crash(BaseException):
    """The power is gone."""


class Home:
    """A data directory whose log ends in a restore and a write behind it; the blob is staged."""

    def __init__(self, folder: Path, archive: bytes) -> None:
        self.folder = folder
        self.archive = archive
        self.sha256 = parts(archive)[0].sha256
        opened = self.open()
        entries = [
            Entry(1, 1, EntryKind.VOTERS, encode_voters(Voters((ME,)))),
            *[_entry(index, KvSet(b"old/%d" % index, b"x" * 3_000)) for index in range(2, 60)],
            _entry(60, command_of(archive)),
            _entry(61, KvSet(b"after", b"1")),
        ]
        opened.durable.append([Save(HardState(1, ""), Batch(entries), 1)])
        opened.durable.sync()
        opened.durable.keep_vote([Save(HardState(1, ""), None, 1)])
        take_in(self.blobs(), archive)
        opened.machine.apply(entries[:30])
        opened.file.checkpoint()
        opened.machine.apply(entries[30:59])
        opened.durable.write_meta()
        opened.durable.log.close()
        # Not closed: its write-ahead log stays beside it, as a crash leaves it.
        self._kept = opened

    def open(self, folder: Path | None = None) -> Opened:
        return open_data(
            disk=RealDisk(sync=False),
            config=DataConfig(
                directory=str(folder or self.folder), segment_bytes=256 << 10, raft=RaftConfig(), sync=False
            ),
            node_id=ME,
            random=chance(),
            authorizer=ALLOW_ALL,
        )

    def blobs(self, folder: Path | None = None) -> Blobs:
        return blobs_at(folder or self.folder)


def _entry(index: int, command: Command) -> Entry:
    return Entry(1, index, EntryKind.COMMAND, encode(Envelope(ENVELOPE_VERSION, 0, "", None, command)))


def _apply_all(opened: Opened, blobs: Blobs) -> None:
    """What a replica does with all that is committed."""
    log, state = opened.durable.log, opened.state
    machine: Machine = opened.machine
    while state.applied_index < log.last_index:
        machine.apply(log.read(state.applied_index + 1, log.last_index, 1 << 20))
        if (due := machine.restore_due) is not None:
            state.settle()
            replace_by_blob(
                opened.file, opened.snapshots, blobs, CHECKSUM_VFS, due.command.sha256, due.placement, (ME,)
            )
            state.reload()


def _keys(opened: Opened) -> list[bytes]:
    keys: list[bytes] = opened.state.read(KvKeys(b"", ""), "")[0]
    return keys


OLD = sorted(b"old/%d" % n for n in range(2, 60))
STEPS = (
    (shutil, "copyfile"), (os, "replace"), (os, "fsync"), (Path, "unlink"),
    (RealDisk, "rename"), (RealDisk, "remove"), (RealDisk, "sync_dir"),
)  # fmt: skip
"""What changes names or makes them durable: a crash falls before or after one of these calls."""


def _crashing(patch: pytest.MonkeyPatch, at: int, *, after: bool) -> Callable[[], int]:
    """Crash at the step of that number; tells how many there were."""
    count = 0

    def wrapped(do: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **named: Any) -> Any:
            nonlocal count
            count += 1
            if count == at and not after:
                raise Crash
            result = do(*arguments, **named)
            if count == at:
                raise Crash
            return result

        return step

    for owner, name in STEPS:
        patch.setattr(owner, name, wrapped(getattr(owner, name)))
    return lambda: count


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_crash_at_any_step_leaves_the_old_state_or_the_new_and_the_log_leads_to_it(
    archive: bytes, tmp_path: Path, after: bool
) -> None:
    home = Home(tmp_path / "raft", archive)
    crashes, at = 0, 0
    while True:
        at += 1
        folder = Path(shutil.copytree(home.folder, tmp_path / f"run-{at}"))
        opened = home.open(folder)
        blobs = home.blobs(folder)
        with pytest.MonkeyPatch.context() as patch:
            _crashing(patch, at, after=after)
            try:
                _apply_all(opened, blobs)
            except Crash:
                crashes += 1
            else:
                break
        crashed = Path(shutil.copytree(folder, tmp_path / f"crashed-{at}"))
        again = home.open(crashed)
        again.state.verify()
        assert _keys(again) in (OLD, [b"a", b"b"]), f"step {at}: one or the other"
        assert not again.raft.repairing
        _apply_all(again, home.blobs(crashed))
        again.state.verify()
        assert _keys(again) == [b"a", b"after", b"b"], f"step {at}"
        assert (again.state.epoch, again.state.index) == (1, 61)
        again.file.close()
        again.durable.log.close()
    assert crashes >= 12, "the steps were really come by"
    assert _keys(opened) == [b"a", b"after", b"b"]


def test_a_state_that_is_lost_after_a_restore_is_built_from_its_snapshot(
    archive: bytes, tmp_path: Path
) -> None:
    home = Home(tmp_path / "raft", archive)
    opened = home.open()
    _apply_all(opened, home.blobs())
    opened.state.settle()
    wanted = opened.state.state_hash
    opened.file.close()
    opened.durable.log.close()
    (home.folder / "state.db").write_bytes(b"rubbish")
    blobs = home.blobs()
    blobs.forget(home.sha256)
    again = home.open()
    assert again.state.applied_index == 60, "from the snapshot that the restore left, without the blob"
    _apply_all(again, blobs)
    assert again.state.state_hash == wanted
