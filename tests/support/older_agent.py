"""An agent of a release before push watches: a real one, behind a relay that asks it for another path."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

NEW, UNKNOWN = b"/v1/gemot/watch", b"/v1/gemot/wotch"


@contextmanager
def older_agent(address: str) -> Iterator[str]:
    """The address of a relay to `address`, until the end."""
    relay = _Relay(address)
    relay.start()
    try:
        yield relay.address
    finally:
        relay.stop()


class _Relay:
    def __init__(self, to: str) -> None:
        host, _, port = to.rpartition(":")
        self._to = host, int(port)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = [self._listening]
        self._threads: list[threading.Thread] = []
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"

    def start(self) -> None:
        self._thread(self._accept)

    def stop(self) -> None:
        for each in self._open:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(20)
        for each in self._open:
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                caller, _ = self._listening.accept()
                self._open.append(caller)
                agent = socket.create_connection(self._to)
                self._open.append(agent)
                self._thread(self._pass_on, caller, agent)
                self._thread(self._pass_on, agent, caller)

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        """Requests of these tests come in one piece."""
        with suppress(OSError):
            while piece := source.recv(65536):
                target.sendall(piece.replace(NEW, UNKNOWN))
            target.shutdown(socket.SHUT_WR)

    def _thread(self, work: Callable[..., None], *given: socket.socket) -> None:
        thread = threading.Thread(target=work, args=given, daemon=True)
        self._threads.append(thread)
        thread.start()
