"""The recipe of a semaphore: as many programs of the cluster as its limit hold a slot at a time. Pure.

It is Consul's protocol to the letter, so that `consul lock -n` and Consul's libraries share slots with ours:
each contender holds `PREFIX/<session>` by its session; `PREFIX/.lock`, `{"Limit": N, "Holders":
{"<session>": true}}`, changes by `cas` alone; holders whose contender key nobody holds are dead and taken
out. All keys have Consul's flags of semaphores. Where the key has another limit, a contender is refused.

What is promised, as of a lock: on a host that runs, the holder knows that its slot is lost before its lease
can end; and none of ours takes out a dead holder before it has seen it dead for `delay_s`, by when one whose
session was destroyed has heard of it. Consul's own clients take it out at once. There is no queue: Consul's
protocol has none, and whoever comes first when a slot is free has it.

What the fence is: that of the contender's key, which each entry acquires anew, with a session of its own.
`?lock=PREFIX/<session>&fence=N` lets a write through only while this contender lives, and dead ones alone are
taken out: so never more than the limit write under it, and none that was late. What it is not: an order.
Slots are held side by side, so a store that refuses a fence smaller than one it has seen would refuse a
holder in good standing. Source: Consul, its guide to semaphores; `delay_s` and the fence are ours.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from gemot.agent.client.connection import Reply
from gemot.agent.client.entry import Entry, entries
from gemot.agent.client.lock import this_process
from gemot.agent.client.recipe import WAIT_S, Ask, LockConflict, LockLost, Steps, Tell, fence_of
from gemot.agent.client.session import DEFAULT_TTL_S, boot_clock

SEMAPHORE_FLAGS = 0xE0F69A2BAA414DE0
"""By which Consul's clients know a semaphore's keys from a lock's."""

MAX_LIMIT = 4096
"""As many sessions as one value has room for, and more."""


class Slots(msgspec.Struct, frozen=True):
    """What `.lock` says. `as_list`: some clients write the holders as a list, and it stays one."""

    limit: int
    holders: tuple[str, ...] = ()
    as_list: bool = False

    def with_holders(self, holders: Iterable[str]) -> Slots:
        return Slots(self.limit, tuple(holders), self.as_list)

    def encode(self) -> bytes:
        holders: Any = list(self.holders) if self.as_list else dict.fromkeys(self.holders, True)
        return json.dumps({"Limit": self.limit, "Holders": holders}).encode()


def read_slots(value: bytes, limit: int) -> Slots:
    """Raises ValueError for what is none. An empty value, as no key, is one that nobody holds."""
    if not value:
        return Slots(limit)
    try:
        told = json.loads(value)
        holders = told["Holders"] or {}
        if type(told["Limit"]) is not int or told["Limit"] < 1:
            raise ValueError(f"its Limit is {told['Limit']!r:.40}")
        if not isinstance(holders, dict | list) or not all(isinstance(each, str) for each in holders):
            raise ValueError("its Holders are no sessions")
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError("it has no Limit and no Holders") from error
    # In Go an entry that is false is a holder, too.
    return Slots(told["Limit"], tuple(holders), isinstance(holders, list))


class Semaphore:
    """`Hold(agents, Semaphore("jobs/index", 3))` takes a slot of three; see the module."""

    def __init__(
        self,
        prefix: str,
        limit: int,
        *,
        delay_s: float = DEFAULT_TTL_S,
        clock: Callable[[], float] = boot_clock,
    ) -> None:
        """`delay_s`: how long a holder was seen dead before it is taken out: the longest TTL that any has.

        Raises ValueError without a prefix, and for a limit that is not within 1 and 4096.
        """
        self._prefix = prefix.strip("/")
        if not self._prefix:
            raise ValueError("a semaphore needs a prefix, such as jobs/index")
        if not 1 <= limit <= MAX_LIMIT:
            raise ValueError(f"a semaphore has 1 to {MAX_LIMIT} slots, not {limit}")
        self.key = f"{self._prefix}/.lock"
        self._limit = limit
        self._delay_s = delay_s
        self._clock = clock
        self._value = this_process()

    def guard(self, session: str) -> str:
        return f"{self._prefix}/{session}"

    def look(self) -> Ask:
        return Ask("GET", self.key)

    def lost(self, session: str, rows: Sequence[Entry]) -> str:
        try:
            held = any(session in read_slots(row.value, self._limit).holders for row in rows)
        except ValueError:
            held = False
        return "" if held else f"its slot of {self.key} was taken from it or deleted"

    def take(self, session: str) -> Steps[int]:
        contender: dict[str, Any] = {"acquire": session, "flags": SEMAPHORE_FLAGS}
        got = yield Ask("PUT", self.guard(session), params=contender, body=self._value)
        if got.json() is not True:
            raise LockLost(f"{self.guard(session)} is not free")  # by who made its id up; anew with another
        fence = fence_of(got)
        dead_since_s: dict[str, float] = {}
        after, wait_s = 0, WAIT_S
        while True:
            params = {"recurse": True}
            reply = yield Ask("GET", f"{self._prefix}/", params=params, after=after, wait_s=wait_s)
            slots, index, living = self._read(reply)
            if session in slots.holders:
                return fence  # by a write whose answer did not arrive
            kept, wait_s = self._counted(slots.holders, living, dead_since_s)
            if len(kept) >= slots.limit:
                after = reply.index
                yield Tell(f"waiting: all {slots.limit} slots of {self.key} are taken")
                continue
            after = 0
            yield self._swap(slots.with_holders([*kept, session]), index)

    def give_back(self, session: str) -> Steps[bool]:
        tried = False
        while True:
            reply = yield self.look()
            slots, index, _ = self._read(reply)
            if session not in slots.holders:
                return tried  # by a write whose answer did not arrive
            tried = True
            left = [each for each in slots.holders if each != session]
            if left:
                done = yield self._swap(slots.with_holders(left), index)
            else:
                done = yield Ask("DELETE", self.key, params={"cas": index})
            if done.json() is True:
                yield Ask("DELETE", self.guard(session), once=True)
                return True

    def _counted(
        self, holders: Sequence[str], living: frozenset[str], dead_since_s: dict[str, float]
    ) -> tuple[list[str], float]:
        """Who counts as a holder now, and for how long that is so without another change."""
        now_s = self._clock()
        for holder in list(dead_since_s):
            if holder in living or holder not in holders:
                del dead_since_s[holder]
        for holder in holders:
            if holder not in living:
                dead_since_s.setdefault(holder, now_s)
        ends_s = {holder: since_s + self._delay_s for holder, since_s in dead_since_s.items()}
        kept = [each for each in holders if ends_s.get(each, now_s + 1) > now_s]
        wait_s = min((ends_s[each] - now_s for each in kept if each in ends_s), default=WAIT_S)
        return kept, min(WAIT_S, wait_s)

    def _read(self, reply: Reply) -> tuple[Slots, int, frozenset[str]]:
        """The slots, the index of their key (0: it is not there), and whose contenders live."""
        rows = entries(reply)
        living = frozenset(row.session for row in rows if row.session)
        lock = next((row for row in rows if row.key == self.key), None)
        if lock is None:
            return Slots(self._limit), 0, living
        if lock.flags != SEMAPHORE_FLAGS:
            raise LockConflict(f"{self.key} is there and is not a semaphore (its flags are {lock.flags})")
        try:
            slots = read_slots(lock.value, self._limit)
        except ValueError as error:
            raise LockConflict(f"{self.key} is no semaphore that can be read: {error}") from error
        if slots.limit != self._limit:
            raise LockConflict(
                f"{self.key} has {slots.limit} slots, not {self._limit}: all who use it give the same number"
            )
        return slots, lock.modify_index, living

    def _swap(self, slots: Slots, index: int) -> Ask:
        params = {"cas": index, "flags": SEMAPHORE_FLAGS}
        return Ask("PUT", self.key, params=params, body=slots.encode())
