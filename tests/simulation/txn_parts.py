"""A transaction taken apart, for those who check one family of commands or one key."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from simulation.witness import Effect, Seen

from gemot.server.model.command import Command
from gemot.server.model.kv import KvDelete, KvDeletePrefix, KvSet
from gemot.server.model.query import Applied
from gemot.server.model.txn import (
    CheckFence,
    FenceGuard,
    FoundKey,
    KvOp,
    Txn,
    TxnOp,
    decode,
    single,
)


def carried_out(command: Txn, result: Applied) -> Iterator[tuple[Command, bool | int]]:
    """What the single commands would be and answer; nothing of a transaction that failed."""
    answer = decode(result.value)
    if answer.errors:
        return
    held = {(f.row.key, f.row.session): f.row.fence for f in answer.results if isinstance(f, FoundKey)}
    for op in command.ops:
        if isinstance(op, CheckFence | FenceGuard) or (part := single(op)) is None:
            continue
        locks = isinstance(op, KvOp) and op.verb == "lock"
        yield part, held[op.key, op.session] if locks and isinstance(op, KvOp) else True


def effect_of(index: int, command: Txn, result: Applied) -> Effect | None:
    """What it did to keys; None where it did nothing."""
    parts = [_part(index, part) for part, _ in carried_out(command, result)]
    kept = tuple(part for part in parts if part is not None)
    return Effect(index, "txn", b"", None, None, parts=kept) if kept else None


def _part(index: int, command: Command) -> Effect | None:
    match command:
        case KvSet(key=key, value=value, cas=cas, acquire=None, release=None):
            return Effect(index, "set", key, value, cas)
        case KvDelete(key=key, cas=cas):
            return Effect(index, "delete", key, None, cas)
        case KvDeletePrefix(prefix=prefix):
            return Effect(index, "delete-prefix", prefix, None, None)
    return None


def on_keys(ops: Iterable[TxnOp], keys: Iterable[bytes], began: int) -> list[Seen]:
    """Of each key the last write, as an operation of its own that compares as the first of these did.

    With what was read between it is known less than the transaction tells, and never more.
    """
    mine = [op for op in ops if isinstance(op, KvOp)]
    found: list[Seen] = []
    for key in keys:
        touching = [op for op in mine if _reaches(op, key)]
        if not any(writes(op) for op in touching):
            continue
        last = next(op for op in reversed(touching) if writes(op))
        deletes = last.verb.startswith("delete")
        value = None if deletes else last.value
        found.append(
            Seen("delete" if deletes else "set", key, began, began, 0, value, _cas(touching[0]), None)
        )
    return found


def _reaches(op: KvOp, key: bytes) -> bool:
    if op.verb == "delete-tree":
        return key.startswith(op.key)
    return key == op.key and (writes(op) or op.verb in ("check-index", "check-not-exists"))


def writes(op: TxnOp) -> bool:
    return isinstance(op, KvOp) and op.verb in ("set", "cas", "delete", "delete-cas", "delete-tree")


def _cas(first: KvOp) -> int | None:
    """The index that the key must have had before. A delete that compares takes what is not there as well."""
    if first.verb == "check-not-exists":
        return 0
    return first.index if first.verb in ("cas", "check-index") else None
