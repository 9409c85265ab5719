"""From a plan to the bytes of a reply: order, number, size, truncation. Pure; randomness is handed in.

One rule of size for every type: the longest run of answers is sent that fits with the addresses of their
targets. Before an answer goes, TXT extras go. The TC flag says that answers are missing, and is set when
`enable_truncate` asks for it, or when not one answer fits (an empty reply would read as "there is none").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from gemot.dns import wire
from gemot.dns.config import DnsConfig
from gemot.dns.resolve import Plan
from gemot.dns.wire import Edns, Query, Record

UDP_BYTES = 512
"""Largest UDP reply to a question without EDNS (RFC 1035 section 4.2.1)."""

MAX_UDP_BYTES = 65_467
"""Largest UDP reply whatever a client says it can take."""

MAX_TCP_BYTES = 65_535

_SMALLEST_RECORD_BYTES = 13


class Random(Protocol):
    def sample(self, population: Sequence[Any], k: int) -> list[Any]: ...


class Room(msgspec.Struct, frozen=True, gc=False):
    """How much a reply may hold: bytes of the whole message, and answers (0: no bound)."""

    size: int
    answers: int


class Form(msgspec.Struct, frozen=True, gc=False):
    """A reply without what the question brings: header behind the id, then everything behind the question.

    It fits every question of the same length of name, whatever its id and its letters' case.
    """

    head: bytes
    tail: bytes
    label: tuple[str, str]
    """Type of the question and code of the reply, for counting."""

    def fill(self, message: bytes, question_end: int) -> bytes:
        """The reply to this question."""
        return message[:2] + self.head + message[wire.HEADER_BYTES : question_end] + self.tail


def measure_room(config: DnsConfig, edns: Edns | None, *, tcp: bool) -> Room:
    if tcp:
        return Room(MAX_TCP_BYTES, 0)
    if edns is None:
        return Room(UDP_BYTES, config.answers_without_edns())
    return Room(min(max(edns.size, UDP_BYTES), MAX_UDP_BYTES), 0)


def compose(plan: Plan, query: Query, room: Room, *, truncate: bool, random: Random) -> Form:
    """One reply. With a shuffled plan each call draws another order."""
    opt = wire.encode_opt(query.edns, plan.rcode) if query.edns is not None else b""
    size = room.size - len(opt)
    lines, missing = _draw(plan, room, random)
    drafted = _Draft(query.name, plan.authority, lines)
    count = drafted.fit(size)
    missing = missing or count < len(lines)
    flags = wire.RESPONSE | (query.flags & wire.ECHOED) | (plan.rcode & 0xF)
    if plan.authoritative:
        flags |= wire.AUTHORITATIVE
    if missing and (truncate or count == 0):
        flags |= wire.TRUNCATED
    extras = drafted.extras + (1 if opt else 0)
    head = wire.encode_counts(flags, 1, count, drafted.authorities, extras)
    return Form(head, bytes(drafted.body) + opt, _label(query, plan.rcode))


def compose_error(query: Query, rcode: int) -> Form:
    """A reply that has nothing but a code (SERVFAIL, REFUSED, NOTIMP, BADVERS)."""
    opt = wire.encode_opt(query.edns, rcode) if query.edns is not None else b""
    flags = wire.RESPONSE | (query.flags & wire.ECHOED) | (rcode & 0xF)
    return Form(wire.encode_counts(flags, 1, 0, 0, 1 if opt else 0), opt, _label(query, rcode))


def compose_bare_error(message: bytes, rcode: int) -> bytes:
    """The reply to a message whose question could not be read: a header, with its id and opcode."""
    flags = int.from_bytes(message[2:4], "big")
    flags = wire.RESPONSE | (flags & (wire.OPCODE | wire.RECURSION_DESIRED)) | rcode
    return message[:2] + wire.encode_counts(flags, 0, 0, 0, 0)


def _label(query: Query, rcode: int) -> tuple[str, str]:
    return wire.TYPES.get(query.type, "other"), wire.RCODES[rcode]


class _Line(msgspec.Struct, frozen=True, gc=False):
    """One answer with what goes along with it."""

    record: Record
    extras: tuple[Record, ...] = ()
    texts: tuple[Record, ...] = ()


def _draw(plan: Plan, room: Room, random: Random) -> tuple[list[_Line], bool]:
    """The answers in the order of this reply, no more than could ever fit; and whether some were left out."""
    choices = plan.choices
    wanted = min(len(choices), plan.most or len(choices))
    bound = min(room.answers or room.size, room.size // _SMALLEST_RECORD_BYTES)
    count = min(wanted, bound)
    picked = random.sample(choices, count) if plan.shuffled else choices[:count]
    lines = []
    for choice in picked:
        first, *rest = choice.records
        lines.append(_Line(first, choice.extras, choice.texts))
        lines.extend(map(_Line, rest))
    return lines[:bound], count < wanted or len(lines) > bound


class _Draft:
    """The body of a reply while it is cut to size."""

    def __init__(self, question: bytes, authority: Sequence[Record], lines: Sequence[_Line]) -> None:
        self.body = bytearray()
        self.authorities = 0
        self.extras = 0
        self._question = question
        self._authority = authority
        self._lines = lines

    def fit(self, size: int) -> int:
        """Write as much as fits; how many answers that is."""
        count = len(self._lines)
        if self._write(count, texts=True, authority=True) <= size:
            return count
        needed = self._write(count, texts=False, authority=True)
        if needed <= size:
            return count
        if not count:
            self._write(0, texts=False, authority=False)
            return 0
        fits, fails = 0, count
        guess = count * size // needed
        while fails - fits > 1:
            guess = min(max(guess, fits + 1), fails - 1)
            if self._write(guess, texts=False, authority=True) <= size:
                fits = guess
            else:
                fails = guess
            guess = (fits + fails) // 2
        self._write(fits, texts=False, authority=fits > 0)
        return fits

    def _write(self, count: int, *, texts: bool, authority: bool) -> int:
        """Write the first `count` answers with what belongs to them; the size of the whole message."""
        writer = wire.Writer(self._question)
        lines = self._lines[:count]
        for line in lines:
            writer.put(line.record)
        behind = self._authority if authority else ()
        for record in behind:
            writer.put(record)
        extras = dict.fromkeys(record for line in lines for record in line.extras)
        if texts:
            extras.update(dict.fromkeys(record for line in lines for record in line.texts))
        for record in extras:
            writer.put(record)
        self.body, self.authorities, self.extras = writer.body, len(behind), len(extras)
        return writer.size
