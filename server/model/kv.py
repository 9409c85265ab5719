"""Words of the key-value family: the row, its commands, its queries.

Keys are opaque bytes, compared as bytes; they are decoded once, where they enter, and turned into
text only where they leave (`agent/http/render.py`).
"""

from __future__ import annotations

import msgspec

MAX_KEY_BYTES = 4096
"""Longest key accepted. Consul sets no limit of its own; its HTTP stack refuses longer URLs."""


LEAST_TTL_MS = 1_000
MAX_TTL_MS = 10 * 365 * 86_400_000
"""What a key that expires may live: a second to ten years."""

MAX_PAGE = 10_000
"""Entries of one page, at most. A page is read in one read transaction."""


class KvEntry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One key as stored. `flags` is an unsigned 64-bit number of the user's.

    `fence` is that of the last acquisition, kept when it is released; 0 if it was never locked. `ttl_ms` is
    how long it lives from its last write, 0 for ever; what is left of that, by the answering server's cluster
    time, is told in `remaining_ms` by KvGet alone, and never stored.

    What is between them is for the history of keys, and stays at its defaults where none is kept: who wrote
    this revision and at what wall time (milliseconds since 1970, for people only), the how many-th of the key
    it is, and, of a key that was deleted and created again, the index of that deletion.
    """

    key: bytes
    value: bytes
    flags: int
    lock_index: int
    session: str
    create_index: int
    modify_index: int
    fence: int = 0
    accessor: str = ""
    at_ms: int = 0
    revision: int = 0
    absent_from: int = 0
    ttl_ms: int = 0
    remaining_ms: int = 0


class KvSet(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=1):
    """Write one key. At most one of `cas`, `acquire`, `release` is set. Result: bool; of `acquire` the fence.

    `cas=0` means create only; `cas=N` needs the stored modify index to be N. With `ttl_ms` the key deletes
    itself so much cluster time after; without, it stays, whatever it had before.
    """

    key: bytes
    value: bytes
    flags: int = 0
    cas: int | None = None
    acquire: str | None = None
    release: str | None = None
    ttl_ms: int = 0


class KvDelete(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=2):
    """Delete one key, if `cas` is None or equals its modify index. Result: bool."""

    key: bytes
    cas: int | None = None


class KvDeletePrefix(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=3):
    """Delete every key that starts with `prefix` (all keys when empty). Result: True.

    Writes one mask that reads honour at once; the rows go by later `KvPurge` commands.
    """

    prefix: bytes


class KvPurge(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=4):
    """Look at up to `limit` rows under masks and remove the hidden ones. Proposed by the leader.

    Result: how many deleted ranges are not purged yet, 0 = done.
    """

    limit: int


class ExpireKeys(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=70):
    """Delete those of these keys (key, modify index) that are due.

    The leader proposes it; whether one is due is decided where it is applied. Result: how many were deleted.
    """

    keys: tuple[tuple[bytes, int], ...]


class KvGet(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=1):
    """Read one key. Value: KvEntry or None."""

    key: bytes


class KvList(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=2):
    """Read every key under a byte prefix, sorted. Value: list of KvEntry."""

    prefix: bytes


class KvKeys(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=3):
    """List keys under a byte prefix, sorted. Value: list of bytes.

    With a separator, a key is cut after the first separator behind the prefix; doubles collapse.
    """

    prefix: bytes
    separator: bytes = b""


class KvListPage(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=70):
    """Read at most `limit` keys (`MAX_PAGE`) under a byte prefix, those behind `after`. Value: EntryPage."""

    prefix: bytes
    after: bytes
    limit: int


class KvKeysPage(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=71):
    """List at most `limit` names (`MAX_PAGE`) as `KvKeys` has them, those behind `after`. Value: KeyPage."""

    prefix: bytes
    separator: bytes
    after: bytes
    limit: int


class EntryPage(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Part of a list. `next` is what the next page is behind; empty where this one ends the list."""

    entries: list[KvEntry]
    next: bytes = b""


class KeyPage(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Part of a list of names, as `EntryPage`."""

    keys: list[bytes]
    next: bytes = b""
