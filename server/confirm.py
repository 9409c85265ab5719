"""Linearizable reads, asked together: one read index serves every read that was waiting for it.

Raft's read index (thesis 6.4) tells up to where a state must be applied before it may answer. While one
ask is under way, new reads gather and share the next one. An ask that is refused, as it is while nobody
leads, is made again at the next tick.

One that stays unanswered may be lost, or its answer be late, and which of them nobody knows. So the next one
leaves, under an id of its own, and asks for the reads of those before it as well: whichever answer comes
serves all who had come when its ask left, and never a newer read (etcd #20418).

Who is told reads the state on the spot, and one answer may serve thousands: they are told in slices.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import msgspec

from gemot.server.looks import Looks
from gemot.server.model.errors import Busy, NoLeader, Unavailable
from gemot.server.ports import Random, Timer

RESEND_MS = 300
MAX_ASKS = 8
"""Asks whose answers are still taken, at most; of more, the oldest is given up."""

MAX_WAITING = 100_000
"""Reads waiting for a leader, at most; more are refused (`Busy`)."""

Done = Callable[[Unavailable | None], None]


class _Waiting(msgspec.Struct, frozen=True):
    deadline_ms: int
    done: Done


class _Ask(msgspec.Struct):
    """`reads` came after the ask before this one had left; this one asks for those of that one as well."""

    sent_ms: int
    reads: list[_Waiting]


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
        self._asks: dict[int, _Ask] = {}  # in the order they left; the first one has reads
        self._unapplied: list[tuple[int, list[_Waiting]]] = []
        self._unapplied_count = 0
        self._told: Looks[Callable[[], None]] = Looks(timer=timer, look=_tell_now)
        self._send_due = False

    def confirm(self, done: Done, *, hold_ms: int = 0) -> None:
        """Call `done(None)` once this state holds every write acknowledged before now.

        A caller that has less time than this server would give says so in `hold_ms`.
        """
        asked = sum(len(ask.reads) for ask in self._asks.values())
        if len(self._waiting) + asked + self._unapplied_count + len(self._told) >= MAX_WAITING:
            done(Busy(f"more than {MAX_WAITING} reads wait for a leader: ask again later"))
            return
        hold_ms = min(hold_ms, self._hold_ms) if hold_ms > 0 else self._hold_ms
        self._waiting.append(_Waiting(self._timer.now_ms() + hold_ms, done))
        self._schedule()

    def on_answer(self, id: int, index: int) -> None:
        """The core's answer to an ask; index 0 means refused."""
        if id not in self._asks:
            return
        if index == 0:
            self._give_up(id)
            return
        served = self._served_by(id)
        if self._applied() >= index:
            self._tell(served, None)
        else:
            self._unapplied.append((index, served))
            self._unapplied_count += len(served)
        self._schedule()

    def on_applied(self) -> None:
        applied = self._applied()
        while self._unapplied and self._unapplied[0][0] <= applied:
            waiting = self._unapplied.pop(0)[1]
            self._unapplied_count -= len(waiting)
            self._tell(waiting, None)

    def on_tick(self) -> None:
        """Give up every read whose time is over; ask for those that wait, and again where no answer came."""
        now = self._timer.now_ms()
        self._waiting = self._expire(self._waiting, now)
        for ask in self._asks.values():
            ask.reads = self._expire(ask.reads, now)
        self._forget_idle()
        unapplied = [(index, self._expire(waiting, now)) for index, waiting in self._unapplied]
        self._unapplied = [(index, waiting) for index, waiting in unapplied if waiting]
        self._unapplied_count = sum(len(waiting) for _, waiting in self._unapplied)
        self._schedule()

    def _expire(self, waiting: list[_Waiting], now_ms: int) -> list[_Waiting]:
        expired = [each for each in waiting if each.deadline_ms <= now_ms]
        if not expired:
            return waiting
        self._tell(expired, NoLeader.because(self._why()))
        return [each for each in waiting if each.deadline_ms > now_ms]

    def _tell(self, waiting: list[_Waiting], error: Unavailable | None) -> None:
        self._told.add([partial(each.done, error) for each in waiting])

    def _served_by(self, id: int) -> list[_Waiting]:
        """Take out the reads of this ask, those of the asks before it among them."""
        served: list[_Waiting] = []
        for each in [each for each in self._asks if each <= id]:
            served += self._asks.pop(each).reads
        self._forget_idle()
        return served

    def _give_up(self, id: int) -> None:
        """This ask is not answered: its reads are in the one after it as well, or wait for a new one."""
        reads = self._asks.pop(id).reads
        after = next((ask for each, ask in self._asks.items() if each > id), None)
        if after is None:
            self._waiting = reads + self._waiting
        else:
            after.reads = reads + after.reads
        self._forget_idle()

    def _forget_idle(self) -> None:
        """Let go of the oldest asks as long as nobody waits for their answers."""
        while self._asks:
            oldest = next(iter(self._asks))
            if self._asks[oldest].reads:
                return
            del self._asks[oldest]

    def _schedule(self) -> None:
        if not self._send_due and self._is_due():
            self._send_due = True
            self._timer.call_soon(self._send)

    def _is_due(self) -> bool:
        """Somebody waits for an ask: no other is under way, or the newest should have been answered."""
        if not self._asks:
            return bool(self._waiting)
        newest = next(reversed(self._asks.values()))
        return self._timer.now_ms() - newest.sent_ms >= RESEND_MS

    def _send(self) -> None:
        self._send_due = False
        if not self._is_due():
            return
        if len(self._asks) == MAX_ASKS:
            self._give_up(next(iter(self._asks)))
        id, self._next_id = self._next_id, self._next_id + 1
        self._asks[id] = _Ask(self._timer.now_ms(), self._waiting)
        self._waiting = []
        self._ask(id)


def _tell_now(tell: Callable[[], None]) -> None:
    tell()
