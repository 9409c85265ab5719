"""Sessions: who may begin, what ends them, what becomes of their locks, and that a lease never ends early."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.change_rows import changes_after
from support.one_state import OneState

from gemot.server.model.catalog import SERF_HEALTH, Deregister, Node, Register, Service
from gemot.server.model.command import Command
from gemot.server.model.errors import RuleFailed
from gemot.server.model.health import Check
from gemot.server.model.kv import KvDelete, KvDeletePrefix, KvEntry, KvGet, KvList, KvPurge, KvSet
from gemot.server.model.restore import MOST_EPOCH
from gemot.server.model.session import (
    MAX_LOCK_DELAY_MS,
    CreateSession,
    DestroySession,
    EndLeases,
    RenewSession,
    Session,
    SessionInfo,
    Sessions,
)
from gemot.server.model.upkeep import Tick
from gemot.server.state import locks, session

N1 = Node("web1", "10.0.0.1")
TTL_MS = 10_000
LEASE_MS = TTL_MS + TTL_MS // session.DUE_SHARE
DELAY_MS = 15_000


@pytest.fixture
def one(tmp_path: Path) -> Iterator[OneState]:
    """A node with a living check of its own and a service with one."""
    state = OneState(tmp_path)
    state.skip(9)
    state.apply(
        Register(
            N1,
            (Service("api", "api"),),
            (serf("passing"), Check("", "api-up", "up", "warning", service_id="api")),
        )
    )
    yield state
    state.close()


def serf(status: Any) -> Check:
    return Check("", SERF_HEALTH, "Serf Health Status", status)


def begin(one: OneState, id: str = "s1", **fields: Any) -> Session:
    given = Session(id, "web1", node_checks=(SERF_HEALTH,))
    assert one.result(CreateSession(msgspec.structs.replace(given, **fields))) is True
    found = one.value(SessionInfo(id)).session
    assert isinstance(found, Session)
    return found


def pass_ms(one: OneState, ms: int) -> int:
    """Cluster time passes as it does on a leader; how many leases ended then."""
    one.time_ms += ms
    ended = one.result(EndLeases(one.state.leases_due(one.time_ms)))
    assert isinstance(ended, int)
    return ended


def living(one: OneState) -> list[str]:
    return [each.id for each in one.value(Sessions())]


def key(one: OneState, name: bytes = b"a") -> KvEntry | None:
    found: KvEntry | None = one.value(KvGet(name))
    return found


# -- beginning ---------------------------------------------------------------------------------------------


def test_a_session_is_kept_as_it_was_given_with_the_nodes_own_spelling(one: OneState) -> None:
    found = begin(one, node="WEB1", name="lock", ttl="10s", ttl_ms=TTL_MS, service_checks=(("api-up", ""),))
    assert found == Session(
        "s1", "web1", "lock", DELAY_MS * 1_000_000, "release", "10s", TTL_MS, (SERF_HEALTH,),
        (("api-up", ""),), one.index, one.index
    )  # fmt: skip
    assert one.value(Sessions("Web1")) == [found]
    assert one.value(Sessions("other")) == []


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"node": "web9"}, "Missing node registration"),
        ({"node_checks": ("nothing",)}, "Missing check 'nothing' registration"),
        ({"service_checks": (("nothing", ""),)}, "Missing check 'nothing' registration"),
        ({"node_checks": ("down",)}, "Check 'down' is in critical state"),
        ({"behavior": "keep"}, "Invalid Behavior setting 'keep'"),
        ({"ttl": "1ms", "ttl_ms": 1}, "Invalid Session TTL '1000000', must be between [1s=24h0m0s]"),
        ({"ttl_ms": 86_400_001}, "Invalid Session TTL '86400001000000', must be between [1s=24h0m0s]"),
        ({"lock_delay_ns": -1}, "Invalid LockDelay: it is negative"),
        ({"id": ""}, "A session's id has 1 to 64 characters, not 0"),
        ({"id": "x" * 65}, "A session's id has 1 to 64 characters, not 65"),
        ({"name": "x" * 1_025}, "The session's name has 1025 characters, the limit is 1024"),
        ({"service_checks": (("api-up", ""),) * 65}, "The session names 65 checks, the limit is 64"),
        ({"ttl": "1" * 1_025}, "The session has a text of 1025 characters, the limit is 1024"),
        ({"node_checks": ("c" * 1_025,)}, "The session has a text of 1025 characters, the limit is 1024"),
        (
            {"service_checks": (("api-up", "n" * 1_025),)},
            "The session has a text of 1025 characters, the limit is 1024",
        ),
        (
            {"node_checks": tuple([f"c{n}" for n in range(65)])},
            "The session names 65 checks, the limit is 64",
        ),
    ],
)
def test_what_cannot_begin_is_refused_and_leaves_nothing(
    one: OneState, fields: dict[str, Any], text: str
) -> None:
    one.apply(Register(N1, checks=(Check("", "down", "down", "critical"),)))
    before = one.state.state_hash
    given = msgspec.structs.replace(Session("s1", "web1"), **fields)
    (outcome,) = one.apply(CreateSession(given))
    assert isinstance(outcome.result, RuleFailed)
    assert outcome.result.message == text
    assert outcome.touched == ()
    assert living(one) == []
    one.state.verify()
    assert before != b""


def test_an_id_is_given_once(one: OneState) -> None:
    begin(one)
    assert "exists already" in one.result(CreateSession(Session("s1", "web1"))).message


def test_a_node_has_so_many_sessions_and_no_more(one: OneState, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "MAX_OF_NODE", 2)
    for id in ("s1", "s2"):
        begin(one, id)
    assert "has 2 sessions, as many as it may" in one.result(CreateSession(Session("s3", "web1"))).message


def test_the_sessions_of_a_node_hold_so_many_locks_and_no_more(
    one: OneState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "MAX_HELD", 2)
    one.apply(Register(Node("web2", "10.0.0.2")))
    for id, node in (("s1", "web1"), ("s2", "web1"), ("s3", "web2")):
        begin(one, id, node=node, node_checks=())
    one.apply(KvSet(b"a", b"", acquire="s1"), KvSet(b"b", b"", acquire="s2"))
    refused = one.result(KvSet(b"c", b"", acquire="s1"))
    assert "the sessions of node web1 hold 2 locks, as many as they may" in refused.message
    assert one.result(KvSet(b"d", b"", acquire="s3")) > 0
    one.apply(KvSet(b"a", b"", release="s1"))
    assert one.result(KvSet(b"c", b"", acquire="s1")) > 0


def test_an_entry_ends_so_many_sessions_and_held_keys(one: OneState, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "MOST_WORK", 4)
    for number in range(6):
        begin(one, f"s{number}", ttl_ms=TTL_MS)
    one.apply(*[KvSet(b"%d" % n, b"", acquire="s0") for n in range(6)])
    one.apply(KvSet(b"of s1", b"", acquire="s1"))
    assert [pass_ms(one, LEASE_MS), pass_ms(one, 0), pass_ms(one, 0), pass_ms(one, 0)] == [1, 3, 2, 0]


def test_no_fence_is_given_where_it_would_not_fit(one: OneState) -> None:
    begin(one)
    with one.state.batch() as writing:
        writing.meta.epoch = MOST_EPOCH
    assert one.result(KvSet(b"a", b"", acquire="s1")) < 1 << 53
    with one.state.batch() as writing:
        writing.meta.epoch = MOST_EPOCH + 1
    assert "no fence is left" in one.result(KvSet(b"b", b"", acquire="s1")).message


# -- ending ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        DestroySession("s1"),
        Register(N1, checks=(serf("critical"),)),
        Deregister("web1", check_id=SERF_HEALTH),
        Register(N1, checks=(Check("", "api-up", "up", "critical", service_id="api"),)),
        Deregister("web1", service_id="api"),
        Deregister("web1"),
    ],
)
@pytest.mark.parametrize("behavior", ["release", "delete"])
def test_what_ends_a_session_takes_its_locks_in_the_same_entry(
    one: OneState, command: Command, behavior: str
) -> None:
    begin(one, behavior=behavior, service_checks=(("api-up", ""),))
    for name in (b"a", b"b"):
        one.apply(KvSet(name, b"kept", flags=7, acquire="s1"))
    fences = [key(one, name).fence for name in (b"a", b"b")]
    touched = one.touched(command)
    assert {("kv", b"a"), ("kv", b"b"), ("session", b"s1"), ("node-sessions", b"web1")} <= set(touched)
    assert living(one) == []
    if behavior == "delete":
        assert one.read(KvList(b"")) == ([], one.index)
    else:
        rows = one.value(KvList(b""))
        assert [(r.session, r.value, r.flags, r.lock_index) for r in rows] == [("", b"kept", 7, 1)] * 2
        assert [r.modify_index for r in rows] == [one.index] * 2
        assert [r.fence for r in rows] == fences
    one.state.verify()
    for name in (b"a", b"b"):
        assert one.result(KvSet(name, b"", acquire="s1")).message == 'invalid session "s1"'


@pytest.mark.parametrize(
    "command",
    [
        Register(N1, checks=(serf("warning"),)),
        Register(N1, checks=(Check("", "another", "another", "critical"),)),
        Register(Node("web2", "10.0.0.2"), checks=(serf("critical"),)),
        Deregister("web1", service_id="api"),
        KvDelete(b"a"),
        Tick(),
    ],
)
def test_what_does_not_end_a_session(one: OneState, command: Command) -> None:
    begin(one)
    one.apply(KvSet(b"a", b"", acquire="s1"), command)
    assert living(one) == ["s1"]


def test_a_session_without_checks_lives_until_its_node_goes(one: OneState) -> None:
    begin(one, node_checks=())
    one.apply(Register(N1, checks=(serf("critical"),)))
    assert living(one) == ["s1"]
    one.apply(Deregister("web1"))
    assert living(one) == []


def test_a_registration_that_is_refused_half_way_ends_no_session(one: OneState) -> None:
    """The check came first, and the whole is undone."""
    begin(one, behavior="delete")
    one.apply(KvSet(b"a", b"", acquire="s1"))
    before = (one.state.state_hash, one.read(KvList(b"")))
    refused = Register(N1, checks=(serf("critical"), Check("", "x", "x", service_id="none")))
    assert isinstance(one.apply(refused)[0].result, RuleFailed)
    assert living(one) == ["s1"]
    assert key(one).session == "s1"
    assert one.read(KvList(b"")) == before[1]
    one.state.verify()
    one.reopen()
    one.state.verify()


def test_one_that_is_not_there_is_destroyed_already_and_cannot_be_renewed(one: OneState) -> None:
    assert one.result(DestroySession("s9")) is True
    assert one.result(RenewSession("s9")) is False


# -- leases ------------------------------------------------------------------------------------------------


def test_a_lease_ends_a_quarter_after_its_ttl_and_not_before(one: OneState) -> None:
    begin(one, ttl_ms=TTL_MS)
    assert pass_ms(one, LEASE_MS - 1) == 0
    assert one.value(SessionInfo("s1")).remaining_ms == 0
    assert pass_ms(one, 1) == 1
    assert living(one) == []


def test_a_renewal_begins_the_ttl_anew_and_moves_no_index(one: OneState) -> None:
    begin(one, ttl_ms=TTL_MS)
    before = one.read(Sessions())
    for _ in range(5):
        pass_ms(one, TTL_MS)
        assert one.value(SessionInfo("s1")).remaining_ms == 0
        assert one.touched(RenewSession("s1")) == ()
        assert one.value(SessionInfo("s1")).remaining_ms == TTL_MS
    assert one.read(Sessions()) == before
    assert pass_ms(one, LEASE_MS) == 1


def test_what_the_leader_proposed_before_a_renewal_ends_nothing_after_it(one: OneState) -> None:
    begin(one, ttl_ms=TTL_MS)
    one.time_ms += LEASE_MS
    due = one.state.leases_due(one.time_ms)
    assert due == (("s1", 0),)
    assert one.result(RenewSession("s1")) is True
    assert one.result(EndLeases(due)) == 0
    assert living(one) == ["s1"]


def test_a_leader_whose_clock_is_ahead_ends_nothing_before_the_log_says_so(one: OneState) -> None:
    """Whether it is due is decided by the time in the log, not by who proposes it."""
    begin(one, ttl_ms=TTL_MS)
    one.time_ms += LEASE_MS - 1
    assert one.result(EndLeases((("s1", 0),))) == 0
    assert living(one) == ["s1"]


def test_a_session_without_a_ttl_is_never_due(one: OneState) -> None:
    begin(one)
    assert one.value(SessionInfo("s1")).remaining_ms == -1
    assert one.result(RenewSession("s1")) is True
    assert one.state.leases_due(1 << 60) == ()


def test_leases_outlive_a_restart_with_what_was_left(one: OneState) -> None:
    begin(one, ttl_ms=TTL_MS)
    pass_ms(one, TTL_MS - 1_000)
    one.reopen()
    assert one.value(SessionInfo("s1")).remaining_ms == 1_000
    assert one.state.deadlines_exist()
    assert pass_ms(one, LEASE_MS - TTL_MS + 999) == 0
    assert pass_ms(one, 1) == 1


def test_in_another_epoch_a_lease_begins_anew(one: OneState) -> None:
    """Its deadline came with a restore: it is of another cluster's time, or long ago."""
    begin(one, ttl_ms=TTL_MS)
    with one.state.batch() as writing:
        writing.meta.epoch += 1
    one.time_ms += 100 * LEASE_MS
    assert one.value(SessionInfo("s1")).remaining_ms == TTL_MS
    assert pass_ms(one, 0) == 0
    assert pass_ms(one, LEASE_MS - 1) == 0
    assert pass_ms(one, 1) == 1


def test_cluster_time_is_kept_going_for_as_long_as_a_lease_or_a_delay_is_open(one: OneState) -> None:
    assert not one.state.deadlines_exist()
    begin(one, ttl_ms=TTL_MS)
    assert one.state.deadlines_exist()
    one.apply(KvSet(b"a", b"", acquire="s1"))
    pass_ms(one, LEASE_MS)
    assert one.state.deadlines_exist()
    pass_ms(one, DELAY_MS)
    assert not one.state.deadlines_exist()
    one.state.verify()


# -- delays ------------------------------------------------------------------------------------------------


def test_after_a_session_ended_its_locks_are_not_to_be_had_for_the_delay(one: OneState) -> None:
    begin(one)
    begin(one, "s2")
    one.apply(KvSet(b"a", b"", acquire="s1"), DestroySession("s1"))
    assert key(one).session == ""
    one.time_ms += DELAY_MS - 1
    assert one.result(KvSet(b"a", b"", acquire="s2")) is False
    one.time_ms += 1
    assert one.result(KvSet(b"a", b"", acquire="s2")) > 0


@pytest.mark.parametrize("freed", [KvSet(b"a", b"", release="s1"), KvDelete(b"a")])
def test_who_gives_a_lock_back_leaves_no_delay(one: OneState, freed: Command) -> None:
    begin(one)
    begin(one, "s2")
    one.apply(KvSet(b"a", b"", acquire="s1"), freed, DestroySession("s1"))
    assert one.result(KvSet(b"a", b"", acquire="s2")) > 0


@pytest.mark.parametrize(
    ("delay_ns", "lasts_ms"),
    [(0, 0), (1, 1), (1_500_000, 2), (5_000_000_000, 5_000), (10**15, MAX_LOCK_DELAY_MS)],
)
def test_a_delay_is_the_sessions_and_a_minute_at_most(one: OneState, delay_ns: int, lasts_ms: int) -> None:
    begin(one, lock_delay_ns=delay_ns)
    begin(one, "s2")
    one.apply(KvSet(b"a", b"", acquire="s1"), DestroySession("s1"))
    if lasts_ms:
        one.time_ms += lasts_ms - 1
        assert one.result(KvSet(b"a", b"", acquire="s2")) is False
        one.time_ms += 1
    assert one.result(KvSet(b"a", b"", acquire="s2")) > 0


def test_a_delay_from_another_clusters_time_holds_nobody_up(one: OneState) -> None:
    begin(one)
    with one.state.batch() as writing:
        writing.enter(one.index)
        writing.time_ms = 1 << 40
        locks.delay(writing, b"a", DELAY_MS)
    assert one.result(KvSet(b"a", b"", acquire="s1")) > 0
    assert one.state.delays_over(one.time_ms)
    pass_ms(one, 0)
    assert not one.state.deadlines_exist()
    one.state.verify()


# -- fences ------------------------------------------------------------------------------------------------


def test_fences_grow_through_delete_and_recreation_where_the_lock_index_begins_anew(one: OneState) -> None:
    begin(one, lock_delay_ns=0, behavior="delete")
    fences = []
    for end in (KvSet(b"a", b"", release="s1"), KvDelete(b"a"), KvDeletePrefix(b""), DestroySession("s1")):
        fences.append(one.result(KvSet(b"a", b"", acquire="s1")))
        assert key(one).fence == fences[-1]
        one.apply(end)
    begin(one, "s2")
    fences.append(one.result(KvSet(b"a", b"", acquire="s2")))
    assert key(one).lock_index == 1
    assert fences == sorted(set(fences))


def test_a_fence_of_a_later_epoch_is_greater_than_any_of_an_earlier_one(one: OneState) -> None:
    begin(one)
    first = one.result(KvSet(b"a", b"", acquire="s1"))
    one.apply(KvSet(b"a", b"", release="s1"))
    with one.state.batch() as writing:
        writing.meta.epoch += 1
    later = one.result(KvSet(b"a", b"", acquire="s1"))
    assert (first >> locks.FENCE_BITS, later >> locks.FENCE_BITS) == (0, 1)
    assert later % (1 << locks.FENCE_BITS) == one.index


def test_a_key_that_was_never_locked_is_stored_as_releases_before_fences_do(one: OneState) -> None:
    """Servers of both compare their state hashes."""
    one.apply(KvSet(b"a", b"x", flags=3))
    stored = one.file.cursor.execute("select row from kv").get
    assert msgspec.msgpack.decode(stored) == [b"a", b"x", 3, 0, "", one.index, one.index]


# -- deleted ranges ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("purged", [False, True])
def test_a_deleted_range_takes_locks_with_it(one: OneState, purged: bool) -> None:
    begin(one)
    begin(one, "s2")
    one.apply(KvSet(b"a/1", b"", acquire="s1"), KvSet(b"a/2", b"", acquire="s1"), KvDeletePrefix(b"a/"))
    assert one.result(KvSet(b"a/1", b"new", acquire="s2")) > 0
    if purged:
        one.apply(KvPurge(10))
    one.apply(DestroySession("s1"))
    assert key(one, b"a/1").session == "s2"
    assert key(one, b"a/2") is None
    if not purged:
        one.apply(KvPurge(10))
    one.state.verify()
    assert one.file.cursor.execute("select count(*) from held").get == 1
    one.apply(DestroySession("s2"))
    assert one.file.cursor.execute("select count(*) from held").get == 0


# -- indexes -----------------------------------------------------------------------------------------------


def test_a_session_has_the_index_of_its_beginning_and_lists_that_of_the_last_change(one: OneState) -> None:
    begin(one)
    at = one.index
    begin(one, "s2", node_checks=())
    assert [one.read(query)[1] for query in (SessionInfo("s1"), Sessions(), Sessions("web1"))] == [
        at, at + 1, at + 1
    ]  # fmt: skip
    one.apply(DestroySession("s1"))
    assert one.read(SessionInfo("s1")) == (None, at + 2)
    one.apply(Deregister("web1"))
    assert one.read(Sessions("web1")) == ([], at + 3)


def test_what_changes_is_in_the_change_table_for_those_who_follow(one: OneState) -> None:
    begin(one, ttl_ms=TTL_MS)
    one.apply(RenewSession("s1"), DestroySession("s1"))
    ops = [(key, op) for _, _, topic, key, op, _ in changes_after(one.state, 0, 100) if topic == "session"]
    assert ops == [(b"s1", "set"), (b"s1", "delete")]
