"""The real server on a loopback port, asked by another implementation of DNS."""

from __future__ import annotations

import asyncio
import random
import socket

import dns.asyncquery
import dns.asyncresolver
import dns.flags
import dns.message
import dns.rcode
import dns.resolver
import pytest
from support.dns_catalog import MemoryCatalog, make_farm, make_instance, make_node
from support.dns_running import run, serve

from gemot.dns.catalog import Ask
from gemot.dns.config import DnsConfig
from gemot.dns.server import DnsServer
from gemot.server.model.errors import BadRequest

LOOPS = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
Address = tuple[str, int]


def make_catalog(*, cold: bool = False) -> MemoryCatalog:
    catalog = MemoryCatalog(cold=cold)
    catalog.put_node(make_node("n1", "10.0.0.1", meta={"rack": "r1"}))
    rows = [
        make_instance(make_node("n1", "10.0.0.1"), port=8001, tags=("blue",)),
        make_instance(make_node("n2", "10.0.0.2"), port=8002, address="10.7.7.7", tags=("green",)),
    ]
    catalog.put_service("web", rows)
    catalog.put_service("consul", make_farm(1, service="consul"))
    return catalog


def make_resolver(address: Address) -> dns.asyncresolver.Resolver:
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers = [address[0]]
    resolver.port = address[1]
    resolver.lifetime = 10
    return resolver


async def ask(address: Address, name: str, qtype: str = "A", *, tcp: bool = False) -> dns.message.Message:
    query = dns.message.make_query(name, qtype)
    send = dns.asyncquery.tcp if tcp else dns.asyncquery.udp
    return await send(query, address[0], port=address[1], timeout=10)


@LOOPS
@pytest.mark.parametrize("cold", [False, True])
def test_a_resolver_finds_nodes_and_services(loop: str, cold: bool) -> None:
    async def body() -> None:
        async with serve(make_catalog(cold=cold)) as address:
            resolver = make_resolver(address)
            for tcp in (False, True):
                web = await resolver.resolve("web.service.consul", "A", tcp=tcp)
                assert {row.to_text() for row in web} == {"10.0.0.1", "10.7.7.7"}
                srv = await resolver.resolve("_web._tcp.service.consul", "SRV", tcp=tcp)
                assert {(row.port, row.target.to_text()) for row in srv} == {
                    (8001, "n1.node.dc1.consul."),
                    (8002, "0a070707.addr.dc1.consul."),
                }
                for row in srv:
                    (found,) = await resolver.resolve(row.target, "A", tcp=tcp) if row.port == 8002 else ["-"]
                    assert str(found) in ("10.7.7.7", "-")
                blue = await resolver.resolve("Blue.Web.service.DC1.consul", "A", tcp=tcp)
                assert [row.to_text() for row in blue] == ["10.0.0.1"]
                node = await resolver.resolve("n1.node.consul", "TXT", tcp=tcp)
                assert [row.to_text() for row in node] == ['"rack=r1"']
                (soa,) = await resolver.resolve("consul", "SOA", tcp=tcp)
                assert soa.mname.to_text() == "ns.consul."
                (server,) = await resolver.resolve("consul", "NS", tcp=tcp)
                assert server.target.to_text() == "node0.node.dc1.consul."

    run(loop, body)


@LOOPS
def test_a_resolver_tells_an_unknown_name_from_an_empty_one(loop: str) -> None:
    async def body() -> None:
        async with serve(make_catalog()) as address:
            resolver = make_resolver(address)
            for name in ("none.service.consul", "none.node.consul", "web.service.dc9.consul"):
                with pytest.raises(dns.resolver.NXDOMAIN):
                    await resolver.resolve(name, "A")
            for name in ("service.consul", "_tcp.service.consul", "dc1.consul", "consul"):
                with pytest.raises(dns.resolver.NoAnswer):
                    await resolver.resolve(name, "A")
            with pytest.raises(dns.resolver.NoAnswer):
                await resolver.resolve("web.service.consul", "AAAA")
            with pytest.raises(dns.resolver.NoNameservers):
                await resolver.resolve("www.example.com", "A")

    run(loop, body)


@LOOPS
def test_a_truncated_reply_is_asked_again_over_tcp_and_is_whole_there(loop: str) -> None:
    async def body() -> None:
        catalog = make_catalog()
        catalog.put_service("web", make_farm(300))
        async with serve(catalog, config=DnsConfig(enable_truncate=True)) as address:
            short = await ask(address, "web.service.consul")
            assert short.flags & dns.flags.TC
            answer = await make_resolver(address).resolve("web.service.consul", "A")
            assert len(answer) == 300

    run(loop, body)


@LOOPS
def test_a_change_of_the_catalog_shows_in_the_next_answer(loop: str) -> None:
    async def body() -> None:
        catalog = make_catalog()
        async with serve(catalog) as address:
            resolver = make_resolver(address)
            assert len(await resolver.resolve("web.service.consul", "A")) == 2
            catalog.put_service("web", [make_instance(statuses=("critical",))])
            with pytest.raises(dns.resolver.NXDOMAIN):
                await resolver.resolve("web.service.consul", "A")

    run(loop, body)


@LOOPS
def test_many_questions_on_one_connection_are_all_answered(loop: str) -> None:
    async def body() -> None:
        catalog = make_catalog(cold=True)
        for number in range(300):
            catalog.put_service(f"s{number}", make_farm(number % 50 + 1))
        questions = {
            number: dns.message.make_query(f"s{number}.service.consul", "SRV", id=number).to_wire()
            for number in range(300)
        }
        async with serve(catalog) as (host, port):
            reader, writer = await asyncio.open_connection(host, port)
            for question in questions.values():
                writer.write(len(question).to_bytes(2, "big") + question)
            writer.write_eof()
            counts = {}
            while head := await reader.read(2):
                head += await reader.readexactly(2 - len(head))
                raw = await reader.readexactly(int.from_bytes(head, "big"))
                reply = dns.message.from_wire(raw, one_rr_per_rrset=True)
                counts[reply.id] = len(reply.answer)
            assert counts == {number: number % 50 + 1 for number in range(300)}
            writer.close()
            await writer.wait_closed()

    run(loop, body)


@LOOPS
def test_questions_under_way_at_stop_end_quietly(loop: str) -> None:
    async def body() -> None:
        all_asked = asyncio.Event()

        class SilentCatalog(MemoryCatalog):
            async def fetch(self, ask: Ask) -> None:
                self.fetched.append(ask)
                if len(self.fetched) == 6:
                    all_asked.set()
                await asyncio.get_running_loop().create_future()

        catalog = SilentCatalog(cold=True)
        async with serve(catalog) as address:
            questions = [ask(address, f"s{number}.service.consul", tcp=number % 2 > 0) for number in range(6)]
            waiting = [asyncio.ensure_future(question) for question in questions]
            await all_asked.wait()
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    run(loop, body)


@LOOPS
def test_replies_are_counted(loop: str) -> None:
    counted: dict[tuple[str, str], int] = {}

    def count(qtype: str, rcode: str, amount: int) -> None:
        counted[qtype, rcode] = counted.get((qtype, rcode), 0) + amount

    async def body() -> None:
        async with serve(make_catalog(), count=count) as address:
            for _ in range(3):
                await ask(address, "web.service.consul")
            await ask(address, "none.service.consul", tcp=True)

    run(loop, body)
    assert counted == {("A", "noerror"): 3, ("A", "nxdomain"): 1}


@LOOPS
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_port_in_use_is_named_and_nothing_stays_open(loop: str, kind: socket.SocketKind) -> None:
    async def body() -> None:
        with socket.socket(socket.AF_INET, kind) as taken:
            taken.bind(("127.0.0.1", 0))
            if kind == socket.SOCK_STREAM:
                taken.listen()
            port = taken.getsockname()[1]
            server = make_server([("127.0.0.1", 0), ("127.0.0.1", port)])
            with pytest.raises(BadRequest) as refused:
                await server.start()
            assert f"127.0.0.1:{port}" in refused.value.message
            assert f"port {port} is in use" in refused.value.message
            assert server.addresses == ()

    run(loop, body)


@LOOPS
def test_an_address_that_is_not_ours_is_named(loop: str) -> None:
    async def body() -> None:
        with pytest.raises(BadRequest) as refused:
            await make_server([("192.0.2.77", 5353)]).start()
        assert "192.0.2.77:5353" in refused.value.message

    run(loop, body)


@LOOPS
def test_after_stop_the_port_is_free_and_the_server_can_start_again(loop: str) -> None:
    async def body() -> None:
        server = make_server([("127.0.0.1", 0)])
        await server.start()
        (address,) = server.addresses
        await server.stop()
        await server.stop()
        again = make_server([address])
        await again.start()
        assert (await ask(address, "web.service.consul")).rcode() == dns.rcode.NOERROR
        await again.stop()

    run(loop, body)


def make_server(addresses: list[Address]) -> DnsServer:
    return DnsServer(config=DnsConfig(), catalog=make_catalog(), addresses=addresses, random=random.Random(1))
