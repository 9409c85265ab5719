"""Who leads, asked and told by tasks, and what is done once by them: against a real agent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing, suppress
from typing import Any

import pytest
from support.dev_agent import await_sessions, dev_agent
from support.tasks import with_agents

from gemot.agent.client import watch
from gemot.agent.client.aio.agents import Agents
from gemot.agent.client.aio.election import Observer, ask_to_resign
from gemot.agent.client.aio.hold import Hold
from gemot.agent.client.aio.kv import Kv
from gemot.agent.client.aio.once import Once
from gemot.agent.client.connection import CannotConnect, Connection, ConnectionBroke, NotAnAgent
from gemot.agent.client.election import Election, Leader, Terms, is_asked_to_resign
from gemot.agent.client.kv import Kv as ThreadKv
from gemot.agent.client.lock import Lock
from gemot.agent.client.once import Once as ThreadOnce
from gemot.agent.client.questions import Question
from gemot.agent.client.recipe import LockConflict, LockLost


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with dev_agent(tmp_path_factory.mktemp("agent")) as address:
        await_sessions(address)
        yield address


def candidate(agents: Agents, key: str, name: str, **more: Any) -> Hold:
    return Hold(agents, Election(key, name=name, address=f"{name}:80"), lock_delay_s=0, **more)


def test_an_observer_is_told_of_each_leader_once_with_address_and_fence(address: str) -> None:
    @with_agents(address)
    async def _(agents: Agents) -> None:
        observer, fences = Observer(agents, "/seen/"), []
        assert await observer.next() is None
        for name in ("one", "two"):
            async with candidate(agents, "seen", name) as mine:
                leader = Leader(name, f"{name}:80", mine.session, mine.fence, False)
                assert await observer.next() == leader
                fences.append(mine.fence)
                await Kv(agents).put("seen-not", name.encode())
                with pytest.raises(TimeoutError):  # nothing else is told, and nothing goes with the wait
                    await asyncio.wait_for(observer.next(), 0.1)
            assert await observer.next() is None
        assert 0 < fences[0] < fences[1]


Answers = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def one_leads(agents: Agents, key: str, *, first: Answers) -> AsyncIterator[Observer]:
    """An observer of two agents, of which the first answers so; the second one knows that "one" leads."""
    async with await asyncio.start_server(first, "127.0.0.1", 0) as server:
        bad = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with Agents([bad, *agents.addresses]) as both, candidate(agents, key, "one"):
            yield Observer(both, key)


async def name_of_next(observer: Observer) -> str | None:
    leader = await observer.next()
    return leader and leader.name


def test_an_observer_goes_on_after_an_agent_that_failed(address: str) -> None:
    """The first agent breaks off each question; the second one is asked when it is asked again."""

    async def breaks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    @with_agents(address)
    async def _(agents: Agents) -> None:
        async with one_leads(agents, "after", first=breaks) as observer:
            with pytest.raises(ConnectionBroke):
                await observer.next()
            assert await name_of_next(observer) == "one"


def test_an_observer_leaves_an_agent_that_fell_silent(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It tells that nobody leads and no more, as one that is stopped; the wait is shortened here."""
    assert Terms.wait_s * 17 / 16 + watch.SLACK_S < 65
    monkeypatch.setattr(Terms, "wait_s", 1)
    monkeypatch.setattr(watch, "SLACK_S", 3.0)
    asked: list[bytes] = []

    async def falls_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer), suppress(asyncio.IncompleteReadError):
            asked.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(b"HTTP/1.1 200 OK\r\nX-Consul-Index: 5\r\nContent-Length: 2\r\n\r\n[]")
            asked.append(await reader.readuntil(b"\r\n\r\n"))
            await reader.read()

    @with_agents(address)
    async def _(agents: Agents) -> None:
        async with one_leads(agents, "silent", first=falls_silent) as observer:
            assert await observer.next() is None
            with pytest.raises(ConnectionBroke):
                await observer.next()
            assert await name_of_next(observer) == "one"

    assert b"index=5&wait=1s" in asked[1]


def test_a_leader_that_is_asked_to_resign_is_asked_alone_and_hears_it(address: str) -> None:
    @with_agents(address)
    async def _(agents: Agents) -> None:
        asked, kv = asyncio.Event(), Kv(agents)
        observer = Observer(agents, "asked")
        assert await ask_to_resign(kv, "asked") is None
        assert await observer.next() is None

        async def lead() -> None:
            def see(rows: Any) -> None:
                if is_asked_to_resign(rows):
                    asked.set()

            async with candidate(agents, "asked", "one", seen=see):
                await asked.wait()

        leading = asyncio.create_task(lead())
        leader = await observer.next()
        assert not asked.is_set()
        assert await ask_to_resign(kv, "asked/") == leader
        await leading
        resigning = await observer.next()
        while resigning is not None:
            assert resigning.resigning
            assert resigning.fence == (leader and leader.fence)
            resigning = await observer.next()
        async with candidate(agents, "asked", "two"):
            follower = await observer.next()
            assert follower is not None
            assert (follower.name, follower.resigning) == ("two", False)


def test_a_leader_that_takes_no_requests_is_left_alone(address: str) -> None:
    @with_agents(address)
    async def _(agents: Agents) -> None:
        made = await agents.request("PUT", "/v1/session/create", body=b'{"LockDelay": "0s"}')
        await Kv(agents).put("theirs", b"me", acquire=made.json()["ID"])
        with pytest.raises(LockConflict, match="takes no requests"):
            await ask_to_resign(Kv(agents), "theirs")
        entry = await Kv(agents).get("theirs")
        assert entry is not None
        assert entry.value == b"me"


# -- once ------------------------------------------------------------------------------------------


async def do_once(agents: Agents, key: str, work: Callable[[], Awaitable[None]]) -> None:
    """As the module says that it is to be done."""
    once = Once(Kv(agents), key)
    async with Hold(agents, Lock(once.key), lock_delay_s=0) as hold:
        if await once.done() is None:
            await work()
            await once.record(hold, 0)


def test_what_many_tasks_want_done_once_is_done_once(address: str) -> None:
    @with_agents(address)
    async def _(agents: Agents) -> None:
        did: list[int] = []

        async def work() -> None:
            did.append(len(did))
            await asyncio.sleep(0.05)

        await asyncio.gather(*(do_once(agents, "once/many", work) for _ in range(6)))
        assert did == [0]
        done = await Once(Kv(agents), "/once/many/").done()
        assert done is not None
        assert (done.exit_code, done.fence > 0) == (0, True)
        assert await Kv(agents).keys("once/many") == ["once/many"]

    with closing(Connection(address)) as connection:
        assert ThreadOnce(ThreadKv(connection), "once/many").done() is not None


def test_after_one_that_failed_or_was_cancelled_the_next_does_it(address: str) -> None:
    @with_agents(address)
    async def _(agents: Agents) -> None:
        did: list[str] = []
        began = asyncio.Event()

        async def fails() -> None:
            did.append("fails")
            raise RuntimeError("it did not work")

        async def hangs() -> None:
            did.append("hangs")
            began.set()
            await asyncio.Event().wait()

        async def works() -> None:
            did.append("works")

        with pytest.raises(RuntimeError, match="it did not work"):
            await do_once(agents, "once/next", fails)
        hanging = asyncio.create_task(do_once(agents, "once/next", hangs))
        await began.wait()
        waiting = asyncio.create_task(do_once(agents, "once/next", works))
        hanging.cancel()
        await waiting
        await do_once(agents, "once/next", fails)
        assert did == ["fails", "hangs", "works"]


def test_a_key_that_is_no_record_is_told(address: str) -> None:
    @with_agents(address)
    async def _(agents: Agents) -> None:
        await Kv(agents).put("once/odd", b"[]")
        with pytest.raises(LockConflict, match="give another key"):
            await Once(Kv(agents), "once/odd").done()
        with pytest.raises(ValueError, match="give a key for the record"):
            Once(Kv(agents), "//")


class Losing(Kv):
    """The answer to its first write is lost: it is done or not, and `then` happens."""

    def __init__(self, agents: Agents, then: Callable[[], Awaitable[object]], *, done: bool) -> None:
        super().__init__(agents)
        self._then, self._done = then, done
        self.writes = 0

    async def ask(self, question: Question[Any]) -> Any:
        if question.method == "PUT":
            self.writes += 1
            if self.writes == 1:
                if self._done:
                    await super().ask(question)
                await self._then()
                raise ConnectionBroke("the answer is lost")
        return await super().ask(question)


@pytest.mark.parametrize("done", [True, False], ids=["written", "not written"])
@pytest.mark.parametrize("keeps", [True, False], ids=["the lock is kept", "the lock is lost"])
def test_a_record_whose_answer_was_lost_is_looked_for(address: str, done: bool, keeps: bool) -> None:
    key = f"once/lost-{done}-{keeps}".lower()

    @with_agents(address)
    async def _(agents: Agents) -> None:
        hold = Hold(agents, Lock(key), lock_delay_s=0)
        await hold.acquire()
        session = hold.session

        async def lose() -> None:
            if not keeps:
                await agents.request("PUT", f"/v1/session/destroy/{session}")
                assert await hold.wait_lost()

        losing = Losing(agents, lose, done=done)
        once = Once(losing, key)
        if done or keeps:
            assert await once.record(hold, 7) == await once.done()
        else:
            with pytest.raises(LockLost, match="whether there will be a record is not known"):
                await once.record(hold, 7)
        assert losing.writes == (2 if keeps else 1)
        await hold.release()


# -- keys ------------------------------------------------------------------------------------------


def test_long_lists_are_read_in_pages(address: str) -> None:
    @with_agents(address)
    async def _(agents: Agents) -> None:
        kv = Kv(agents)
        names = [f"pages/{number}" for number in range(7)]
        for name in names:
            await kv.put(name, b"x")
        assert [entry.key async for entry in kv.each("pages/", limit=3)] == names
        assert [key async for key in kv.each_key("pages/", limit=3)] == names
        found, after = await kv.page("pages/", 3, names[1])
        assert ([entry.key for entry in found], after) == (names[2:5], names[4])
        assert await kv.page_of_keys("pages/", 9, after) == (names[5:], "")


def test_a_key_with_a_ttl_says_what_is_left_and_an_agent_that_knows_none_is_told(address: str) -> None:
    async def older(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntrue")
        writer.close()

    @with_agents(address)
    async def _(agents: Agents) -> None:
        assert await Kv(agents).put("beat", b"", ttl="60s")
        entry = await Kv(agents).get("beat")
        assert entry is not None
        assert entry.expires_in != ""
        async with (
            await asyncio.start_server(older, "127.0.0.1", 0) as server,
            Agents(f"127.0.0.1:{server.sockets[0].getsockname()[1]}") as there,
        ):
            with pytest.raises(NotAnAgent, match="knows no TTL: the key stays"):
                await Kv(there).put("beat", b"", ttl="60s")

    @with_agents("127.0.0.1:1")
    async def _(agents: Agents) -> None:
        with pytest.raises(CannotConnect):
            await Observer(agents, "x").next()
