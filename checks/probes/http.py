"""The probe that asks over HTTP: 2xx is passing, 429 is warning, anything else is critical.

A redirect is followed only to the same scheme, host and port (Consul follows any: CVE-2022-29153); another
one is itself the result. Proxies and credentials of the environment are not used, connections are not kept,
and no more of the body is read than is shown. The status line decides, as in Consul: a body that does not
end in time is cut, and the output says so.
"""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from gemot.checks.definition import CheckDefinition
from gemot.checks.probes.guard import refusal
from gemot.checks.probes.resolver import AddrInfo, Resolver, Unresolved
from gemot.checks.probes.tcp import reason
from gemot.checks.probes.tls import context
from gemot.checks.status import Outcome, Status

DEFAULT_TIMEOUT_S = 10.0
MAX_BODY_BYTES = 4096
MAX_REDIRECTS = 10

_DEFAULT_HEADERS = (
    ("User-Agent", "Consul Health Check"),
    ("Accept", "text/plain, text/*, */*"),
)
MAX_ADDRESSES = 4
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_KEEP_METHOD = frozenset({307, 308})


async def probe(definition: CheckDefinition, resolver: Resolver) -> Outcome:
    """Ask once. Never raises but for cancellation."""
    timeout_s = definition.timeout_s or DEFAULT_TIMEOUT_S
    deadline = asyncio.get_running_loop().time() + timeout_s
    try:
        found = await _find(URL(definition.http), resolver, timeout_s)
        return await _ask(definition, found, deadline)
    except TimeoutError:
        return _failed(definition, f"timed out after {timeout_s:g}s")
    except aiohttp.ClientConnectorError as error:
        return _failed(definition, f"dial tcp {error.host}:{error.port}: {reason(error.os_error)}")
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return _failed(definition, _broken(error))


def _broken(error: Exception) -> str:
    """What ended an exchange that had begun: in words of the system, but for TLS, which has its own."""
    if isinstance(error, OSError) and error.errno and error.strerror == os.strerror(error.errno):
        return error.strerror.lower()
    return str(error) or type(error).__name__


def _failed(definition: CheckDefinition, why: str) -> Outcome:
    return Outcome("critical", f'{definition.method.capitalize()} "{definition.http}": {why}')


async def _find(url: URL, resolver: Resolver, timeout_s: float) -> list[AddrInfo]:
    try:
        return await resolver.addresses(url.raw_host or "", url.port or 0, timeout_s)
    except Unresolved as error:
        raise Unresolved(f"dial tcp {url.raw_host}:{url.port}: {error}") from error


class _Found(AbstractResolver):
    """For aiohttp: the addresses that were found already, since a check asks one host only.

    Where they are silent it tries one more each quarter of a second, so only the first few are given.
    """

    def __init__(self, found: list[AddrInfo]) -> None:
        self._found = found[:MAX_ADDRESSES]

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host, host=_scoped(address), port=port, family=family, proto=protocol, flags=0
            )
            for family, _, protocol, _, address in self._found
        ]

    async def close(self) -> None:
        """Nothing is held."""


def _scoped(address: tuple[Any, ...]) -> str:
    """The address with the name of its interface, which a link-local one needs."""
    scope = address[3] if len(address) > 3 else 0
    return f"{address[0]}%{socket.if_indextoname(scope)}" if scope else str(address[0])


async def _ask(definition: CheckDefinition, found: list[AddrInfo], deadline: float) -> Outcome:
    def make_socket(info: AddrInfo) -> socket.socket:
        denied = refusal(str(info[4][0]), from_config=definition.from_config)
        if denied:
            raise OSError(denied)
        return socket.socket(info[0], info[1], info[2])

    connector = aiohttp.TCPConnector(
        limit=1,
        force_close=True,
        ssl=context(verify=not definition.tls_skip_verify),
        socket_factory=make_socket,
        resolver=_Found(found),
        use_dns_cache=False,
    )
    async with aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None),
        auto_decompress=False,
        skip_auto_headers=("Accept-Encoding", "Content-Type"),
        trust_env=False,
        read_bufsize=MAX_BODY_BYTES,
    ) as session:
        return await _follow(session, definition, deadline)


async def _follow(session: aiohttp.ClientSession, definition: CheckDefinition, deadline: float) -> Outcome:
    url, method, body = URL(definition.http), definition.method, definition.body.encode() or None
    for _ in range(MAX_REDIRECTS + 1):
        async with asyncio.timeout_at(deadline):
            response = await session.request(
                method,
                url,
                data=body,
                headers=_headers(definition),
                allow_redirects=False,
                server_hostname=definition.tls_server_name or None,
            )
        target = _redirect(definition, response, url)
        if target is None or target.origin() != url.origin():
            return await _result(definition, response, deadline, target)
        response.close()
        if response.status not in _KEEP_METHOD and method not in ("GET", "HEAD"):
            method, body = "GET", None
        url = target
    raise ValueError(f"stopped after {MAX_REDIRECTS} redirects")


def _headers(definition: CheckDefinition) -> list[tuple[str, str]]:
    given = [(name, value) for name, values in definition.header.items() for value in values]
    names = {name.lower() for name, _ in given}
    return given + [pair for pair in _DEFAULT_HEADERS if pair[0].lower() not in names]


def _redirect(definition: CheckDefinition, response: aiohttp.ClientResponse, url: URL) -> URL | None:
    location = response.headers.get("Location", "")
    if definition.disable_redirects or response.status not in _REDIRECTS or not location:
        return None
    return url.join(URL(location))


async def _result(
    definition: CheckDefinition, response: aiohttp.ClientResponse, deadline: float, target: URL | None
) -> Outcome:
    body, whole = await _read(response, min(definition.output_max_bytes, MAX_BODY_BYTES), deadline)
    response.close()
    remark = "" if whole else " (the body did not end in time)"
    if target is not None:
        remark = f" (not followed: {target.origin()} is another scheme, host or port)"
    head = f"HTTP {definition.method} {definition.http}: {response.status} {response.reason}{remark}"
    return Outcome(_status(response.status), f"{head} Output: {body.decode('utf-8', 'replace')}")


async def _read(response: aiohttp.ClientResponse, limit: int, deadline: float) -> tuple[bytes, bool]:
    """The first bytes of the body, and whether it came to its end or the limit before the deadline."""
    body = b""
    try:
        async with asyncio.timeout_at(deadline):
            while len(body) < limit:
                chunk = await response.content.read(limit - len(body))
                if not chunk:
                    break
                body += chunk
    except (TimeoutError, aiohttp.ClientError, OSError):
        return body, False
    return body, True


def _status(code: int) -> Status:
    if 200 <= code < 300:
        return "passing"
    return "warning" if code == 429 else "critical"
