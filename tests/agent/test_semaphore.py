"""The client's Semaphore: the rules as tables, and Consul's protocol against a real agent."""

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
from gemot.agent.client.connection import Connection, Refused, Reply
from gemot.agent.client.hold import Hold
from gemot.agent.client.kv import Kv
from gemot.agent.client.lock import LOCK_FLAGS, Lock
from gemot.agent.client.recipe import LockConflict
from gemot.agent.client.semaphore import SEMAPHORE_FLAGS, Semaphore, Slots, read_slots


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("agent")
    (folder / "ttl.json").write_text('{"session_ttl_min": "1s"}')
    with dev_agent(folder, f"-config-file={folder / 'ttl.json'}") as address:
        await_sessions(address)
        yield address


def ask(address: str, method: str, path: str, body: bytes = b"", **params: Any) -> Reply:
    with closing(Connection(address)) as connection:
        return connection.request(method, f"/v1/{path}", body=body, params=params)


def begin(address: str) -> str:
    asked = b'{"TTL": "60s", "Behavior": "delete", "LockDelay": "0s"}'
    return str(ask(address, "PUT", "session/create", asked).json()["ID"])


def end(address: str, session: str) -> None:
    ask(address, "PUT", f"session/destroy/{session}")


def keys(address: str, prefix: str) -> list[str]:
    with closing(Connection(address)) as connection:
        return Kv(connection).keys(prefix)


def stored(address: str, prefix: str) -> Any:
    (row,) = ask(address, "GET", f"kv/{prefix}/.lock").json()
    assert row["Flags"] == SEMAPHORE_FLAGS
    return json.loads(b64decode(row["Value"]))


def enter(address: str, prefix: str, session: str, slots: object) -> None:
    """As Consul's clients do: the contender, and `.lock` as it is to be; by cas, where nothing is there."""
    flags = SEMAPHORE_FLAGS
    assert ask(address, "PUT", f"kv/{prefix}/{session}", acquire=session, flags=flags).json() is True
    body = json.dumps(slots).encode()
    assert ask(address, "PUT", f"kv/{prefix}/.lock", body, cas=0, flags=flags).json() is True


@contextmanager
def slot(address: str, prefix: str, limit: int, *, delay_s: float = 0.3, **more: Any) -> Iterator[Hold]:
    """One that is not acquired yet."""
    with closing(Agents(address)) as agents:
        hold = Hold(agents, Semaphore(prefix, limit, delay_s=delay_s), **{"ttl_s": 10.0} | more)
        yield hold
        hold.release()


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (b"", Slots(3)),
        (b'{"Limit": 2, "Holders": null}', Slots(2)),
        (b'{"Limit": 2, "Holders": {}}', Slots(2)),
        (b'{"Limit": 2, "Holders": {"a": true, "b": true}}', Slots(2, ("a", "b"))),
        (b'{"Limit": 2, "Holders": {"a": false}}', Slots(2, ("a",))),
        (b'{"Limit": 2, "Holders": ["a", "b"]}', Slots(2, ("a", "b"), as_list=True)),
    ],
)
def test_what_clients_write_is_read(value: bytes, read: Slots) -> None:
    assert read_slots(value, 3) == read
    assert read_slots(read.encode(), 3) in (read, Slots(read.limit))


@pytest.mark.parametrize(
    "value",
    [
        *(b"{", b"7", b"null", b"[]", b"{}", b"\xff", b"[" * 10_000, b'{"Limit": 2}', b'{"Holders": {}}'),
        *(
            b'{"Limit": "2", "Holders": {}}',
            b'{"Limit": true, "Holders": {}}',
            b'{"Limit": 0, "Holders": {}}',
        ),
        *(b'{"Limit": 2, "Holders": 7}', b'{"Limit": 2, "Holders": [7]}', b'{"Limit": 2, "Holders": "ab"}'),
    ],
    ids=lambda value: repr(value[:30]),
)
def test_what_is_no_semaphore_is_told(address: str, value: bytes) -> None:
    with pytest.raises(ValueError, match=r"its? |Expecting|codec|recursion"):
        read_slots(value, 2)
    ask(address, "PUT", "kv/odd/.lock", value, flags=SEMAPHORE_FLAGS)
    with slot(address, "odd", 2) as mine, pytest.raises(LockConflict, match="no semaphore that can be read"):
        mine.acquire()
    assert keys(address, "odd/") == ["odd/.lock"]


@pytest.mark.parametrize(("prefix", "limit"), [("", 2), ("//", 2), ("x", 0), ("x", -1), ("x", 4097)])
def test_what_cannot_be_is_refused(prefix: str, limit: int) -> None:
    with pytest.raises(ValueError, match="a semaphore"):
        Semaphore(prefix, limit)


def test_as_many_as_the_limit_are_in_and_nothing_is_left(address: str) -> None:
    told: list[str] = []
    with slot(address, "two", 2) as first, slot(address, "two", 2) as second:
        first.acquire()
        second.acquire()
        assert stored(address, "two") == {"Limit": 2, "Holders": {first.session: True, second.session: True}}
        assert set(keys(address, "two/")) == {"two/.lock", first.guard, second.guard}
        with slot(address, "two", 2, tell=told.append) as third:
            assert third.acquire(0.3) is None
            waiting = threading.Thread(target=third.acquire, daemon=True)
            waiting.start()
            until(lambda: told, "that it waits")
            assert told == ["waiting: all 2 slots of two/.lock are taken"]
            assert first.release()
            waiting.join(30)
            assert third.held
            assert stored(address, "two")["Holders"] == {second.session: True, third.session: True}
    assert keys(address, "two/") == []


def test_who_waits_is_woken_by_who_leaves(address: str) -> None:
    inside: list[int] = []
    most: list[int] = []

    def work() -> None:
        with slot(address, "many", 3) as mine:
            mine.acquire()
            inside.append(mine.fence)
            most.append(len(inside))
            inside.remove(mine.fence)

    workers = [threading.Thread(target=work, daemon=True) for _ in range(10)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert len(most) == 10
    assert max(most) <= 3
    assert keys(address, "many/") == []


def test_a_limit_that_is_not_agreed_on_is_refused(address: str) -> None:
    with slot(address, "agreed", 2) as mine:
        mine.acquire()
        with slot(address, "agreed", 3) as other, pytest.raises(LockConflict, match="has 2 slots, not 3"):
            other.acquire()
        assert keys(address, "agreed/") == ["agreed/.lock", mine.guard]


def test_a_lock_and_a_semaphore_keep_off_each_others_key(address: str) -> None:
    with closing(Agents(address)) as agents:
        told = f"is not a semaphore .its flags are {LOCK_FLAGS}"
        with (
            Hold(agents, Lock("kind")),
            slot(address, "kind", 2) as mine,
            pytest.raises(LockConflict, match=told),
        ):
            mine.acquire()
        with slot(address, "kind", 2) as mine:
            mine.acquire()
            with pytest.raises(LockConflict, match="is not a lock"):
                Hold(agents, Lock("kind")).acquire()


@pytest.mark.parametrize("as_list", [False, True], ids=["map", "list"])
def test_a_holder_of_consuls_clients_counts_until_it_leaves(address: str, as_list: bool) -> None:
    prefix = f"theirs-{as_list}"
    theirs = begin(address)
    enter(address, prefix, theirs, {"Limit": 1, "Holders": [theirs] if as_list else {theirs: True}})
    with slot(address, prefix, 1) as mine:
        assert mine.acquire(0.3) is None
        (row,) = ask(address, "GET", f"kv/{prefix}/.lock").json()
        left = json.dumps({"Limit": 1, "Holders": [] if as_list else {}}).encode()
        index = row["ModifyIndex"]
        swap = ask(address, "PUT", f"kv/{prefix}/.lock", left, cas=index, flags=SEMAPHORE_FLAGS)
        assert swap.json() is True
        mine.acquire()
        holders = stored(address, prefix)["Holders"]
        assert holders in ([mine.session], {mine.session: True})
    end(address, theirs)


def test_a_dead_holder_is_taken_out_after_the_delay_and_not_before(address: str) -> None:
    now_s = [100.0]
    theirs = begin(address)
    enter(address, "dead", theirs, {"Limit": 1, "Holders": {theirs: True}})
    end(address, theirs)
    with closing(Agents(address)) as agents:
        recipe = Semaphore("dead", 1, delay_s=20.0, clock=lambda: now_s[0])
        mine = Hold(agents, recipe, ttl_s=10.0)
        assert mine.acquire(0.5) is None
        recipe = Semaphore("dead", 1, delay_s=0.2)
        with Hold(agents, recipe, ttl_s=10.0) as mine:
            assert stored(address, "dead")["Holders"] == {mine.session: True}
    assert keys(address, "dead/") == []


def test_a_dead_holder_keeps_nobody_from_another_slot(address: str) -> None:
    theirs = begin(address)
    enter(address, "half", theirs, {"Limit": 2, "Holders": {theirs: True}})
    end(address, theirs)
    with slot(address, "half", 2, delay_s=3600) as mine:
        mine.acquire()
        assert stored(address, "half")["Holders"] == {theirs: True, mine.session: True}


@pytest.mark.parametrize("how", ["destroyed", "taken out", "deleted"])
def test_a_holder_who_loses_its_slot_is_told(address: str, how: str) -> None:
    prefix = how.replace(" ", "-")
    with slot(address, prefix, 2) as mine:
        mine.acquire()
        if how == "destroyed":
            end(address, mine.session)
        elif how == "deleted":
            ask(address, "DELETE", f"kv/{prefix}/.lock")
        else:
            ask(address, "PUT", f"kv/{prefix}/.lock", b'{"Limit":2,"Holders":{}}', flags=SEMAPHORE_FLAGS)
        assert mine.wait_lost(60.0)
        assert not mine.release()


def test_a_write_under_the_fence_of_a_slot_is_done_while_the_slot_is_held(address: str) -> None:
    with slot(address, "fenced", 2) as mine, closing(Connection(address)) as connection:
        kv = Kv(connection)
        fences = []
        for _ in range(2):
            fences.append(mine.acquire())
            guard = mine.guard
            assert kv.put("fenced-by", b"1", lock=guard, fence=mine.fence)
            mine.release()
            with pytest.raises(Refused, match="fence check"):
                kv.put("fenced-by", b"2", lock=guard, fence=mine.fence)
        assert 0 < (fences[0] or 0) < (fences[1] or 0), "each entry acquires its contender anew"
