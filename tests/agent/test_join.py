"""Finding the servers: addresses as people write them, and strangers behind them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from support.http_agent import run_uvloop, until
from support.members import client, hello, server

from gemot.agent.join import Joiner, ask, parse_address
from gemot.server.model.errors import BadRequest, Unavailable
from gemot.server.raft.types import Message
from gemot.server.rpc.message import Call, Hello, Join, Joined, Member
from gemot.server.runtime.connection import Listener
from gemot.server.runtime.timer import LoopTimer


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("srv1", ("srv1", 8301)),
        ("srv1:9301", ("srv1", 9301)),
        ("10.0.0.1", ("10.0.0.1", 8301)),
        ("::1", ("::1", 8301)),
        ("[::1]", ("::1", 8301)),
        ("[::1]:9301", ("::1", 9301)),
    ],
)
def test_an_address_is_host_or_host_and_port(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text", ["", ":8301", "srv1:", "srv1:0", "srv1:65536", "srv1:x", "[::1", "[::1]x", "[]:1"]
)
def test_anything_else_is_refused_naming_it(text: str) -> None:
    with pytest.raises(BadRequest, match="retry_join"):
        parse_address(text)


class Door:
    """What answers on the join port; `result` is its answer."""

    def __init__(self, me: Member, result: Any) -> None:
        self.me = me
        self.result = result
        self.asked = 0

    def hello(self) -> Hello:
        return hello(self.me)

    def handle(self, member: Member, call: Call, reply: Callable[[Any], None]) -> Callable[[], None]:
        self.asked += 1
        reply(self.result)
        return lambda: None

    def on_raft(self, member: Member, cluster: str, message: Message) -> None: ...

    def on_connected(self, member: Member) -> None: ...

    def on_disconnected(self, member: Member) -> None: ...


JOINED = Joined((server(1), server(2)), 3, "c1")


async def _listen(door: Door) -> Listener:
    listener = Listener(loop=asyncio.get_running_loop(), tier=door, host="127.0.0.1", port=0, join_only=True)
    await listener.start()
    return listener


async def _ask(address: tuple[str, int]) -> Joined:
    loop = asyncio.get_running_loop()
    return await ask(loop=loop, timer=LoopTimer(loop), address=address, hello=hello(client(1)), call=Join(0))


def test_who_is_asked_says_who_the_servers_are() -> None:
    async def work() -> None:
        listener = await _listen(Door(server(1), JOINED))
        assert await _ask(listener.bound) == JOINED
        await until(lambda: listener.connections == 0)
        await listener.stop()

    run_uvloop(work())


def test_a_refusal_is_told_with_its_reason() -> None:
    async def work() -> None:
        listener = await _listen(Door(server(1, datacenter="dc9"), JOINED))
        with pytest.raises(Unavailable, match="web1 belongs to datacenter 'dc1', srv1 to 'dc9'"):
            await _ask(listener.bound)
        await listener.stop()

    run_uvloop(work())


@pytest.mark.parametrize(
    ("address", "said"),
    [(("127.0.0.1", 1), "refused"), (("a..b", 8301), "."), (("x" * 70, 8301), ".")],
)
def test_an_address_that_cannot_be_reached_is_unavailable(address: tuple[str, int], said: str) -> None:
    async def work() -> None:
        with pytest.raises(Unavailable, match=said):
            await _ask(address)

    run_uvloop(work())


def test_bad_addresses_beside_a_good_one_do_no_harm_and_are_named() -> None:
    """One that refuses, one that no resolver takes, one that answers with an error, one that speaks HTTP."""

    async def work() -> None:
        async def speak_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            await reader.read(100)
            writer.close()

        good = Door(server(1), JOINED)
        bad = Door(server(2), BadRequest("not here"))
        listeners = [await _listen(good), await _listen(bad)]
        web = await asyncio.start_server(speak_http, "127.0.0.1", 0)
        places = [listener.bound for listener in listeners] + [web.sockets[0].getsockname()]
        joined: list[Joined] = []
        loop = asyncio.get_running_loop()
        joiner = Joiner(
            loop=loop,
            timer=LoopTimer(loop),
            addresses=("127.0.0.1:1", "a..b", *(f"{host}:{port}" for host, port in places)),
            hello=lambda: hello(client(1)),
            expect=0,
            on_joined=joined.append,
            settled=lambda: False,
        )
        joiner.start()
        await until(lambda: len(joined) >= 2)
        assert joined[0] == JOINED
        assert len(joiner.waiting_for.split("; ")) == 4
        assert "127.0.0.1:1 refused 0 s ago" in joiner.waiting_for
        assert "not here" in joiner.waiting_for
        await joiner.stop()
        for listener in listeners:
            await listener.stop()
        web.close()

    run_uvloop(work())
