"""Members and hellos for tests of the tier."""

from __future__ import annotations

from typing import Literal

from gemot.server.rpc.message import PROTOCOL_MAX, PROTOCOL_MIN, Hello, Member


def server(number: int, **changes: str) -> Member:
    fields = {
        "id": f"0000000{number}-0000-4000-8000-000000000000",
        "name": f"srv{number}",
        "address": f"10.0.0.{number}",
        "rpc": f"10.0.0.{number}:8300",
    } | changes
    return _member("server", fields)


def client(number: int, **changes: str) -> Member:
    fields = {
        "id": f"1000000{number}-0000-4000-8000-000000000000",
        "name": f"web{number}",
        "address": f"10.0.1.{number}",
        "rpc": "",
    } | changes
    return _member("client", fields)


def hello(
    member: Member,
    *,
    cluster: str = "",
    protocols: tuple[int, int] | None = None,
    features: tuple[str, ...] = (),
) -> Hello:
    """Without `features`, one of the first release."""
    low, high = protocols or (PROTOCOL_MIN, PROTOCOL_MAX)
    return Hello(low, high, cluster, member, features)


def _member(role: Literal["server", "client"], fields: dict[str, str]) -> Member:
    return Member(
        id=fields["id"],
        name=fields["name"],
        address=fields["address"],
        role=role,
        datacenter=fields.get("datacenter", "dc1"),
        build="1.0.0",
        rpc=fields["rpc"],
    )
