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
    services_index, checks_index, extinction_index, rows_sum, marks from meta"""
_SAVE = """update meta set applied_index=?, applied_term=?, time_ms=?, epoch=?, kv_index=?, reaped_index=?,
    nodes_index=?, services_index=?, checks_index=?, extinction_index=?, rows_sum=?, marks=?"""

_Marks = tuple[tuple[int, bytes], ...]
_encode_marks = msgspec.msgpack.Encoder().encode
_decode_marks = msgspec.msgpack.Decoder(_Marks).decode


class Meta:
    """One row of the table `meta`, in memory. Indexes are Raft's; `time_ms` is cluster time.

    The index of a table is that of the last command that changed it. `extinction_index` is that of the
    last command after which some service had no instance. `reaped_index` is the highest tombstone that was
    forgotten: no prefix answers with less, so its index never goes back.
    """

    __slots__ = (
        "applied_index",
        "applied_term",
        "checks_index",
        "epoch",
        "extinction_index",
        "kv_index",
        "marks",
        "nodes_index",
        "reaped_index",
        "rows_sum",
        "services_index",
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
        self.rows_sum = 0
        self.marks: _Marks = ()

    def load(self, cursor: Cursor) -> None:
        *numbers, rows_sum, marks = cursor.execute(_LOAD).get
        self.restore((*numbers, digest.unpack(rows_sum), _decode_marks(marks)))

    def save(self, cursor: Cursor) -> None:
        *numbers, rows_sum, marks = self.kept()
        cursor.execute(_SAVE, (*numbers, digest.pack(digest.wrap(rows_sum)), _encode_marks(marks)))

    def kept(self) -> tuple[Any, ...]:
        """All values, for `restore` when a command is undone."""
        return (*self._scalars(), self.rows_sum, self.marks)

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
            self.rows_sum,
            self.marks,
        ) = kept

    def state_hash(self) -> bytes:
        return digest.of_state(digest.wrap(self.rows_sum), self._scalars())

    def advance(self, index: int, term: int) -> None:
        """The entry at `index` is applied."""
        self.applied_index = index
        self.applied_term = term
        if index % MARK_EVERY == 0:
            self.marks = (*self.marks, (index, self.state_hash()))[-MARKS_KEPT:]

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
