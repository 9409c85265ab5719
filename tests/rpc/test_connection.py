"""Real sockets: what a peer does wrong costs it its own connection, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from support.http_agent import run_uvloop, until
from support.members import client, hello, server

from gemot.server.model.errors import DiskFailed
from gemot.server.model.kv import KvGet, KvSet
from gemot.server.model.query import Answer, Options
from gemot.server.raft.types import Message
from gemot.server.rpc.frame import GREETING, Kind, frame
from gemot.server.rpc.message import Apply, Ask, Call, Hello, Member, Numbered, Status, encode
from gemot.server.runtime import connection as connection_module
from gemot.server.runtime.connection import Dialler, Listener, ListenerLimits
from gemot.server.runtime.timer import LoopTimer

HELLO = GREETING + frame(Kind.HELLO, encode(hello(client(1))))
ASK = Ask(KvGet(b"k"), Options())


class EchoTier:
    """Answers every read with `value`; a write raises `breaks`."""

    def __init__(self, member: Member | None = None) -> None:
        self.member = member or server(1)
        self.value: Any = None
        self.breaks: Exception = ValueError("a bug")
        self.present: dict[str, int] = {}
        self.asked = 0

    def hello(self) -> Hello:
        return hello(self.member, cluster="c1")

    def handle(self, member: Member, call: Call, reply: Callable[[Any], None]) -> Callable[[], None]:
        self.asked += 1
        if isinstance(call, Apply):
            raise self.breaks
        reply(Answer(self.value, 1))
        return lambda: None

    def on_raft(self, member: Member, cluster: str, message: Message) -> None: ...

    def on_connected(self, member: Member) -> None:
        self.present[member.name] = self.present.get(member.name, 0) + 1

    def on_disconnected(self, member: Member) -> None:
        self.present[member.name] -= 1


class Peer:
    """A raw socket to the listener."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ended(self) -> bool:
        """Wait for the other side to end it, whatever it says before."""
        async with asyncio.timeout(20):
            with contextlib.suppress(ConnectionError):
                while await self.reader.read(1 << 16):
                    pass
        return True


class Served:
    def __init__(self, listener: Listener, tier: EchoTier, failed: list[BaseException]) -> None:
        self.listener = listener
        self.tier = tier
        self.failed = failed
        self._peers: list[Peer] = []

    async def peer(self, data: bytes = b"", *, small_buffer: bool = False) -> Peer:
        sock = socket.socket()
        if small_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, self.listener.bound)
        peer = Peer(*await asyncio.open_connection(sock=sock))
        peer.writer.write(data)
        self._peers.append(peer)
        return peer

    async def answers(self) -> bool:
        """A good client is served as ever."""
        answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        dialler = dial(lambda: self.listener.bound)
        dialler.start()
        await until(lambda: dialler.ready)
        dialler.call(Status(), lambda result: answered.done() or answered.set_result(result))
        dialler.call(ASK, lambda result: answered.done() or answered.set_result(result))
        async with asyncio.timeout(20):
            await answered
        await dialler.stop()
        return True

    def close(self) -> None:
        for peer in self._peers:
            peer.writer.transport.abort()


def dial(address: Callable[[], tuple[str, int] | None], **more: Any) -> Dialler:
    loop = asyncio.get_running_loop()
    return Dialler(loop=loop, timer=LoopTimer(loop), address=address, hello=lambda: hello(client(2)), **more)


@contextlib.asynccontextmanager
async def serving(
    tier: EchoTier | None = None, limits: ListenerLimits | None = None
) -> AsyncIterator[Served]:
    failed: list[BaseException] = []
    tier = tier or EchoTier()
    listener = Listener(
        loop=asyncio.get_running_loop(),
        tier=tier,
        host="127.0.0.1",
        port=0,
        failed=failed.append,
        limits=limits,
    )
    await listener.start()
    served = Served(listener, tier, failed)
    try:
        yield served
    finally:
        served.close()
        await listener.stop()


GARBAGE = [
    b"\x00",
    b"GET / HTTP/1.1\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    GREETING + b"\xff\xff\xff\xff\x01",
    GREETING + b"\x00\x00\x00\x00\x01",
    GREETING + b"\x00\x01\x00\x01\x01" + bytes(100),
    GREETING + frame(Kind.CALL, encode(Numbered(1, ASK))),
    GREETING + frame(Kind.HELLO, b"\xc1"),
    GREETING + frame(Kind.HELLO, encode(hello(server(2, rpc="x")))),
    HELLO + HELLO[1:],
    HELLO + b"\x00\x00\x00\x01\xee",
    HELLO + b"\x01\x00\x00\x01\x02",
    HELLO + frame(Kind.CALL, b"\x91" * 60_000),
    HELLO + frame(Kind.RAFT, b"nonsense"),
    HELLO + frame(Kind.BOOKMARK, b""),
]


@pytest.mark.parametrize("number", range(len(GARBAGE)))
def test_garbage_ends_its_own_connection_alone(number: int) -> None:
    async def work() -> None:
        async with serving() as served:
            peer = await served.peer(GARBAGE[number])
            assert await peer.ended()
            await until(lambda: served.listener.connections == 0)
            assert await served.answers()
            assert served.failed == []

    run_uvloop(work())


def test_a_hello_in_single_bytes_is_as_good_as_one_piece() -> None:
    async def work() -> None:
        async with serving() as served:
            peer = await served.peer()
            for byte in HELLO:
                peer.writer.write(bytes([byte]))
                await peer.writer.drain()
            await until(lambda: served.tier.present == {"web1": 1})

    run_uvloop(work())


def test_a_connection_that_breaks_in_the_middle_of_a_frame_leaves_nothing() -> None:
    async def work() -> None:
        async with serving() as served:
            for cut in (1, 3, 6, len(HELLO) - 1, len(HELLO)):
                peer = await served.peer(HELLO[:cut])
                await until(lambda: served.listener.connections == 1)
                peer.writer.transport.abort()
                await until(lambda: served.listener.connections == 0)
            assert served.tier.present.get("web1", 0) == 0

    run_uvloop(work())


def test_a_peer_that_says_no_hello_is_cut_off() -> None:
    async def work() -> None:
        async with serving(limits=ListenerLimits(handshake_s=0.05)) as served:
            peers = [await served.peer(), await served.peer(GREETING), await served.peer(HELLO[:-1])]
            for peer in peers:
                assert await peer.ended()
            assert served.listener.connections == 0

    run_uvloop(work())


def test_a_peer_that_falls_silent_is_cut_off_and_is_present_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "SILENT_S", 0.2)

    async def work() -> None:
        async with serving() as served:
            peer = await served.peer(HELLO)
            assert await peer.ended()
            await until(lambda: served.tier.present == {"web1": 0})

    run_uvloop(work())


def test_a_peer_that_never_reads_is_cut_off_with_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand small questions in one piece, each with an answer of 512 KiB: 5 GiB if all were kept."""
    monkeypatch.setattr(connection_module, "MAX_UNSENT_BYTES", 8 << 20)

    async def work() -> None:
        tier = EchoTier()
        tier.value = bytes(512 << 10)
        async with serving(tier) as served:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            peer = await served.peer(small_buffer=True)
            questions = b"".join(frame(Kind.CALL, encode(Numbered(n, ASK))) for n in range(10_000))
            peer.writer.transport.pause_reading()
            peer.writer.write(HELLO + questions)
            await until(lambda: served.tier.asked > 0 and served.listener.connections == 0)
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            assert grown < 200 << 10, f"{grown} KiB for a peer that reads nothing"
            assert served.tier.asked < 10_000
            tier.value = None
            assert await served.answers()

    run_uvloop(work())


def test_a_closing_connection_does_not_wait_for_a_peer_that_never_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection_module, "CLOSE_S", 0.1)

    async def work() -> None:
        tier = EchoTier()
        tier.value = bytes(16 << 20)
        async with serving(tier) as served:
            peer = await served.peer(small_buffer=True)
            peer.writer.transport.pause_reading()
            peer.writer.write(HELLO + frame(Kind.CALL, encode(Numbered(1, ASK))))
            peer.writer.write(frame(Kind.PONG, b""))
            await until(lambda: served.tier.asked == 1 and served.listener.connections == 0)

    run_uvloop(work())


def test_one_address_may_not_take_all_connections() -> None:
    async def work() -> None:
        async with serving(limits=ListenerLimits(max_per_client=2)) as served:
            kept = [await served.peer(HELLO) for _ in range(2)]
            await until(lambda: served.tier.present.get("web1") == 2)
            assert await (await served.peer(HELLO)).ended()
            kept[0].writer.transport.abort()
            await until(lambda: served.listener.connections == 1)
            assert await served.answers()

    run_uvloop(work())


def test_more_connections_than_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "MAX_CONNECTIONS", 3)

    async def work() -> None:
        async with serving() as served:
            kept = [await served.peer(HELLO) for _ in range(3)]
            await until(lambda: served.tier.present.get("web1") == 3)
            assert await (await served.peer(HELLO)).ended()
            assert served.tier.present == {"web1": 3}
            kept[0].writer.transport.abort()
            await until(lambda: served.listener.connections == 2)
            assert await served.answers()

    run_uvloop(work())


def test_a_bug_that_one_peer_meets_costs_its_connection_and_a_failed_disk_the_node() -> None:
    async def work() -> None:
        async with serving() as served:
            write = HELLO + frame(Kind.CALL, encode(Numbered(1, Apply(KvSet(b"k", b""), "", None))))
            assert await (await served.peer(write)).ended()
            assert served.failed == []
            assert await served.answers()
            served.tier.breaks = DiskFailed("no space")
            assert await (await served.peer(write)).ended()
            assert [type(error) for error in served.failed] == [DiskFailed]

    run_uvloop(work())


def test_a_mismatch_is_read_by_the_side_that_dialled() -> None:
    async def work() -> None:
        async with serving(EchoTier(server(1, datacenter="dc9"))) as served:
            dialler = dial(lambda: served.listener.bound)
            dialler.start()
            await until(lambda: "refused" in dialler.last_error)
            assert "web2 belongs to datacenter 'dc1', srv1 to 'dc9'" in dialler.last_error
            await dialler.stop()

    run_uvloop(work())


def test_a_broken_link_is_dialled_again_at_the_address_of_that_moment() -> None:
    """The address is asked for at every try: a name is resolved anew, a replaced server found."""

    async def work() -> None:
        lost: list[str] = []
        async with serving(EchoTier(server(1))) as first, serving(EchoTier(server(2))) as second:
            where = first.listener.bound
            dialler = dial(lambda: where, on_lost=lost.append)
            dialler.start()
            await until(lambda: dialler.ready)
            assert dialler.peer is not None
            assert dialler.peer.member.name == "srv1"
            where = second.listener.bound
            await first.listener.stop()
            await until(lambda: dialler.peer is not None and dialler.peer.member.name == "srv2")
            assert len(lost) == 1
            await dialler.stop()

    run_uvloop(work())


@pytest.mark.parametrize(
    ("address", "said"),
    [
        (("127.0.0.1", 1), "127.0.0.1:1 refused"),
        (("name..with.gap", 8300), "name..with.gap:8300"),
        (("x" * 70 + ".example", 8300), "8300"),
        (("127.0.0.1", 99_999), "99999"),
        (None, "address unknown"),
    ],
)
def test_an_address_that_cannot_be_dialled_is_named_and_tried_again(
    address: tuple[str, int] | None, said: str
) -> None:
    async def work() -> None:
        async with serving() as served:
            where = address
            dialler = dial(lambda: where)
            dialler.start()
            await until(lambda: dialler.last_error != "not tried yet")
            assert said in dialler.last_error
            where = served.listener.bound
            await until(lambda: dialler.ready)
            await dialler.stop()

    run_uvloop(work())


def test_a_link_that_is_not_there_refuses_calls_with_the_reason() -> None:
    async def work() -> None:
        dialler = dial(lambda: ("127.0.0.1", 1))
        dialler.start()
        await until(lambda: "refused" in dialler.last_error)
        told: list[Any] = []
        dialler.call(ASK, told.append)
        assert "refused" in told[0].message
        await dialler.stop()

    run_uvloop(work())


def test_a_server_that_hangs_is_given_up_and_dialled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It accepts and never says a word: found out by silence, not by the network."""
    monkeypatch.setattr("gemot.server.rpc.client.SILENT_AFTER_MS", 300)

    async def work() -> None:
        accepted = 0

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal accepted
            accepted += 1
            while await reader.read(1000):
                pass
            writer.close()

        mute = await asyncio.start_server(accept, "127.0.0.1", 0)
        dialler = dial(lambda: mute.sockets[0].getsockname())
        dialler.start()
        await until(lambda: accepted >= 2)
        assert "no answer for" in dialler.last_error
        await dialler.stop()
        mute.close()

    run_uvloop(work())


def test_a_link_is_never_open_and_forgotten() -> None:
    """Stopping the dialler ends its connection."""

    async def work() -> None:
        async with serving() as served:
            dialler = dial(lambda: served.listener.bound)
            dialler.start()
            await until(lambda: dialler.ready)
            await dialler.stop()
            await until(lambda: served.listener.connections == 0)

    run_uvloop(work())
