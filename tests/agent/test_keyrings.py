"""Changes of the keys over real sockets: nobody is cut off, whoever asks and however many at once."""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from itertools import count
from typing import Any
from unittest.mock import AsyncMock

import msgspec
import pytest
from support.gossiping import PATIENCE_S, eventually
from support.members import client
from support.ports import free_port

from gemot.agent.gossip.held_ring import HeldRing
from gemot.agent.gossip.keyring import Key, Keyring
from gemot.agent.gossip.message import Status
from gemot.agent.gossip.stream import GREETING, AskRing, frame, word_bytes
from gemot.agent.gossip.timing import LOCAL
from gemot.agent.keyrings import ASK_S, Keyrings
from gemot.agent.lan import Lan, LanConfig
from gemot.agent.sealing import Sealing
from gemot.server.model.errors import DiskFailed, GemotError, RuleFailed, Unavailable
from gemot.server.rpc.message import Hello
from gemot.server.runtime.connection import Listener

OLD, NEW, THIRD = (Key(bytes([number]) * 32) for number in (1, 2, 3))


class NoTier:
    def hello(self) -> Hello:
        raise AssertionError("nobody greets")


class Agent:
    def __init__(self, number: int, ring: Keyring, *, verify: bool = True) -> None:
        loop = asyncio.get_running_loop()
        tickets = count(1)
        self.name = f"web{number}"
        self.fails = False
        self.port = free_port()
        self.held = HeldRing(
            ring=ring, keep=self._keep, draw=lambda: f"{number}-{next(tickets)}", now_s=loop.time
        )
        self.me = msgspec.structs.replace(client(number), name=self.name, address="127.0.0.1")
        tier: Any = NoTier()
        self.lan = Lan(
            loop=loop,
            config=LanConfig("127.0.0.1", self.port, LOCAL, Sealing("", self.held, verify, verify)),
            me=self.me,
            joins=Listener(loop=loop, tier=tier, host="127.0.0.1", port=self.port, join_only=True),
            heard=lambda _one, _standing: None,
        )
        self.keyrings = Keyrings(self.lan)

    def _keep(self, _ring: Keyring) -> None:
        if self.fails:
            raise DiskFailed("local.keyring: Input/output error")

    @property
    def ring(self) -> tuple[Key, ...]:
        return self.held.ring.keys

    def holds(self, other: Agent) -> Status | None:
        record = self.lan.gossip.swim.members.get(other.me.id)
        return None if record is None else record.status


Start = Callable[..., Awaitable[list[Agent]]]


def run(test: Callable[[Start], Awaitable[None]]) -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:

            async def start(many: int, ring: Keyring | None = None, **how: Any) -> list[Agent]:
                agents = [Agent(number, ring or Keyring((OLD,)), **how) for number in range(1, many + 1)]
                for agent in agents:
                    await agent.lan.start()
                    stack.push_async_callback(agent.lan.stop)
                for agent in agents[1:]:
                    await agent.lan.gossip.exchange("127.0.0.1", agents[0].port, join=True)
                await eventually(lambda: all(a.holds(b) is Status.ALIVE for a in agents for b in agents))
                return agents

            await test(start)

    asyncio.run(main())


def test_the_three_steps_from_any_agent_reach_all() -> None:
    async def test(start: Start) -> None:
        agents = await start(4)
        assert await agents[1].keyrings.change("install", NEW.text) == ""
        assert [agent.ring for agent in agents] == [(OLD, NEW)] * 4
        await agents[2].keyrings.change("use", NEW.text)
        await agents[3].keyrings.change("remove", OLD.text)
        assert [agent.ring for agent in agents] == [(NEW,)] * 4
        listed = await agents[0].keyrings.show()
        assert listed.keys == listed.primaries == {NEW.text: 4}
        assert (listed.members, listed.messages) == (4, {})

    run(test)


@pytest.mark.parametrize(
    ("step", "key", "told"),
    [("use", NEW, "not installed on web3"), ("remove", THIRD, "the primary of web3")],
)
def test_a_step_that_would_cut_off_one_changes_none_and_holds_none(step: Any, key: Key, told: str) -> None:
    async def test(start: Start) -> None:
        agents = await start(3, Keyring((OLD, NEW, THIRD)))
        odd = Keyring((OLD, THIRD)) if step == "use" else Keyring((THIRD, OLD, NEW))
        agents[2].held.ring = odd
        for asked in (agents[0], agents[1]):
            with pytest.raises(RuleFailed, match=f"nothing was changed: .*{told}"):
                await asked.keyrings.change(step, key.text)
        assert [agent.ring for agent in agents[:2]] == [(OLD, NEW, THIRD)] * 2

    run(test)


def test_one_that_fails_is_named_with_its_reason_and_the_others_are_told_of() -> None:
    async def test(start: Start) -> None:
        agents = await start(3)
        agents[1].fails = True
        told = r"install done on 2 of 3 members, not on web2 \(local.keyring: Input/output error\)"
        with pytest.raises(RuleFailed, match=told):
            await agents[0].keyrings.change("install", NEW.text)
        assert [len(agent.ring) for agent in agents] == [2, 1, 2]
        with pytest.raises(RuleFailed, match="not installed on web2"):
            await agents[2].keyrings.change("use", NEW.text)
        agents[1].fails = False
        assert await agents[0].keyrings.change("install", NEW.text) == ""
        assert await agents[2].keyrings.change("use", NEW.text) == ""

    run(test)


def test_one_that_lives_and_cannot_be_asked_is_named_and_cut_off_by_nothing() -> None:
    """Its datagrams pass and its connections do not, as behind a firewall."""

    async def test(start: Start) -> None:
        agents = await start(3, Keyring((OLD, NEW)))
        agents[2].lan._door.stop()
        shown = await agents[0].keyrings.show()
        assert (shown.keys, shown.members) == ({OLD.text: 2, NEW.text: 2}, 3)
        assert list(shown.messages) == ["web3"]
        assert "Connection refused" in shown.messages["web3"]
        for step, key in (("use", NEW), ("remove", NEW)):
            with pytest.raises(RuleFailed, match=r"nothing was changed: web3 \(.*\) cannot be asked"):
                await agents[0].keyrings.change(step, key.text)  # type: ignore[arg-type]
        assert [agent.ring for agent in agents] == [(OLD, NEW)] * 3
        with pytest.raises(RuleFailed, match=r"install done on 2 of 3 members, not on web3 \("):
            await agents[1].keyrings.change("install", THIRD.text)

    run(test)


def test_one_that_only_the_catalog_knows_to_have_failed_is_waited_for_too() -> None:
    """Where all were without power at once, gossip has heard of nobody who did not come back."""

    async def test(start: Start) -> None:
        agents = await start(2)
        known = {agents[1].me.id: "web2", "9" * 36: "web9"}
        asked = AsyncMock(side_effect=[known, known, Unavailable("no server"), known])
        keyrings = Keyrings(agents[0].lan, failed=asked)
        assert await keyrings.change("install", NEW.text) == "not asked, having failed: web9"
        with pytest.raises(RuleFailed, match="nothing was changed: web9 cannot be asked"):
            await keyrings.change("use", NEW.text)
        assert await keyrings.change("use", NEW.text) == "", "without servers gossip's word must do"
        with pytest.raises(RuleFailed, match="no member that was asked has it"):
            await keyrings.change("remove", THIRD.text)

    run(test)


def test_one_that_has_failed_is_waited_for_by_use_and_remove_and_named_by_install() -> None:
    async def test(start: Start) -> None:
        agents = await start(3)
        await agents[2].lan.stop()
        await eventually(lambda: agents[0].holds(agents[2]) is Status.FAILED)
        assert await agents[0].keyrings.change("install", NEW.text) == "not asked, having failed: web3"
        for step in ("use", "remove"):
            with pytest.raises(RuleFailed, match="nothing was changed: web3 cannot be asked"):
                await agents[0].keyrings.change(step, NEW.text)  # type: ignore[arg-type]
        shown = await agents[0].keyrings.show()
        assert shown.messages == {"web3": "it has failed, and was not asked"}
        agents[0].lan.expect_no_more(agents[2].me.id)
        assert await agents[0].keyrings.change("use", NEW.text) == ""

    run(test)


def test_changes_at_once_leave_nobody_who_does_not_understand_another() -> None:
    """After each change of any ring: what each seals with, all have. Who is alone in the end gets through."""

    async def test(start: Start) -> None:
        agents = await start(4, Keyring((OLD, NEW)))
        chance = random.Random(7)
        broken: list[str] = []

        class Law:
            """It stands among the seals, and so sees each change as it comes into force."""

            @property
            def ring(self) -> Keyring:
                raise AssertionError("it is only told")

            @ring.setter
            def ring(self, _changed: Keyring) -> None:
                for a in agents:
                    broken.extend(b.name for b in agents if a.ring[0] not in b.ring)

        for agent in agents:
            agent.held.seals = (*agent.held.seals, Law())  # type: ignore[arg-type]

        async def change(agent: Agent, step: str, key: Key) -> bool:
            try:
                await agent.keyrings.change(step, key.text)  # type: ignore[arg-type]
            except GemotError:
                return False
            return True

        async def operator(agent: Agent) -> None:
            for _ in range(25):
                step = chance.choice(["install", "use", "remove"])
                if not await change(agent, step, chance.choice([OLD, NEW, THIRD])):
                    await asyncio.sleep(chance.random() * 0.02)

        await asyncio.gather(*(operator(agent) for agent in agents))
        async with asyncio.timeout(PATIENCE_S):
            while not await change(agents[0], "install", THIRD):  # noqa: ASYNC110 - others may hold a ring
                await asyncio.sleep(0.05)
        assert not broken

    run(test)


def test_a_change_goes_on_though_nobody_waits_for_it_any_more() -> None:
    async def test(start: Start) -> None:
        agents = await start(3)
        asking = asyncio.create_task(agents[0].keyrings.change("install", NEW.text))
        await asyncio.sleep(0)
        asking.cancel()
        await eventually(lambda: [agent.ring for agent in agents] == [(OLD, NEW)] * 3)

    run(test)


def test_what_became_of_a_change_that_nobody_waits_for_is_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test(start: Start) -> None:
        agents = await start(2)
        strays: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, stray: strays.append(stray))
        asking = asyncio.create_task(agents[0].keyrings.change("use", NEW.text))
        await asyncio.sleep(0)
        asking.cancel()
        await eventually(lambda: not agents[0].keyrings._changes and asking.done())
        gc.collect()
        assert not strays
        assert f"change failed: Key {NEW.fingerprint}: use refused, nothing was changed" in caplog.text

    run(test)


def test_a_change_for_which_all_cannot_be_asked_in_time_is_refused_and_holds_none() -> None:
    async def test(start: Start) -> None:
        agents = await start(3)
        hurried = Keyrings(agents[0].lan, within_s=0)
        told = (
            r"nothing was changed: too many members do not answer .*: web1 \(not asked, the time was over\)"
        )
        with pytest.raises(RuleFailed, match=told):
            await hurried.change("install", NEW.text)
        assert [agent.ring for agent in agents] == [(OLD,)] * 3
        assert await agents[1].keyrings.change("install", NEW.text) == ""

    run(test)


def test_a_change_changes_no_ring_any_more_once_its_time_is_over_and_names_who_was_not_asked() -> None:
    async def test(start: Start) -> None:
        agents = await start(2)
        told = r"install done on 0 of 2 members, not on web1 \(not asked, the time was over\), web2 \("
        with pytest.raises(RuleFailed, match=told):
            await Keyrings(agents[0].lan, within_s=ASK_S).change("install", NEW.text)
        assert [agent.ring for agent in agents] == [(OLD,)] * 2

    run(test)


def test_a_question_in_clear_is_not_answered_though_gossip_in_clear_is() -> None:
    """While encryption is being turned on anybody can speak in clear: no key is told or taken that way."""

    async def test(start: Start) -> None:
        (agent,) = await start(1, verify=False)
        reader, writer = await asyncio.open_connection("127.0.0.1", agent.port)
        question = word_bytes(AskRing("list", agent.me.id, "stranger"))
        writer.write(GREETING + frame(b"\xa1\x00" + question))
        try:
            assert await reader.read() == b""
        except ConnectionResetError:
            pass
        writer.close()
        assert agent.lan.gossip.dropped["unsealed"] == 1
        assert (await agent.keyrings.show()).keys == {OLD.text: 1}

    run(test)


def test_keys_are_never_sent_in_clear_though_gossip_is() -> None:
    async def test(start: Start) -> None:
        agents = await start(2, verify=False)
        sent: list[bytes] = []
        for agent in agents:
            seal = agent.lan.gossip._frames.seal
            agent.lan.gossip._frames.seal = lambda *a, seal=seal, **k: (  # type: ignore[method-assign]
                sent.append(seal(*a, **k)) or sent[-1]  # type: ignore[func-returns-value]
            )
        await agents[0].keyrings.change("install", NEW.text)
        assert len(sent) >= 4
        assert not any(key.text.encode() in data for data in sent for key in (OLD, NEW))

    run(test)
