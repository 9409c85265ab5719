"""Reads: stale, default, consistent; the blocking read; and `subscribe`, on which everything live stands.

The way of a blocking read: confirm that the state is fresh, join the group of those who ask the same,
evaluate once for the whole group, answer whoever's index is passed, and look again whenever the watch
hub wakes the group. A waiter joins before the state is read, so no change falls between. Where a write wakes
many groups they are evaluated in turn (`looks.py`); until its own, a group counts as not looked at since.

A read that times out confirms again before it answers, so that even "nothing changed" is true.

A list of more than `list_rows` rows is not read on the loop: the look stops there, and its group is read at
the `Reader` (`lists.py`). A plain read of such a list joins its group as well. Whoever joins while that
group's read is under way is answered by the next one, and so is everyone if the list is touched meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from gemot.server.confirm import Confirmations
from gemot.server.lists import LongLists
from gemot.server.looks import Looks
from gemot.server.model.changes import KvChanges
from gemot.server.model.errors import BadRequest, Busy, GemotError, StorageFailed, Unavailable
from gemot.server.model.query import DEFAULT_WAIT_MS, MAX_WAIT_MS, Answer, Options, Query
from gemot.server.ports import Random, Reader, Timer
from gemot.server.state.scope import LongList
from gemot.server.state.store import Found, State
from gemot.server.state.watch import Hub, Topic, topics

WAKE_SLICE = 500
"""Waiters answered in one go, so that a thousand of them do not hold up a write's own reply."""

MAX_WAITERS = 100_000
"""Blocking reads, subscriptions and plain reads of long lists on one server, at most."""

LIST_ROWS = 1_000
"""Rows of one query that are read on the loop, at most: 1 to 2 ms."""

_NOTHING_SEEN = -1

Done = Callable[[Any], None]
"""Is told an Answer or a GemotError; a subscription many answers, and its bookmarks."""

Cancel = Callable[[], None]


class Contact(Protocol):
    """What a read tells about the leader. The replica fulfils it."""

    def last_contact_ms(self) -> int: ...

    def knows_leader(self) -> bool: ...


class _Waiter:
    """One blocking read, subscription, or read of a long list; `index` is the newest its caller has seen.

    `floor` is an index that it saw elsewhere and that its answer does not go below. `from_read` is the first
    of its group's long reads that may answer it.
    """

    __slots__ = (
        "cancel_again",
        "cancel_timer",
        "cancelled",
        "done",
        "floor",
        "from_read",
        "group",
        "index",
        "once",
    )

    def __init__(self, group: _Group, index: int, done: Done, once: bool, floor: int) -> None:
        self.group = group
        self.index = index
        self.done = done
        self.once = once
        self.floor = floor
        self.from_read = group.began + 1
        self.cancel_timer: Cancel | None = None
        self.cancel_again: Cancel | None = None
        self.cancelled = False


class _Group:
    """All waiters of one query under one accessor: evaluated once, woken together.

    `long` says that its list was too long for the loop when it was looked at last. `contact` is what is told
    of the leader by the long read under way: of the moment when it began. While it is due a look, it is known
    that nothing of its changed from the last one to the index `quiet_to`.
    """

    __slots__ = ("accessor", "began", "contact", "key", "long", "query", "quiet_to", "topics", "waiters")

    def __init__(self, query: Query, accessor: str, key: tuple[bytes, str]) -> None:
        self.query = query
        self.accessor = accessor
        self.key = key
        self.topics = topics(query)
        self.waiters: dict[_Waiter, None] = {}
        self.long = False
        self.began = 0
        self.contact = (False, 0)
        self.quiet_to = 0


class _Parked:
    """One read that came while the state was being replaced, or timed out, and is asked in its turn."""

    __slots__ = ("ask", "cancel")

    def __init__(self, ask: Callable[[], Cancel]) -> None:
        self.ask = ask
        self.cancel: Cancel = _nothing


class Reads:
    """Answers queries from this server's state, once it is as fresh as the caller asked."""

    def __init__(
        self,
        *,
        state: State,
        hub: Hub[_Group],
        contact: Contact,
        confirmations: Confirmations,
        timer: Timer,
        random: Random,
        reader: Reader,
        default_wait_ms: int = DEFAULT_WAIT_MS,
        max_wait_ms: int = MAX_WAIT_MS,
        list_rows: int = LIST_ROWS,
    ) -> None:
        self._state = state
        self._hub = hub
        self._contact = contact
        self._confirmations = confirmations
        self._timer = timer
        self._random = random
        self._default_wait_ms = default_wait_ms
        self._max_wait_ms = max_wait_ms
        self._list_rows = list_rows
        self._lists: LongLists[_Group] = LongLists(reader=reader, begins=self._begins, found=self._found)
        self._woken: Looks[_Group] = Looks(timer=timer, look=self._look_again)
        self._parked: Looks[_Parked] = Looks(timer=timer, look=_ask_now)
        self._groups: dict[tuple[bytes, str], _Group] = {}
        self._subscriptions: dict[_Waiter, None] = {}
        self._held = False
        self._told_to = state.index
        self._due: list[tuple[_Waiter, Answer | GemotError]] = []
        self._count = 0

    # -- asking ------------------------------------------------------------------------------------

    def query(self, query: Query, options: Options, accessor: str, done: Done, *, hold_ms: int = 0) -> Cancel:
        """Read as `options` say; returns what takes a waiting read away again.

        For a leader it waits `hold_ms`, or as long as this server gives (0).
        """
        if isinstance(query, KvChanges) and options.index not in (0, query.after):
            done(BadRequest(f"changes behind {query.after} cannot be waited for at {options.index}"))
            return _nothing
        return self._query(query, options, accessor, done, floor=0, hold_ms=hold_ms)

    def _query(
        self, query: Query, options: Options, accessor: str, done: Done, *, floor: int, hold_ms: int = 0
    ) -> Cancel:
        if options.consistency == "stale" and self._fresh_enough(options.max_stale_ms):
            return self._look_or_wait(query, options, accessor, done, floor)
        cancelled = False
        cancel_wait: Cancel | None = None

        def confirmed(error: Unavailable | None) -> None:
            nonlocal cancel_wait
            if cancelled:
                return
            if error is not None:
                done(error)
            else:
                cancel_wait = self._look_or_wait(query, options, accessor, done, floor)

        def cancel() -> None:
            nonlocal cancelled
            cancelled = True
            if cancel_wait is not None:
                cancel_wait()

        self._confirmations.confirm(confirmed, hold_ms=hold_ms)
        return cancel

    def subscribe(self, query: Query, accessor: str, from_index: int, done: Done) -> Cancel:
        """Answer at once if newer than `from_index`, then after every change, until cancelled.

        Answers come from this server's state without a confirmation: they are ordered and gap-free in
        their last state, and as fresh as this server's contact with the leader.
        """
        if isinstance(query, KvChanges):
            done(BadRequest("changes are not subscribed to: they are read, each time behind those before"))
            return _nothing
        if self._count >= MAX_WAITERS:
            done(_too_many())
            return _nothing
        waiter = self._join(query, accessor, from_index, done, once=False)
        self._subscriptions[waiter] = None
        self._evaluate(waiter.group, only=waiter)
        return lambda: self._cancel(waiter)

    # -- what the replica tells --------------------------------------------------------------------

    def on_applied(self, touched: list[Topic]) -> None:
        self._confirmations.on_applied()
        quiet_to, self._told_to = self._told_to, self._state.index
        self._wake(self._hub.wake(touched), quiet_to)

    def on_replaced(self) -> None:
        """The state was replaced by a snapshot: everyone looks again."""
        self._confirmations.on_applied()
        self._held = False
        self._told_to = self._state.index
        self._wake(self._hub.wake_all(), 0)
        self._woken.resume()
        self._parked.resume()
        self._lists.resume()

    def hold(self) -> None:
        """The state is going to be replaced: nothing reads it until `on_replaced`. Who asks now waits."""
        self._held = True
        self._woken.hold()
        self._parked.hold()
        self._lists.hold()

    def bookmark(self, word: Any) -> None:
        """Tell every subscription that it has been told all there was, but those for which it is not so."""
        if self._due or self._held:
            return
        for waiter in list(self._subscriptions):
            if not (waiter.cancelled or waiter.group in self._woken or self._lists.owes(waiter.group)):
                waiter.done(word)

    @property
    def reading(self) -> bool:
        """Is a long list being read? The state file may not be replaced meanwhile."""
        return self._lists.reading

    @property
    def waiting(self) -> int:
        return self._count

    @property
    def woken(self) -> int:
        """Groups of equal waiters that were woken so far."""
        return self._hub.woken

    # -- waiting -----------------------------------------------------------------------------------

    def _fresh_enough(self, max_stale_ms: int) -> bool:
        return max_stale_ms == 0 or self._contact.last_contact_ms() <= max_stale_ms

    def _look_or_wait(self, query: Query, options: Options, accessor: str, done: Done, floor: int) -> Cancel:
        if self._held:
            return self._park(lambda: self._look_or_wait(query, options, accessor, done, floor), done)
        if options.index == 0:
            answer = self._look(query, accessor)
            if answer is not None:
                done(_raised(answer, floor, self._state.index))
                return _nothing
        if self._count >= MAX_WAITERS:
            done(_too_many())
            return _nothing
        if options.index == 0:
            waiter = self._join(query, accessor, _NOTHING_SEEN, done, once=True, floor=floor)
            self._ask_reader(waiter.group)
            return lambda: self._cancel(waiter)
        waiter = self._join(query, accessor, options.index, done, once=True)
        answer = self._look(query, accessor) if not waiter.group.long else None
        if answer is None:
            self._ask_reader(waiter.group)
        elif isinstance(answer, GemotError) or answer.index > options.index:
            self._leave(waiter)
            done(answer)
            return _nothing
        wait_ms = min(options.wait_ms if options.wait_ms > 0 else self._default_wait_ms, self._max_wait_ms)
        wait_ms += int(self._random.random() * wait_ms / 16)
        waiter.cancel_timer = self._timer.call_after(wait_ms, lambda: self._time_out(waiter, options))
        return lambda: self._cancel(waiter)

    def _park(self, ask: Callable[[], Cancel], done: Done) -> Cancel:
        if self._count + len(self._parked) >= MAX_WAITERS:
            done(_too_many())
            return _nothing
        return self._ask_later(ask)

    def _ask_later(self, ask: Callable[[], Cancel]) -> Cancel:
        """In a slice of the next turn of the loop, or once the state is replaced."""
        parked = _Parked(ask)
        self._parked.add_later(parked)

        def cancel() -> None:
            self._parked.forget(parked)
            parked.cancel()

        return cancel

    def _cancel(self, waiter: _Waiter) -> None:
        """Its caller is gone: nothing is told any more, wherever the answer is on its way."""
        waiter.cancelled = True
        self._leave(waiter)
        if waiter.cancel_again is not None:
            waiter.cancel_again()

    def _time_out(self, waiter: _Waiter, options: Options) -> None:
        group = waiter.group
        if waiter not in group.waiters:
            return
        quiet_to = group.quiet_to if group in self._woken else self._told_to
        if group.long or self._lists.owes(group):
            quiet_to = 0
        self._leave(waiter)
        behind = self._state.index < options.index
        again = Options(
            # One who has seen more elsewhere than this server has is not answered from here unconfirmed.
            consistency="default" if behind else options.consistency,
            max_stale_ms=options.max_stale_ms,
        )

        def answered(result: Answer | GemotError) -> None:
            if not waiter.cancelled:
                waiter.done(result)

        query = _behind(group.query, quiet_to)
        waiter.cancel_again = self._ask_later(
            lambda: self._query(query, again, group.accessor, answered, floor=options.index)
        )

    def _join(
        self, query: Query, accessor: str, index: int, done: Done, *, once: bool, floor: int = 0
    ) -> _Waiter:
        key = (_encoder.encode(query), accessor)
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = _Group(query, accessor, key)
            self._hub.add(group.topics, group)
        waiter = _Waiter(group, index, done, once, floor)
        group.waiters[waiter] = None
        self._count += 1
        return waiter

    def _leave(self, waiter: _Waiter) -> None:
        group = waiter.group
        if group.waiters.pop(waiter, _GONE) is _GONE:
            return
        self._count -= 1
        if not waiter.once:
            del self._subscriptions[waiter]
        if waiter.cancel_timer is not None:
            waiter.cancel_timer()
        if not group.waiters:
            self._drop(group)

    def _drop(self, group: _Group) -> None:
        """Nobody waits there. A group that is being read stays until it was: who asks again joins it."""
        self._woken.forget(group)
        self._lists.forget(group)
        if not self._lists.is_out(group):
            self._hub.remove(group)
            del self._groups[group.key]

    # -- evaluating --------------------------------------------------------------------------------

    def _wake(self, groups: list[_Group], quiet_to: int) -> None:
        """They are due a look; what the first touch since the last one said of the time before it stands."""
        for group in groups:
            group.quiet_to = min(group.quiet_to, quiet_to) if group in self._woken else quiet_to
        self._woken.add(groups)

    def _look_again(self, group: _Group) -> None:
        self._evaluate(group, quiet_to=group.quiet_to)

    def _look(self, query: Query, accessor: str) -> Answer | GemotError | None:
        """The state's answer or its refusal; None for a list that is too long to be read here.

        A state that cannot be read is raised: the node stops.
        """
        try:
            value, index = self._state.read(query, accessor, self._list_rows)
        except LongList:
            return None
        except StorageFailed:
            raise
        except GemotError as error:
            return error
        knows, last_ms = self._contact.knows_leader(), self._contact.last_contact_ms()
        return Answer(value, index, knows, last_ms, self._state.epoch)

    def _evaluate(self, group: _Group, only: _Waiter | None = None, *, quiet_to: int = 0) -> None:
        """Read once for the whole group; whoever's index is passed is due an answer.

        It is known that nothing of the group's changed from when it was looked at last to `quiet_to`.
        """
        if self._held:
            return
        quiet_to = 0 if self._lists.owes(group) else quiet_to  # some of it were never looked for
        answer = self._look(_behind(group.query, quiet_to), group.accessor) if not group.long else None
        if answer is None:
            self._ask_reader(group)
        else:
            waiters = [only] if only is not None else list(group.waiters)
            self._answer(waiters, answer, self._state.index)

    def _ask_reader(self, group: _Group) -> None:
        group.long = True
        self._lists.ask(group)

    def _begins(self, group: _Group) -> None:
        # Kept to the read's end, whatever became of the list: so its answers come in their order.
        group.long = True
        group.contact = (self._contact.knows_leader(), self._contact.last_contact_ms())

    def _found(self, group: _Group, found: Found | GemotError) -> None:
        """The long read of this group is over: all who waited before it began are answered by it."""
        waiters = [waiter for waiter in group.waiters if waiter.from_read <= group.began]
        if isinstance(found, Found):
            group.long = found.rows > self._list_rows
            answer = Answer(found.value, found.index, *group.contact, self._state.epoch)
            self._answer(waiters, answer, found.as_of)
        else:
            self._answer(waiters, found, 0)
        if not group.waiters and self._groups.get(group.key) is group:
            self._drop(group)

    def _answer(self, waiters: list[_Waiter], answer: Answer | GemotError, applied: int) -> None:
        """Whoever's index is passed by this answer, read at the applied index `applied`, is due it."""
        idle = not self._due
        for waiter in waiters:
            if isinstance(answer, GemotError):
                self._leave(waiter)
            elif answer.index > waiter.index:
                waiter.index = answer.index
                if waiter.once:
                    self._leave(waiter)
            else:
                continue
            self._due.append((waiter, _raised(answer, waiter.floor, applied) if waiter.floor else answer))
        if idle and self._due:
            self._tell_slice()

    def _tell_slice(self) -> None:
        now, self._due = self._due[:WAKE_SLICE], self._due[WAKE_SLICE:]
        if self._due:
            self._timer.call_soon(self._tell_slice)
        for waiter, answer in now:
            if not waiter.cancelled:
                waiter.done(answer)


def _behind(query: Query, quiet_to: int) -> Query:
    """The same, without looking once more through the changes of others."""
    if isinstance(query, KvChanges) and query.after < quiet_to:
        return KvChanges(query.key, query.prefix, quiet_to)
    return query


def _raised(answer: Answer | GemotError, floor: int, applied: int) -> Answer | GemotError:
    """Nothing changed since the index `floor`, which the caller has seen: the answer's must not go back."""
    if isinstance(answer, Answer) and answer.index < floor <= applied:
        return msgspec.structs.replace(answer, index=floor)
    return answer


def _ask_now(parked: _Parked) -> None:
    parked.cancel = parked.ask()


_GONE: Any = object()
_encoder = msgspec.msgpack.Encoder()  # queries with dicts inside have no hash; equal bytes mean equal queries


def _nothing() -> None:
    """Cancels a read that has been answered."""


def _too_many() -> Busy:
    return Busy(f"this server has {MAX_WAITERS} blocking reads and subscriptions: no more are taken")
