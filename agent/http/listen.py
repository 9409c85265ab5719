"""Listening sockets, and clear words when one cannot be had."""

from __future__ import annotations

import errno
import os
import socket
import ssl
import stat

import msgspec
import psutil

BACKLOG = 1024
_EVERYWHERE = {"", "0.0.0.0", "::"}


class ListenFailed(Exception):
    """The address cannot be listened on; the message says which, and who holds it when that can be told."""


class Address(msgspec.Struct, frozen=True):
    """Where to listen: an IP address and a TCP port (0: any free one), or a Unix socket's path."""

    host: str = ""
    port: int = 0
    path: str = ""
    tls: ssl.SSLContext | None = None


def open_socket(address: Address) -> socket.socket:
    """A listening, non-blocking socket. Raises ListenFailed."""
    if address.path:
        return _open_unix(address.path)
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        opened.bind((address.host, address.port))
        opened.listen(BACKLOG)
    except OSError as error:
        opened.close()
        raise ListenFailed(explain(address, error)) from error
    opened.setblocking(False)
    return opened


def _open_unix(path: str) -> socket.socket:
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        opened.bind(path)
        opened.listen(BACKLOG)
    except OSError as error:
        opened.close()
        raise ListenFailed(f"Cannot listen on {path}: {error.strerror or error}") from error
    opened.setblocking(False)
    return opened


def _remove_stale(path: str) -> None:
    """Take away a socket that nobody listens on any more; anything else is left alone."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise OSError(errno.EEXIST, "it exists and is not a socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
    raise OSError(errno.EADDRINUSE, "another process listens there")


def explain(address: Address, error: OSError) -> str:
    """Why this address cannot be listened on, for people."""
    if error.errno == errno.EADDRINUSE:
        return f"Port {address.port} is in use{_holder(address)}: stop that, or take another port or address"
    where = f"[{address.host}]" if ":" in address.host else address.host
    if error.errno == errno.EACCES:
        return f"Port {address.port} needs more rights: give CAP_NET_BIND_SERVICE, or use a port over 1023"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"Cannot listen on {where}:{address.port}: no interface of this host has that address"
    return f"Cannot listen on {where}:{address.port}: {error.strerror or error}"


def _holder(address: Address) -> str:
    """ " by pid 812 (nginx)" when this process may see who listens there, else ""."""
    try:
        for connection in psutil.net_connections(kind="inet"):
            if connection.status not in (psutil.CONN_LISTEN, psutil.CONN_NONE) or not connection.laddr:
                continue  # UDP has no status
            if connection.laddr.port != address.port or not connection.pid:
                continue
            if {connection.laddr.ip, address.host} & _EVERYWHERE or connection.laddr.ip == address.host:
                return f" by pid {connection.pid} ({psutil.Process(connection.pid).name()})"
    except (psutil.Error, OSError):
        pass
    return ""
