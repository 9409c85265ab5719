"""Snapshots for people, as this server gives them out: made when asked for, then fetched piece by piece.

The copy is made once this server is known to be as fresh as the asker may expect (`confirm.py`), so any
server does, like for any other read. It lies packed on the disk while it is fetched: whoever reads slowly
holds up neither the state nor memory. One who asks no more for a while has gone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from gemot.server.confirm import Confirmations
from gemot.server.consensus import Replica
from gemot.server.model.errors import Busy, GemotError, NotFound, Unavailable
from gemot.server.ports import Archives, Random, Timer
from gemot.server.rpc.message import ArchivePiece, ReadArchive
from gemot.server.storage.blobs import Export

MAX_EXPORTS = 4
"""Archives at once: each takes as much of the disk as the state, packed."""

IDLE_MS = 60_000
BUSY_MS = 50

Reply = Callable[[Any], None]


class Contact(Protocol):
    def last_contact_ms(self) -> int: ...

    def knows_leader(self) -> bool: ...


class _Asked:
    """One who fetches. `export` is there once it is packed."""

    __slots__ = ("export", "seen_ms", "who")

    def __init__(self, who: str, seen_ms: int) -> None:
        self.who = who
        self.seen_ms = seen_ms
        self.export: Export | None = None


class Saving:
    """`origin` tells the voters and the cluster, for the archive's head."""

    def __init__(
        self,
        *,
        archives: Archives,
        confirmations: Confirmations,
        replica: Replica,
        contact: Contact,
        origin: Callable[[], tuple[tuple[str, ...], str]],
        timer: Timer,
        random: Random,
    ) -> None:
        self._archives = archives
        self._confirmations = confirmations
        self._replica = replica
        self._contact = contact
        self._origin = origin
        self._timer = timer
        self._random = random
        self._asked: dict[int, _Asked] = {}
        self._copying = 0
        self.saved = 0

    @property
    def copying(self) -> bool:
        """Is the state file being copied? It may not be replaced meanwhile."""
        return self._copying > 0

    def on_call(self, who: str, call: ReadArchive, reply: Reply) -> Callable[[], None]:
        if call.id:
            self._read(who, call, reply)
            return _nothing
        if len(self._asked) >= MAX_EXPORTS:
            reply(Busy(f"{MAX_EXPORTS} snapshots are being saved from this server: ask again later"))
            return _nothing
        id = 0
        while not id or id in self._asked:
            id = self._random.randrange(1 << 62)
        self._asked[id] = _Asked(who, self._timer.now_ms())

        def confirmed(error: Unavailable | None) -> None:
            if error is None:
                self._copy(id, reply)
            elif self._asked.pop(id, None) is not None:
                reply(error)

        if call.stale:
            confirmed(None)
        else:
            self._confirmations.confirm(confirmed, hold_ms=call.hold_ms)
        return lambda: self._gone(id)

    def on_tick(self) -> None:
        now = self._timer.now_ms()
        for id, asked in list(self._asked.items()):
            if asked.export is not None and now - asked.seen_ms >= IDLE_MS:
                self._drop(id)

    def _gone(self, id: int) -> None:
        """The asker went away before the first piece; one who had it is missed by `on_tick`."""
        asked = self._asked.get(id)
        if asked is not None and asked.export is None:
            del self._asked[id]

    def _copy(self, id: int, reply: Reply) -> None:
        if id not in self._asked:
            return
        if self._replica.held:
            self._timer.call_after(BUSY_MS, lambda: self._copy(id, reply))
            return
        self._copying += 1
        voters, cluster = self._origin()
        self._archives.export(id, voters, cluster, lambda made: self._made(id, made, reply))

    def _made(self, id: int, made: Export | GemotError, reply: Reply) -> None:
        self._copying -= 1
        asked = self._asked.get(id)
        if asked is None:
            self._archives.drop_export(id)
        elif isinstance(made, GemotError):
            del self._asked[id]
            reply(made)
        else:
            self.saved += 1
            asked.export = made
            self._read(asked.who, ReadArchive(id, 0), reply)

    def _read(self, who: str, call: ReadArchive, reply: Reply) -> None:
        asked = self._asked.get(call.id)
        if asked is None or asked.export is None or asked.who != who:
            reply(NotFound("that snapshot is not being saved here any more: save it again"))
            return
        asked.seen_ms = self._timer.now_ms()
        export, head = asked.export, asked.export.head
        try:
            data = self._archives.read_export(call.id, call.offset)
        except GemotError as error:
            reply(error)
            return
        if call.offset + len(data) >= export.size:
            self._drop(call.id)
        reply(
            ArchivePiece(
                id=call.id,
                index=head.index,
                epoch=head.epoch,
                size=export.size,
                offset=call.offset,
                data=data,
                known_leader=self._contact.knows_leader(),
                last_contact_ms=self._contact.last_contact_ms(),
            )
        )

    def _drop(self, id: int) -> None:
        self._asked.pop(id, None)
        self._archives.drop_export(id)


def _nothing() -> None:
    """Cancels what has been answered."""
