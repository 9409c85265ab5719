"""A log and a snapshot, or a log and a state, that tell different histories."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.virtual import chance

from gemot.server.copies import write_snapshot
from gemot.server.model.command import ENVELOPE_VERSION, Envelope, encode
from gemot.server.model.kv import KvGet, KvSet
from gemot.server.raft.types import (
    Batch,
    Entry,
    EntryKind,
    HardState,
    RaftConfig,
    SnapshotMeta,
    Voters,
    encode_voters,
)
from gemot.server.recovery import DataConfig, Opened, open_data
from gemot.server.state.permission import ALLOW_ALL
from gemot.server.storage.durable import Save
from gemot.server.storage.realdisk import RealDisk

VOTERS = ("a" * 36, "b" * 36, "c" * 36)
DISK = RealDisk(sync=False)


def _open(folder: Path) -> Opened:
    config = DataConfig(directory=str(folder), segment_bytes=64 << 10, raft=RaftConfig(), sync=False)
    return open_data(
        disk=DISK, config=config, node_id=VOTERS[0], random=chance(), authorizer=ALLOW_ALL
    )  # fmt: skip


def _close(opened: Opened) -> None:
    opened.file.close()
    opened.durable.write_meta()
    opened.durable.log.close()


def _entry(index: int, term: int) -> Entry:
    if index == 1:
        return Entry(1, 1, EntryKind.VOTERS, encode_voters(Voters(VOTERS)))
    command = KvSet(b"k", b"%d of term %d" % (index, term))
    return Entry(term, index, EntryKind.COMMAND, encode(Envelope(ENVELOPE_VERSION, 0, "", None, command)))


def _log(opened: Opened, first: int, last: int, term: int) -> None:
    batch = Batch([_entry(index, term) for index in range(first, last + 1)])
    save = Save(HardState(term, ""), batch, 1)
    opened.durable.append([save])
    opened.durable.sync()
    opened.durable.keep_vote([save])


def _apply(opened: Opened, first: int, last: int, term: int) -> None:
    opened.machine.apply([_entry(index, term) for index in range(first, last + 1)])


def _snapshot(opened: Opened) -> SnapshotMeta:
    return write_snapshot(opened.file, opened.snapshots, DISK, lambda _index: VOTERS, opened.state.epoch)


def _value(opened: Opened) -> bytes:
    value: bytes = opened.state.read(KvGet(b"k"), "")[0].value
    return value


def _with_snapshot_of_term_2(home: Path, other: Path) -> Path:
    """`home` holds entries 1 to 30, those above 5 of term 1 and never committed; beside its log it holds
    the leader's snapshot of entry 20 of term 2, as if the process was killed right after it had come."""
    leader = _open(other)
    _log(leader, 1, 5, 1)
    _log(leader, 6, 20, 2)
    _apply(leader, 1, 5, 1)
    _apply(leader, 6, 20, 2)
    meta = _snapshot(leader)
    _close(leader)
    follower = _open(home)
    _log(follower, 1, 30, 1)
    _apply(follower, 1, 5, 1)
    _close(follower)
    for ending in ("snap", "json"):
        name = f"{meta.index:020d}.{ending}"
        (home / "snap" / name).write_bytes((other / "snap" / name).read_bytes())
    return home / "snap" / f"{meta.index:020d}.snap"


def test_a_snapshot_that_came_to_replace_a_longer_log_is_installed_after_a_crash(tmp_path: Path) -> None:
    _with_snapshot_of_term_2(tmp_path / "home", tmp_path / "other")
    opened = _open(tmp_path / "home")
    assert not opened.raft.repairing
    assert (opened.raft.last_index, opened.raft.term_at(20)) == (20, 2)
    assert (opened.state.applied_index, _value(opened)) == (20, b"20 of term 2")
    _close(opened)
    again = _open(tmp_path / "home")
    assert again.notes == ()
    _close(again)


def test_such_a_snapshot_is_left_alone_when_it_is_damaged(tmp_path: Path) -> None:
    copy = _with_snapshot_of_term_2(tmp_path / "home", tmp_path / "other")
    data = copy.read_bytes()
    copy.write_bytes(data[:-1] + bytes((data[-1] ^ 1,)))
    opened = _open(tmp_path / "home")
    assert (opened.raft.last_index, opened.state.applied_index) == (30, 5)
    _close(opened)


def _after_a_lost_replacement(home: Path, *, snapshot: bool) -> None:
    """Entries 6 to 30 of term 1 were replaced by 6 to 20 of term 2, which were applied; that last record
    of the log is damaged now, so that the old entries seem to be true again."""
    opened = _open(home)
    _log(opened, 1, 5, 1)
    _log(opened, 6, 30, 1)
    _log(opened, 6, 20, 2)
    _apply(opened, 1, 5, 1)
    _apply(opened, 6, 20, 2)
    if snapshot:
        _snapshot(opened)
    opened.file.checkpoint()
    _close(opened)
    (segment,) = (home / "log").glob("*.seg")
    data = bytearray(segment.read_bytes())
    data[data.rindex(b"20 of term 2")] ^= 1
    segment.write_bytes(data)


@pytest.mark.parametrize("snapshot", [False, True])
def test_a_state_of_another_history_than_the_log_is_not_taken_for_committed(
    tmp_path: Path, snapshot: bool
) -> None:
    _after_a_lost_replacement(tmp_path, snapshot=snapshot)
    opened = _open(tmp_path)
    assert opened.raft.repairing
    reached = opened.state.applied_index
    assert opened.raft.commit == reached == (20 if snapshot else 0)
    assert opened.raft.term_at(reached) == opened.state.applied_term
    _close(opened)
    again = _open(tmp_path)
    assert again.raft.repairing
    _close(again)


def test_with_every_snapshot_damaged_too_the_node_opens_empty_and_repairs(tmp_path: Path) -> None:
    opened = _open(tmp_path)
    _log(opened, 1, 5, 1)
    _apply(opened, 1, 5, 1)
    meta = _snapshot(opened)
    opened.durable.reset(meta)
    _close(opened)
    (copy,) = (tmp_path / "snap").glob("*.snap")
    data = copy.read_bytes()
    copy.write_bytes(data[:-1] + bytes((data[-1] ^ 1,)))
    for path in tmp_path.glob("state.db*"):
        path.unlink()
    opened = _open(tmp_path)
    assert opened.raft.repairing
    assert (opened.raft.last_index, opened.state.applied_index) == (0, 0)
    _close(opened)
