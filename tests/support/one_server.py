"""One server's data directory, written as a server writes it; and what must be read back, come what may.

No cluster and no time: entries are saved, synced, applied, copied and compacted in a fixed order.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from random import Random

from gemot.server.copies import write_snapshot
from gemot.server.model.command import ENVELOPE_VERSION, Envelope, encode
from gemot.server.model.kv import KvSet
from gemot.server.raft.types import Batch, Entry, EntryKind, HardState, RaftConfig
from gemot.server.recovery import DataConfig, Opened, open_data
from gemot.server.state.permission import ALLOW_ALL
from gemot.server.storage.disk import Disk
from gemot.server.storage.durable import Save
from gemot.server.storage.scrub import Scrub

NODE = "n1"
VOTERS = ("n1", "n2", "n3")
ENTRIES = 48
SEGMENT_BYTES = 4096
SNAPSHOTS_AT = (16, 32)
CHECKPOINTS_AT = (12, 28, 40)
COMPACTED_TO = 18
TERM_LASTS = 10


def entry(index: int) -> Entry:
    """No entry is like another; each term has a few."""
    value = Random(index).randbytes(40 + index * 37 % 600)
    command = KvSet(f"key{index % 7}".encode(), value)
    term = 1 + index // TERM_LASTS
    return Entry(term, index, EntryKind.COMMAND, encode(Envelope(ENVELOPE_VERSION, index, "", None, command)))


def vote(term: int) -> str:
    return VOTERS[term % 3]


def open_server(folder: Path, disk: Disk, *, sync: bool = True) -> Opened:
    return open_data(
        disk=disk,
        config=DataConfig(directory=str(folder), segment_bytes=SEGMENT_BYTES, raft=RaftConfig(), sync=sync),
        node_id=NODE,
        random=Random(1),
        authorizer=ALLOW_ALL,
    )


class Truth:
    """What was acknowledged: the newest entry, term and vote; and the state hash of every index."""

    def __init__(self, hashes: dict[int, bytes] | None = None) -> None:
        self.last = 0
        self.term = 0
        self.vote = ""
        self.hashes = dict(hashes or {})


def write_through(opened: Opened, disk: Disk, truth: Truth, last: int = ENTRIES) -> None:
    """Go on from where it is; `truth` learns of each step once it is durable."""
    durable = opened.durable
    for index in range(durable.log.last_index + 1, last + 1):
        new = entry(index)
        hard = HardState(new.term, vote(new.term)) if new.term > truth.term else None
        saves = [Save(hard, Batch([new]), index)]
        durable.append(saves)
        durable.sync()
        durable.keep_vote(saves)
        truth.last, truth.term, truth.vote = index, new.term, vote(new.term)
        opened.machine.apply([new])
        known = truth.hashes.setdefault(index, opened.state.state_hash)
        assert known == opened.state.state_hash
        if index in SNAPSHOTS_AT:
            write_snapshot(opened.file, opened.snapshots, disk, lambda _: VOTERS, 1)
        if index in CHECKPOINTS_AT:
            opened.file.checkpoint()
        if index == SNAPSHOTS_AT[-1]:
            durable.log.compact(COMPACTED_TO)
        if index % 5 == 0:
            # As each second: how far the log is durable goes to the vote file.
            durable.write_meta()
    durable.write_meta()


def read_back(opened: Opened, truth: Truth, disk: Disk, folder: Path) -> list[str]:
    """Check that nothing which is taken for whole is wrong; what was noticed, in words.

    Where nothing was noticed all that was acknowledged must be there; where the log was, what is left of it
    must be right, and the server must know that it may not vote.
    """
    durable, log = opened.durable, opened.durable.log
    said = list(opened.notes)
    for index in range(max(log.first_index, 1), log.last_index + 1):
        assert log.read(index, index, 1 << 20) == (entry(index),), f"entry {index} is another one"
    assert opened.raft.term >= truth.term or opened.raft.repairing, "a term was forgotten"
    if durable.meta.meta.term == truth.term:
        assert durable.meta.meta.vote == truth.vote, "the vote is another one"
    if log.last_index < truth.last:
        assert opened.raft.repairing, f"entries after {log.last_index} are gone, and it does not know"
    assert said or not opened.raft.repairing
    applied = opened.state.applied_index
    if applied:
        assert opened.state.state_hash == truth.hashes[applied], "the state is not that of its index"
    said += _scrubbed(opened, disk, folder)
    return said


def _scrubbed(opened: Opened, disk: Disk, folder: Path) -> list[str]:
    scrub = Scrub(
        disk=disk,
        directory=str(folder),
        log=opened.durable.log,
        snapshots=opened.snapshots,
        file=opened.file,
    )
    while not scrub.over:
        scrub.step(1 << 20)
    for meta in scrub.whole:
        assert (meta.index, meta.voters) in {(at, VOTERS) for at in SNAPSHOTS_AT}, "a snapshot of nothing"
    return [rot.message for rot in scrub.found]


def go_on(opened: Opened, truth: Truth) -> None:
    """What is left is applied, and all rows fit the hash: it goes on from here as it should."""
    log, state = opened.durable.log, opened.state
    while state.applied_index < log.last_index:
        index = state.applied_index + 1
        opened.machine.apply(log.read(index, index, 1 << 20))
        assert state.state_hash == truth.hashes[index], f"entry {index} made another state"
    state.verify()


def close(opened: Opened) -> None:
    with contextlib.closing(opened.file):
        pass
