"""What a bad disk did to a file, for as long as it is there: a `LossyDisk` counts its own damage down."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol


class Write(Protocol):
    """See `lossy_disk.Write`."""

    @property
    def offset(self) -> int: ...

    @property
    def data(self) -> bytes | None: ...


class Scar:
    """Bytes of one file that the disk did not keep as they were written, for as long as they are not.

    `left` are the places that still differ, and what belongs there. `end` says what became of them: they
    were written anew, went with their file, or were never synced (a crash could have lost them as well).
    `was_read` says that somebody read one of them meanwhile.
    """

    __slots__ = ("_foreign", "_older", "_synced", "end", "ended", "left", "was_read")

    def __init__(
        self,
        at: int,
        wanted: bytes,
        there: bytes,
        *,
        older: Sequence[Write] | None = None,
        foreign: bytes | None = None,
    ) -> None:
        """`older` are the unsynced writes before it, which mend nothing; None: the damage is durable at once.

        `foreign` is what is being written here and belongs elsewhere.
        """
        there = there.ljust(len(wanted), b"\0")
        self.left = {at + n: byte for n, byte in enumerate(wanted) if byte != there[n]}
        self._older: Sequence[Write] = list(older or ())
        self._foreign = foreign
        self._synced = older is None
        self.was_read = False
        self.end = ""
        self.ended: Callable[[], None] = lambda: None

    def finish(self, end: str) -> None:
        if not self.end:
            self.end = end
            self.ended()

    def met(self, offset: int, n: int) -> None:
        """So much is read from there."""
        self.was_read = self.was_read or any(offset <= at < offset + n for at in self.left)

    def written(self, writes: Sequence[Write]) -> None:
        """These became durable."""
        for write in writes:
            if any(write is old for old in self._older) or (self._foreign and write.data is self._foreign):
                continue
            end = write.offset + len(write.data) if write.data is not None else 1 << 62
            self.left = {at: byte for at, byte in self.left.items() if not write.offset <= at < end}
        if not self.left:
            self.finish("overwritten")

    def synced(self) -> None:
        self._synced, self._older = True, []

    def crashed(self, durable: bytes | bytearray, *, named: bool) -> None:
        """What was not synced by now, a crash could have lost; but not put in a wrong place."""
        if self._synced and named:
            return
        if self._foreign is not None and named:
            self.left = {at: byte for at, byte in self.left.items() if durable[at : at + 1] != bytes([byte])}
            self.synced()
            if self.left:
                return
        self.finish("unsynced")
