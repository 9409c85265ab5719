"""Everything that can be written, as one closed union, and its bytes in the log.

A tag number is for ever: it is never changed and never used again. A server that meets an unknown
tag stops (`UnknownCommand`): skipping it would let states drift apart.
"""

from __future__ import annotations

import msgspec

from gemot.server.model.autopilot import SetAutopilot
from gemot.server.model.catalog import Deregister, Register
from gemot.server.model.coordinate import SetCoordinates
from gemot.server.model.errors import StorageFailed
from gemot.server.model.kv import ExpireKeys, KvDelete, KvDeletePrefix, KvPurge, KvSet
from gemot.server.model.restore import Restore
from gemot.server.model.session import CreateSession, DestroySession, EndLeases, RenewSession
from gemot.server.model.txn import Txn, expires
from gemot.server.model.upkeep import (
    PruneRetries,
    ReapTombstones,
    Tick,
    TrimChanges,
    TrimHistory,
    VerifyState,
)

Command = (
    KvSet
    | KvDelete
    | KvDeletePrefix
    | KvPurge
    | Register
    | Deregister
    | Tick
    | TrimChanges
    | ReapTombstones
    | PruneRetries
    | VerifyState
    | SetAutopilot
    | Restore
    | SetCoordinates
    | CreateSession
    | DestroySession
    | RenewSession
    | EndLeases
    | Txn
    | TrimHistory
    | ExpireKeys
)

ENVELOPE_VERSION = 2
"""The greatest that is known here: `version_of` tells which one a command is logged with."""


class RetryId(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=1):
    """Names one write of one origin, so that a second try is applied at most once.

    `origin` is minted anew by each process start; `sequence` counts up from 1; every sequence at or
    below `acknowledged` has been answered and will not be retried.
    """

    origin: bytes
    sequence: int
    acknowledged: int


class IdempotencyKey(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=2):
    """A caller's own name for one write, with the hash of what it asked for."""

    key: str
    body_hash: bytes


class Envelope(msgspec.Struct, frozen=True, array_like=True):
    """A command as it is logged. `time_ms` is cluster time, stamped by the leader that proposes; `at_ms` its
    wall time (milliseconds since 1970), for people only: no rule goes by it. Older releases read over that.
    """

    version: int
    time_ms: int
    accessor: str
    retry: RetryId | IdempotencyKey | None
    command: Command
    at_ms: int = 0


def version_of(command: Command) -> int:
    """The version of the envelope: one that is too new stops a server that would read its command otherwise.

    Since 2 a key may expire. Earlier releases pass over the field that says so.
    """
    return 2 if expires(command) else 1


def may_be_repeated(command: Command) -> bool:
    """Does a second try need no name, as applying it twice does no harm?

    A renewal counts from when it was applied last, and a name would cost it more than it costs itself. Nor is
    the first answer kept: a holder that asks again hears whether its session lives now.
    """
    return type(command) is RenewSession


class UnknownCommand(StorageFailed):
    """The log holds a command that this release does not know: it was written by a newer one."""

    code = "unknown-command"


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Envelope)


def encode(envelope: Envelope) -> bytes:
    return _encoder.encode(envelope)


def weight(command: Command) -> int:
    """About how many bytes a command takes in memory and in the log: what limits are held against."""
    if isinstance(command, KvSet):  # nearly all of them, and the only ones that are large
        return len(command.key) + len(command.value) + 64
    return len(_encoder.encode(command)) + 64


def decode(data: bytes) -> Envelope:
    """The envelope in these bytes. Raises UnknownCommand if a newer release wrote it."""
    try:
        envelope = _decoder.decode(data)
    except msgspec.DecodeError as error:
        raise UnknownCommand(
            f"log entry cannot be read by this release ({error}); a newer release wrote it: "
            "start that release again"
        ) from error
    if envelope.version > ENVELOPE_VERSION:
        raise UnknownCommand(
            f"log entry has envelope version {envelope.version}, this release knows up to "
            f"{ENVELOPE_VERSION}: start the newer release again"
        )
    return envelope
