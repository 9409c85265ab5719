"""The running values of the state: what stands beside the rows, kept in memory, saved with each batch."""

from __future__ import annotations

from typing import Any

import msgspec

from gemot.server.state import digest
from gemot.server.state.tables import Cursor

MARK_EVERY = 4_096
"""The state hash is noted after every entry whose index is a multiple of this."""

MARKS_KEPT = 4

_LOAD = """select applied_index, applied_term, time_ms, epoch, kv_index, reaped_index, nodes_index,
    services_index, checks_index, extinction_index, shift, restored_index, history_from, history_revisions,
    history_bytes, history_rows, history_surplus, history_swept, rows_sum, marks, restores from meta"""
_SAVE = """update meta set applied_index=?, applied_term=?, time_ms=?, epoch=?, kv_index=?, reaped_index=?,
    nodes_index=?, services_index=?, checks_index=?, extinction_index=?, shift=?, restored_index=?,
    history_from=?, history_revisions=?, history_bytes=?, history_rows=?, history_surplus=?, history_swept=?,
    rows_sum=?, marks=?, restores=?"""

RESTORES_KEPT = 8
"""Restores whose names are remembered, so that one proposed twice is carried out once."""


class RestoreMark(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A restore that was done: at which index, as readers know it and as Raft does; who and what it was."""

    index: int
    raft_index: int
    epoch: int
    id: bytes
    sha256: str


_Marks = tuple[tuple[int, bytes], ...]
_Restores = tuple[RestoreMark, ...]
_encode = msgspec.msgpack.Encoder().encode
_decode_marks = msgspec.msgpack.Decoder(_Marks).decode
_decode_restores = msgspec.msgpack.Decoder(_Restores).decode


class Meta:
    """One row of the table `meta`, in memory. `time_ms` is cluster time.

    `applied_index` is Raft's. All other indexes are those that readers know: Raft's and `shift`, which a
    restore raises so far that no index it brings, and none that was ever told, comes again. Whatever is read
    after a restore has at least the index `restored_index`: so all who wait see that something changed.
    `restores` are the last ones.

    The index of a table is that of the last command that changed it. `extinction_index` is that of the
    last command after which some service had no instance. `reaped_index` is the highest tombstone that was
    forgotten: no prefix answers with less, so its index never goes back.

    `history_from` is the index from which on any state of the keys can be told, `history_revisions` how many
    old ones of each key are told (0: no history is kept), `history_bytes` what all of them take, and
    `history_rows` how many there are. About `history_surplus` of these are more than are told of their key;
    `history_swept` is how far (by the index at which they ended) a sweep has come, 0 if none is under way.
    """

    __slots__ = (
        "applied_index",
        "applied_term",
        "checks_index",
        "epoch",
        "extinction_index",
        "history_bytes",
        "history_from",
        "history_revisions",
        "history_rows",
        "history_surplus",
        "history_swept",
        "kv_index",
        "marks",
        "nodes_index",
        "reaped_index",
        "restored_index",
        "restores",
        "rows_sum",
        "services_index",
        "shift",
        "time_ms",
    )

    def __init__(self) -> None:
        self.applied_index = 0
        self.applied_term = 0
        self.time_ms = 0
        self.epoch = 0
        self.kv_index = 0
        self.reaped_index = 0
        self.nodes_index = 0
        self.services_index = 0
        self.checks_index = 0
        self.extinction_index = 0
        self.shift = 0
        self.restored_index = 0
        self.history_from = 0
        self.history_revisions = 0
        self.history_bytes = 0
        self.history_rows = 0
        self.history_surplus = 0
        self.history_swept = 0
        self.rows_sum = 0
        self.marks: _Marks = ()
        self.restores: _Restores = ()

    def load(self, cursor: Cursor) -> None:
        *numbers, rows_sum, marks, restores = cursor.execute(_LOAD).get
        self.restore((*numbers, digest.unpack(rows_sum), _decode_marks(marks), _decode_restores(restores)))

    def save(self, cursor: Cursor) -> None:
        *numbers, rows_sum, marks, restores = self.kept()
        packed = digest.pack(digest.wrap(rows_sum))
        cursor.execute(_SAVE, (*numbers, packed, _encode(marks), _encode(restores)))

    def kept(self) -> tuple[Any, ...]:
        """All values, for `restore` when a command is undone."""
        shifted = (self.shift, self.restored_index)
        return (*self._scalars(), *shifted, *self._history(), self.rows_sum, self.marks, self.restores)

    def restore(self, kept: tuple[Any, ...]) -> None:
        (
            self.applied_index,
            self.applied_term,
            self.time_ms,
            self.epoch,
            self.kv_index,
            self.reaped_index,
            self.nodes_index,
            self.services_index,
            self.checks_index,
            self.extinction_index,
            self.shift,
            self.restored_index,
            self.history_from,
            self.history_revisions,
            self.history_bytes,
            self.history_rows,
            self.history_surplus,
            self.history_swept,
            self.rows_sum,
            self.marks,
            self.restores,
        ) = kept

    def state_hash(self) -> bytes:
        scalars = self._scalars()
        if self.restored_index:  # a state that never was restored hashes as in the first format
            scalars = (*scalars, self.shift, self.restored_index)
        if self.history_from:  # likewise of one that never kept the history of keys
            scalars = (*scalars, *self._history())
        return digest.of_state(digest.wrap(self.rows_sum), scalars)

    @property
    def index(self) -> int:
        """The applied index as readers know it."""
        return self.applied_index + self.shift

    def advance(self, index: int, term: int) -> None:
        """The entry at `index` is applied."""
        self.applied_index = index
        self.applied_term = term
        if index % MARK_EVERY == 0:
            self.marks = (*self.marks, (index, self.state_hash()))[-MARKS_KEPT:]

    def _history(self) -> tuple[int, ...]:
        return (
            self.history_from,
            self.history_revisions,
            self.history_bytes,
            self.history_rows,
            self.history_surplus,
            self.history_swept,
        )

    def _scalars(self) -> tuple[int, ...]:
        return (
            self.applied_index,
            self.applied_term,
            self.time_ms,
            self.epoch,
            self.kv_index,
            self.reaped_index,
            self.nodes_index,
            self.services_index,
            self.checks_index,
            self.extinction_index,
        )
