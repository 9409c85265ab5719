"""What operators do: hand the leadership over, take votes, have servers leave, set autopilot.

None of it may harm: the checks are those of everything else. What is set must be read as it was set.
"""

from __future__ import annotations

from typing import Any

import msgspec
from simulation.atlas import Atlas
from simulation.clients import Client
from simulation.node import Node
from simulation.swarm import Plan
from simulation.witness import READS, Seen, Violation
from simulation.world import World

from gemot.server.model.autopilot import AutopilotConfig, AutopilotRow, GetAutopilot, SetAutopilot
from gemot.server.model.query import Answer, Applied, Options
from gemot.server.rpc.message import Member, Operate

CHORES = {"transfer": 0.12, "remove-peer": 0.06, "leave": 0.06, "set-autopilot": 0.1, "get-autopilot": 0.1}
"""What may be drawn, and how often it is done beside other operations."""

AWAY_US = (1_000_000, 8_000_000)
OPERATOR = Member("operator", "operator", "10.2.0.1", "client", "dc1", "sim")
KEY = b"autopilot"


class OperatorFamily:
    def __init__(self, world: World, atlas: Atlas, plan: Plan) -> None:
        self._world = world
        self._atlas = atlas
        self._config = plan.server.autopilot
        self.calm = False
        """The servers are left alone: they must come to one state."""

        self._sequence = 0
        self._effects: list[tuple[int, SetAutopilot, bool]] = []
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
                self._remove(client, node, random.choice(client.nodes))
            case "leave":
                self._leave(client, node)
            case "get-autopilot":
                self._read(client, node)
            case _:
                self._set(client, node)

    def _remove(self, client: Client, node: Node, victim: Node) -> None:
        """Take its vote, of which it is not told: it stays up, and will be promoted again."""
        if self.calm or not self._atlas.may_leave(victim):
            client.end()
            return
        self._atlas.leaves(victim)
        if self._world.random.random() < 0.5:
            client.call(node, OPERATOR, Operate("remove-peer", victim.member.id))
        else:
            client.call(node, OPERATOR, Operate("remove-peer", address=victim.member.rpc))

    def _leave(self, client: Client, node: Node) -> None:
        """It stops once it is told that it may, and comes back later with its data, as a learner."""
        if self.calm or not self._atlas.may_leave(node) or node.name in self._atlas.cases:
            client.end()
            return
        self._atlas.leaves(node)
        life = node.life

        def left(result: Any) -> None:
            if result is True and node.life == life and not node.forgetful and node.disk.bent is None:
                node.kill()
                node.start_in(self._world.random.randrange(*AWAY_US))

        client.leave(node, left)

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
        if isinstance(command, SetAutopilot):
            self._effects.append((index, command, result.value is True))

    def check(self) -> int:
        """Every read is of what was set last before it, every setting was done where it was said to be."""
        current: AutopilotConfig | None = None
        done, at = {index: command.config for index, command, _ in self._effects}, 0
        for op in sorted(self.history, key=lambda op: (op.index, op.kind in READS)):
            while at < len(self._effects) and self._effects[at][0] <= op.index:
                _, command, took = self._effects[at]
                current, at = command.config if took else current, at + 1
            if op.kind in READS and op.result != current:
                raise Violation(f"{op} read {op.result!r}, but {current!r} was set")
            if op.kind not in READS and done.get(op.index) != op.result:
                raise Violation(f"{op} was acknowledged, but at its index stands {done.get(op.index)}")
        return len(self.history)
