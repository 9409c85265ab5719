"""Reading through what lies still: every damaged place is found, and nothing whole is called damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.virtual import chance

from gemot.server.copies import write_snapshot
from gemot.server.model.command import ENVELOPE_VERSION, Envelope, encode
from gemot.server.model.kv import KvGet, KvSet
from gemot.server.raft.types import Batch, Entry, EntryKind, HardState, RaftConfig, Voters
from gemot.server.raft.types import encode_voters as encoded
from gemot.server.recovery import DataConfig, Opened, mark_state_damaged, open_data
from gemot.server.state.permission import ALLOW_ALL
from gemot.server.storage.durable import Save
from gemot.server.storage.realdisk import RealDisk
from gemot.server.storage.scrub import Rot, Scrub
from gemot.server.storage.statefile import PAGE_BYTES

ME = "a" * 36
DISK = RealDisk(sync=False)


class Home:
    """Some sealed segments, a snapshot, and a state whose main file holds everything."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.opened = self.open()
        entries = [_entry(index) for index in range(1, 61)]
        for entry in entries:
            self.opened.durable.append([Save(HardState(1, ""), Batch([entry]), entry.index)])
        self.opened.durable.sync()
        self.opened.durable.keep_vote([Save(HardState(1, ""), None, 60)])
        self.opened.machine.apply(entries)
        self.opened.state.settle()
        state = self.opened.state
        opened = self.opened
        self.snapshot = write_snapshot(opened.file, opened.snapshots, DISK, lambda _index: (ME,), state.epoch)
        self.opened.file.checkpoint()

    def open(self) -> Opened:
        config = DataConfig(directory=str(self.folder), segment_bytes=64 << 10, raft=RaftConfig(), sync=False)
        return open_data(disk=DISK, config=config, node_id=ME, random=chance(), authorizer=ALLOW_ALL)

    def close(self) -> None:
        self.opened.file.close()
        self.opened.durable.write_meta()
        self.opened.durable.log.close()

    def scrub(self, budget: int = 1 << 30) -> Scrub:
        scrub = Scrub(
            disk=DISK,
            directory=str(self.folder),
            log=self.opened.durable.log,
            snapshots=self.opened.snapshots,
            file=self.opened.file,
        )
        while not scrub.over:
            scrub.step(budget)
        return scrub

    def segments(self) -> list[Path]:
        return sorted((self.folder / "log").glob("*.seg"))


def _entry(index: int) -> Entry:
    if index == 1:
        return Entry(1, 1, EntryKind.VOTERS, encoded(Voters((ME,))))
    command = KvSet(b"k%d" % index, b"value %d " % index * 400)
    return Entry(1, index, EntryKind.COMMAND, encode(Envelope(ENVELOPE_VERSION, 0, "", None, command)))


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "raft")


def told(found: list[Rot]) -> list[str]:
    return [rot.part for rot in found]


@pytest.mark.parametrize("budget", [1, 4096, 1 << 30])
def test_what_is_whole_is_read_to_its_end_and_called_whole(home: Home, budget: int) -> None:
    scrub = home.scrub(budget)
    assert scrub.found == []
    assert scrub.whole == [home.snapshot]
    assert scrub.rebuildable()
    sealed = 60 * 3_200 * (len(home.segments()) - 1) // len(home.segments())
    state = (home.folder / "state.db").stat().st_size
    assert scrub.read >= sealed // 2 + 2 * state


def test_a_step_reads_about_as_much_as_it_may(home: Home) -> None:
    scrub = Scrub(
        disk=DISK,
        directory=str(home.folder),
        log=home.opened.durable.log,
        snapshots=home.opened.snapshots,
        file=home.opened.file,
    )
    scrub.step(1)
    assert 0 < scrub.read < 16 << 10
    assert not scrub.over


@pytest.mark.parametrize("offset", [8, 20, 700, 5_000, 40_000])
def test_any_bit_of_a_sealed_segment_is_missed(home: Home, offset: int) -> None:
    flip(home.segments()[1], offset)
    scrub = home.scrub()
    assert told(scrub.found) == ["segment"]
    assert home.segments()[1].name in scrub.found[0].message
    assert scrub.found[0].last == home.opened.durable.log.last_of(2)
    assert not scrub.rebuildable()


def test_the_segment_that_is_written_to_is_left_alone(home: Home) -> None:
    flip(home.segments()[-1], 700)
    assert home.scrub().found == []


def test_a_damaged_snapshot_goes_when_a_new_one_is_made(home: Home) -> None:
    flip(Path(home.opened.snapshots.path(home.snapshot)), 10_000)
    scrub = home.scrub()
    assert told(scrub.found) == ["snapshot"]
    state = home.opened.state
    home.opened.machine.apply([_entry(61)])
    opened = home.opened
    new = write_snapshot(opened.file, opened.snapshots, DISK, lambda _index: (ME,), state.epoch)
    assert home.opened.snapshots.all() == (new,)
    assert home.scrub().whole == [new]


def test_a_damaged_page_of_the_state_is_found_and_a_start_builds_it_again(home: Home) -> None:
    path = home.folder / "state.db"
    at = path.read_bytes().index(b"value 30 ")
    flip(path, at + 4)
    scrub = home.scrub()
    assert told(scrub.found) == ["state"]
    assert "does not fit its checksum" in scrub.found[0].message
    assert scrub.rebuildable()

    mark_state_damaged(str(home.folder))
    home.close()
    home.opened = home.open()
    assert [note for note in home.opened.notes if "a damaged page was met" in note]
    entry, _ = home.opened.state.read(KvGet(b"k30"), "")
    assert entry.value == b"value 30 " * 400
    assert home.scrub().found == []
    home.close()
    assert home.open().notes == (), "once"


def test_the_last_page_of_the_state_is_read_too(home: Home) -> None:
    path = home.folder / "state.db"
    flip(path, path.stat().st_size - PAGE_BYTES + 100)
    assert told(home.scrub().found) == ["state"]


def test_with_neither_a_whole_snapshot_nor_the_whole_log_the_state_is_not_given_up(home: Home) -> None:
    home.opened.durable.log.compact(60)
    assert home.opened.durable.log.start.index > 0
    assert home.scrub().rebuildable()
    flip(Path(home.opened.snapshots.path(home.snapshot)), 10_000)
    assert not home.scrub().rebuildable()
