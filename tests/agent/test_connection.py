"""One connection to an agent that is kept from request to request, and what may happen to it in between."""

from __future__ import annotations

import contextlib
import select
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from gemot.agent.client.agents import Agents
from gemot.agent.client.aio.agents import Agents as TaskAgents
from gemot.agent.client.connection import ClientError, Connection
from gemot.agent.client.kv import Kv
from gemot.agent.client.stream import Stream

PATIENCE_S = 30.0
"""Bound of every wait: only a hang reaches it."""

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntrue"


class Answering:
    """Takes one connection after another, and answers the first request of each, none that comes after it."""

    def __init__(self, address: str) -> None:
        self.asked: list[bytes] = []
        self.instead: Callable[[], object] | None = None
        """Done once, and no answer given."""
        self.accepted: list[socket.socket] = []
        if address.startswith("/"):
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(address)
            self._listener.listen()
            self.address = f"unix://{address}"
        else:
            self._listener = socket.create_server((address, 0))
            self.address = f"{address}:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self.accepted.append(self._listener.accept()[0])
                self.asked.append(self.accepted[-1].recv(1 << 16).split(b" HTTP/")[0])
                instead, self.instead = self.instead, None
                if instead is not None:
                    instead()
                    continue
                with contextlib.suppress(OSError):  # who closed it asked nothing
                    self.accepted[-1].sendall(ANSWER)

    def __enter__(self) -> Answering:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(PATIENCE_S)
        for each in (self._listener, *self.accepted):
            each.close()


@pytest.fixture(params=["inet", "unix"])
def agent(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Answering]:
    with Answering("127.0.0.1" if request.param == "inet" else str(tmp_path / "socket")) as agent:
        yield agent


def await_news(connection: Connection) -> None:
    """Until what the agent did to the connection has arrived here."""
    assert connection._http is not None
    assert select.select([connection._http.sock], [], [], PATIENCE_S)[0]


@pytest.mark.parametrize("method", ["PUT", "DELETE", "GET"])
@pytest.mark.parametrize("how", ["closed", "stray bytes"])
def test_a_connection_that_ended_while_it_was_idle_is_dialled_anew(
    agent: Answering, method: str, how: str
) -> None:
    """An agent closes those that were idle for five minutes, and all of them where it is restarted."""
    with closing(Connection(agent.address, timeout_s=PATIENCE_S)) as connection:
        assert Kv(connection).put("a", b"1")
        if how == "closed":
            agent.accepted[0].close()
        else:
            agent.accepted[0].sendall(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
        await_news(connection)
        assert connection.request(method, "/v1/kv/a").json() is True
    assert agent.asked == [b"PUT /v1/kv/a", f"{method} /v1/kv/a".encode()]


@pytest.mark.parametrize("method", ["PUT", "GET"])
def test_after_a_request_that_a_signal_interrupted_the_next_one_is_sent(
    agent: Answering, method: str
) -> None:
    """Over a connection of its own: the answer to the first may still come over the other."""
    interrupted = threading.Event()

    def interrupt(*_: object) -> None:
        if not interrupted.is_set():
            interrupted.set()
            raise KeyboardInterrupt

    def send_signals() -> None:
        """More than one: that which comes in the moment before it waits is seen only with the next."""
        while not interrupted.wait(0.05):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    agent.instead = send_signals
    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with closing(Connection(agent.address, timeout_s=PATIENCE_S)) as connection:
            with pytest.raises(KeyboardInterrupt):
                connection.request(method, "/v1/kv/a")
            assert Kv(connection).put("b", b"1")
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert agent.asked == [f"{method} /v1/kv/a".encode(), b"PUT /v1/kv/b"]


@pytest.mark.parametrize("form", [Connection, Agents, TaskAgents])
@pytest.mark.parametrize(
    "token", ["s3cr3t\n", "s3cr3t\n more", "s3cr3t\r\nb", "s3cr3t\0", "s3cr3té", "s3cr3t€"]
)
def test_a_token_that_no_header_carries_is_refused_at_once_and_not_told(
    form: Callable[..., object], token: str
) -> None:
    with pytest.raises(
        ClientError, match=r"cannot be sent as the header X-Consul-Token: character 7 "
    ) as refused:
        form("127.0.0.1:1", token=token)
    assert "s3cr3t" not in str(refused.value)


def test_a_header_that_cannot_be_sent_is_neither_told_nor_tried_again(agent: Answering) -> None:
    """The place comes from a file that somebody may have edited."""

    def never(delay_s: float) -> None:
        raise AssertionError("it is tried again")

    with closing(Connection(agent.address)) as connection:
        with pytest.raises(ClientError, match="cannot be sent") as refused:
            connection.request("PUT", "/v1/kv/a", headers={"X-Own": "s3cr3t\n"})
        assert "s3cr3t" not in str(refused.value)
        assert Kv(connection).put("a", b"1")
    with closing(Agents(agent.address)) as agents:
        with pytest.raises(ClientError, match="cannot be sent") as refused:
            next(Stream(agents, {"key": "a"}, place="s3cr3t\n", sleep=never))
        assert "s3cr3t" not in str(refused.value)
