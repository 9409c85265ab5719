"""The client's Session and Lock against a real agent."""

from __future__ import annotations

import json
import os
import socket
import threading
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.dev_agent import await_sessions, dev_agent, until

from gemot.agent.client import held
from gemot.agent.client import session as client_session
from gemot.agent.client.agents import Agents
from gemot.agent.client.connection import (
    CannotConnect,
    Connection,
    ConnectionBroke,
    NotAnAgent,
    Refused,
    Reply,
)
from gemot.agent.client.hold import Hold
from gemot.agent.client.kv import Kv
from gemot.agent.client.lock import LOCK_FLAGS, Lock
from gemot.agent.client.recipe import LockConflict, LockLost
from gemot.agent.client.session import Session

TTL_S = 10.0


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("agent")
    (folder / "ttl.json").write_text('{"session_ttl_min": "1s"}')
    with dev_agent(folder, f"-config-file={folder / 'ttl.json'}") as address:
        await_sessions(address)
        yield address


def ask(address: str, method: str, path: str, body: bytes = b"", **params: Any) -> Reply:
    with closing(Connection(address)) as connection:
        return connection.request(method, path, body=body, params=params)


def put(address: str, path: str, body: bytes = b"", **params: Any) -> Reply:
    return ask(address, "PUT", path, body, **params)


def listed(address: str) -> list[str]:
    return [row["ID"] for row in ask(address, "GET", "/v1/session/list").json()]


def keys(address: str, prefix: str) -> list[str]:
    with closing(Connection(address)) as connection:
        return Kv(connection).keys(prefix)


@contextmanager
def lock(address: str, prefix: str, **more: Any) -> Iterator[Hold]:
    """One that is not acquired yet."""
    with closing(Agents(address)) as agents:
        yield Hold(agents, Lock(prefix), **{"ttl_s": TTL_S, "lock_delay_s": 0} | more)


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


@contextmanager
def session(*addresses: str, **more: Any) -> Iterator[Session]:
    """One that is not begun yet; ended in any case."""
    with closing(Agents(addresses)) as agents:
        made = Session(agents, **more)
        yield made
        made.end()


def test_a_session_outlives_its_ttl_and_ends_when_it_is_ended(address: str) -> None:
    renewals: list[tuple[float, str]] = []
    with session(address, ttl_s=1.5, name="mine") as mine:
        mine.begin()
        mine.follow(lambda confirmed_s, why: renewals.append((confirmed_s, why)))
        until(lambda: len(renewals) > 6 or mine.over, "renewals")
        if not mine.over:  # a host that stood still for longer than the TTL loses it, and may
            assert mine.id in listed(address)
            assert [each for each, _ in renewals] == sorted(each for each, _ in renewals)
            assert {why for _, why in renewals} == {""}
        assert mine.end()
        assert mine.id not in listed(address)
        assert mine.lost == "the session was ended"


def test_a_session_that_is_gone_is_lost_with_the_next_renewal(address: str) -> None:
    with session(address, ttl_s=TTL_S) as mine:
        mine.begin()
        put(address, f"/v1/session/destroy/{mine.id}")
        assert mine.wait(60.0).startswith("the session is gone")


def test_without_an_agent_a_session_is_lost_by_the_clock_alone() -> None:
    now_s = [100.0]
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with listener.accept()[0] as accepted:
                accepted.recv(1 << 16)
                accepted.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{"ID": "one"}')

        answering = in_thread(answer)
        with closing(Agents(f"127.0.0.1:{listener.getsockname()[1]}")) as agents:
            mine = Session(agents, ttl_s=15.0, clock=lambda: now_s[0])
            mine.begin()
        answering.join()
    now_s[0] = 111.9
    assert mine.lost == ""
    now_s[0] = 112.0
    assert mine.lost.startswith("no renewal was confirmed within 12 s")
    now_s[0] = 100.0
    assert mine.over
    assert not mine.end(), "no agent took the destruction"


def test_the_first_agent_that_listens_is_asked(address: str) -> None:
    with session("127.0.0.1:1", address, ttl_s=TTL_S) as mine:
        mine.begin()
        (row,) = ask(address, "GET", f"/v1/session/info/{mine.id}").json()
        assert row["NodeChecks"] == [], "it is to outlive the agent that it began with"
    with session("127.0.0.1:1", "127.0.0.1:2") as mine, pytest.raises(CannotConnect):
        mine.begin()


def test_a_lock_is_consuls_key_says_who_has_it_and_leaves_nothing(address: str) -> None:
    with lock(address, "/plain/") as mine:
        fence = mine.acquire()
        (row,) = ask(address, "GET", "/v1/kv/plain/.lock").json()
        assert (row["Session"], row["Flags"], row["Fence"]) == (mine.session, LOCK_FLAGS, fence)
        assert json.loads(b64decode(row["Value"])) == {"Host": socket.gethostname(), "Pid": os.getpid()}
        assert keys(address, "plain/") == ["plain/.lock"]
        assert mine.held
        assert mine.check() == fence
        held_by = mine.session
        assert mine.release()
        assert not mine.release()
        assert keys(address, "plain/") == []
        assert held_by not in listed(address)
        with pytest.raises(LockLost):
            mine.check()


def test_each_acquisition_has_a_greater_fence_and_a_session_of_its_own(address: str) -> None:
    fences, sessions = [], set()
    with lock(address, "again") as mine:
        for _ in range(3):
            with mine:
                fences.append(mine.fence)
                sessions.add(mine.session)
    assert fences == sorted(set(fences))
    assert len(sessions) == 3


def test_who_does_not_get_it_in_time_leaves_nothing(address: str) -> None:
    with lock(address, "busy") as mine, mine, lock(address, "busy") as other:
        assert other.acquire(0.3) is None
        assert not other.held
        assert keys(address, "busy/") == ["busy/.lock"]
        assert listed(address) == [mine.session]


def waiter(address: str, prefix: str, got: list[int], n: int = 0, **more: Any) -> threading.Thread:
    def wait() -> None:
        with lock(address, prefix, **more) as mine, mine:
            got.append(n or mine.fence)

    return in_thread(wait)


def test_who_waits_is_told_who_has_it(address: str) -> None:
    told: list[str] = []
    got: list[int] = []
    with lock(address, "asked") as mine, mine:
        waiting = waiter(address, "asked", got, tell=told.append)
        has = f"asked/.lock is held by process {os.getpid()} on {socket.gethostname()!r}"
        until(lambda: f"waiting: {has}" in told, "that it waits")
        assert got == []
    waiting.join(30)
    assert len(got) == 1


def test_waiters_get_it_in_the_order_they_came(address: str) -> None:
    got: list[int] = []
    waiting: list[threading.Thread] = []
    with lock(address, "fifo") as mine, mine:
        for n in range(1, 5):
            waiting.append(waiter(address, "fifo", got, n))
            until(lambda: len(keys(address, "fifo/.queue/")) == len(waiting), "its place")
    for thread in waiting:
        thread.join(30)
    assert got == [1, 2, 3, 4]


def test_a_waiter_who_is_gone_is_in_nobodys_way(address: str) -> None:
    got: list[int] = []
    with lock(address, "gone") as mine, mine:
        asked = b'{"Behavior":"delete","TTL":"5s","LockDelay":"0s"}'
        dead = put(address, "/v1/session/create", asked).json()["ID"]
        put(address, f"/v1/kv/gone/.queue/{dead}", acquire=dead)
        put(address, "/v1/kv/gone/.queue/nobodys")
        waiting = waiter(address, "gone", got)
        until(lambda: dead not in listed(address), "the end of the dead")
    waiting.join(30)
    assert len(got) == 1


def test_a_waiter_whose_session_is_destroyed_waits_anew(address: str) -> None:
    got: list[int] = []
    with lock(address, "anew") as mine, mine:
        waiting = waiter(address, "anew", got)
        until(lambda: keys(address, "anew/.queue/"), "its place")
        (first,) = keys(address, "anew/.queue/")
        put(address, f"/v1/session/destroy/{first.rpartition('/')[2]}")
        until(lambda: keys(address, "anew/.queue/") not in ([], [first]), "its new place")
        assert got == []
    waiting.join(30)
    assert len(got) == 1


@pytest.mark.parametrize("how", ["destroyed", "deleted", "given up"])
def test_a_holder_who_loses_it_is_told(address: str, how: str) -> None:
    prefix = how.replace(" ", "-")
    with lock(address, prefix) as mine:
        mine.acquire()
        if how == "destroyed":
            put(address, f"/v1/session/destroy/{mine.session}")
        elif how == "deleted":
            ask(address, "DELETE", f"/v1/kv/{prefix}/.lock")
        else:
            put(address, f"/v1/kv/{prefix}/.lock", release=mine.session, flags=LOCK_FLAGS)
        assert mine.wait_lost(60.0)
        assert not mine.held
        with pytest.raises(LockLost, match=f"{prefix}/.lock"):
            mine.check()
        assert not mine.release()


class Forgetful(Agents):
    """Its first release is done, and the answer lost; then `meanwhile` happens."""

    def __init__(self, address: str, meanwhile: Callable[[], object]) -> None:
        super().__init__(address)
        self._meanwhile: Callable[[], object] | None = meanwhile

    def request(self, method: str, path: str, **asked: Any) -> Reply:
        reply = super().request(method, path, **asked)
        if "release" in (asked.get("params") or {}) and self._meanwhile is not None:
            meanwhile, self._meanwhile = self._meanwhile, None
            meanwhile()
            raise ConnectionBroke("the answer is lost")
        return reply


@pytest.mark.parametrize("then", ["nothing", "deleted", "taken"])
def test_a_release_whose_answer_is_lost_counts(address: str, then: str) -> None:
    path = f"/v1/kv/answer-{then}/.lock"
    theirs = put(address, "/v1/session/create", b'{"LockDelay": "0s"}').json()["ID"]
    meanwhile: dict[str, Callable[[], object]] = {
        "nothing": lambda: None,
        "deleted": lambda: ask(address, "DELETE", path),
        "taken": lambda: put(address, path, acquire=theirs, flags=LOCK_FLAGS),
    }
    with closing(Forgetful(address, meanwhile[then])) as agents:
        mine = Hold(agents, Lock(f"answer-{then}"), ttl_s=TTL_S, lock_delay_s=0)
        mine.acquire()
        assert mine.release()
    assert keys(address, f"answer-{then}/") == ([f"answer-{then}/.lock"] if then == "taken" else [])
    put(address, f"/v1/session/destroy/{theirs}")


def test_a_release_of_what_is_anothers_is_told_so(address: str) -> None:
    """The recipe by itself: a holder that has not been told yet that it lost the lock."""
    steps = Lock("anothers").give_back("mine")
    assert next(steps).method == "GET"
    with pytest.raises(StopIteration) as end:
        steps.send(Reply(404, {}, b""))
    assert end.value.value is False


def test_a_callback_that_fails_ends_neither_the_watch_nor_the_renewals(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[str] = []

    def failing(*news: object) -> None:
        told.append("seen" if len(news) == 1 else "followed")
        raise RuntimeError("a mistake of the caller")

    with lock(address, "mistaken", ttl_s=6.0, seen=failing) as mine:
        mine.acquire()
        with pytest.raises(RuntimeError):
            mine.follow(failing)
        until(lambda: "seen" in told and told.count("followed") > 2, "both, and more than one renewal")
        assert mine.held
        ask(address, "DELETE", "/v1/kv/mistaken/.lock")
        assert "was taken from it or deleted" in mine.wait_lost(60.0)
        assert not mine.release()
    assert {record.name for record in caplog.records} >= {held.__name__, client_session.__name__}


def test_a_lock_delay_is_waited_for(address: str) -> None:
    told: list[str] = []
    with lock(address, "delayed", lock_delay_s=5) as lost, lock(address, "delayed", tell=told.append) as mine:
        before = lost.acquire()
        put(address, f"/v1/session/destroy/{lost.session}")
        with mine:
            assert before is not None
            assert mine.fence > before
        assert not lost.release()
    assert any("lock delay" in text for text in told)


def test_a_key_that_is_no_lock_is_left_alone(address: str) -> None:
    put(address, "/v1/kv/other/.lock", b"mine", flags=7)
    with lock(address, "other") as mine, pytest.raises(LockConflict, match="its flags are 7"):
        mine.acquire()
    assert keys(address, "other/") == ["other/.lock"]
    assert listed(address) == []


def test_a_client_of_consul_keeps_it_out_and_is_kept_out(address: str) -> None:
    """The calls of Consul's own clients: create, ?acquire with the flags, ?release."""
    theirs = put(address, "/v1/session/create", b'{"TTL":"60s","LockDelay":"0s"}').json()["ID"]
    path = "/v1/kv/mixed/.lock"
    got: list[int] = []
    assert put(address, path, acquire=theirs, flags=LOCK_FLAGS).json() is True
    waiting = waiter(address, "mixed", got)
    until(lambda: keys(address, "mixed/.queue/"), "its place")
    assert got == []
    put(address, path, release=theirs, flags=LOCK_FLAGS)
    waiting.join(30)
    assert len(got) == 1
    with lock(address, "mixed") as mine, mine:
        assert put(address, path, acquire=theirs, flags=LOCK_FLAGS).json() is False
    put(address, f"/v1/session/destroy/{theirs}")


def test_what_cannot_be_is_refused_and_leaves_nothing(address: str) -> None:
    with pytest.raises(ValueError, match="needs a prefix"), lock(address, "//"):
        pass
    with lock(address, "x", ttl_s=0.1) as mine, pytest.raises(Refused, match="Invalid Session TTL"):
        mine.acquire()
    with lock(address, "k" * 5000) as mine, pytest.raises(Refused, match="the limit is"):
        mine.acquire()
    assert listed(address) == []


def test_a_waiter_outlives_an_agent_that_is_away(tmp_path: Path) -> None:
    """It comes back with nothing in mind: the waiter begins a new session there, and gets the lock."""
    (tmp_path / "ttl.json").write_text('{"session_ttl_min": "1s"}')
    flag = f"-config-file={tmp_path / 'ttl.json'}"
    got: list[int] = []
    with dev_agent(tmp_path, flag) as address:
        await_sessions(address)
        with lock(address, "away") as mine:
            mine.acquire()
            waiting = waiter(address, "away", got)
            until(lambda: keys(address, "away/.queue/"), "its place")
            held_by = mine.session
    assert mine.wait_lost(60.0).startswith("no renewal was confirmed")
    assert not mine.release()
    with dev_agent(tmp_path, flag, at=address):
        waiting.join(60)
        assert len(got) == 1
        assert held_by not in listed(address)


@pytest.mark.parametrize(
    "body", [b"[7]", b'{"a": 1}', b"7", b'[{"Key": "x"}]', b"<html>", b'[{"Key":"x","Value":"!"}]', b"["]
)
def test_what_is_no_agent_is_told(body: bytes) -> None:
    """It answers the creation as an agent would, and the rest with something else."""

    def serve(listener: socket.socket) -> None:
        for answer in (b'{"ID": "one"}', body, b"true"):
            with listener.accept()[0] as accepted:
                accepted.recv(1 << 16)
                head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(answer)}\r\nConnection: close\r\n\r\n"
                accepted.sendall(head.encode() + answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = in_thread(lambda: serve(listener))
        with lock(f"127.0.0.1:{listener.getsockname()[1]}", "x", ttl_s=3600) as mine:
            with pytest.raises(NotAnAgent, match="is this the API of an agent"):
                mine.acquire()
            assert not mine.held
        serving.join(30)
