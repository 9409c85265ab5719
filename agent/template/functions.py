"""What a template can ask: the functions it calls, the rows it gets, and the record of what it asked for.

One `Reads` serves one evaluation, on a worker thread: it holds the answers known when that began, notes
every question, and never waits. A question without an answer gives `Pending`, which prints as nothing and
iterates as nothing, and ends the evaluation where its value would decide anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from gemot.agent.template.dependencies import FileRead, Need, describe, key_of
from gemot.agent.template.errors import TemplateFailed
from gemot.agent.template.pending import Pending, Unresolved
from gemot.server.model.catalog import HealthService, Instance, Node, NodeDetail, NodeInfo, Nodes, Services
from gemot.server.model.health import NODE_MAINTENANCE, SERVICE_MAINTENANCE_PREFIX, Check
from gemot.server.model.kv import MAX_KEY_BYTES, KvEntry, KvGet, KvList

MAX_NEEDS = 4096
"""Most different questions of one evaluation."""

STATUSES = ("passing", "warning", "critical", "maintenance")


FUNCTIONS = (
    "key",
    "key_exists",
    "key_or_default",
    "ls",
    "tree",
    "service",
    "services",
    "node",
    "nodes",
    "env",
    "file",
)
"""What a template can call: methods of `Reads`."""


class KeyRow(msgspec.Struct, frozen=True):
    """A key below a folder. `key` is relative to the folder asked for, `path` is the whole key."""

    key: str
    value: str
    path: str
    flags: int
    session: str
    lock_index: int
    create_index: int
    modify_index: int


class InstanceRow(msgspec.Struct, frozen=True):
    """An instance of a service. `address` is the service's own, else its node's; `status` the worst of its
    checks and its node's, or "maintenance"."""

    id: str
    name: str
    node: str
    address: str
    port: int
    tags: tuple[str, ...]
    meta: dict[str, str]
    status: str
    weight: int
    node_id: str
    node_address: str
    node_meta: dict[str, str]


class ServiceRow(msgspec.Struct, frozen=True):
    """A service that exists, with the tags of all its instances."""

    name: str
    tags: tuple[str, ...]


class NodeRow(msgspec.Struct, frozen=True):
    """A host. `node` is its name too, as Consul calls that field."""

    name: str
    node: str
    id: str
    address: str
    datacenter: str
    meta: dict[str, str]


class NodeView(msgspec.Struct, frozen=True):
    """A host and the instances registered on it, by id."""

    node: NodeRow
    services: tuple[InstanceRow, ...]


class Reads:
    """The questions of one evaluation. `known` maps the keys of needs to answers' values."""

    def __init__(self, *, known: Mapping[bytes, Any], environ: Mapping[str, str], node: str = "") -> None:
        self.needs: dict[bytes, Need] = {}
        self.unanswered: dict[bytes, Need] = {}
        self.absent: dict[bytes, Need] = {}
        """Answered, but by what must exist and does not."""
        self._known = known
        self._environ = environ
        self._node = node

    @property
    def too_many(self) -> bool:
        """A failure whatever the answers are."""
        return len(self.needs) > MAX_NEEDS

    @property
    def complete(self) -> bool:
        return not self.unanswered and not self.absent

    def functions(self) -> dict[str, Callable[..., Any]]:
        return {name: getattr(self, name) for name in FUNCTIONS}

    def key(self, path: str) -> str | Pending:
        """The value of a key. A key that does not exist keeps the template from being written."""
        need = KvGet(_key_bytes("key", path))
        entry = self._ask(need)
        if entry is None:
            self.absent[key_of(need)] = need
            return Pending()
        return entry if isinstance(entry, Pending) else _text(entry.value)

    def key_exists(self, path: str) -> bool | Pending:
        entry = self._ask(KvGet(_key_bytes("key_exists", path)))
        return entry if isinstance(entry, Pending) else entry is not None

    def key_or_default(self, path: str, default: object) -> object:
        """The value of a key, or the default when it is missing or empty."""
        entry = self._ask(KvGet(_key_bytes("key_or_default", path)))
        if isinstance(entry, Pending):
            return entry
        return _text(entry.value) if entry is not None and entry.value else default

    def ls(self, prefix: str) -> list[KeyRow] | Pending:
        """The keys right below a folder, without the folders below it."""
        rows = self._below("ls", prefix)
        return rows if isinstance(rows, Pending) else [row for row in rows if "/" not in row.key]

    def tree(self, prefix: str) -> list[KeyRow] | Pending:
        """Every key below a folder; keys that end in "/" are folders themselves and left out."""
        rows = self._below("tree", prefix)
        return rows if isinstance(rows, Pending) else [row for row in rows if not row.key.endswith("/")]

    def service(self, name: str, *statuses: str, tag: str = "") -> list[InstanceRow] | Pending:
        """Instances by node and id: those passing, or in one of `statuses` ("any" for all).

        `name` may be "tag.name", and may end in "|status,status". With `tag` given it is taken as it is.
        """
        name, wanted = _split_service(name, statuses, tag)
        if not tag and "." in name:
            tag, _, name = name.rpartition(".")
        if not name or len(name) > 1024 or len(tag) > 1024:
            raise TemplateFailed(f"service: {name[:80]!r} is not the name of a service")
        only_passing = wanted == {"passing"}
        found = self._ask(HealthService(name, (tag,) if tag else (), passing=only_passing))
        if isinstance(found, Pending):
            return found
        rows = [_instance(instance) for instance in found]
        return rows if only_passing else [row for row in rows if row.status in wanted]

    def services(self) -> list[ServiceRow] | Pending:
        found = self._ask(Services())
        if isinstance(found, Pending):
            return found
        return [ServiceRow(name, tuple(tags)) for name, tags in sorted(found.items())]

    def node(self, name: str = "") -> NodeView | Pending | None:
        """A host with its services, None if there is no such host. Without a name: this agent's own."""
        name = _name("node", name) or self._node
        if not name:
            raise TemplateFailed("node: needs the name of a node here, no agent of this host is asked")
        found = self._ask(NodeInfo(name))
        return found if isinstance(found, Pending) or found is None else _node_view(found)

    def nodes(self) -> list[NodeRow] | Pending:
        found = self._ask(Nodes())
        return found if isinstance(found, Pending) else [_node_row(node) for node in found]

    def env(self, name: str, default: str = "") -> str:
        """A variable of the agent's environment, or the default."""
        return self._environ.get(_name("env", name), default)

    def file(self, path: str) -> str | Pending:
        """The text of a file on this host. One that does not exist keeps the template from being written."""
        name = _name("file", path)
        if not name.startswith("/"):
            raise TemplateFailed(f"file: {name[:200]!r} is not an absolute path")
        need = FileRead(name)
        data = self._ask(need)
        if data is None:
            self.absent[key_of(need)] = need
            return Pending()
        return data if isinstance(data, Pending) else _text(data)

    def _below(self, function: str, prefix: str) -> list[KeyRow] | Pending:
        folder = _key_bytes(function, prefix)
        if folder and not folder.endswith(b"/"):
            folder += b"/"
        entries = self._ask(KvList(folder))
        if isinstance(entries, Pending):
            return entries
        return [_key_row(entry, len(folder)) for entry in entries if len(entry.key) > len(folder)]

    def _ask(self, need: Need) -> Any:
        key = key_of(need)
        self.needs[key] = need
        if self.too_many:
            raise TemplateFailed(
                f"it asks for more than {MAX_NEEDS} different things, the limit (last {describe(need)}): "
                "use tree or ls in place of many keys"
            )
        if key in self._known:
            return self._known[key]
        self.unanswered[key] = need
        return Pending()


def _name(function: str, value: object) -> str:
    if isinstance(value, Pending):
        raise Unresolved
    if not isinstance(value, str):
        raise TemplateFailed(f"{function}: works on text, got {type(value).__name__}")
    if len(value) > MAX_KEY_BYTES or "\0" in value:
        raise TemplateFailed(
            f"{function}: a name of at most {MAX_KEY_BYTES} characters without NUL is needed"
        )
    return value


def _key_bytes(function: str, path: object) -> bytes:
    """A key as it is stored. One leading "/" is dropped, as Consul's tools do."""
    name = _name(function, path).removeprefix("/")
    if function.startswith("key") and not name:
        raise TemplateFailed(f"{function}: the key is empty")
    data = name.encode("utf-8", "surrogateescape")
    if len(data) > MAX_KEY_BYTES:
        raise TemplateFailed(f"{function}: the key is longer than {MAX_KEY_BYTES} bytes")
    return data


def _text(data: bytes) -> str:
    """Text that gives the very same bytes back when it is written, whatever they are."""
    return data.decode("utf-8", "surrogateescape")


def _key_row(entry: KvEntry, folder: int) -> KeyRow:
    return KeyRow(
        key=_text(entry.key[folder:]),
        value=_text(entry.value),
        path=_text(entry.key),
        flags=entry.flags,
        session=entry.session,
        lock_index=entry.lock_index,
        create_index=entry.create_index,
        modify_index=entry.modify_index,
    )


def _split_service(name: object, statuses: tuple[object, ...], tag: object) -> tuple[str, set[str]]:
    text, _, behind = _name("service", name).partition("|")
    _name("service", tag)
    given = [behind, *(_name("service", status) for status in statuses)]
    wanted = {status.strip() for part in given for status in part.split(",") if status.strip()}
    if "@" in text:
        raise TemplateFailed(f"service: {text[:80]!r}: other datacenters cannot be asked")
    unknown = sorted(wanted - {*STATUSES, "any"})
    if unknown:
        raise TemplateFailed(
            f"service: {unknown[0][:80]!r} is not a status: give {', '.join(STATUSES)} or any; "
            "a tag is given as tag.name or tag="
        )
    return text.strip(), set(STATUSES) if "any" in wanted else wanted or {"passing"}


def _instance(instance: Instance) -> InstanceRow:
    node, service = instance.node, instance.service
    status = _status(instance.checks)
    weights = service.weights
    return InstanceRow(
        id=service.id,
        name=service.service,
        node=node.node,
        address=service.address or node.address,
        port=service.port,
        tags=service.tags,
        meta=service.meta,
        status=status,
        weight=weights.warning if status == "warning" else weights.passing,
        node_id=node.id,
        node_address=node.address,
        node_meta=node.meta,
    )


def _status(checks: tuple[Check, ...]) -> str:
    """The worst of these; maintenance goes before all."""
    worst = 0
    for check in checks:
        if check.check_id == NODE_MAINTENANCE or check.check_id.startswith(SERVICE_MAINTENANCE_PREFIX):
            return "maintenance"
        worst = max(worst, STATUSES.index(check.status))
    return STATUSES[worst]


def _node_row(node: Node) -> NodeRow:
    return NodeRow(node.node, node.node, node.id, node.address, node.datacenter, node.meta)


def _node_view(detail: NodeDetail) -> NodeView:
    instances = []
    for service in detail.services:
        checks = tuple(check for check in detail.checks if check.service_id in ("", service.id))
        instances.append(_instance(Instance(detail.node, service, checks)))
    return NodeView(_node_row(detail.node), tuple(instances))
