"""Bugs of what must be durable: the log, the vote file, syncs, and what is believed of a damaged disk."""

from __future__ import annotations

from typing import Any

import msgspec
from mutants.bug import Patch, bug
from support.lossy_disk import LossyDisk

from gemot.server import recovery as opening
from gemot.server.model.errors import Corrupt, DiskFailed
from gemot.server.raft.types import Batch, HardState
from gemot.server.storage import log, recovery
from gemot.server.storage import meta as meta_file
from gemot.server.storage.durable import DurableLog, Save
from gemot.server.storage.log import SegmentLog
from gemot.server.storage.meta import Meta, MetaFile
from gemot.server.storage.places import Places, Spot
from gemot.server.storage.record import HEADER_BYTES, Mark, decode_header, decode_mark
from gemot.server.storage.segment import Place, Segment
from gemot.server.storage.tail import Tail, used_end

LOG_CRASHES = "tests/storage/test_log_crash.py"
LOG_DAMAGE = "tests/storage/test_log_damage.py"
LOG = "tests/storage/test_log.py"
META = "tests/storage/test_meta.py"
SNAPSHOTS = "tests/storage/test_snapshot.py"


@bug(27, tests=(LOG_CRASHES,))
def no_sync(patch: Patch) -> None:
    """Every sync returns and does nothing."""
    patch.setattr(LossyDisk, "sync", lambda self, path, inode: None)


@bug(4)
def ack_before_sync(patch: Patch) -> None:
    """The log is acknowledged when it was written, not when it is durable."""
    patch.setattr(DurableLog, "sync", lambda self: None)


@bug(3)
def vote_twice(patch: Patch) -> None:
    """Term and vote are never made durable."""
    patch.setattr(DurableLog, "keep_vote", lambda self, saves: False)


@bug(3, 25, tests=("tests/server/test_recovery.py",))
def a_restart_forgets_the_vote(patch: Patch) -> None:
    """The term is read back at a start, and the vote in it is not."""

    def hard_state(meta: Meta, last_term: int) -> HardState:
        return HardState(max(meta.term, last_term), "")

    def save(self: MetaFile, meta: Meta) -> None:
        self.meta = msgspec.structs.replace(self.meta, vote="")
        checked(self, meta)

    checked = MetaFile.save
    patch.setattr(opening, "_hard_state", hard_state)
    patch.setattr(MetaFile, "save", save)


@bug(3)
def the_oldest_vote_of_a_group_is_kept(patch: Patch) -> None:
    """Of the votes that are saved together the first is written, not the last."""
    keep = DurableLog.keep_vote

    def keep_oldest(self: DurableLog, saves: list[Save]) -> bool:
        first = [save for save in saves if save.hard_state is not None][:1]
        keep(self, first)
        return bool(first)

    patch.setattr(DurableLog, "keep_vote", keep_oldest)


@bug(25, tests=(META,))
def a_vote_in_one_copy(patch: Patch) -> None:
    """A vote is written to one of the two copies of the vote file."""
    patch.setattr(meta_file, "_without_mark", lambda meta: None)


@bug(25, tests=(META,), simulated=False)
def an_unreadable_vote_file_is_begun_anew(patch: Patch) -> None:
    """Where both copies of the vote file are bad the server begins as if it had never voted."""
    read = meta_file._read

    def read_or_none(disk: Any, path: str) -> Meta | None:
        try:
            return read(disk, path)
        except Corrupt:
            return None

    patch.setattr(meta_file, "_read", read_or_none)
    patch.setattr(meta_file, "segment_names", lambda disk, directory: [])


@bug(27, tests=(LOG,))
def a_failed_sync_is_tried_again(patch: Patch) -> None:
    """A sync of the log that fails is asked once more, and the second word is believed."""
    sync = SegmentLog.sync

    def sync_twice(self: SegmentLog) -> None:
        try:
            sync(self)
        except DiskFailed:
            self._stopping.failure = ""
            sync(self)

    patch.setattr(SegmentLog, "sync", sync_twice)


@bug(26, tests=(LOG,))
def a_record_in_the_place_of_another_is_read(patch: Patch) -> None:
    """An entry is read back from where it should be, whichever entry was written there."""
    checked = SegmentLog._entries

    def entries(self: SegmentLog, places: Places, spot: Spot) -> Batch:
        place = places.segments[spot.segment].read_at(spot.offset)
        return Batch.decode(place.payload) if place is not None else checked(self, places, spot)

    patch.setattr(SegmentLog, "_entries", entries)


@bug(24, 26, tests=(LOG_DAMAGE,))
def payloads_are_not_checked(patch: Patch) -> None:
    """Of a record only the header is checked, at a start and when it is read."""

    def read_at(self: Segment, offset: int) -> Place | None:
        found = decode_header(self.file.pread(HEADER_BYTES, offset), self.salt)
        if found is None or found.header.length > self.size - offset:
            return None
        return Place(offset, found, self.file.pread(found.header.length, offset + HEADER_BYTES))

    patch.setattr(Segment, "read_at", read_at)


@bug(24, tests=(LOG_DAMAGE,))
def every_bad_end_is_torn(patch: Patch) -> None:
    """Whatever is wrong behind the last good record was never acknowledged: it is cut off."""
    read = recovery.read_log

    def judge_tail(segment: Segment, good: Mark, known: Mark) -> Tail:
        return Tail(used_end(segment) > segment.end, "")

    def read_log(disk: Any, directory: str, known: Mark) -> Any:
        return read(disk, directory, decode_mark(0, b""))

    patch.setattr(recovery, "judge_tail", judge_tail)
    patch.setattr(log, "read_log", read_log)


@bug(24, tests=(LOG_CRASHES,))
def every_bad_end_is_damage(patch: Patch) -> None:
    """What a crash left half written at the end of the log is taken for damage: an outage for nothing."""
    judge = recovery.judge_tail

    def judge_tail(segment: Segment, good: Mark, known: Mark) -> Tail:
        tail = judge(segment, good, known)
        return Tail(False, "its end is torn") if tail.torn else tail

    patch.setattr(recovery, "judge_tail", judge_tail)


@bug(24, 33, tests=("tests/server/test_recovery.py",))
def a_repair_is_forgotten_at_a_restart(patch: Patch) -> None:
    """That the log lost entries is not written down: after the next start the server votes again."""
    write = DurableLog.write_meta

    def write_meta(self: DurableLog, **changes: object) -> None:
        changes.pop("repairing", None)
        write(self, **changes)

    patch.setattr(DurableLog, "write_meta", write_meta)


@bug(26, tests=("tests/server/test_recovery.py",))
def the_durable_end_is_not_remembered(patch: Patch) -> None:
    """The vote file does not learn up to where the log is durable: what the disk lost is not missed."""
    save = MetaFile.save

    def save_without(self: MetaFile, meta: Meta) -> None:
        save(self, msgspec.structs.replace(meta, durable_index=0, durable_hash=b""))

    patch.setattr(MetaFile, "save", save_without)


@bug(29, tests=(LOG_CRASHES, SNAPSHOTS))
def names_are_never_synced(patch: Patch) -> None:
    """New, renamed and removed files are not made durable by a sync of their folder."""
    patch.setattr(LossyDisk, "sync_dir", lambda self, path: None)
