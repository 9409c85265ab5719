"""The lease as its holder counts it: never longer than the servers do, and never found again once lost."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemot.agent.client.agents import Agents
from gemot.agent.client.connection import CannotConnect, Reply
from gemot.agent.client.hold import Hold
from gemot.agent.client.lease import ANSWER_SHARE, END_SHARE, RENEW_SHARE, Lease
from gemot.agent.client.lock import Lock, Waiter, ahead_of
from gemot.agent.client.session import MAX_LOCK_DELAY_S

TTL_S = 15.0
SERVERS_SHARE = 1.25
"""Of the TTL, after which the servers end a session that was not renewed."""


@pytest.mark.parametrize(
    ("at_s", "due", "lost"),
    [
        (100.0, False, False),
        (104.9, False, False),
        (105.0, True, False),
        (111.9, True, False),
        (112.0, False, True),
        (1e9, False, True),
    ],
)
def test_it_is_renewed_at_a_third_and_lost_at_four_fifths(at_s: float, due: bool, lost: bool) -> None:
    lease = Lease(TTL_S, 100.0)
    assert (lease.due(at_s), bool(lease.lost(at_s))) == (due, lost)
    assert lease.next_s() == 105.0


def test_the_end_counts_from_when_the_renewal_was_sent_not_from_its_answer() -> None:
    lease = Lease(TTL_S, 100.0)
    lease.confirm(105.0, 107.4)
    assert lease.end_s == 105.0 + 12.0
    assert not lease.due(109.9)
    assert lease.due(110.0)


def test_a_renewal_that_fails_is_tried_again_until_the_end_and_the_reason_is_told() -> None:
    lease, now_s, tries = Lease(TTL_S, 100.0), 100.0, 0
    while not lease.lost(now_s):
        if lease.due(now_s):
            assert now_s + lease.patience_s(now_s) <= lease.end_s
            tries += 1
            lease.fail(now_s, "no agent listens")
        now_s = max(now_s + 0.001, lease.next_s())
    assert now_s == pytest.approx(112.0)
    assert tries > 10
    assert lease.lost(now_s) == "no renewal was confirmed within 12 s: no agent listens"


@pytest.mark.parametrize("gone", [True, False], ids=["not found", "too late"])
def test_what_is_lost_stays_lost(gone: bool) -> None:
    lease = Lease(TTL_S, 100.0)
    if gone:
        lease.lose("the session is gone")
    late_s = 101.0 if gone else 112.5
    lease.confirm(late_s - 1, late_s)  # an answer that was on its way
    assert lease.lost(late_s)
    assert not lease.due(late_s)


def test_an_older_answer_moves_nothing_back() -> None:
    lease = Lease(TTL_S, 100.0)
    lease.confirm(106.0, 106.1)
    lease.confirm(105.0, 106.2)
    assert lease.confirmed_s == 106.0


def test_an_agent_that_hangs_leaves_time_for_another() -> None:
    lease = Lease(TTL_S, 0.0)
    assert RENEW_SHARE + 2 * ANSWER_SHARE < END_SHARE
    assert lease.patience_s(5.0) == TTL_S * ANSWER_SHARE
    assert lease.patience_s(11.9) == pytest.approx(0.1)


@given(st.floats(1.0, 86_400.0))
def test_no_session_that_is_ended_is_believed_in_until_what_it_held_can_pass(ttl_s: float) -> None:
    """It is destroyed in the moment after a renewal, and nobody tells: no agent answers any more."""
    delay_s = min(ttl_s, MAX_LOCK_DELAY_S)
    lease = Lease(ttl_s, 100.0)
    assert lease.lost(100.0 + 0.95 * delay_s)
    assert lease.next_s() < 100.0 + 0.4 * delay_s, "one renewal can fail"


def test_a_hold_asks_for_the_lock_delay_that_this_counts_on(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, str]] = []

    def request(self: Agents, method: str, path: str, *, body: bytes = b"", **_: object) -> Reply:
        asked.append(json.loads(body))
        raise CannotConnect("that is all")

    monkeypatch.setattr(Agents, "request", request)
    for ttl_s in (10.0, 60.0, 61.0, 600.0):
        with pytest.raises(CannotConnect):
            Hold(Agents(), Lock("jobs/long"), ttl_s=ttl_s).acquire()
    assert [(each["TTL"], each["LockDelay"]) for each in asked] == [
        ("10s", "10s"),
        ("60s", "60s"),
        ("61s", "60s"),
        ("600s", "60s"),
    ]


renewals = st.lists(
    st.tuples(
        st.floats(0.0, 20.0),  # how long the program was busy, stopped or asleep before it looked
        st.floats(0.0, 1.0),  # when within the wait the servers applied it, if they did
        st.floats(0.0, 20.0),  # how long it waited for the answer
        st.booleans(),  # was it applied?
        st.booleans(),  # was it answered?
    ),
    max_size=30,
)


@given(renewals, st.floats(0.8, 1.2))
def test_while_it_is_not_lost_the_servers_have_not_ended_it(
    course: list[tuple[float, float, float, bool, bool]], rate: float
) -> None:
    """Whatever is slow, stopped or lost on the way, and though the servers' clock is a fifth off."""
    now_s, lease, was_lost = 0.0, Lease(TTL_S, 0.0), False
    servers_end_s = TTL_S * SERVERS_SHARE / rate
    for paused_s, applied_at, waited_s, applied, answered in course:
        now_s += paused_s
        if not lease.lost(now_s):
            assert now_s < servers_end_s
        if lease.due(now_s):
            sent_s = now_s
            now_s += waited_s
            if applied and (applied_s := sent_s + waited_s * applied_at) < servers_end_s:
                servers_end_s = applied_s + TTL_S * SERVERS_SHARE / rate
                if answered:
                    lease.confirm(sent_s, now_s)
            else:
                lease.fail(now_s, "no answer")
            if not lease.lost(now_s):
                assert now_s < servers_end_s
        assert not (was_lost and not lease.lost(now_s))
        was_lost = bool(lease.lost(now_s))


@given(st.lists(st.tuples(st.booleans(), st.floats(0.0, ANSWER_SHARE)), max_size=50))
def test_who_is_answered_now_and_then_keeps_it(answers: list[tuple[bool, float]]) -> None:
    """One renewal of two is lost at most, and the program looks when it has to."""
    lease, now_s, failed = Lease(TTL_S, 0.0), 0.0, False
    for lucky, took in answers:
        now_s = max(now_s, lease.next_s())
        assert lease.due(now_s)
        sent_s, now_s = now_s, now_s + TTL_S * took
        if lucky or failed:
            lease.confirm(sent_s, now_s)
        else:
            lease.fail(now_s, "no answer")
        failed = not (lucky or failed)
        assert not lease.lost(now_s)


# -- the queue -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mine", "ahead"),
    [("a", None), ("b", "a"), ("c", "b")],
)
def test_each_waits_behind_the_one_before(mine: str, ahead: str | None) -> None:
    queue = [Waiter("q/c", "c", 9), Waiter("q/b", "b", 5), Waiter("q/x", "", 7), Waiter("q/a", "a", 3)]
    found = ahead_of(mine, queue)
    assert (found and found.session) == ahead


def test_who_is_not_in_the_queue_is_told_to_join() -> None:
    with pytest.raises(KeyError):
        ahead_of("z", [Waiter("q/a", "a", 3)])


@given(st.permutations(range(8)), st.sets(st.integers(0, 7)))
def test_one_is_first_and_all_others_form_a_chain_to_it(order: list[int], gone: set[int]) -> None:
    queue = [Waiter(f"q/{n}", "" if n in gone else f"s{n}", n) for n in order]
    living = [n for n in range(8) if n not in gone]
    before = [ahead_of(f"s{n}", queue) for n in living]
    assert [each and each.order for each in before] == [None, *living][: len(living)]
