"""One key as the agent tells it, and how it is read from an answer. Pure."""

from __future__ import annotations

import base64
from typing import Any

import msgspec

from gemot.agent.client.connection import NotAnAgent, Reply


class Entry(msgspec.Struct, frozen=True):
    """One key as the agent tells it."""

    key: str
    value: bytes
    flags: int
    lock_index: int
    session: str
    create_index: int
    modify_index: int
    fence: int
    """Of the last acquisition of its lock; 0 if it was never locked."""

    ttl: str = ""
    """How long it lives from its last write, as Go writes durations; "" for ever."""

    expires_in: str = ""
    """What was left of that; told by `get` alone."""


def entries(reply: Reply) -> list[Entry]:
    """Those of an answer, none for 404. Raises NotAnAgent for what is no list of entries."""
    return read_entries(reply.json() if reply.status == 200 else [])


def read_entries(rows: Any) -> list[Entry]:
    """Of decoded JSON. Raises NotAnAgent for what is no list of entries."""
    try:
        return [entry_of(raw) for raw in rows]
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise NotAnAgent(
            f"the answer is no list of keys ({error!r:.100}): is this the API of an agent?"
        ) from error


def entry_of(raw: dict[str, Any]) -> Entry:
    """One key of an answer. Raises what a dict and base64 do for what is none."""
    return Entry(
        key=raw["Key"],
        value=base64.b64decode(raw["Value"] or ""),
        flags=raw["Flags"],
        lock_index=raw["LockIndex"],
        session=raw.get("Session", ""),
        create_index=raw["CreateIndex"],
        modify_index=raw["ModifyIndex"],
        fence=raw.get("Fence", 0),
        ttl=raw.get("TTL", ""),
    )
