"""The record of `Once` where the answer to its write is lost, and the lock after it: against a real agent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from support.dev_agent import dev_agent, until

from gemot.agent.client.agents import Agents
from gemot.agent.client.connection import ClientError, Connection, ConnectionBroke, Refused, Reply
from gemot.agent.client.hold import Hold
from gemot.agent.client.kv import Kv
from gemot.agent.client.lock import Lock
from gemot.agent.client.once import FIND_S, Once, recording
from gemot.agent.client.questions import Question
from gemot.agent.client.recipe import LockLost, Pause


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("agent")
    with dev_agent(folder) as address:
        until(lambda: begins(address), "a session")
        yield address


def begins(address: str) -> bool:
    try:
        with closing(Agents(address)) as agents, Hold(agents, Lock("warm"), lock_delay_s=0):
            return True
    except Refused:
        return False


class Losing(Connection):
    """The answer to its first write is lost: it is done or not, `then` happens; reads may fail after that."""

    def __init__(self, address: str, then: Callable[[], object], *, done: bool, reads: bool = True) -> None:
        super().__init__(address)
        self._then, self._done, self._reads = then, done, reads
        self._lost = False

    def request(self, method: str, path: str, **asked: Any) -> Reply:
        if method == "PUT" and not self._lost:
            if self._done:
                super().request(method, path, **asked)
            self._lost = True
            self._then()
            raise ConnectionBroke("the answer is lost")
        if self._lost and method == "GET" and not self._reads:
            raise ConnectionBroke("nobody answers")
        return super().request(method, path, **asked)


@pytest.mark.parametrize("knows", [True, False], ids=["its lease is over", "it is refused"])
@pytest.mark.parametrize("done", [True, False], ids=["written", "not written"])
def test_a_record_whose_answer_was_lost_with_the_lock_is_looked_for(
    address: str, done: bool, knows: bool
) -> None:
    key = f"once/{done}-{knows}".lower()
    with ExitStack() as stack, closing(Agents(address)) as agents, closing(Connection(address)) as other:
        hold = Hold(agents, Lock(key), ttl_s=60, lock_delay_s=0)
        hold.acquire()
        session = hold.session

        def lose() -> None:
            """The servers end it; whether the holder has heard of it is another matter."""
            other.request("PUT", f"/v1/session/destroy/{session}")
            if knows:
                until(lambda: bool(hold.lost), "the loss")

        watched: Any = hold if knows else Deaf(hold)
        losing = stack.enter_context(closing(Losing(address, lose, done=done)))
        once = Once(Kv(losing), key)
        if done:
            assert once.record(watched, 0) == once.done()
        else:
            told = "whether there will be a record is not known" if knows else "there is no record"
            with pytest.raises(LockLost, match=told):
                once.record(watched, 0)
        hold.release()
        Kv(other).delete("once/", recurse=True)


class Deaf:
    """A hold that has not heard that it is lost."""

    lost = ""

    def __init__(self, hold: Hold) -> None:
        self.key, self.guard, self.fence = hold.key, hold.guard, hold.fence
        self.patience_s = hold.patience_s


def test_where_nobody_answers_it_is_not_said_that_there_is_no_record(address: str) -> None:
    with closing(Agents(address)) as agents:
        hold = Hold(agents, Lock("once/dark"), ttl_s=60, lock_delay_s=0)
        hold.acquire()
        losing = Losing(address, hold.release, done=True, reads=False)
        once = Once(Kv(losing), "once/dark")
        with (
            closing(losing),
            pytest.raises(ClientError, match="whether there is a record is not known") as told,
        ):
            once.record(hold, 0)
    assert isinstance(told.value, LockLost)
    with closing(Connection(address)) as connection:
        assert Once(Kv(connection), "once/dark").done() is not None


def test_no_question_holds_it_up_for_long_after_the_lock_is_lost() -> None:
    """Each is waited for as a renewal is, and the last, whose answer is for people, for a few seconds."""
    with closing(Agents()) as agents:
        hold = Hold(agents, Lock("once/slow"), ttl_s=60)
        held = Held(hold)
        steps = recording("once/slow", held, 0)  # type: ignore[arg-type]
        for at in range(3):
            asked = next(steps)
            assert isinstance(asked, Question)
            assert (asked.method, asked.timeout_s) == ("PUT", hold.patience_s)
            assert hold.patience_s <= 60 / 6
            if at == 2:
                held.lost = "it is over"
            assert isinstance(steps.throw(ConnectionBroke("timed out")), Pause)
        asked = next(steps)
        assert isinstance(asked, Question)
        assert (asked.method, asked.timeout_s) == ("GET", FIND_S)
        with pytest.raises(LockLost, match="whether there is a record is not known"):
            steps.throw(ConnectionBroke("timed out"))


class Held(Deaf):
    """One that is held until the test says otherwise."""
