"""Which addresses a check that came over the API may not reach. Pure.

A cloud's metadata service hands credentials to whoever asks from the host, and a check's output is shown to
callers: an API that could point a check there would hand them out. Loopback stays allowed, since the services
of this very host are what checks are for. Source: CVE-2022-29153 and its like.
"""

from __future__ import annotations

import ipaddress

_METADATA = frozenset({ipaddress.ip_address("fd00:ec2::254"), ipaddress.ip_address("100.100.100.200")})


def refusal(address: str, *, from_config: bool) -> str:
    """Why this resolved address must not be connected to, or "" when it may be."""
    if from_config:
        return ""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return f"{address} is not an IP address"
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    target = mapped or found
    if target.is_link_local or target in _METADATA:
        return (
            f"{address} is a link-local or metadata address, which only checks from this host's "
            "configuration files may reach"
        )
    return ""
