"""The probe that connects: passing when a TCP connection (and with TLS a handshake) comes about."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl

from gemot.checks.definition import CheckDefinition
from gemot.checks.probes.guard import refusal
from gemot.checks.probes.resolver import AddrInfo, Resolver
from gemot.checks.probes.tls import context
from gemot.checks.status import Outcome

DEFAULT_TIMEOUT_S = 10.0


async def probe(definition: CheckDefinition, resolver: Resolver) -> Outcome:
    """Connect once and hang up. Never raises but for cancellation."""
    label = "TCP+TLS" if definition.tcp_use_tls else "TCP"
    timeout_s = definition.timeout_s or DEFAULT_TIMEOUT_S
    deadline = asyncio.get_running_loop().time() + timeout_s
    try:
        host, port = split_address(definition.tcp)
        found = await resolver.addresses(host, port, timeout_s)
        async with asyncio.timeout_at(deadline):
            await _connect(definition, host, found)
    except TimeoutError:
        return Outcome("critical", f"dial tcp {definition.tcp}: timed out after {timeout_s:g}s")
    except (OSError, ValueError) as error:
        return Outcome("critical", f"dial tcp {definition.tcp}: {reason(error)}")
    return Outcome("passing", f"{label} connect {definition.tcp}: Success")


def reason(error: Exception) -> str:
    """What went wrong, in the system's words when it has some."""
    if isinstance(error, ssl.SSLError) or not isinstance(error, OSError):
        return str(error)
    if not error.errno:
        return error.strerror or str(error)
    return f"connect: {os.strerror(error.errno).lower()}"


async def _connect(definition: CheckDefinition, host: str, found: list[AddrInfo]) -> None:
    loop = asyncio.get_running_loop()
    last: OSError = OSError("the name has no address")
    for family, kind, protocol, _, address in found:
        denied = refusal(str(address[0]), from_config=definition.from_config)
        if denied:
            raise ValueError(denied)
        with socket.socket(family, kind, protocol) as sock:
            sock.setblocking(False)
            try:
                await loop.sock_connect(sock, address)
            except OSError as error:
                last = error
                continue
            if definition.tcp_use_tls:
                await _shake_hands(definition, host, sock.dup())
            return
    raise last


async def _shake_hands(definition: CheckDefinition, host: str, sock: socket.socket) -> None:
    verify = not definition.tls_skip_verify
    _, writer = await asyncio.open_connection(
        sock=sock, ssl=context(verify=verify), server_hostname=definition.tls_server_name or host
    )
    writer.transport.abort()


def split_address(text: str) -> tuple[str, int]:
    """Host and port of "host:port" or "[v6]:port". Raises ValueError."""
    host, colon, port = text.rpartition(":")
    if not colon or not host:
        raise ValueError(f"{text!r} wants a host and a port, such as 127.0.0.1:80")
    if not port.isascii() or not port.isdigit() or not 0 < int(port[:6]) < 65536:
        raise ValueError(f"{port!r} is not a port from 1 to 65535")
    if host.startswith("[") and host.endswith("]"):
        return host[1:-1], int(port)
    if ":" in host:
        raise ValueError(f"{text!r} wants brackets around an IPv6 address, such as [::1]:80")
    return host, int(port)
