"""Words of a watch that misses nothing: what changed of one key, or under a prefix, entry by entry."""

from __future__ import annotations

from typing import Literal

import msgspec

from gemot.server.model.kv import KvEntry


class KvChanges(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=80):
    """What happened to a key, or to all under it as a prefix, behind the index `after`. Value: Told.

    A blocking read of it waits at that index: it is answered as soon as there is more to tell.
    """

    key: bytes
    prefix: bool
    after: int


class KvChange(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """`entry` is the key as it then stood, None where it is gone; `delete-prefix` took all under `key`."""

    index: int
    op: Literal["set", "delete", "delete-prefix"]
    key: bytes
    entry: KvEntry | None


class Told(msgspec.Struct, frozen=True, array_like=True):
    """Changes in their order, never a part of an entry. All up to the index `through` is told.

    `compacted`: what came behind `after` is not known any more in full. Then there are none, and who follows
    begins anew with what there is.
    """

    changes: list[KvChange]
    through: int
    compacted: bool = False
