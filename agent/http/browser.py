"""Keeps web pages from other places away from the API, which browsers can reach on this host.

Two attacks: a page that sends writes across sites (CSRF), and one whose own name is made to resolve to this
host (DNS rebinding). Programs are not touched: the rules look only at requests that carry what browsers
send and programs do not. Source: etcd issue 9353; Fetch Metadata (W3C).
"""

from __future__ import annotations

import ipaddress

from gemot.server.model.errors import Forbidden

_LOCAL_NAMES = (".localhost", ".consul")


def refuse_foreign_page(method: str, headers: dict[str, str], allowed_hosts: tuple[str, ...]) -> None:
    """Raise Forbidden for a browser's request under a foreign host name, or from a foreign page."""
    if not _from_browser(headers):
        return
    if "*" in allowed_hosts:
        return
    host = host_name(headers.get("host", ""))
    if not _is_ours(host, allowed_hosts):
        raise Forbidden(
            f'A browser asked under the host name "{host:.100}", which is not one of this agent: '
            "add it to http_config.allowed_hosts if it should be"
        )
    origin = headers.get("origin", "")
    site = headers.get("sec-fetch-site", "same-origin")
    if method in ("GET", "OPTIONS") and not origin:
        return
    if origin and origin.partition("://")[2].lower() != headers.get("host", "").lower():
        raise Forbidden(f'A web page of another origin ("{origin:.100}") may not use this API')
    if not origin and site == "cross-site":
        raise Forbidden("A web page of another site may not use this API")


def _from_browser(headers: dict[str, str]) -> bool:
    return (
        "origin" in headers
        or "accept-language" in headers
        or "sec-fetch-site" in headers
        or "referer" in headers
        or headers.get("user-agent", "").startswith("Mozilla/")
    )


def host_name(host: str) -> str:
    """The lower-case name of a `Host` value, without port, brackets and final dot."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition("/")[0].partition(":")[0].rstrip(".").lower()


def _is_ours(host: str, allowed_hosts: tuple[str, ...]) -> bool:
    # A name without a dot is resolved only inside the caller's own network: nobody can rebind it.
    if not host or ("." not in host and ":" not in host):
        return True
    if host.endswith(_LOCAL_NAMES) or host in allowed_hosts:
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return any(name.startswith(".") and host.endswith(name) for name in allowed_hosts)
    return True
