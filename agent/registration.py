"""A service as callers and configuration files register it, with its checks.

Reads and judges; keeps nothing (that is `local.py`). The texts of mistakes begin as Consul's do, since
clients match them.
"""

from __future__ import annotations

import ipaddress
import re
from functools import partial

import msgspec

from gemot.agent.check_registration import (
    MAX_ID_BYTES,
    NO_SCRIPTS,
    Owner,
    Policy,
    parse_check,
    printable,
)
from gemot.agent.fields import Fields, names
from gemot.checks.definition import CheckDefinition
from gemot.server.model.catalog import SERVER_SERVICE, Service, ServiceAddress, Weights
from gemot.server.state.names import fold

__all__ = ["NO_SCRIPTS", "Policy", "Registration", "parse_check", "parse_service"]

MAX_TAGS = 1024
MAX_CHECKS = 128
MAX_TAGGED_ADDRESSES = 64
MAX_META_PAIRS = 64
MAX_META_KEY = 128
MAX_META_VALUE = 512
MAX_ADDRESS_BYTES = 255
MAX_WEIGHT = 65535

FIELDS = names(
    "id name tags port address socket_path tagged_addresses meta kind enable_tag_override weights check",
    "checks token namespace partition",
)
IGNORED = names("proxy connect locality ports peer_name datacenter content_hash create_index modify_index")
"""Fields of Consul that are read and have no effect here: a mesh, zones, and what answers carry."""

_PLACE = names("address port")
_WEIGHTS = names("passing warning")
_KINDS = frozenset(
    (
        "",
        "typical",
        "connect-proxy",
        "mesh-gateway",
        "terminating-gateway",
        "ingress-gateway",
        "api-gateway",
    )
)
_META_KEY = re.compile(r"[A-Za-z0-9_-]+")
_ANY_ADDRESS = frozenset(("0.0.0.0", "::", "[::]"))


class Registration(msgspec.Struct, frozen=True):
    """A service to run here. `ignored` names the fields that were given and have no effect."""

    service: Service
    checks: tuple[CheckDefinition, ...] = ()
    token: str = ""
    ignored: tuple[str, ...] = ()


def parse_service(raw: object, *, from_config: bool, policy: Policy = NO_SCRIPTS) -> Registration:
    """One service.

    Raises BadRequest, or RuleFailed for a script check; for one of a file Mistakes, with all there are.
    """
    fields = Fields(raw, known=FIELDS, ignored=IGNORED, in_file=from_config)
    fields.default_only("namespace", "partition")
    name = printable(fields, "Name", "service name", fields.text("Name", limit=MAX_ID_BYTES))
    if not name:
        fields.refuse("Name", "Missing service name")
    service_id = printable(fields, "ID", "service ID", fields.text("ID", limit=MAX_ID_BYTES) or name)
    if fold(service_id) == SERVER_SERVICE:
        fields.refuse(
            "ID", f'Invalid service ID: "{SERVER_SERVICE}" is the servers\' own, choose another one'
        )
    address, port = _address(fields), _port(fields)
    service = Service(
        id=service_id,
        service=name,
        tags=fields.texts("Tags", limit=MAX_TAGS),
        address=address,
        port=port,
        meta=_meta(fields),
        tagged_addresses=_tagged_addresses(fields, address, port),
        weights=_weights(fields),
        enable_tag_override=fields.flag("EnableTagOverride"),
        kind=_kind(fields),
        socket_path=fields.text("SocketPath"),
    )
    checks = _checks(fields, service, policy)
    registration = Registration(service, checks, fields.text("Token"), fields.ignored)
    fields.end()
    return registration


def _address(fields: Fields) -> str:
    address = fields.text("Address", limit=MAX_ADDRESS_BYTES)
    if address in _ANY_ADDRESS or not address.isprintable() or " " in address:
        fields.refuse(
            "Address",
            f"Invalid service address: {address!r:.64}: want an address that others can connect to",
        )
    return address


def _port(fields: Fields) -> int:
    port = fields.number("Port")
    if not 0 <= port <= 65535:
        fields.refuse("Port", f"Invalid service port: {port} is not from 0 to 65535")
    return port


def _meta(fields: Fields) -> dict[str, str]:
    given = fields.table("Meta", limit=1 << 16)
    if len(given) > MAX_META_PAIRS:
        fields.refuse(
            "Meta",
            f"Invalid Service Meta: Node metadata cannot contain more than {MAX_META_PAIRS} key/value pairs",
        )
    meta: dict[str, str] = {}
    for key, value in given.items():
        path = f"meta.{key:.64}"
        if not isinstance(value, str):
            text = f"the value of {key!r:.64} wants to be a text"
            fields.mistake("Meta", text, mark=":", path=path)
            continue
        problem = meta_problem(key, value)
        if problem:
            fields.refuse(path, f"Invalid Service Meta: {problem}")
        meta[key] = value
    return meta


def meta_problem(key: str, value: str) -> str:
    """What is wrong with one pair of metadata, or ""."""
    if not key:
        return "Key cannot be blank"
    if len(key) > MAX_META_KEY:
        return f"Key is too long (limit: {MAX_META_KEY} characters)"
    if not _META_KEY.fullmatch(key):
        return f"Key {key!r} contains invalid characters: use letters, digits, - and _"
    if key.lower().startswith("consul-"):
        return f"Key prefix 'consul-' is reserved for internal use (in {key!r})"
    if len(value) > MAX_META_VALUE:
        return f"Value of {key!r} is too long (limit: {MAX_META_VALUE} characters)"
    return ""


def _tagged_addresses(fields: Fields, address: str, port: int) -> dict[str, ServiceAddress]:
    """The addresses given, and for an address that is an IP the four that Consul fills in itself."""
    found: dict[str, ServiceAddress] = {}
    for name, raw in fields.table("TaggedAddresses", limit=MAX_TAGGED_ADDRESSES).items():
        if isinstance(raw, str):  # the short form of configuration files
            raw = {"address": raw, "port": port}
        place = fields.inside(f"tagged_addresses.{name:.64}", partial(_place, name, raw, fields.in_file))
        found[name] = place or ServiceAddress("", 0)
    try:
        version = ipaddress.ip_address(address).version
    except ValueError:
        return found
    for side in ("lan", "wan"):
        found.setdefault(f"{side}_ipv{version}", ServiceAddress(address, port))
    return found


def _place(name: str, raw: object, in_file: bool) -> ServiceAddress:
    at = Fields(raw, what=f"TaggedAddresses {name:.64}", known=_PLACE, in_file=in_file)
    place = ServiceAddress(_address(at), _port(at))
    at.end()
    return place


def _weights(fields: Fields) -> Weights:
    raw = fields.raw("Weights")
    if raw is None:
        return Weights()
    return fields.inside("weights", lambda: _given_weights(raw, fields.in_file)) or Weights()


def _given_weights(raw: object, in_file: bool) -> Weights:
    given = Fields(raw, known=_WEIGHTS, in_file=in_file)
    passing, warning = given.number("Passing", 1), given.number("Warning", 1)
    if not 1 <= passing <= MAX_WEIGHT:
        given.refuse("Passing", f"Invalid Weights: Passing must be from 1 to {MAX_WEIGHT}, not {passing}")
    if not 0 <= warning <= MAX_WEIGHT:
        given.refuse("Warning", f"Invalid Weights: Warning must be from 0 to {MAX_WEIGHT}, not {warning}")
    given.end()
    return Weights(passing, warning)


def _kind(fields: Fields) -> str:
    kind = fields.text("Kind")
    if kind not in _KINDS:
        fields.refuse(
            "Kind", f"Invalid service kind: {kind!r:.64}: leave the field out for an ordinary service"
        )
    return "" if kind == "typical" else kind


def _checks(fields: Fields, service: Service, policy: Policy) -> tuple[CheckDefinition, ...]:
    given = [("check", raw) for raw in (fields.raw("Check"),) if raw not in (None, {})]
    listed = enumerate(fields.items("Checks", limit=MAX_CHECKS))
    given.extend((f"checks[{number}]", raw) for number, raw in listed if raw is not None)
    found: dict[str, CheckDefinition] = {}
    for number, (path, raw) in enumerate(given, 1):
        suffix = f":{number}" if len(given) > 1 else ""
        owner = Owner(service.id, f"service:{service.id}{suffix}", f"Service '{service.service}' check")
        read = partial(parse_check, raw, from_config=fields.in_file, policy=policy, owner=owner)
        check = fields.inside(path, read)
        if check is None:
            continue
        if check.check_id in found:
            fields.refuse(path, f'Invalid check: the check ID "{check.check_id}" is given twice')
        found[check.check_id] = check
    return tuple(found.values())
