"""What was answered to whom: so that a write tried twice is applied once.

Two ways of naming a write. A `RetryId` comes from a server or agent of ours: its results live in memory
and, in blocks of 64 sequences, in the table `retry`; a batch writes each touched block once, not each
result. The origin's watermark says what was answered and drops it. An `IdempotencyKey` comes from a
caller, is scoped by who asks, and has one row. Both are forgotten 10 minutes of cluster time after.

Every result is kept, a refusal as well as a success: a second try gets the first one's answer.
"""

from __future__ import annotations

import msgspec

from gemot.server.model.command import IdempotencyKey, RetryId
from gemot.server.model.errors import (
    Busy,
    Conflict,
    GemotError,
    OutcomeUnknown,
    TooLarge,
    WireError,
    from_wire,
    to_wire,
)
from gemot.server.model.query import Applied
from gemot.server.model.upkeep import PruneRetries
from gemot.server.state import digest
from gemot.server.state.scope import Writing
from gemot.server.state.tables import Cursor

KEEP_MS = 10 * 60_000
"""How long an idempotency key is kept, in cluster time."""

MAX_WINDOW = 65_536
"""Writes of one origin that may be unanswered at a time."""

MAX_KEY_BYTES = 255
PRUNE_ROWS = 10_000
PRUNE_WITH_WRITE = 2
"""Overdue keys that each keyed write removes on its way, so that no load piles them up."""

_BLOCK_BITS = 6
_RETRY = b"retry"
_KEYED = b"idempotency"


class Stored(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A result as it is kept. `error` is None for a success."""

    sequence: int
    index: int
    value: bool | int
    error: WireError | None

    def result(self) -> Applied | GemotError:
        return from_wire(self.error) if self.error is not None else Applied(self.index, self.value)


class _Keyed(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A row of the table `idempotency`."""

    accessor: str
    key: str
    body_hash: bytes
    time_ms: int
    result: Stored


_encode = msgspec.msgpack.Encoder().encode
_decode_block = msgspec.msgpack.Decoder(list[Stored]).decode
_decode_keyed = msgspec.msgpack.Decoder(_Keyed).decode


class _Origin:
    """One minter of retry ids. `blocks` holds the results above the watermark, by sequence // 64."""

    __slots__ = ("acknowledged", "blocks", "dirty", "time_ms")

    def __init__(self, acknowledged: int, time_ms: int) -> None:
        self.acknowledged = acknowledged
        self.time_ms = time_ms
        self.blocks: dict[int, dict[int, Stored]] = {}
        self.dirty: dict[int, None] = {}

    def find(self, sequence: int) -> Stored | None:
        block = self.blocks.get(sequence >> _BLOCK_BITS)
        return block.get(sequence) if block is not None else None


class Retries:
    """The tables `retry_origin` and `retry` in memory, and the rules of both kinds of names."""

    def __init__(self) -> None:
        self._origins: dict[bytes, _Origin] = {}
        self._dirty: dict[bytes, None] = {}

    def __len__(self) -> int:
        """Origins remembered."""
        return len(self._origins)

    def load(self, cursor: Cursor) -> None:
        self._origins = {}
        self._dirty = {}
        rows = cursor.execute("select origin, acknowledged, time_ms from retry_origin order by origin")
        for origin, acknowledged, time_ms in rows.fetchall():
            self._origins[origin] = _Origin(acknowledged, time_ms)
        for origin, block, results in cursor.execute("select origin, block, results from retry").fetchall():
            stored = {result.sequence: result for result in _decode_block(results)}
            self._origins[origin].blocks[block] = stored

    # -- one write ---------------------------------------------------------------------------------

    def earlier(
        self, writing: Writing, accessor: str, name: RetryId | IdempotencyKey
    ) -> Applied | GemotError | None:
        """What the first try was answered; None if this is the first.

        Raises OutcomeUnknown (the answer is gone), Conflict (the key was used for something else), Busy and
        TooLarge (a limit): in each case the write must not be applied.
        """
        if isinstance(name, RetryId):
            return self._earlier_of_origin(name)
        return _earlier_of_key(writing, accessor, name)

    def store(
        self, writing: Writing, accessor: str, name: RetryId | IdempotencyKey, result: Applied | GemotError
    ) -> None:
        """Remember what the first try is answered."""
        sequence = name.sequence if isinstance(name, RetryId) else 0
        if isinstance(result, Applied):
            stored = Stored(sequence, result.index, result.value, None)
        else:
            stored = Stored(sequence, writing.index, False, to_wire(result))
        if isinstance(name, RetryId):
            self._store_of_origin(writing, name, stored)
        else:
            _store_of_key(writing, accessor, name, stored)

    def _earlier_of_origin(self, retry: RetryId) -> Applied | GemotError | None:
        origin = self._origins.get(retry.origin)
        acknowledged = retry.acknowledged
        if origin is not None:
            acknowledged = max(acknowledged, origin.acknowledged)
            if (stored := origin.find(retry.sequence)) is not None:
                return stored.result()
        if retry.sequence <= acknowledged:
            raise OutcomeUnknown(
                f"the outcome of write {retry.sequence} is unknown: it was answered before "
                f"(up to {acknowledged} all were), and the answer is no longer kept"
            )
        if retry.sequence > acknowledged + MAX_WINDOW:
            raise Busy(f"{MAX_WINDOW} writes of one origin are unanswered: ask again when some are")
        return None

    def _store_of_origin(self, writing: Writing, retry: RetryId, stored: Stored) -> None:
        origin = self._origins.get(retry.origin)
        if origin is None:
            origin = self._origins[retry.origin] = _Origin(retry.acknowledged, writing.time_ms)
        elif retry.acknowledged > origin.acknowledged:
            _drop(writing, retry.origin, origin, retry.acknowledged)
        number = stored.sequence >> _BLOCK_BITS
        origin.blocks.setdefault(number, {})[stored.sequence] = stored
        origin.time_ms = writing.time_ms
        origin.dirty[number] = None
        self._dirty[retry.origin] = None
        writing.meta.rows_sum += _of_result(retry.origin, stored)

    # -- the batch's end ---------------------------------------------------------------------------

    def flush(self, cursor: Cursor) -> None:
        """Write what the batch touched: one row an origin, and its touched blocks."""
        for name in self._dirty:
            origin = self._origins[name]
            cursor.execute(
                "insert or replace into retry_origin values (?, ?, ?)",
                (name, origin.acknowledged, origin.time_ms),
            )
            for number in origin.dirty:
                block = origin.blocks.get(number)
                if block:
                    results = _encode(list(block.values()))
                    cursor.execute("insert or replace into retry values (?, ?, ?)", (name, number, results))
                else:
                    cursor.execute("delete from retry where origin = ? and block = ?", (name, number))
            origin.dirty = {}
        self._dirty = {}

    # -- upkeep ------------------------------------------------------------------------------------

    def prune(self, writing: Writing, command: PruneRetries) -> bool:
        """PruneRetries: forget origins and keys last used at or before that cluster time."""
        self.flush(writing.cursor)
        for name, origin in list(self._origins.items()):
            if origin.time_ms > command.before_ms:
                continue
            for block in origin.blocks.values():
                for stored in block.values():
                    writing.meta.rows_sum -= _of_result(name, stored)
            writing.cursor.execute("delete from retry_origin where origin = ?", (name,))
            writing.cursor.execute("delete from retry where origin = ?", (name,))
            del self._origins[name]
        _prune_keys(writing, command.before_ms, PRUNE_ROWS)
        return True

    def rows_sum(self) -> int:
        """The part of the state hash that stands for these results, computed anew."""
        return sum(
            _of_result(name, stored)
            for name, origin in self._origins.items()
            for block in origin.blocks.values()
            for stored in block.values()
        )


def _drop(writing: Writing, name: bytes, origin: _Origin, acknowledged: int) -> None:
    """The watermark moves up: what is at or below it will not be asked for again."""
    for number in [number for number in origin.blocks if number << _BLOCK_BITS <= acknowledged]:
        block = origin.blocks[number]
        for sequence in [sequence for sequence in block if sequence <= acknowledged]:
            writing.meta.rows_sum -= _of_result(name, block.pop(sequence))
        if not block:
            del origin.blocks[number]
        origin.dirty[number] = None
    origin.acknowledged = acknowledged


def _of_result(origin: bytes, stored: Stored) -> int:
    return digest.of_row(_RETRY, origin + _encode(stored))


def _earlier_of_key(writing: Writing, accessor: str, name: IdempotencyKey) -> Applied | GemotError | None:
    if not 0 < len(name.key) <= MAX_KEY_BYTES:
        raise TooLarge(f"Idempotency-Key has {len(name.key)} characters: give 1 to {MAX_KEY_BYTES}")
    row: bytes | None = writing.cursor.execute(
        "select row from idempotency where accessor = ? and key = ?", (accessor, name.key)
    ).get
    if row is None:
        return None
    keyed = _decode_keyed(row)
    if keyed.body_hash != name.body_hash:
        raise Conflict(
            f'Idempotency-Key "{name.key}" was used for another request (422): a key names one request; '
            "give a new key, or repeat the first request unchanged"
        )
    return keyed.result.result()


def _store_of_key(writing: Writing, accessor: str, name: IdempotencyKey, stored: Stored) -> None:
    row = _encode(_Keyed(accessor, name.key, name.body_hash, writing.time_ms, stored))
    writing.cursor.execute(
        "insert into idempotency values (?, ?, ?, ?)", (accessor, name.key, writing.time_ms, row)
    )
    writing.add(_KEYED, row)
    _prune_keys(writing, writing.time_ms - KEEP_MS, PRUNE_WITH_WRITE)


def _prune_keys(writing: Writing, before_ms: int, limit: int) -> None:
    rows = writing.cursor.execute(
        """select accessor, key, row from idempotency where time_ms <= ?
        order by time_ms, accessor, key limit ?""",
        (before_ms, limit),
    ).fetchall()
    for accessor, key, row in rows:
        writing.cursor.execute("delete from idempotency where accessor = ? and key = ?", (accessor, key))
        writing.take(_KEYED, row)


def keys_exist(cursor: Cursor) -> bool:
    return cursor.execute("select 1 from idempotency limit 1").get is not None
