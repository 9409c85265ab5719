"""The TCP probe against real sockets, and the addresses that API checks may not reach."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Any

import pytest
import trustme

from gemot.checks.definition import CheckDefinition
from gemot.checks.probes import tcp
from gemot.checks.probes.guard import refusal
from gemot.checks.probes.resolver import Resolver
from gemot.checks.probes.tcp import split_address
from gemot.checks.status import Outcome


async def probe(definition: CheckDefinition) -> Outcome:
    return await tcp.probe(definition, Resolver())


def define(address: str, **fields: Any) -> CheckDefinition:
    return CheckDefinition(check_id="c", name="c", type="tcp", tcp=address, **{"timeout_s": 20.0, **fields})


def test_a_port_that_accepts_is_passing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert asyncio.run(probe(define(address))) == Outcome("passing", f"TCP connect {address}: Success")


def test_a_name_with_several_addresses_needs_only_one_that_accepts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"localhost:{server.getsockname()[1]}"
        assert asyncio.run(probe(define(address))).status == "passing"


def test_a_closed_port_is_critical() -> None:
    assert asyncio.run(probe(define("127.0.0.1:1"))) == Outcome(
        "critical", "dial tcp 127.0.0.1:1: connect: connection refused"
    )


def test_a_name_that_does_not_resolve_is_critical() -> None:
    outcome = asyncio.run(probe(define("no-such-name.invalid:80")))
    assert outcome.status == "critical"
    assert outcome.output.startswith("dial tcp no-such-name.invalid:80: ")


def test_a_full_backlog_times_out() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        address = f"127.0.0.1:{server.getsockname()[1]}"
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(server.getsockname())
        outcome = asyncio.run(probe(define(address, timeout_s=0.3)))
        for filler in fillers:
            filler.close()
    assert outcome == Outcome("critical", f"dial tcp {address}: timed out after 0.3s")


def test_with_tls_the_handshake_counts() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(context)

    async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async def work() -> None:
        secure = await asyncio.start_server(close, "127.0.0.1", 0, ssl=context)
        plain = await asyncio.start_server(close, "127.0.0.1", 0)
        async with secure, plain:
            address = f"127.0.0.1:{secure.sockets[0].getsockname()[1]}"
            skipping = define(address, tcp_use_tls=True, tls_skip_verify=True)
            assert await probe(skipping) == Outcome("passing", f"TCP+TLS connect {address}: Success")
            assert (await probe(define(address, tcp_use_tls=True))).status == "critical"
            other = define(f"127.0.0.1:{plain.sockets[0].getsockname()[1]}", tcp_use_tls=True)
            assert (await probe(other)).status == "critical"

    asyncio.run(work())


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a:1", ("a", 1)), ("[::1]:80", ("::1", 80)), ("10.0.0.1:65535", ("10.0.0.1", 65535))],
)
def test_an_address_is_a_host_and_a_port(text: str, expected: tuple[str, int]) -> None:
    assert split_address(text) == expected


@pytest.mark.parametrize(
    "text", ["", "a", ":80", "a:", "a:0", "a:65536", "a:-1", "a:x", "::1:80", "a:٣", "a:" + "9" * 99]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        split_address(text)


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "169.254.0.1",
        "fe80::1",
        "fe80::1%eth0",
        "::ffff:169.254.169.254",
        "fd00:ec2::254",
        "100.100.100.200",
    ],
)
def test_link_local_and_metadata_addresses_are_for_configured_checks_only(address: str) -> None:
    assert refusal(address, from_config=False)
    assert not refusal(address, from_config=True)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "10.1.2.3", "192.168.0.1", "8.8.8.8", "fd00::1"])
def test_other_addresses_are_for_every_check(address: str) -> None:
    assert not refusal(address, from_config=False)


def test_an_api_check_of_a_link_local_address_is_critical() -> None:
    assert "configuration files may reach" in asyncio.run(probe(define("169.254.169.254:80"))).output
