"""Parts that the template tests share: answers in the shapes of the model, and a way to wait for a fact."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from gemot.server.model.catalog import Instance, Node, Service, Weights
from gemot.server.model.health import Check
from gemot.server.model.kv import KvEntry

WAIT_S = 20.0


def entry(key: str, value: str | bytes, index: int = 1) -> KvEntry:
    data = value.encode() if isinstance(value, str) else value
    return KvEntry(key.encode(), data, 0, 0, "", 1, index)


def instance(
    name: str,
    node: str,
    address: str = "",
    port: int = 80,
    status: Literal["passing", "warning", "critical"] = "passing",
    check_id: str = "c",
    tags: tuple[str, ...] = (),
) -> Instance:
    return Instance(
        Node(node, f"10.0.0.{len(node)}", meta={"rack": "r1"}),
        Service(f"{name}-{port}", name, tags, address, port, {"v": "1"}, weights=Weights(10, 1)),
        (Check(node, check_id, check_id, status, service_id=f"{name}-{port}"),),
    )


def mark(path: Path) -> tuple[int, ...]:
    """Differs if the file was written, replaced, or its mode or owner changed; reading it does not count."""
    found = path.stat()
    return (found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_mode, found.st_uid, found.st_size)


async def until(fact: Callable[[], object], what: str = "the expected state") -> None:
    """Come back when the fact holds; fail if it does not within a generous bound."""
    deadline = time.monotonic() + WAIT_S
    while not fact():
        assert time.monotonic() < deadline, f"{what} did not come about in {WAIT_S:g} s"
        await asyncio.sleep(0.005)
