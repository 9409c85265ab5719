"""Ports for what a test starts later: nobody takes them meanwhile.

A port that the system gave and that was let go is given again, to whoever asks for any or connects from one;
so these are below those that it gives. Of each port nobody listens on it, neither by TCP nor by UDP.
"""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack
from pathlib import Path

LOWEST = 10_000

_given: set[int] = set()
_chance = random.SystemRandom()  # not that of tests, which may begin with the same seed in two processes


def free_port(host: str = "127.0.0.1") -> int:
    """One that this process has not had before."""
    highest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert highest > LOWEST + 1_000, "the system gives nearly all ports to whoever asks for any"
    for _ in range(1_000):
        port = _chance.randrange(LOWEST, highest)
        if port not in _given and _is_free(host, port):
            _given.add(port)
            return port
    raise AssertionError("no free port")


def _is_free(host: str, port: int) -> bool:
    with ExitStack() as stack:
        try:
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                stack.enter_context(socket.socket(type=kind)).bind((host, port))
        except OSError:
            return False
    return True
