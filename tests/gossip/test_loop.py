"""Gossip over real sockets: members find, miss and leave each other; strangers change nothing."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
from support.gossiping import Gossiper, eventually

from gemot.agent.gossip.keyring import Key, Keyring
from gemot.agent.gossip.loop import MOST_PER_ADDRESS, MOST_STREAMS, TOLD_AFTER
from gemot.agent.gossip.message import Status
from gemot.agent.gossip.stream import GREETING
from gemot.server.model.errors import BadRequest, GemotError, Unavailable

ONE, OTHER = (Keyring((Key(bytes([number]) * 32),)) for number in (1, 2))


def run(test: Callable[[AsyncExitStack], Awaitable[None]]) -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:
            await test(stack)

    asyncio.run(main())


async def members(stack: AsyncExitStack, count: int, **how: object) -> list[Gossiper]:
    """So many, each of which has joined the first."""
    found: list[Gossiper] = []
    for number in range(1, count + 1):
        found.append(await started(stack, Gossiper(number, **how)))  # type: ignore[arg-type]
        if number > 1:
            await found[-1].join(found[0])
    await eventually(lambda: all(a.holds(b) is Status.ALIVE for a in found for b in found))
    return found


async def started(stack: AsyncExitStack, member: Gossiper) -> Gossiper:
    await member.start()
    stack.push_async_callback(member.stop)
    return member


@pytest.mark.parametrize("ring", [None, ONE], ids=["clear", "sealed"])
def test_members_know_each_other_and_miss_one_that_was_killed(ring: Keyring | None) -> None:
    async def test(stack: AsyncExitStack) -> None:
        first, *others = await members(stack, 5, ring=ring)
        await others[2].stop()
        rest = [first, *others[:2], others[3]]
        await eventually(lambda: all(each.holds(others[2]) is Status.FAILED for each in rest))
        assert all("suspected" in each.changes(others[2]) for each in rest)
        await eventually(lambda: all(a.holds(b) is Status.ALIVE for a in rest for b in rest))

    run(test)


def test_a_good_bye_is_known_to_all_before_its_process_ends() -> None:
    async def test(stack: AsyncExitStack) -> None:
        first, second, third = await members(stack, 3)
        await third.gossip.leave()
        await third.stop()
        await eventually(lambda: first.holds(third) is second.holds(third) is Status.LEFT)
        assert "failed" not in first.changes(third)

    run(test)


def test_without_datagrams_a_member_is_kept_by_tcp_and_that_is_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its UDP port is closed, as by a firewall; connections still pass."""

    async def test(stack: AsyncExitStack) -> None:
        first, second = await members(stack, 2)
        assert second.gossip._socket is not None
        second.gossip._socket.close()
        await eventually(lambda: first.gossip._by_stream.get(second.facts.id, 0) > TOLD_AFTER + 1)
        await eventually(lambda: first.holds(second) is Status.ALIVE)

    run(test)
    told = [line.getMessage() for line in caplog.records if "by TCP and not by UDP" in line.message]
    assert len([line for line in told if "member=node2" in line]) == 1


def test_a_port_that_speaks_http_is_named_as_such() -> None:
    async def test(stack: AsyncExitStack) -> None:
        (first,) = await members(stack, 1)

        async def speak_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            await reader.read(100)
            writer.close()

        web = await asyncio.start_server(speak_http, "127.0.0.1", 0)
        port = web.sockets[0].getsockname()[1]
        with pytest.raises(GemotError, match=f"127.0.0.1:{port} speaks HTTP"):
            await first.gossip.exchange("127.0.0.1", port, join=True)
        web.close()

    run(test)


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"ring": OTHER}, "no_key_fits"),
        ({}, "unsealed"),
        ({"ring": ONE, "label": "blue"}, "wrong_label"),
    ],
)
def test_who_has_another_key_or_label_is_not_let_in(how: dict[str, object], why: str) -> None:
    async def test(stack: AsyncExitStack) -> None:
        first, second = await members(stack, 2, ring=ONE)
        stranger = await started(stack, Gossiper(9, **how))  # type: ignore[arg-type]
        with pytest.raises(GemotError):
            await stranger.join(first)
        assert first.gossip.dropped[why] == 1
        assert first.holds(stranger) is None
        await eventually(lambda: first.holds(second) is Status.ALIVE)

    run(test)


def test_a_refusal_says_why_on_both_sides() -> None:
    async def test(stack: AsyncExitStack) -> None:
        first = await started(stack, Gossiper(1, admit="datacenter dc2 is not dc1"))
        second = await started(stack, Gossiper(2))
        with pytest.raises(BadRequest, match="dc2 is not dc1"):
            await second.join(first)
        first.why, second.why = "", "not with you"
        with pytest.raises(BadRequest, match="not with you"):
            await second.join(first)
        assert second.holds(first) is None

    run(test)


def test_nobody_there_is_told_as_such() -> None:
    async def test(stack: AsyncExitStack) -> None:
        first = await started(stack, Gossiper(1))
        with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"):
            await first.gossip.exchange("127.0.0.1", 1)

    run(test)


@pytest.mark.parametrize("ring", [None, ONE], ids=["clear", "sealed"])
def test_another_member_at_an_address_does_not_answer_for_the_one_that_is_asked_for(
    ring: Keyring | None,
) -> None:
    """It may be of another cluster; to it nothing is told, and nothing of it is taken in."""

    async def test(stack: AsyncExitStack) -> None:
        first, second = [await started(stack, Gossiper(number, ring=ring)) for number in (1, 2)]
        me = second.gossip.swim.me
        assert await first.gossip.is_there(me.host, me.port, me.id)
        with pytest.raises(Unavailable):
            await first.gossip.is_there(me.host, me.port, "1" * 36)
        assert len(first.gossip.swim.members) == len(second.gossip.swim.members) == 1

    run(test)


def test_nonsense_on_both_ports_is_counted_and_changes_nothing() -> None:
    async def test(stack: AsyncExitStack) -> None:
        first, second = await members(stack, 2)
        with socket.socket(type=socket.SOCK_DGRAM) as udp:
            for data in (b"", b"\x00", b"\xa1\x00\x01\xff", b"\xa1\x00" + b"\x01\xff\xff", bytes(1_400)):
                udp.sendto(data, ("127.0.0.1", first.facts.port))
        for data in (b"GET / HTTP/1.1\r\n\r\n", GREETING + b"\xff" * 4, GREETING + b"\0\0\0\2\xa1\0"):
            reader, writer = await asyncio.open_connection("127.0.0.1", first.facts.port)
            writer.write(data)
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b"", "it is answered by nothing"
            writer.close()
        await eventually(lambda: sum(first.gossip.dropped.values()) >= 6)
        assert len(first.refused) == 1
        await eventually(lambda: first.holds(second) is second.holds(first) is Status.ALIVE)

    run(test)


def test_who_connects_and_says_nothing_keeps_nobody_out() -> None:
    async def test(stack: AsyncExitStack) -> None:
        first = await started(stack, Gossiper(1))
        silent = [await asyncio.open_connection("127.0.0.1", first.facts.port) for _ in range(80)]
        await eventually(lambda: len(first.refused) >= 16)
        for _, writer in silent:
            writer.transport.abort()
        second = await started(stack, Gossiper(2))
        await second.join(first)
        assert first.holds(second) is Status.ALIVE

    run(test)


def test_who_greets_and_says_nothing_more_keeps_nobody_else_out() -> None:
    """One address has only so many questions; what it leaves open ends with the member that was asked."""

    async def test(stack: AsyncExitStack) -> None:
        first = await started(stack, Gossiper(1))
        silent = [
            await asyncio.open_connection("127.0.0.1", first.facts.port, local_addr=("127.0.0.2", 0))
            for _ in range(MOST_STREAMS)
        ]
        for _, writer in silent:
            writer.write(GREETING)
        await eventually(lambda: first.gossip.dropped["busy"] == MOST_STREAMS - MOST_PER_ADDRESS)
        second = await started(stack, Gossiper(2))
        await second.join(first)
        assert first.holds(second) is Status.ALIVE
        await first.stop()
        async with asyncio.timeout(10):
            for reader, writer in silent:
                with contextlib.suppress(ConnectionResetError):
                    assert await reader.read() == b""
                writer.close()

    run(test)
