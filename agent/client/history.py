"""The history of keys through an agent: revisions, keys as they were, and a plan that brings them back.

A plan is compared and written in one transaction, each key only if nobody has changed it meanwhile.
"""

from __future__ import annotations

import base64
import json
from typing import Any, Literal

import msgspec

from gemot.agent.client.connection import ClientError, Connection, NotAnAgent, Refused, Reply
from gemot.agent.client.entry import Entry, entry_of
from gemot.agent.client.kv import Kv
from gemot.agent.client.path import escape
from gemot.agent.client.semaphore import SEMAPHORE_FLAGS

MOST_CHANGES = 1024
MOST_BYTES = 8 << 20
"""What limits.txn_max_ops and limits.txn_max_req_len of an agent go up to: keys of one transaction, and the
bytes of it."""

_STALE = "index is stale"


class Revision(msgspec.Struct, frozen=True):
    """A key as it was from `entry.modify_index` to before `until` (0: so it is). Times: RFC 3339, or ""."""

    entry: Entry
    op: str
    time: str
    accessor: str
    until: int
    deleted: bool
    end_time: str
    end_accessor: str


class Change(msgspec.Struct, frozen=True):
    """What brings one key back. `index` is the one that it has now, 0 if it is not there."""

    verb: Literal["set", "delete"]
    key: str
    index: int
    value: bytes = b""
    flags: int = 0
    before: bytes | None = None
    """Its value now; None if it is not there."""

    ttl: str = ""
    """How long it lives from when it is back, "" for ever."""


class Changed(ClientError):
    """Somebody changed a key of the plan meanwhile: nothing was done."""


class NotTaken(ClientError):
    """The plan is too large for the agent, or the servers refuse a part of it: nothing was done."""


class History:
    """Raises ClientError: Refused 410 for an index that is older than what is kept."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def log(self, key: str, *, limit: int, before: int = 0, **read: Any) -> tuple[list[Revision], bool]:
        """Revisions, newest first, and whether there are older ones."""
        params = {"limit": limit, "before": before or None} | read
        reply = self._connection.request("GET", _path(key), params=params, ok=(200, 404))
        if reply.status == 404 and "x-gemot-history-since" not in reply.headers:
            raise Refused(404, reply.body.decode(errors="replace"))
        return [_revision(raw) for raw in _rows(reply)], "x-gemot-history-more" in reply.headers

    def as_of(
        self, key: str, index: int, *, recurse: bool, **read: Any
    ) -> tuple[dict[str, Entry], list[str]]:
        """The key, or all that begin with it, as of an index; and those of which that is forgotten."""
        params = {"at": index, "recurse": recurse} | read
        reply = self._connection.request("GET", _path(key), params=params, ok=(200, 404))
        if reply.status == 404 and "x-gemot-history-since" not in reply.headers:
            raise Refused(404, reply.body.decode(errors="replace"))
        found = reply.json()
        try:
            entries = [entry_of(raw) for raw in found["Entries"]]
            return {entry.key: entry for entry in entries}, [str(key) for key in found["Gone"]]
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise _foreign(error) from error

    def now(self, key: str, *, recurse: bool, **read: Any) -> dict[str, Entry]:
        kv = Kv(self._connection)
        if recurse:
            return {entry.key: entry for entry in kv.tree(key, **read)}
        found = kv.get(key, **read)
        return {} if found is None else {found.key: found}

    def apply(self, plan: list[Change]) -> None:
        """All of it in one transaction, or nothing. Raises Changed or NotTaken."""
        body = json.dumps([{"KV": _operation(change)} for change in plan]).encode()
        try:
            reply = self._connection.request("PUT", "/v1/txn", body=body, ok=(200, 409))
        except Refused as error:
            if error.status == 413:
                raise _too_large(error.text, len(plan), len(body)) from error
            raise
        if reply.status == 409:
            raise _failed(reply)


def plan(then: dict[str, Entry], now: dict[str, Entry]) -> list[Change]:
    """What makes of the keys that are now those that were then: values, flags and TTLs, no locks.

    What came later and is locked stays, and so do the slots of a semaphore that is held (`left_locked`):
    their holders would lose them.
    """
    changes = []
    for key in sorted(then.keys() | now.keys()):
        was, present = then.get(key), now.get(key)
        index, before = (present.modify_index, present.value) if present else (0, None)
        if was is None:
            if present is not None and not _is_held(present, now):
                changes.append(Change("delete", key, index, before=before))
        elif present is not None and _is_semaphore(present) and _is_held(present, now):
            continue
        elif present is None or _content(was) != _content(present):
            changes.append(Change("set", key, index, was.value, was.flags, before, was.ttl))
    return changes


def left_locked(then: dict[str, Entry], now: dict[str, Entry]) -> list[str]:
    """Keys that are otherwise than they were then, and stay all the same."""
    return sorted(
        key
        for key, entry in now.items()
        if _is_held(entry, now)
        and (key not in then or (_is_semaphore(entry) and _content(then[key]) != _content(entry)))
    )


def _is_semaphore(entry: Entry) -> bool:
    """Its slots: nobody holds that key itself, but contenders beside it."""
    return entry.flags == SEMAPHORE_FLAGS and entry.key.endswith("/.lock")


def _is_held(entry: Entry, now: dict[str, Entry]) -> bool:
    folder = entry.key.removesuffix(".lock")
    return bool(entry.session) or (
        _is_semaphore(entry) and any(each.session and each.key.startswith(folder) for each in now.values())
    )


def _too_large(text: str, changes: int, size: int) -> NotTaken:
    """What the agent's limit is, and how to go on."""
    if "too many operations" in text:
        wanted = _wanted("limits.txn_max_ops", changes, MOST_CHANGES)
    elif "limits.txn_max_req_len" in text:
        wanted = _wanted("limits.txn_max_req_len", size, MOST_BYTES)
    else:
        return NotTaken(f"nothing was done: {text}")
    said = text.partition(" The limit is ")[0].rstrip(".")
    return NotTaken(f"nothing was done, {changes} keys are too much for one transaction: {said}. {wanted}")


def _wanted(setting: str, least: int, most: int) -> str:
    narrower = "roll back narrower prefixes one after the other"
    if least > most:
        return f"No setting takes so much ({setting} goes up to {most}, and {least} are needed): {narrower}"
    return f"Set {setting} of the agent to {least} or more and reload it, or {narrower}"


def _failed(reply: Reply) -> ClientError:
    """A key of another index was changed; what is refused for any other reason is told in its words."""
    found = reply.json()
    try:
        told = [str(error["What"]) for error in found["Errors"]]
    except (TypeError, KeyError) as error:
        raise _foreign(error) from error
    if others := [what for what in told if not what.endswith(_STALE)]:
        return NotTaken(f"nothing was done: {others[0]}")
    return Changed("a key of the plan was changed meanwhile, so nothing was done: look at the plan again")


def _content(entry: Entry) -> tuple[bytes, int, str]:
    return entry.value, entry.flags, entry.ttl


def _operation(change: Change) -> dict[str, Any]:
    if change.verb == "delete":
        return {"Verb": "delete-cas", "Key": change.key, "Index": change.index}
    value = base64.b64encode(change.value).decode()
    ttl = {"TTL": change.ttl} if change.ttl else {}
    return {
        "Verb": "cas", "Key": change.key, "Index": change.index, "Value": value, "Flags": change.flags, **ttl
    }  # fmt: skip


def _path(key: str) -> str:
    return f"/v1/gemot/history/{escape(key.lstrip('/'))}"


def _rows(reply: Reply) -> list[Any]:
    rows = reply.json()
    if not isinstance(rows, list):
        raise _foreign(TypeError("no list"))
    return rows


def _revision(raw: Any) -> Revision:
    try:
        return Revision(
            entry_of(raw),
            raw["Op"],
            raw["Time"],
            raw["Accessor"],
            raw["Until"],
            raw["Deleted"],
            raw["EndTime"],
            raw["EndAccessor"],
        )
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise _foreign(error) from error


def _foreign(error: Exception) -> NotAnAgent:
    return NotAnAgent(f"the answer is no history of keys ({error!r:.100}): is this the API of an agent?")
