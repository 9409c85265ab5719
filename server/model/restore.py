"""A restore: the blob that is staged on the servers, and the command that puts it in place of the state."""

from __future__ import annotations

import msgspec

MOST_EPOCH = 8_191
"""What is restored begins no later one: a fence has the epoch above 40 bits, and must stay below 2**53, where
readers of JSON begin to round it."""


class Blob(msgspec.Struct, frozen=True, array_like=True):
    """A state file that was checked and waits to become the state, named by its SHA-256.

    `index` and `epoch` are those of the state in it.
    """

    sha256: str
    size: int
    index: int
    term: int
    epoch: int
    created_by: str


class Restore(msgspec.Struct, frozen=True, array_like=True, tag=25):
    """Every server puts the blob in place of its state. `id` names this restore: it is done at most once.

    `index` and `blob_epoch` are the blob's. `epoch` is the one that begins; 0 stands for the next after the
    cluster's and the blob's.
    """

    id: bytes
    sha256: str
    size: int
    index: int
    blob_epoch: int
    epoch: int = 0


class Restored(msgspec.Struct, frozen=True, array_like=True):
    """The restore was carried out. `missing` are voters that do not have the blob yet: they fetch it."""

    index: int
    epoch: int
    missing: tuple[str, ...] = ()
