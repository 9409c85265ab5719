"""The wire to one agent, as a host in between: what comes for its gossip port is passed on, and kept.

An agent that advertises this host's address is reached through it by all others, by datagram and by TCP. Of
each kind the newest are kept, for whoever shows them to somebody again. It runs in threads of its own.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import deque

from gemot.agent.gossip.stream import LENGTH_BYTES

KEPT = 2_000
LOOK_S = 0.5
ANSWER_S = 10.0

Address = tuple[str, int]


class Wire:
    """From `near`, where it listens, to `far`, where the agent does. What is kept has been passed on."""

    def __init__(self, near: Address, far: Address) -> None:
        self.datagrams: deque[bytes] = deque(maxlen=KEPT)
        """To the agent."""

        self.answers: deque[bytes] = deque(maxlen=KEPT)
        """Of the agent, to whoever had sent it some."""

        self.questions: deque[bytes] = deque(maxlen=KEPT)
        """What others sent on connections and the agent answered, each with its greeting."""

        self._near = near
        self._far = far
        self._socket = socket.socket(type=socket.SOCK_DGRAM)
        self._listener = socket.socket()
        self._ways: dict[Address, socket.socket] = {}
        self._threads: list[threading.Thread] = []
        self._stopped = False

    def start(self) -> None:
        """Raises OSError when the address is in use."""
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for each in (self._socket, self._listener):
            each.settimeout(LOOK_S)
            each.bind(self._near)
        self._listener.listen()
        for work in (self._pass_datagrams, self._pass_connections):
            self._run(threading.Thread(target=work))

    def stop(self) -> None:
        self._stopped = True
        for thread in self._threads:
            thread.join()
        for each in (self._socket, self._listener, *self._ways.values()):
            each.close()

    def _run(self, thread: threading.Thread) -> None:
        self._threads.append(thread)
        thread.start()

    # -- datagrams -------------------------------------------------------------------------------------

    def _pass_datagrams(self) -> None:
        while not self._stopped:
            with contextlib.suppress(OSError):
                data, source = self._socket.recvfrom(65_536)
                self._way_of(source).send(data)
                self.datagrams.append(data)

    def _way_of(self, source: Address) -> socket.socket:
        """A place of its own for each sender, where the agent answers it."""
        if (way := self._ways.get(source)) is None:
            way = self._ways[source] = socket.socket(type=socket.SOCK_DGRAM)
            way.settimeout(LOOK_S)
            way.bind((self._near[0], 0))
            way.connect(self._far)
            self._run(threading.Thread(target=self._pass_answers, args=(way, source)))
        return way

    def _pass_answers(self, way: socket.socket, source: Address) -> None:
        while not self._stopped:
            with contextlib.suppress(OSError):
                data = way.recv(65_536)
                self._socket.sendto(data, source)
                self.answers.append(data)

    # -- connections -----------------------------------------------------------------------------------

    def _pass_connections(self) -> None:
        """One after the other: each is a question and its answer."""
        while not self._stopped:
            with contextlib.suppress(OSError):
                asker, _ = self._listener.accept()
                with asker, socket.create_connection(self._far, ANSWER_S, (self._near[0], 0)) as far:
                    asker.settimeout(ANSWER_S)
                    question = _one_question(asker)
                    far.sendall(question)
                    if answer := _all_of(far):
                        self.questions.append(question)
                        asker.sendall(answer)


def _one_question(asker: socket.socket) -> bytes:
    """Greeting, length, and so many bytes; less if it breaks off."""
    head = asker.recv(1 + LENGTH_BYTES, socket.MSG_WAITALL)
    return head + asker.recv(int.from_bytes(head[1:], "big"), socket.MSG_WAITALL)


def _all_of(far: socket.socket) -> bytes:
    pieces = []
    while piece := far.recv(64 << 10):
        pieces.append(piece)
    return b"".join(pieces)
