"""What DNS asks of the catalog, in two questions. The agent answers them (`agent/names.py`).

Servers, for NS records, are the instances of the service `consul`. Nothing here knows where rows come from.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Protocol

import msgspec

from gemot.server.model.catalog import Instance, Node


class NodeAsk(msgspec.Struct, frozen=True, gc=False, tag=1):
    """The node of this name. The name is lower case, as DNS knows no other; catalog names match any case."""

    name: str


class ServiceAsk(msgspec.Struct, frozen=True, gc=False, tag=2):
    """Every instance of this service, healthy or not, whatever its tags. The name is lower case."""

    name: str


Ask = NodeAsk | ServiceAsk


class Found:
    """What the catalog holds for one question, until it changes.

    The rows never change; when they no longer hold (or are no longer watched) the catalog sets `live` to
    False, and who kept them asks again. A reader counts each use, so that the catalog knows what to keep.
    """

    __slots__ = ("instances", "live", "node", "used")

    def __init__(self, *, node: Node | None = None, instances: Sequence[Instance] = ()) -> None:
        self.node = node
        self.instances = instances
        self.live = True
        self.used = 0

    @property
    def empty(self) -> bool:
        """There is no such node, or no instance of such a service."""
        return self.node is None and not self.instances


class Catalog(Protocol):
    def peek(self, ask: Ask) -> Found | None:
        """What is known now, without waiting; None means: `fetch` it first."""

    def fetch(self, ask: Ask) -> Awaitable[None]:
        """Come to know it: after this `peek` has an answer. Raises Unavailable within a bounded time."""
