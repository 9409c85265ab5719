"""Linearizable reads, asked together: one read index serves every read that was waiting for it.

Raft's read index (thesis 6.4) tells up to where a state must be applied before it may answer. While one
ask is under way, new reads gather and share the next one. An ask that is refused, as it is while nobody
leads, is made again at the next tick; one that stays unanswered is given up and made again, under a fresh id:
a late answer to an old id must never serve a newer read (etcd #20418).
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from gemot.server.model.errors import Busy, NoLeader, Unavailable
from gemot.server.ports import Random, Timer

RESEND_MS = 300
MAX_WAITING = 100_000
"""Reads waiting for a leader, at most; more are refused (`Busy`)."""

Done = Callable[[Unavailable | None], None]


class _Waiting(msgspec.Struct, frozen=True):
    deadline_ms: int
    done: Done


class Confirmations:
    """Tells each asker when this server's state is fresh enough, or NoLeader after `hold_ms`."""

    def __init__(
        self,
        *,
        ask: Callable[[int], None],
        applied: Callable[[], int],
        timer: Timer,
        random: Random,
        hold_ms: int,
        waiting: Callable[[], str] = str,
    ) -> None:
        """`waiting` tells what keeps this server from a leader, for people."""
        self._ask = ask
        self._applied = applied
        self._timer = timer
        self._hold_ms = hold_ms
        self._why = waiting
        # A restarted server must not take an answer meant for its former self.
        self._next_id = random.randrange(1 << 60) + 1
        self._waiting: list[_Waiting] = []
        self._asked: list[_Waiting] = []
        self._asked_id = 0
        self._asked_at_ms = 0
        self._unapplied: list[tuple[int, list[_Waiting]]] = []
        self._unapplied_count = 0
        self._send_due = False

    def confirm(self, done: Done, *, hold_ms: int = 0) -> None:
        """Call `done(None)` once this state holds every write acknowledged before now.

        A caller that has less time than this server would give says so in `hold_ms`.
        """
        if len(self._waiting) + len(self._asked) + self._unapplied_count >= MAX_WAITING:
            done(Busy(f"more than {MAX_WAITING} reads wait for a leader: ask again later"))
            return
        hold_ms = min(hold_ms, self._hold_ms) if hold_ms > 0 else self._hold_ms
        self._waiting.append(_Waiting(self._timer.now_ms() + hold_ms, done))
        self._schedule()

    def on_answer(self, id: int, index: int) -> None:
        """The core's answer to an ask; index 0 means refused."""
        if id != self._asked_id or not self._asked:
            return
        asked, self._asked = self._asked, []
        if index == 0:
            self._waiting = asked + self._waiting
            return
        if self._applied() >= index:
            _tell(asked)
        else:
            self._unapplied.append((index, asked))
            self._unapplied_count += len(asked)
        self._schedule()

    def on_applied(self) -> None:
        applied = self._applied()
        while self._unapplied and self._unapplied[0][0] <= applied:
            waiting = self._unapplied.pop(0)[1]
            self._unapplied_count -= len(waiting)
            _tell(waiting)

    def on_tick(self) -> None:
        """Give up an ask that got no answer, and every read whose time is over; ask for those that wait."""
        now = self._timer.now_ms()
        if self._asked and now - self._asked_at_ms >= RESEND_MS:
            self._waiting, self._asked = self._asked + self._waiting, []
        self._waiting = self._expire(self._waiting, now)
        self._asked = self._expire(self._asked, now)
        unapplied = [(index, self._expire(waiting, now)) for index, waiting in self._unapplied]
        self._unapplied = [(index, waiting) for index, waiting in unapplied if waiting]
        self._unapplied_count = sum(len(waiting) for _, waiting in self._unapplied)
        self._schedule()

    def _expire(self, waiting: list[_Waiting], now_ms: int) -> list[_Waiting]:
        expired = [each for each in waiting if each.deadline_ms <= now_ms]
        if not expired:
            return waiting
        error = NoLeader.because(self._why())
        for each in expired:
            each.done(error)
        return [each for each in waiting if each.deadline_ms > now_ms]

    def _schedule(self) -> None:
        if not self._send_due and self._waiting and not self._asked:
            self._send_due = True
            self._timer.call_soon(self._send)

    def _send(self) -> None:
        self._send_due = False
        if self._asked or not self._waiting:
            return
        self._asked, self._waiting = self._waiting, []
        self._asked_id = self._next_id
        self._next_id += 1
        self._asked_at_ms = self._timer.now_ms()
        self._ask(self._asked_id)


def _tell(waiting: list[_Waiting]) -> None:
    for each in waiting:
        each.done(None)
