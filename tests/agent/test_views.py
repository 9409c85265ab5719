"""Views: one subscription per query, shared; the last answer is kept; idle ones go; the number is bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from support.fed_servers import FedServers

from gemot.agent.servers import Subscription
from gemot.agent.views import FRESH_S, HOLD_MIN_S, HOLD_S, Views
from gemot.server.model.catalog import HealthService, Nodes
from gemot.server.model.errors import Busy, Forbidden, TooLarge, Unavailable, unanswered
from gemot.server.model.kv import KvGet, KvKeys, KvList
from gemot.server.model.query import Answer, Query

A, B, C = KvGet(b"a"), KvGet(b"b"), KvGet(b"c")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Bench:
    def __init__(self, limit: int = 10, hold_s: float = HOLD_S) -> None:
        self.servers = FedServers()
        self.clock = Clock()
        self.waiting, self.linked = "", False
        self.views = Views(
            servers=self.servers,
            limit=limit,
            now=self.clock,
            idle_s=60,
            hold_s=hold_s,
            unanswered=lambda: unanswered(self.waiting, linked=self.linked),
        )
        self.heard: list[tuple[str, int]] = []

    def hear(self, name: str) -> Callable[[Answer], None]:
        return lambda answer: self.heard.append((name, answer.index))


def run(scene: Callable[[Bench], Awaitable[None]], limit: int = 10, hold_s: float = HOLD_S) -> None:
    async def act() -> None:
        bench = Bench(limit, hold_s)
        try:
            await asyncio.wait_for(scene(bench), 10)
        finally:
            bench.views.stop()

    asyncio.run(act())


def test_users_of_one_query_share_one_subscription() -> None:
    async def scene(bench: Bench) -> None:
        for name in ("one", "two"):
            bench.views.watch(A, bench.hear(name))
        first, second = bench.views.get(A), bench.views.get(KvGet(b"a"))
        bench.servers.tell(A, "x", 7)
        assert (await first).value == (await second).value == "x"
        assert bench.servers.subscribed == [A]
        assert bench.heard == [("one", 7), ("two", 7)]

    run(scene)


def test_queries_of_other_kinds_with_the_same_fields_are_kept_apart() -> None:
    async def scene(bench: Bench) -> None:
        alike: list[Query] = [
            KvGet(b"a"),
            KvList(b"a"),
            KvKeys(b"a"),
            HealthService("a"),
            HealthService("a", ("b",)),
        ]
        for query in alike:
            bench.views.watch(query, bench.hear("x"))
        assert bench.servers.watched() == alike

    run(scene)


def test_the_order_of_meta_pairs_makes_no_second_view() -> None:
    async def scene(bench: Bench) -> None:
        bench.views.watch(Nodes({"a": "1", "b": "2"}), bench.hear("x"))
        bench.views.watch(Nodes({"b": "2", "a": "1"}), bench.hear("y"))
        assert len(bench.servers.open) == 1

    run(scene)


def test_a_late_watcher_is_told_the_present_answer_at_once() -> None:
    async def scene(bench: Bench) -> None:
        bench.views.watch(A, bench.hear("one"))
        assert bench.views.peek(A) is None
        bench.servers.tell(A, "x", 7)
        bench.views.watch(A, bench.hear("late"))
        assert bench.heard == [("one", 7), ("late", 7)]
        assert (await bench.views.get(A)).index == 7

    run(scene)


def test_an_answer_told_from_within_subscribe_is_told_once() -> None:
    async def scene(bench: Bench) -> None:
        bench.servers.tell(A, "x", 3)
        bench.views.watch(A, bench.hear("one"))
        assert bench.heard == [("one", 3)]

    run(scene)


def test_an_older_index_is_dropped_and_equal_content_is_not_told_again() -> None:
    async def scene(bench: Bench) -> None:
        bench.views.watch(A, bench.hear("one"))
        bench.servers.tell(A, "new", 9)
        bench.servers.tell(A, "old", 8)
        assert bench.views.peek(A) == Answer("new", 9)
        bench.servers.tell(A, "new", 12)
        assert bench.views.peek(A) == Answer("new", 12)
        assert bench.heard == [("one", 9)]
        bench.servers.tell(A, "newer", 13)
        assert bench.heard == [("one", 9), ("one", 13)]

    run(scene)


def test_after_beginning_anew_a_lower_index_is_taken_and_the_last_answer_held_till_then() -> None:
    async def scene(bench: Bench) -> None:
        bench.views.watch(A, bench.hear("one"))
        bench.servers.tell(A, "of the old cluster", 900)
        bench.views.begin_anew()
        kept = bench.views.peek(A)
        assert kept is not None
        assert kept.value == "of the old cluster"
        bench.servers.tell(A, "of the new cluster", 4)
        assert bench.views.peek(A) == Answer("of the new cluster", 4)
        assert bench.heard == [("one", 900), ("one", 4)]
        bench.servers.tell(A, "older", 3)
        assert bench.views.peek(A) == Answer("of the new cluster", 4)

    run(scene)


def test_a_cancelled_watcher_is_never_called_even_from_another_callback() -> None:
    async def scene(bench: Bench) -> None:
        subscriptions: list[Subscription] = []

        def cancel_all(answer: Answer) -> None:
            for subscription in subscriptions:
                subscription.cancel()

        bench.views.watch(A, cancel_all)
        subscriptions.append(bench.views.watch(A, bench.hear("victim")))
        bench.servers.tell(A, "x", 1)
        assert bench.heard == []
        subscriptions[0].cancel()

    run(scene)


def test_a_watcher_that_fails_does_not_keep_the_others_from_hearing() -> None:
    async def scene(bench: Bench) -> None:
        def fail(answer: Answer) -> None:
            raise ValueError("a bug")

        bench.views.watch(A, fail)
        bench.views.watch(A, bench.hear("other"))
        bench.servers.tell(A, "x", 1)
        assert bench.heard == [("other", 1)]

    run(scene)


def test_age_is_zero_while_bookmarks_come_and_grows_without_them() -> None:
    async def scene(bench: Bench) -> None:
        assert bench.views.age_s(A) == 0
        bench.views.watch(A, bench.hear("one"))
        bench.servers.tell(A, "x", 1)
        for _ in range(5):
            bench.clock.now += 1
            bench.servers.bookmark(Answer(None, 1))
            assert bench.views.age_s(A) == 0
        bench.clock.now += FRESH_S + 40
        assert bench.views.age_s(A) == FRESH_S + 40
        bench.servers.bookmark(Answer(None, 1, known_leader=False))
        assert bench.views.age_s(A) == FRESH_S + 40
        bench.servers.bookmark(Answer(None, 1, last_contact_ms=20_000))
        assert bench.views.age_s(A) == 20
        assert bench.views.peek(A) == Answer("x", 1)

    run(scene)


def test_idle_views_give_their_subscription_back_and_watched_ones_stay() -> None:
    async def scene(bench: Bench) -> None:
        kept = bench.views.watch(A, bench.hear("one"))
        bench.servers.tell(B, "x")
        await bench.views.get(B)
        bench.clock.now += 59
        bench.views.sweep()
        assert len(bench.servers.open) == 2
        bench.clock.now += 2
        bench.views.sweep()
        assert bench.servers.watched() == [A]
        kept.cancel()
        bench.views.sweep()
        assert bench.servers.watched() == [A], "its idle time starts when the last watcher leaves"
        bench.clock.now += 61
        bench.views.sweep()
        assert bench.servers.watched() == []

    run(scene)


def test_at_the_limit_the_idle_view_used_longest_ago_makes_room() -> None:
    async def scene(bench: Bench) -> None:
        for query in (A, B):
            bench.servers.tell(query, "x")
            await bench.views.get(query)
            bench.clock.now += 1
        bench.views.peek(A)
        bench.views.watch(C, bench.hear("c"))
        assert bench.servers.watched() == [A, C]

    run(scene, limit=2)


def test_at_the_limit_with_all_in_use_a_new_query_is_refused_with_the_limit_named() -> None:
    async def scene(bench: Bench) -> None:
        bench.views.watch(A, bench.hear("a"))
        waiting = bench.views.get(B)
        with pytest.raises(Busy, match=r"2 different queries.*raise the limit"):
            bench.views.watch(C, bench.hear("c"))
        waiting.cancel()
        await asyncio.sleep(0)
        bench.views.watch(C, bench.hear("c"))
        assert bench.servers.watched() == [A, C]

    run(scene, limit=2)


def test_what_the_servers_refuse_is_raised_and_leaves_no_view_behind() -> None:
    async def scene(bench: Bench) -> None:
        bench.servers.refusal = Forbidden("no key:read on a")
        with pytest.raises(Forbidden, match="key:read"):
            bench.views.get(A)
        assert len(bench.views) == 0

    run(scene)


def test_a_subscription_that_is_unavailable_at_first_is_opened_later() -> None:
    async def scene(bench: Bench) -> None:
        bench.servers.refusal = Unavailable("no server is reachable")
        waiting = bench.views.get(A)
        bench.servers.refusal = None
        bench.servers.tell(A, "x", 4)
        assert (await waiting).index == 4

    run(scene)


@pytest.mark.parametrize(
    ("waiting", "linked", "told"),
    [
        (
            "Waiting for servers: none is known yet",
            False,
            "No known server answers: waiting for servers: none",
        ),
        ("Waiting for servers: have 1 of 3", True, "No cluster leader: waiting for servers: have 1 of 3"),
        ("", True, "No known server answers in time"),
    ],
)
def test_a_first_answer_is_waited_for_as_long_as_reads_are_held(
    waiting: str, linked: bool, told: str
) -> None:
    async def scene(bench: Bench) -> None:
        bench.waiting, bench.linked = waiting, linked
        with pytest.raises(Unavailable, match=f"^{told}"):
            await bench.views.get(A)
        again = bench.views.get(A)
        assert bench.servers.subscribed == [A], "the view goes on"
        bench.servers.tell(A, "x", 4)
        assert (await again).index == 4
        await asyncio.sleep(HOLD_MIN_S + 0.1)
        assert (await bench.views.get(A)).index == 4, "what is held is told, however old"

    run(scene, hold_s=0.0)


def test_a_refusal_for_good_is_told_to_those_who_wait_for_a_first_answer() -> None:
    async def scene(bench: Bench) -> None:
        waiting = [bench.views.get(A), bench.views.get(A)]
        bench.servers.refuse(TooLarge("more than 64 MiB"))
        for each in waiting:
            with pytest.raises(TooLarge, match="64 MiB"):
                await each
        bench.servers.tell(A, "x", 4)
        bench.servers.refuse(TooLarge("more than 64 MiB"))
        assert (await bench.views.get(A)).index == 4

    run(scene)


def test_a_refusal_that_may_pass_is_waited_out_and_told_at_the_end_of_the_hold_time() -> None:
    async def scene(bench: Bench) -> None:
        passes, stays = bench.views.get(A), bench.views.get(B)
        bench.servers.refuse(Busy("100000 subscriptions: no more are taken"))
        bench.servers.tell(A, "x", 4)
        assert (await passes).index == 4
        with pytest.raises(Busy, match="no more are taken"):
            await stays

    run(scene, hold_s=0.0)


def test_after_stop_nothing_is_told_waits_end_and_use_is_refused() -> None:
    async def scene(bench: Bench) -> None:
        bench.views.watch(A, bench.hear("a"))
        waiting = bench.views.get(B)
        bench.views.stop()
        bench.servers.tell(A, "x")
        assert bench.heard == []
        assert bench.servers.open == []
        assert waiting.cancelled()
        with pytest.raises(Unavailable, match="stopping"):
            bench.views.get(A)

    run(scene)


def test_who_asks_for_it_is_told_of_a_newer_index_of_the_same_value() -> None:
    async def scene(bench: Bench) -> None:
        bench.views.watch(A, bench.hear("changes"))
        bench.views.watch(A, bench.hear("all"), bench.hear("same"))
        bench.servers.tell(A, "x", 7)
        bench.servers.tell(A, "x", 9)
        bench.servers.tell(A, "x", 9)
        assert bench.heard == [("changes", 7), ("all", 7), ("same", 9)]

    run(scene)
