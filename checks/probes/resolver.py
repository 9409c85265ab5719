"""The addresses of whom a probe asks: those of a name, looked up in a thread, or the literal one given.

The system's lookup cannot be interrupted, and where no name server answers it takes half a minute: in the few
threads that all of the agent shares, names that hang would hold up everything else. So checks have threads of
their own, a name has one at most, whoever waits for it, and one that hangs leaves its turn to the next.
Nothing is kept: a name is looked up anew for each probe, as its address may change.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from gemot.checks.turns import Turns

AddrInfo = tuple[Any, ...]
"""As `socket.getaddrinfo` tells one."""

LookUp = Callable[[str], list[AddrInfo]]

MAX_WORKING = 64
MAX_HANGING = 192
"""Threads that look names up at the same time, some 50 KB each. None of them holds up the agent's end."""

HANGS_AFTER_S = 0.2

MAX_NAMES = 4096
"""Names that are looked up or wait for it, those included for which nobody waits any more."""


class Unresolved(OSError):
    """A name whose address is not known, and why, in words for the check's output."""


def look_up(name: str) -> list[AddrInfo]:
    return list(socket.getaddrinfo(name, None, type=socket.SOCK_STREAM))


class Resolver:
    """For one event loop. The probes of an agent share one."""

    def __init__(self, *, look_up: LookUp = look_up, turns: Turns | None = None) -> None:
        self._look_up = look_up
        self._turns = turns or Turns(working=MAX_WORKING, hanging=MAX_HANGING, hangs_after_s=HANGS_AFTER_S)
        self._under_way: dict[str, asyncio.Task[list[AddrInfo]]] = {}

    async def addresses(self, host: str, port: int, timeout_s: float) -> list[AddrInfo]:
        """One at least. Raises Unresolved; ValueError for what cannot be a name."""
        try:
            return list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST))
        except socket.gaierror:
            pass  # not an address, so a name
        lookup = self._under_way.get(host) or self._begin(host)
        await asyncio.wait((lookup,), timeout=timeout_s)
        if not lookup.done():
            raise Unresolved(f"could not resolve {host} within {timeout_s:g} s")
        try:
            found = lookup.result()
        except socket.gaierror as error:
            raise Unresolved(error.strerror or str(error)) from error
        return [(*info, (address[0], port, *address[2:])) for *info, address in found]

    def _begin(self, name: str) -> asyncio.Task[list[AddrInfo]]:
        if len(self._under_way) >= MAX_NAMES:
            raise Unresolved(f"could not resolve {name}: {MAX_NAMES} other names are being looked up")
        lookup = asyncio.create_task(self._in_turn(name), name=f"lookup of {name}")
        self._under_way[name] = lookup
        lookup.add_done_callback(lambda _: self._ended(name))
        return lookup

    def _ended(self, name: str) -> None:
        lookup = self._under_way.pop(name)
        if not lookup.cancelled():
            lookup.exception()  # perhaps nobody waited for it to the end

    async def _in_turn(self, name: str) -> list[AddrInfo]:
        async with self._turns.turn():
            found: Future[list[AddrInfo]] = Future()
            found.set_running_or_notify_cancel()
            threading.Thread(target=self._find, args=(name, found), name="lookup", daemon=True).start()
            return await asyncio.wrap_future(found)

    def _find(self, name: str, found: Future[list[AddrInfo]]) -> None:
        try:
            found.set_result(self._look_up(name))
        except Exception as error:
            found.set_exception(error)
