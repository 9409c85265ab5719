"""A simulated server all of whose calls are points; it can be stopped, as a service is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from simulation.archives import SimulatedArchives
from simulation.crash.trap import Trap
from simulation.disk import PowerLost, SimulatedLog
from simulation.network import Network
from simulation.node import Node
from simulation.upkeep import SimulatedUpkeep
from simulation.witness import Violation
from support.lossy_disk import LossyDisk

from gemot.server.config import ServerConfig
from gemot.server.model.errors import GemotError
from gemot.server.ports import Inbox
from gemot.server.raft.types import Batch, HardState, SnapshotMeta
from gemot.server.recovery import Opened
from gemot.server.state.restore import Placement

AWAY_US = 900_000
"""How long a server that fell is away: its leader is missed, and another one is elected."""


class TrapNode(Node):
    """`trap` is set before it is started for the first time."""

    trap: Trap

    def __init__(self, **named: Any) -> None:
        super().__init__(**named)
        self.harmed = False
        """Its disk was damaged: only then may it find damage."""

        self.repairs = 0
        """How often it found its log damaged at a start."""

        self._number = 0

    def _start(self) -> None:
        self._watch(self.lossy)
        super()._start()
        assert self.server is not None
        assert self.opened is not None
        self.repairs += self.opened.raft.repairing
        self._check_whole(self.opened)
        # Whoever calls these looks them up each time.
        self.server.replica.on_saved = self._point("port on_saved", self.server.replica.on_saved)  # type: ignore[method-assign]
        self.opened.state.settle = self._point("port settle", self.opened.state.settle)  # type: ignore[method-assign]

    def _check_whole(self, opened: Opened) -> None:
        """What a crash leaves of a good disk is no damage; of the two vote files one may be torn."""
        bad = [n for n in opened.notes if "damaged" in n and "the other copy is good" not in n]
        if not self.harmed and (opened.raft.repairing or bad):
            told = " | ".join(opened.notes)
            raise Violation(f"{self.name} takes what a crash left for damage: {told}")

    def _watch(self, disk: LossyDisk) -> None:
        ailing, at = disk.on_change, len(str(self.directory)) + 1
        assert ailing is not None

        def change(action: str, path: str) -> None:
            self._number = self.trap.enter(self, f"{action} {path[at:]}")
            ailing(action, path)

        def changed(_action: str, _path: str) -> None:
            self.trap.leave(self, self._number)

        disk.on_change, disk.on_changed = change, changed

    def _point(self, name: str, call: Callable[..., None]) -> Callable[..., None]:
        def called(*arguments: Any) -> None:
            with self.trap.around(self, name):
                call(*arguments)

        return called

    # -- its ends ------------------------------------------------------------------------------------

    def died(self, error: Exception) -> None:
        """Nothing but the trap may end it: no disk fails here."""
        if not self.disk.power_lost:
            raise Violation(f"{self.name} stopped itself: {error}")
        self.world.tell(f"{self.name} falls: {self.trap.how} {self.trap.sprung}")
        self._fall(torn=self.trap.torn, kept=self.trap.kills)
        self.start_in(AWAY_US)

    def crash(self) -> None:
        self._fall(torn=False, kept=False)

    def kill(self) -> None:
        self._fall(torn=False, kept=True)

    def stop(self) -> None:
        """As a service is stopped: nothing more is taken in, the state is committed, the files are closed."""
        opened = self.opened
        assert opened is not None
        try:
            opened.state.settle()
            opened.file.close()
            opened.durable.log.close()
        except (GemotError, PowerLost):
            assert self.disk.power_lost, "a stop of a server on a good disk failed"
        # SQLite keeps to itself what fails when its last connection is closed.
        if self.disk.power_lost:
            self.died(PowerLost(self.trap.sprung))
        else:
            self.kill()

    def _fall(self, *, torn: bool, kept: bool) -> None:
        random = self.world.random if torn else None
        if kept:
            super().kill()
        else:
            self._end(lambda: self._vfs.crash(str(self.directory), random))


class TrapNetwork(Network):
    """What a server sends is a point of it: messages, calls and replies."""

    nodes: dict[str, TrapNode]

    def send(self, source: str, target: str, label: str, *rest: Any, **named: Any) -> None:
        node = self.nodes[source]
        with node.trap.around(node, f"send {label.split(' ')[0]} to {target}"):
            super().send(source, target, label, *rest, **named)


class TrapLog(SimulatedLog):
    """`Log` and `Identity`."""

    _node: TrapNode

    def save(self, hard_state: HardState | None, append: Batch | None, token: int) -> None:
        vote = f" vote of term {hard_state.term}" if hard_state is not None else ""
        entries = f" entries {append.first} to {append.last}" if append is not None else ""
        with self._node.trap.around(self._node, f"port save{entries}{vote}"):
            super().save(hard_state, append, token)

    def compact(self, base: SnapshotMeta) -> None:
        with self._node.trap.around(self._node, f"port compact to {base.index}"):
            super().compact(base)

    def reset(self, meta: SnapshotMeta, done: Callable[[], None]) -> None:
        with self._node.trap.around(self._node, f"port reset to {meta.index}"):
            super().reset(meta, done)

    def flush(self, done: Callable[[], None]) -> None:
        with self._node.trap.around(self._node, "port flush"):
            super().flush(done)

    def adopt(self, cluster: str) -> None:
        with self._node.trap.around(self._node, "port adopt"):
            super().adopt(cluster)

    def keep_pledge(self, pledge: bytes, done: Callable[[], None]) -> None:
        with self._node.trap.around(self._node, "port keep_pledge"):
            super().keep_pledge(pledge, done)

    def repaired(self) -> None:
        with self._node.trap.around(self._node, "port repaired"):
            super().repaired()


class TrapUpkeep(SimulatedUpkeep):
    _node: TrapNode

    def take_snapshot(
        self, voters_at: Callable[[int], tuple[str, ...]], done: Callable[[SnapshotMeta], None]
    ) -> None:
        with self._node.trap.around(self._node, "port take_snapshot"):
            super().take_snapshot(voters_at, done)

    def checkpoint(self, done: Callable[[int], None]) -> None:
        with self._node.trap.around(self._node, "port checkpoint"):
            super().checkpoint(done)

    def inbox(self, meta: SnapshotMeta, first: Any) -> Inbox:
        with self._node.trap.around(self._node, f"port inbox of {meta.index}"):
            return super().inbox(meta, first)

    def replace_state(self, meta: SnapshotMeta, done: Callable[[], None]) -> None:
        with self._node.trap.around(self._node, f"port replace_state by {meta.index}"):
            super().replace_state(meta, done)


class TrapArchives(SimulatedArchives):
    """Each piece of its work is asked for at a point."""

    _node: TrapNode

    def prepare(
        self,
        sha256: str,
        place: Placement,
        voters: tuple[str, ...],
        done: Callable[[SnapshotMeta | GemotError], None],
    ) -> None:
        with self._node.trap.around(self._node, "port prepare"):
            super().prepare(sha256, place, voters, done)

    def replace(self, meta: SnapshotMeta, done: Callable[[], None]) -> None:
        with self._node.trap.around(self._node, "port replace"):
            super().replace(meta, done)

    def _do(self, label: str, do: Callable[[], Any], done: Callable[[Any], None], stage: str = "") -> None:
        with self._node.trap.around(self._node, f"port {label}"):
            super()._do(label, do, done, stage)


def _wal_limit(config: ServerConfig) -> int:
    """Large, as on most disks: checkpoints come before a commit has to move the log."""
    return 64 * config.checkpoint_wal_bytes


TrapNode.wal_limit = staticmethod(_wal_limit)  # type: ignore[assignment]
TrapNode.log_type = TrapLog
TrapNode.upkeep_type = TrapUpkeep
TrapNode.archives_type = TrapArchives
