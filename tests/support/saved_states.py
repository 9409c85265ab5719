"""Snapshots saved in the middle of faults: each must be the state as of its index, and not an old one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec
from simulation.register import Op, Outcome
from simulation.witness import Effect, Violation, replayed
from support.archives import parts
from support.server_log import indexes_of

from gemot.server.storage.standing import opened


class Archive(msgspec.Struct, frozen=True):
    """A file, and when it was asked for."""

    path: Path
    began: int


def check_archives(archives: Iterable[Archive], effects: list[Effect], ops: list[Op]) -> int:
    """Raises Violation for one that holds anything else than what the log says; how many were looked at."""
    indexes = indexes_of(effects)
    acknowledged = [
        (op.ended, indexes[op.value])
        for op in ops
        if op.writes and op.outcome is Outcome.DONE and op.answer and op.value in indexes
    ]
    count = 0
    for archive in archives:
        index, held = _read(archive.path)
        due = max((at for ended, at in acknowledged if ended < archive.began), default=0)
        if index < due:
            raise Violation(f"{archive} is as of {index}, and {due} was acknowledged before it was asked for")
        if held != (expected := _at(index, effects)):
            odd = sorted(held.items() ^ expected.items())[:3]
            raise Violation(f"{archive} is not the state as of {index}: {odd}")
        count += 1
    return count


def _read(path: Path) -> tuple[int, dict[bytes, int]]:
    """The index it is as of, and the modify index of each key."""
    _, state = parts(path.read_bytes())
    file = path.with_suffix(".db")
    file.write_bytes(state)
    with opened(file) as database:
        ((index,),) = database.execute("select applied_index from meta")
        return int(index), dict(database.execute("select key, modify_index from kv"))


def _at(index: int, effects: list[Effect]) -> dict[bytes, int]:
    stored: dict[bytes, tuple[bytes, int]] = {}
    for _, stored in replayed(effect for effect in effects if effect.index <= index):  # noqa: B007 - the last one
        pass
    return {key: modified for key, (_, modified) in stored.items()}
