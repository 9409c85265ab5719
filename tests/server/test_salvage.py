"""A data directory that nobody runs: what is said of it, and what is written so that it goes on."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest
from support.virtual import chance

from gemot.server.copies import write_snapshot
from gemot.server.model.command import ENVELOPE_VERSION, Envelope, encode
from gemot.server.model.errors import BadRequest
from gemot.server.model.kv import KvList, KvSet
from gemot.server.raft.types import (
    Batch,
    Entry,
    EntryKind,
    HardState,
    RaftConfig,
    Role,
    SnapshotMeta,
    Voters,
    encode_voters,
)
from gemot.server.recovery import DataConfig, Opened, open_data
from gemot.server.salvage import Held, back_up, best, carry_out, follow, look, plan
from gemot.server.state.permission import ALLOW_ALL
from gemot.server.storage.durable import Save
from gemot.server.storage.realdisk import RealDisk

IDS = tuple(letter * 36 for letter in "abc")
ME = IDS[0]
OLD = "0" * 32
DISK = RealDisk(sync=False)


class Home:
    """The data of server `a` of three."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = str(folder)

    def open(self) -> Opened:
        config = DataConfig(directory=self.path, segment_bytes=64 << 10, raft=RaftConfig(), sync=False)
        return open_data(disk=DISK, config=config, node_id=ME, random=chance(), authorizer=ALLOW_ALL)

    def fill(self, last: int, *, applied: int, compact: bool = False) -> None:
        """Entries 1..last of term 3, `applied` of them applied, and compacted behind a snapshot."""
        opened = self.open()
        opened.durable.write_meta(term=3, vote=ME, cluster_id=OLD)
        for index in range(1, last + 1):
            opened.durable.append([Save(HardState(3, ME), Batch([_entry(index)]), index)])
        opened.durable.sync()
        opened.machine.apply([_entry(index) for index in range(1, applied + 1)])
        opened.state.settle()
        if compact:
            write_snapshot(opened.file, opened.snapshots, DISK, lambda _index: IDS, opened.state.epoch)
            opened.durable.compact(SnapshotMeta(applied, 3, IDS))
        opened.file.close()
        opened.durable.write_meta()
        opened.durable.log.close()

    def look(self) -> Held:
        return look(DISK, self.path)

    def files(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in sorted(self.folder.rglob("*"))
            if path.is_file() and not path.name.startswith("state.db-")
        }


def _entry(index: int) -> Entry:
    if index == 1:
        return Entry(3, 1, EntryKind.VOTERS, encode_voters(Voters(IDS)))
    command = KvSet(b"k%d" % index, bytes(4096))
    return Entry(3, index, EntryKind.COMMAND, encode(Envelope(ENVELOPE_VERSION, 0, "", None, command)))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "raft")
    home.fill(40, applied=30)
    return home


def test_it_tells_the_end_of_the_log_what_is_committed_and_who_votes(home: Home) -> None:
    held = home.look()
    assert (held.node, held.cluster, held.term) == (ME, OLD, 3)
    assert (held.last_index, held.last_term, held.commit) == (40, 3, 30)
    assert held.voters == IDS
    assert not held.repairing
    assert held.by_hand == ""


def test_looking_changes_nothing(home: Home) -> None:
    before = home.files()
    home.look()
    assert home.files() == before


def test_a_directory_without_a_log_is_named_as_such(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="holds no Raft data"):
        look(DISK, str(tmp_path))


def test_the_best_log_is_whole_of_the_newest_term_and_the_longest(home: Home) -> None:
    held = home.look()
    longer = msgspec.structs.replace(held, last_index=50)
    newer = msgspec.structs.replace(held, last_term=4, last_index=35)
    damaged = msgspec.structs.replace(held, last_term=9, repairing=True)
    assert best([held, longer]) is longer
    assert best([longer, newer, held]) is newer
    assert best([damaged, held]) is held


def test_logs_of_two_clusters_are_not_compared(home: Home) -> None:
    held = home.look()
    with pytest.raises(BadRequest, match="of several clusters"):
        best([held, msgspec.structs.replace(held, cluster="1" * 32)])


@pytest.mark.parametrize("compact", [False, True], ids=["whole log", "after a snapshot"])
def test_afterwards_it_leads_alone_and_holds_all_that_its_log_held(tmp_path: Path, compact: bool) -> None:
    home = Home(tmp_path / "raft")
    home.fill(40, applied=30, compact=compact)
    planned = plan(home.look(), [ME])
    assert (planned.term, planned.index) == (4, 41)
    assert carry_out(DISK, planned, note="by a test", random=chance()) == ()

    opened = home.open()
    assert opened.notes == ("log: the voters were set by hand in entry 41: by a test",)
    assert opened.durable.meta.meta.cluster_id == planned.cluster != OLD
    raft = opened.raft
    assert raft.voters == (ME,)
    raft.campaign()
    while raft.has_ready():
        ready = raft.ready()
        if ready.token:
            opened.durable.append([Save(ready.hard_state, ready.append, ready.token)])
            opened.durable.sync()
            raft.saved(ready.token)
    assert raft.role == Role.LEADER
    assert raft.commit == 42
    entries = raft.entries(opened.state.applied_index + 1, raft.commit)
    opened.machine.apply(list(entries))
    rows, _ = opened.state.read(KvList(b"k"), "")
    assert sorted(row.key for row in rows) == sorted(b"k%d" % n for n in range(2, 41))
    opened.file.close()
    opened.durable.log.close()
    assert home.look().by_hand == "by a test"


def test_nothing_of_the_log_is_changed_but_what_is_added(home: Home) -> None:
    opened = home.open()
    before = opened.durable.log.read(1, 40, 1 << 30)
    opened.file.close()
    opened.durable.log.close()
    carry_out(DISK, plan(home.look(), [ME]), note="by a test", random=chance())
    opened = home.open()
    assert opened.durable.log.read(1, 40, 1 << 30) == before
    opened.file.close()
    opened.durable.log.close()


def test_the_voters_must_name_the_server_whose_log_it_is(home: Home) -> None:
    with pytest.raises(BadRequest, match=f"must name {ME}"):
        plan(home.look(), [IDS[1]])


def test_a_damaged_log_goes_on_only_if_that_is_asked_for(home: Home) -> None:
    segment = sorted((home.folder / "log").glob("*.seg"))[0]
    raw = bytearray(segment.read_bytes())
    raw[20_000] ^= 1
    segment.write_bytes(raw)
    held = home.look()
    assert held.repairing
    assert held.last_index < 40
    with pytest.raises(BadRequest, match=r"is damaged.*-damaged"):
        plan(held, [ME])
    notes = carry_out(DISK, plan(held, [ME], damaged=True), note="by a test", random=chance())
    assert any("damaged" in note for note in notes)
    opened = home.open()
    assert not opened.raft.repairing
    assert opened.raft.voters == (ME,)
    opened.file.close()
    opened.durable.log.close()


def test_a_log_without_the_snapshot_before_it_is_never_opened(tmp_path: Path) -> None:
    """A start would forget it and fetch everything from a peer; there is none."""
    home = Home(tmp_path / "raft")
    home.fill(60, applied=50, compact=True)
    for copy in (home.folder / "snap").glob("*.snap"):
        copy.write_bytes(bytes(copy.stat().st_size))
    held = home.look()
    assert held.first_index > 1
    assert "no snapshot before it is whole" in held.gap
    with pytest.raises(BadRequest, match="of no use"):
        plan(held, [ME], damaged=True)


def test_the_vote_file_and_the_newest_segment_are_copied_first(home: Home) -> None:
    first = Path(back_up(DISK, home.path))
    segment = sorted((home.folder / "log").glob("*.seg"))[-1]
    assert (first / segment.name).read_bytes() == segment.read_bytes()
    assert (first / "meta-a").read_bytes() == (home.folder / "meta-a").read_bytes()
    assert back_up(DISK, home.path) != str(first), "an older copy is kept"
    shutil.rmtree(first)
    assert home.look().last_index == 40


def test_one_that_follows_keeps_its_log_and_gets_the_new_cluster(home: Home) -> None:
    before = home.look()
    follow(DISK, before, "f" * 32)
    assert home.look() == msgspec.structs.replace(before, cluster="f" * 32)


@pytest.mark.parametrize("cluster", ["f" * 31, "F" * 32, "f" * 31 + "\n", "", "srv1"])
def test_what_is_no_cluster_id_is_refused_and_nothing_is_written(home: Home, cluster: str) -> None:
    before = home.look()
    with pytest.raises(BadRequest, match=r"(?s)-cluster=.*32 hexadecimal digits"):
        follow(DISK, before, cluster)
    assert home.look() == before


def test_the_form_of_an_ordinary_voters_entry_is_as_it_always_was() -> None:
    assert encode_voters(Voters(("a", "b"))) == msgspec.msgpack.encode([["a", "b"]])
