"""From rows of the catalog to records, grouped as a reply may pick from them. Pure.

Who is healthy, which address speaks for an instance, what an SRV record points at. Order, number and size
are the reply's business (`reply.py`).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from struct import Struct

import msgspec

from gemot.dns import wire
from gemot.dns.config import DnsConfig
from gemot.dns.wire import Record
from gemot.server.model.catalog import Instance, Node

MAX_WEIGHT = 65_535
MAX_STRING_BYTES = 255
"""Longest character-string in a TXT record (RFC 1035 section 3.3)."""

MAX_TEXT_BYTES = 4096
"""A longer TXT record is left out: no reply of a sane size could hold it."""

NAME_SERVERS_MAX = 3

_PRIORITY = 1
_SRV = Struct("!HHH")
_SOA = Struct("!5I")
_HOST_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_BARE_TEXT = "rfc1035-"


class Choice(msgspec.Struct, frozen=True, gc=False):
    """One thing a reply can offer: its records go in or stay out together with what belongs to them.

    `extras` (addresses of targets) go into the additional section; `texts` too, if there is room left.
    """

    records: tuple[Record, ...]
    extras: tuple[Record, ...] = ()
    texts: tuple[Record, ...] = ()


class Zone(msgspec.Struct, frozen=True, gc=False):
    """Where answers lie: the zone's name in wire form, and the suffix of names in this datacenter."""

    name: bytes
    here: tuple[str, ...]


def make_zone(labels: tuple[str, ...], datacenter: str) -> Zone:
    name = wire.encode_name(labels)
    if name is None:
        raise ValueError(f"zone {labels} is no DNS name")
    return Zone(name, (datacenter.lower(), *labels))


@lru_cache(maxsize=8192)
def pack_address(text: str) -> bytes:
    """4 or 16 bytes of an IP address; none if the text is a host name or nothing."""
    try:
        return ipaddress.ip_address(text).packed
    except ValueError:
        return b""


@lru_cache(maxsize=8192)
def encode_host(text: str) -> bytes | None:
    """A host name in wire form, or None if it cannot be resolved as one."""
    labels = tuple(text.removesuffix(".").split("."))
    if not all(map(_HOST_LABEL.fullmatch, labels)):
        return None
    return wire.encode_name(labels)


def keep_healthy(instances: Iterable[Instance], *, only_passing: bool) -> list[Instance]:
    """Without instances of which any check, the node's included, is critical (or warning, if asked)."""
    refused = ("critical", "warning") if only_passing else ("critical",)
    return [one for one in instances if all(check.status not in refused for check in one.checks)]


def keep_tagged(instances: Iterable[Instance], tag: str) -> list[Instance]:
    """Instances that carry the tag, case ignored; all of them if the tag is ""."""
    wanted = tag.lower()
    return [
        one for one in instances if not wanted or any(known.lower() == wanted for known in one.service.tags)
    ]


def is_part_of_tag(instances: Iterable[Instance], tag: str) -> bool:
    """Whether a tag of an instance ends in this one behind a dot: then the name asked for has names below."""
    ending = "." + tag.lower()
    return any(known.lower().endswith(ending) for one in instances for known in one.service.tags)


def make_address_choices(
    owner: bytes, qtype: int, instances: Sequence[Instance], ttl_s: int
) -> tuple[Choice, ...]:
    """One choice for each distinct address; CNAMEs only if no instance has an IP address of any family."""
    packed = {ip: None for one in instances for ip in _list_instance_addresses(one)}
    if packed:
        fitting = (_address(owner, ip, ttl_s) for ip in packed if _fits(qtype, ip))
        return tuple(Choice((record,)) for record in fitting)
    hosts = {encode_host(one.service.address or one.node.address): None for one in instances}
    return tuple(Choice((_alias(owner, host, ttl_s),)) for host in hosts if host and host != owner)


def make_srv_choices(
    owner: bytes, instances: Sequence[Instance], zone: Zone, config: DnsConfig, ttl_s: int
) -> tuple[Choice, ...]:
    """One choice for each distinct node, address and port."""
    found: dict[tuple[str, str, int], Choice] = {}
    for one in instances:
        key = (one.node.node, one.service.address, one.service.port)
        if key in found:
            continue
        target, extras = _make_target(one, zone, ttl_s)
        if target is None:
            continue
        data = _SRV.pack(_PRIORITY, _weigh(one), one.service.port & 0xFFFF)
        texts: tuple[Record, ...] = ()
        name = encode_host(".".join((one.node.node, "node", *zone.here)))
        if config.enable_additional_node_meta_txt and name is not None:
            texts = make_texts(name, one.node.meta, ttl_s)
        found[key] = Choice((Record(owner, wire.SRV, ttl_s, data, (target,)),), extras, texts)
    return tuple(found.values())


def make_node_choices(owner: bytes, qtype: int, node: Node, config: DnsConfig) -> tuple[Choice, ...]:
    """What a node's own name answers: addresses (or the host name it stands for) and its meta as TXT."""
    ttl_s = config.node_ttl_s
    texts = make_texts(owner, node.meta, ttl_s) if qtype in (wire.TXT, wire.ANY) else ()
    if qtype == wire.TXT:
        return tuple(Choice((text,)) for text in texts)
    if qtype not in (wire.A, wire.AAAA, wire.ANY, wire.CNAME):
        return ()
    extra: tuple[Record, ...] = ()
    if qtype != wire.ANY and config.enable_additional_node_meta_txt:
        extra = make_texts(owner, node.meta, ttl_s)
    addresses = _list_addresses(node.address, node.tagged_addresses)
    if addresses:
        records = tuple(_address(owner, ip, ttl_s) for ip in addresses if _fits(qtype, ip)) + texts
        return (Choice(records, texts=extra),) if records else ()
    host = encode_host(node.address)
    if host is None or host == owner:
        return tuple(Choice((text,)) for text in texts)
    return (Choice((_alias(owner, host, ttl_s),), texts=extra),)


def make_encoded_choices(owner: bytes, qtype: int, packed: bytes, ttl_s: int) -> tuple[Choice, ...]:
    return (Choice((_address(owner, packed, ttl_s),)),) if _fits(qtype, packed) else ()


def make_name_servers(
    owner: bytes, servers: Sequence[Instance], zone: Zone, ttl_s: int
) -> tuple[Choice, ...]:
    """NS records with their addresses; a server whose name is no DNS name is left out."""
    found: dict[bytes, Choice] = {}
    for one in servers:
        name = encode_host(".".join((one.node.node, "node", *zone.here)))
        addresses = _list_addresses(one.node.address, one.node.tagged_addresses)
        if name is not None and addresses:
            extras = tuple(_address(name, ip, ttl_s) for ip in addresses)
            found[name] = Choice((Record(owner, wire.NS, ttl_s, names=(name,)),), extras)
    return tuple(found.values())


def make_server_addresses(
    owner: bytes, qtype: int, servers: Sequence[Instance], ttl_s: int
) -> tuple[Choice, ...]:
    packed = {
        ip: None for one in servers for ip in _list_addresses(one.node.address, one.node.tagged_addresses)
    }
    return tuple(Choice((_address(owner, ip, ttl_s),)) for ip in packed if _fits(qtype, ip))


def make_soa(zone: Zone, config: DnsConfig, serial: int) -> Record:
    """The zone's SOA; its TTL is the negative one (RFC 2308 section 5)."""
    soa = config.soa
    data = _SOA.pack(serial & 0xFFFFFFFF, soa.refresh_s, soa.retry_s, soa.expire_s, soa.min_ttl_s)
    names = (b"\x02ns" + zone.name, b"\x0ahostmaster" + zone.name)
    return Record(zone.name, wire.SOA, soa.min_ttl_s, data, names)


def make_texts(owner: bytes, meta: dict[str, str], ttl_s: int) -> tuple[Record, ...]:
    """Node meta as TXT records, `key=value` as RFC 1464 quotes it; `rfc1035-` keys give the bare value."""
    records = []
    for key in sorted(meta):
        bare = key.lower().startswith(_BARE_TEXT)
        text = meta[key] if bare else f"{_quote(key)}={meta[key]}"
        data = text.encode("utf-8", "replace")
        if len(data) <= MAX_TEXT_BYTES:
            records.append(Record(owner, wire.TXT, ttl_s, _split_strings(data)))
    return tuple(records)


def _split_strings(data: bytes) -> bytes:
    parts = [data[at : at + MAX_STRING_BYTES] for at in range(0, len(data), MAX_STRING_BYTES)] or [b""]
    return b"".join(bytes((len(part),)) + part for part in parts)


def _quote(key: str) -> str:
    """RFC 1464 section 2: a back quote before `=`, before itself, and before blanks at either end."""
    quoted = key.replace("`", "``").replace("=", "`=")
    blanks = " \t"
    inner = quoted.strip(blanks)
    if not inner:
        return "".join("`" + blank for blank in quoted)
    start = quoted.index(inner)
    lead, trail = quoted[:start], quoted[start + len(inner) :]
    return "".join("`" + blank for blank in lead) + inner + "".join("`" + blank for blank in trail)


def _make_target(
    one: Instance, zone: Zone, ttl_s: int
) -> tuple[bytes, tuple[Record, ...]] | tuple[None, tuple[()]]:
    """What an SRV record points at, with its addresses; nothing if it can be reached under no name."""
    if one.service.address:
        addresses = [ip for ip in (pack_address(one.service.address),) if ip]
    else:
        addresses = _list_addresses(one.node.address, one.node.tagged_addresses)
    if not addresses:
        host = encode_host(one.service.address or one.node.address)
        return (host, ()) if host is not None else (None, ())
    name = None
    if not one.service.address:
        name = encode_host(".".join((one.node.node, "node", *zone.here)))
    if name is None:  # an address of its own, or a node whose name is no DNS name
        addresses = addresses[:1]
        name = wire.encode_name((addresses[0].hex(), "addr", *zone.here))
    if name is None:
        return None, ()
    return name, tuple(_address(name, ip, ttl_s) for ip in addresses)


def _weigh(one: Instance) -> int:
    worst = any(check.status == "warning" for check in one.checks)
    weight = one.service.weights.warning if worst else one.service.weights.passing
    return min(max(weight, 0), MAX_WEIGHT)


def _list_instance_addresses(one: Instance) -> list[bytes]:
    if not one.service.address:
        return _list_addresses(one.node.address, one.node.tagged_addresses)
    tagged = {name: value.address for name, value in one.service.tagged_addresses.items()}
    return _list_addresses(one.service.address, tagged)


def _list_addresses(address: str, tagged: dict[str, str]) -> list[bytes]:
    """At most one address of each family: the main one, and for the other family the tagged one."""
    main = pack_address(address)
    found = [main] if main else []
    for name, size in (("lan_ipv4", 4), ("lan_ipv6", 16)):
        other = pack_address(tagged.get(name, ""))
        if len(other) == size and all(len(ip) != size for ip in found):
            found.append(other)
    return found


def _fits(qtype: int, packed: bytes) -> bool:
    if qtype == wire.ANY:
        return True
    return qtype == (wire.A if len(packed) == 4 else wire.AAAA)


def _address(owner: bytes, packed: bytes, ttl_s: int) -> Record:
    return Record(owner, wire.A if len(packed) == 4 else wire.AAAA, ttl_s, packed)


def _alias(owner: bytes, host: bytes, ttl_s: int) -> Record:
    return Record(owner, wire.CNAME, ttl_s, names=(host,))
