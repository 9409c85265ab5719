"""How a simulated server that has no data finds the others: what its agent's `retry_join` does.

It asks each address who the servers are until it belongs to a cluster. What the answers are good for, and
whether it may belong, is decided by the real thing (`server/joining.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gemot.server.rpc.message import Join, Joined

if TYPE_CHECKING:
    from simulation.node import Node

AGAIN_US = 500_000


def seek(node: Node) -> None:
    """Ask everyone, now and again while it belongs nowhere."""
    server = node.server
    assert server is not None
    if server.endpoint.hello().cluster:
        return
    for other in list(node.nodes.values()):
        if other is not node:
            node.call(other.member, Join(0), lambda result: _heard(node, result))
    node.later(AGAIN_US, f"{node.name} seeks", lambda: seek(node))


def _heard(node: Node, result: Any) -> None:
    server = node.server
    if server is None or not isinstance(result, Joined):
        return
    server.operator.joining.met(result.servers, result.cluster)
    for member in result.servers:
        server.directory.hint(member)
        server.bootstrap.rumoured(member)
