"""A data directory that nobody runs, when the quorum is lost for good: what it holds, and how it goes on.

What is written, and why it is safe:
- A VOTERS entry behind the last entry, in a new term. Nothing is truncated: what may have been committed is
  kept, and is committed by it. The entry says that it was made by hand (`Voters.by_hand`). Where it is
  applied an epoch begins, and the indexes that readers know jump: what only the lost servers told, a fence
  or a watcher's index, is not told again (`state.restore.recovered`).
- Another cluster id. Servers taken for lost may come back, and two of three of them would be a quorum of the
  old voter set: of another cluster, they and this one refuse each other's hello, and neither can undo what
  the other has acknowledged. They are wiped, and join as new servers.
- On one server only, the one with the best log: of two entries made by hand in one term, over different
  histories, Raft could not tell the histories apart. Other voters named keep their log and are told the new
  cluster id (`follow`); they vote for the longer log, and learn the rest from it.

What cannot be saved is what only the lost servers had: a write is acknowledged by a majority, and this server
need not have been of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

import msgspec

from gemot.server.model.errors import BadRequest, StorageFailed
from gemot.server.ports import Random
from gemot.server.raft.log import RaftLog
from gemot.server.raft.types import Batch, Entry, EntryKind, RaftConfig, Voters, encode_voters
from gemot.server.raft.voters import by_hand
from gemot.server.recovery import DataConfig, log_base, open_data
from gemot.server.state.permission import ALLOW_ALL
from gemot.server.storage.disk import Disk
from gemot.server.storage.durable import Save
from gemot.server.storage.log import SEGMENT_BYTES, SegmentLog
from gemot.server.storage.meta import MetaFile
from gemot.server.storage.record import decode_mark
from gemot.server.storage.recovery import Findings, read_log
from gemot.server.storage.snapshot import Snapshots
from gemot.server.storage.statefile import applied_of

_COPY_BLOCK = 1 << 20
_CLUSTER = re.compile("[0-9a-f]{32}")


class Held(msgspec.Struct, frozen=True):
    """What one directory holds. `commit` is what is known to be committed, at least.

    `damage` is what is wrong with the log: entries that it once held are gone. `by_hand` tells of a voter
    set that was set by hand; `gap` of a log that begins where no snapshot ends, so that no state can be made
    of it; `log_bytes` is the size of the newest segment.
    """

    directory: str
    node: str
    cluster: str
    term: int
    first_index: int
    last_index: int
    last_term: int
    commit: int
    voters: tuple[str, ...]
    voters_index: int
    by_hand: str
    repairing: bool
    damage: str
    gap: str
    log_bytes: int

    @property
    def rank(self) -> tuple[bool, int, int, int]:
        """The best log is whole, of the newest term, the longest; and knows most to be committed."""
        return (not self.repairing, self.last_term, self.last_index, self.commit)


class Plan(msgspec.Struct, frozen=True):
    """What would be written into `held`."""

    held: Held
    voters: tuple[str, ...]
    term: int
    index: int
    cluster: str


def look(disk: Disk, directory: str) -> Held:
    """Read all of it, change nothing. Raises Corrupt, NewerFormat, DiskFailed; BadRequest without a log."""
    if not disk.exists(f"{directory}/log"):
        raise BadRequest(f"{directory} holds no Raft data: it is no server's, or was never begun")
    meta = MetaFile.open(disk, directory).meta
    known = decode_mark(meta.durable_index, meta.durable_hash)
    findings = read_log(disk, f"{directory}/log", known)
    size = _size(findings)
    log = SegmentLog(disk=disk, directory=f"{directory}/log", segment_bytes=size, findings=findings)
    snapshots = Snapshots.open(disk, f"{directory}/snap")
    try:
        base = log_base(log, snapshots, meta.base)
        raft = RaftLog(reader=log, snapshot=base, last_index=log.last_index, window_bytes=1 << 20)
        last, term = log.last_index, log.last_term
        newest = snapshots.newest()
        if newest is not None and newest.index > last and snapshots.verify(newest):
            last, term = newest.index, newest.term  # its installation was cut short: a start would finish it
        applied = 0
        with suppress(StorageFailed):
            applied = applied_of(Path(directory) / "state.db")[0]
        return Held(
            directory=directory,
            node=meta.node_id,
            cluster=meta.cluster_id,
            term=max(meta.term, term),
            first_index=log.first_index,
            last_index=last,
            last_term=term,
            commit=max(base.index, min(applied, last), last if last > log.last_index else 0),
            voters=raft.voters.latest,
            voters_index=raft.voters.latest_index,
            by_hand=_made_by_hand(log, raft.voters.latest_index),
            repairing=meta.repairing or findings.damage is not None,
            damage=findings.damage.message if findings.damage is not None else "",
            gap=_gap(log, snapshots),
            log_bytes=size,
        )
    finally:
        log.close()


def _gap(log: SegmentLog, snapshots: Snapshots) -> str:
    """A start would throw such a log away, and fetch everything from a peer that is not there."""
    fits = (s for s in reversed(snapshots.all()) if s.index > log.last_index or log.term(s.index) == s.term)
    if log.start.index == 0 or any(snapshots.verify(snapshot) for snapshot in fits):
        return ""
    return f"the log begins with entry {log.first_index}, and no snapshot before it is whole"


def _size(findings: Findings) -> int:
    return findings.segment.size if findings.segment is not None else SEGMENT_BYTES


def _made_by_hand(log: SegmentLog, index: int) -> str:
    entry = next(iter(log.read(index, index, 1)), None)
    return by_hand(entry) if entry is not None else ""


def best(found: Iterable[Held]) -> Held:
    """Whose log goes on. Raises BadRequest for directories of several clusters: their logs do not compare."""
    found = tuple(found)
    clusters = sorted({held.cluster for held in found})
    if len(clusters) > 1:
        raise BadRequest(
            f"these directories are of several clusters ({', '.join(clusters)}): name those of one"
        )
    return max(found, key=lambda held: held.rank)


def plan(held: Held, voters: Iterable[str], *, damaged: bool = False) -> Plan:
    """What to write so that these are the voters. Raises BadRequest for what must not be."""
    wanted = tuple(sorted(set(voters)))
    if held.node not in wanted:
        raise BadRequest(f"the voters must name {held.node}, whose log it is that goes on")
    if not held.last_index:
        raise BadRequest(f"{held.directory} holds no entry: there is nothing to go on from")
    if held.gap:
        raise BadRequest(f"{held.directory} is of no use: {held.gap}. Take another server's directory")
    if held.repairing and not damaged:
        raise BadRequest(
            f"{held.directory} is damaged: entries that it once held are gone, perhaps acknowledged ones"
            + (f" ({held.damage})" if held.damage else "")
            + ". Take another server's directory, or say -damaged to go on without them"
        )
    term, index = held.term + 1, held.last_index + 1
    mark = f"{held.cluster}/{held.node}/{term}/{index}/{held.last_term}/{','.join(wanted)}"
    return Plan(held, wanted, term, index, blake2b(mark.encode(), digest_size=16).hexdigest())


def carry_out(disk: Disk, planned: Plan, *, note: str, random: Random) -> tuple[str, ...]:
    """Write it; what a start would put right is put right first. Sentences about that are returned.

    A crash on the way leaves the old voters, and this can be done again: the cluster id goes first, since a
    server that led on under the old one could meet those taken for lost.
    """
    held = planned.held
    config = DataConfig(directory=held.directory, segment_bytes=held.log_bytes, raft=RaftConfig())
    opened = open_data(disk=disk, config=config, node_id=held.node, random=random, authorizer=ALLOW_ALL)
    durable = opened.durable
    try:
        if durable.log.last_index != held.last_index:
            raise StorageFailed(
                f"{held.directory} opens with entry {durable.log.last_index} as its last, not "
                f"{held.last_index}: nothing was written"
            )
        durable.write_meta(cluster_id=planned.cluster, term=planned.term, vote="", repairing=False)
        data = encode_voters(Voters(planned.voters, note))
        durable.append([Save(None, Batch([Entry(planned.term, planned.index, EntryKind.VOTERS, data)]), 0)])
        durable.sync()
        durable.write_meta()
    finally:
        opened.file.close()
        durable.log.close()
    return opened.notes


def follow(disk: Disk, held: Held, cluster: str) -> None:
    """Have this server belong to the cluster that goes on, as a voter or learner: its log stays as it is."""
    check_cluster(cluster)
    meta = MetaFile.open(disk, held.directory)
    meta.save(msgspec.structs.replace(meta.meta, cluster_id=cluster))


def check_cluster(cluster: str) -> None:
    """Raises BadRequest for what cannot be an id that `plan` made."""
    if not _CLUSTER.fullmatch(cluster):
        raise BadRequest(
            f"-cluster={cluster}: the id is 32 hexadecimal digits, as the command prints it on the host of "
            "the best log"
        )


def back_up(disk: Disk, directory: str) -> str:
    """Copy vote file and newest segment beside them, durably; the copy's path."""
    folder, number = f"{directory}/before-recover", 1
    while disk.exists(folder):
        number += 1
        folder = f"{directory}/before-recover-{number}"
    disk.makedirs(folder)
    segments = [name for name in disk.listdir(f"{directory}/log") if name.endswith(".seg")]
    for path in ("meta-a", "meta-b", *(f"log/{name}" for name in segments[-1:])):
        if disk.exists(f"{directory}/{path}"):
            _copy(disk, f"{directory}/{path}", f"{folder}/{path.rpartition('/')[2]}")
    disk.sync_dir(folder)
    disk.sync_dir(directory)
    return folder


def _copy(disk: Disk, source: str, to: str) -> None:
    read, write = disk.open(source), disk.open(to, create=True)
    try:
        offset = 0
        while data := read.pread(_COPY_BLOCK, offset):
            write.pwrite(data, offset)
            offset += len(data)
        write.sync()
    finally:
        read.close()
        write.close()
