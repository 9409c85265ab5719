"""The settings of the DNS interface, as one frozen word (Consul's `dns_config`, `domain`, `datacenter`).

Not the reader of configuration files: those spell times as Go durations; here they are whole seconds.
"""

from __future__ import annotations

import re

import msgspec

from gemot.server.model.errors import BadRequest

MAX_DOMAIN_CHARS = 128
"""Longest zone name: leaves room in 255 bytes for a service, a tag and a datacenter before it."""

MAX_TTL_S = 2**31 - 1
"""RFC 2181 section 8: a TTL is an unsigned number of 31 bits."""

MAX_ANSWERS_WITHOUT_EDNS = 8
"""A UDP reply without EDNS never has more answers than this, whatever `udp_answer_limit` says (Consul)."""

_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")


class Soa(msgspec.Struct, frozen=True):
    """Timers of the zone's SOA record. `min_ttl_s` is how long resolvers may keep a negative answer."""

    refresh_s: int = 3600
    retry_s: int = 600
    expire_s: int = 86400
    min_ttl_s: int = 0


class DnsConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How the DNS interface answers. Raises BadRequest when a value is out of bounds.

    `service_ttl_s` is keyed by service name, by a prefix ending in `*`, or by `*` alone: an exact name
    wins, then the longest prefix. `udp_answer_limit` and `a_record_limit` of 0 set no limit of their own.
    """

    domain: str = "consul."
    alt_domain: str = ""
    datacenter: str = "dc1"
    node_ttl_s: int = 0
    service_ttl_s: dict[str, int] = {}
    only_passing: bool = False
    udp_answer_limit: int = 3
    a_record_limit: int = 0
    enable_truncate: bool = False
    enable_additional_node_meta_txt: bool = True
    soa: Soa = Soa()

    def __post_init__(self) -> None:
        _check_domain("domain", self.domain)
        if self.alt_domain:
            _check_domain("alt_domain", self.alt_domain)
        _check_ttl("dns_config.node_ttl", self.node_ttl_s)
        for name, ttl_s in self.service_ttl_s.items():
            _check_ttl(f"dns_config.service_ttl[{name!r:.80}]", ttl_s)
        for field in ("refresh_s", "retry_s", "expire_s", "min_ttl_s"):
            _check_ttl(f"dns_config.soa.{field.removesuffix('_s')}", getattr(self.soa, field))
        for field in ("udp_answer_limit", "a_record_limit"):
            if getattr(self, field) < 0:
                raise BadRequest(
                    f"dns_config.{field} must be 0 (no limit) or more, not {getattr(self, field)}"
                )

    def zones(self) -> tuple[tuple[str, ...], ...]:
        """The labels of each zone that is answered for, lower case, the longest first."""
        zones = {_labels(name): None for name in (self.domain, self.alt_domain) if name}
        return tuple(sorted(zones, key=len, reverse=True))

    def service_ttl(self, service: str) -> int:
        """Seconds for which answers about this service may be kept."""
        wanted = service.lower()
        best, ttl_s = -1, 0
        for pattern, value in self.service_ttl_s.items():
            known = pattern.lower()
            if known == wanted:
                return value
            if known.endswith("*") and wanted.startswith(known[:-1]) and len(known) > best:
                best, ttl_s = len(known), value
        return ttl_s

    def answers_without_edns(self) -> int:
        """Most answers in a UDP reply to a question without EDNS."""
        return min(self.udp_answer_limit or MAX_ANSWERS_WITHOUT_EDNS, MAX_ANSWERS_WITHOUT_EDNS)


def _labels(domain: str) -> tuple[str, ...]:
    return tuple(domain.lower().removesuffix(".").split("."))


def _check_domain(field: str, domain: str) -> None:
    if len(domain) > MAX_DOMAIN_CHARS:
        raise BadRequest(
            f"{field} has {len(domain)} characters, the limit is {MAX_DOMAIN_CHARS}: use a shorter domain"
        )
    for label in _labels(domain):
        if not _LABEL.fullmatch(label):
            raise BadRequest(
                f"{field} {domain!r} is not a DNS name: each part between dots needs 1 to 63 letters, "
                "digits, '-' or '_', and no '-' at its ends"
            )


def _check_ttl(field: str, ttl_s: int) -> None:
    if not 0 <= ttl_s <= MAX_TTL_S:
        raise BadRequest(f"{field} is {ttl_s} s: it must be 0 to {MAX_TTL_S} s")
