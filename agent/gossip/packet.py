"""Words to one datagram and back. Pure, and about form alone: what words mean is for `swim.py`.

A datagram is `format: u8`, then for each word `length: u16 big-endian | body`, the body in MessagePack. A
word is encoded once (`word_bytes`), and its bytes go into as many datagrams as it takes to spread it. Nothing
is compressed: what is in a datagram is no larger than the datagram.

A datagram is taken whole or not at all: all its lengths are looked at before the first word is decoded, and
one bad word spoils the rest. Fields behind those known here are skipped, so that a later release can add
some. A word of an unknown kind is not: who speaks a protocol (`Facts.protocol_max`) knows all its words.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from gemot.agent.gossip.limits import DATAGRAM_BYTES, RECEIVED_BYTES, SEAL_BYTES, WORDS, word_fault
from gemot.agent.gossip.message import Word
from gemot.server.model.errors import BadRequest, PeerBroke

FORMAT = 1
HEADER_BYTES = 1
PART_BYTES = 2
"""What each word takes beside its own bytes."""

PLAIN_BYTES = DATAGRAM_BYTES - SEAL_BYTES
"""A datagram before it is sealed: so much, whatever the label, and whether there is a key or not."""

ROOM = PLAIN_BYTES - HEADER_BYTES
"""For the words, each with `PART_BYTES`. Any single word fits."""

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Word] = msgspec.msgpack.Decoder(Word)


def word_bytes(word: Word) -> bytes:
    """One word, as `pack` takes it. Raises BadRequest for what every member would refuse."""
    if fault := word_fault(word):
        raise BadRequest(f"gossip: {type(word).__name__}: {fault}")
    return _encoder.encode(word)


def pack(parts: Sequence[bytes], limit: int = PLAIN_BYTES) -> bytes:
    """One datagram of encoded words. Who calls it has counted: they fit."""
    assert 0 < len(parts) <= WORDS, f"{len(parts)} words, a datagram has 1 to {WORDS}"
    pieces = [bytes((FORMAT,))]
    for part in parts:
        pieces += (len(part).to_bytes(PART_BYTES, "big"), part)
    datagram = b"".join(pieces)
    assert len(datagram) <= limit, f"{len(datagram)} bytes were packed, the limit is {limit}"
    return datagram


def encode(words: Iterable[Word], limit: int = PLAIN_BYTES) -> bytes:
    return pack([word_bytes(word) for word in words], limit)


def decode(datagram: bytes) -> list[Word]:
    """All its words. Raises PeerBroke, and then none of them counts."""
    return [_word(number, part) for number, part in enumerate(_parts(datagram), 1)]


def _parts(datagram: bytes) -> list[memoryview]:
    size = len(datagram)
    if size > RECEIVED_BYTES:
        raise PeerBroke(f"gossip datagram of {size} bytes, the limit is {RECEIVED_BYTES}")
    if size <= HEADER_BYTES:
        raise PeerBroke("gossip datagram without words")
    if datagram[0] != FORMAT:
        raise PeerBroke(f"gossip datagram of format {datagram[0]}, known is {FORMAT}")
    view, at = memoryview(datagram), HEADER_BYTES
    parts: list[memoryview] = []
    while at < size:
        end = at + PART_BYTES + int.from_bytes(view[at : at + PART_BYTES], "big")
        if end > size:
            raise PeerBroke(f"gossip datagram breaks off in word {len(parts) + 1}")
        if len(parts) == WORDS:
            raise PeerBroke(f"gossip datagram of more than {WORDS} words")
        parts.append(view[at + PART_BYTES : end])
        at = end
    return parts


def _word(number: int, part: memoryview) -> Word:
    try:
        word = _decoder.decode(part)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PeerBroke(f"gossip datagram, word {number} is undecodable: {error}") from error
    if fault := word_fault(word):
        raise PeerBroke(f"gossip datagram, word {number}, {type(word).__name__}: {fault}")
    return word
