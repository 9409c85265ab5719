"""Fetching a snapshot from the leader, and putting it in place of log and state.

The order makes a crash at any point harmless: to which cluster this server belongs is durable before a
snapshot of it is kept (one that holds data of no cluster could never join any); the snapshot is complete,
verified and durable before the log is reset to it, and the log is reset before the state is replaced (what
opens the data directory finishes a replacement that was cut short; see `recovery.py`).

Verifying and replacing take as long as the state is large, so they run elsewhere (`Inbox.finish`,
`Upkeep.replace_state`), and this server goes on hearing its leader. Meanwhile it does not stand for leader
(`raft/follower.py`), applies nothing and reads nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from gemot.server.consensus import Replica
from gemot.server.model.errors import DiskFailed, GemotError
from gemot.server.ports import Inbox, Log, Timer
from gemot.server.raft.types import SnapshotMeta, SnapshotOffer
from gemot.server.rpc.message import Call, FetchSnapshot, SnapshotChunk

CHUNK_BYTES = 1 << 20
STALLED_MS = 5_000
BUSY_MS = 20


class Readers(Protocol):
    """Who reads the state. The server's reads fulfil it."""

    @property
    def reading(self) -> bool:
        """Is the state file being read somewhere?"""

    def hold(self) -> None:
        """Read nothing more until the replica is told that the state was replaced."""


class Installer:
    """At most one snapshot on its way at a time."""

    def __init__(
        self,
        *,
        replica: Replica,
        log: Log,
        call: Callable[[str, Call, Callable[[Any], None]], None],
        inbox: Callable[[SnapshotMeta, SnapshotChunk], Inbox],
        replace_state: Callable[[SnapshotMeta, Callable[[], None]], None],
        timer: Timer,
        busy: Callable[[], bool],
        readers: Readers,
    ) -> None:
        self._replica = replica
        self._log = log
        self._call = call
        self._inbox = inbox
        self._replace_state = replace_state
        self._timer = timer
        self._busy = busy
        self._readers = readers
        self._offer: SnapshotOffer | None = None
        self._to: Inbox | None = None
        self._moved_ms = 0
        self._replacing = False
        self.installed = 0

    @property
    def replacing(self) -> bool:
        """A snapshot is being verified, or put in place: nobody else works on snapshots or the state file."""
        return self._replacing

    def on_install(self, offer: SnapshotOffer) -> None:
        """The core says: fetch this. A repeated offer of what is on its way changes nothing."""
        if self._replacing:
            return
        if self._offer is not None and (
            self._offer.meta == offer.meta and self._timer.now_ms() - self._moved_ms < STALLED_MS
        ):
            return
        self._offer, self._to = offer, None
        self._fetch(offer, 0)

    def _fetch(self, offer: SnapshotOffer, offset: int) -> None:
        self._moved_ms = self._timer.now_ms()
        call = FetchSnapshot(offer.meta.index, offer.meta.term, offset)
        self._call(offer.sender, call, lambda result: self._got(offer, offset, result))

    def _got(self, offer: SnapshotOffer, offset: int, chunk: SnapshotChunk | GemotError) -> None:
        if offer is not self._offer:
            return
        if isinstance(chunk, GemotError) or chunk.offset != offset:
            self._failed(offer)
            return
        reached = offset + len(chunk.data)
        try:
            if self._to is None:
                self._to = self._inbox(offer.meta, chunk)
            self._to.write(offset, chunk.data)
            if reached < chunk.size and chunk.data:
                self._fetch(offer, reached)
                return
        except DiskFailed:
            raise
        except GemotError:
            self._failed(offer)
            return
        self._finish(offer, self._to)

    def _finish(self, offer: SnapshotOffer, to: Inbox) -> None:
        """All is here. A copy or checkpoint under way in the worker is waited for: it uses the same files."""
        if offer is not self._offer or to is not self._to:
            return
        if self._busy():
            self._moved_ms = self._timer.now_ms()
            self._timer.call_after(BUSY_MS, lambda: self._finish(offer, to))
            return
        self._replacing = True
        # A server that has just joined: its cluster's id must not come to the disk after the snapshot.
        self._log.flush(lambda: to.finish(lambda refusal: self._verified(offer, refusal)))

    def _verified(self, offer: SnapshotOffer, refusal: GemotError | None) -> None:
        if refusal is not None:
            self._failed(offer)
            return
        # From here on there is no way back: log and state are replaced, or the node stops.
        self._replica.hold()
        self._readers.hold()
        self._log.reset(offer.meta, lambda: self._replace(offer))

    def _replace(self, offer: SnapshotOffer) -> None:
        """A long read that had begun before is waited for: it has the old file open."""
        if self._readers.reading:
            self._timer.call_after(BUSY_MS, lambda: self._replace(offer))
            return
        self._replace_state(offer.meta, lambda: self._replaced(offer))

    def _replaced(self, offer: SnapshotOffer) -> None:
        self._offer, self._to, self._replacing = None, None, False
        self.installed += 1
        self._replica.on_installed(offer.meta, True)

    def _failed(self, offer: SnapshotOffer) -> None:
        self._offer, self._to, self._replacing = None, None, False
        self._replica.on_installed(offer.meta, False)
