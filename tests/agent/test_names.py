"""What DNS asks of this agent: one watch a name, bounded, given up when unused, never stale by itself."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import dns.asyncquery
import dns.message
import dns.rcode
import msgspec
import pytest
from support.dns_catalog import make_instance, make_node
from support.fed_servers import FedServers

from gemot.agent.names import KNOWN_IDLE_SWEEPS, UNKNOWN_IDLE_SWEEPS, Names
from gemot.agent.views import Views
from gemot.dns.catalog import Ask, Found, NodeAsk, ServiceAsk
from gemot.dns.config import DnsConfig
from gemot.dns.server import DnsServer
from gemot.server.model.catalog import HealthService, Instance, NodeDetail, NodeInfo
from gemot.server.model.errors import Busy, Unavailable

WEB = ServiceAsk("web")


class Stage:
    """Names over real views over servers fed by hand."""

    def __init__(self, *, known: int = 8, unknown: int = 4, wait_s: float = 5.0) -> None:
        self.servers = FedServers()
        self.views = Views(servers=self.servers, limit=64, now=lambda: 0.0)
        self.names = Names(views=self.views, known_limit=known, unknown_limit=unknown, wait_s=wait_s)

    def tell(self, service: str, *rows: Instance) -> None:
        self.servers.tell(HealthService(service), list(rows))

    async def find(self, ask: Ask) -> Found:
        await self.names.fetch(ask)
        found = self.names.peek(ask)
        assert found is not None
        return found

    def watched(self) -> int:
        """Names with a watcher; a view may outlive its watcher for a while."""
        return len(self.names)


def run(body: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(10):
            await body()

    asyncio.run(bounded())


def test_a_name_is_unknown_until_fetched_and_then_answered_at_once() -> None:
    async def body() -> None:
        stage = Stage()
        row = make_instance()
        stage.tell("web", row)
        assert stage.names.peek(WEB) is None
        assert (await stage.find(WEB)).instances == (row,)
        await stage.names.fetch(WEB)
        assert stage.servers.subscribed == [HealthService("web")]

    run(body)


def test_a_node_is_found_with_its_addresses() -> None:
    async def body() -> None:
        stage = Stage()
        node = make_node("n1")
        stage.servers.tell(NodeInfo("n1"), NodeDetail(node, (), ()))
        stage.servers.tell(NodeInfo("n2"), None)
        assert (await stage.find(NodeAsk("n1"))).node == node
        assert (await stage.find(NodeAsk("n2"))).empty

    run(body)


def test_all_who_ask_while_the_first_answer_is_on_its_way_get_it() -> None:
    async def body() -> None:
        stage = Stage()
        waiting = [asyncio.ensure_future(stage.names.fetch(WEB)) for _ in range(5)]
        await asyncio.sleep(0)
        assert len(stage.servers.subscribed) == 1
        stage.tell("web", make_instance())
        await asyncio.gather(*waiting)

    run(body)


def test_a_change_ends_what_was_found_before() -> None:
    async def body() -> None:
        stage = Stage()
        stage.tell("web", make_instance())
        first = await stage.find(WEB)
        stage.tell("web", make_instance(statuses=("critical",)))
        assert not first.live
        second = stage.names.peek(WEB)
        assert second is not None
        assert second.live
        assert second.instances[0].checks[0].status == "critical"
        stage.tell("web")
        assert not second.live
        assert (await stage.find(WEB)).empty

    run(body)


def test_a_checks_new_output_changes_nothing_for_dns() -> None:
    async def body() -> None:
        stage = Stage()
        row = make_instance()
        stage.tell("web", row)
        first = await stage.find(WEB)
        noisy = msgspec.structs.replace(row.checks[0], output="23 ms", modify_index=99)
        stage.tell("web", Instance(row.node, row.service, (noisy,)))
        assert stage.names.peek(WEB) is first
        assert first.live

    run(body)


def test_no_answer_within_the_bound_is_unavailable_and_names_what_was_asked() -> None:
    async def body() -> None:
        stage = Stage(wait_s=0.02)
        with pytest.raises(Unavailable) as failed:
            await stage.names.fetch(WEB)
        assert "service 'web'" in failed.value.message
        stage.tell("web", make_instance())
        assert not (await stage.find(WEB)).empty, "the watch stays, and its answer is taken when it comes"

    run(body)


def test_random_names_do_not_push_out_known_ones_nor_grow_without_bound() -> None:
    async def body() -> None:
        stage = Stage(known=8, unknown=4)
        for number in range(8):
            stage.tell(f"web{number}", make_instance(service=f"web{number}"))
            await stage.find(ServiceAsk(f"web{number}"))
        for number in range(200):
            stage.tell(f"random{number}")
            assert (await stage.find(ServiceAsk(f"random{number}"))).empty
            assert stage.watched() <= 8 + 4
        for number in range(8):
            assert stage.names.peek(ServiceAsk(f"web{number}")) is not None
        assert len(stage.servers.watched()) <= 64, "views hold no more than their own limit"

    run(body)


def test_known_names_are_bounded_too_and_one_in_use_stays() -> None:
    async def body() -> None:
        stage = Stage(known=4)
        stage.tell("hot", make_instance(service="hot"))
        hot = await stage.find(ServiceAsk("hot"))
        for number in range(50):
            stage.tell(f"web{number}", make_instance(service=f"web{number}"))
            await stage.find(ServiceAsk(f"web{number}"))
            hot.used += 5
            assert hot.live
            assert stage.watched() <= 4 + 4

    run(body)


def test_what_is_pushed_out_is_no_longer_live() -> None:
    async def body() -> None:
        stage = Stage(unknown=1)
        stage.tell("a")
        stage.tell("b")
        first = await stage.find(ServiceAsk("a"))
        await stage.find(ServiceAsk("b"))
        assert not first.live
        assert stage.names.peek(ServiceAsk("a")) is None

    run(body)


def test_when_every_place_waits_for_an_answer_one_more_name_is_refused() -> None:
    async def body() -> None:
        stage = Stage(unknown=2)
        waiting = [asyncio.ensure_future(stage.names.fetch(ServiceAsk(name))) for name in ("a", "b")]
        await asyncio.sleep(0)
        with pytest.raises(Busy) as refused:
            await stage.names.fetch(ServiceAsk("c"))
        assert "2 names" in refused.value.message
        stage.tell("a", make_instance(service="a"))
        stage.tell("b")
        await asyncio.gather(*waiting)
        stage.tell("c")
        assert (await stage.find(ServiceAsk("c"))).empty

    run(body)


def test_a_name_moves_between_the_pools_as_it_comes_and_goes() -> None:
    async def body() -> None:
        stage = Stage(known=1, unknown=1)
        stage.tell("web")
        assert (await stage.find(WEB)).empty
        stage.tell("web", make_instance())
        stage.tell("other")
        await stage.find(ServiceAsk("other"))
        assert stage.names.peek(WEB) is not None, "known now: it does not share the place of the unknown"
        stage.tell("web")
        assert stage.names.peek(ServiceAsk("other")) is None
        assert stage.watched() == 1

    run(body)


def test_names_nobody_asks_for_are_given_up_the_unknown_ones_first() -> None:
    async def body() -> None:
        stage = Stage()
        stage.tell("web", make_instance())
        stage.tell("none")
        await stage.find(WEB)
        await stage.find(ServiceAsk("none"))
        for _ in range(UNKNOWN_IDLE_SWEEPS + 1):
            stage.names.sweep()
        assert stage.names.peek(ServiceAsk("none")) is None
        assert stage.names.peek(WEB) is not None
        for _ in range(KNOWN_IDLE_SWEEPS + 1):
            stage.names.sweep()
        assert stage.watched() == 0

    run(body)


def test_names_in_use_survive_every_sweep() -> None:
    async def body() -> None:
        stage = Stage()
        stage.tell("web", make_instance())
        found = await stage.find(WEB)
        for _ in range(3 * KNOWN_IDLE_SWEEPS):
            found.used += 1
            stage.names.sweep()
        assert found.live

    run(body)


def test_servers_that_refuse_leave_nothing_behind() -> None:
    async def body() -> None:
        stage = Stage()
        stage.servers.refusal = Busy("too many subscriptions")
        stage.views.stop()
        with pytest.raises(Unavailable):
            await stage.names.fetch(WEB)
        assert stage.watched() == 0

    run(body)


def test_a_change_told_by_the_servers_shows_in_the_next_dns_reply() -> None:
    async def body() -> None:
        stage = Stage()
        stage.tell("web", make_instance(make_node("n1", "10.0.0.1")))
        server = DnsServer(
            config=DnsConfig(),
            catalog=stage.names,
            addresses=[("127.0.0.1", 0)],
            random=random.Random(1),
        )
        await server.start()
        ((host, port),) = server.addresses
        query = dns.message.make_query("web.service.consul", "A")
        for address in ("10.0.0.1", "10.0.0.2", "10.0.0.3"):
            stage.tell("web", make_instance(make_node("n1", address)))
            reply = await dns.asyncquery.udp(query, host, port=port, timeout=10)
            assert [row.to_text() for rrset in reply.answer for row in rrset] == [address]
        stage.tell("web")
        reply = await dns.asyncquery.udp(query, host, port=port, timeout=10)
        assert reply.rcode() == dns.rcode.NXDOMAIN
        assert stage.servers.subscribed == [HealthService("web")]
        await server.stop()

    run(body)


def test_after_stop_nothing_is_live_and_nothing_new_is_watched() -> None:
    async def body() -> None:
        stage = Stage()
        stage.tell("web", make_instance())
        found = await stage.find(WEB)
        waiting = asyncio.ensure_future(stage.names.fetch(ServiceAsk("late")))
        await asyncio.sleep(0)
        stage.names.stop()
        with pytest.raises(Unavailable):
            await waiting
        assert not found.live
        assert stage.names.peek(WEB) is None
        with pytest.raises(Unavailable):
            await stage.names.fetch(WEB)

    run(body)
