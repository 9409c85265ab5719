"""What answers a push watch as a test wants it: one script a connection, byte by byte, on a real socket."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
STAY = b"<stay>"
"""At the end of a script: the connection stays open, silent, until the test is over."""


def event(kind: str, data: str, id: str = "") -> bytes:
    head = f"id: {id}\n" if id else ""
    return f"event: {kind}\n{head}data: {data}\n\n".encode()


def snapshot(index: int, **items: int) -> bytes:
    told = ",".join(f'{{"Key":"{key}","Item":{item}}}' for key, item in items.items())
    return event("snapshot", f'{{"Index":{index},"Items":[{told}]}}', f"0-{index}")


def change(index: int, key: str, item: int) -> bytes:
    told = f'{{"Op":"set","Key":"{key}","Item":{item}}}'
    return event("change", f'{{"Index":{index},"Changes":[{told}]}}', f"0-{index}")


BROKEN = {
    "cut between events": (HEAD, "the agent ended it"),
    "cut in an event": (HEAD + change(9, "a", 9)[:-1], "the agent ended it"),
    "cut in a chunk": (
        HEAD.replace(b"Connection: close", b"Transfer-Encoding: chunked") + b"40\r\nevent: ch",
        "it was cut",
    ),
    "chunks of no size": (
        HEAD.replace(b"Connection: close", b"Transfer-Encoding: chunked") + b"zz\r\nevent: ch",
        "it was cut",
    ),
    "wrong JSON": (HEAD + event("change", '{"Index":9,"Changes":[', "0-9"), "not as an agent writes it"),
    "JSON of something else": (HEAD + event("snapshot", '{"Index":"9"}', "0-9"), "not as an agent writes it"),
    "bytes that are no text": (HEAD + change(9, "a", 9).replace(b'"a"', b'"\xff"'), "not as an agent writes"),
    "deep JSON": (HEAD + event("bookmark", "[" * 100_000, "0-9"), "not as an agent writes it"),
    "an op of its own": (HEAD + change(9, "a", 9).replace(b"set", b"sit"), "not as an agent writes it"),
    "an id that is none": (HEAD + change(9, "a", 9).replace(b"0-9", b"0-9 \tX: y"), "an agent's is like"),
    "an event without its id": (HEAD + event("bookmark", '{"Index":9}'), "an agent's is like 0-1234"),
    "a web page": (b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html>", "no event stream but"),
    "no HTTP": (b"SSH-2.0-OpenSSH_9.2\r\n", ""),
    "nothing": (b"", ""),
    "an endless status line": (b"HTTP/1.1 200 " + b"x" * 100_000, ""),
    "no leader": (b"HTTP/1.1 503 x\r\nContent-Length: 9\r\n\r\nNo leader", "No leader"),
    "too many": (b"HTTP/1.1 429 x\r\nContent-Length: 4\r\n\r\nBusy", "Busy"),
}
"""What may come instead of events, and what of it is told."""


class ScriptedAgent:
    """`asked` are the heads of the requests so far. After the last script nobody listens."""

    def __init__(self, scripts: Sequence[bytes]) -> None:
        self.asked: list[str] = []
        self._scripts = scripts
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._held: list[socket.socket] = []
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"

    def serve(self) -> None:
        for script in self._scripts:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return  # the test is over
            self._answer(connection, script)
        self._listening.close()

    def stop(self) -> None:
        try:
            self._listening.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._listening.close()

    def say(self, more: bytes) -> None:
        """To whoever stayed first."""
        self._held[0].sendall(more)

    def let_go(self) -> None:
        """Once nobody serves any more."""
        for each in self._held:
            each.close()

    def _answer(self, connection: socket.socket, script: bytes) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            if not (piece := connection.recv(65536)):
                connection.close()
                return  # it has hung up before it asked
            head += piece
        self.asked.append(head.decode("latin-1"))
        try:
            connection.sendall(script.removesuffix(STAY))
            if script.endswith(STAY):
                self._held.append(connection)
                return
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it has had enough
        connection.close()


@contextmanager
def scripted(*scripts: bytes) -> Iterator[ScriptedAgent]:
    agent = ScriptedAgent(scripts)
    serving = threading.Thread(target=agent.serve, daemon=True)
    serving.start()
    try:
        yield agent
    finally:
        agent.stop()
        serving.join(20)
        agent.let_go()
