"""What is asked of the key-value store, and how the answers are read, whoever sends it. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar
from urllib.parse import unquote

import msgspec

from gemot.agent.client.connection import NotAnAgent, Reply
from gemot.agent.client.entry import Entry, entries
from gemot.agent.client.path import escape

T = TypeVar("T")

_EXPIRES_IN = "x-gemot-expires-in"


class Question(msgspec.Struct, Generic[T], frozen=True):
    """A request about a key, or those below it, and what its answer says."""

    method: str
    path: str
    params: dict[str, Any]
    read: Callable[[Reply], T]
    """Raises NotAnAgent."""

    body: bytes | None = None
    timeout_s: float | None = None
    """How long the answer is waited for; None: as long as by default."""

    @property
    def ok(self) -> tuple[int, ...]:
        return (200, 404) if self.method == "GET" else (200,)

    def sent(self) -> dict[str, Any]:
        """As a request takes it, beside method and path."""
        return {"params": self.params, "body": self.body, "timeout_s": self.timeout_s, "ok": self.ok}

    def within(self, timeout_s: float | None) -> Question[T]:
        """The same, waited for so long."""
        return msgspec.structs.replace(self, timeout_s=timeout_s)


def get(key: str, **params: Any) -> Question[Entry | None]:
    return Question("GET", path_of(key), params, _found)


def tree(prefix: str, **params: Any) -> Question[list[Entry]]:
    return Question("GET", path_of(prefix), {"recurse": True} | params, entries)


def keys(prefix: str, separator: str, **params: Any) -> Question[list[str]]:
    wanted = {"keys": True, "separator": separator or None} | params
    return Question("GET", path_of(prefix), wanted, _names)


def page(prefix: str, limit: int, after: str, **params: Any) -> Question[tuple[list[Entry], str]]:
    wanted = {"recurse": True, "limit": limit, "after": after or None} | params
    return Question("GET", path_of(prefix), wanted, lambda reply: (entries(reply), _following(reply)))


def page_of_keys(
    prefix: str, limit: int, after: str, separator: str, **params: Any
) -> Question[tuple[list[str], str]]:
    paging = {"limit": limit, "after": after or None}
    wanted = {"keys": True, "separator": separator or None} | paging | params
    return Question("GET", path_of(prefix), wanted, lambda reply: (_names(reply), _following(reply)))


def put(key: str, value: bytes, **params: Any) -> Question[bool]:
    def written(reply: Reply) -> bool:
        done = reply.json() is True
        if done and params.get("ttl") is not None and _EXPIRES_IN not in reply.headers:
            raise NotAnAgent(f"the agent wrote {key} and knows no TTL: the key stays; delete it, or upgrade")
        return done

    return Question("PUT", path_of(key), params, written, value)


def delete(key: str, **params: Any) -> Question[bool]:
    return Question("DELETE", path_of(key), params, lambda reply: reply.json() is True)


def path_of(key: str) -> str:
    return f"/v1/kv/{escape(key.lstrip('/'))}"


def _found(reply: Reply) -> Entry | None:
    found = next(iter(entries(reply)), None)
    if found is None:
        return None
    return msgspec.structs.replace(found, expires_in=reply.headers.get(_EXPIRES_IN, ""))


def _names(reply: Reply) -> list[str]:
    found = reply.json() if reply.status == 200 else []
    if not isinstance(found, list):
        raise NotAnAgent("the answer is no list of names: is this the API of an agent?")
    return [str(key) for key in found]


def _following(reply: Reply) -> str:
    return unquote(reply.headers.get("x-gemot-after", ""), errors="surrogateescape")
