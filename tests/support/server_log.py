"""What a stopped server's log says was done, and whether the answers that clients were given agree with it.

This is the witness for real processes: HTTP tells no index of a write, but no value is written twice, so a
value names its entry. Each operation gets the indexes at which its answer is true; going through all of
them, of all keys, in order of real time, there must be one for each that is not below that of an operation
which had ended before.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import msgspec
from simulation.register import Kind, Op, Outcome
from simulation.txn_model import TxnModel
from simulation.witness import Effect, Violation, replayed

from gemot.server.model.command import IdempotencyKey, RetryId, decode
from gemot.server.model.kv import KvDelete, KvSet
from gemot.server.model.txn import Txn
from gemot.server.raft.types import EntryKind
from gemot.server.storage.log import SegmentLog
from gemot.server.storage.meta import MetaFile
from gemot.server.storage.realdisk import RealDisk

END = 1 << 62


def read_effects(data: Path, segment_bytes: int = 1 << 20) -> list[Effect]:
    """The writes to keys in this data directory's log, each repetition under a retry's name left out."""
    disk, raft = RealDisk(sync=False), data / "raft"
    meta = MetaFile.open(disk, str(raft)).meta
    log = SegmentLog.open(
        disk=disk,
        directory=str(raft / "log"),
        segment_bytes=segment_bytes,
        durable_index=meta.durable_index,
        durable_hash=meta.durable_hash,
    ).log
    assert log.first_index == 1, f"the log begins at {log.first_index}: a part of the story is gone"
    effects: list[Effect] = []
    names, model = Names(), TxnModel()
    for entry in log.read(1, log.last_index, 1 << 40):
        if entry.kind != EntryKind.COMMAND:
            continue
        envelope = decode(entry.data)
        command = envelope.command
        if not names.is_first(envelope.retry):
            continue
        plain = isinstance(command, KvSet) and command.acquire is None and command.release is None
        if not plain and not isinstance(command, KvDelete):
            effects += _changed(model, command, entry.index, envelope.time_ms)
            continue
        assert isinstance(command, KvSet | KvDelete)
        model.apply(command, entry.index, envelope.time_ms)
        value = command.value if isinstance(command, KvSet) else None
        kind = "set" if isinstance(command, KvSet) else "delete"
        effects.append(Effect(entry.index, kind, command.key, value, command.cas))
    return effects


def _changed(model: TxnModel, command: Any, index: int, time_ms: int) -> list[Effect]:
    """What a transaction, a lock or the end of a session did to keys, by the rules; a part for each spell."""
    before = dict(model.kv)
    if isinstance(command, Txn):
        model.carry_out(command, index, time_ms)
    else:
        model.apply(command, index, time_ms)
    parts: dict[bytes, list[Effect]] = defaultdict(list)
    for key in sorted(before.keys() | model.kv.keys()):
        if before.get(key) != (now := model.kv.get(key)):
            kind, value = ("delete", None) if now is None else ("set", now.value)
            parts[key[: key.rfind(b"/") + 1]].append(Effect(index, kind, key, value, None))
    return [Effect(index, "txn", spell, None, None, parts=tuple(some)) for spell, some in parts.items()]


def indexes_of(effects: list[Effect]) -> dict[bytes, int]:
    """The index of each value: none is written twice."""
    parts = (part for effect in effects for part in effect.parts or (effect,))
    return {part.value: part.index for part in parts if part.value is not None}


class Names:
    """The names of retries that went by: a second entry has no effect, nor one that comes too late."""

    def __init__(self) -> None:
        self._seen: set[object] = set()
        self._answered: dict[bytes, int] = {}

    def is_first(self, name: RetryId | IdempotencyKey | None) -> bool:
        if name is None:
            return True
        if isinstance(name, IdempotencyKey):
            key: object = name.key
        else:
            key = (name.origin, name.sequence)
            answered = max(name.acknowledged, self._answered.get(name.origin, 0))
            if key not in self._seen and name.sequence <= answered:
                return False
            self._answered[name.origin] = answered
        first = key not in self._seen
        self._seen.add(key)
        return first


class _Key(msgspec.Struct):
    """What one key went through: since when each state, and which write stands where."""

    since: list[tuple[int, bytes | None]]
    answers: dict[bytes | None, list[tuple[int, bool]]]
    """For each value written (None: deleted) its indexes, and whether it changed anything or was refused."""


def check_log(data: Path, ops: list[Op]) -> int:
    """Raises Violation if the log does not explain what was answered; the number of operations explained."""
    return check_effects(read_effects(data), ops)


def check_effects(effects: list[Effect], ops: list[Op]) -> int:
    keys = _keys(effects)
    refused = {op.value: op for op in ops if op.writes and op.outcome is Outcome.REFUSED}
    for value, index in indexes_of(effects).items():
        if value in refused:
            raise Violation(f"{refused[value]} was told not to be done; it was, at {index}")
    done = [op for op in ops if op.outcome is Outcome.DONE]
    by_end = sorted(done, key=lambda op: op.ended)
    lowest: dict[int, int] = {}
    at = floor = 0
    for op in sorted(done, key=lambda op: op.began):
        while at < len(by_end) and by_end[at].ended < op.began:
            floor = max(floor, lowest[id(by_end[at])])
            at += 1
        place = _first_place(op, keys[op.key], floor)
        if place is None:
            raise Violation(f"{op} has no place in the log from {floor} on")
        lowest[id(op)] = place
    return len(done)


def _keys(effects: list[Effect]) -> dict[bytes, _Key]:
    keys: dict[bytes, _Key] = defaultdict(lambda: _Key([(0, None)], defaultdict(list)))
    for effect, stored in replayed(effects):
        for part in effect.parts or (effect,):
            key = keys[part.key]
            before = key.since[-1][1]
            value = stored[part.key][0] if part.key in stored else None
            fits = value == part.value if part.kind == "set" else value is None
            if part.kind == "set" and key.answers[part.value]:
                raise Violation(f"{part} was applied before, at {key.answers[part.value]}")
            key.answers[part.value].append((part.index, fits))
            if value != before:
                key.since.append((part.index, value))
    return keys


def _first_place(op: Op, key: _Key, floor: int) -> int | None:
    """The lowest index from `floor` on at which this answer is true."""
    if op.kind is Kind.GET:
        ends = [index for index, _ in key.since[1:]] + [END]
        for (index, value), end in zip(key.since, ends, strict=True):
            if value == op.value and end > floor:
                return max(index, floor)
        return None
    for index, fits in key.answers[op.value]:
        if index >= floor and (fits == op.answer):
            return index
    return None
