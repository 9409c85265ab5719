from __future__ import annotations

import contextlib
from hashlib import sha256
from pathlib import Path
from random import Random

import apsw
import msgspec
import pytest
from support.lossy_disk import LossyDisk, MemoryDisk
from support.lossy_vfs import registered

from gemot.server.model.errors import Corrupt, NotFound
from gemot.server.raft.types import SnapshotMeta
from gemot.server.storage.format import SNAPSHOT_FORMAT, NewerFormat
from gemot.server.storage.snapshot import CHUNK_BYTES, MAX_SNAPSHOT_BYTES, Manifest, Receiver, Snapshots

_SNAP = "/data/snap"


def _meta(index: int, term: int = 1) -> SnapshotMeta:
    return SnapshotMeta(index, term, ("n1", "n2", "n3"))


def _data(index: int, size: int = 3_000) -> bytes:
    return Random(index).randbytes(size)


def _make(disk: LossyDisk, snapshots: Snapshots, index: int) -> Manifest:
    disk.open(snapshots.stage(_meta(index)), create=True).pwrite(_data(index), 0)
    return snapshots.commit(_meta(index), epoch=2)


def _taken(*indexes: int) -> tuple[LossyDisk, Snapshots]:
    disk = MemoryDisk()
    snapshots = Snapshots.open(disk, _SNAP)
    for index in indexes:
        _make(disk, snapshots, index)
    return disk, snapshots


def _put(disk: LossyDisk, path: str, content: bytes) -> None:
    disk.damage(path, lambda target: target.__setitem__(slice(None), content))


def _whole(snapshots: Snapshots, meta: SnapshotMeta) -> bytes:
    data = b""
    while chunk := snapshots.read_chunk(meta, len(data), 1000):
        data += chunk
    return data


def test_a_snapshot_survives_a_crash_with_all_that_its_manifest_says() -> None:
    disk, snapshots = _taken(10)
    found = Snapshots.open(disk.crash(), _SNAP)
    assert found.newest() == _meta(10)
    assert found.manifest(_meta(10)) == snapshots.manifest(_meta(10))
    assert found.manifest(_meta(10)).sha256 == sha256(_data(10)).hexdigest()
    assert (found.manifest(_meta(10)).epoch, found.manifest(_meta(10)).size) == (2, 3_000)
    assert found.verify(_meta(10))
    assert _whole(found, _meta(10)) == _data(10)


def test_only_the_newest_two_good_snapshots_are_kept() -> None:
    disk, snapshots = _taken(10, 20, 30)
    assert snapshots.all() == (_meta(20), _meta(30))
    assert len(disk.listdir(_SNAP)) == 4
    with pytest.raises(NotFound, match="entry 10"):
        snapshots.read_chunk(_meta(10), 0, 100)


def test_a_damaged_snapshot_does_not_count_among_the_two() -> None:
    disk, snapshots = _taken(10, 20)
    disk.damage(snapshots.path(_meta(20)), lambda content: content.__setitem__(1500, content[1500] ^ 1))
    snapshots = Snapshots.open(disk, _SNAP)
    assert not snapshots.verify(_meta(20))
    _make(disk, snapshots, 30)
    assert _meta(10) in snapshots.all()
    _make(disk, snapshots, 40)
    assert snapshots.all() == (_meta(30), _meta(40))


@pytest.mark.parametrize("bit", [1 << n for n in range(8)], ids=hex)
def test_a_damaged_manifest_hides_its_snapshot_whatever_byte_it_is(bit: int) -> None:
    disk, snapshots = _taken(10)
    path = snapshots.path(_meta(10)).replace(".snap", ".json")
    good = snapshots.manifest(_meta(10))
    content = disk.open(path).pread(10_000, 0)
    for at in range(len(content)):
        changed = content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :]
        _put(disk, path, changed)
        found = Snapshots.open(disk, _SNAP)
        assert found.newest() is None or found.manifest(_meta(10)) == good, at


def test_a_copy_that_is_missing_or_short_is_no_snapshot() -> None:
    disk, snapshots = _taken(10, 20)
    disk.remove(snapshots.path(_meta(20)))
    disk.damage(snapshots.path(_meta(10)), lambda content: content.__delitem__(slice(100, None)))
    assert Snapshots.open(disk, _SNAP).newest() is None


@pytest.mark.parametrize("hurt", ["manifest", "copy", "no copy"])
def test_the_files_of_one_that_was_left_out_go_once_a_good_one_is_newer(hurt: str) -> None:
    """Else they lie there for ever: room that is lost, and damage that nobody reads."""
    disk, snapshots = _taken(10, 20)
    copy = snapshots.path(_meta(20))
    if hurt == "manifest":
        _put(disk, copy.replace(".snap", ".json"), b"{}")
    elif hurt == "copy":
        disk.damage(copy, lambda content: content.__delitem__(slice(100, None)))
    else:
        disk.remove(copy)
    snapshots = Snapshots.open(disk, _SNAP)
    assert snapshots.all() == (_meta(10),)
    _make(disk, snapshots, 15)
    assert any("20" in name for name in disk.listdir(_SNAP)), "none that is newer is whole"
    _make(disk, snapshots, 30)
    assert disk.listdir(_SNAP) == [f"{n:020d}.{kind}" for n in (15, 30) for kind in ("json", "snap")]
    assert all(map(snapshots.verify, snapshots.all()))


def test_one_that_was_left_out_is_made_anew_at_the_same_entry() -> None:
    disk, snapshots = _taken(10)
    _put(disk, snapshots.path(_meta(10)).replace(".snap", ".json"), b"{}")
    snapshots = Snapshots.open(disk, _SNAP)
    _make(disk, snapshots, 10)
    _make(disk, snapshots, 20)
    assert Snapshots.open(disk, _SNAP).all() == (_meta(10), _meta(20))


@pytest.mark.parametrize("seed", range(8))
def test_a_crash_at_any_operation_leaves_the_older_snapshot_or_both(seed: int) -> None:
    stop, done = 0, False
    while not done:
        disk, snapshots = _taken(10, 20)
        left, done = stop, True

        def count(action: str, path: str) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise InterruptedError

        disk.on_change = count
        try:
            _make(disk, snapshots, 30)
        except InterruptedError:
            done = False
        disk.on_change = None
        after = disk.crash(Random(seed * 100 + stop))
        found = Snapshots.open(after, _SNAP)
        assert len(found.all()) >= 2
        assert all(found.verify(meta) and _whole(found, meta) == _data(meta.index) for meta in found.all())
        assert not any(name.endswith(".tmp") for name in after.listdir(_SNAP))
        assert not done or found.newest() == _meta(30)
        stop += 1
    assert stop > 8


def test_a_snapshot_that_a_restarted_process_found_survives_a_power_loss_right_after() -> None:
    for stop in range(20):
        disk, snapshots = _taken(10, 20)
        left = stop

        def count(action: str, path: str) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise InterruptedError

        disk.on_change = count
        with contextlib.suppress(InterruptedError):
            _make(disk, snapshots, 30)
        disk.on_change = None
        restarted = disk.kill()
        found = Snapshots.open(restarted, _SNAP)
        again = Snapshots.open(restarted.crash(), _SNAP)
        assert again.newest() == found.newest()
        assert all(again.verify(meta) for meta in again.all())


def test_a_manifest_of_a_newer_release_is_refused_by_name() -> None:
    disk, snapshots = _taken(10)
    path = snapshots.path(_meta(10)).replace(".snap", ".json")
    newer = msgspec.json.encode({"format": SNAPSHOT_FORMAT + 1, "shape": "another"})
    disk.damage(path, lambda target: target.__setitem__(slice(None), newer))
    with pytest.raises(NewerFormat, match="written by a newer release"):
        Snapshots.open(disk, _SNAP)


# -- taking one in -------------------------------------------------------------------------------------


def _offered(size: int = 3_000) -> tuple[LossyDisk, Snapshots, Receiver, bytes]:
    data = _data(50, size)
    manifest = Manifest(SNAPSHOT_FORMAT, 50, 3, ("n1",), 1, size, sha256(data).hexdigest(), "0.1.0")
    disk, snapshots = _taken(10)
    return disk, snapshots, snapshots.receive(manifest), data


def test_a_snapshot_that_came_in_chunks_is_the_newest_after_a_crash() -> None:
    disk, _, receiver, data = _offered()
    for offset in range(0, 3_000, 700):
        assert receiver.next_offset == offset
        receiver.write(receiver.key, offset, data[offset : offset + 700])
    assert receiver.complete
    assert receiver.finish() == SnapshotMeta(50, 3, ("n1",))
    found = Snapshots.open(disk.crash(), _SNAP)
    assert found.newest() == SnapshotMeta(50, 3, ("n1",))
    assert _whole(found, SnapshotMeta(50, 3, ("n1",))) == data


def test_lost_doubled_reordered_and_foreign_chunks_never_get_in() -> None:
    for seed in range(30):
        random = Random(seed)
        disk, snapshots, receiver, data = _offered()
        other = (50, 3, "f" * 64)
        while not receiver.complete:
            offset = random.choice([receiver.next_offset, random.randrange(3_000)])
            n = random.randrange(1, 900)
            foreign = random.randrange(4) == 0
            chunk = bytes(n) if foreign else data[offset : offset + n]
            receiver.write(other if foreign else receiver.key, offset, chunk)
        receiver.finish()
        assert _whole(snapshots, SnapshotMeta(50, 3, ("n1",))) == data
        assert disk.exists(snapshots.path(_meta(10)))


def test_a_chunk_past_the_end_or_over_the_limit_is_not_written() -> None:
    _, _, receiver, data = _offered()
    assert receiver.write(receiver.key, 0, data + b"x") == 0
    assert receiver.write(receiver.key, -1, data) == 0
    _, _, receiver, data = _offered(CHUNK_BYTES + 10)
    assert receiver.write(receiver.key, 0, data) == 0
    assert receiver.write(receiver.key, 0, data[:CHUNK_BYTES]) == CHUNK_BYTES


@pytest.mark.parametrize("upto", [0, 700, 2_999, 3_000])
def test_an_incomplete_or_altered_snapshot_is_refused_and_leaves_everything_as_it_was(upto: int) -> None:
    disk, snapshots, receiver, data = _offered()
    altered = data[:-1] + bytes([data[-1] ^ 1])
    for offset in range(0, upto, 700):
        receiver.write(receiver.key, offset, altered[offset : min(upto, offset + 700)])
    with pytest.raises(Corrupt, match="fetch it again"):
        receiver.finish()
    assert snapshots.all() == (_meta(10),)
    assert len(disk.listdir(_SNAP)) == 2


def test_an_offer_of_absurd_size_or_of_a_newer_format_is_refused_before_anything_is_written() -> None:
    disk, snapshots = _taken(10)
    for size in (0, -1, MAX_SNAPSHOT_BYTES + 1):
        with pytest.raises(Corrupt, match="was offered"):
            snapshots.receive(Manifest(SNAPSHOT_FORMAT, 50, 3, (), 1, size, "", ""))
    with pytest.raises(NewerFormat):
        snapshots.receive(Manifest(SNAPSHOT_FORMAT + 1, 50, 3, (), 1, 10, "", ""))
    assert len(disk.listdir(_SNAP)) == 2


def test_a_cancelled_transfer_leaves_nothing_behind() -> None:
    disk, _, receiver, data = _offered()
    receiver.write(receiver.key, 0, data[:100])
    receiver.cancel()
    assert len(disk.listdir(_SNAP)) == 2


def test_a_copy_made_by_sqlite_is_durable_once_it_is_a_snapshot(tmp_path: Path) -> None:
    with registered(default=False) as vfs:
        disk = vfs.attach(str(tmp_path))
        snapshots = Snapshots.open(disk, f"{disk.root}/snap")
        connection = apsw.Connection(f"{disk.root}/state.db", vfs=vfs.name)
        connection.execute("create table t(n); insert into t values(1), (2), (3)")
        connection.execute("vacuum into ?", (snapshots.stage(_meta(7)),))
        snapshots.commit(_meta(7), epoch=1)
        disk = vfs.crash(str(tmp_path))
        connection.close()
        found = Snapshots.open(disk, f"{disk.root}/snap")
        assert found.newest() == _meta(7)
        copy = apsw.Connection(found.path(_meta(7)), vfs=vfs.name)
        assert copy.execute("select sum(n) from t").get == 6
        copy.close()
