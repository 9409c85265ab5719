"""What can go wrong, cut by what a caller should do about it.

    GemotError
    |-- BadRequest          the caller's mistake; nothing was done; asking again is pointless
    |   `-- TooLarge        a limit was passed; the message names it
    |-- Forbidden           the permission is missing
    |-- NotFound            the thing named does not exist
    |   `-- Forgotten       it is older than the history that is kept
    |-- Conflict            another answer was given under the same idempotency key
    |-- RuleFailed          a rule of the state refused the command (Consul answers 500 here)
    |   `-- OlderRelease    the server asked does not know it: this try was not sent, another may have been
    |-- Unavailable         nothing was done; another try, here or elsewhere, may succeed
    |   |-- NoLeader        no server leads at present
    |   |-- NotLeader       another server leads; `leader` names it when known
    |   `-- Busy            a bounded queue is full; the message names the limit
    |-- OutcomeUnknown      it may or may not have been done; retry with the same idempotency key
    |   `-- OutcomeForgotten  its name was used long ago: asking again under it tells no more
    |-- PeerBroke           the other side spoke wrongly
    `-- StorageFailed       this node cannot go on
        |-- DiskFailed      a write or a sync failed: the process stops with exit code 74
        `-- Corrupt         bytes on disk are not what was written

An error crosses the wire as itself: `to_wire` and `from_wire` go by `code`, one for each class.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

_BY_CODE: dict[str, type[GemotError]] = {}


class GemotError(Exception):
    """Root of every error of ours. `message` is a sentence for people."""

    code: ClassVar[str] = "internal"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __init_subclass__(cls) -> None:
        _BY_CODE[cls.code] = cls


class BadRequest(GemotError):
    code = "bad-request"


class TooLarge(BadRequest):
    code = "too-large"


class Forbidden(GemotError):
    code = "forbidden"


class NotFound(GemotError):
    code = "not-found"


class Forgotten(NotFound):
    code = "forgotten"


class Conflict(GemotError):
    code = "conflict"


class RuleFailed(GemotError):
    code = "rule-failed"


class OlderRelease(RuleFailed):
    code = "older-release"


class Unavailable(GemotError):
    code = "unavailable"


class NoLeader(Unavailable):
    code = "no-leader"

    def __init__(self, message: str = "No cluster leader") -> None:
        super().__init__(message)

    @classmethod
    def because(cls, waiting: str) -> NoLeader:
        """With what is waited for ("" if that is not known). Consul's clients match on how it begins."""
        return cls(f"No cluster leader: {waited_for(waiting)}") if waiting else cls()


class NotLeader(Unavailable):
    """This server does not lead. `message` is the leader's id, or "" when it is not known."""

    code = "not-leader"

    @property
    def leader(self) -> str:
        return self.message


class Busy(Unavailable):
    code = "busy"


class OutcomeUnknown(GemotError):
    code = "outcome-unknown"


class OutcomeForgotten(OutcomeUnknown):
    code = "outcome-forgotten"


class PeerBroke(GemotError):
    code = "peer-broke"


class StorageFailed(GemotError):
    code = "storage-failed"


class DiskFailed(StorageFailed):
    code = "disk-failed"


class Corrupt(StorageFailed):
    code = "corrupt"


def waited_for(waiting: str) -> str:
    """`Waiting for quorum: ...`, as it goes on in a sentence."""
    return waiting[:1].lower() + waiting[1:]


def unanswered(waiting: str, *, linked: bool) -> Unavailable:
    """What a read is told that was held in vain; `linked` if a server is there, which then has no leader."""
    if not waiting:
        return Unavailable("No known server answers in time")
    if linked:
        return NoLeader.because(waiting)
    return Unavailable(f"No known server answers: {waited_for(waiting)}")


class WireError(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An error as it travels."""

    code: str
    message: str


def to_wire(error: GemotError) -> WireError:
    return WireError(error.code, error.message)


def from_wire(error: WireError) -> GemotError:
    """The error that was sent; an unknown code (a newer peer) becomes a plain GemotError."""
    return _BY_CODE.get(error.code, GemotError)(error.message)
