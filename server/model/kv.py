"""Words of the key-value family: the row, its commands, its queries.

Keys are opaque bytes, compared as bytes; they are decoded once, where they enter, and turned into
text only where they leave (`agent/http/render.py`).
"""

from __future__ import annotations

import msgspec

MAX_KEY_BYTES = 4096
"""Longest key accepted. Consul sets no limit of its own; its HTTP stack refuses longer URLs."""


class KvEntry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One key as stored. `flags` is an unsigned 64-bit number of the user's.

    `fence` is that of the last acquisition, kept when it is released; 0 if it was never locked. The rest is
    for the history of keys, and stays at its defaults where none is kept: who wrote this revision and at what
    wall time (milliseconds since 1970, for people only), the how many-th of the key it is, and, of a key that
    was deleted and created again, the index of that deletion.
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


class KvSet(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=1):
    """Write one key. At most one of `cas`, `acquire`, `release` is set. Result: bool; of `acquire` the fence.

    `cas=0` means create only; `cas=N` needs the stored modify index to be N.
    """

    key: bytes
    value: bytes
    flags: int = 0
    cas: int | None = None
    acquire: str | None = None
    release: str | None = None


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
