"""One client with a fixed plan: puts, deletes and reads, one after the other, each noted as it was answered.

What it was told is held against what the log did by the witness check, in eras: a restore puts another state
in place of all that was before it, and begins the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import msgspec
from simulation.crash.server import TrapNode
from simulation.witness import Effect, Seen, Violation, check, check_real_time, replayed
from simulation.world import World

from gemot.server.model.command import Command, IdempotencyKey
from gemot.server.model.errors import OutcomeUnknown, Unavailable
from gemot.server.model.kv import KvDelete, KvGet, KvSet
from gemot.server.model.query import Answer, Applied, Options
from gemot.server.server import Server
from gemot.server.state.meta import RestoreMark

KEYS = 5
LOOK_US = 100_000
GIVE_UP_US = 9_000_000
TRIES = 6
PAUSE_US = 2_000
AGAIN_US = 200_000
PADDING = b"." * 180
"""Values are as long as that, so that a few of them fill a segment."""


class Client:
    """`begin` has it do so many operations; `idle` says that they are over."""

    def __init__(self, world: World, nodes: Callable[[], Sequence[TrapNode]]) -> None:
        self._world = world
        self._nodes = nodes
        self._number = 0
        self._left = 0
        self._asked = 0
        self.acknowledged = 0
        self.seen: list[Seen] = []
        self.unanswered: list[Seen] = []
        self.refused: list[Seen] = []
        self.effects: list[Effect] = []

    @property
    def idle(self) -> bool:
        return self._left == 0

    def begin(self, operations: int) -> None:
        assert self.idle
        self._left = operations
        self._next()

    # -- the plan ------------------------------------------------------------------------------------

    def _next(self) -> None:
        self._number += 1
        n, key = self._number, b"key%d" % (self._number % KEYS)
        if n % 6 == 5:
            self._read(key, self._world.now_us)
            return
        value = None if n % 8 == 7 else b"value %d %s" % (n, PADDING)
        seen = Seen(
            kind="delete" if value is None else "set",
            key=key,
            began=self._world.now_us,
            ended=0,
            index=0,
            value=value,
            cas=None,
            result=None,
        )
        command = KvDelete(key) if value is None else KvSet(key, value)
        self._write(seen, command, IdempotencyKey(f"write {n}", b"once") if n % 3 == 0 else None)

    def _ended(self) -> None:
        self._left -= 1
        if self._left:
            self._world.at(PAUSE_US, "client goes on", self._next)

    def _pick(self) -> TrapNode | None:
        """Another server each time, of those that run."""
        up = [node for node in self._nodes() if node.up]
        return up[(self._number + self._asked) % len(up)] if up else None

    # -- one operation ---------------------------------------------------------------------------------

    def _read(self, key: bytes, began: int) -> None:
        node = self._pick()

        def done(result: Any) -> None:
            if isinstance(result, Answer):
                assert node is not None
                assert node.opened is not None
                value = result.value.value if result.value is not None else None
                at, now = node.opened.state.applied_index, self._world.now_us
                self.seen.append(Seen("get", key, began, now, at, None, None, value))
            self._ended()

        self._ask(node, lambda server, told: server.query(KvGet(key), Options(), told), done)

    def _write(
        self,
        seen: Seen,
        command: Command,
        name: IdempotencyKey | None,
        tries: int = TRIES,
        unsure: bool = False,
    ) -> None:
        def done(result: Any) -> None:
            if isinstance(result, Applied):
                self.acknowledged += 1
                self.seen.append(
                    msgspec.structs.replace(
                        seen, ended=self._world.now_us, index=result.index, result=result.value
                    )
                )
            elif name is not None and tries > 1 and isinstance(result, OutcomeUnknown | Unavailable):
                perhaps = unsure or isinstance(result, OutcomeUnknown)
                self._world.at(
                    AGAIN_US, "client again", lambda: self._write(seen, command, name, tries - 1, perhaps)
                )
                return
            elif unsure or isinstance(result, OutcomeUnknown):
                self.unanswered.append(seen)
            elif isinstance(result, Unavailable):
                self.refused.append(seen)
            else:
                raise Violation(f"{seen} was answered with {result!r}")
            self._ended()

        self._ask(self._pick(), lambda server, told: server.apply(command, "", name, told), done)

    def _ask(
        self,
        node: TrapNode | None,
        action: Callable[[Server, Callable[[Any], None]], object],
        done: Callable[[Any], None],
    ) -> None:
        """The first word counts; a server that dies breaks the connection."""
        self._asked += 1
        asked, began = self._asked, self._world.now_us
        if node is None:
            self._world.at(LOOK_US, "client waits", lambda: done(Unavailable("nobody runs")))
            return
        life = node.life

        def told(result: Any) -> None:
            if self._asked == asked and node.life == life:
                with node.trap.around(node, "answer client"):
                    self._asked += 1
                    done(result)

        def look() -> None:
            if self._asked != asked:
                return
            if node.life != life or self._world.now_us - began >= GIVE_UP_US:
                self._asked += 1
                done(OutcomeUnknown("the connection broke"))
            else:
                self._world.at(LOOK_US, "client looks", look)

        self._world.at(LOOK_US, "client looks", look)
        node.ask(f"client asks {node.name}", lambda server: action(server, told) and None)

    # -- the verdict -----------------------------------------------------------------------------------

    def effect(self, index: int, command: Any, _result: Applied) -> None:
        if isinstance(command, KvSet):
            self.effects.append(Effect(index, "set", command.key, command.value, None))
        elif isinstance(command, KvDelete):
            self.effects.append(Effect(index, "delete", command.key, None, None))

    def check(self, restores: Sequence[RestoreMark], saved: int) -> dict[bytes, bytes]:
        """Raise Violation, or tell what must be stored now. `saved` is the index of the archive restored."""
        check_real_time(self.seen)
        bounds = [0, *(mark.raft_index for mark in restores), 1 << 62]
        base: list[Effect] = []
        content: dict[bytes, tuple[bytes, int]] = {}
        archive: list[Effect] = []
        for number, (first, end) in enumerate(pairwise(bounds)):
            effects = base + [e for e in self.effects if first < e.index < end]
            seen = [s for s in self.seen if first <= s.index < end]
            check(seen, effects, unanswered=self.unanswered, refused=self.refused)
            content = _after(effects)
            if number == 0:
                archive = [
                    Effect(index, "set", key, value, None)
                    for key, (value, index) in _after([e for e in effects if e.index <= saved]).items()
                ]
            base = archive
        return {key: value for key, (value, _) in content.items()}


def _after(effects: list[Effect]) -> dict[bytes, tuple[bytes, int]]:
    stored: dict[bytes, tuple[bytes, int]] = {}
    for _, now in replayed(effects):
        stored = now
    return dict(stored)
