"""The addresses a probe asks: what is looked up, by whom, and what names that hang leave to the others."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from support.http_agent import PATIENCE_S, run, until

from gemot.checks.definition import CheckDefinition
from gemot.checks.probes import http, tcp
from gemot.checks.probes import resolver as module
from gemot.checks.probes.resolver import AddrInfo, Resolver, Unresolved, look_up
from gemot.checks.runner import Runner
from gemot.checks.status import Outcome
from gemot.checks.turns import Turns


class NameServer:
    """The system's lookup, but for names below `example`: for them it hangs until it is let go, and fails."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.silent = threading.Event()

    def look_up(self, name: str) -> list[AddrInfo]:
        self.asked.append(name)
        if name.endswith(".example"):
            self.silent.wait(PATIENCE_S)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return look_up(name)


@contextmanager
def name_server() -> Iterator[NameServer]:
    server = NameServer()
    try:
        yield server
    finally:
        server.silent.set()


def define(address: str, **fields: float) -> CheckDefinition:
    kind = "http" if address.startswith("http") else "tcp"
    return CheckDefinition(
        check_id=address, name="c", type=kind, interval_s=3600.0, **{kind: address}, **fields
    )


def test_the_probes_of_an_address_ask_nobody_for_it() -> None:
    async def work() -> None:
        with name_server() as server:
            resolver = Resolver(look_up=server.look_up)
            for literal in ("127.0.0.1", "::1"):
                ((*_, address),) = await resolver.addresses(literal, 80, 20.0)
                assert address[:2] == (literal, 80)
            await tcp.probe(define("127.0.0.1:1"), resolver)
            await http.probe(define("http://127.0.0.1:1/"), resolver)
            assert server.asked == []

    run(work())


def test_a_name_has_the_port_that_is_asked_for() -> None:
    async def work() -> None:
        found = await Resolver().addresses("localhost", 8080, 20.0)
        assert {address[:2] for *_, address in found} <= {("127.0.0.1", 8080), ("::1", 8080)}
        assert found

    run(work())


@pytest.mark.parametrize("address", ["db.example:5432", "http://db.example:5432/health"])
def test_a_name_that_hangs_makes_its_check_critical_and_says_so(address: str) -> None:
    async def work() -> None:
        with name_server() as server:
            probe = tcp.probe if address.startswith("db") else http.probe
            outcome = await probe(define(address, timeout_s=0.05), Resolver(look_up=server.look_up))
            assert outcome.status == "critical"
            why = "dial tcp db.example:5432: could not resolve db.example within 0.05 s"
            assert outcome.output.endswith(why)

    run(work())


def test_a_name_that_nobody_knows_makes_its_http_check_critical_in_the_systems_words() -> None:
    async def work() -> None:
        with name_server() as server:
            server.silent.set()
            outcome = await http.probe(define("http://db.example/"), Resolver(look_up=server.look_up))
            why = "dial tcp db.example:80: Temporary failure in name resolution"
            assert outcome == Outcome("critical", f'Get "http://db.example/": {why}')

    run(work())


def test_a_link_local_address_is_asked_at_its_interface() -> None:
    """As names have them: the number of the interface stands beside the address, not in it."""

    async def work() -> None:
        info = (socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("fe80::1", 0, 0, 1))
        resolver = Resolver(look_up=lambda name: [info])
        assert (await resolver.addresses("db", 80, 20.0))[0][4] == ("fe80::1", 80, 0, 1)
        outcome = await http.probe(define("http://db/", from_config=False), resolver)
        assert f"fe80::1%{socket.if_indextoname(1)} is a link-local" in outcome.output

    run(work())


def test_names_that_hang_keep_no_other_name_from_being_found() -> None:
    """A few of them once held all threads: even checks of addresses were critical then."""

    async def work() -> None:
        with name_server() as server:
            turns = Turns(working=2, hanging=20, hangs_after_s=0.001)
            resolver = Resolver(look_up=server.look_up, turns=turns)
            hanging = [
                asyncio.create_task(tcp.probe(define(f"h{number}.example:80"), resolver))
                for number in range(20)
            ]
            await until(lambda: len(server.asked) == 20)
            assert await resolver.addresses("localhost", 80, PATIENCE_S)
            server.silent.set()
            outcomes = await asyncio.gather(*hanging)
            assert all("Temporary failure" in outcome.output for outcome in outcomes)

    run(work())


def test_what_the_loop_has_others_do_does_not_wait_for_names_of_checks() -> None:
    async def work() -> None:
        with name_server() as server:
            resolver = Resolver(look_up=server.look_up)
            results: list[str] = []
            runner = Runner(
                on_result=lambda check_id, outcome: results.append(check_id),
                uniform=lambda: 0.0,
                probes={"tcp": lambda definition: tcp.probe(definition, resolver)},
            )
            for number in range(40):
                runner.put(define(f"h{number}.example:80"))
            await until(lambda: len(server.asked) == 40)
            async with asyncio.timeout(PATIENCE_S / 2):
                await asyncio.to_thread(lambda: None)
            assert results == []
            await runner.stop()

    run(work())


def test_a_name_is_looked_up_once_at_a_time_and_anew_afterwards() -> None:
    async def work() -> None:
        with name_server() as server:
            resolver = Resolver(look_up=server.look_up)
            for _ in range(5):
                with pytest.raises(Unresolved, match="within"):
                    await resolver.addresses("db.example", 80, 0.001)
            assert server.asked == ["db.example"]
            server.silent.set()
            with pytest.raises(Unresolved, match="Temporary failure"):
                await resolver.addresses("db.example", 80, PATIENCE_S)
            with pytest.raises(Unresolved, match="Temporary failure"):
                await resolver.addresses("db.example", 80, PATIENCE_S)
            assert server.asked == ["db.example"] * 2

    run(work())


def test_only_so_many_names_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_NAMES", 2)

    async def work() -> None:
        with name_server() as server:
            resolver = Resolver(look_up=server.look_up, turns=Turns(working=1, hanging=0))
            for name in ("a.example", "b.example"):
                with pytest.raises(Unresolved, match="within"):
                    await resolver.addresses(name, 80, 0.001)
            with pytest.raises(Unresolved, match="2 other names are being looked up"):
                await resolver.addresses("c.example", 80, 0.001)
            assert len(server.asked) == 1
            server.silent.set()
            await until(lambda: len(server.asked) == 2)
            with pytest.raises(Unresolved, match="Temporary failure"):
                await resolver.addresses("c.example", 80, PATIENCE_S)

    run(work())


def test_a_name_that_hangs_does_not_hold_up_the_end(capfd: pytest.CaptureFixture[str]) -> None:
    before = threading.enumerate()
    with name_server() as server:

        async def work() -> None:
            with pytest.raises(Unresolved):
                await Resolver(look_up=server.look_up).addresses("db.example", 80, 0.001)

        run(work())
        (lookup,) = [thread for thread in threading.enumerate() if thread not in before]
        assert lookup.daemon
        server.silent.set()
        lookup.join(PATIENCE_S)
    assert capfd.readouterr().err == ""
