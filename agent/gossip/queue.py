"""News to pass on: each piece a bounded number of times, the least told first.

News about one subject replaces what was to be told about it before (memberlist's rule): nobody is told what
is known to be outdated. A piece that has been sent often enough goes: by then it has reached everyone, but
for a chance that falls with the number of transmissions (SWIM, section 4.1).
"""

from __future__ import annotations

from collections.abc import Iterable

MOST = 4_096
"""Pieces; with more the oldest that was told most goes: exchanges bring it in the end."""


class _Piece:
    __slots__ = ("data", "number", "sent", "subject")

    def __init__(self, subject: str, data: bytes, number: int) -> None:
        self.subject = subject
        self.data = data
        self.number = number
        self.sent = 0


class Broadcasts:
    """Encoded words by their subject, until each has been sent often enough."""

    def __init__(self) -> None:
        self._pieces: dict[str, _Piece] = {}
        self._next = 0

    def __len__(self) -> int:
        return len(self._pieces)

    def put(self, subject: str, data: bytes) -> None:
        self._next += 1
        self._pieces[subject] = _Piece(subject, data, self._next)
        if len(self._pieces) > MOST:
            del self._pieces[self._in_turn()[-1].subject]

    def drop(self, subject: str) -> None:
        self._pieces.pop(subject, None)

    def waits(self, subject: str) -> bool:
        return subject in self._pieces

    def take(self, room: int, overhead: int, limit: int) -> list[bytes]:
        """What fits into `room` bytes, each with `overhead` beside its own; none more than `limit` times."""
        taken: list[bytes] = []
        for piece in self._in_turn():
            if len(piece.data) + overhead > room:
                continue
            room -= len(piece.data) + overhead
            taken.append(piece.data)
            piece.sent += 1
            if piece.sent >= limit:
                del self._pieces[piece.subject]
        return taken

    def _in_turn(self) -> list[_Piece]:
        """Least told first, and of those the newest."""
        return sorted(self._pieces.values(), key=lambda piece: (piece.sent, -piece.number))

    def subjects(self) -> Iterable[str]:
        return tuple(self._pieces)
