"""Opening a data directory: what the last run left, put right, ready for a replica.

The rules (design: the log, the state, snapshots):
- Log and vote are the truth; the state file is only their consequence. Damaged, missing, or beyond the
  log's end, it is built again from a snapshot and the log.
- A log that lost entries it may have acknowledged makes the node *repairing*; that is durable before
  anything on disk is touched.
- A snapshot beyond the log's end or of another history than the log, or a log that begins after the state's
  end, is an installation that was cut short: it is finished.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import apsw
import msgspec

from gemot.server.machine import Machine
from gemot.server.model.errors import Corrupt, GemotError
from gemot.server.ports import Random
from gemot.server.raft.node import Raft
from gemot.server.raft.types import HardState, RaftConfig, SnapshotMeta
from gemot.server.raft.voters import by_hand
from gemot.server.state.permission import Authorizer
from gemot.server.state.store import State
from gemot.server.storage.disk import Disk
from gemot.server.storage.durable import DurableLog
from gemot.server.storage.log import SegmentLog
from gemot.server.storage.meta import Meta, MetaFile
from gemot.server.storage.snapshot import Snapshots
from gemot.server.storage.sqlite import CHECKSUM_VFS, damage_note
from gemot.server.storage.standing import examine
from gemot.server.storage.statefile import WAL_LIMIT_BYTES, StateFile


class DataConfig(msgspec.Struct, frozen=True):
    """Where and how one server keeps its data."""

    directory: str
    segment_bytes: int
    raft: RaftConfig
    sync: bool = True
    vfs: str = CHECKSUM_VFS
    wal_limit_bytes: int = WAL_LIMIT_BYTES


class Opened:
    """The parts of a data directory, open. `notes` are sentences about what had to be put right."""

    def __init__(
        self,
        *,
        durable: DurableLog,
        snapshots: Snapshots,
        file: StateFile,
        state: State,
        machine: Machine,
        raft: Raft,
        notes: tuple[str, ...],
    ) -> None:
        self.durable = durable
        self.snapshots = snapshots
        self.file = file
        self.state = state
        self.machine = machine
        self.raft = raft
        self.notes = notes


def open_data(
    *, disk: Disk, config: DataConfig, node_id: str, random: Random, authorizer: Authorizer
) -> Opened:
    """Open, and repair what may be repaired. Raises Corrupt, DiskFailed, NewerFormat."""
    notes: list[str] = []
    meta = MetaFile.open(disk, config.directory)
    notes.extend(meta.warnings)
    if meta.fresh:
        meta.save(msgspec.structs.replace(meta.meta, node_id=node_id))
    elif meta.meta.node_id != node_id:
        raise Corrupt(
            f"{config.directory} belongs to node {meta.meta.node_id}, this node is {node_id}: "
            "a data directory is never moved between nodes"
        )
    found = SegmentLog.open(
        disk=disk,
        directory=f"{config.directory}/log",
        segment_bytes=config.segment_bytes,
        durable_index=meta.meta.durable_index,
        durable_hash=meta.meta.durable_hash,
    )
    found.log.begin()
    durable = DurableLog(log=found.log, meta=meta)
    if found.torn is not None:
        notes.append(f"log: a torn end was cut off, a copy is kept: {found.torn}")
    if found.damage is not None:
        notes.append(f"log: damaged, this node repairs itself from the others: {found.damage}")
        durable.write_meta(repairing=True)
    snapshots = Snapshots.open(disk, f"{config.directory}/snap")
    _finish_install(durable, snapshots, notes)
    file, state = _open_state(config, durable, snapshots, authorizer, notes)
    with _closed_by_failure(file):
        base = log_base(found.log, snapshots, meta.meta.base)
        raft = Raft(
            id=node_id,
            config=config.raft,
            random=random,
            hard_state=_hard_state(meta.meta, found.log.last_term),
            snapshot=base,
            log=found.log,
            last_index=found.log.last_index,
            commit=state.applied_index,
            repairing=meta.meta.repairing,
        )
        notes.extend(
            f"log: the voters were set by hand in entry {entry.index}: {by_hand(entry)}"
            for entry in found.log.read(raft.voters_index, raft.voters_index, 1)
            if by_hand(entry)
        )
        machine = Machine(state=state, authorizer=authorizer)
        return Opened(
            durable=durable,
            snapshots=snapshots,
            file=file,
            state=state,
            machine=machine,
            raft=raft,
            notes=tuple(notes),
        )


def _finish_install(durable: DurableLog, snapshots: Snapshots, notes: list[str]) -> None:
    """A whole snapshot that the log does not lead to was being installed: the log is reset to it now.

    What is in a snapshot is committed. So where the log holds another entry at its index, that entry and
    all after it are not; or, in a damaged log, they came back when the record that had replaced them was
    lost.
    """
    for snapshot in reversed(snapshots.all()):
        if snapshot.index < durable.log.start.index or _agree(durable.log, snapshot.index, snapshot.term):
            return
        if snapshots.verify(snapshot):
            notes.append(f"snapshot {snapshot.index}: its installation was cut short and is finished now")
            durable.reset(snapshot)
            return
        notes.append(f"snapshot {snapshot.index}: it is damaged and is not used")


def _agree(log: SegmentLog, index: int, term: int) -> bool:
    """Is this entry in the log, or just before its first one?"""
    return log.term(index) == term


def _hard_state(meta: Meta, last_term: int) -> HardState:
    """Term and vote; a crash may leave entries of a newer term beside an older vote file, then nobody
    was voted for in it (the vote is durable before it is told)."""
    return HardState(max(meta.term, last_term), meta.vote if meta.term >= last_term else "")


def log_base(log: SegmentLog, snapshots: Snapshots, cut: SnapshotMeta) -> SnapshotMeta:
    """The newest snapshot of the log's own history, or else that entry of it up to which it was `cut`.

    It is committed, and it is known who votes then. If neither is in this log, nothing tells who votes
    before its first VOTERS entry.
    """
    for base in (*reversed(snapshots.all()), cut):
        if _agree(log, base.index, base.term):
            return base
    return SnapshotMeta(log.start.index, log.start.term, ())


def mark_state_damaged(directory: str) -> None:
    """Have the next start build the state again: by itself it would only meet damage in what it reads."""
    damage_note(Path(directory) / "state.db").touch()


def _open_state(
    config: DataConfig,
    durable: DurableLog,
    snapshots: Snapshots,
    authorizer: Authorizer,
    notes: list[str],
) -> tuple[StateFile, State]:
    """The state file if it fits the log, else one built again from the best snapshot."""
    path = Path(config.directory) / "state.db"
    log = durable.log
    try:
        file, state = _open_verified(config, path, authorizer)
        if _agree(log, state.applied_index, state.applied_term):
            return file, state
        problem = (
            f"it is applied to {state.applied_index}, the log holds {log.first_index} to {log.last_index}"
            + (" of another history" if log.start.index <= state.applied_index <= log.last_index else "")
        )
        with _closed_by_failure(file):
            if state.applied_index >= log.start.index:
                # Entries that this node applied are not in its log any more: some of it was lost.
                durable.write_meta(repairing=True)
        file.close()
    except Corrupt as error:
        problem = error.message
    notes.append(f"state file: rebuilt from snapshot and log, since {problem}")
    return _rebuild_state(config, durable, snapshots, authorizer, notes)


def _rebuild_state(
    config: DataConfig,
    durable: DurableLog,
    snapshots: Snapshots,
    authorizer: Authorizer,
    notes: list[str],
) -> tuple[StateFile, State]:
    path = Path(config.directory) / "state.db"
    log = durable.log
    for suffix in ("-wal", "-shm", "-journal", ""):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    damage_note(path).unlink(missing_ok=True)
    file = StateFile(path, vfs=config.vfs, sync=config.sync, wal_limit_bytes=config.wal_limit_bytes)
    with _closed_by_failure(file):
        for snapshot in reversed(snapshots.all()):
            if _agree(log, snapshot.index, snapshot.term) and snapshots.verify(snapshot):
                try:
                    examine(Path(snapshots.path(snapshot)), config.vfs)
                    file.install(Path(snapshots.path(snapshot)))
                    return file, State(file=file, authorizer=authorizer)
                except Corrupt as error:
                    notes.append(f"snapshot {snapshot.index}: {error.message}")
        if log.start.index > 0:
            notes.append("no snapshot is usable: this node fetches one from a peer")
            durable.write_meta(repairing=True)
            durable.reset(SnapshotMeta(0, 0, ()))
        return file, State(file=file, authorizer=authorizer)


def _open_verified(config: DataConfig, path: Path, authorizer: Authorizer) -> tuple[StateFile, State]:
    """Raises Corrupt if the file or its rows are not what was written, or were found damaged before."""
    if damage_note(path).exists():
        raise Corrupt(f"a damaged page was met in {path} when it was read last")
    file = StateFile(path, vfs=config.vfs, sync=config.sync, wal_limit_bytes=config.wal_limit_bytes)
    with _closed_by_failure(file):
        try:
            state = State(file=file, authorizer=authorizer)
            # Each page may be whole, and yet one whose last write a disk lost, or put in a wrong place.
            state.verify()
        except apsw.SQLError as error:
            # Ours knows the schema that the file says it has: the page with the newest one was lost.
            raise Corrupt(f"the schema of the state file {path} is not as it was written: {error}") from error
    return file, state


@contextmanager
def _closed_by_failure(file: StateFile) -> Iterator[None]:
    """What is not handed on is closed, so that whoever opens the directory next finds nobody in it."""
    try:
        yield
    except BaseException:
        with suppress(GemotError):
            file.close()
        raise
