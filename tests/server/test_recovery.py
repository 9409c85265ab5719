"""Opening a data directory: each thing that may have gone wrong, and what is made of it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import apsw
import pytest
from support.virtual import chance

from gemot.server.copies import write_snapshot
from gemot.server.model.command import ENVELOPE_VERSION, Envelope, encode
from gemot.server.model.errors import Corrupt, DiskFailed
from gemot.server.model.kv import KvGet, KvList, KvSet
from gemot.server.raft.types import (
    Batch,
    Entry,
    EntryKind,
    HardState,
    RaftConfig,
    SnapshotMeta,
    VoteAsk,
    VoteReply,
    Voters,
    encode_voters,
)
from gemot.server.recovery import DataConfig, Opened, open_data
from gemot.server.state.permission import ALLOW_ALL
from gemot.server.storage.durable import Save
from gemot.server.storage.realdisk import RealDisk
from gemot.server.storage.statefile import StateFile

ME = "a" * 36
ENTRIES = 40


class Home:
    """A data directory that is opened, filled and closed as a server does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "raft"
        self.disk = RealDisk(sync=False)

    def open(self, node_id: str = ME) -> Opened:
        return open_data(
            disk=self.disk,
            config=DataConfig(
                directory=str(self.folder), segment_bytes=64 << 10, raft=RaftConfig(), sync=False
            ),
            node_id=node_id,
            random=chance(),
            authorizer=ALLOW_ALL,
        )

    def close(self, opened: Opened) -> None:
        opened.file.close()
        opened.durable.write_meta()
        opened.durable.log.close()

    def fill(self, opened: Opened, first: int, last: int, *, apply: bool = True) -> None:
        """Log and apply entries first..last; the first of all says who votes."""
        for index in range(first, last + 1):
            batch = Batch([_entry(index)])
            opened.durable.append([Save(HardState(1, "") if index == 1 else None, batch, index)])
        opened.durable.sync()
        opened.durable.keep_vote([Save(HardState(1, ""), None, last)])
        if apply:
            opened.machine.apply([_entry(index) for index in range(first, last + 1)])

    def snapshot(self, opened: Opened) -> SnapshotMeta:
        epoch = opened.state.epoch
        return write_snapshot(opened.file, opened.snapshots, self.disk, lambda _index: (ME,), epoch)

    def filled(self) -> None:
        opened = self.open()
        self.fill(opened, 1, ENTRIES)
        opened.file.checkpoint()
        self.close(opened)


def _entry(index: int, value: bytes = b"") -> Entry:
    if index == 1:
        return Entry(1, 1, EntryKind.VOTERS, encode_voters(Voters((ME,))))
    command = KvSet(b"k%d" % index, value or b"v%d" % index)
    return Entry(1, index, EntryKind.COMMAND, encode(Envelope(ENVELOPE_VERSION, 0, "", None, command)))


def _replay(opened: Opened) -> None:
    """Apply what the log has and the state has not, as a replica does once it is committed."""
    log, state = opened.durable.log, opened.state
    while state.applied_index < log.last_index:
        opened.machine.apply(log.read(state.applied_index + 1, log.last_index, 1 << 20))


def _keys(opened: Opened) -> list[bytes]:
    return [row.key for row in opened.state.read(KvList(b""), "")[0]]


ALL_KEYS = sorted(b"k%d" % n for n in range(2, ENTRIES + 1))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_a_whole_directory_opens_without_a_note(home: Home) -> None:
    home.filled()
    opened = home.open()
    assert opened.notes == ()
    assert opened.state.applied_index == opened.raft.last_index == ENTRIES
    assert not opened.raft.repairing
    assert _keys(opened) == ALL_KEYS
    home.close(opened)


def test_a_directory_of_another_node_is_refused_naming_both(home: Home) -> None:
    home.filled()
    with pytest.raises(Corrupt, match=f"belongs to node {ME}, this node is {'b' * 36}"):
        home.open("b" * 36)


def test_a_state_file_in_which_a_damaged_page_was_met_is_built_again(home: Home) -> None:
    """Simulator, seed 62 of the second swarm: the opening does not read every page, so the server met the
    damaged one, stopped, opened the same file again, and so for ever."""
    home.filled()
    path = home.folder / "state.db"
    file = StateFile(path)
    with pytest.raises(Corrupt), file.explained:
        raise apsw.CorruptError("database disk image is malformed")
    file.close()
    opened = home.open()
    assert any("a damaged page was met" in note for note in opened.notes)
    _replay(opened)
    assert _keys(opened) == ALL_KEYS
    home.close(opened)
    assert home.open().notes == (), "it is mended, once"


@pytest.mark.parametrize("how", ["missing", "garbage", "empty", "cut", "flipped"])
def test_a_damaged_state_file_is_built_again_from_the_log(home: Home, how: str) -> None:
    home.filled()
    path = home.folder / "state.db"
    data = path.read_bytes()
    damaged = {
        "garbage": b"no database at all " * 500,
        "empty": b"",
        "cut": data[: len(data) // 2],
        "flipped": data[:5_000] + bytes(byte ^ 0xFF for byte in data[5_000:]),
    }
    path.unlink() if how == "missing" else path.write_bytes(damaged[how])
    opened = home.open()
    assert not opened.raft.repairing, "the log is the truth, and it is whole"
    _replay(opened)
    assert _keys(opened) == ALL_KEYS
    if how not in ("missing", "empty"):
        assert any("state file: rebuilt from snapshot and log" in note for note in opened.notes)
    home.close(opened)


@pytest.mark.parametrize(
    "statement",
    [
        "delete from meta",
        "update meta set marks = x'c1'",
        "update meta set rows_sum = 187",
        "insert into retry values (x'00', 0, x'90')",
        "insert into retry_origin values (x'00', 0, 0); insert into retry values (x'00', 0, x'c1')",
    ],
)
def test_a_state_of_rows_that_cannot_be_is_built_again(home: Home, statement: str) -> None:
    """Whole pages that do not belong together. Found by a seed beside a planted bug: what such rows are taken
    for raised no Corrupt but a TypeError, and the server could not start any more."""
    home.filled()
    file = StateFile(home.folder / "state.db")
    file.cursor.execute(statement)
    file.close()
    opened = home.open()
    assert any("rows of the state are not as they were written" in note for note in opened.notes)
    _replay(opened)
    assert _keys(opened) == ALL_KEYS
    home.close(opened)


def test_a_table_that_begins_at_a_page_of_another_fails_the_verification(home: Home) -> None:
    home.filled()
    opened = home.open()
    opened.file.cursor.execute("insert into autopilot values (1, 187)")
    with pytest.raises(Corrupt, match="rows of the state are not as they were written"):
        opened.state.verify()
    home.close(opened)


@pytest.mark.parametrize("newest_is_bad", [False, True])
def test_a_damaged_state_file_is_built_again_from_the_best_snapshot(home: Home, newest_is_bad: bool) -> None:
    opened = home.open()
    home.fill(opened, 1, 10)
    older = home.snapshot(opened)
    home.fill(opened, 11, 20)
    newer = home.snapshot(opened)
    home.fill(opened, 21, ENTRIES)
    home.close(opened)
    if newest_is_bad:
        path = Path(opened.snapshots.path(newer))
        data = bytearray(path.read_bytes())
        data[-100] ^= 1
        path.write_bytes(data)
    (home.folder / "state.db").write_bytes(b"garbage" * 1_000)
    opened = home.open()
    assert opened.state.applied_index == (older if newest_is_bad else newer).index
    _replay(opened)
    assert _keys(opened) == ALL_KEYS
    assert not opened.raft.repairing
    home.close(opened)


@pytest.mark.parametrize("fails", ["shutil.copyfile", "gemot.server.recovery.Raft"])
def test_an_opening_that_fails_leaves_nothing_open(
    home: Home, fails: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by crash points: a server that fell while it built its state again left that open."""
    opened = home.open()
    home.fill(opened, 1, ENTRIES)
    home.snapshot(opened)
    home.close(opened)
    (home.folder / "state.db").write_bytes(b"garbage" * 1_000)

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "the disk does not answer")

    with monkeypatch.context() as patched:
        patched.setattr(fails, fail)
        with pytest.raises((DiskFailed, OSError), match="the disk does not answer") as caught:
            home.open()
    open_files = [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    assert not [path for path in open_files if path.startswith(str(home.folder / "state.db"))]
    del caught  # its traceback held on to what was open


def test_a_state_beyond_the_end_of_the_log_means_repairing_for_good(home: Home) -> None:
    """Entries that were applied are gone from the log: it may have acknowledged what it does not have."""
    opened = home.open()
    home.fill(opened, 1, 20)
    opened.machine.apply([_entry(index) for index in range(21, 26)])
    opened.file.checkpoint()
    home.close(opened)
    opened = home.open()
    assert opened.raft.repairing
    assert "it is applied to 25, the log holds 1 to 20" in " ".join(opened.notes)
    assert opened.state.applied_index <= 20
    home.close(opened)
    opened = home.open()
    assert opened.raft.repairing, "until it is whole again, whatever restarts"
    home.close(opened)


def test_a_snapshot_beyond_the_log_is_an_installation_and_is_finished(home: Home) -> None:
    """The crash came after the snapshot was kept and before the log was reset."""
    other = Home(home.folder.parent / "other")
    peer = other.open()
    other.fill(peer, 1, ENTRIES)
    meta = other.snapshot(peer)
    opened = home.open()
    home.fill(opened, 1, 10)
    copy = Path(opened.snapshots.stage(meta))
    copy.write_bytes(Path(peer.snapshots.path(meta)).read_bytes())
    opened.snapshots.commit(meta, epoch=0)
    home.close(opened)
    other.close(peer)
    opened = home.open()
    assert f"snapshot {ENTRIES}: its installation was cut short" in " ".join(opened.notes)
    assert opened.state.applied_index == opened.raft.last_index == ENTRIES
    assert opened.state.read(KvGet(b"k30"), "")[0].value == b"v30"
    assert not opened.raft.repairing
    home.close(opened)


def test_a_log_reset_before_its_state_is_an_installation_and_is_finished(home: Home) -> None:
    """The crash came after the log was reset and before the state was replaced."""
    opened = home.open()
    home.fill(opened, 1, 20)
    meta = home.snapshot(opened)
    home.close(opened)
    opened = home.open()
    opened.durable.reset(meta)
    home.close(opened)
    path = home.folder / "state.db"
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    opened = home.open()
    assert opened.state.applied_index == 20
    assert _keys(opened) == sorted(b"k%d" % n for n in range(2, 21))
    home.close(opened)


@pytest.mark.parametrize("how", ["cut", "reset"])
def test_who_votes_is_known_though_the_entries_that_tell_it_and_all_snapshots_are_gone(
    home: Home, how: str
) -> None:
    opened = home.open()
    for index in range(1, ENTRIES + 1):  # in several segments
        entry = _entry(index, b"x" * 8_000)
        opened.durable.append([Save(HardState(1, "") if index == 1 else None, Batch([entry]), index)])
        opened.machine.apply([entry])
    opened.durable.sync()
    meta = home.snapshot(opened)
    if how == "cut":
        opened.durable.compact(meta)
    else:
        opened.durable.reset(meta)
    assert opened.durable.log.first_index > 1
    home.close(opened)
    for path in (home.folder / "snap").iterdir():
        path.unlink()
    opened = home.open()
    assert opened.raft.voters == (ME,)
    assert opened.raft.voters_at(ENTRIES) == (ME,)
    assert not opened.raft.repairing
    home.close(opened)


def test_without_a_usable_snapshot_the_node_begins_anew_and_repairs(home: Home) -> None:
    opened = home.open()
    home.fill(opened, 1, 20)
    meta = home.snapshot(opened)
    opened.durable.reset(meta)
    home.close(opened)
    (home.folder / "state.db").write_bytes(b"garbage" * 1_000)
    Path(opened.snapshots.path(meta)).write_bytes(b"garbage" * 1_000)
    opened = home.open()
    assert opened.raft.repairing
    assert any("no snapshot is usable" in note for note in opened.notes)
    assert opened.raft.last_index == 0
    assert opened.state.applied_index == 0
    home.close(opened)


def test_a_last_write_that_the_disk_lost_means_repairing(home: Home) -> None:
    """Nothing in the log tells of it: only the vote file remembers up to where it was durable."""
    opened = home.open()
    home.fill(opened, 1, ENTRIES - 1)
    (segment,) = (home.folder / "log").glob("*.seg")
    before = segment.read_bytes()
    home.fill(opened, ENTRIES, ENTRIES, apply=False)
    home.close(opened)
    segment.write_bytes(before)
    opened = home.open()
    assert opened.raft.repairing
    assert any("log: damaged" in note and "was synced" in note for note in opened.notes)
    home.close(opened)


def test_damage_in_the_log_means_repairing_and_is_remembered(home: Home) -> None:
    home.filled()
    segment = max((home.folder / "log").iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(segment.read_bytes())
    at = data.index(b"v20")
    data[at] ^= 0xFF
    segment.write_bytes(data)
    for _ in range(2):
        opened = home.open()
        assert opened.raft.repairing
        assert opened.raft.last_index < 20
        home.close(opened)


def test_term_and_vote_survive_whatever_happens_to_the_state(home: Home) -> None:
    opened = home.open()
    home.fill(opened, 1, 5)
    opened.durable.keep_vote([Save(HardState(7, "someone"), None, 6)])
    home.close(opened)
    (home.folder / "state.db").unlink()
    opened = home.open()
    assert opened.raft.term == 7
    assert _answer(opened, "another") is False, "the vote of this term is given"
    assert _answer(opened, "someone") is True
    home.close(opened)


def _answer(opened: Opened, candidate: str) -> bool:
    """Does it vote for this candidate in its present term?"""
    raft = opened.raft
    raft.step(VoteAsk(raft.term, candidate, last_index=1_000, last_term=raft.term, pre=False, force=True))
    ready = raft.ready()
    (answer,) = [
        message for _, message in (*ready.messages, *ready.after_save) if isinstance(message, VoteReply)
    ]
    return answer.granted
