"""Clients: each does one operation at a time, through a server drawn anew each time.

What an operation is, is told by the families (`families/`); here is what all of them have in common: the
connection that breaks when the server dies, patience that ends, and the second try of a write that has a
name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from simulation.coverage import Coverage
from simulation.node import Node
from simulation.witness import Violation
from simulation.world import World

from gemot.server.model.command import Command, IdempotencyKey
from gemot.server.model.errors import Busy, GemotError, OutcomeForgotten, OutcomeUnknown, Unavailable
from gemot.server.model.query import Answer, Applied, Options, Query
from gemot.server.rpc.message import Call, Member
from gemot.server.space import FREES

GIVE_UP_US = 12_000_000
LOOK_US = 150_000
"""How soon a client notices that its server died."""

TRY_AGAIN_US = 300_000
TRIES = 5

Acted = Callable[["Client", Node, str], None]


class Draws(Protocol):
    """What a family offers a client to do."""

    operations: tuple[tuple[str, float], ...]

    def act(self, client: Client, node: Node, operation: str) -> None:
        """Begin one operation; it ends with `client.end`."""


class Client:
    """Thinks, acts, waits for the end, and thinks again."""

    def __init__(
        self,
        *,
        world: World,
        nodes: list[Node],
        number: int,
        think_us: int,
        families: list[Draws],
        coverage: Coverage,
    ) -> None:
        self.world = world
        self.nodes = nodes
        self.number = number
        self._think_us = think_us
        self._choices = [(f, name, weight) for f in families for name, weight in f.operations]
        self._weights = [weight for _, _, weight in self._choices]
        self._coverage = coverage
        self._operation = 0
        self._kind = ""
        self._counted = 0
        self.stopped = False
        self.unknown = 0
        self.failed = 0
        self.began_us = 0
        self.roomy_us = 1 << 62
        """From then on there is room on every disk."""

    def start(self) -> None:
        self.world.at(self.world.random.randrange(self._think_us), f"client{self.number}", self._act)

    def pick(self) -> Node | None:
        """A server to ask, if it runs; one that waits to join would keep us waiting, too."""
        node = self.world.random.choice(self.nodes)
        return node if self.runs(node) else None

    def runs(self, node: Node) -> bool:
        return node.up and (node.founds or node.belongs)

    def _act(self) -> None:
        if self.stopped:
            return
        node = self.pick()
        if node is None:
            self.start()
            return
        family, self._kind, _ = self.world.random.choices(self._choices, self._weights)[0]
        self.began_us = self.world.now_us
        family.act(self, node, self._kind)

    def end(self) -> None:
        self._operation += 1
        self._coverage.end(self._counted)
        self._counted = 0
        self.start()

    # -- what the families ask with --------------------------------------------------------------------

    def query(self, node: Node, query: Query, options: Options, seen: Callable[[Answer, int], None]) -> None:
        """Read; `seen` gets the answer and the index of the state it was served from, unless it fails."""

        def done(result: Any) -> None:
            if isinstance(result, Answer):
                assert node.opened is not None
                at = node.served if node.served is not None else node.opened.state.index
                seen(result, at)
            elif isinstance(result, OutcomeUnknown):
                self.unknown += 1
            else:
                self.failed += 1
            self.end()

        guarded = self._guard(node, done)
        self._ask(node, lambda server: server.query(query, options, guarded))

    def write(
        self,
        node: Node,
        command: Command,
        told: Callable[[Applied], None],
        key: IdempotencyKey | None = None,
        tries: int = TRIES,
        refused: Callable[[], None] = lambda: None,
    ) -> None:
        """Write; `told` gets the result, unless it fails or stays unknown. With a `key` it is tried again.

        `refused` is called when it is told that it surely was not done.
        """

        def done(result: Any) -> None:
            if isinstance(result, Applied):
                told(result)
                self.end()
                return
            self._look_at_space(command, result)
            again = key is not None and not isinstance(result, OutcomeForgotten)
            if again and tries > 1 and isinstance(result, OutcomeUnknown | Unavailable):
                self._later_again(node, command, told, key, tries - 1, refused)
                return
            if isinstance(result, GemotError) and not isinstance(result, OutcomeUnknown) and tries == TRIES:
                self.failed += 1
                refused()
            else:
                self.unknown += 1
            self.end()

        guarded = self._guard(node, done)
        self._ask(node, lambda server: server.apply(command, "", key, guarded))

    def _look_at_space(self, command: Command, result: Any) -> None:
        if not isinstance(result, Busy) or not result.message.startswith("No space"):
            return
        self._coverage.strike("refused-for-space")
        if isinstance(command, FREES):
            raise Violation(f"{command} frees room, and was refused: {result}")
        if self.world.now_us > self.roomy_us:
            raise Violation(f"{command} was refused, and there is room: {result}")

    def call(
        self, node: Node, who: Member, call: Call, then: Callable[[Any], bool] = lambda _: False
    ) -> None:
        """A failure of it proves nothing; `then` gets any other answer, and says whether it goes on."""

        def done(result: Any) -> None:
            if isinstance(result, GemotError) or not then(result):
                self._answered(result)

        guarded = self._guard(node, done)
        self._ask(node, lambda server: server.endpoint.handle(who, call, guarded))

    def leave(self, node: Node, left: Callable[[Any], None]) -> None:
        """This server is asked to leave; `left` is told what came of it."""

        def done(result: Any) -> None:
            left(result)
            self._answered(result)

        guarded = self._guard(node, done)
        self._ask(node, lambda server: server.leave(node.name, guarded))

    def _answered(self, result: Any) -> None:
        self.unknown += isinstance(result, OutcomeUnknown)
        self.failed += isinstance(result, GemotError) and not isinstance(result, OutcomeUnknown)
        self.end()

    def _later_again(
        self,
        node: Node,
        command: Command,
        told: Callable[[Applied], None],
        key: IdempotencyKey | None,
        tries: int,
        refused: Callable[[], None],
    ) -> None:
        def again() -> None:
            self.write(self.pick() or node, command, told, key, tries, refused)

        self.world.at(self.world.random.randrange(TRY_AGAIN_US), f"client{self.number} again", again)

    def _ask(self, node: Node, action: Callable[[Any], None]) -> None:
        # Counted when it is first asked for: a family may find that there is nothing to do.
        self._counted = self._counted or self._coverage.begin(self._kind)
        node.ask(f"client{self.number} asks {node.name}", action)

    def _guard(self, node: Node, done: Callable[[Any], None]) -> Callable[[Any], None]:
        """If its server dies the connection breaks, and the outcome is unknown; the first word counts."""
        self._operation += 1
        operation, life, began = self._operation, node.life, self.world.now_us

        def once(result: Any) -> None:
            if operation == self._operation:
                self._operation += 1
                done(result)

        def look() -> None:
            if operation != self._operation:
                return
            if node.life != life or self.world.now_us - began >= GIVE_UP_US:
                once(OutcomeUnknown("the connection broke"))
            else:
                self.world.at(LOOK_US, f"client{self.number} looks", look)

        self.world.at(LOOK_US, f"client{self.number} looks", look)
        return once
