"""What readers of one feed are being sent and have not taken: their connections are full."""

from __future__ import annotations

from typing import Protocol

SHORT_BYTES = 1 << 14
"""Shorter ones are not looked at: they are as a whole in the connection, and to cut one frees nothing."""


class Taker(Protocol):
    def cut(self) -> None:
        """End it, in the middle of what it is being sent: it comes back."""


class InHand:
    """A piece counts once, however many have it: most are events, the same object for all. It may be gone
    from everywhere else by now."""

    def __init__(self) -> None:
        self.held = 0
        self._pieces: dict[Taker, bytes] = {}
        """The oldest first."""
        self._takers: dict[int, int] = {}
        """How many have it, by the `id` of the piece."""

    def count(self, piece: bytes) -> None:
        """For one more."""
        takers = self._takers.get(id(piece), 0)
        self._takers[id(piece)] = takers + 1
        if not takers:
            self.held += len(piece)

    def give(self, taker: Taker, piece: bytes) -> None:
        """It was counted for that one, who may be cut from now on."""
        self._pieces[taker] = piece

    def take_back(self, taker: Taker) -> bool:
        """Had it anything? It has nothing where its piece was short, or it was cut."""
        piece = self._pieces.pop(taker, None)
        if piece is None:
            return False
        takers = self._takers.pop(id(piece)) - 1
        if takers:
            self._takers[id(piece)] = takers
        else:
            self.held -= len(piece)
        return True

    def cut(self, excess: int) -> None:
        """Cut who is at it for longest, until so much less is held."""
        enough = self.held - excess
        for taker in list(self._pieces):
            if self.held <= enough:
                return
            self.take_back(taker)
            taker.cut()
