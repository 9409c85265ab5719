"""Words of the history of keys: what is asked of it, and what comes back. The rules: `state/history.py`."""

from __future__ import annotations

from typing import Literal

import msgspec

from gemot.server.model.kv import KvEntry

MOST_REVISIONS = 1_000
"""Revisions of one answer."""

Op = Literal["create", "set", "lock", "unlock"]


class KvRevisions(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=61):
    """The revisions of one key, newest first. Value: Revisions.

    Those that began before the index `before` (0: all), at most `limit`, fewer where they are large.
    """

    key: bytes
    before: int = 0
    limit: int = 64


class KvAsOf(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=62):
    """Every key under a prefix, or one key `alone`, as it was once the entry at `index` was applied.

    Value: AsOf. Refused (Forgotten) where `index` is older than the history kept.
    """

    prefix: bytes
    index: int
    alone: bool = False


class Revision(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A key as it was from `row.modify_index` on, until before the index `until` (0: it still is).

    `deleted`: it then was deleted, not replaced; `ended_ms` and `ended_by` say when and by whom.
    """

    row: KvEntry
    op: Op
    until: int = 0
    deleted: bool = False
    ended_ms: int = 0
    ended_by: str = ""


class Revisions(msgspec.Struct, frozen=True, array_like=True):
    """`since` is the index from which on history is kept; `more`: older revisions were left out."""

    rows: list[Revision]
    since: int
    more: bool


class AsOf(msgspec.Struct, frozen=True, array_like=True):
    """`gone` are keys that had too many revisions since: whether they were there, and what they were, is
    not known any more."""

    rows: list[KvEntry]
    gone: list[bytes]
    since: int
