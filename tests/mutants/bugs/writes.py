"""Bugs of the way of a write: what is told as done, not done, or unknown, and what is done twice."""

from __future__ import annotations

from itertools import chain
from typing import Any

from mutants.bug import Patch, bug

from gemot.server.consensus import Replica
from gemot.server.endpoint import Endpoint
from gemot.server.model.errors import NotLeader, OutcomeUnknown, Unavailable
from gemot.server.model.query import Applied
from gemot.server.raft.types import Ready, Role
from gemot.server.writes import RetryIds, Writes

WRITES = "tests/server/test_writes.py"


@bug(19, tests=(WRITES,))
def apply_twice(patch: Patch) -> None:
    """A write whose connection broke is sent again as a new one."""
    original = Writes._try

    def forget_the_name(self: Writes, write: Any) -> None:
        write.retry = write.minted = None
        original(self, write)

    patch.setattr(Writes, "_try", forget_the_name)


@bug(4)
def a_write_is_told_when_it_is_logged(patch: Patch) -> None:
    """A leader says that a write is done before anybody else has it."""
    propose_all = Replica._propose_all

    def propose_and_tell(self: Replica) -> None:
        before = set(self._waiters)
        propose_all(self)
        for index in sorted(set(self._waiters) - before):
            for waiter in self._waiters.pop(index):
                waiter.done(Applied(index, True))

    patch.setattr(Replica, "_propose_all", propose_and_tell)


@bug(16)
def anothers_entry_is_ones_own(patch: Patch) -> None:
    """A write is told to be done when any entry is applied at its index, whoever's it is."""

    def answer(self: Replica, term: int, outcome: Any) -> None:
        for waiter in self._waiters.pop(outcome.index, ()):
            waiter.done(outcome.result)

    patch.setattr(Replica, "_answer", answer)


@bug(16, 19)
def a_deposed_leader_says_not_done(patch: Patch) -> None:
    """Writes under way are told to be surely not done when their leader loses its office."""
    carry_out = Replica._carry_out

    def carry_out_and_give_up(self: Replica, ready: Ready) -> None:
        led = self._leads
        carry_out(self, ready)
        if led and ready.role != Role.LEADER:
            waiters, self._waiters = self._waiters, {}
            for waiter in chain.from_iterable(waiters.values()):
                waiter.done(NotLeader(""))

    patch.setattr(Replica, "_carry_out", carry_out_and_give_up)


@bug(19, tests=(WRITES,))
def unknown_is_told_as_not_done(patch: Patch) -> None:
    """A write that was sent and never answered is told to be surely not done."""

    def not_done(self: Writes) -> Unavailable:
        return Unavailable("there is no leader")

    answered = Writes._answered

    def forget_that_it_was_sent(self: Writes, write: Any, result: Any) -> None:
        if isinstance(result, OutcomeUnknown):
            result = Unavailable("the connection broke")
        answered(self, write, result)

    patch.setattr(Writes, "_unknown", not_done)
    patch.setattr(Writes, "_answered", forget_that_it_was_sent)


@bug(19, tests=(WRITES,))
def the_watermark_passes_what_is_under_way(patch: Patch) -> None:
    """The answer of a write that may still be tried again is dropped with those before it."""

    def answered(self: RetryIds, retry: Any) -> None:
        self._acknowledged = max(self._acknowledged, retry.sequence)

    patch.setattr(RetryIds, "answered", answered)


@bug(32)
def a_forwarded_write_is_passed_on(patch: Patch) -> None:
    """Who is asked as the leader and leads no more sends the write on, under no name."""

    def forwarded(self: Endpoint, call: Any, reply: Any) -> None:
        self._tier.apply(call.command, call.accessor, None, reply)

    patch.setattr(Endpoint, "_forwarded", forwarded)


@bug(31, tests=(WRITES,), simulated=False)
def any_number_of_writes_is_held(patch: Patch) -> None:
    """Without a leader writes are held until the memory is full."""
    apply = Writes.apply

    def apply_uncounted(self: Writes, *arguments: Any, **named: Any) -> None:
        held, self._held, self._held_bytes = self._held, {}, 0
        apply(self, *arguments, **named)
        self._held = {**held, **self._held}

    patch.setattr(Writes, "apply", apply_uncounted)


@bug(19, 32, tests=(WRITES,))
def an_answer_to_an_earlier_try_counts(patch: Patch) -> None:
    """A late word about one try of a write is taken for the one that is under way."""
    attempt = Writes._try

    def try_any(self: Writes, write: Any) -> None:
        attempt(self, write)
        write.tries = 0

    patch.setattr(Writes, "_try", try_any)
