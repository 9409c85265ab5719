"""What the replica needs of the world, as Protocols.

`runtime.py` supplies the real ones; the simulator supplies its own. All calls return at once; what takes
time answers later by an event handler of the replica, on the same thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from gemot.server.model.errors import GemotError
from gemot.server.model.query import Query
from gemot.server.model.restore import Blob
from gemot.server.raft.types import Batch, Entry, HardState, Message, SnapshotMeta
from gemot.server.rpc.message import Call, Member, SnapshotChunk
from gemot.server.state.restore import Placement
from gemot.server.state.store import Found
from gemot.server.storage.blobs import Export


class Log(Protocol):
    """The durable log and vote. Saves finish in the order they were asked."""

    def save(self, hard_state: HardState | None, append: Batch | None, token: int) -> None:
        """Make both durable, then call the replica's `on_saved(token)`. Never fails: it stops the node."""

    def term(self, index: int) -> int | None:
        """The term of an entry still held (or of the snapshot just before the first one), else None."""

    def read(self, first: int, last: int, max_bytes: int) -> tuple[Entry, ...]:
        """Entries first..last, fewer when they pass `max_bytes` (at least one). Saved or being saved."""

    def compact(self, base: SnapshotMeta) -> None:
        """Forget entries up to `base.index`, as far as whole segments allow; asked again later, it goes on.

        Who votes then is kept, since the entries that tell it go.
        """

    def reset(self, meta: SnapshotMeta, done: Callable[[], None]) -> None:
        """Forget every entry: the snapshot `meta` replaces them. Durable, then `done()`."""

    def flush(self, done: Callable[[], None]) -> None:
        """Call `done` once all is durable that was asked of this and of `Identity` before."""


class Wire(Protocol):
    """Messages to other servers: they may be lost, doubled, late; never altered."""

    def send(self, to: str, message: Message) -> None: ...


class Timer(Protocol):
    def call_after(self, delay_ms: int, callback: Callable[[], None]) -> Callable[[], None]:
        """Run `callback` once after the delay; returns what cancels it."""

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Run `callback` after the event at hand."""

    def now_ms(self) -> int:
        """Boot-time clock of this host in milliseconds: never goes back, counts suspended time."""

    def wall_ms(self) -> int:
        """This host's wall clock, milliseconds since 1970: for people. It may be wrong, and leap."""

    def stopwatch_us(self) -> int:
        """Microseconds since some moment or other: to tell how long an event took so far."""


class Reader(Protocol):
    """Long lists, read away from the loop, each in a read transaction of its own; asked one at a time."""

    def submit(self, query: Query, accessor: str, done: Callable[[Found | GemotError], None]) -> None:
        """Read a state at least as new as the present one, then call `done` with what was found or refused.

        A state that cannot be read stops the node. Until `done` the state file may not be replaced.
        """


class Random(Protocol):
    def random(self) -> float: ...

    def randrange(self, stop: int, /) -> int: ...

    def randbytes(self, n: int, /) -> bytes: ...


class Peers(Wire, Protocol):
    """The other servers: Raft messages, and calls with an answer."""

    def call(self, to: Member, call: Call, done: Callable[[Any], None]) -> None:
        """Ask; `done` gets the answer or a GemotError, later, once."""

    def unreached(self, id: str) -> str:
        """Why that server is not connected now, for people (`10.0.0.3:8300 refused 4 s ago`); "" if it is."""

    def greet_again(self) -> None:
        """This server's hello has changed (it belongs to a cluster now): every link says it anew."""


class Upkeep(Protocol):
    """Long work on snapshots and the state file, away from the loop; one piece of each kind at a time."""

    def take_snapshot(
        self, voters_at: Callable[[int], tuple[str, ...]], done: Callable[[SnapshotMeta], None]
    ) -> None:
        """Copy the state as it stands applied, verify and keep it. A failure stops the node.

        `voters_at` tells who voted at an index; it is called as an event, once it is known what was copied:
        writes go on meanwhile, so that may be more than was applied when this was called.
        """

    def checkpoint(self, done: Callable[[int], None]) -> None:
        """Move the write-ahead log into the state file; `done` gets the index proven durable there."""

    def newest_snapshot(self) -> SnapshotMeta | None: ...

    def oldest_snapshot(self) -> SnapshotMeta | None:
        """The older of the two kept, or the only one, or None: the log is never compacted past it."""

    def read_chunk(self, index: int, term: int, offset: int) -> SnapshotChunk:
        """A piece of a kept snapshot. Raises NotFound."""

    def inbox(self, meta: SnapshotMeta, first: SnapshotChunk) -> Inbox:
        """Where the pieces of an incoming snapshot go."""

    def replace_state(self, meta: SnapshotMeta, done: Callable[[], None]) -> None:
        """Put the kept snapshot `meta` in place of the state, then call `done`.

        Until then nobody reads or writes the state. A failure stops the node.
        """


class DiskSpace(Protocol):
    """The disk that the data directory is on."""

    def measured(self) -> tuple[int, int, int] | None:
        """Bytes free, bytes in all, and the entry applied when that was asked: a second ago or so, or more on
        a disk that keeps one waiting. None if it is not known.
        """


class Inbox(Protocol):
    """Where an incoming snapshot is put together."""

    def write(self, offset: int, data: bytes) -> None: ...

    def finish(self, done: Callable[[GemotError | None], None]) -> None:
        """Verify size and hash, make it one of the kept snapshots, durably; then call `done`.

        It gets what is wrong with it, if it could not become one. A failure of the disk stops the node.
        """


class Archives(Protocol):
    """Snapshots that people keep, out and in, and the blobs of restores. What takes time is done elsewhere.

    A failure of the disk here is told as an error, but for `prepare` and `replace`, where
    it stops the node.
    """

    def export(
        self, id: int, voters: tuple[str, ...], cluster: str, done: Callable[[Export | GemotError], None]
    ) -> None:
        """Copy the state as it stands applied, and pack it. Until `done` it may not be replaced."""

    def read_export(self, id: int, offset: int) -> bytes:
        """A piece of it. Raises NotFound."""

    def drop_export(self, id: int) -> None: ...

    def take_in(self, id: int, data: bytes, done: Callable[[GemotError | None], None]) -> None:
        """The next bytes of an archive; after an error it is forgotten."""

    def finish(self, id: int, done: Callable[[Blob | GemotError], None]) -> None:
        """No more bytes come: check everything, and keep the blob, durably."""

    def abandon(self, id: int) -> None:
        """That archive will not go on."""

    def blobs(self) -> tuple[Blob, ...]:
        """What is kept here, durably."""

    def read_blob(self, sha256: str, offset: int) -> bytes:
        """A piece of a kept blob. Raises NotFound."""

    def blob_inbox(self, blob: Blob) -> Inbox:
        """Where a blob of another server goes. Raises GemotError."""

    def prepare(
        self,
        sha256: str,
        place: Placement,
        voters: tuple[str, ...],
        done: Callable[[SnapshotMeta | GemotError], None],
    ) -> None:
        """Make of a kept blob the snapshot that the state will be, and keep it.

        Until `done` the state does not change. An error means that the blob is damaged and was dropped, and
        that nothing was done; any other failure stops the node.
        """

    def replace(self, meta: SnapshotMeta, done: Callable[[], None]) -> None:
        """Put what was prepared in place of the state, which is then read anew.

        Until `done` nobody reads or writes the state. A failure stops the node.
        """

    def forget(self, sha256: str) -> None:
        """No log that is kept needs this blob."""


class Identity(Protocol):
    """What the meta file says of this server's place in a cluster."""

    def cluster(self) -> str: ...

    def adopt(self, cluster: str) -> None:
        """Belong to this cluster from now on; durable before anything saved after this call."""

    def pledge(self) -> bytes: ...

    def keep_pledge(self, pledge: bytes, done: Callable[[], None]) -> None:
        """Make a bootstrap promise durable, then call `done`."""
