"""A client agent's call: when it is tried again, within which time it ends, and what is told then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from support.virtual import VirtualTimer

from gemot.agent.asking import GRACE_MS, Asking
from gemot.server.model.errors import Busy, NoLeader, OlderRelease, OutcomeUnknown, RuleFailed, Unavailable
from gemot.server.model.kv import KvGet, KvSet
from gemot.server.model.query import Applied, Options
from gemot.server.rpc.message import Apply, Ask, Call, Operate

HOLD_MS = 7_000
QUORUM = "Waiting for quorum: have 1 of 3 (srv1)"


class Scene:
    """The link of a client agent; each try waits in `tries` for the test's answer."""

    def __init__(self) -> None:
        self.timer = VirtualTimer()
        self.ready = True
        self.waiting_for = ""
        self.tries: list[tuple[Call, Callable[[Any], None]]] = []
        self.cancelled = 0
        self.left = 0

    def send(self, call: Call, done: Callable[[Any], None]) -> Callable[[], None]:
        self.tries.append((call, done))
        return self._cancel

    def _cancel(self) -> None:
        self.cancelled += 1

    def leave_leaderless(self) -> None:
        self.left += 1

    def write(self) -> asyncio.Future[Any]:
        return self._ask(lambda hold_ms: Apply(KvSet(b"k", b"v"), "", None, hold_ms))

    def read(self, *, waits: bool = False) -> asyncio.Future[Any]:
        return self._ask(lambda hold_ms: Ask(KvGet(b"k"), Options(), hold_ms), waits=waits)

    def operate(self) -> asyncio.Future[Any]:
        return self._ask(lambda _hold_ms: Operate("remove-peer", "s1"))

    def _ask(self, call: Callable[[int], Call], *, waits: bool = False) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        Asking(way=self, timer=self.timer, call=call, future=future, hold_ms=HOLD_MS, waits=waits).start()
        return future

    def holds(self) -> list[int]:
        return [call.hold_ms for call, _ in self.tries if isinstance(call, Apply | Ask)]

    def answer(self, result: Any) -> None:
        self.tries[-1][1](result)

    def pass_ms(self, ms: int) -> None:
        self.timer.pass_ms(ms, tick=lambda: None)


def played(play: Callable[[Scene], None]) -> None:
    async def work() -> None:
        play(Scene())

    asyncio.run(work())


def error(future: asyncio.Future[Any]) -> tuple[type, str]:
    assert future.done(), "it still waits"
    found = future.exception()
    assert found is not None
    return type(found), str(found)


def test_each_try_takes_along_what_is_left_of_the_hold_time() -> None:
    """The hold times of agent and server once added up: 12 s, where 7 are promised."""

    def play(scene: Scene) -> None:
        asked = scene.read()
        scene.pass_ms(4_950)
        scene.answer(Unavailable("the connection to the server broke"))
        scene.pass_ms(50)
        assert scene.holds() == [7_000, 2_000]
        scene.answer(Applied(1, True))
        assert asked.result() == Applied(1, True)

    played(play)


def test_what_the_server_said_at_the_end_of_the_hold_time_is_told() -> None:
    def play(scene: Scene) -> None:
        asked = scene.write()
        scene.pass_ms(HOLD_MS)
        scene.answer(NoLeader.because(QUORUM))
        assert error(asked) == (NoLeader, "No cluster leader: waiting for quorum: have 1 of 3 (srv1)")
        assert scene.left == 1

    played(play)


def test_a_write_is_not_waited_for_longer_and_a_read_until_its_server_is_gone() -> None:
    """Whether a write that a stalled server was sent is done nobody knows. A long list waits for its turn."""

    def play(scene: Scene) -> None:
        wrote, asked = scene.write(), scene.read()
        scene.pass_ms(HOLD_MS + GRACE_MS - 50)
        assert not wrote.done()
        scene.pass_ms(50)
        assert error(wrote)[0] is OutcomeUnknown
        assert scene.cancelled == 1
        scene.pass_ms(60_000)
        assert not asked.done()
        scene.answer(Unavailable("the connection to the server broke"))
        assert error(asked)[0] is Unavailable

    played(play)


def test_a_write_that_never_left_is_surely_not_done() -> None:
    def play(scene: Scene) -> None:
        scene.ready = False
        scene.waiting_for = "Waiting for a server: 10.0.0.1:8300 refused 1 s ago"
        wrote = scene.write()
        scene.pass_ms(HOLD_MS + 100)
        assert scene.tries == []
        kind, told = error(wrote)
        assert kind is Unavailable
        assert told == "No known server answers: waiting for a server: 10.0.0.1:8300 refused 1 s ago"

    played(play)


def test_after_a_try_that_perhaps_was_done_a_write_stays_unknown_and_says_what_is_waited_for() -> None:
    def play(scene: Scene) -> None:
        wrote = scene.write()
        scene.answer(OutcomeUnknown("the connection broke"))
        scene.waiting_for = QUORUM
        scene.pass_ms(HOLD_MS)
        scene.answer(NoLeader())
        assert error(wrote) == (
            OutcomeUnknown,
            "the connection broke; at present: waiting for quorum: have 1 of 3 (srv1)",
        )

    played(play)


def test_a_refusal_is_final_even_after_a_try_that_perhaps_was_done() -> None:
    def play(scene: Scene) -> None:
        wrote = scene.write()
        scene.answer(OutcomeUnknown("the connection broke"))
        scene.pass_ms(50)
        scene.answer(RuleFailed("no"))
        assert error(wrote)[0] is RuleFailed
        assert len(scene.tries) == 2

    played(play)


def test_a_server_that_was_not_sent_a_write_has_not_refused_the_try_before() -> None:
    """Nor is it asked again: a server of an older release stays one."""

    def play(scene: Scene) -> None:
        wrote = scene.write()
        scene.answer(OutcomeUnknown("the connection broke"))
        scene.pass_ms(50)
        scene.answer(OlderRelease("srv1 is of an older release"))
        assert error(wrote) == (OutcomeUnknown, "the connection broke")
        refused = scene.write()
        scene.answer(OlderRelease("srv1 is of an older release"))
        assert error(refused) == (OlderRelease, "srv1 is of an older release")
        assert len(scene.tries) == 3

    played(play)


def test_what_an_operator_asked_and_nobody_answered_is_unknown_and_not_asked_again() -> None:
    def play(scene: Scene) -> None:
        broken, stalled = scene.operate(), scene.operate()
        scene.tries[0][1](OutcomeUnknown("the connection broke"))
        assert error(broken) == (OutcomeUnknown, "the connection broke")
        scene.pass_ms(HOLD_MS + GRACE_MS)
        kind, told = error(stalled)
        assert kind is OutcomeUnknown
        assert told.startswith("the server did not answer this request in time; it may be done")
        assert len(scene.tries) == 2

    played(play)


def test_what_an_operator_asked_and_surely_is_not_done_is_asked_again() -> None:
    def play(scene: Scene) -> None:
        asked = scene.operate()
        scene.answer(NoLeader())
        scene.pass_ms(50)
        scene.answer(True)
        assert asked.result() is True

    played(play)


def test_a_blocking_read_may_wait_for_longer_and_is_given_no_hold_time() -> None:
    def play(scene: Scene) -> None:
        asked = scene.read(waits=True)
        scene.pass_ms(HOLD_MS * 5)
        assert not asked.done()
        assert scene.holds() == [0]
        scene.answer(Unavailable("the connection to the server broke"))
        scene.pass_ms(100)
        assert len(scene.tries) == 2

    played(play)


def test_a_limit_is_told_at_once_and_not_asked_against_again() -> None:
    """Everybody who is refused for want of room would otherwise ask again 20 times a second, for 7 s."""

    def play(scene: Scene) -> None:
        told = scene.write()
        scene.answer(Busy("No space: srv1 has 1.0 MiB left"))
        assert error(told) == (Busy, "No space: srv1 has 1.0 MiB left")
        scene.pass_ms(1_000)
        assert len(scene.holds()) == 1

    played(play)


def test_a_limit_met_after_a_try_that_perhaps_was_done_leaves_it_unknown() -> None:
    def play(scene: Scene) -> None:
        told = scene.write()
        scene.answer(OutcomeUnknown("the connection broke"))
        scene.pass_ms(60)
        scene.answer(Busy("full"))
        assert error(told)[0] is OutcomeUnknown

    played(play)
