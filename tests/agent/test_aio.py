"""The client for asyncio against a real agent: it and the other one keep each other out."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.dev_agent import await_sessions, dev_agent
from support.tasks import PATIENCE_S, with_agents

from gemot.agent.client.agents import Agents as ThreadAgents
from gemot.agent.client.aio.agents import Agents
from gemot.agent.client.aio.hold import Hold
from gemot.agent.client.aio.kv import Kv
from gemot.agent.client.aio.session import Session
from gemot.agent.client.connection import (
    CannotConnect,
    ClientError,
    Connection,
    ConnectionBroke,
    NoFences,
    NotAnAgent,
    Refused,
    Reply,
)
from gemot.agent.client.election import Election, leader_of
from gemot.agent.client.hold import Hold as ThreadHold
from gemot.agent.client.kv import Kv as ThreadKv
from gemot.agent.client.lock import LOCK_FLAGS, Lock
from gemot.agent.client.recipe import LockConflict, LockLost, Recipe
from gemot.agent.client.semaphore import Semaphore

RECIPES = {
    "lock": lambda: Lock("aio-lock"),
    "semaphore": lambda: Semaphore("aio-semaphore", 1, delay_s=0.2),
    "election": lambda: Election("aio-election", name="one"),
}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("agent")
    (folder / "ttl.json").write_text('{"session_ttl_min": "1s"}')
    with dev_agent(folder, f"-config-file={folder / 'ttl.json'}") as address:
        await_sessions(address)
        yield address


def sessions(address: str) -> list[str]:
    with closing(Connection(address)) as connection:
        return [row["ID"] for row in connection.request("GET", "/v1/session/list").json()]


async def eventually(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - what an agent comes to has no event here
        await asyncio.sleep(0.01)


class Slow(Agents):
    """What is deleted or destroyed is asked for only when somebody has heard of it."""

    def __init__(self, address: str, at: str) -> None:
        super().__init__(address)
        self._slow = at
        self.asked = asyncio.Event()

    async def request(self, method: str, path: str, **asked: Any) -> Reply:
        if self._slow in f"{method} {path}":
            self.asked.set()
            await asyncio.sleep(0.1)
        return await super().request(method, path, **asked)


def test_keys_are_as_with_the_other_client(address: str) -> None:
    @with_agents(address)
    async def _(agents: Agents) -> None:
        kv = Kv(agents)
        assert await kv.get("aio/a") is None
        assert await kv.put("aio/a b/ü", b"\x00\xff", flags=7)
        assert not await kv.put("aio/a b/ü", b"", cas=1)
        entry = await kv.get("aio/a b/ü")
        assert entry is not None
        assert (entry.key, entry.value, entry.flags) == ("aio/a b/ü", b"\x00\xff", 7)
        assert await kv.keys("aio/", "/") == ["aio/a b/"]
        assert [each.key for each in await kv.tree("aio/")] == ["aio/a b/ü"]
        assert await kv.delete("aio/", recurse=True)
        assert await kv.keys("aio/") == []
        with pytest.raises(Refused, match="the limit is"):
            await kv.put("k" * 5000, b"")


def test_a_session_outlives_its_ttl_and_is_lost_when_it_is_destroyed(address: str) -> None:
    @with_agents(address)
    async def _(agents: Agents) -> None:
        async with Session(agents, ttl_s=1.5) as mine:
            if not await mine.wait(4.0):  # a host that stood still for longer loses it, and may
                assert mine.id in sessions(address)
            await agents.request("PUT", f"/v1/session/destroy/{mine.id}")
            assert await mine.wait()
        async with Session(agents, ttl_s=10) as mine:
            pass
        assert mine.lost == "the session was ended"
        assert mine.id not in sessions(address)


@pytest.mark.parametrize("turns", range(5))
def test_a_wait_that_is_cancelled_as_the_session_is_lost_is_cancelled(address: str, turns: int) -> None:
    """If it went on, whoever waits for a lock would wait anew, for ever."""

    @with_agents(address)
    async def _(agents: Agents) -> None:
        async with Session(agents) as mine:
            waiting = asyncio.create_task(mine.wait())
            await asyncio.sleep(0.1)
            mine.lose("it is another's")
            for _ in range(turns):
                await asyncio.sleep(0)
            cancelled = waiting.cancel()
            await asyncio.wait([waiting])
            assert waiting.cancelled() == cancelled


@pytest.mark.parametrize("kind", RECIPES)
def test_tasks_and_threads_keep_each_other_out(address: str, kind: str) -> None:
    recipe: Recipe = RECIPES[kind]()
    got: list[int] = []

    def by_thread() -> None:
        with closing(ThreadAgents(address)) as agents, ThreadHold(agents, recipe, lock_delay_s=0) as hold:
            got.append(hold.fence)

    @with_agents(address)
    async def _(agents: Agents) -> None:
        mine = Hold(agents, recipe, lock_delay_s=0)
        async with mine:
            got.append(mine.fence)
            thread = threading.Thread(target=by_thread, daemon=True)
            thread.start()
            other = Hold(agents, recipe, lock_delay_s=0)
            assert await other.acquire(0.5) is None
            assert len(got) == 1
            assert mine.check() == mine.fence
            assert await Kv(agents).put("aio-by", b"1", lock=mine.guard, fence=mine.fence)
        await eventually(lambda: len(got) == 2)
        await asyncio.to_thread(thread.join, PATIENCE_S)
        async with mine:
            got.append(mine.fence)
        assert got == sorted(set(got))
        assert await Kv(agents).keys(f"aio-{kind}") == []
        with pytest.raises(LockLost):
            mine.check()

    assert sessions(address) == []


def test_many_tasks_take_turns(address: str) -> None:
    @with_agents(address)
    async def _(agents: Agents) -> None:
        inside: list[int] = []

        async def work() -> None:
            async with Hold(agents, Lock("turns"), lock_delay_s=0) as hold:
                inside.append(hold.fence)
                await asyncio.sleep(0)
                assert inside == [hold.fence]
                inside.clear()

        await asyncio.gather(*(work() for _ in range(8)))


@pytest.mark.parametrize("how", ["destroyed", "deleted"])
def test_a_holder_who_loses_it_is_told(address: str, how: str) -> None:
    @with_agents(address)
    async def _(agents: Agents) -> None:
        hold = Hold(agents, Lock(how), ttl_s=2, lock_delay_s=0)
        await hold.acquire()
        path = f"session/destroy/{hold.session}" if how == "destroyed" else f"kv/{how}/.lock"
        await agents.request("PUT" if how == "destroyed" else "DELETE", f"/v1/{path}")
        assert await hold.wait_lost()
        assert not await hold.release()


def test_a_callback_that_fails_does_not_end_the_watch(address: str, caplog: pytest.LogCaptureFixture) -> None:
    def failing(rows: object) -> None:
        raise RuntimeError("a mistake of the caller")

    @with_agents(address)
    async def _(agents: Agents) -> None:
        hold = Hold(agents, Lock("mistaken"), lock_delay_s=0, seen=failing)
        await hold.acquire()
        await eventually(lambda: bool(caplog.records))
        assert hold.held
        await agents.request("DELETE", "/v1/kv/mistaken/.lock")
        assert "was taken from it or deleted" in await hold.wait_lost()
        assert not await hold.release()


def test_a_wait_that_is_cancelled_leaves_nothing(address: str) -> None:
    @with_agents(address)
    async def _(agents: Agents) -> None:
        told: list[str] = []
        async with Hold(agents, Lock("cancelled"), lock_delay_s=0) as mine:
            waiting = asyncio.create_task(Hold(agents, Lock("cancelled"), tell=told.append).acquire())
            await eventually(lambda: bool(told))
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert sessions(address) == [mine.session]
            assert await Kv(agents).keys("cancelled/") == ["cancelled/.lock"]


@pytest.mark.parametrize(
    "how", ["cancelled twice", "cancelled as its time is over", "cancelled as it is had"]
)
def test_one_that_is_cancelled_as_it_ends_its_session_ends_it_first(address: str, how: str) -> None:
    @with_agents(address)
    async def _(agents: Agents) -> None:
        key = how.replace(" ", "-")
        at = "DELETE /v1/kv/" if how == "cancelled as it is had" else "PUT /v1/session/destroy"
        async with contextlib.AsyncExitStack() as stack:
            slow = await stack.enter_async_context(Slow(address, at))
            if how != "cancelled as it is had":
                await stack.enter_async_context(Hold(agents, Lock(key), lock_delay_s=0))
            others = sessions(address)
            told: list[str] = []
            hold = Hold(slow, Lock(key), lock_delay_s=0, tell=told.append)
            timeout_s = 0.3 if how == "cancelled as its time is over" else None
            taking = asyncio.create_task(hold.acquire(timeout_s))
            if how == "cancelled twice":
                # Who waits knows the session that it has to end; the agent knows it earlier.
                await eventually(lambda: bool(told))
                taking.cancel()
            await slow.asked.wait()
            taking.cancel()
            if how == "cancelled as it is had":
                await asyncio.sleep(0)
                taking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await taking
            assert sessions(address) == others
            assert len(await Kv(agents).keys(f"{key}/")) == len(others)


def free(address: str, key: str) -> bool:
    """Whether the lock is had at once, without a lock delay."""
    with closing(Connection(address)) as connection:
        other = connection.request("PUT", "/v1/session/create").json()["ID"]
        try:
            return ThreadKv(connection).put(f"{key}/.lock", b"", acquire=other, flags=LOCK_FLAGS)
        finally:
            connection.request("PUT", f"/v1/session/destroy/{other}")


RELEASE, DESTROY = "PUT /v1/kv/", "PUT /v1/session/destroy"


@pytest.mark.parametrize("at", [RELEASE, DESTROY], ids=["giving back", "ending"])
@pytest.mark.parametrize("how", ["cancelled", "cancelled twice", "its loop ends"])
def test_what_is_given_back_is_free_though_that_is_interrupted(address: str, how: str, at: str) -> None:
    """Whose session ends while it holds a lock leaves it to nobody for the lock delay.

    `asyncio.run` cancels every task once the main one is done: what gives back is one of them.
    """
    key = f"interrupted-{how}-{at}".translate({ord(" "): "-", ord("/"): "-"})

    async def work(taken: asyncio.Future[Slow]) -> None:
        async with Slow(address, at) as agents:
            hold = Hold(agents, Lock(key), lock_delay_s=30)
            await hold.acquire()
            agents.asked.clear()  # to take it is to write to the key as well
            taken.set_result(agents)
            await hold.release()

    async def main() -> None:
        taken: asyncio.Future[Slow] = asyncio.get_running_loop().create_future()
        working = asyncio.create_task(work(taken))
        await (await taken).asked.wait()
        if how == "its loop ends":
            return
        working.cancel()
        if how == "cancelled twice":
            await asyncio.sleep(0)
            working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await working

    asyncio.run(asyncio.wait_for(main(), PATIENCE_S))
    assert sessions(address) == []
    assert free(address, key)


def test_what_is_closed_is_closed_though_it_is_cancelled(address: str) -> None:
    @with_agents(address)
    async def _(_: Agents) -> None:
        agents = Agents(address)
        await Kv(agents).get("x")
        await Kv(agents).put("aio-closed", b"")
        made = list(agents._http.values())
        closing = asyncio.create_task(agents.close())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert [each.closed for each in made] == [True, True]


def test_a_leader_sees_that_it_is_asked_to_resign(address: str) -> None:
    @with_agents(address)
    async def _(agents: Agents) -> None:
        seen: list[Any] = []
        election = Election("asked", name="one")
        async with Hold(agents, election, lock_delay_s=0, seen=lambda rows: seen.append(leader_of(rows))):
            await Kv(agents).put("asked", b'{"Name": "one", "Resign": true}')
            await eventually(lambda: bool(seen) and seen[-1].resigning)


def test_what_cannot_be_is_refused_and_leaves_nothing(address: str) -> None:
    @with_agents(address)
    async def _(agents: Agents) -> None:
        with pytest.raises(Refused, match="Invalid Session TTL"):
            await Hold(agents, Lock("x"), ttl_s=0.1).acquire()
        await Kv(agents).put("taken/.lock", b"mine", flags=7)
        with pytest.raises(LockConflict, match="is not a lock"):
            await Hold(agents, Lock("taken")).acquire()

    assert sessions(address) == []


def test_the_next_agent_is_asked_where_nobody_listens(address: str) -> None:
    @with_agents("127.0.0.1:1", f"http://{address}")
    async def _(agents: Agents) -> None:
        async with Hold(agents, Lock("second")) as hold:
            assert hold.held

    @with_agents("127.0.0.1:1", "unix:///no/such/socket")
    async def _(agents: Agents) -> None:
        with pytest.raises(CannotConnect, match="cannot reach an agent at"):
            await Kv(agents).get("x")

    @with_agents("ftp://x", "x:y")
    async def _(agents: Agents) -> None:
        with pytest.raises(CannotConnect, match="is no address"):
            await Kv(agents).get("x")


@contextlib.contextmanager
def deaf() -> Iterator[str]:
    """The address of what takes no connection and refuses none, as a host that is gone."""
    with socket.socket() as listening, contextlib.ExitStack() as waiting:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(4):
            one = waiting.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(listening.getsockname())
        yield f"127.0.0.1:{listening.getsockname()[1]}"


def test_a_write_for_which_there_was_no_connection_in_time_was_not_done(address: str) -> None:
    with deaf() as gone:

        @with_agents(gone)
        async def _(agents: Agents) -> None:
            with pytest.raises(CannotConnect, match="timed out"):
                await agents.request("PUT", "/v1/kv/aio-deaf", body=b"1", timeout_s=0.2)

        @with_agents(gone, address)
        async def _(agents: Agents) -> None:
            assert (await agents.request("PUT", "/v1/kv/aio-deaf", body=b"1", timeout_s=2)).json() is True
            async with Agents([gone, address]) as others:
                assert (await others.request("GET", "/v1/kv/aio-deaf", timeout_s=2)).status == 200

        with closing(ThreadAgents([gone, address])) as threads:
            assert threads.request("PUT", "/v1/kv/aio-deaf", timeout_s=2).json() is True


def test_a_write_that_was_sent_and_not_answered_in_time_may_be_done() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer):
            await reader.read()

    async def main() -> None:
        async with (
            await asyncio.start_server(silent, "127.0.0.1", 0) as server,
            Agents(f"127.0.0.1:{server.sockets[0].getsockname()[1]}") as agents,
        ):
            # Within it the request has to be sent.
            with pytest.raises(ConnectionBroke, match=r"Outcome unknown.*none within 2 s"):
                await agents.request("PUT", "/v1/kv/x", timeout_s=2)

    asyncio.run(asyncio.wait_for(main(), PATIENCE_S))


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", ConnectionBroke),
        (b"SSH-2.0\r\n", ConnectionBroke),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n[]", ConnectionBroke),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>", NotAnAgent),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n[7]", NotAnAgent),
        (b"HTTP/1.1 302 Found\r\nLocation: /ui/\r\nContent-Length: 0\r\n\r\n", Refused),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", None),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_is_no_agent_is_told_and_sent_no_fenced_write(
    answer: bytes, error: type[ClientError] | None
) -> None:
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n"))[:3])
        writer.write(answer)
        writer.close()

    async def main() -> None:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            async with Agents(f"127.0.0.1:{port}") as agents:
                kv = Kv(agents)
                if error is not None:
                    with pytest.raises(error):
                        await kv.get("x")
                else:
                    assert await kv.get("x") is None
                with pytest.raises((NoFences, ConnectionBroke)):
                    await kv.put("x", b"", lock="l", fence=7)
                assert set(asked) == {b"GET"}

    asyncio.run(asyncio.wait_for(main(), PATIENCE_S))


class Dying:
    """Answers reads, and does a write without an answer: its connection closes."""

    def __init__(self) -> None:
        self.done: list[str] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer), contextlib.suppress(asyncio.IncompleteReadError):
            while (head := await reader.readuntil(b"\r\n\r\n")).startswith(b"GET"):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]")
            self.done.append(head.split(b" HTTP/")[0].decode())


@pytest.mark.parametrize(
    ("write", "done"),
    [
        (lambda agents: Kv(agents).put("x", b"", cas=0), "PUT /v1/kv/x?cas=0"),
        (lambda agents: Kv(agents).delete("x", cas=7), "DELETE /v1/kv/x?cas=7"),
        (lambda agents: Session(agents).begin(), "PUT /v1/session/create"),
    ],
    ids=["cas", "delete", "session"],
)
def test_a_write_whose_answer_is_lost_is_not_sent_again(
    write: Callable[[Agents], Awaitable[Any]], done: str
) -> None:
    """A second one would be told False of what the first one did, or create another session."""
    dying = Dying()

    async def main() -> None:
        async with (
            await asyncio.start_server(dying, "127.0.0.1", 0) as server,
            Agents(f"127.0.0.1:{server.sockets[0].getsockname()[1]}") as agents,
        ):
            assert await Kv(agents).get("warm") is None  # a connection that may be used again
            with pytest.raises(ConnectionBroke, match="Outcome unknown"):
                await write(agents)

    asyncio.run(asyncio.wait_for(main(), PATIENCE_S))
    assert dying.done == [done]


def test_without_an_agent_it_is_lost_by_the_clock_alone(tmp_path: Path) -> None:
    (tmp_path / "ttl.json").write_text('{"session_ttl_min": "1s"}')
    with dev_agent(tmp_path, f"-config-file={tmp_path / 'ttl.json'}") as address:
        await_sessions(address)
        now_s = [100.0]

        @with_agents(address)
        async def _(agents: Agents) -> None:
            hold = Hold(agents, Lock("alone"), ttl_s=600, clock=lambda: now_s[0])
            await hold.acquire()
            now_s[0] = 100.0 + 55
            assert hold.lost == ""
            now_s[0] = 100.0 + 57
            assert hold.lost.startswith("no renewal was confirmed within 56 s")
            now_s[0] = 100.0
            assert not await hold.release()


def test_agents_that_are_closed_send_nothing_and_open_no_connection_anew(address: str) -> None:
    """A session that is still renewed would leave one open behind them."""

    async def main() -> None:
        async with Agents(address) as agents:
            hold = Hold(agents, Lock("aio-closed"), ttl_s=1)
            await hold.acquire()
        with pytest.raises(CannotConnect, match="closed"):
            await Kv(agents).put("aio-closed/x", b"x")
        assert await hold.wait_lost(PATIENCE_S)
        assert not agents._http

    asyncio.run(main())
