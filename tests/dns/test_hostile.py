"""Hostile packets and clients: after each, the server answers, and holds no more than its bounds."""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import Iterator

import dns.asyncquery
import dns.message
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.dns_catalog import MemoryCatalog, make_farm
from support.dns_running import run, serve

from gemot.dns.config import DnsConfig
from gemot.dns.responder import Responder
from gemot.dns.tcp import TcpConnections, TcpLimits

LOOPS = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
GOOD = dns.message.make_query("web.service.consul", "SRV", payload=1232).to_wire()
HEAD = b"\x12\x34\x01\x00"
TAIL = b"\x03web\x07service\x06consul\0\0\1\0\1"
ONE = struct.pack("!4H", 1, 0, 0, 0)
Address = tuple[str, int]


def make_catalog() -> MemoryCatalog:
    catalog = MemoryCatalog()
    catalog.put_service("web", make_farm(5))
    return catalog


def make_responder() -> Responder:
    return Responder(config=DnsConfig(), catalog=make_catalog(), random=random.Random(1), now_s=lambda: 0.0)


def make_packets() -> Iterator[bytes]:
    """Some two thousand packets, the same ones each time."""
    dice = random.Random(20)
    yield from (GOOD[:size] for size in range(len(GOOD)))
    yield from (GOOD + bytes(size) for size in (1, 2, 100, 5000))
    for start in (12, 16, 24, 31):  # pointers: to themselves, to each other, out of the message
        for target in (0, 2, 11, 12, 13, start, start + 2, 0x3FFF):
            pointer = struct.pack("!H", 0xC000 | target)
            yield HEAD + ONE + TAIL[: start - 12] + pointer + b"\0\1\0\1"
            yield HEAD + ONE + TAIL[: start - 12] + pointer * 50
    for at in range(4):  # counts that lie
        for count in (2, 3, 255, 65535):
            counts = [1, 0, 0, 0]
            counts[at] = count
            yield HEAD + struct.pack("!4H", *counts) + TAIL
            yield HEAD + struct.pack("!4H", *counts) + TAIL * min(count, 20)
    yield from (HEAD + ONE + bytes((length,)) + b"a" * 300 for length in range(64, 256, 5))
    yield HEAD + ONE + b"\x3f" * 2000
    yield HEAD + ONE + b"\1a" * 200 + b"\0\0\1\0\1"
    for flags in range(0, 65536, 911):
        yield b"\0\1" + struct.pack("!H", flags) + ONE + TAIL
    for qtype in (0, 41, 249, 250, 251, 252, 253, 254, 255, 256, 65535):
        for klass in (0, 1, 2, 3, 254, 255, 65535):
            yield HEAD + ONE + TAIL[:-4] + struct.pack("!HH", qtype, klass)
    for _ in range(700):
        yield dice.randbytes(dice.randrange(200))
    for _ in range(700):
        packet = bytearray(GOOD)
        for _ in range(dice.randrange(1, 6)):
            packet[dice.randrange(len(packet))] = dice.randrange(256)
        yield bytes(packet)


async def assert_alive(address: Address, *, tcp: bool = True) -> None:
    """Without `tcp` where the limits of connections would hold for the good question too."""
    for send in (dns.asyncquery.udp, dns.asyncquery.tcp)[: 1 + tcp]:
        reply = await send(dns.message.from_wire(GOOD), address[0], port=address[1], timeout=10)
        assert len(reply.answer[0]) == 5


@LOOPS
def test_after_hostile_datagrams_the_server_answers(loop: str) -> None:
    packets = list(make_packets())
    assert len(packets) > 1500

    async def body() -> None:
        async with serve(make_catalog()) as address:
            running = asyncio.get_running_loop()
            transport, _ = await running.create_datagram_endpoint(
                asyncio.DatagramProtocol, remote_addr=address
            )
            for at, packet in enumerate(packets):
                transport.sendto(packet)
                if at % 50 == 0:
                    await assert_alive(address)
            transport.close()
            await assert_alive(address)

    run(loop, body)


def test_every_hostile_packet_gets_a_legal_reply_or_none() -> None:
    responder = make_responder()
    for packet in make_packets():
        for tcp in (False, True):
            check_reply(packet, responder.respond(packet, tcp=tcp))


@given(st.binary(max_size=300), st.booleans())
def test_any_packet_gets_a_legal_reply_or_none(packet: bytes, tcp: bool) -> None:
    responder = make_responder()
    check_reply(packet, responder.respond(packet, tcp=tcp))
    check_reply(HEAD + packet, responder.respond(HEAD + packet, tcp=tcp))
    check_reply(HEAD + ONE + packet, responder.respond(HEAD + ONE + packet, tcp=tcp))


def check_reply(packet: bytes, reply: object) -> None:
    if reply is None:
        assert len(packet) < 12 or packet[2] & 0x80
        return
    assert isinstance(reply, bytes)
    assert reply[:2] == packet[:2]
    assert reply[2] & 0x80
    dns.message.from_wire(reply)


@LOOPS
def test_after_hostile_connections_the_server_answers(loop: str) -> None:
    packets = [packet for at, packet in enumerate(make_packets()) if at % 12 == 0]

    async def body() -> None:
        async with serve(make_catalog()) as address:
            for at, packet in enumerate(packets):
                lie = (0, len(packet), max(len(packet) - 3, 0), len(packet) + 50, 65535)[at % 5]
                _, writer = await asyncio.open_connection(*address)
                writer.write(lie.to_bytes(2, "big") + packet)
                if at % 3 == 0:
                    writer.transport.abort()
                else:
                    writer.close()
            await assert_alive(address)

    run(loop, body)


@LOOPS
@pytest.mark.parametrize(
    "sent", [b"", b"\0", b"\0\x30", b"\0\x30" + GOOD[:20]], ids=["nothing", "half", "length", "part"]
)
def test_a_client_that_never_ends_its_question_is_closed(loop: str, sent: bytes) -> None:
    async def body() -> None:
        async with serve(make_catalog(), limits=TcpLimits(idle_s=0.05)) as address:
            reader, writer = await asyncio.open_connection(*address)
            writer.write(sent)
            assert await read_to_end(reader) == b""
            writer.close()
            await assert_alive(address, tcp=False)

    run(loop, body)


@LOOPS
def test_dribbling_bytes_does_not_keep_a_connection_open(loop: str) -> None:
    async def body() -> None:
        async with serve(make_catalog(), limits=TcpLimits(idle_s=0.1)) as address:
            reader, writer = await asyncio.open_connection(*address)
            ended = asyncio.ensure_future(read_to_end(reader))
            writer.write(b"\x0f\xff")
            while not ended.done():
                writer.write(b"x")
                await asyncio.wait([ended], timeout=0.01)
            writer.close()

    run(loop, body)


@LOOPS
def test_a_question_longer_than_the_limit_closes_the_connection(loop: str) -> None:
    async def body() -> None:
        async with serve(make_catalog(), limits=TcpLimits(idle_s=3600)) as address:
            reader, writer = await asyncio.open_connection(*address)
            writer.write((4097).to_bytes(2, "big"))
            assert await read_to_end(reader) == b""
            writer.close()
            await assert_alive(address)

    run(loop, body)


@LOOPS
def test_a_client_that_asks_and_never_reads_is_cut_off(loop: str) -> None:
    async def body() -> None:
        catalog = make_catalog()
        catalog.put_service("web", make_farm(900))
        async with serve(catalog, limits=TcpLimits(idle_s=0.3, unsent_bytes=64 * 1024)) as address:
            reader, writer = await asyncio.open_connection(*address, limit=1024)
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            question = len(GOOD).to_bytes(2, "big") + GOOD
            with pytest.raises(ConnectionError):
                await write_for_ever(writer, question * 100)
            writer.close()
            reader.feed_eof()
            catalog.put_service("web", make_farm(5))
            await assert_alive(address, tcp=False)

    run(loop, body)


def test_one_read_full_of_questions_does_not_make_more_replies_than_may_lie_unsent() -> None:
    class StuckTransport(asyncio.Transport):
        """Sends nothing, and is slow to say so, as a transport may be that gathers writes for one send."""

        written = 0

        def write(self, data: bytes | bytearray | memoryview) -> None:
            self.written += len(data)

        def get_write_buffer_size(self) -> int:
            return self.written

        def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
            assert high == 4096

        def pause_reading(self) -> None:
            pass

        def is_closing(self) -> bool:
            return False

        def abort(self) -> None:
            pass

    async def body() -> None:
        connections = TcpConnections(responder=make_responder(), limits=TcpLimits(unsent_bytes=4096))
        connection, transport = connections.make(), StuckTransport()
        connection.connection_made(transport)
        questions = (len(GOOD).to_bytes(2, "big") + GOOD) * 80
        held = connection.get_buffer(-1)
        count = min(len(questions), len(held))
        held[:count] = questions[:count]
        connection.buffer_updated(count)
        assert 4096 < transport.written < 4096 + 600
        connection.connection_lost(None)

    asyncio.run(body())


@LOOPS
def test_beyond_the_limit_of_connections_the_one_silent_for_longest_makes_room(loop: str) -> None:
    async def body() -> None:
        async with serve(make_catalog(), limits=TcpLimits(connections=4, idle_s=3600)) as address:
            question = len(GOOD).to_bytes(2, "big") + GOOD
            first = await asyncio.open_connection(*address)
            second = await asyncio.open_connection(*address)
            for reader, writer in (second, first):  # now `second` is the one silent for longest
                writer.write(question)
                await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
            others = [await asyncio.open_connection(*address) for _ in range(3)]
            await read_to_end(second[0])
            assert second[0].at_eof()
            first[1].write(question)
            assert await first[0].read(1), "the one in use was kept"
            for _, writer in (first, second, *others):
                writer.close()
            await assert_alive(address)

    run(loop, body)


async def write_for_ever(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Ends when the other side gives up; the bound of `run` is the limit."""
    while True:
        writer.write(data)
        await writer.drain()


async def read_to_end(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionError:
        return b""
