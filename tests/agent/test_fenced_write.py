"""A write under a fence is sent to those alone that know fences; the question is asked once of an address."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from support.dev_agent import await_sessions, dev_agent

from gemot.agent.client.agents import Agents
from gemot.agent.client.connection import CannotConnect, Connection, NoFences, Refused
from gemot.agent.client.hold import Hold
from gemot.agent.client.kv import Kv
from gemot.agent.client.lock import Lock

Answer = tuple[int, bytes, dict[str, str]]


@contextmanager
def answering(answer: Callable[[str, str], Answer]) -> Iterator[tuple[str, list[str]]]:
    """A server of this behaviour; where it is, and what it was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            asked.append(f"{self.command} {self.path}")
            status, body, headers = answer(self.command, self.path)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_DELETE = handle_one

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever, daemon=True)
        serving.start()
        try:
            yield f"127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            serving.join(30)


@pytest.mark.parametrize(
    "check",
    [(404, b""), (405, b""), (301, b""), (200, b"<html>"), (200, b"[]"), (200, b"7"), (409, b"true")],
    ids=str,
)
@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_what_knows_no_fences_is_sent_no_fenced_write(check: tuple[int, bytes], method: str) -> None:
    """As Consul: it takes writes with any parameter, and does not know the path of the question."""

    def answer(asked: str, path: str) -> Answer:
        return (200, b"true", {}) if path.startswith("/v1/kv/") else (*check, {})

    with answering(answer) as (address, asked), closing(Connection(address)) as connection:
        kv = Kv(connection)
        for _ in range(2):
            with pytest.raises(NoFences, match=f"was not sent: {address} does not know fences"):
                kv.delete("k", lock="l", fence=7) if method == "DELETE" else kv.put(
                    "k", b"", lock="l", fence=7
                )
        assert [each for each in asked if not each.startswith("GET /v1/gemot/fence/check?")] == []
        assert kv.put("k", b"", acquire="s"), "other writes go on"


@pytest.mark.parametrize("status", [400, 403, 429, 500, 503])
def test_an_error_of_the_question_is_told_and_nothing_sent(status: int) -> None:
    def answer(asked: str, path: str) -> Answer:
        return (200, b"true", {}) if path.startswith("/v1/kv/") else (status, b"no", {})

    with answering(answer) as (address, asked), closing(Connection(address)) as connection:
        with pytest.raises(Refused, match="no"):
            Kv(connection).put("k", b"", lock="l", fence=7)
        assert [each[:3] for each in asked] == ["GET"]


def test_a_write_whose_fence_was_not_looked_at_is_told() -> None:
    """Another answers at the address by then."""

    def answer(asked: str, path: str) -> Answer:
        return (200, b"true" if asked == "PUT" else b'{"Held": true}', {})

    with answering(answer) as (address, asked), closing(Connection(address)) as connection:
        for _ in range(2):
            with pytest.raises(NoFences, match="the write was done, and"):
                Kv(connection).put("k", b"", lock="l", fence=7)
        assert [each[:3] for each in asked] == ["GET", "PUT"] * 2, "it is asked again"


def test_an_agent_is_asked_once_and_each_address_by_itself(tmp_path_factory: pytest.TempPathFactory) -> None:
    questions: list[str] = []
    with dev_agent(tmp_path_factory.mktemp("agent")) as address, closing(Agents(address)) as agents:
        await_sessions(address)
        with Hold(agents, Lock("l")) as hold, closing(Connection(address)) as connection:
            request = connection.request

            def counted(method: str, path: str, **asked: object) -> object:
                questions.append(path)
                return request(method, path, **asked)  # type: ignore[arg-type]

            connection.request = counted  # type: ignore[method-assign, assignment]
            kv = Kv(connection)
            assert kv.put("k", b"1", lock=hold.guard, fence=hold.fence)
            assert not kv.put("k", b"1", lock=hold.guard, fence=hold.fence, cas=1)
            assert kv.delete("k", lock=hold.guard, fence=hold.fence)
            with pytest.raises(Refused, match="fence check"):
                kv.put("k", b"1", lock=hold.guard, fence=hold.fence + 1)
            assert questions.count("/v1/gemot/fence/check") == 1

            def answer(asked: str, path: str) -> Answer:
                return (200, b"true", {}) if path.startswith("/v1/kv/") else (404, b"", {})

            with answering(answer) as (other, asked), closing(Agents(["127.0.0.1:1", other])) as both:
                params = {"lock": hold.guard, "fence": hold.fence}
                with pytest.raises(NoFences):
                    both.request("PUT", "/v1/kv/k", params=params)
                assert [each[:3] for each in asked] == ["GET"]
        with closing(Agents("127.0.0.1:1")) as nobody, pytest.raises(CannotConnect):
            nobody.request("PUT", "/v1/kv/k", params={"lock": "l", "fence": 7})
