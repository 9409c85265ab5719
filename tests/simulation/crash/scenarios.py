"""The three scripts whose every point is tried.

Each names what must have come about by its end (`proves`), so that a script that quietly stops doing what it
is for fails; that is asked of the run without a trap.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
from simulation.crash.server import TrapNode
from simulation.crash.stage import Stage
from simulation.crash.trap import Trap
from support.lossy_vfs import LossyVfs

from gemot.server.config import ServerConfig
from gemot.server.model.autopilot import AutopilotConfig
from gemot.server.model.restore import Restored
from gemot.server.rpc.message import ArchivePiece, Operate, ReadArchive, Upload

NEVER = 1 << 30
PIECE_BYTES = 1 << 14
TRIES = 4


class Scenario(msgspec.Struct, frozen=True):
    """`servers` in all, of which `founders` begin; `play` is the script."""

    name: str
    seed: int
    servers: int
    founders: int
    config: ServerConfig
    segment_bytes: int
    play: Callable[[Stage], None]
    proves: Callable[[Stage], None]

    def stage(self, trap: Trap, folder: Path, vfs: LossyVfs) -> Stage:
        return Stage(
            seed=self.seed,
            folder=folder,
            vfs=vfs,
            trap=trap,
            servers=self.servers,
            founders=self.founders,
            config=self.config,
            segment_bytes=self.segment_bytes,
        )

    @property
    def victims(self) -> tuple[str, ...]:
        return tuple(f"srv{number}" for number in range(1, self.servers + 1))


# -- 1: election, writes, hand-over, restarts --------------------------------------------------------------


def _play_election(stage: Stage) -> None:
    stage.found()
    stage.write(12)
    _hand_over(stage)
    stage.write(8)
    for end in (TrapNode.stop, TrapNode.kill, TrapNode.crash):
        node = stage.leader() or stage.nodes[0]
        if node.up:
            end(node)
        stage.write(4)
        stage.back(node)
    stage.write(4)


def _hand_over(stage: Stage) -> None:
    before = stage.leader()
    if before is None:
        return
    stage.ask(before, lambda server: server.replica.transfer(None))
    stage.until("another one leads", lambda: stage.leader() not in (None, before))


def _proves_election(stage: Stage) -> None:
    assert len(stage.invariants.leaders) >= 5, "a founding, a hand-over and three elections"
    assert stage.client.acknowledged >= 25


# -- 2: snapshots, checkpoints, compaction, an installation, segments --------------------------------------


def _play_snapshot(stage: Stage) -> None:
    stage.found()
    stage.write(10)
    behind = stage.others()[-1]
    if behind.up:
        behind.crash()
    for _ in range(3):
        stage.write(14)
        stage.pass_s(1.1)
    stage.back(behind)
    stage.write(14)
    stage.pass_s(1.1)


def _proves_snapshot(stage: Stage) -> None:
    logs = [node.opened.durable.log for node in stage.nodes if node.opened is not None]
    assert sum(node.installs for node in stage.nodes) >= 1
    assert sum(node.snapshots >= 2 for node in stage.nodes) >= 2
    assert sum(node.checkpoints for node in stage.nodes) >= 2
    assert all(log.first_index > 1 for log in logs), "each log was compacted"
    assert all(log.segment_number >= 3 for log in logs), "each log rolled over"


# -- 3: a learner, a removal, a restore, a repair ------------------------------------------------------------


def _play_membership(stage: Stage) -> None:
    stage.found()
    stage.write(8)
    _join(stage, stage.nodes[-1])
    stage.write(6)
    _remove(stage)
    stage.write(6)
    archive = _save(stage)
    stage.write(6)
    _restore(stage, archive)
    stage.write(6)
    _repair(stage, stage.others()[-1])
    stage.write(4)


def _join(stage: Stage, newcomer: TrapNode) -> None:
    """It asks the others to be sent the log, and the leader's autopilot promotes it."""
    stage.members = [*stage.members, newcomer]
    newcomer.start()
    stage.until(f"{newcomer.name} votes", lambda: newcomer.member.id in _voters(stage), 20.0)


def _voters(stage: Stage) -> tuple[str, ...]:
    """As the leader has them, once that is committed."""
    leader = stage.leader()
    if leader is None or leader.opened is None or not leader.opened.raft.voters_settled:
        return ()
    return leader.opened.raft.voters


def _remove(stage: Stage) -> None:
    """The leader is told to take the vote of the founder that is first of those that do not lead."""
    gone = next(node for node in stage.members if node is not stage.leader())
    for _ in range(TRIES):
        leader = stage.leader()
        if leader is not None and gone.member.id in _voters(stage):
            answers = stage.call(leader, stage.nodes[-1], Operate("remove-peer", gone.member.id))
            stage.until("the removal is answered", lambda answers=answers: answers, 9.0)
        if _voters(stage) and gone.member.id not in _voters(stage):
            break
        stage.pass_s(1.0)
    stage.members = [node for node in stage.members if node is not gone]


def _save(stage: Stage) -> bytes:
    """An archive, fetched piece by piece from the first server that gives out a whole one."""
    for turn in range(TRIES):
        node = stage.members[turn % len(stage.members)]
        archive, id, size = b"", 0, 1
        while len(archive) < size:
            answers = stage.call(node, node, ReadArchive(id, len(archive)))
            stage.until("a piece of the archive", lambda answers=answers: answers, 8.0)
            if not answers or not isinstance(answers[0], ArchivePiece):
                break
            piece = answers[0]
            archive, id, size, stage.saved = archive + piece.data, piece.id, piece.size, piece.index
        if len(archive) == size:
            return archive
        stage.pass_s(1.0)
    raise AssertionError("nobody gives out an archive")


def _restore(stage: Stage, archive: bytes) -> None:
    for turn in range(TRIES):
        node = stage.members[(turn + 1) % len(stage.members)]
        pieces = [archive[at : at + PIECE_BYTES] for at in range(0, len(archive), PIECE_BYTES)]
        answers: list[object] = []
        for number, piece in enumerate(pieces):
            last = number == len(pieces) - 1
            answers = stage.call(node, node, Upload(turn + 1, number * PIECE_BYTES, piece, last, epoch=0))
            stage.until("a piece is taken in", lambda answers=answers: answers, 12.0)
            if not answers or (not last and answers[0] is not True):
                break
        if answers and isinstance(answers[0], Restored):
            return
        stage.pass_s(1.0)
    stage.world.tell("the restore was answered by nobody; it may be done or not")


def _repair(stage: Stage, damaged: TrapNode) -> None:
    """A synced record of its log is damaged while it is down: it must heal from the others.

    By then its state is committed beyond what is left of its log, and has to be built anew.
    """
    stage.pass_s(1.5)
    if damaged.up:
        damaged.kill()
    stage.write(2)
    if damaged.up:  # it had fallen before, and came back meanwhile
        damaged.kill()
    _damage_log(damaged)
    damaged.start_in(0)
    stage.until("it notices the damage", lambda: damaged.repairs, 4.0)
    stage.back(damaged)
    stage.until("its vote file says that it is whole", lambda: not damaged.repairing)


def _damage_log(node: TrapNode) -> None:
    """A bit of a record in the middle of the oldest segment that it keeps."""
    names = sorted(node.lossy.listdir(f"{node.directory}/log"))
    path = next(f"{node.directory}/log/{name}" for name in names if name.endswith(".seg"))
    inode = node.lossy.find(path)
    assert inode is not None
    used = len(bytes(inode.durable).rstrip(b"\0"))
    if used > 1024:
        node.harmed = True
        node.lossy.decay(path, 1000, bytes([inode.durable[1000] ^ 4]))


def _proves_membership(stage: Stage) -> None:
    assert stage.nodes[-1].member.id in _voters(stage)
    assert len(_voters(stage)) == 3
    assert [node.opened.state.epoch for node in stage.members if node.opened is not None] == [1, 1, 1]
    assert sum(node.repairs for node in stage.nodes) == 1
    assert stage.saved > 0


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            name="election",
            seed=1,
            servers=3,
            founders=3,
            config=ServerConfig(bootstrap_expect=3, snapshot_entries=NEVER),
            segment_bytes=32 << 10,
            play=_play_election,
            proves=_proves_election,
        ),
        Scenario(
            name="snapshot",
            seed=2,
            servers=3,
            founders=3,
            config=ServerConfig(
                bootstrap_expect=3,
                snapshot_rest_ms=0,
                snapshot_entries=16,
                trailing_entries=2,
                checkpoint_wal_bytes=128 << 10,
            ),
            segment_bytes=4 << 10,
            play=_play_snapshot,
            proves=_proves_snapshot,
        ),
        Scenario(
            name="membership",
            seed=3,
            servers=4,
            founders=3,
            config=ServerConfig(
                bootstrap_expect=3,
                snapshot_entries=NEVER,
                autopilot=AutopilotConfig(cleanup_dead_servers=False, server_stabilization_time_ms=300),
            ),
            segment_bytes=32 << 10,
            play=_play_membership,
            proves=_proves_membership,
        ),
    )
}
