"""A service as callers and configuration files register it, with its checks.

Reads and judges; keeps nothing (that is `local.py`). The texts of mistakes begin as Consul's do, since
clients match them.
"""

from __future__ import annotations

import ipaddress
import re

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
from gemot.server.model.errors import BadRequest
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

_FIELDS = names(
    "id name tags port address socketpath taggedaddresses meta kind enabletagoverride weights check checks "
    "token namespace partition"
)
IGNORED = names("proxy connect locality ports peername datacenter contenthash createindex modifyindex")
"""Fields of Consul that are read and have no effect here: a mesh, zones, and what answers carry."""

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
    """One service. Raises BadRequest, or RuleFailed for a script check."""
    fields = Fields(raw, what=_what(raw, from_config), known=_FIELDS, ignored=IGNORED)
    fields.default_only("namespace", "partition")
    name = printable("service name", fields.text("Name", limit=MAX_ID_BYTES))
    if not name:
        raise BadRequest("Missing service name")
    service_id = printable("service ID", fields.text("ID", limit=MAX_ID_BYTES) or name)
    if fold(service_id) == SERVER_SERVICE:
        raise BadRequest(f'Invalid service ID: "{SERVER_SERVICE}" is the servers\' own, choose another one')
    address, port = _address(fields.text("Address", limit=MAX_ADDRESS_BYTES)), _port(fields)
    service = Service(
        id=service_id,
        service=name,
        tags=fields.texts("Tags", limit=MAX_TAGS),
        address=address,
        port=port,
        meta=_meta(fields),
        tagged_addresses=_tagged_addresses(fields, address, port),
        weights=_weights(fields, from_config),
        enable_tag_override=fields.flag("EnableTagOverride"),
        kind=_kind(fields),
        socket_path=fields.text("SocketPath"),
    )
    checks = _checks(fields, service, from_config, policy)
    return Registration(service, checks, fields.text("Token"), fields.ignored)


def _what(raw: object, from_config: bool) -> str:
    if not from_config:
        return "Request decode failed"
    name = raw.get("name") or raw.get("id") if isinstance(raw, dict) else None
    return f'service "{name}"' if isinstance(name, str) else "service"


def _address(address: str) -> str:
    if address in _ANY_ADDRESS or not address.isprintable() or " " in address:
        raise BadRequest(
            f"Invalid service address: {address!r:.64}: want an address that others can connect to"
        )
    return address


def _port(fields: Fields) -> int:
    port = fields.number("Port")
    if not 0 <= port <= 65535:
        raise BadRequest(f"Invalid service port: {port} is not from 0 to 65535")
    return port


def _meta(fields: Fields) -> dict[str, str]:
    given = fields.table("Meta", limit=1 << 16)
    if len(given) > MAX_META_PAIRS:
        raise BadRequest(
            f"Invalid Service Meta: Node metadata cannot contain more than {MAX_META_PAIRS} key/value pairs"
        )
    meta: dict[str, str] = {}
    for key, value in given.items():
        if not isinstance(value, str):
            raise fields.mistake(f"field Meta: the value of {key!r:.64} wants to be a text")
        problem = meta_problem(key, value)
        if problem:
            raise BadRequest(f"Invalid Service Meta: {problem}")
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
        at = Fields(
            raw, what=f"TaggedAddresses {name:.64}", known=frozenset(("address", "port")), ignored=frozenset()
        )
        found[name] = ServiceAddress(_address(at.text("Address", limit=MAX_ADDRESS_BYTES)), _port(at))
    try:
        version = ipaddress.ip_address(address).version
    except ValueError:
        return found
    for side in ("lan", "wan"):
        found.setdefault(f"{side}_ipv{version}", ServiceAddress(address, port))
    return found


def _weights(fields: Fields, from_config: bool) -> Weights:
    if fields.raw("Weights") is None:
        return Weights()
    given = Fields(
        fields.raw("Weights"),
        what="Invalid Weights" if from_config else "Request decode failed",
        known=frozenset(("passing", "warning")),
        ignored=frozenset(),
    )
    passing, warning = given.number("Passing", 1), given.number("Warning", 1)
    if not 1 <= passing <= MAX_WEIGHT:
        raise BadRequest(f"Invalid Weights: Passing must be from 1 to {MAX_WEIGHT}, not {passing}")
    if not 0 <= warning <= MAX_WEIGHT:
        raise BadRequest(f"Invalid Weights: Warning must be from 0 to {MAX_WEIGHT}, not {warning}")
    return Weights(passing, warning)


def _kind(fields: Fields) -> str:
    kind = fields.text("Kind")
    if kind not in _KINDS:
        raise BadRequest(f"Invalid service kind: {kind!r:.64}: leave the field out for an ordinary service")
    return "" if kind == "typical" else kind


def _checks(
    fields: Fields, service: Service, from_config: bool, policy: Policy
) -> tuple[CheckDefinition, ...]:
    given = [raw for raw in (fields.raw("Check"),) if raw not in (None, {})]
    given.extend(raw for raw in fields.items("Checks", limit=MAX_CHECKS) if raw is not None)
    found: dict[str, CheckDefinition] = {}
    for number, raw in enumerate(given, 1):
        suffix = f":{number}" if len(given) > 1 else ""
        owner = Owner(service.id, f"service:{service.id}{suffix}", f"Service '{service.service}' check")
        check = parse_check(raw, from_config=from_config, policy=policy, owner=owner)
        if check.check_id in found:
            raise BadRequest(f'Invalid check: the check ID "{check.check_id}" is given twice')
        found[check.check_id] = check
    return tuple(found.values())
