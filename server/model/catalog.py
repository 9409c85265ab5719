"""Words of the catalog: nodes, service instances, registration, and the reads over them."""

from __future__ import annotations

import msgspec

from gemot.server.model.health import Check

SERF_HEALTH = "serfHealth"
"""The node check that membership drives; critical means: no live agent on that host."""

SERVER_SERVICE = "consul"
"""The service under which the servers themselves are found (Consul's name, which clients expect)."""


class Node(msgspec.Struct, frozen=True, array_like=True):
    """A host. `id` is a UUID, or "" for a host without an agent (external service)."""

    node: str
    address: str
    id: str = ""
    datacenter: str = "dc1"
    tagged_addresses: dict[str, str] = {}
    meta: dict[str, str] = {}
    create_index: int = 0
    modify_index: int = 0


class ServiceAddress(msgspec.Struct, frozen=True, array_like=True):
    address: str
    port: int


class Weights(msgspec.Struct, frozen=True, array_like=True):
    passing: int = 1
    warning: int = 1


class Service(msgspec.Struct, frozen=True, array_like=True):
    """One instance of a service on one node. An empty `address` means the node's."""

    id: str
    service: str
    tags: tuple[str, ...] = ()
    address: str = ""
    port: int = 0
    meta: dict[str, str] = {}
    tagged_addresses: dict[str, ServiceAddress] = {}
    weights: Weights = Weights()
    enable_tag_override: bool = False
    kind: str = ""
    socket_path: str = ""
    create_index: int = 0
    modify_index: int = 0


class ServiceNode(msgspec.Struct, frozen=True, array_like=True):
    """An instance with its host: a row of `/v1/catalog/service/<name>`."""

    node: Node
    service: Service


class Instance(msgspec.Struct, frozen=True, array_like=True):
    """An instance with its host and every check that speaks for it (the node's checks first)."""

    node: Node
    service: Service
    checks: tuple[Check, ...]


class NodeDetail(msgspec.Struct, frozen=True, array_like=True):
    """A host with its services (sorted by id) and all its checks (sorted by id)."""

    node: Node
    services: tuple[Service, ...]
    checks: tuple[Check, ...]


class Register(msgspec.Struct, frozen=True, array_like=True, tag=10):
    """Put a node, and optionally services and checks on it, into the catalog. Result: True.

    An identical registration changes nothing and moves no index. With `skip_node_update` an existing
    node is left as it is. Raises RuleFailed with Consul's texts (spec: catalog register).
    """

    node: Node
    services: tuple[Service, ...] = ()
    checks: tuple[Check, ...] = ()
    skip_node_update: bool = False


class Deregister(msgspec.Struct, frozen=True, array_like=True, tag=11):
    """Take a service, a check, or (with neither named) a whole node out. Result: True, always."""

    node: str
    service_id: str = ""
    check_id: str = ""


class Nodes(msgspec.Struct, frozen=True, array_like=True, tag=10):
    """All nodes by name whose meta holds every pair of `meta`. Value: list of Node.

    Here and below, with `near` those nearest to that node come first (`coordinate.py`).
    """

    meta: dict[str, str] = {}
    near: str = ""


class NodeInfo(msgspec.Struct, frozen=True, array_like=True, tag=11):
    """One node by exact name, or by a unique id prefix of 4 or more characters. Value: NodeDetail or None."""

    node: str


class Services(msgspec.Struct, frozen=True, array_like=True, tag=12):
    """Every service name with the union of its tags. Value: dict of name to sorted list of tags."""

    node_meta: dict[str, str] = {}


class ServiceNodes(msgspec.Struct, frozen=True, array_like=True, tag=13):
    """Instances of one service that carry all `tags` (case ignored). Value: list of ServiceNode."""

    service: str
    tags: tuple[str, ...] = ()
    node_meta: dict[str, str] = {}
    near: str = ""


class HealthService(msgspec.Struct, frozen=True, array_like=True, tag=14):
    """Instances of one service with their checks. Value: list of Instance, by node name then id.

    `passing` keeps an instance only if each of its checks, the node's included, is passing.
    """

    service: str
    tags: tuple[str, ...] = ()
    node_meta: dict[str, str] = {}
    passing: bool = False
    near: str = ""
