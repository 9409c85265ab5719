"""The simulator's histories as the black-box check wants them: calls, answers and times, no indexes.

After `witness.check(history, effects)` call `check_seen(history, effects)`: it raises Violation, or gives a
Report of `linearize.py`. An index appears here only as the name of the write that a compare was sent with.
"""

from __future__ import annotations

from collections.abc import Iterable

from simulation.linearize import BUDGET, Report, require
from simulation.register import ABSENT, NEVER, Kind, Op, Outcome
from simulation.witness import Effect, Seen, Violation


def check_seen(
    history: Iterable[Seen],
    effects: Iterable[Effect],
    unanswered: Iterable[Seen] | None = None,
    budget: int = BUDGET,
) -> Report:
    """Raises Violation when no order explains the history.

    `unanswered` are the writes whose outcome is unknown, if they were recorded (`ended`, `index` and
    `result` mean nothing in them). Without, they are the effects that nobody was told of, begun at any time:
    a weaker question.
    """
    seen = list(history)
    names: dict[int, bytes] = {e.index: e.value for e in effects if e.value is not None}
    ops = [_op(op, names) for op in seen]
    if unanswered is not None:
        ops += [_op(op, names, unknown=True) for op in unanswered]
    else:
        told = {op.index for op in seen if op.kind != "get"}
        lost = [e for e in effects if e.index not in told and e.state is None]
        ops += [
            _op(Seen(e.kind, e.key, 0, 0, e.index, e.value, e.cas, None), names, unknown=True) for e in lost
        ]
    return require(ops + _restored(seen, list(effects), names), budget)


def _restored(seen: list[Seen], effects: list[Effect], names: dict[int, bytes]) -> list[Op]:
    """A restore is a write of every key, at some time or other."""
    ops: list[Op] = []
    keys = sorted({op.key for op in seen})
    for effect in effects:
        if effect.state is None:
            continue
        for key in keys:
            value = effect.state[key][0] if key in effect.state else None
            kind = "delete" if value is None else "set"
            write = Seen(kind, key, 0, 0, effect.index, value, None, None)
            ops.append(_op(write, names, unknown=True))
    return ops


def _op(seen: Seen, names: dict[int, bytes], *, unknown: bool = False) -> Op:
    ended = NEVER if unknown else seen.ended
    outcome = Outcome.UNKNOWN if unknown else Outcome.DONE
    if seen.kind == "get":
        value = seen.result
        assert value is None or isinstance(value, bytes)
        return Op(Kind.GET, seen.key, seen.began, ended, value, outcome=outcome)
    deletes = seen.kind == "delete"
    if seen.cas is None:
        return Op(
            Kind.DELETE if deletes else Kind.PUT, seen.key, seen.began, ended, seen.value, outcome=outcome
        )
    if seen.cas and seen.cas not in names:
        raise Violation(f"{seen} compares with an index that was told as a write's, and is none")
    expected = names[seen.cas] if seen.cas else ABSENT
    kind = Kind.DELETE_CAS if deletes else Kind.CAS
    return Op(kind, seen.key, seen.began, ended, seen.value, expected, seen.result is not False, outcome)
