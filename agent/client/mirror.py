"""What a watched thing holds now, folded from its events; and of each change, what was there before. Pure.

Keys are texts: a byte that is not UTF-8 shows as U+FFFD and two hex digits. A prefix that ends within a
letter is no beginning of the texts of the keys that it deletes: they stay here until the next snapshot.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import msgspec

from gemot.agent.client.events import Change, Event, Op, Snapshot


class Changed(msgspec.Struct, frozen=True, rename="pascal"):
    """One key, from what to what. None is: not there."""

    op: Literal["set", "delete"]
    key: str
    old: Any
    new: Any


class Mirror:
    """`items` is what was there at the place from which the events come; nothing at first."""

    def __init__(self, items: Mapping[str, Any] | None = None) -> None:
        self.items: dict[str, Any] = dict(items or {})

    def take(self, event: Event) -> list[Changed]:
        """What this event changes, in its order; nothing of keys that stay as they are.

        Of a snapshot: how it differs from what was here.
        """
        if isinstance(event, Snapshot):
            return self._become(event.items)
        if isinstance(event, Change):
            return [changed for op in event.changes for changed in self._apply(op)]
        return []

    def _become(self, items: Mapping[str, Any]) -> list[Changed]:
        gone = [self._drop(key) for key in [key for key in self.items if key not in items]]
        return gone + [changed for key, item in items.items() for changed in self._set(key, item)]

    def _apply(self, op: Op) -> Iterator[Changed]:
        if op.op == "set":
            yield from self._set(op.key, op.item)
        elif op.op == "delete":
            if op.key in self.items:
                yield self._drop(op.key)
        else:
            for key in sorted(key for key in self.items if key.startswith(op.key)):
                yield self._drop(key)

    def _set(self, key: str, item: Any) -> Iterator[Changed]:
        old = self.items.get(key)
        self.items[key] = item
        if old != item:
            yield Changed("set", key, old, item)

    def _drop(self, key: str) -> Changed:
        return Changed("delete", key, self.items.pop(key), None)
