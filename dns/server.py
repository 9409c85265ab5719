"""The DNS server: its sockets, from start to stop."""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from collections.abc import Callable, Sequence
from functools import partial

from gemot.dns.catalog import Catalog
from gemot.dns.config import DnsConfig
from gemot.dns.reply import Random
from gemot.dns.responder import Responder
from gemot.dns.tcp import TcpConnections, TcpLimits
from gemot.dns.udp import UdpEndpoint
from gemot.server.model.errors import BadRequest

Address = tuple[str, int]

REPORT_S = 1.0
"""Counts are handed on this often, so that answering a question costs no call for them."""

RECEIVE_BYTES = 1024 * 1024
"""Questions the kernel holds while the loop is busy; it grants what its own limit allows."""

_ANY_PORT_TRIES = 16


class DnsServer:
    """Answers on UDP and TCP of each address. For one event loop.

    `addresses` are (IP, port); port 0 takes a free one, the same for UDP and TCP. `count` is told each second
    of the messages since: (type, code, how many), such as ("SRV", "noerror", 812). The type is "other" for
    those never answered and "" where none could be read; the code is "dropped" where there was no reply.
    """

    def __init__(
        self,
        *,
        config: DnsConfig,
        catalog: Catalog,
        addresses: Sequence[Address],
        random: Random,
        count: Callable[[str, str, int], None] | None = None,
        limits: TcpLimits | None = None,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._responder = Responder(config=config, catalog=catalog, random=random, now_s=now_s)
        self._connections = TcpConnections(responder=self._responder, limits=limits or TcpLimits())
        self._wanted = tuple(addresses)
        self._count = count
        self._told: dict[tuple[str, str], int] = {}
        self._bound: list[Address] = []
        self._endpoints: list[UdpEndpoint] = []
        self._listeners: list[asyncio.Server] = []
        self._reporter: asyncio.TimerHandle | None = None

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Where it answers, with the true ports; empty before `start` and after `stop`."""
        return tuple(self._bound)

    def configure(self, config: DnsConfig) -> None:
        """Answer by other settings from now on (a reload). Addresses stay."""
        self._responder.configure(config)

    async def start(self) -> None:
        """Open all sockets. Raises BadRequest naming the one that cannot be had; then none is open."""
        try:
            for host, port in self._wanted:
                await self._open(host, port)
        except BaseException:
            await self.stop()
            raise
        if self._count is not None:
            self._report()

    async def stop(self) -> None:
        """Close all sockets; questions under way get no reply. Stopping twice is harmless."""
        if self._reporter is not None:
            self._reporter.cancel()
            self._reporter = None
            self._tell()
        for endpoint in self._endpoints:
            endpoint.close()
        for listener in self._listeners:
            listener.close()
        self._connections.close()
        for listener in self._listeners:
            await listener.wait_closed()
        self._endpoints.clear()
        self._listeners.clear()
        self._bound.clear()

    async def _open(self, host: str, port: int) -> None:
        for tries_left in range(_ANY_PORT_TRIES if port == 0 else 1, 0, -1):
            try:
                return await self._open_both(host, port)
            except OSError as error:
                if port == 0 and error.errno == errno.EADDRINUSE and tries_left > 1:
                    continue  # the port that TCP was given is taken on UDP
                raise BadRequest(_explain(host, port, error)) from error

    async def _open_both(self, host: str, port: int) -> None:
        loop = asyncio.get_running_loop()
        listener = await loop.create_server(self._connections.make, host, port)
        try:
            bound = int(listener.sockets[0].getsockname()[1])
            make = partial(UdpEndpoint, self._responder)
            _, endpoint = await loop.create_datagram_endpoint(make, sock=_bind_udp(host, bound))
        except BaseException:
            listener.close()
            await listener.wait_closed()
            raise
        self._listeners.append(listener)
        self._endpoints.append(endpoint)
        self._bound.append((host, bound))

    def _report(self) -> None:
        self._tell()
        self._reporter = asyncio.get_running_loop().call_later(REPORT_S, self._report)

    def _tell(self) -> None:
        if self._count is None:
            return
        for label, total in self._responder.counts.items():
            since = total - self._told.get(label, 0)
            if since:
                self._told[label] = total
                self._count(*label, since)


def _bind_udp(host: str, port: int) -> socket.socket:
    """Bound by hand: uvloop's own error does not say whether the port is in use."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_DGRAM)
    try:
        opened.setblocking(False)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        opened.bind((host, port))
    except BaseException:
        opened.close()
        raise
    return opened


def _explain(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"DNS cannot listen on {host}:{port}: port {port} is in use by another program. Stop that "
            "program, or give ports.dns another number (-1 turns DNS off)."
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return (
            f"DNS cannot listen on {host}:{port}: no permission for port {port}. Ports below 1024 need "
            "CAP_NET_BIND_SERVICE; grant it, or give ports.dns a number of 1024 or more."
        )
    reason = error.strerror or str(error)
    return f"DNS cannot listen on {host}:{port}: {reason}. Set addresses.dns to an address of this host."
