"""Watchers of a cluster in trouble: blocking reads of the keys that `chaos_clients.py` writes.

Each watches one key or everything of one spell for some seconds, through its agent, notes every answer, and
begins anew. What they were told is judged by `simulation/watches.py`, one spell at a time. HTTP tells no
index of a write, so which one was acknowledged when is found by its value, which is written once.
"""

from __future__ import annotations

import base64
import random
import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from contextlib import closing

from simulation.register import Kind, Op, Outcome
from simulation.watches import Awoken, Watched, check_watches
from simulation.witness import Effect, Seen
from support.chaos_clients import KEYS, THINK_S, spell_now, spell_of
from support.cluster import Agent
from support.server_log import indexes_of

from gemot.agent.client.connection import ClientError, Connection, Reply
from gemot.agent.client.path import escape

WAIT = "2s"
TIMEOUT_S = 10.0
LASTS_S = (4.0, 15.0)
ASKED_AT_LAST = 20
"""So many of the newest watches are asked once more in the end; older ones compare with an index of long ago,
whose deletes may be forgotten."""


class Watcher(threading.Thread):
    """`awoken` grows until `over` is set; `error` tells a bug of ours, never a fault of the cluster."""

    def __init__(self, *, agent: Agent, seed: int, over: threading.Event) -> None:
        self.label = f"{agent.name}-watcher"
        super().__init__(name=self.label, daemon=True)
        self._agent = agent
        self._chance = random.Random(f"{seed} {self.label}")
        self._over = over
        self._begun = 0
        self._newest: list[Awoken] = []
        """The last answer of each of the newest watches."""
        self.awoken: list[Awoken] = []
        self.error = ""

    def run(self) -> None:
        try:
            while not self._over.is_set():
                self._watch()
        except Exception as error:
            self.error = f"{self.label}: {error!r}"

    def _watch(self) -> None:
        """One thing, for some seconds."""
        self._begun += 1
        watcher, spell = f"{self.label}-{self._begun}", spell_now()
        one = self._chance.randrange(2 * KEYS)
        watched = Watched(f"{spell}{one}".encode()) if one < KEYS else Watched(spell.encode(), prefix=True)
        until = time.monotonic() + self._chance.uniform(*LASTS_S)
        last: Awoken | None = None
        with closing(Connection(self._agent.http, timeout_s=TIMEOUT_S)) as connection:
            while not self._over.is_set() and time.monotonic() < until:
                answer = _ask(connection, watcher, watched, last.index if last is not None else 0, WAIT)
                self._over.wait(self._chance.random() * THINK_S if answer is not None else 0.2)
                if answer is not None:
                    self.awoken.append(answer)
                    last = answer
        if last is not None:
            self._newest = [*self._newest[-ASKED_AT_LAST + 1 :], last]

    def ask_at_last(self) -> set[str]:
        """In calm, with nobody writing: the newest watches once more. Their names."""
        with closing(Connection(self._agent.http, timeout_s=60)) as connection:
            for last in self._newest:
                answer = _ask(connection, last.watcher, last.watched, last.index, "1ms")
                assert answer is not None, f"{self._agent.name} does not answer in calm"
                self.awoken.append(answer)
        return {last.watcher for last in self._newest}


def _ask(connection: Connection, watcher: str, watched: Watched, index: int, wait: str) -> Awoken | None:
    """One answer, or None for a failure."""
    params = {"recurse": watched.prefix, "index": index or None, "wait": wait if index else None}
    began = time.monotonic_ns()
    try:
        path = f"/v1/kv/{escape(watched.key.decode())}"
        reply = connection.request("GET", path, params=params, ok=(200, 404))
    except ClientError:
        return None
    return Awoken(watcher, watched, began, index, reply.index, _values(reply))


def _values(reply: Reply) -> dict[bytes, bytes]:
    if reply.status == 404:
        return {}
    return {raw["Key"].encode(): base64.b64decode(raw["Value"] or "") for raw in reply.json()}


def check_told(
    awoken: Iterable[Awoken], effects: Iterable[Effect], ops: Iterable[Op], asked_at_last: set[str]
) -> int:
    """Raises Violation for a broken promise of a watch, or tells how many answers were right.

    Those that were `asked_at_last` must know the last state.
    """
    answers: dict[bytes, list[Awoken]] = defaultdict(list)
    for answer in awoken:
        answers[spell_of(answer.watched.key)].append(answer)
    written: dict[bytes, list[Effect]] = defaultdict(list)
    for effect in effects:
        written[spell_of(effect.key)].append(effect)
    acknowledged: dict[bytes, list[Op]] = defaultdict(list)
    for op in ops:
        if op.writes and op.outcome is Outcome.DONE and op.answer:
            acknowledged[spell_of(op.key)].append(op)
    right = 0
    for spell, told in answers.items():
        history = _history(acknowledged[spell], written[spell])
        in_calm = [answer for answer in told if answer.watcher in asked_at_last]
        others = [answer for answer in told if answer.watcher not in asked_at_last]
        right += check_watches(in_calm, (), written[spell], history)
        right += check_watches(others, (), written[spell], history, ended_in_calm=False)
    return right


def _history(acknowledged: list[Op], effects: list[Effect]) -> list[Seen]:
    """The writes that were told to be done, each with the index of its value."""
    indexes = indexes_of(effects)
    return [
        Seen("set", op.key, op.began, op.ended, indexes[op.value], op.value, None, True)
        for op in acknowledged
        if op.kind in (Kind.PUT, Kind.CAS) and op.value in indexes
    ]
