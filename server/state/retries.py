"""What was answered to whom: so that a write tried twice is applied once.

Two ways of naming a write. A `RetryId` comes from a server or agent of ours: its results live in memory
and, in blocks of 64 sequences, in the table `retry`; a batch writes each touched block once, not each
result. The origin's watermark says what was answered and drops it. An `IdempotencyKey` comes from a
caller, is scoped by who asks, and has one row. The answers of both are forgotten 10 minutes of cluster time
after.

A caller's key tells nothing of its age: one that was used and one that is new look the same, once nothing
is kept of them. So of a forgotten answer the key stays, among the newest MAX_FORGOTTEN ones: used again, its
write is refused as of unknown outcome. One that is older still is taken for a new one.

Every result is kept, a refusal as well as a success: a second try gets the first one's answer.
"""

from __future__ import annotations

import msgspec

from gemot.server.model.command import IdempotencyKey, RetryId
from gemot.server.model.errors import (
    Busy,
    Conflict,
    GemotError,
    OutcomeForgotten,
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
MAX_FORGOTTEN = 100_000
"""Keys without their answers that are kept: about 20 MB of keys that are UUIDs."""

PRUNE_ROWS = 1_000
PRUNE_WITH_WRITE = 2
"""Overdue keys that each keyed write removes on its way, so that no load piles them up."""

_BLOCK_BITS = 6
_RETRY = b"retry"
_KEYED = b"idempotency"


class Stored(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A result as it is kept. `error` is None for a success."""

    sequence: int
    index: int
    value: bool | int | bytes
    error: WireError | None

    def result(self) -> Applied | GemotError:
        return from_wire(self.error) if self.error is not None else Applied(self.index, self.value)


class _Keyed(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A row of the table `idempotency`. `result` is None where the answer is forgotten.

    The column `time_ms` has the same time, and for a forgotten one less than 0: the newest lowest.
    """

    accessor: str
    key: str
    body_hash: bytes
    time_ms: int
    result: Stored | None


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
        self._forgotten = 0

    def __len__(self) -> int:
        """Origins remembered."""
        return len(self._origins)

    def load(self, cursor: Cursor) -> None:
        self._origins = {}
        self._dirty = {}
        self._forgotten = cursor.execute("select count(*) from idempotency where time_ms < 0").get
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

        Raises OutcomeForgotten (the answer is gone), Conflict (the key was used for something else), Busy and
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
            self._store_of_key(writing, accessor, name, stored)

    def _earlier_of_origin(self, retry: RetryId) -> Applied | GemotError | None:
        origin = self._origins.get(retry.origin)
        acknowledged = retry.acknowledged
        if origin is not None:
            acknowledged = max(acknowledged, origin.acknowledged)
            if (stored := origin.find(retry.sequence)) is not None:
                return stored.result()
        if retry.sequence <= acknowledged:
            raise OutcomeForgotten(
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
        self._prune_keys(writing, command.before_ms, PRUNE_ROWS)
        return True

    def _store_of_key(self, writing: Writing, accessor: str, name: IdempotencyKey, stored: Stored) -> None:
        keyed = _Keyed(accessor, name.key, name.body_hash, writing.time_ms, stored)
        _put_key(writing, keyed, writing.time_ms)
        self._prune_keys(writing, writing.time_ms - KEEP_MS, PRUNE_WITH_WRITE)

    def _prune_keys(self, writing: Writing, before_ms: int, limit: int) -> None:
        """Forget overdue answers, oldest first, then the oldest keys past the limit; some of each."""
        for row in _rows(
            writing, "time_ms between 0 and ? order by time_ms, accessor, key", before_ms, limit
        ):
            keyed = _decode_keyed(row)
            _take_key(writing, keyed, row)
            _put_key(writing, msgspec.structs.replace(keyed, result=None), -1 - keyed.time_ms)
            self._forgotten += 1
        over = min(self._forgotten - MAX_FORGOTTEN, limit)
        if over > 0:
            for row in _rows(writing, "time_ms < ? order by time_ms desc, accessor desc, key desc", 0, over):
                _take_key(writing, _decode_keyed(row), row)
                self._forgotten -= 1

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
    if keyed.result is None:
        raise OutcomeForgotten(
            f'the outcome of the write with Idempotency-Key "{name.key}" is unknown: it was answered more '
            f"than {KEEP_MS // 60_000} minutes ago, and the answer is not kept; see what is stored now, and "
            "give a new key to write again"
        )
    return keyed.result.result()


def _put_key(writing: Writing, keyed: _Keyed, time_ms: int) -> None:
    row = _encode(keyed)
    writing.cursor.execute(
        "insert into idempotency values (?, ?, ?, ?)", (keyed.accessor, keyed.key, time_ms, row)
    )
    writing.add(_KEYED, row)


def _take_key(writing: Writing, keyed: _Keyed, row: bytes) -> None:
    writing.cursor.execute(
        "delete from idempotency where accessor = ? and key = ?", (keyed.accessor, keyed.key)
    )
    writing.take(_KEYED, row)


def _rows(writing: Writing, where: str, time_ms: int, limit: int) -> list[bytes]:
    statement = f"select row from idempotency where {where} limit ?"
    return [row for (row,) in writing.cursor.execute(statement, (time_ms, limit)).fetchall()]


def keys_exist(cursor: Cursor) -> bool:
    """Are there answers that are to be forgotten in time?"""
    return cursor.execute("select 1 from idempotency where time_ms >= 0 limit 1").get is not None
