"""Writes of unknown outcome, settled by what others saw: one left open is concurrent with all that follows.

Sound in both directions: a history has an explanation after this exactly if it had one before.
"""

from __future__ import annotations

from collections import Counter

import msgspec
from simulation.register import ABSENT, NEVER, Kind, Op, Outcome


def settle(history: list[Op]) -> list[Op]:
    """The history of one key without what was refused or read in vain, and the rest as far as it is known.

    - A value written by one operation only and seen by another (read, or compared with successfully) was
      written before that answer came.
    - A write that nobody can have noticed since it began is left out: none saw its value, no open compare is
      with it, and no compare failed (it may be why). In an order with it, what follows it up to the next
      change are plain writes, which do without it.
    """
    known = [op for op in history if op.outcome is Outcome.DONE]
    open_ops = [op for op in history if op.outcome is Outcome.UNKNOWN and op.kind is not Kind.GET]
    writers = Counter(op.value for op in history if op.writes and op.outcome is not Outcome.REFUSED)
    while True:
        seen_at = _first_seen(known)
        proven = [op for op in open_ops if op.writes and writers[op.value] == 1 and op.value in seen_at]
        if not proven:
            break
        # One that is proven saw what it compared with: that may prove another.
        known += [_done_by(op, seen_at[op.value]) for op in proven]
        open_ops = [op for op in open_ops if op not in proven]
    traces = _traces(known, open_ops)
    kept = [
        op
        for op in open_ops
        if max(traces.get(op.value if op.writes else ABSENT, -1), traces.get(_ANY, -1)) >= op.began
    ]
    named = {op.value for op in known if op.kind is Kind.GET} | {op.expected for op in history}
    return known + [_left_open(op, named) for op in kept]


def _left_open(op: Op, named: set[bytes | None]) -> Op:
    """A value that no read and no compare ever named is as good as any other such."""
    value = _UNNAMED if op.writes and op.value not in named else op.value
    return msgspec.structs.replace(op, answer=True, value=value)


_UNNAMED = b"\0a value that nobody named"
_ANY = b"\0any value but the one compared with"


def _done_by(op: Op, ended: int) -> Op:
    return msgspec.structs.replace(op, outcome=Outcome.DONE, answer=True, ended=max(op.began, ended))


def _first_seen(known: list[Op]) -> dict[bytes | None, int]:
    """When the first answer came that proves this value to have been there."""
    seen: dict[bytes | None, int] = {}
    for op in known:
        if op.kind is Kind.GET or (op.kind is Kind.CAS and op.answer):
            value = op.value if op.kind is Kind.GET else op.expected
            seen[value] = min(seen.get(value, op.ended), op.ended)
    return seen


def _traces(known: list[Op], open_ops: list[Op]) -> dict[bytes | None, int]:
    """When each value can have been noticed last."""
    last: dict[bytes | None, int] = {}
    for op in known:
        for value in _may_have_seen(op):
            last[value] = max(last.get(value, -1), op.ended)
    for op in open_ops:
        if op.kind in (Kind.CAS, Kind.DELETE_CAS):
            last[op.expected] = NEVER
    return last


def _may_have_seen(op: Op) -> tuple[bytes | None, ...]:
    """The values one of which was there, by what this operation was told."""
    if op.kind is Kind.GET:
        return (op.value,)
    if op.kind in (Kind.CAS, Kind.DELETE_CAS) and not op.answer:
        return (_ANY,)
    if op.kind is Kind.CAS:
        return (op.expected,)
    # A delete by compare succeeds on its value and on nothing.
    return (op.expected, ABSENT) if op.kind is Kind.DELETE_CAS else ()
