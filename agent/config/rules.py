"""What the whole tree must satisfy: values that are each well formed, and that go together.

A rule yields (paths concerned, message); the loader says which sources set those paths.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from ipaddress import ip_address

from gemot.agent.config.address import is_address, is_loopback, is_template, listed
from gemot.agent.config.schema import Config
from gemot.agent.gossip.keyring import Key
from gemot.agent.gossip.limits import LABEL_BYTES
from gemot.agent.gossip.message import NAME_BYTES
from gemot.server.model.errors import BadRequest

Finding = tuple[tuple[str, ...], str]

MAX_META_PAIRS = 64
MAX_META_KEY = 128
MAX_META_VALUE = 512

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\Z")
_DATACENTER = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_META_KEY = re.compile(r"[A-Za-z0-9_-]+\Z")
_DOMAIN = re.compile(
    r"([A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.)*[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.?\Z"
)
_DNS_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\Z")
_HOSTNAME = re.compile(r"[A-Za-z0-9_.-]{1,253}\Z")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}\Z")


def faults(config: Config) -> Iterator[Finding]:
    """Everything that keeps this configuration from being used."""
    for rule in _RULES:
        yield from rule(config)


def warnings(config: Config) -> Iterator[Finding]:
    """What may be meant, and often is not."""
    if config.node_name and not _DNS_LABEL.match(config.node_name):
        yield ("node_name",), "cannot be looked up by DNS: only letters, digits and dashes can, 63 at most"
    if config.bootstrap_expect == 2:
        yield ("bootstrap_expect",), "2 servers stop when either fails: use 1, 3 or 5"
    elif config.bootstrap_expect and config.bootstrap_expect % 2 == 0:
        yield ("bootstrap_expect",), "an even number survives no more failures than one server fewer"
    if config.dev_mode and config.data_dir:
        yield ("data_dir",), "is used, but with -dev writes are not waited for: a power cut loses some"
    if config.snapshot_agent.enabled and not config.server:
        yield ("snapshot_agent.enabled",), "does nothing here: the server that leads takes the snapshots"
    if config.encrypt and config.encrypt_verify_incoming and not config.encrypt_verify_outgoing:
        yield (
            ("encrypt_verify_outgoing",),
            "is off while encrypt_verify_incoming is on: of two such agents none takes what the other sends",
        )
    yield from _unsealed(config)
    if not config.server and not config.retry_join:
        yield ("retry_join",), "is empty: this agent finds no server until `gemot join` names one"


def _unsealed(config: Config) -> Iterator[Finding]:
    """Settings of encryption that nothing is encrypted by; a keyring file may be there, though."""
    unchecked = not (config.encrypt_verify_incoming and config.encrypt_verify_outgoing)
    if config.disable_keyring_file and not config.encrypt:
        yield ("disable_keyring_file", "encrypt"), "without a key gossip is in clear: set encrypt"
    elif unchecked and not config.encrypt:
        yield (
            ("encrypt",),
            "is not set: unless there is a keyring file, gossip is in clear whatever is verified",
        )


def _server(config: Config) -> Iterator[Finding]:
    if not config.data_dir and not config.dev_mode:
        yield ("data_dir",), "must be set: the directory that keeps this agent's state (or use -dev)"
    if config.bootstrap and config.bootstrap_expect:
        also = " (-dev sets bootstrap)" if config.dev_mode else ""
        yield ("bootstrap", "bootstrap_expect"), f"exclude each other{also}: keep one"
    if config.bootstrap and not config.server:
        yield ("bootstrap", "server"), "bootstrap needs server = true"
    if config.bootstrap_expect and not config.server:
        yield ("bootstrap_expect", "server"), "bootstrap_expect needs server = true"
    if config.server and config.ports.server < 0:
        yield ("ports.server", "server"), "a server needs this port"
    if config.unsafe_no_fsync and not config.dev_mode:
        yield (
            ("unsafe_no_fsync",),
            "only with -dev: without it acknowledged writes would be lost in a power cut",
        )


def _snapshot_agent(config: Config) -> Iterator[Finding]:
    path = config.snapshot_agent.path
    if config.snapshot_agent.enabled and not path:
        yield ("snapshot_agent.path",), "must be set: the directory that the snapshots are kept in"
    elif path and not path.startswith("/"):
        yield ("snapshot_agent.path",), f'must be an absolute path, got "{path[:60]}"'


def _script_checks(config: Config) -> Iterator[Finding]:
    """Consul's remote code execution by way of the API (consul #5290): no setting allows it here."""
    if not config.enable_script_checks or config.ports.http < 0:
        return
    where = "addresses.http" if config.addresses.http else "client_addr"
    exposed = [a for a in listed(config.addresses.http or config.client_addr) if not is_loopback(a)]
    if exposed:
        yield (
            ("enable_script_checks", where),
            f"checks may run commands while HTTP listens on {exposed[0]}: listen on loopback only, "
            "or use enable_local_script_checks, which allows commands in files alone",
        )


def _identity(config: Config) -> Iterator[Finding]:
    name = config.node_name
    size = len(name.encode("utf-8", "replace"))
    if size > NAME_BYTES:
        yield ("node_name",), f"has {size} bytes; {NAME_BYTES} at most (letters beyond ASCII take 2 to 4)"
    if not name.isprintable() or name != name.strip() or "/" in name:
        yield ("node_name",), "must be printable characters, without slashes, and no blanks at its ends"
    if config.node_id and not _UUID.match(config.node_id):
        yield ("node_id",), "must be a UUID such as 5f2b6c1e-8d1a-4c57-9a3e-0d7f8a6b4c21"
    if not _DATACENTER.match(config.datacenter):
        yield (
            ("datacenter",),
            "must be 1 to 64 letters, digits, dashes and underscores: it is part of DNS names",
        )
    if len(config.node_meta) > MAX_META_PAIRS:
        yield ("node_meta",), f"has {len(config.node_meta)} pairs; {MAX_META_PAIRS} at most"
    for key, value in config.node_meta.items():
        path = f"node_meta.{key[:60]}"
        if not _META_KEY.match(key) or len(key) > MAX_META_KEY:
            yield (path,), f"a key is 1 to {MAX_META_KEY} letters, digits, dashes and underscores"
        if key.startswith("consul-"):
            yield (path,), "keys that start with consul- are reserved"
        if len(value) > MAX_META_VALUE:
            yield (path,), f"the value has {len(value)} characters; {MAX_META_VALUE} at most"


def _names(config: Config) -> Iterator[Finding]:
    for path, domain in (("domain", config.domain), ("alt_domain", config.alt_domain)):
        if (domain or path == "domain") and (len(domain) > 128 or not _DOMAIN.match(domain)):
            yield (path,), 'must be a domain name such as "consul" or "consul.example.com"'
    if config.alt_domain and config.alt_domain.rstrip(".").lower() == config.domain.rstrip(".").lower():
        yield ("domain", "alt_domain"), "are the same"


def _addresses(config: Config) -> Iterator[Finding]:
    for path, address in (("bind_addr", config.bind_addr), ("advertise_addr", config.advertise_addr)):
        parts = listed(address)
        if address and (len(parts) != 1 or not (is_template(parts[0]) or is_address(parts[0]))):
            yield (path,), f'must be one IP address, got "{address[:60]}"'
    if not config.bind_addr:
        yield ("bind_addr",), "must be an IP address; 0.0.0.0 is every one of this host"
    if is_address(config.advertise_addr) and ip_address(config.advertise_addr).is_unspecified:
        yield ("advertise_addr",), f"{config.advertise_addr} cannot be reached by others: name one address"
    yield from _families(config)
    for path, text in (
        ("client_addr", config.client_addr),
        ("addresses.dns", config.addresses.dns),
        ("addresses.http", config.addresses.http),
    ):
        yield from _listeners(path, text)
    for tag, address in config.tagged_addresses.items():
        if not is_address(address):
            yield (f"tagged_addresses.{tag[:60]}",), f'must be an IP address, got "{address[:60]}"'


def _families(config: Config) -> Iterator[Finding]:
    """`::` is every IPv6 address and no IPv4 one, here as for connections: what is told must be one of it."""
    bind, told = config.bind_addr, config.advertise_addr
    if is_address(bind) and is_address(told):
        bound, advertised = ip_address(bind), ip_address(told)
        if bound.is_unspecified and not advertised.is_unspecified and bound.version != advertised.version:
            yield (
                ("bind_addr", "advertise_addr"),
                f"{bind} takes IPv{bound.version} alone, so {told} would not be answered: "
                f"bind {'0.0.0.0' if advertised.version == 4 else '::'}, or the address itself",
            )


def _listeners(path: str, text: str) -> Iterator[Finding]:
    if path == "client_addr" and not text.strip():
        yield (path,), "must be an IP address; to turn listeners off set their ports to -1"
    for address in listed(text):
        if address.startswith("unix:"):
            yield (path,), "unix sockets are not served: give an IP address"
        elif not is_template(address) and not is_address(address):
            yield (path,), f'must be IP addresses separated by spaces, got "{address[:60]}"'


def _ports(config: Config) -> Iterator[Finding]:
    dns, http = (listed(own or config.client_addr) for own in (config.addresses.dns, config.addresses.http))
    users = [
        ("ports.dns", config.ports.dns, dns),
        ("ports.http", config.ports.http, http),
        ("ports.server", config.ports.server, [config.bind_addr]),
        ("ports.serf_lan", config.ports.serf_lan, [config.bind_addr]),
    ]
    for number, (path, port, at) in enumerate(users):
        if port == 0:
            yield (path,), "0 is no port; -1 turns the listener off"
        for other, its_port, its_at in users[:number]:
            if port == its_port and port > 0 and _overlap(at, its_at):
                yield (other, path), f"both use port {port}"


def _overlap(one: list[str], other: list[str]) -> bool:
    """Whether two listeners may meet. A template may stand for any address."""
    both = [*one, *other]
    if any(is_template(a) or (is_address(a) and ip_address(a).is_unspecified) for a in both):
        return True
    return not set(one).isdisjoint(other)


def _joining(config: Config) -> Iterator[Finding]:
    for number, place in enumerate(config.retry_join):
        path = f"retry_join[{number}]"
        if place.startswith("provider=") or " " in place.strip():
            yield (
                (path,),
                "servers are not looked up in clouds: name hosts, or a DNS name with several addresses",
            )
        elif not _is_place(place):
            yield (path,), f'must be host or host:port, IPv6 as [::1]:8301; got "{place[:60]}"'


def _is_place(text: str) -> bool:
    if is_address(text):
        return True
    bracketed = re.fullmatch(r"\[([^\]]{2,45})\](?::([0-9]{1,5}))?", text)
    if bracketed:
        return is_address(bracketed[1]) and _is_port(bracketed[2])
    host, _, port = text.partition(":")
    return bool(_HOSTNAME.match(host)) and (_is_port(port) if ":" in text else True)


def _is_port(text: str | None) -> bool:
    return text is None or (text.isascii() and text.isdigit() and 0 < int(text) <= 65535)


def _http(config: Config) -> Iterator[Finding]:
    if config.default_query_time_s > config.max_query_time_s:
        yield ("default_query_time", "max_query_time"), "the default is longer than the longest"
    for name, value in config.http_config.response_headers.items():
        path = f"http_config.response_headers.{name[:60]}"
        if not _HEADER_NAME.match(name):
            yield (path,), "is no name for a header"
        if len(value) > 4096 or not all(letter == "\t" or letter.isprintable() for letter in value):
            yield (path,), "a header's value is at most 4096 printable characters on one line"
    for number, name in enumerate(config.http_config.allowed_hosts):
        if name != "*" and not _HOSTNAME.match(name):
            yield (
                (f"http_config.allowed_hosts[{number}]",),
                f'must be a host name, ".example.com" for all below it, or "*"; got "{name[:60]}"',
            )


def _gossip(config: Config) -> Iterator[Finding]:
    if config.encrypt:
        try:
            Key.parse(config.encrypt)
        except BadRequest as error:
            yield ("encrypt",), error.message.partition(": ")[2]
        if config.ports.serf_lan < 0:
            yield ("encrypt", "ports.serf_lan"), "gossip is off, so nothing would be encrypted: turn it on"
    label = config.gossip_label
    label_bytes = len(label.encode("utf-8", "replace"))
    if label_bytes > LABEL_BYTES or not label.isprintable():
        yield (
            ("gossip_label",),
            f"must be at most {LABEL_BYTES} bytes of printable characters, got {label_bytes}",
        )
    if config.advertise_reconnect_timeout_s and config.server:
        yield ("advertise_reconnect_timeout", "server"), "can only be used on a client agent"
    given = config.gossip_lan
    if given.probe_timeout_s >= given.probe_interval_s:
        yield (
            ("gossip_lan.probe_timeout", "gossip_lan.probe_interval"),
            f"the timeout ({given.probe_timeout_s:g} s) must be shorter than the interval "
            f"({given.probe_interval_s:g} s): in what is left others are asked to try",
        )
    if given.gossip_interval_s > given.probe_interval_s:
        yield (
            ("gossip_lan.gossip_interval", "gossip_lan.probe_interval"),
            f"gossip (each {given.gossip_interval_s:g} s) must be at least as frequent as probes (each "
            f"{given.probe_interval_s:g} s): who is suspected has to hear of it in time",
        )


_RULES: tuple[Callable[[Config], Iterator[Finding]], ...] = (
    _server,
    _snapshot_agent,
    _script_checks,
    _identity,
    _names,
    _addresses,
    _ports,
    _joining,
    _gossip,
    _http,
)
