"""A write whose place in this log went to a later one is told nothing until it is known what is committed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from support.one_state import OneState
from support.virtual import VirtualTimer

from gemot.server.consensus import Replica
from gemot.server.machine import Outcome
from gemot.server.model.errors import NotLeader
from gemot.server.model.kv import KvSet
from gemot.server.model.query import Applied


class Core:
    """Raft as far as proposals see it: this server leads in a term, and its next entry is at an index."""

    term = 2
    next = 5
    leader = "a"

    def propose(self, commands: list[bytes]) -> int:
        return self.next

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


def test_it_is_answered_when_an_entry_is_committed_there_and_by_that(tmp_path: Path) -> None:
    """Lost by this server in one term and overwritten in another, the first may still stand in other logs: a
    server that has it may lead next, and commit it. To call it surely not done would have it done twice."""
    one, core = OneState(tmp_path), Core()
    replica = Replica(
        raft=core,  # type: ignore[arg-type]
        log=core,  # type: ignore[arg-type]
        machine=one.machine,
        state=one.state,
        wire=core,  # type: ignore[arg-type]
        timer=VirtualTimer(),
    )
    replica.start(core)  # type: ignore[arg-type]
    result = Applied(core.next, True)
    for committed in (2, 4):
        told: dict[int, Any] = {}
        for core.term in (2, 4):
            done = partial(told.__setitem__, core.term)
            replica.propose(KvSet(b"%d" % core.term, b""), "", None, done)
            replica._propose_all()
        assert told == {}
        replica._answer(committed, Outcome(core.next, result, ()))
        assert told[committed] == result
        assert isinstance(told[6 - committed], NotLeader)
    one.close()
