"""`/v1/snapshot` over a real port: streams both ways, whatever the other side does to them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from support.http_agent import HttpAgent, run, serving, until

from gemot.agent.archives import PIECE_BYTES
from gemot.agent.http import snapshot
from gemot.agent.http.transport import Limits
from gemot.server.model.errors import BadRequest, GemotError, NoLeader, OutcomeUnknown
from gemot.server.model.restore import Restored
from gemot.server.rpc.message import ArchivePiece, Call, ReadArchive, Upload

ARCHIVE = bytes(range(256)) * 8_000


class Tier:
    """Gives out ARCHIVE in pieces, and keeps what is uploaded."""

    def __init__(self) -> None:
        self.asked: list[Call] = []
        self.got = b""
        self.failure: Callable[[Call], GemotError | None] = lambda call: None
        self.done = Restored(77, 3, ("srv2",))

    def archive(self, call: Call) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.asked.append(call)
        if (error := self.failure(call)) is not None:
            future.set_exception(error)
        elif isinstance(call, ReadArchive):
            data = ARCHIVE[call.offset : call.offset + 700_000]
            future.set_result(ArchivePiece(5, 42, 2, len(ARCHIVE), call.offset, data, True, 9))
        else:
            assert isinstance(call, Upload)
            assert call.offset == len(self.got)
            self.got += call.data
            future.set_result(self.done if call.last else True)
        return future


@contextlib.asynccontextmanager
async def scene(**limits: Any) -> AsyncIterator[tuple[HttpAgent, Tier]]:
    tier = Tier()
    routes = snapshot.routes(servers=tier, datacenter="dc1")  # type: ignore[arg-type]
    async with serving(routes, limits=Limits(**limits)) as agent:
        yield agent, tier


def test_a_save_is_the_archive_with_its_headers() -> None:
    async def work() -> None:
        async with scene() as (agent, tier):
            reply = await agent.ask("GET", "/v1/snapshot?stale")
            assert reply.status == 200
            assert reply.body == ARCHIVE
            assert reply.headers["content-type"] == "application/x-gzip"
            told = [
                reply.headers[f"x-{name}"] for name in ("consul-index", "consul-lastcontact", "gemot-epoch")
            ]
            assert told == ["42", "9", "2"]
            reads = [call for call in tier.asked if isinstance(call, ReadArchive)]
            assert [(call.id, call.offset) for call in reads] == [(0, 0), (5, 700_000), (5, 1_400_000)]
            assert reads[0].stale

    run(work())


def test_a_save_that_cannot_begin_is_an_error_and_one_that_breaks_off_is_cut() -> None:
    async def work() -> None:
        async with scene() as (agent, tier):
            tier.failure = lambda call: NoLeader()
            reply = await agent.ask("GET", "/v1/snapshot")
            assert (reply.status, reply.text) == (500, "No cluster leader")
            tier.failure = lambda call: NoLeader() if getattr(call, "id", 0) else None
            # The last chunk, of no bytes, never comes: no client takes this for whole.
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError, ValueError)):
                await agent.ask("GET", "/v1/snapshot")

    run(work())


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES - 1, PIECE_BYTES, 3 * PIECE_BYTES + 5])
def test_a_restore_is_sent_on_in_pieces_and_told_in_headers(size: int) -> None:
    async def work() -> None:
        async with scene() as (agent, tier):
            body = (ARCHIVE * 2)[:size]
            reply = await agent.ask("PUT", "/v1/snapshot?epoch=3", body)
            assert (reply.status, reply.body) == (200, b"")
            assert tier.got == body
            uploads = [call for call in tier.asked if isinstance(call, Upload)]
            assert all(len(call.data) <= PIECE_BYTES for call in uploads)
            assert [call.last for call in uploads] == [False] * (len(uploads) - 1) + [True]
            assert uploads[-1].epoch == 3
            told = [reply.headers[f"x-gemot-{name}"] for name in ("index", "epoch", "not-staged")]
            assert told == ["77", "3", "srv2"]

    run(work())


def test_a_body_in_chunks_is_taken_and_the_connection_goes_on() -> None:
    async def work() -> None:
        async with scene() as (agent, tier):
            connection = await agent.connect()
            for _ in range(2):
                tier.got = b""
                connection.send(b"PUT /v1/snapshot HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
                for at in range(0, 300_000, 100_000):
                    connection.send(b"%x\r\n%b\r\n" % (100_000, ARCHIVE[at : at + 100_000]))
                    await connection.drain()
                connection.send(b"0\r\n\r\n")
                assert (await connection.reply()).status == 200
                assert tier.got == ARCHIVE[:300_000]

    run(work())


def test_a_body_that_breaks_off_is_never_sent_to_its_end() -> None:
    async def work() -> None:
        async with scene() as (agent, tier):
            connection = await agent.connect()
            connection.send(b"PUT /v1/snapshot HTTP/1.1\r\nHost: h\r\nContent-Length: 5000000\r\n\r\n")
            connection.send(ARCHIVE)
            await until(lambda: tier.asked)
            await connection.close()
            await asyncio.sleep(0.1)
            assert not any(call.last for call in tier.asked if isinstance(call, Upload))

    run(work())


def test_a_body_that_comes_no_further_is_not_waited_for() -> None:
    async def work() -> None:
        async with scene(body_timeout_s=0.2) as (agent, tier):
            connection = await agent.connect()
            connection.send(b"PUT /v1/snapshot HTTP/1.1\r\nHost: h\r\nContent-Length: 5000000\r\n\r\nx")
            reply = await connection.reply()
            assert reply.status == 400
            assert "nothing more of the request's body came" in reply.text
            assert await connection.ended()
            assert tier.asked == []

    run(work())


def test_a_refusal_amid_the_body_is_told_and_the_rest_is_not_read() -> None:
    async def work() -> None:
        async with scene() as (agent, tier):
            tier.failure = lambda call: BadRequest("not a snapshot")
            reply = await agent.ask("PUT", "/v1/snapshot", ARCHIVE)
            assert (reply.status, reply.text) == (400, "not a snapshot")
            tier.failure = lambda call: OutcomeUnknown("the connection broke")
            reply = await agent.ask("PUT", "/v1/snapshot", b"x")
            assert reply.headers["x-gemot-outcome"] == "unknown"

    run(work())


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("epoch=0", 400),
        ("epoch=-1", 400),
        ("epoch=x", 400),
        ("epoch=99999999999", 400),
        ("stale", 500),
        ("dc=x", 500),
    ],
)
def test_what_makes_no_sense_is_refused_before_the_body_is_read(query: str, status: int) -> None:
    async def work() -> None:
        async with scene() as (agent, tier):
            reply = await agent.ask("PUT", f"/v1/snapshot?{query}", b"x")
            assert reply.status == status
            assert tier.asked == []

    run(work())


def test_a_body_over_the_limit_is_refused_by_its_length() -> None:
    async def work() -> None:
        async with scene() as (agent, _):
            connection = await agent.connect()
            connection.send(b"PUT /v1/snapshot HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999999\r\n\r\n")
            assert (await connection.reply()).status == 413

    run(work())
