"""A replica whose log is about to be replaced by a snapshot, with entries still to be applied."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
from support.virtual import VirtualTimer, chance

from gemot.server.consensus import Replica
from gemot.server.model.command import ENVELOPE_VERSION, Envelope, encode
from gemot.server.model.kv import KvSet
from gemot.server.pace import FIRST_ENTRIES, SLICE_US
from gemot.server.raft.types import (
    Append,
    Batch,
    Entry,
    EntryKind,
    HardState,
    Message,
    RaftConfig,
    SnapshotMeta,
    Voters,
    encode_voters,
)
from gemot.server.recovery import DataConfig, Opened, open_data
from gemot.server.state.permission import ALLOW_ALL
from gemot.server.storage.durable import Save
from gemot.server.storage.realdisk import RealDisk
from gemot.server.storage.snapshot import Manifest, Snapshots

VOTERS = ("a" * 36, "b" * 36)
ENTRIES = 3 * FIRST_ENTRIES


def _open(folder: Path) -> Opened:
    config = DataConfig(directory=str(folder), segment_bytes=64 << 10, raft=RaftConfig(), sync=False)
    return open_data(
        disk=RealDisk(sync=False), config=config, node_id=VOTERS[0], random=chance(), authorizer=ALLOW_ALL
    )  # fmt: skip


def _entry(index: int) -> Entry:
    if index == 1:
        return Entry(1, 1, EntryKind.VOTERS, encode_voters(Voters(VOTERS)))
    command = KvSet(b"k%d" % index, b"v")
    return Entry(1, index, EntryKind.COMMAND, encode(Envelope(ENVELOPE_VERSION, 0, "", None, command)))


class _Around:
    """The ports and the watcher of a replica that is not spoken to."""

    def __init__(self, opened: Opened) -> None:
        self._log = opened.durable.log

    def send(self, to: str, message: Message) -> None: ...

    def read(self, first: int, last: int, max_bytes: int) -> tuple[Entry, ...]:
        return self._log.read(first, last, max_bytes)

    def __getattr__(self, name: str) -> Callable[..., None]:
        assert name.startswith("on_"), name
        return lambda *_: None


@pytest.fixture
def restarted(tmp_path: Path) -> Opened:
    """A follower that comes back: its log is on disk, and its state has nothing of it yet."""
    opened = _open(tmp_path)
    save = Save(HardState(1, ""), Batch([_entry(index) for index in range(1, ENTRIES + 1)]), 1)
    opened.durable.append([save])
    opened.durable.sync()
    opened.durable.keep_vote([save])
    opened.file.close()
    opened.durable.log.close()
    return _open(tmp_path)


def test_nothing_is_applied_from_a_log_that_is_being_replaced(restarted: Opened) -> None:
    timer, around = VirtualTimer(), _Around(restarted)
    replica = Replica(
        raft=restarted.raft,
        log=around,  # type: ignore[arg-type]
        machine=restarted.machine,
        state=restarted.state,
        wire=around,
        timer=timer,
    )
    replica.start(around)
    replica.on_message(Append(1, VOTERS[1], ENTRIES, 1, ENTRIES, 0, b""))
    timer.run_once()
    assert restarted.state.applied_index == FIRST_ENTRIES, "in slices"
    replica.hold()
    restarted.durable.reset(SnapshotMeta(2 * ENTRIES, 1, VOTERS))
    timer.run()
    assert restarted.state.applied_index == FIRST_ENTRIES
    restarted.file.close()


def test_slow_entries_are_applied_in_smaller_slices(restarted: Opened) -> None:
    """What one slice took decides how many entries the next one has."""
    timer, around = VirtualTimer(), _Around(restarted)
    replica = Replica(
        raft=restarted.raft,
        log=around,  # type: ignore[arg-type]
        machine=restarted.machine,
        state=restarted.state,
        wire=around,
        timer=timer,
    )
    timer.each_look_us = 4 * SLICE_US
    replica.start(around)
    replica.on_message(Append(1, VOTERS[1], ENTRIES, 1, ENTRIES, 0, b""))
    seen = [restarted.state.applied_index]
    while seen[-1] < ENTRIES and len(seen) < 1_000:
        timer.run_once()
        seen.append(restarted.state.applied_index)
    sizes = [after - before for before, after in itertools.pairwise(seen)]
    assert sizes[:4] == [FIRST_ENTRIES, FIRST_ENTRIES // 4, FIRST_ENTRIES // 16, FIRST_ENTRIES // 64]
    assert seen[-1] == ENTRIES, "one at a time, all of them"
    restarted.file.close()


def test_an_unfinished_snapshot_of_a_peer_makes_room_for_the_next(tmp_path: Path) -> None:
    disk = RealDisk(sync=False)
    snapshots = Snapshots.open(disk, str(tmp_path))
    for index in (10, 20, 30):
        manifest = Manifest(1, index, 1, VOTERS, 1, 100, "00", "1")
        receiver = snapshots.receive(manifest)
        receiver.write(receiver.key, 0, bytes(50))
    assert len(list(tmp_path.iterdir())) == 1
