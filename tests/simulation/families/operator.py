"""What operators do: move the leadership, take votes, have servers leave, set autopilot, save and restore.

None of it may harm: the checks are those of everything else. What is set must be read as it was set; after a
restore every family's model is what it was at the index of the archive.
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

import apsw
import msgspec
from simulation.atlas import Atlas
from simulation.clients import Client
from simulation.node import Node
from simulation.swarm import Plan
from simulation.witness import READS, Seen, Violation
from simulation.world import World
from support.archives import altered, fitting, parts

from gemot.server.model.autopilot import AutopilotConfig, AutopilotRow, GetAutopilot, SetAutopilot
from gemot.server.model.query import Answer, Applied, Options
from gemot.server.model.restore import Restore, Restored
from gemot.server.rpc.message import ArchivePiece, Member, Operate, ReadArchive, Upload

CHORES = {
    "transfer": 0.12,
    "remove-peer": 0.25,
    "leave": 0.25,
    "set-autopilot": 0.1,
    "get-autopilot": 0.1,
    "save": 0.12,
    "restore": 0.25,
}
"""What may be drawn, and how often it is done beside other operations."""

AWAY_US = (1_000_000, 8_000_000)
OPERATOR = Member("operator", "operator", "10.2.0.1", "client", "dc1", "sim")
KEY = b"autopilot"
ELSEWHERE = 0.3
"""So many archives are made to come from another cluster."""

FURTHER = 1 << 20
KEPT = 3
"""Archives that are kept: a restore may go back behind another one."""


class OperatorFamily:
    def __init__(self, world: World, atlas: Atlas, plan: Plan, folder: Path) -> None:
        self._world = world
        self._folder = folder
        self._atlas = atlas
        self._config = plan.server.autopilot
        self.calm = False
        """The servers are left alone: they must come to one state."""

        self._sequence = 0
        self._effects: list[tuple[int, SetAutopilot | Restore, bool]] = []
        self._archives: list[bytes] = []
        self.operations = tuple((name, CHORES[name]) for name in plan.chores)
        self.history: list[Seen] = []

    def actors(self, nodes: list[Node]) -> list[Any]:
        return []

    # -- the operator ------------------------------------------------------------------------------

    def act(self, client: Client, node: Node, operation: str) -> None:
        random = self._world.random
        match operation:
            case "transfer":
                other = random.choice(client.nodes)
                id = other.member.id if random.random() < 0.5 else ""
                client.call(node, OPERATOR, Operate("transfer", id))
            case "remove-peer" if (void := self._atlas.void()) and random.random() < 0.7:
                client.call(node, OPERATOR, Operate("remove-peer", void[0]))
            case "remove-peer":
                self._remove(client, node)
            case "leave":
                self._leave(client)
            case "get-autopilot":
                self._read(client, node)
            case "save":
                self._save(client, node, client.began_us, ReadArchive(0, 0), b"")
            case "restore":
                self._restore(client, node)
            case _:
                self._set(client, node)

    def _remove(self, client: Client, node: Node) -> None:
        """Take a vote, of which its server is not told: it stays up, and will be promoted again."""
        victim = self._one_that_may_go(client.nodes)
        if victim is None:
            client.end()
            return
        self._atlas.leaves(victim)
        if self._world.random.random() < 0.5:
            client.call(node, OPERATOR, Operate("remove-peer", victim.member.id))
        else:
            client.call(node, OPERATOR, Operate("remove-peer", address=victim.member.rpc))

    def _one_that_may_go(self, nodes: list[Node]) -> Node | None:
        """Not all clusters keep three voters."""
        least = 1 if self._world.random.random() < 0.3 else 3
        candidates = [node for node in nodes if not self.calm and self._atlas.may_leave(node, least)]
        return self._world.random.choice(candidates) if candidates else None

    def _leave(self, client: Client) -> None:
        """It stops once it is told that it may, and comes back later with its data, as a learner."""
        running = [node for node in client.nodes if client.runs(node) and node.name not in self._atlas.cases]
        node = self._one_that_may_go(running)
        if node is None:
            client.end()
            return
        self._atlas.leaves(node)
        life = node.life

        def stop() -> None:
            if node.life == life and not node.forgetful and node.disk.bent is None:
                node.kill()
                node.start_in(self._world.random.randrange(*AWAY_US))

        def left(result: Any) -> None:
            if result is True:
                self._world.soon(stop)  # as a process does: never in the middle of what it is told

        client.leave(node, left)

    def _save(self, client: Client, node: Node, began: int, call: ReadArchive, so_far: bytes) -> None:
        """Piece by piece. What it holds is known by its index; it is as fresh as any read."""

        def came(piece: ArchivePiece) -> bool:
            archive = so_far + piece.data
            if len(archive) < piece.size:
                self._save(client, node, began, ReadArchive(piece.id, len(archive)), archive)
                return True
            self._see(Seen("save", KEY, began, self._world.now_us, piece.index, None, None, None))
            if self._world.random.random() < ELSEWHERE:
                archive = self._as_if_elsewhere(archive, piece.index)
            self._archives = [*self._archives, archive][-KEPT:]
            return False

        client.call(node, OPERATOR, call, came)

    def _as_if_elsewhere(self, archive: bytes, index: int) -> bytes:
        """The same state, as a cluster saved it whose indexes had grown much further."""
        further = self._world.random.randrange(1, FURTHER)

        def shift(state: apsw.Connection) -> None:
            state.execute("update meta set shift = shift + ?", (further,))

        head, state = parts(altered(archive, self._folder, shift))
        self._atlas.saved_at(sha256(state).hexdigest(), index)
        return fitting(msgspec.structs.replace(head, index=index + further), state)

    def _restore(self, client: Client, node: Node) -> None:
        if self.calm or not self._archives:
            client.end()
            return
        random, began = self._world.random, client.began_us
        archive, id = random.choice(self._archives), random.randrange(1 << 32)

        def told(restored: Restored) -> bool:
            self._see(Seen("restore", KEY, began, self._world.now_us, restored.index, None, None, None))
            return False

        client.call(node, OPERATOR, Upload(id, 0, archive, last=True), told)

    def _set(self, client: Client, node: Node) -> None:
        """What is not looked at here carries the number that tells one setting from another."""
        self._sequence += 1
        config = msgspec.structs.replace(self._config, max_trailing_logs=250 + self._sequence)
        command, began = SetAutopilot(config), client.began_us

        def told(result: Applied) -> None:
            now = self._world.now_us
            self._see(Seen("set-autopilot", KEY, began, now, result.index, None, None, config))

        client.write(node, command, told)

    def _read(self, client: Client, node: Node) -> None:
        began = client.began_us

        def seen(answer: Answer, served: int) -> None:
            row: AutopilotRow | None = answer.value
            config = row.config if row is not None else None
            self._see(Seen("get", KEY, began, self._world.now_us, served, None, None, config))

        client.query(node, GetAutopilot(), Options(), seen)

    def _see(self, seen: Seen) -> None:
        self._world.note(f"{seen.kind} {seen.index} {seen.result!r}\n")
        self.history.append(seen)

    # -- the truth ---------------------------------------------------------------------------------

    def effect(self, index: int, command: Any, result: Applied) -> None:
        if isinstance(command, SetAutopilot | Restore):
            self._effects.append((index, command, result.value is True))

    def restores(self) -> dict[int, tuple[int, int]]:
        """Those that were told as done: when they were asked for, and told."""
        return {op.index: (op.began, op.ended) for op in self.history if op.kind == "restore"}

    def check(self) -> int:
        """Every read is of what was set last before it, every setting was done where it was said to be."""
        done = {index: command for index, command, _ in self._effects}
        for op in self.history:
            if op.kind == "get" and op.result != (config := self._config_at(op.index)):
                raise Violation(f"{op} read {op.result!r}, but {config!r} was set")
            if op.kind in READS:
                continue
            command = done.get(op.index)
            found = command.config if isinstance(command, SetAutopilot) else None
            if command is None or found != op.result:
                raise Violation(f"{op} was acknowledged, but at its index stands {command}")
        return len(self.history)

    def _config_at(self, index: int) -> AutopilotConfig | None:
        """What was set last; a restore brings back what was set last before its archive."""
        for at, command, took in reversed(self._effects):
            if at <= index and isinstance(command, Restore):
                return self._config_at(command.index)
            if at <= index and took and isinstance(command, SetAutopilot):
                return command.config
        return None
