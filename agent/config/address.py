"""Addresses as configuration writes them: lists separated by spaces, and `{{ GetPrivateIP }}`.

Consul takes Go templates over the host's interfaces (go-sockaddr); three of its functions are taken here,
and what they need to know of the host is handed in.
"""

from __future__ import annotations

import re
from ipaddress import ip_address, ip_network

import msgspec

_TEMPLATE = re.compile(r'\{\{[-\s]*(\w{1,64})(?:\s+"([^"{}]{1,64})")?[-\s]*\}\}\Z')
_CUT = re.compile(r"\{\{.*?\}\}|\S+", re.DOTALL)
_PRIVATE = tuple(map(ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")))

_TEMPLATES = '{{ GetPrivateIP }}, {{ GetPublicIP }} and {{ GetInterfaceIP "eth0" }}'


class HostFacts(msgspec.Struct, frozen=True):
    """What there is to know of this host: its name, and (interface, IP address) in the system's order."""

    hostname: str
    addresses: tuple[tuple[str, str], ...] = ()


def listed(text: str) -> list[str]:
    """The single addresses of a list separated by spaces; a template counts as one."""
    return [found.group() for found in _CUT.finditer(text)]


def is_template(text: str) -> bool:
    return text.lstrip().startswith("{{")


def is_loopback(text: str) -> bool:
    """Whether only this host reaches it. A template is taken not to be."""
    try:
        return ip_address(text).is_loopback
    except ValueError:
        return False


def is_address(text: str) -> bool:
    """Whether it is an IP address, without a zone ("%eth0")."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return "%" not in text


def expand(text: str, host: HostFacts) -> str:
    """The address a template stands for; other text as it is. Raises ValueError saying what lacks."""
    if not is_template(text):
        return text
    found = _TEMPLATE.match(text.strip())
    match found.groups() if found else ():
        case ("GetPrivateIP", None):
            chosen = private_ipv4(host)
        case ("GetPublicIP", None):
            chosen = [a for a in _ipv4(host) if ip_address(a).is_global]
        case ("GetInterfaceIP", str(interface)):
            chosen = [a for name, a in host.addresses if name == interface]
        case _:
            raise ValueError(f"{text[:60]} is not understood: {_TEMPLATES} are")
    if not chosen:
        raise ValueError(f"{text[:60]} finds no address on this host")
    return chosen[0]


def private_ipv4(host: HostFacts) -> list[str]:
    """The host's IPv4 addresses of private networks (RFC 1918, and RFC 6598's shared ones)."""
    return [a for a in _ipv4(host) if any(ip_address(a) in network for network in _PRIVATE)]


def _ipv4(host: HostFacts) -> list[str]:
    return [a for _, a in host.addresses if ip_address(a).version == 4]
