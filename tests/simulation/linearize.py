"""A black-box check: does one order of these operations agree with real time and explain every answer?

It believes no index of ours (that is `witness.py`), only what a client sent, was told, and when. The search
is Wing and Gong's with Lowe's memory of (done, state) and a linked list of calls and returns, as in
Porcupine: what is pending is tried before the first return; a return that is reached undone sends the search
back. Histories are split by key, since a key is a register of its own. No recursion; the search is bounded
in steps, and a key whose budget ran out is reported as undecided, which is not "passed".

Three rules keep it small, and none of them changes a verdict:

- A pending operation that never changes anything and fits now (a read of what is there, a compare that fails
  as it was told) is taken at once and never reconsidered: in any order that explains the rest it can be
  moved to here.
- A write of unknown outcome whose value somebody saw was done before that answer came (`unknown.py`); one
  that nobody could have noticed is left out.
- Of equal writes of unknown outcome the earliest is taken first, and what was tried with some of them spent
  is not tried with these and more.

The use: clients write values that are never written twice, and note the value that came with the index they
compare with: an index names a write, and here its value stands for it. `explain` judges a history, `require`
raises. For the simulator's histories there is `blackbox.check_seen`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import msgspec
from simulation.register import ABSENT, REFUSED, Kind, Op, Outcome, Register, changes_nothing
from simulation.unknown import settle
from simulation.witness import Violation

BUDGET = 200_000
"""Steps of the search a key; a good history of 1,000 operations takes a few thousand."""


class Report(msgspec.Struct):
    """What a history came to: nothing bad and nothing undecided is what was wanted."""

    operations: int = 0
    keys: int = 0
    steps: int = 0
    bad: list[str] = []
    undecided: list[bytes] = []

    @property
    def passed(self) -> bool:
        return not self.bad and not self.undecided


def explain(ops: Iterable[Op], budget: int = BUDGET) -> Report:
    """Judge each key's history."""
    by_key: dict[bytes, list[Op]] = defaultdict(list)
    report = Report()
    for op in ops:
        by_key[op.key].append(op)
        report.operations += 1
    for key, history in sorted(by_key.items()):
        report.keys += 1
        if unwritten := _unwritten(history):
            report.bad.append(unwritten)
            continue
        search = _Search(settle(history), budget)
        found = search.run()
        report.steps += search.steps
        if found is None:
            report.undecided.append(key)
        elif not found:
            report.bad.append(f"key {key!r}: {search.why()}")
    return report


def require(ops: Iterable[Op], budget: int = BUDGET) -> Report:
    """Raises Violation for a history that is bad, and for one that could not be decided."""
    report = explain(ops, budget)
    if report.bad:
        raise Violation("not linearizable: " + "; ".join(report.bad))
    if report.undecided:
        raise Violation(f"undecided within {budget} steps: {report.undecided}")
    return report


def _unwritten(history: list[Op]) -> str:
    """A read of what nobody can have written needs no search; this is how a refused write shows."""
    written = {op.value for op in history if op.writes and op.outcome is not Outcome.REFUSED}
    for op in history:
        read = op.kind is Kind.GET and op.outcome is Outcome.DONE
        if read and op.value is not ABSENT and op.value not in written:
            return f"key {op.key!r}: {op} reads what was never written, or was refused"
    return ""


class _Search:
    """One key. Entries 1 to 2n are calls and returns in order of time; 0 is the head of the list."""

    def __init__(self, history: list[Op], budget: int) -> None:
        self._register = Register()
        self._done = [op for op in history if op.outcome is Outcome.DONE]
        self._unknown = sorted(
            (op for op in history if op.outcome is Outcome.UNKNOWN), key=lambda op: op.began
        )
        self._budget = budget
        self.steps = 0
        self._deepest = -1
        self._stuck: tuple[Op, int] | None = None
        # The order tried now: the state after it, what is in it of both kinds, what is left, the way back.
        self._state = self._bits = self._maybe = 0
        self._left = len(self._done)
        self._undo: list[tuple[int, int, bool]] = []  # entry (negative: unknown), state before, taken at once
        self._tried: dict[tuple[int, int, int], list[int]] = {}
        self._link()
        self._rank_unknown()

    def _link(self) -> None:
        """At equal times calls stand before returns: what touches counts as concurrent."""
        events = [(op.began, 0, n) for n, op in enumerate(self._done)]
        events += [(op.ended, 1, n) for n, op in enumerate(self._done)]
        events.sort()
        size = len(events) + 1
        self._next: list[int] = [*range(1, size), 0]
        self._before: list[int] = [size - 1, *range(size - 1)]
        self._op_at = [-1] * size
        self._is_call = [False] * size
        self._return_of = [0] * size
        call_of: dict[int, int] = {}
        for entry, (_, returns, number) in enumerate(events, start=1):
            self._op_at[entry] = number
            self._is_call[entry] = not returns
            if returns:
                self._return_of[call_of[number]] = entry
            else:
                call_of[number] = entry
        self._rank = {number: rank for rank, number in enumerate(sorted(call_of, key=lambda n: call_of[n]))}
        self._steps_of = [self._register.compile(op) for op in self._done]

    def _rank_unknown(self) -> None:
        """For each write of unknown outcome: its step, its call, and the equal ones that go first."""
        self._unknown_steps = [self._register.compile(op) for op in self._unknown]
        last: dict[object, int] = {}
        self._first_needs: list[int] = []
        for number, step in enumerate(self._unknown_steps):
            self._first_needs.append(1 << last[step] if step in last else 0)
            last[step] = number

    def run(self) -> bool | None:
        """True: there is an order. False: there is none. None: the budget is over."""
        at = self._settle_unchanging()
        while self._left:
            self.steps += 1
            if self.steps > self._budget:
                return None
            if self._try_known(at) or self._try_unknown(at):
                at = self._settle_unchanging()
                continue
            self._note_stuck()
            back = self._go_back()
            if back is None:
                return False
            at = back
        return True

    def _settle_unchanging(self) -> int:
        """Take whatever fits and never changes anything; the first entry that is left."""
        while entry := self._unchanging():
            self.steps += 1
            self._take(entry, self._state, at_once=True)
        return self._next[0]

    def _try_known(self, entry: int) -> bool:
        """Take the first pending call from this entry on that fits and leads to something new."""
        while entry > 0 and self._is_call[entry]:
            number = self._op_at[entry]
            after = self._register.step(self._state, self._steps_of[number])
            bits = self._bits | 1 << self._rank[number]
            if after != REFUSED and self._is_new(bits, self._maybe, after):
                self._take(entry, after)
                return True
            entry = self._next[entry]
        return False

    def _try_unknown(self, entry: int) -> bool:
        """Take the first write of unknown outcome that makes a difference, after number -1 - `entry`."""
        for number in range(-entry if entry < 0 else 0, len(self._unknown)):
            after = self._possible(number)
            if after != REFUSED and self._is_new(self._bits, self._maybe | 1 << number, after):
                self._undo.append((-1 - number, self._state, False))
                self._state = after
                self._maybe |= 1 << number
                return True
        return False

    def _take(self, entry: int, after: int, *, at_once: bool = False) -> None:
        self._undo.append((entry, self._state, at_once))
        self._state = after
        self._bits |= 1 << self._rank[self._op_at[entry]]
        self._left -= 1
        self._lift(entry)

    def _go_back(self) -> int | None:
        """Undo to the last choice; where to go on from it, or None if there was none."""
        at_once = True
        entry = 0
        while at_once:
            if not self._undo:
                return None
            entry, self._state, at_once = self._undo.pop()
            if entry > 0:
                self._bits ^= 1 << self._rank[self._op_at[entry]]
                self._left += 1
                self._unlift(entry)
            else:
                self._maybe ^= 1 << (-1 - entry)
        # A negative entry says itself which write of unknown outcome is next.
        return self._next[entry] if entry > 0 else entry

    def _unchanging(self) -> int:
        """The entry of a pending call that fits and can never change anything; 0 when there is none.

        A delete of what is not there does not count: later it may have something to delete.
        """
        entry = self._next[0]
        while entry and self._is_call[entry]:
            step = self._steps_of[self._op_at[entry]]
            if changes_nothing(step) and self._register.step(self._state, step) == self._state:
                return entry
            entry = self._next[entry]
        return 0

    def _possible(self, number: int) -> int:
        """What this write of unknown outcome would make of the state, if it may be next and changes it."""
        if self._maybe >> number & 1 or self._first_needs[number] & ~self._maybe:
            return REFUSED
        if self._unknown[number].began > self._first_return():
            return REFUSED
        after = self._register.step(self._state, self._unknown_steps[number])
        return REFUSED if after == self._state else after

    def _first_return(self) -> int:
        entry = self._next[0]
        while self._is_call[entry]:
            entry = self._next[entry]
        return self._done[self._op_at[entry]].ended

    def _is_new(self, bits: int, maybe: int, state: int) -> bool:
        """Whether this is worth a search: these done, with this state after them.

        It is not if the same was reached with fewer of the unknown writes spent. The key leaves out the
        lowest operations, which are all done.
        """
        low = (~bits & (bits + 1)).bit_length() - 1
        spent = self._tried.setdefault((low, bits >> low, state), [])
        if any(before & maybe == before for before in spent):
            return False
        spent.append(maybe)
        return True

    def _lift(self, call: int) -> None:
        for entry in (call, self._return_of[call]):
            before, after = self._before[entry], self._next[entry]
            self._next[before], self._before[after] = after, before

    def _unlift(self, call: int) -> None:
        for entry in (self._return_of[call], call):
            self._next[self._before[entry]] = self._before[self._next[entry]] = entry

    def _note_stuck(self) -> None:
        done = len(self._done) - self._left
        if done > self._deepest:
            entry = self._next[0]
            while self._is_call[entry]:
                entry = self._next[entry]
            self._deepest, self._stuck = done, (self._done[self._op_at[entry]], self._state)

    def why(self) -> str:
        """How far the best order came."""
        assert self._stuck is not None
        op, state = self._stuck
        there = self._register.value(state)
        return (
            f"after {self._deepest} of {len(self._done)} operations {there!r} is there and {op} has no place"
        )
