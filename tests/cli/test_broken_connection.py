"""An agent that dies while it is asked: a write's outcome is unknown, and is called so."""

from __future__ import annotations

import socket
import threading

import pytest

from gemot.agent.client.connection import Connection, ConnectionBroke, Refused


@pytest.mark.parametrize(("method", "unknown"), [("PUT", True), ("DELETE", True), ("GET", False)])
def test_a_write_whose_connection_breaks_is_called_unknown(method: str, unknown: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hear_and_hang_up() -> None:
            accepted, _ = listener.accept()
            with accepted:
                accepted.recv(65536)

        agent = threading.Thread(target=hear_and_hang_up)
        agent.start()
        connection = Connection(f"127.0.0.1:{listener.getsockname()[1]}", timeout_s=10)
        with pytest.raises(ConnectionBroke) as broke:
            connection.request(method, "/v1/kv/a", body=b"x" if method == "PUT" else None)
        agent.join()
    assert str(broke.value).startswith("Outcome unknown") is unknown


@pytest.mark.parametrize(("header", "undone"), [("X-Gemot-Outcome: not-done\r\n", True), ("", False)])
def test_a_refused_write_tells_its_caller_whether_it_was_surely_not_done(header: str, undone: bool) -> None:
    """As a field, not only in the words for people: programs that try again decide by it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hear_and_refuse() -> None:
            accepted, _ = listener.accept()
            with accepted:
                accepted.recv(65536)
                head = f"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n{header}\r\n"
                accepted.sendall(head.encode())

        agent = threading.Thread(target=hear_and_refuse)
        agent.start()
        connection = Connection(f"127.0.0.1:{listener.getsockname()[1]}", timeout_s=10)
        with pytest.raises(Refused) as refused:
            connection.request("PUT", "/v1/kv/a", body=b"x")
        agent.join()
        connection.close()
    assert refused.value.undone is undone
