"""Bugs of snapshots, their transfer and installation, compaction, and restores of backups."""

from __future__ import annotations

from typing import Any

import msgspec
from mutants.bug import Patch, bug

from gemot.server import machine, recovery
from gemot.server.compaction import Compaction
from gemot.server.consensus import Replica
from gemot.server.install import Installer
from gemot.server.machine import Machine, RestoreDue
from gemot.server.raft.log import RaftLog
from gemot.server.raft.types import SnapshotMeta
from gemot.server.restoring import Restoring
from gemot.server.state import restore
from gemot.server.state.restore import Placement
from gemot.server.storage.durable import DurableLog
from gemot.server.storage.log import SegmentLog
from gemot.server.storage.snapshot import Manifest, Receiver, Snapshots

COMPACTION = "tests/server/test_compaction.py"
SNAPSHOTS = "tests/storage/test_snapshot.py"
INSTALL = "tests/server/test_install.py"
RECOVERY = "tests/server/test_recovery.py"
RESTORE = "tests/server/test_restore.py"
RESTORING = "tests/server/test_restoring.py"


@bug(22, tests=(SNAPSHOTS,))
def a_received_snapshot_is_not_verified(patch: Patch) -> None:
    """What came is put in place, whatever became of it on the way."""

    def adopt(self: Snapshots, path: str, manifest: Manifest) -> None:
        self._sync(path)
        self._publish(path, manifest)

    patch.setattr(Snapshots, "adopt", adopt)


@bug(22, tests=(SNAPSHOTS,))
def pieces_are_taken_as_they_come(patch: Patch) -> None:
    """A piece of a snapshot is written wherever it says, of whichever snapshot it is."""

    def write(self: Receiver, key: tuple[int, int, str], offset: int, data: bytes) -> int:
        if offset + len(data) <= self.manifest.size:
            self._file.pwrite(data, offset)
            self.next_offset = max(self.next_offset, offset + len(data))
        return self.next_offset

    patch.setattr(Receiver, "write", write)


@bug(22, tests=(INSTALL,))
def a_piece_of_another_offer_is_taken(patch: Patch) -> None:
    """The answer to a question about an older snapshot goes into the one that is fetched now."""
    got = Installer._got

    def got_any(self: Installer, offer: Any, offset: int, chunk: Any) -> None:
        got(self, self._offer if self._offer is not None else offer, offset, chunk)

    patch.setattr(Installer, "_got", got_any)


@bug(21, tests=(SNAPSHOTS,))
def an_old_snapshot_is_the_newest(patch: Patch) -> None:
    """The oldest snapshot that is kept is offered and counted from."""

    def newest(self: Snapshots) -> SnapshotMeta | None:
        return next(iter(self.all()), None)

    patch.setattr(Snapshots, "newest", newest)


@bug(21, tests=(SNAPSHOTS,))
def the_newest_snapshot_goes_first(patch: Patch) -> None:
    """Of three snapshots the two older ones are kept."""

    def prune(self: Snapshots) -> None:
        for index in sorted(self._manifests)[2:]:
            self._drop(index)

    patch.setattr(Snapshots, "_prune", prune)


@bug(21, 29, tests=(SNAPSHOTS,))
def a_snapshot_is_named_before_it_is_synced(patch: Patch) -> None:
    """The manifest of a snapshot is durable, the copy that it tells of is not."""
    patch.setattr(Snapshots, "_sync", lambda self, path: None)


@bug(21, tests=(RECOVERY,))
def an_unfinished_install_is_left(patch: Patch) -> None:
    """A start after an installation that was cut short takes log and state as they are."""
    patch.setattr(recovery, "_finish_install", lambda durable, snapshots, notes: None)


@bug(21, tests=("tests/server/test_held.py",))
def entries_are_applied_during_an_install(patch: Patch) -> None:
    """The replica applies, and reads go on, while log and state are replaced."""
    patch.setattr(Replica, "hold", lambda self: None)


@bug(21, tests=(INSTALL,))
def the_log_is_not_reset(patch: Patch) -> None:
    """The state is replaced by a snapshot, the log on the disk goes on as it was."""

    def verified(self: Installer, offer: Any, refusal: Any) -> None:
        if refusal is not None:
            self._failed(offer)
            return
        self._replica.hold()
        self._readers.hold()
        self._replace(offer)

    patch.setattr(Installer, "_verified", verified)


@bug(23, tests=(COMPACTION,))
def the_log_is_cut_beyond_the_snapshots(patch: Patch) -> None:
    """The log forgets all that is applied, though no snapshot has it and the state is not durable."""

    def taken(self: Compaction, meta: SnapshotMeta) -> None:
        self._snapshotting = False
        applied, term = self._state.applied_index, self._state.applied_term
        self._log.compact(SnapshotMeta(applied, term, self._raft.voters_at(applied)))
        self._raft.compacted(meta.index, meta)

    patch.setattr(Compaction, "taken", taken)


@bug(23, tests=(COMPACTION,))
def the_log_is_cut_at_the_newest_snapshot(patch: Patch) -> None:
    """The log does not lead from the older snapshot any more: one bad file is the only one."""

    def taken(self: Compaction, meta: SnapshotMeta) -> None:
        self._snapshotting = False
        self._log.compact(meta)
        self._raft.compacted(meta.index, meta)

    patch.setattr(Compaction, "taken", taken)


@bug(14, 23, tests=("tests/server/test_recovery.py",))
def the_voters_are_dropped_with_their_entries(patch: Patch) -> None:
    """The log forgets the entries that tell who votes, and nothing but a snapshot knows it then."""

    def compact(self: DurableLog, base: SnapshotMeta) -> None:
        self.log.compact(base.index)

    patch.setattr(DurableLog, "compact", compact)


@bug(23, tests=("tests/storage/test_log.py",))
def a_segment_too_much_is_dropped(patch: Patch) -> None:
    """Compaction drops the segment that holds the first entry which is still needed."""
    compact = SegmentLog.compact

    def compact_more(self: SegmentLog, through: int) -> None:
        compact(self, min(through + 3, self.durable_index))

    patch.setattr(SegmentLog, "compact", compact_more)


@bug(14, 21)
def a_snapshot_names_no_voters(patch: Patch) -> None:
    """Who begins from a snapshot does not know who votes."""
    reset = RaftLog.reset

    def reset_without(self: RaftLog, meta: SnapshotMeta) -> None:
        reset(self, SnapshotMeta(meta.index, meta.term, ()))

    patch.setattr(RaftLog, "reset", reset_without)


# -- restores ----------------------------------------------------------------------------------------------


@bug(40, tests=(RESTORE,))
def a_restore_begins_no_epoch(patch: Patch) -> None:
    """After a restore the epoch is that of the snapshot, or the one that was."""
    place = restore.placement

    def placement(meta: Any, command: Any, index: int, term: int, time_ms: int) -> Placement:
        return msgspec.structs.replace(place(meta, command, index, term, time_ms), epoch=meta.epoch)

    patch.setattr(restore, "placement", placement)


@bug(40, tests=(RESTORE,))
def a_restore_takes_the_index_back(patch: Patch) -> None:
    """After a restore indexes that were told before come again."""
    place = restore.placement

    def placement(meta: Any, command: Any, index: int, term: int, time_ms: int) -> Placement:
        placed = place(meta, command, index, term, time_ms)
        return msgspec.structs.replace(placed, shift=meta.shift, restored_index=index + meta.shift)

    patch.setattr(restore, "placement", placement)


@bug(19, 40, tests=(RESTORE,), simulated=False)
def a_restore_is_done_twice(patch: Patch) -> None:
    """A restore that was logged twice is carried out again, and takes away what was written between."""
    patch.setattr(Machine, "_done", staticmethod(lambda writing, command: False))
    patch.setattr(machine.restore, "check", lambda cursor, meta, command: None)


@bug(40, tests=(RESTORING,), simulated=False)
def a_lost_blob_is_asked_of_voters_alone(patch: Patch) -> None:
    """The last voter comes to a restore again, and asks nobody of those that gave their votes back."""
    fetch_due = Restoring._fetch_due

    def of_voters(self: Restoring, due: RestoreDue) -> None:
        patch.setattr(self._peers, "servers", self._peers.voters)
        fetch_due(self, due)

    patch.setattr(Restoring, "_fetch_due", of_voters)


@bug(40, tests=(RESTORE,), simulated=False)
def an_empty_cluster_guesses_the_epoch(patch: Patch) -> None:
    """A cluster that cannot know which epochs there were begins the snapshot's own again."""
    patch.setattr(restore, "_is_empty", lambda cursor, meta: False)
