"""Mutated packets thrown at what takes bytes from the network: datagrams and streams, in clear and sealed.

make gossip-fuzz PACKETS=1000000
.venv/bin/python tests/gossip/fuzz.py --packets 1 --seed 7 --from 4711       one of them again

A packet is made of valid words and then spoiled: outside, as anyone on the network can, or inside under a
good seal, as only a member can. It must give words that could have been sent, or the one error. Anything else
is a crash. Each packet depends on the seed and its number alone; what comes of it may depend on those before
it, for what was seen before is refused.
"""

from __future__ import annotations

import argparse
import random
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parent.parent)

from gemot.agent.gossip import packet, stream
from gemot.agent.gossip.keyring import Key, Keyring
from gemot.agent.gossip.limits import RECEIVED_BYTES
from gemot.agent.gossip.message import (
    Ack,
    Alive,
    Dead,
    Facts,
    Nack,
    News,
    Ping,
    Record,
    Relay,
    Status,
    Suspect,
    Word,
)
from gemot.agent.gossip.seal import NONCE_BYTES, Purpose, Seal, Unopened
from gemot.server.model.errors import PeerBroke

MOST_GROWTH_KIB = 16 << 10
"""A believed length takes more, so does what is kept of each packet."""

RING = Keyring([Key(bytes(range(32))), Key(bytes(range(16)))])
STRANGERS = Keyring([Key(bytes(16))])
WALL_MS = 1_795_000_000_000

BOMBS = [
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xdb\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\xc9\xff\xff\xff\xff\x01",
    b"\xdd\x00\x01\x00\x00",
    b"\xdc\xff\xff",
    b"\x91" * 5_000,
    b"\x81\xa1a" * 5_000,
]
TELLING = [0x00, 0x01, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, *range(0xC0, 0xE0), 0xE1, 0xFE, 0xFF]
"""Where MessagePack's types begin and end; the first bytes of our own formats are among them."""


class Crash(NamedTuple):
    number: int
    mode: str
    data: bytes
    error: BaseException


# -- words, as members say them ------------------------------------------------------------------------


def an_id(r: random.Random) -> str:
    return f"{r.getrandbits(128):032x}"


def some_facts(r: random.Random) -> Facts:
    host = r.choice(["10.1.2.3", "192.168.255.254", "::1", "fd00::1:2:3:4"])
    return Facts(
        an_id(r), f"wëb-{r.randrange(1_000)}", host, r.randint(1, 65_535), r.randbytes(r.randrange(80))
    )


def some_news(r: random.Random) -> News:
    return News(r.randrange(256), r.randbytes(r.randrange(200)))


def some_word(r: random.Random) -> Word:
    seq, incarnation = r.getrandbits(32), r.choice([0, 1, 40, (1 << 63) - 1])
    makers: list[Callable[[], Word]] = [
        lambda: Ping(seq, an_id(r), an_id(r)),
        lambda: Relay(seq, an_id(r), "10.0.0.9", 8301, an_id(r)),
        lambda: Ack(seq, r.randbytes(r.randrange(129))),
        lambda: Nack(seq),
        lambda: Suspect(an_id(r), incarnation, an_id(r)),
        lambda: Alive(incarnation, some_facts(r)),
        lambda: Dead(an_id(r), incarnation, an_id(r), r.random() < 0.5, r.random() < 0.1),
        lambda: some_news(r),
    ]
    return r.choice(makers)()


def some_stream_word(r: random.Random) -> stream.StreamWord:
    records = tuple(
        Record(some_facts(r), r.randrange(9), r.choice(list(Status))) for _ in range(r.randrange(5))
    )
    makers: list[Callable[[], stream.StreamWord]] = [
        lambda: Ping(r.getrandbits(32), an_id(r), an_id(r)),
        lambda: Ack(r.getrandbits(32)),
        lambda: stream.Exchange(r.random() < 0.5, some_facts(r), records, r.getrandbits(63), (some_news(r),)),
        lambda: stream.Refused("another datacenter"),
        lambda: stream.AskRing("use", an_id(r), an_id(r), "k" * r.randrange(64), "t" * r.randrange(9)),
        lambda: stream.Ring(("k" * r.randrange(64),) * r.randrange(17)),
    ]
    return r.choice(makers)()


# -- what spoils them ----------------------------------------------------------------------------------


def _flip(r: random.Random, data: bytearray) -> None:
    for _ in range(r.choice([1, 1, 1, 2, 8])):
        data[r.randrange(len(data))] ^= 1 << r.randrange(8)


def _cut(r: random.Random, data: bytearray) -> None:
    del data[r.randrange(len(data)) :]


def _cut_out(r: random.Random, data: bytearray) -> None:
    at = r.randrange(len(data))
    del data[at : at + r.randint(1, 9)]


def _append(r: random.Random, data: bytearray) -> None:
    data += r.randbytes(r.choice([1, 2, 3, 50]))


def _tell(r: random.Random, data: bytearray) -> None:
    for _ in range(r.choice([1, 1, 2, 4])):
        data[r.randrange(len(data))] = r.choice(TELLING)


def _bomb(r: random.Random, data: bytearray) -> None:
    at = r.randrange(len(data))
    data[at : at + r.choice([0, 1, 5])] = r.choice(BOMBS)


def _more_fields(r: random.Random, data: bytearray) -> None:
    """As a later release might send, or a hostile member."""
    if 0x90 <= data[0] < 0x9F:
        data[0] += 1
        data += r.choice([b"\x01", b"\xa1x", *BOMBS])


def _number(r: random.Random, data: bytearray) -> None:
    """A length or a number of another size, wherever it may stand."""
    at = r.randrange(len(data))
    number = r.choice([0, 1, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 25])
    data[at : at + 4] = struct.pack(">I", number)


def _double(r: random.Random, data: bytearray) -> None:
    at = r.randrange(len(data))
    data[at:at] = data[at : at + r.randint(1, 40)] * r.choice([1, 1, 2, 50])


def _forget(r: random.Random, data: bytearray) -> None:
    """Nothing of it is left."""
    data[:] = r.randbytes(r.choice([0, 1, 5, 40, 1_400]))


SPOILERS = [
    _flip,
    _flip,
    _cut,
    _cut_out,
    _append,
    _tell,
    _tell,
    _bomb,
    _more_fields,
    _number,
    _double,
    _forget,
]


def spoiled(r: random.Random, data: bytes) -> bytes:
    buffer = bytearray(data)
    for _ in range(r.choice([1, 1, 1, 2, 3])):
        if not buffer:
            break
        r.choice(SPOILERS)(r, buffer)
    return bytes(buffer)


# -- one packet ----------------------------------------------------------------------------------------


MODES = {
    "datagram, clear": (Purpose.DATAGRAM, None),
    "datagram, sealed": (Purpose.DATAGRAM, RING),
    "stream, clear": (Purpose.FRAME, None),
    "stream, sealed": (Purpose.FRAME, RING),
}


def some_packet(mode: str, number: int, r: random.Random) -> bytes:
    """Spoiled at one or several of its layers, or at none."""
    layers = {layer for layer in ("word", "body", "outside") if r.random() < 0.4}
    body = (some_frame if mode.startswith("stream") else some_datagram)(r, "word" in layers)
    if "body" in layers:
        body = spoiled(r, body)
    data = some_sender(mode, number, r).seal(body, r.randbytes(NONCE_BYTES))
    if mode.startswith("stream"):
        data = stream.GREETING + stream.frame(data)
    return spoiled(r, data) if "outside" in layers else data


def some_datagram(r: random.Random, spoil: bool) -> bytes:
    parts = [packet.word_bytes(some_word(r)) for _ in range(r.randint(1, 6))]
    if spoil:
        at = r.randrange(len(parts))
        parts[at] = spoiled(r, parts[at])[:0xFFFF]
    return packet.pack(parts, 1 << 20)


def some_frame(r: random.Random, spoil: bool) -> bytes:
    body = stream.word_bytes(some_stream_word(r))
    return spoiled(r, body) if spoil else body


def some_sender(mode: str, number: int, r: random.Random) -> Seal:
    """Mostly a member; else of another cluster, without our key, started long ago, or the receiver itself."""
    purpose, ring = MODES[mode]
    other = r.random()
    return Seal(
        purpose=purpose,
        label="dc2" if other < 0.01 else "dc1",
        sender="b" if 0.01 < other < 0.02 else "a",
        wall_ms=WALL_MS + number - (10_000_000 if 0.02 < other < 0.03 else 0),
        ring=r.choice([STRANGERS, None, RING]) if 0.03 < other < 0.06 else ring,
    )


class Target:
    """What receives, in each mode, as one member has it."""

    def __init__(self) -> None:
        self._receivers = {
            mode: Seal(purpose=purpose, label="dc1", sender="b", wall_ms=WALL_MS, ring=ring)
            for mode, (purpose, ring) in MODES.items()
        }

    def throw(self, mode: str, data: bytes, r: random.Random) -> str:
        """What came of it: "words", or why there are none."""
        try:
            if mode.startswith("stream"):
                return self._throw_stream(self._receivers[mode], data, r)
            words = packet.decode(self._receivers[mode].open_(data))
        except Unopened as error:
            return error.why.value
        except PeerBroke as error:
            return "malformed" if len(error.message) < 500 else "a message too long for people"
        assert packet.decode(packet.encode(words, 2 * RECEIVED_BYTES)) == words, "what is taken can be sent"
        return "words"

    def _throw_stream(self, receiver: Seal, data: bytes, r: random.Random) -> str:
        """In pieces, as they come from a socket."""
        reader, at, found = stream.FrameReader(), 0, 0
        while at < len(data):
            size = r.choice([1, 7, 100, 64 << 10])
            for body in reader.feed(data[at : at + size]):
                word = stream.decode(receiver.open_(body))
                assert stream.decode(stream.word_bytes(word)) == word, "what is taken can be sent"
                found += 1
            at += size
        return "words" if found else "unfinished"


def run(packets: int, seed: int, first: int = 0) -> tuple[dict[str, Counter[str]], list[Crash]]:
    target = Target()
    modes = list(MODES)
    counts: dict[str, Counter[str]] = {mode: Counter() for mode in modes}
    crashes: list[Crash] = []
    for number in range(first, first + packets):
        r = random.Random((seed << 40) + number)
        mode = modes[number % len(modes)]
        data = some_packet(mode, number, r)
        for _ in range(2 if r.random() < 0.05 else 1):
            try:
                counts[mode][target.throw(mode, data, r)] += 1
            except Exception as error:
                crashes.append(Crash(number, mode, data, error))
    return counts, crashes


def peak_kib() -> int:
    """The most memory that this process ever had."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("--packets", type=int, default=100_000)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--from", type=int, default=0, dest="first", help="the number of the first packet")
    chosen = options.parse_args()
    run(100, 0)
    before, began = peak_kib(), time.process_time()
    counts, crashes = run(chosen.packets, chosen.seed, chosen.first)
    grown, seconds = peak_kib() - before, time.process_time() - began
    outcomes = sorted({outcome for each in counts.values() for outcome in each})
    print(f"{'':18}" + "".join(f"{outcome:>13}" for outcome in outcomes))
    for mode, each in counts.items():
        print(f"{mode:18}" + "".join(f"{each[outcome]:13,}" for outcome in outcomes))
    print(f"{chosen.packets:,} packets of seed {chosen.seed}, {len(crashes)} crashes")
    print(f"memory grew by {grown:,} KiB at most, of {MOST_GROWTH_KIB:,} allowed; {seconds:.0f} s of CPU")
    for crash in crashes[:10]:
        print(f"packet {crash.number}, {crash.mode}: {crash.error!r}\n    {crash.data[:2_000].hex()}")
    return 1 if crashes or grown > MOST_GROWTH_KIB else 0


if __name__ == "__main__":
    sys.exit(main())
