"""The proxies between servers: each direction by itself, nothing lost by a cut that heals, ends passed on."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest
from support.link_proxy import Links

SHORT_S = 0.2
"""How long it is watched that nothing comes; what is cut can never come, so it cannot be too short."""

LONG_S = 20.0


class Pair:
    """A connection from a to b through the proxy: both its ends."""

    def __init__(self) -> None:
        self.listening = {name: socket.create_server((host, 0)) for name, host in HOSTS.items()}
        self.links = Links({name: sock.getsockname()[:2] for name, sock in self.listening.items()})
        self.links.start()
        host, port = self.listening["b"].getsockname()[:2]
        self.near = socket.create_connection(self.links.routes["a"][f"{host}:{port}"], LONG_S)
        self.listening["b"].settimeout(LONG_S)
        self.far, _ = self.listening["b"].accept()
        self.near.settimeout(LONG_S)
        self.far.settimeout(LONG_S)

    def close(self) -> None:
        self.links.stop()
        for sock in (self.near, self.far, *self.listening.values()):
            sock.close()


HOSTS = {"a": "127.0.0.1", "b": "127.0.0.2"}


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    try:
        yield pair
    finally:
        pair.close()


def _silent(sock: socket.socket) -> bool:
    sock.settimeout(SHORT_S)
    try:
        return not sock.recv(1)
    except TimeoutError:
        return True
    finally:
        sock.settimeout(LONG_S)


def _ended(sock: socket.socket) -> bool:
    """It is over, kindly or not."""
    try:
        return not sock.recv(1)
    except ConnectionError:
        return True


def _reaches(there: socket.socket, here: socket.socket) -> None:
    """Wait until a change is in force: what was said after it is answered after it."""
    here.sendall(b"?")
    assert there.recv(1) == b"?"


def test_bytes_pass_both_ways(pair: Pair) -> None:
    pair.near.sendall(b"to b")
    assert pair.far.recv(10) == b"to b"
    pair.far.sendall(b"to a")
    assert pair.near.recv(10) == b"to a"


def test_one_direction_is_cut_and_the_other_is_not(pair: Pair) -> None:
    pair.links.set(cut=[("a", "b")])
    _reaches(pair.near, pair.far)
    pair.near.sendall(b"held")
    assert _silent(pair.far)
    pair.far.sendall(b"to a")
    assert pair.near.recv(10) == b"to a"
    pair.links.set()
    assert pair.far.recv(10) == b"held", "late, and not lost"


def test_the_answers_can_be_cut_alone(pair: Pair) -> None:
    pair.links.set(cut=[("b", "a")])
    _reaches(pair.far, pair.near)
    pair.far.sendall(b"held")
    assert _silent(pair.near)
    pair.links.set()
    assert pair.near.recv(10) == b"held"


def test_a_slow_link_is_late_by_what_it_was_told(pair: Pair) -> None:
    pair.links.set(delay_s={("a", "b"): 0.3})
    _reaches(pair.near, pair.far)
    began = time.monotonic()
    pair.near.sendall(b"slow")
    assert pair.far.recv(10) == b"slow"
    assert time.monotonic() - began >= 0.3


def test_a_refused_link_breaks_what_there_is_and_what_is_dialled_anew(pair: Pair) -> None:
    pair.links.set(refused=[("a", "b")])
    assert _ended(pair.near)
    assert _ended(pair.far)
    host, port = pair.listening["b"].getsockname()[:2]
    with socket.create_connection(pair.links.routes["a"][f"{host}:{port}"], LONG_S) as again:
        assert _ended(again)
    pair.links.set()
    with socket.create_connection(pair.links.routes["a"][f"{host}:{port}"], LONG_S) as again:
        far, _ = pair.listening["b"].accept()
        _reaches(far, again)
        far.close()


def test_a_reset_breaks_connections_once(pair: Pair) -> None:
    pair.links.reset()
    assert _ended(pair.near)
    assert _ended(pair.far)
    host, port = pair.listening["b"].getsockname()[:2]
    with socket.create_connection(pair.links.routes["a"][f"{host}:{port}"], LONG_S) as again:
        far, _ = pair.listening["b"].accept()
        _reaches(far, again)
        far.close()


def test_an_end_that_closes_closes_the_other(pair: Pair) -> None:
    pair.far.close()
    assert pair.near.recv(1) == b""
