"""The agent's operations over HTTP: the log as a stream, leave, reload, and explanations."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from collections.abc import AsyncIterator, Iterator

import pytest
from support.http_agent import HttpAgent, run, serving, until
from support.local_servers import LocalServers, local_servers

from gemot.agent.http import operations
from gemot.agent.logs import Followers, set_level, setup
from gemot.agent.why import Why
from gemot.server.model.catalog import Node, Register, Service
from gemot.server.model.errors import BadRequest, Unavailable

log = logging.getLogger("gemot.agent")


class Agent:
    """What operations act on, and what was done to it."""

    def __init__(self) -> None:
        self.followers = Followers()
        self.left = 0
        self.reloaded = 0
        self.failure: Exception | None = None

    async def leave(self) -> None:
        if self.failure is not None:
            raise self.failure
        self.left += 1

    async def reload(self) -> None:
        if self.failure is not None:
            raise self.failure
        self.reloaded += 1


@contextlib.contextmanager
def logging_at(level: str, followers: Followers) -> Iterator[None]:
    """The process's log as an agent sets it up; put back as it was at the end."""
    root, ours = logging.getLogger(), logging.getLogger("gemot")
    before = (root.handlers, root.level, ours.level)
    setup(level=level, as_json=False, file="")
    root.addHandler(followers)
    try:
        yield
    finally:
        root.handlers = before[0]
        root.setLevel(before[1])
        ours.setLevel(before[2])


@contextlib.asynccontextmanager
async def operated(level: str = "INFO") -> AsyncIterator[tuple[HttpAgent, Agent, LocalServers]]:
    agent = Agent()
    with local_servers() as servers, logging_at(level, agent.followers):
        why = Why(servers=servers)
        routes = operations.routes(followers=agent.followers, leave=agent.leave, reload=agent.reload, why=why)
        async with serving(routes) as http:
            yield http, agent, servers


async def monitor(http: HttpAgent, query: str = "") -> tuple[str, AsyncIterator[str]]:
    """The head of a monitor's answer, and its lines."""
    connection = await http.connect()
    connection.send(f"GET /v1/agent/monitor{query} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    head = b""
    while b"\r\n\r\n" not in head:
        head += await connection.piece()
    head, _, rest = head.partition(b"\r\n\r\n")

    async def lines() -> AsyncIterator[str]:
        buffer = rest
        while True:
            while b"\n" in buffer:
                line, _, buffer = buffer.partition(b"\n")
                text = line.decode().strip("\r")
                # Sizes of chunks are lines of hexadecimal digits.
                if text and not all(mark in "0123456789abcdef" for mark in text):
                    yield text
            piece = await connection.piece()
            if not piece:
                return
            buffer += piece

    return head.decode(), lines()


def test_the_monitor_streams_lines_of_a_level_and_above() -> None:
    async def work() -> None:
        async with operated("ERROR") as (http, agent, _):
            head, lines = await monitor(http, "?loglevel=warn")
            assert head.startswith("HTTP/1.1 200")
            assert "Transfer-Encoding: chunked" in head
            await until(lambda: agent.followers.level == logging.WARNING)
            log.info("agent: too fine")
            log.warning("agent: one: key=%s", "value")
            log.error("agent: two")
            told = [await anext(lines), await anext(lines)]
            assert told[0].endswith("[WARN]  agent: one: key=value")
            assert told[1].endswith("[ERROR] agent: two")

    run(work())


def test_lines_come_as_json_when_asked() -> None:
    async def work() -> None:
        async with operated() as (http, agent, _):
            head, lines = await monitor(http, "?logjson&loglevel=debug")
            assert "application/json" in head
            await until(lambda: agent.followers.level == logging.DEBUG)
            log.debug("agent: fine")
            # The server's own lines of this level come too.
            async for line in lines:
                told = json.loads(line)
                if told["@message"] == "agent: fine":
                    assert (told["@level"], told["@module"]) == ("debug", "agent")
                    return

    run(work())


@pytest.mark.parametrize("level", ["loud", "1", "info%0A", "x" * 500])
def test_an_unknown_level_is_refused(level: str) -> None:
    async def work() -> None:
        async with operated() as (http, _, _):
            reply = await http.ask("GET", f"/v1/agent/monitor?loglevel={level}")
            assert reply.status == 400
            assert reply.text.startswith("Unknown log level: ")
            assert len(reply.text) < 100

    run(work())


def test_a_reader_that_goes_away_is_forgotten_and_the_log_is_as_fine_as_before() -> None:
    async def work() -> None:
        async with operated("WARN") as (http, agent, _):
            await monitor(http, "?loglevel=trace")
            await until(lambda: agent.followers.level < logging.DEBUG)
            assert log.isEnabledFor(logging.DEBUG)
            await http.opened[-1].close()
            await until(lambda: agent.followers.level > logging.CRITICAL)
            assert not log.isEnabledFor(logging.INFO)
            set_level("INFO")
            assert log.isEnabledFor(logging.INFO)

    run(work())


def test_a_slow_reader_is_told_how_many_lines_it_missed() -> None:
    async def work() -> None:
        async with operated() as (http, agent, _):
            _, lines = await monitor(http)
            await until(lambda: agent.followers.level == logging.INFO)
            many = operations.QUEUED_LINES + 100
            for number in range(many):  # the loop does not turn meanwhile
                log.info("agent: line %d", number)
            first = await anext(lines)
            assert first.endswith("agent: monitor reads too slowly: dropped=100 lines before this one")
            assert (await anext(lines)).endswith("agent: line 100")
            for _ in range(operations.QUEUED_LINES - 2):
                await anext(lines)
            assert (await anext(lines)).endswith(f"agent: line {many - 1}")

    run(work())


def test_lines_of_other_threads_come_too() -> None:
    async def work() -> None:
        async with operated() as (http, agent, _):
            _, lines = await monitor(http)
            await until(lambda: agent.followers.level == logging.INFO)
            thread = threading.Thread(target=lambda: log.info("agent: from a thread"))
            thread.start()
            assert (await anext(lines)).endswith("agent: from a thread")
            thread.join()

    run(work())


def test_there_may_only_be_so_many_monitors() -> None:
    async def work() -> None:
        async with operated() as (http, _, _):
            for _ in range(operations.MAX_FOLLOWERS):
                await monitor(http)
            reply = await http.ask("GET", "/v1/agent/monitor")
            assert reply.status == 503
            assert "16 monitors" in reply.text

    run(work())


def test_leave_and_reload_are_done_and_answer_nothing() -> None:
    async def work() -> None:
        async with operated() as (http, agent, _):
            for path in ("leave", "reload"):
                reply = await http.ask("PUT", f"/v1/agent/{path}")
                assert (reply.status, reply.body) == (200, b"")
                assert (await http.ask("GET", f"/v1/agent/{path}")).status == 405
            assert (agent.left, agent.reloaded) == (1, 1)

    run(work())


def test_what_fails_is_told_with_status_500() -> None:
    async def work() -> None:
        async with operated() as (http, agent, _):
            agent.failure = BadRequest("a.json: data_dir: is missing")
            reply = await http.ask("PUT", "/v1/agent/reload")
            assert (reply.status, reply.text) == (500, "a.json: data_dir: is missing")
            agent.failure = Unavailable("the servers cannot be told")
            reply = await http.ask("PUT", "/v1/agent/leave")
            assert (reply.status, reply.text) == (500, "the servers cannot be told")

    run(work())


def test_why_answers_in_json() -> None:
    async def work() -> None:
        async with operated() as (http, _, servers):
            await servers.apply(Register(Node("n1", "10.0.0.1"), (Service("a b", "a/b c", port=80),)))
            told = (await http.ask("GET", "/v1/gemot/why/service/a%2Fb%20c")).json
            assert (told["Service"], told["Exists"]) == ("a/b c", True)
            assert told["Instances"][0]["InDNS"] is True
            assert told["Explanation"][0] == "a b on n1 (10.0.0.1:80) is in the answers: it has no checks"
            assert (await http.ask("GET", "/v1/gemot/why/service/x")).json["Exists"] is False
            missing = await http.ask("GET", "/v1/gemot/why/service/")
            assert (missing.status, missing.text) == (400, "Missing service name")
            assert (await http.ask("GET", "/v1/gemot/why/template")).json == []
            assert "\n    " in (await http.ask("GET", "/v1/gemot/why/service/x?pretty")).text

    run(work())
