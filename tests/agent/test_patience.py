"""An agent that takes connections and never answers: whoever has so much time waits no day for it."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from gemot.agent.client.agents import Agents as ThreadAgents
from gemot.agent.client.aio.agents import Agents
from gemot.agent.client.aio.hold import Hold
from gemot.agent.client.connection import ConnectionBroke
from gemot.agent.client.hold import Hold as ThreadHold
from gemot.agent.client.lock import Lock
from gemot.agent.client.recipe import LATE_S, Ask
from gemot.agent.client.session import Session as ThreadSession

DAY_S = 86_400.0
PATIENCE_S = 60.0
"""Bound of every wait: only a hang reaches it."""

LEFT_S = 2.0
"""Within it the agent is asked the few things that it answers."""


class Mute(http.server.ThreadingHTTPServer):
    """Answers as an agent without keys does, but for the requests that begin with `silent_at`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.address = f"127.0.0.1:{self.server_port}"
        self.silent_at = ""
        self.asked: list[str] = []
        self.hung = False
        self.over = threading.Event()


class _Answers(http.server.BaseHTTPRequestHandler):
    server: Mute
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        asked = f"{self.command} {self.path}"
        self.server.asked.append(asked)
        if asked.startswith(self.server.silent_at):
            self.server.hung = not self.server.over.wait(PATIENCE_S)
            self.close_connection = True
            return
        body = b'{"ID": "one"}' if "/session/create" in asked else b"true"
        with contextlib.suppress(OSError):
            self.send_response(404 if self.command == "GET" else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    do_PUT = do_DELETE = do_GET

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def mute() -> Iterator[Mute]:
    with Mute() as mute:
        thread = threading.Thread(target=mute.serve_forever)
        thread.start()
        try:
            yield mute
        finally:
            mute.over.set()
            mute.shutdown()
            thread.join(PATIENCE_S)


def acquired_by_thread(address: str) -> int | None:
    with closing(ThreadAgents(address)) as agents:
        return ThreadHold(agents, Lock("a"), ttl_s=DAY_S).acquire(LEFT_S)


def acquired_by_task(address: str) -> int | None:
    async def main() -> int | None:
        async with Agents(address) as agents:
            return await Hold(agents, Lock("a"), ttl_s=DAY_S).acquire(LEFT_S)

    return asyncio.run(main())


def session_by_thread(address: str) -> None:
    with closing(ThreadAgents(address)) as agents:
        ThreadSession(agents, ttl_s=DAY_S).begin(LEFT_S)


@pytest.mark.parametrize("form", [session_by_thread, acquired_by_thread, acquired_by_task])
def test_a_session_is_not_waited_for_beyond_the_time_that_is_left(
    mute: Mute, form: Callable[[str], object]
) -> None:
    mute.silent_at = "PUT /v1/session/create"
    with pytest.raises(ConnectionBroke, match="Outcome unknown"):
        form(mute.address)
    assert mute.asked == ["PUT /v1/session/create"]
    assert not mute.hung


@pytest.mark.parametrize("form", [acquired_by_thread, acquired_by_task])
def test_an_acquisition_is_not_waited_for_beyond_the_time_and_is_given_back(
    mute: Mute, form: Callable[[str], int | None]
) -> None:
    """It may be done, so its session is destroyed."""
    mute.silent_at = "PUT /v1/kv/"
    assert form(mute.address) is None
    *_, asked, then = mute.asked
    assert asked.startswith(mute.silent_at)
    assert then == "PUT /v1/session/destroy/one"
    assert not mute.hung


@pytest.mark.parametrize("ask", [Ask("PUT", "a"), Ask("GET", "a"), Ask("GET", "a", after=7)], ids=str)
def test_no_answer_is_waited_for_much_longer_than_the_time_that_is_left(ask: Ask) -> None:
    assert ask.sent(DAY_S, 1.5)["timeout_s"] == 1.5 + LATE_S
    assert ask.sent(DAY_S, DAY_S) == ask.sent(DAY_S)
