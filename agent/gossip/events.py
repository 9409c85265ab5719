"""User events: short messages that somebody fires and every member hears, if all goes well.

Delivery is by gossip: soon, to all that are there, at most once each, in no promised order, and to nobody who
comes later. Filters are the receiver's to apply, for it alone knows what runs on it. Consul has the shapes
(`/v1/event/*`); times are Lamport's, as serf has them.

Regular expressions are RE2's, as Consul's are: whatever a stranger writes, a match takes time in proportion
to the text. To compile one takes time too, in proportion to the memory that it may have: less than a
millisecond each. So only those are compiled that decide something, and how many events of others are taken is
bounded in time: `hear` asks `may`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache

import msgspec
import re2

from gemot.agent.gossip.lamport import LamportClock
from gemot.agent.gossip.message import News
from gemot.server.model.errors import BadRequest, TooLarge

TOPIC = 1
VERSION = 1

MAX_BYTES = 512
"""One event in all, encoded: what Consul's gossip takes."""

KEPT = 256
"""Events that are told by `/v1/event/list`."""

REMEMBERED = 512
"""Lamport times for which events are known from those heard before; what is older is not heard again."""

MOST_AT_ONE_TIME = 64
"""Members that fire at one Lamport time. More are dropped: that is a flood."""

_PATTERN_BYTES = 32 << 10
"""Memory for one compiled filter: what names are made of fits, and what does not is known soon."""

_PATTERNS = 128
"""Filters that stay compiled: 4 MiB at most."""

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""As Python writes one. Ids of strangers are logged and shown, so they are this and nothing else."""


class UserEvent(msgspec.Struct, frozen=True, array_like=True):
    """What is said. `id` is a UUID. An empty filter means everybody; `tag` is one of a matching service."""

    id: str
    name: str
    payload: bytes = b""
    node: str = ""
    service: str = ""
    tag: str = ""
    version: int = VERSION


class Fired(msgspec.Struct, frozen=True, array_like=True):
    """An event as it travels: with the Lamport time at which it was fired."""

    time: int
    event: UserEvent


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Fired)


class Events:
    """What one member has fired and heard. `heard` are the newest, the oldest first."""

    def __init__(self) -> None:
        self.clock = LamportClock()
        self.heard: list[Fired] = []
        self.accepted = 0
        """So many were for this member: the number of the last of `heard`."""

        self._ids: dict[int, list[str]] = {}
        self._since = 0
        self.dropped = 0

    def fire(self, event: UserEvent) -> News:
        """What to tell everybody; `hear` it here too. Raises BadRequest or TooLarge."""
        if fault := _fault(event):
            raise BadRequest(fault)
        body = _encoder.encode(Fired(self.clock.tick(), event))
        if len(body) > MAX_BYTES:
            raise TooLarge(
                f"the event has {len(body)} bytes with its name and filters, the limit is {MAX_BYTES}: "
                f"put what is long into the KV store, and its key into the payload"
            )
        return News(TOPIC, body)

    def hear(self, news: News, may: Callable[[], bool] = lambda: True, *, aged: bool = False) -> Fired | None:
        """The event if it is new: it is to be passed on, whoever it is meant for. None else.

        `may` is asked of a new one, whether one more may be taken. If not it is as if it had not come. So is
        one that may be from before this member joined, unless its age is told (`aged`): then that decides.
        """
        fired = _decoded(news)
        if fired is None or not self.clock.may_show(fired.time):
            self.dropped += 1
            return None
        ids = self._ids.get(fired.time, [])
        if fired.event.id in ids:
            return None
        if fired.time < self.clock.time - REMEMBERED:
            self.dropped += 1
            return None
        if not aged and fired.time < self._since:
            return None
        if len(ids) >= MOST_AT_ONE_TIME or not may():
            self.dropped += 1
            return None
        self.clock.witness(fired.time)
        self._ids[fired.time] = [*ids, fired.event.id]
        self._forget_old()
        return fired

    def accept(self, fired: Fired) -> None:
        """This member is meant: it shows in the list from now on."""
        self.heard = [*self.heard, fired][-KEPT:]
        self.accepted += 1

    def ignore_before(self, time: int, known: Iterable[News] = ()) -> None:
        """This member has just joined one whose clock shows this: what that one knows is not for it.

        An event of a time before may be a later one all the same, of a member that has not heard the others.
        """
        self.clock.catch_up(time)
        self._since = max(self._since, self.clock.time + 1)
        for fired in filter(None, map(_decoded, known)):
            if fired.time >= self.clock.time - REMEMBERED and self.clock.may_show(fired.time):
                ids = self._ids.get(fired.time, [])
                self._ids[fired.time] = [*ids, fired.event.id][:MOST_AT_ONE_TIME]

    def _forget_old(self) -> None:
        oldest = self.clock.time - REMEMBERED
        if len(self._ids) > 2 * REMEMBERED:
            self._ids = {time: ids for time, ids in self._ids.items() if time >= oldest}


def is_meant(event: UserEvent, node: str, services: Iterable[tuple[str, tuple[str, ...]]]) -> bool:
    """Does a host of this name, with services of these names and tags, pass the filters?

    A filter that is none, from a stranger, matches nothing. One behind another that does not match is not
    looked at.
    """
    if event.node and not _matches(event.node, node):
        return False
    if not event.service:
        return True
    return any(
        _matches(event.service, name) and (not event.tag or any(_matches(event.tag, tag) for tag in tags))
        for name, tags in services
    )


def _matches(pattern: str, text: str) -> bool:
    compiled = _compiled(pattern)
    return compiled is not None and compiled.search(text) is not None


@lru_cache(maxsize=_PATTERNS)
def _compiled(pattern: str) -> re2._Regexp | None:
    """None for what is none, or needs too much memory."""
    options = re2.Options()
    options.max_mem = _PATTERN_BYTES
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error:
        return None


def _fault(event: UserEvent) -> str:
    """What is wrong with an event that is to be fired, "" if nothing is."""
    if not event.name:
        return "Missing name"
    if event.tag and not event.service:
        return "Cannot provide tag filter without service filter"
    for field, pattern in (("node", event.node), ("service", event.service), ("tag", event.tag)):
        if pattern and _compiled(pattern) is None:
            return (
                f"Invalid {field} filter: {pattern!r} is no regular expression that RE2 takes "
                f"within {_PATTERN_BYTES >> 10} KiB: mend it, or repeat less in it"
            )
    return ""


def _decoded(news: News) -> Fired | None:
    if news.topic != TOPIC or len(news.body) > MAX_BYTES:
        return None
    try:
        fired = _decoder.decode(news.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    event = fired.event
    whole = fired.time >= 0 and event.name and _UUID.fullmatch(event.id)
    return fired if whole else None
