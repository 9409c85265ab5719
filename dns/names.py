"""From the labels of a question to what is looked up. Pure; knows no rows.

A name is read from the right, behind the zone, to the first word that names a kind (Consul, "DNS forms").
Where Consul answers NXDOMAIN for a name that has names below it (`service.consul`), this says `Empty`:
RFC 8020 lets a resolver take NXDOMAIN for everything below, and resolvers that minimise names (RFC 9156)
ask for it first.
"""

from __future__ import annotations

import re

import msgspec


class Apex(msgspec.Struct, frozen=True, gc=False):
    """The zone itself: SOA and NS."""


class NameServers(msgspec.Struct, frozen=True, gc=False):
    """`ns.<zone>`, the primary that the SOA record names: addresses of the servers."""


class NodeName(msgspec.Struct, frozen=True, gc=False):
    """`<node>.node`; a node's name may hold dots."""

    name: str


class ServiceName(msgspec.Struct, frozen=True, gc=False):
    """`[<tag>.]<service>.service` or `_<service>._<tag>`; the tag may hold dots, "" asks for any."""

    name: str
    tag: str


class EncodedAddress(msgspec.Struct, frozen=True, gc=False):
    """`<hex>.addr`: 4 or 16 bytes of an address that is its own answer."""

    packed: bytes


class Empty(msgspec.Struct, frozen=True, gc=False):
    """A name without records that has names below it: NOERROR without answers."""


class Unknown(msgspec.Struct, frozen=True, gc=False):
    """A name in the zone that cannot exist: NXDOMAIN."""


class Foreign(msgspec.Struct, frozen=True, gc=False):
    """A name outside every zone of ours: REFUSED."""


Lookup = Apex | NameServers | NodeName | ServiceName | EncodedAddress | Empty | Unknown | Foreign

_KINDS = frozenset(("service", "node", "addr", "query", "connect", "ingress", "virtual"))
_LABEL = re.compile(r"[a-z0-9_-]{1,63}")
_HEX = re.compile(r"[0-9a-f]{8}|[0-9a-f]{32}")
_DEFAULT_ONLY = frozenset(("ns", "ap"))
"""Namespace and admin partition: there is one of each, called "default"."""


def locate(
    labels: tuple[str, ...], zones: tuple[tuple[str, ...], ...], datacenter: str
) -> tuple[tuple[str, ...], Lookup]:
    """The zone a lower-case name lies in, and what it looks up there. `zones` go from long to short."""
    for zone in zones:
        depth = len(labels) - len(zone)
        if depth >= 0 and labels[depth:] == zone:
            return zone, _look(labels[:depth], datacenter.lower())
    return (), Foreign()


def _look(labels: tuple[str, ...], datacenter: str) -> Lookup:
    if not labels:
        return Apex()
    if labels == ("ns",):
        return NameServers()
    if not all(map(_LABEL.fullmatch, labels)):
        return Unknown()
    for at in range(len(labels) - 1, -1, -1):
        word = labels[at]
        if word in _KINDS:
            return _look_kind(word, labels[:at], labels[at + 1 :], datacenter)
        if word[0] == "_":  # RFC 2782 names may leave out the word `service`
            return _look_kind("service", labels[: at + 1], labels[at + 1 :], datacenter)
    return Empty() if labels == ("dc",) or _is_here(labels, datacenter) else Unknown()


def _look_kind(kind: str, before: tuple[str, ...], after: tuple[str, ...], datacenter: str) -> Lookup:
    if not _is_here(after, datacenter):
        return Unknown()
    if kind == "service":
        return _look_service(before)
    if kind == "node":
        return NodeName(".".join(before)) if before else Empty()
    if kind == "addr":
        return _look_address(before)
    return Unknown()


def _is_here(labels: tuple[str, ...], datacenter: str) -> bool:
    """Whether the labels behind the kind say this place: none, `<dc>`, or pairs such as `<dc>.dc`."""
    if len(labels) == 1:
        return labels[0] == datacenter
    if len(labels) % 2:
        return False
    for value, word in zip(labels[::2], labels[1::2], strict=True):
        if not ((word == "dc" and value == datacenter) or (word in _DEFAULT_ONLY and value == "default")):
            return False
    return True


def _look_service(before: tuple[str, ...]) -> Lookup:
    if not before:
        return Empty()
    if before[-1][0] != "_":
        return ServiceName(before[-1], ".".join(before[:-1]))
    if len(before) == 1:
        return Empty()  # `_tcp.service`: RFC 2782 names lie below
    if len(before) == 2 and before[0][0] == "_" and len(before[0]) > 1 and len(before[1]) > 1:
        tag = before[1][1:]
        return ServiceName(before[0][1:], "" if tag == "tcp" else tag)
    return Unknown()


def _look_address(before: tuple[str, ...]) -> Lookup:
    if not before:
        return Empty()
    if len(before) == 1 and _HEX.fullmatch(before[0]):
        return EncodedAddress(bytes.fromhex(before[0]))
    return Unknown()
