"""Bugs of reads, blocking reads and subscriptions: answers that are older than they may be, or never come."""

from __future__ import annotations

import itertools
from typing import Any

from mutants.bug import Patch, bug

from gemot.server import reads as reads_module
from gemot.server.confirm import Confirmations
from gemot.server.lists import LongLists
from gemot.server.model.kv import KvGet
from gemot.server.raft.reads import Forwarded
from gemot.server.reads import Reads
from gemot.server.state import store
from gemot.server.state.watch import Hub

CONFIRM = "tests/server/test_confirm.py"
READS = "tests/server/test_reads.py"
WATCH = "tests/state/test_watch.py"


@bug(5, tests=(READS,))
def stale_read(patch: Patch) -> None:
    """A read is answered without asking anybody whether this server is up to date."""
    patch.setattr(Confirmations, "confirm", lambda self, done, **_named: done(None))


@bug(6, tests=(CONFIRM,))
def a_read_id_is_used_again(patch: Patch) -> None:
    """An ask is made again under its old id: a late answer to the first one serves who came since."""
    send = Confirmations._send

    def send_under_the_same(self: Confirmations) -> None:
        newest = self._next_id
        for id in list(self._asks) if self._is_due() else ():
            self._give_up(id)
        send(self)
        self._next_id = newest

    def add(self: Forwarded, id: int, now: int) -> bool:
        self._asked.pop(id, None)
        return asked(self, id, now)

    asked = Forwarded.add
    patch.setattr(Confirmations, "_send", send_under_the_same)
    patch.setattr(Forwarded, "add", add)


@bug(6, tests=(CONFIRM,))
def a_read_joins_an_ask_that_has_left(patch: Patch) -> None:
    """Whoever comes while an ask is under way is answered by it."""
    confirm = Confirmations.confirm

    def join(self: Confirmations, done: Any, *, hold_ms: int = 0) -> None:
        confirm(self, done, hold_ms=hold_ms)
        if self._asks:
            newest = next(reversed(self._asks.values()))
            newest.reads, self._waiting = newest.reads + self._waiting, []

    patch.setattr(Confirmations, "confirm", join)


@bug(5, 38, tests=(CONFIRM,))
def a_read_does_not_wait_for_the_state(patch: Patch) -> None:
    """A read is answered once its index is known, before the state has reached it."""

    def on_answer(self: Confirmations, id: int, index: int) -> None:
        if index and id in self._asks:
            self._tell(self._served_by(id), None)
            self._schedule()
        else:
            answer(self, id, index)

    answer = Confirmations.on_answer
    patch.setattr(Confirmations, "on_answer", on_answer)


@bug(38, tests=("tests/server/test_long_lists.py",))
def early_list(patch: Patch) -> None:
    """Who asks for a long list is answered by a read of it that had begun before."""
    original = Reads._join

    def join(self: Reads, *arguments: Any, **named: Any) -> Any:
        waiter = original(self, *arguments, **named)
        waiter.from_read = 0
        return waiter

    patch.setattr(Reads, "_join", join)


@bug(38, tests=("tests/server/test_long_lists.py",))
def early_bookmark(patch: Patch) -> None:
    """A subscription is told that it was told all, while its list is being read."""
    patch.setattr(LongLists, "owes", lambda self, asker: False)


@bug(38, tests=(READS,))
def nothing_new_is_not_confirmed(patch: Patch) -> None:
    """A blocking read that times out is answered from this server as it is, however far behind."""
    time_out = Reads._time_out

    def unconfirmed(self: Reads, waiter: Any, options: Any) -> None:
        query, ask_later = self._query, self._ask_later

        def look(asked: Any, options: Any, accessor: str, done: Any, *, floor: int, hold_ms: int = 0) -> Any:
            return self._look_or_wait(asked, options, accessor, done, floor)

        def ask_unconfirmed(ask: Any) -> Any:
            self._query = look  # type: ignore[method-assign]
            try:
                return ask()
            finally:
                self._query = query  # type: ignore[method-assign]

        self._ask_later = lambda ask: ask_later(lambda: ask_unconfirmed(ask))  # type: ignore[method-assign]
        try:
            time_out(self, waiter, options)
        finally:
            self._ask_later = ask_later  # type: ignore[method-assign]

    patch.setattr(Reads, "_time_out", unconfirmed)


@bug(38, tests=(READS,))
def an_index_goes_back(patch: Patch) -> None:
    """ "Nothing new" is told with the index that this server computes, below the one that was asked with."""
    patch.setattr(reads_module, "_raised", lambda answer, floor, applied: answer)


@bug(38, tests=(WATCH, READS))
def who_watches_a_prefix_is_not_woken(patch: Patch) -> None:
    """A key that is written wakes those who wait for this key alone."""
    gather = Hub._gather

    def gather_exact(self: Hub[Any], topic: Any, found: dict[Any, None]) -> None:
        if topic[0] != "kv":
            gather(self, topic, found)
        elif (shelf := self._keys.get(topic[1])) is not None:
            found.update(shelf)

    patch.setattr(Hub, "_gather", gather_exact)


@bug(38, tests=(WATCH, READS))
def a_deleted_range_wakes_nobody(patch: Patch) -> None:
    """Who waits for a key is not told that the range above it was deleted."""
    gather = Hub._gather

    def gather_keys(self: Hub[Any], topic: Any, found: dict[Any, None]) -> None:
        if topic[0] != "kv-prefix":
            gather(self, topic, found)

    patch.setattr(Hub, "_gather", gather_keys)


@bug(38, tests=(READS,))
def wakes_come_before_the_apply(patch: Patch) -> None:
    """Each slice wakes those whom the one before it touched: the change itself is not in the state yet."""
    on_applied = Reads.on_applied
    newest: dict[int, list[Any]] = {}

    def one_slice_late(self: Reads, touched: list[Any]) -> None:
        before, newest[id(self)] = newest.get(id(self), []), touched
        on_applied(self, before)

    patch.setattr(Reads, "on_applied", one_slice_late)


@bug(21, 38, tests=(READS,))
def an_install_wakes_nobody(patch: Patch) -> None:
    """Who waits is not told that the whole state was replaced."""
    patch.setattr(Hub, "wake_all", lambda self: [])


@bug(38, tests=(READS,))
def who_cancelled_is_told_all_the_same(patch: Patch) -> None:
    """An answer that was on its way goes to a caller that is gone."""

    def cancel(self: Reads, waiter: Any) -> None:
        if not self._due:
            self._leave(waiter)

    patch.setattr(Reads, "_cancel", cancel)


@bug(38)
def wake_for_nothing(patch: Patch) -> None:
    """A key has the index of the newest change to any key, so its watcher is woken by all of them."""
    original = store.READERS[KvGet]

    def get(reading: Any, query: KvGet) -> Any:
        entry, index = original(reading, query)
        return entry, max(index, reading.meta.kv_index)

    patch.setitem(store.READERS, KvGet, get)


@bug(38, tests=(WATCH, READS))
def lost_wake_up(patch: Patch) -> None:
    """One in five of those who wait for a change is not woken by it."""
    original, calls = Hub.wake, itertools.count()

    def wake(self: Hub[Any], touched: Any) -> Any:
        return [waiter for waiter in original(self, touched) if next(calls) % 5]

    patch.setattr(Hub, "wake", wake)
