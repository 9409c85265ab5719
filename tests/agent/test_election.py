"""The client's Election: records as tables, and campaigns against a real agent."""

from __future__ import annotations

import json
import threading
from base64 import b64decode
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
from support.dev_agent import await_sessions, dev_agent, until

from gemot.agent.client.agents import Agents
from gemot.agent.client.connection import Connection, Reply
from gemot.agent.client.election import (
    Election,
    Leader,
    Observer,
    ask_to_resign,
    is_asked_to_resign,
    leader_of,
    resignation,
)
from gemot.agent.client.entry import Entry
from gemot.agent.client.hold import Hold
from gemot.agent.client.kv import Kv
from gemot.agent.client.lock import LOCK_FLAGS
from gemot.agent.client.recipe import LockConflict
from gemot.agent.client.semaphore import SEMAPHORE_FLAGS


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with dev_agent(tmp_path_factory.mktemp("agent")) as address:
        await_sessions(address)
        yield address


def ask(address: str, method: str, path: str, body: bytes = b"", **params: Any) -> Reply:
    with closing(Connection(address)) as connection:
        return connection.request(method, f"/v1/{path}", body=body, params=params)


@contextmanager
def kv(address: str) -> Iterator[Kv]:
    with closing(Connection(address)) as connection:
        yield Kv(connection)


@contextmanager
def candidate(address: str, key: str, name: str, **more: Any) -> Iterator[Hold]:
    """One that has not campaigned yet."""
    with closing(Agents(address)) as agents:
        hold = Hold(agents, Election(key, name=name, address="10.0.0.5:80"), lock_delay_s=0, **more)
        yield hold
        hold.release()


def entry(value: bytes, *, session: str = "s1") -> Entry:
    return Entry("e", value, 0, 1, session, 5, 6, 5)


@pytest.mark.parametrize(
    ("value", "leader"),
    [
        (b'{"Name": "a", "Address": "b"}', Leader("a", "b", "s1", 5, False)),
        (b'{"Name": "a", "Address": "b", "Resign": true}', Leader("a", "b", "s1", 5, True)),
        (b'{"Resign": 1}', Leader("", "", "s1", 5, False)),
        *((odd, Leader("", "", "s1", 5, False)) for odd in (b"", b"7", b"[]", b"{", b"\xff", b"[" * 10_000)),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_who_has_the_key_leads_whatever_is_written_there(value: bytes, leader: Leader) -> None:
    assert leader_of([entry(value)]) == leader
    assert is_asked_to_resign([entry(value)]) == leader.resigning
    assert leader_of([entry(value, session="")]) is None
    assert leader_of([]) is None


def test_a_request_to_resign_keeps_the_record_and_is_for_records_alone() -> None:
    asked = json.loads(resignation(entry(b'{"Name": "a", "Address": "b", "More": 1}')))
    assert asked == {"Name": "a", "Address": "b", "More": 1, "Resign": True}
    for odd in (b"", b"[]", b'{"Resign": false}', b"\xff"):
        with pytest.raises(LockConflict, match="takes no requests"):
            resignation(entry(odd))


@pytest.mark.parametrize("more", [{"name": "n" * 513}, {"address": "a" * 513}])
def test_what_cannot_be_is_refused(more: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="at most 512 bytes"):
        Election("k", **more)
    with pytest.raises(ValueError, match="needs a key"):
        Election("//")


def test_a_leader_is_told_at_the_key_and_goes_with_it(address: str) -> None:
    with candidate(address, "plain", "one") as mine:
        fence = mine.acquire()
        (row,) = ask(address, "GET", "kv/plain").json()
        assert (row["Session"], row["Fence"], row["Flags"]) == (mine.session, fence, 0)
        record = json.loads(b64decode(row["Value"]))
        assert (record["Name"], record["Address"]) == ("one", "10.0.0.5:80")
        assert mine.guard == "plain"
        assert mine.release()
    with kv(address) as store:
        assert store.keys("plain") == []


def test_an_observer_is_told_of_each_leader_once(address: str) -> None:
    told: list[Leader | None] = []
    following = threading.Event()

    def follow() -> None:
        with closing(Connection(address)) as connection:
            observer = Observer(connection, "seen")
            while not following.is_set():
                told.append(observer.next())

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    until(lambda: told == [None], "nobody")
    fences = []
    for name in ("one", "two"):
        with candidate(address, "seen", name) as mine:
            fences.append(mine.acquire())
            until(lambda: told[-1], "the leader")
            ask(address, "PUT", "kv/seen-not", b"1")
            if name == "two":
                following.set()
        until(lambda: following.is_set() or told[-1] is None, "its end")
    thread.join(30)
    assert [leader and (leader.name, leader.fence) for leader in told][:4] == [
        None,
        ("one", fences[0]),
        None,
        ("two", fences[1]),
    ]
    assert (fences[0] or 0) < (fences[1] or 0)


def test_a_leader_hears_that_it_is_asked_and_still_holds(address: str) -> None:
    asked = threading.Event()

    def see(rows: object) -> None:
        if is_asked_to_resign(rows):  # type: ignore[arg-type]
            asked.set()

    with kv(address) as store, candidate(address, "asked", "one", seen=see) as mine:
        assert ask_to_resign(store, "asked") is None
        fence = mine.acquire()
        assert not asked.is_set()
        leader = ask_to_resign(store, "asked")
        assert leader == Leader("one", "10.0.0.5:80", mine.session, fence or 0, False)
        assert asked.wait(30)
        assert mine.held
        again = ask_to_resign(store, "asked")
        assert again is not None
        assert again.resigning
        assert store.put("asked-by", b"1", lock="asked", fence=fence), "the request costs it no fence"
        assert mine.release()
        mine.acquire()
        assert ask(address, "GET", "kv/asked").json()[0]["Fence"] > (fence or 0)
        now = leader_of([row for row in store.tree("asked") if row.key == "asked"])
        assert now is not None
        assert not now.resigning, "the request went with its leader"


@pytest.mark.parametrize(
    ("flags", "told"),
    [(0, "nobody was ever elected"), (LOCK_FLAGS, "is a lock"), (SEMAPHORE_FLAGS, "a semaphore")],
)
def test_a_key_that_is_something_elses_is_left_alone(address: str, flags: int, told: str) -> None:
    key = f"other-{flags}"
    ask(address, "PUT", f"kv/{key}", b"mine", flags=flags)
    with candidate(address, key, "one") as mine, pytest.raises(LockConflict, match=told):
        mine.acquire()
    assert ask(address, "GET", f"kv/{key}", raw=True).body == b"mine"


def test_a_candidate_of_consuls_recipe_takes_part(address: str) -> None:
    theirs = ask(address, "PUT", "session/create", b'{"TTL": "60s", "LockDelay": "0s"}').json()["ID"]
    assert ask(address, "PUT", "kv/mixed", b"me", acquire=theirs).json() is True
    with candidate(address, "mixed", "ours") as mine, kv(address) as store:
        assert mine.acquire(0.3) is None
        with pytest.raises(LockConflict, match="takes no requests"):
            ask_to_resign(store, "mixed")
        assert ask(address, "PUT", "kv/mixed", b"me", release=theirs).json() is True
        assert mine.acquire(30)
        assert ask(address, "PUT", "kv/mixed", b"me", acquire=theirs).json() is False
    ask(address, "PUT", f"session/destroy/{theirs}")
