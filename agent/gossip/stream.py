"""What two members say to each other over TCP: a ping if datagrams do not pass, and exchanges of everything.

Pure: bytes to frames to words, and back. A connection begins with `GREETING`, which tells it from RPC (0x67)
and TLS (0x16) on the same port. A frame is `length: u32 big-endian | body`; the body is one word in
MessagePack, sealed if gossip is (`seal.py`). A length over the limit is refused before anything is allocated
for it, and what is kept grows only with the bytes that have come: how many connections may send at a time is
for the listener to bound.

A connection carries one question and one answer:

    Ping     -> Ack              is it only my datagrams that do not reach you?
    Exchange -> Exchange         all I know for all you know; the first one joins with `join`
    AskRing  -> Ring             what keys have you, or change them (`held_ring.py`); sealed, whatever is set
    anything -> Refused          and why
"""

from __future__ import annotations

from typing import Annotated, Literal, assert_never

import msgspec
from msgspec import Meta

from gemot.agent.gossip.limits import (
    FRAME_BYTES,
    INCARNATION_MAX,
    KEY_TEXT_BYTES,
    NEWS,
    REASON_BYTES,
    RECORDS,
    RING_KEYS,
    facts_fault,
    id_fault,
    news_fault,
    number_fault,
    record_fault,
    text_fault,
    word_fault,
)
from gemot.agent.gossip.message import ID_BYTES, NAME_BYTES, Ack, Facts, News, Ping, Record
from gemot.server.model.errors import BadRequest, PeerBroke, TooLarge

GREETING = b"\xc7"
"""Sent once by the side that connects, before its first frame."""

LENGTH_BYTES = 4
FRAMES = 4
"""More than one side of an exchange ever has to say."""


class Exchange(msgspec.Struct, frozen=True, array_like=True, tag=32):
    """All that a member knows. `clock` is its Lamport time of events, `news` the events it has seen lately.

    With `join` the sender is new here, and may be refused.
    """

    join: bool
    sender: Facts
    records: Annotated[tuple[Record, ...], Meta(max_length=RECORDS)]
    clock: int
    news: Annotated[tuple[News, ...], Meta(max_length=NEWS)]


class Refused(msgspec.Struct, frozen=True, array_like=True, tag=33, gc=False):
    """`reason` is a sentence for people."""

    reason: str


OfRing = Literal["list", "hold", "release", "install", "use", "remove"]


class AskRing(msgspec.Struct, frozen=True, array_like=True, tag=34, gc=False):
    """What is in your ring; and with all but `list`, a step of changing it. Only `to` answers.

    `hold` reserves the ring for the asker and gives a `ticket`; a change names it and uses it up, `release`
    gives it back. `key` is in base64, `to` an id, and `sender` a name.
    """

    what: OfRing
    to: str
    sender: str
    key: str = ""
    ticket: str = ""

    def __repr__(self) -> str:
        return f"AskRing({self.what}, to={self.to})"


class Ring(msgspec.Struct, frozen=True, array_like=True, tag=35, gc=False):
    """The primary first: keys in base64 to `list`, fingerprints to all else. `ticket` answers `hold`."""

    keys: Annotated[tuple[str, ...], Meta(max_length=RING_KEYS)]
    ticket: str = ""

    def __repr__(self) -> str:
        return f"Ring({len(self.keys)} keys)"


StreamWord = Ping | Ack | Exchange | Refused | AskRing | Ring

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[StreamWord] = msgspec.msgpack.Decoder(StreamWord)


def word_bytes(word: StreamWord) -> bytes:
    """One word, to be sealed and framed. Raises BadRequest for what every member would refuse."""
    if fault := _fault(word):
        raise BadRequest(f"gossip: {type(word).__name__}: {fault}")
    return _encoder.encode(word)


def decode(body: bytes) -> StreamWord:
    """The word of one frame, unsealed. Raises PeerBroke."""
    if len(body) > FRAME_BYTES:
        raise PeerBroke(f"gossip frame of {len(body)} bytes, the limit is {FRAME_BYTES}")
    try:
        word = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PeerBroke(f"gossip frame is undecodable: {error}") from error
    if fault := _fault(word):
        raise PeerBroke(f"gossip frame, {type(word).__name__}: {fault}")
    return word


def frame(body: bytes) -> bytes:
    """The bytes of one frame. Raises TooLarge for more than any member takes."""
    assert body, "a frame has a body"
    if len(body) > FRAME_BYTES:
        raise TooLarge(f"gossip: {len(body)} bytes are to be sent at once, the limit is {FRAME_BYTES}")
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


class FrameReader:
    """Collects bytes as they come and hands out the bodies of whole frames. Raises PeerBroke on nonsense.

    `greeted`: the greeting is not expected, because this side sent it, or because it has been read.
    """

    def __init__(self, *, greeted: bool = False, max_bytes: int = FRAME_BYTES) -> None:
        self._buffer = bytearray()
        self._greeted = greeted
        self._limit = max_bytes
        self._count = 0

    def feed(self, data: bytes) -> list[bytes]:
        self._buffer += data
        if not self._greeted and self._buffer:
            if self._buffer[:1] != GREETING:
                raise PeerBroke(f"connection begins with byte {self._buffer[0]:#04x}, not a gossip greeting")
            self._greeted = True
            del self._buffer[:1]
        bodies: list[bytes] = []
        while (body := self._next()) is not None:
            bodies.append(body)
        return bodies

    def _next(self) -> bytes | None:
        if len(self._buffer) < LENGTH_BYTES:
            return None
        if self._count == FRAMES:
            raise PeerBroke(f"more than {FRAMES} gossip frames on one connection")
        length = int.from_bytes(self._buffer[:LENGTH_BYTES], "big")
        if not 1 <= length <= self._limit:
            raise PeerBroke(f"gossip frame of {length} bytes is outside 1..{self._limit}")
        end = LENGTH_BYTES + length
        if len(self._buffer) < end:
            return None
        with memoryview(self._buffer) as whole, whole[LENGTH_BYTES:end] as part:
            body = bytes(part)
        del self._buffer[:end]
        self._count += 1
        return body


def _fault(word: StreamWord) -> str:
    match word:
        case Ping() | Ack():
            return word_fault(word)
        case Exchange():
            return _exchange_fault(word)
        case Refused():
            return text_fault("reason", word.reason, REASON_BYTES)
        case AskRing():
            fault = id_fault("to", word.to) or text_fault("sender", word.sender, NAME_BYTES)
            return fault or _ring_fault((word.key,), word.ticket)
        case Ring():
            return _ring_fault(word.keys, word.ticket)
        case _:
            assert_never(word)


def _ring_fault(keys: tuple[str, ...], ticket: str) -> str:
    """Of sizes alone: what is in a key is not for a message."""
    if len(keys) > RING_KEYS:
        return f"ring has {len(keys)} keys, the limit is {RING_KEYS}"
    if any(len(key) > KEY_TEXT_BYTES for key in keys):
        return f"a key is longer than {KEY_TEXT_BYTES} characters"
    return f"ticket is longer than {ID_BYTES} bytes" if len(ticket) > ID_BYTES else ""


def _exchange_fault(word: Exchange) -> str:
    if len(word.records) > RECORDS:
        return f"{len(word.records)} members, the limit is {RECORDS}"
    if len(word.news) > NEWS:
        return f"{len(word.news)} pieces of news, the limit is {NEWS}"
    if fault := facts_fault(word.sender) or number_fault("clock", word.clock, 0, INCARNATION_MAX):
        return fault
    for number, record in enumerate(word.records, 1):
        if fault := record_fault(record):
            return f"member {number}: {fault}"
    for number, news in enumerate(word.news, 1):
        if fault := news_fault(news):
            return f"news {number}: {fault}"
    return ""
