"""Histories to try the checker on: made by a register that is right, spoilt on purpose, and judged naively.

The naive judge shares no line with the checker: it tries every order, on a dictionary's rules.
"""

from __future__ import annotations

import random

import msgspec
from simulation.register import NEVER, Kind, Op, Outcome

KEY = b"k"


class _Pending(msgspec.Struct):
    op: Op
    done: bool = False


class Maker:
    """Clients of one right register; each operation takes effect between its call and its answer."""

    def __init__(self, chance: random.Random, *, clients: int, unknown: float = 0.0, values: int = 0) -> None:
        """With `values` so many are written again and again, else each is written once."""
        self._chance = chance
        self._clients = clients
        self._unknown = unknown
        self._values = values
        self._now = self._written = 0
        self._state: bytes | None = None
        self._seen: list[bytes | None] = [None]

    def history(self, operations: int) -> list[Op]:
        pending: list[_Pending] = []
        ended: list[Op] = []
        while len(ended) < operations:
            self._now += 1
            left = operations - len(ended) - len(pending)
            if left and len(pending) < self._clients and (not pending or self._chance.random() < 0.5):
                pending.append(_Pending(self._call()))
                continue
            which = self._chance.choice(pending)
            if not which.done:
                which.done = True
                if which.op.outcome is Outcome.DONE or self._chance.random() < 0.5:
                    which.op = self._take_effect(which.op)
            else:
                pending.remove(which)
                open_end = which.op.outcome is Outcome.UNKNOWN
                ended.append(msgspec.structs.replace(which.op, ended=NEVER if open_end else self._now))
        return ended

    def _call(self) -> Op:
        kind = self._chance.choice(
            [Kind.GET, Kind.GET, Kind.PUT, Kind.CAS, Kind.CAS, Kind.DELETE, Kind.DELETE_CAS]
        )
        expected = self._state if self._chance.random() < 0.6 else self._chance.choice(self._seen)
        unknown = kind is not Kind.GET and self._chance.random() < self._unknown
        value = self._value() if kind in (Kind.PUT, Kind.CAS) else None
        if kind is Kind.DELETE_CAS and expected is None:
            kind = Kind.DELETE
        compares = kind in (Kind.CAS, Kind.DELETE_CAS)
        outcome = Outcome.UNKNOWN if unknown else Outcome.DONE
        return Op(kind, KEY, self._now, NEVER, value, expected if compares else None, outcome=outcome)

    def _value(self) -> bytes:
        self._written += 1
        return b"%d" % (self._chance.randrange(self._values) if self._values else self._written)

    def _take_effect(self, op: Op) -> Op:
        if op.kind is Kind.GET:
            return msgspec.structs.replace(op, value=self._state)
        answer, self._state = naive_step(self._state, op)
        if self._state not in self._seen:
            self._seen.append(self._state)
        return msgspec.structs.replace(op, answer=answer)


def naive_step(state: bytes | None, op: Op) -> tuple[bool, bytes | None]:
    """What a register answers to a write, and holds after it."""
    if op.kind is Kind.PUT:
        return True, op.value
    if op.kind is Kind.DELETE:
        return True, None
    if op.kind is Kind.CAS:
        return (True, op.value) if state == op.expected else (False, state)
    if state is None or state == op.expected:
        return True, None
    return False, state


def naively_linearizable(history: list[Op]) -> bool:
    """Every order that real time allows, tried one after another; writes of unknown outcome done or not."""
    ops = [op for op in history if op.outcome is Outcome.DONE]
    ops += [op for op in history if op.outcome is Outcome.UNKNOWN and op.kind is not Kind.GET]

    def explained(left: list[Op], state: bytes | None) -> bool:
        if all(op.outcome is Outcome.UNKNOWN for op in left):
            return True
        first_end = min(op.ended for op in left)
        for n, op in enumerate(left):
            if op.began > first_end:
                continue
            if op.kind is Kind.GET:
                answer, after = op.value == state, state
                fits = answer
            else:
                answer, after = naive_step(state, op)
                fits = op.outcome is Outcome.UNKNOWN or answer == op.answer
            if fits and explained(left[:n] + left[n + 1 :], after):
                return True
        return False

    return explained(ops, None)


def spoil(history: list[Op], chance: random.Random) -> list[Op]:
    """One change: another value read, another answer, a write gone, two operations' times swapped."""
    spoilt = list(history)
    at = chance.randrange(len(spoilt))
    op = spoilt[at]
    values = [None, *(other.value for other in history if other.writes)]
    draw = chance.random()
    if draw < 0.2:
        del spoilt[at]
    elif draw < 0.4:
        other = chance.randrange(len(spoilt))
        times = spoilt[other].began, spoilt[other].ended, spoilt[other].outcome
        spoilt[other] = _at(spoilt[other], op.began, op.ended, op.outcome)
        spoilt[at] = _at(op, *times) if other != at else spoilt[at]
    elif draw < 0.5:
        spoilt[at] = msgspec.structs.replace(op, outcome=Outcome.REFUSED)
    elif op.kind is Kind.GET:
        spoilt[at] = msgspec.structs.replace(op, value=chance.choice(values))
    elif op.kind in (Kind.CAS, Kind.DELETE_CAS):
        spoilt[at] = msgspec.structs.replace(op, answer=not op.answer)
    elif op.kind is Kind.PUT:
        spoilt[at] = msgspec.structs.replace(op, value=chance.choice(values[1:]))
    return spoilt


def _at(op: Op, began: int, ended: int, outcome: Outcome) -> Op:
    return msgspec.structs.replace(op, began=began, ended=ended, outcome=outcome)
