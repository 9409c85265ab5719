"""A catalog in memory for DNS, made of the real words, and short ways to make rows for it."""

from __future__ import annotations

from collections.abc import Iterable

from gemot.dns.catalog import Ask, Found, NodeAsk, ServiceAsk
from gemot.server.model.catalog import Instance, Node, Service, ServiceAddress, Weights
from gemot.server.model.errors import Unavailable
from gemot.server.model.health import Check, Status


class MemoryCatalog:
    """Knows at once what was put in. With `cold` each thing is known only after it was fetched."""

    def __init__(self, *, cold: bool = False) -> None:
        self.cold = cold
        self.failing = False
        self.fetched: list[Ask] = []
        self._nodes: dict[str, Node] = {}
        self._instances: dict[str, tuple[Instance, ...]] = {}
        self._found: dict[Ask, Found] = {}

    def put_node(self, node: Node) -> None:
        self._nodes[node.node.lower()] = node
        self._change(NodeAsk(node.node.lower()))

    def put_service(self, name: str, instances: Iterable[Instance]) -> None:
        self._instances[name.lower()] = tuple(instances)
        self._change(ServiceAsk(name.lower()))

    def peek(self, ask: Ask) -> Found | None:
        if not self.cold and ask not in self._found:
            self.learn(ask)
        return self._found.get(ask)

    async def fetch(self, ask: Ask) -> None:
        self.fetched.append(ask)
        if self.failing:
            raise Unavailable("the catalog does not answer")
        self.learn(ask)

    def learn(self, ask: Ask) -> None:
        if isinstance(ask, NodeAsk):
            self._found[ask] = Found(node=self._nodes.get(ask.name))
        else:
            self._found[ask] = Found(instances=self._instances.get(ask.name, ()))

    def _change(self, ask: Ask) -> None:
        found = self._found.pop(ask, None)
        if found is not None:
            found.live = False


def make_node(
    name: str = "n1",
    address: str = "10.0.0.1",
    *,
    meta: dict[str, str] | None = None,
    tagged: dict[str, str] | None = None,
) -> Node:
    return Node(name, address, tagged_addresses=tagged or {}, meta=meta or {})


def make_instance(
    node: Node | str = "n1",
    *,
    service: str = "web",
    port: int = 80,
    address: str = "",
    tags: tuple[str, ...] = (),
    statuses: tuple[Status, ...] = ("passing",),
    weights: Weights | None = None,
    tagged: dict[str, str] | None = None,
) -> Instance:
    if isinstance(node, str):
        node = make_node(node)
    checks = tuple(
        Check(node.node, f"check{at}", f"check {at}", status) for at, status in enumerate(statuses)
    )
    tagged_addresses = {name: ServiceAddress(value, port) for name, value in (tagged or {}).items()}
    row = Service(
        f"{service}-{port}",
        service,
        tags=tags,
        address=address,
        port=port,
        tagged_addresses=tagged_addresses,
        weights=weights or Weights(),
    )
    return Instance(node, row, checks)


def make_farm(count: int, *, service: str = "web") -> list[Instance]:
    """So many healthy instances, each on a node of its own with an address of its own."""
    return [
        make_instance(make_node(f"node{at}", f"10.1.{at // 250}.{at % 250 + 1}"), service=service)
        for at in range(count)
    ]
