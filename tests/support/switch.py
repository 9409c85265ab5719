"""A network switch as a process: frames between the hosts of `hosts.py`, lost and late as it is told.

`switch.py NUMBER=FD ...`: each host's only cable ends in one of these tap devices. Orders come on stdin, one
a line, and each is answered by a line once it holds:

    cut 7            the cable of host 7 is pulled: no carrier, and nothing passes
    join 7           it is plugged in again
    mute 7 8301      nothing of this port, TCP or UDP, passes to or from host 7
    unmute 7         it does again
    weather 0.05 20  of all frames 5 % are lost, and the rest takes 20 ms longer

What `tc netem` does, for kernels that are built without it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import selectors
import struct
import sys
import time
from collections import deque

TUNSETCARRIER = 0x400454E2
FRAME_BYTES = 2_048
AT_A_TIME = 64


def mac(number: int) -> str:
    """A host's hardware address: its number stands in the last byte, so nothing has to be learned."""
    return f"02:00:00:00:00:{number:02x}"


def ports_of(frame: bytes) -> set[int]:
    """Both ports of a TCP segment or a UDP datagram over IPv4; none of anything else or a later fragment."""
    if frame[12:14] != b"\x08\x00" or frame[23] not in (6, 17) or int.from_bytes(frame[20:22]) & 0x1FFF:
        return set()
    at = 14 + (frame[14] & 0x0F) * 4
    return {int.from_bytes(frame[at : at + 2]), int.from_bytes(frame[at + 2 : at + 4])}


class Switch:
    def __init__(self, cables: dict[int, int]) -> None:
        self._cables = cables
        self._cut: set[int] = set()
        self._muted: dict[int, int] = {}
        self._loss = self._delay_s = 0.0
        self._late: deque[tuple[float, int, bytes]] = deque()
        """Each as late as all others: so they leave in the order in which they came."""

        self._selector = selectors.DefaultSelector()
        self._selector.register(0, selectors.EVENT_READ, 0)
        for number, fd in cables.items():
            os.set_blocking(fd, False)
            self._selector.register(fd, selectors.EVENT_READ, number)

    def run(self) -> None:
        """Until stdin ends."""
        while True:
            wait_s = max(0.0, self._late[0][0] - time.monotonic()) if self._late else None
            for key, _ in self._selector.select(wait_s):
                if key.data:
                    self._take(key.data)
                elif not self._obey(sys.stdin.readline().split()):
                    return
            while self._late and self._late[0][0] <= time.monotonic():
                _, to, frame = self._late.popleft()
                self._deliver(to, frame)

    def _obey(self, order: list[str]) -> bool:
        match order:
            case ["cut", number]:
                self._cut.add(int(number))
                self._carrier(int(number), on=False)
            case ["join", number]:
                self._cut.discard(int(number))
                self._carrier(int(number), on=True)
            case ["mute", number, port]:
                self._muted[int(number)] = int(port)
            case ["unmute", number]:
                self._muted.pop(int(number), None)
            case ["weather", loss, delay_ms]:
                self._loss, self._delay_s = float(loss), float(delay_ms) / 1000
            case _:
                return False
        print("done", flush=True)
        return True

    def _carrier(self, number: int, *, on: bool) -> None:
        fcntl.ioctl(self._cables[number], TUNSETCARRIER, struct.pack("i", on))

    def _take(self, number: int) -> None:
        for _ in range(AT_A_TIME):
            try:
                frame = os.read(self._cables[number], FRAME_BYTES)
            except BlockingIOError:
                return
            if number not in self._cut:
                self._forward(number, frame)

    def _forward(self, number: int, frame: bytes) -> None:
        everyone = frame[0] & 1
        for to in self._cables if everyone else (frame[5],):
            if to == number or to not in self._cables or random.random() < self._loss:
                continue
            if self._muted and {self._muted.get(number, 0), self._muted.get(to, 0)} & ports_of(frame):
                continue
            if self._delay_s:
                self._late.append((time.monotonic() + self._delay_s, to, frame))
            else:
                self._deliver(to, frame)

    def _deliver(self, to: int, frame: bytes) -> None:
        if to not in self._cut:
            with contextlib.suppress(OSError):  # its queue is full: lost, as on any switch
                os.write(self._cables[to], frame)


if __name__ == "__main__":
    Switch({int(number): int(fd) for number, fd in (each.split("=") for each in sys.argv[1:])}).run()
