"""Where one batch ends and the next begins has no part in what comes of the entries.

Each server cuts the log into slices by its own speed: were anything of a batch's bounds to be seen in
rows, results or hashes, servers would drift apart.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.one_state import OneState

from gemot.server.machine import Outcome
from gemot.server.model.catalog import Deregister, Node, Register, Service
from gemot.server.model.command import Command, IdempotencyKey, RetryId
from gemot.server.model.errors import GemotError
from gemot.server.model.health import Check
from gemot.server.model.kv import KvDelete, KvDeletePrefix, KvPurge, KvSet
from gemot.server.model.upkeep import PruneRetries, ReapTombstones, Tick, TrimChanges
from gemot.server.raft.types import Entry, EntryKind
from gemot.server.state import changes, tombstones
from gemot.server.state.meta import MARK_EVERY
from gemot.server.state.retries import KEEP_MS

ENTRIES = 400


def _command(draw: random.Random, index: int) -> Command:
    key = b"%s/%d" % (draw.choice([b"a", b"b"]), draw.randrange(6))
    node = Node(f"n{draw.randrange(3)}", "10.0.0.1", meta={"rack": str(draw.randrange(2))})
    service = Service("s", draw.choice(["web", "db"]), ("t",) * draw.randrange(2))
    # The last of these checks is refused when the node is another: what came before it is undone.
    checks = (Check("", "c", "c", draw.choice(["passing", "critical"])), Check("n0", "d", "d"))
    return draw.choice(
        [
            KvSet(key, b"%d" % draw.randrange(3)),
            KvSet(key, b"x", cas=draw.choice([0, index - 1, index - 5])),
            KvDelete(key),
            KvDeletePrefix(draw.choice([b"a/", b"b/", b""])),
            KvPurge(draw.randrange(1, 4)),
            ReapTombstones(index - 20),
            TrimChanges(index - draw.randrange(30)),
            PruneRetries(draw.randrange(index * KEEP_MS // 50)),
            Register(node, (service,), checks[: draw.randrange(3)]),
            Deregister(node.node, service_id=draw.choice(["", "s"])),
            Tick(),
        ]
    )


def _name(draw: random.Random, index: int) -> RetryId | IdempotencyKey | None:
    if draw.random() < 0.4:
        return RetryId(draw.choice([b"o1", b"o2"]), draw.randrange(max(1, index - 3), index + 1), index // 2)
    if draw.random() < 0.4:
        return IdempotencyKey(f"key{draw.randrange(index + 1)}", draw.choice([b"1", b"1", b"2"]))
    return None


def _log(one: OneState, draw: random.Random) -> list[Entry]:
    entries = []
    for number in range(1, ENTRIES + 1):
        one.time_ms = number * KEEP_MS // 50
        entries.append(one.entry(_command(draw, number), name=_name(draw, number)))
    return entries


def _told(outcome: Outcome) -> Any:
    result = outcome.result
    shown = (type(result), result.message) if isinstance(result, GemotError) else result
    return outcome.index, shown, outcome.touched


def _dump(one: OneState) -> dict[str, list[Any]]:
    cursor = one.file.cursor
    tables = cursor.execute("select name from sqlite_schema where type = 'table' order by 1").fetchall()
    return {name: cursor.execute(f"select * from {name} order by 1, 2").fetchall() for (name,) in tables}


@pytest.mark.parametrize("seed", range(6))
def test_the_bounds_of_slices_are_seen_in_nothing(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "TRIM_ROWS", 20)
    monkeypatch.setattr(tombstones, "REAP_ROWS", 3)
    draw = random.Random(seed)
    before = [Entry(1, index, EntryKind.NOOP, b"") for index in range(1, MARK_EVERY - ENTRIES // 2)]
    found = []
    log: list[Entry] = []
    for number, most in enumerate((1, 3, 50, ENTRIES)):
        one = OneState(tmp_path, name=f"{number}.db")
        one.machine.apply(before)
        one.index = len(before)
        log = log or _log(one, draw)
        outcomes, rest = [], log
        while rest:
            count = draw.randrange(1, most + 1) if most < ENTRIES else ENTRIES
            outcomes += [_told(outcome) for outcome in one.machine.apply(rest[:count])]
            rest = rest[count:]
        found.append((outcomes, one.state.state_hash, one.state.newest_checkpoint_hash(), _dump(one)))
        one.state.verify()
        before_hash = one.state.state_hash
        one.state.reload()
        assert one.state.state_hash == before_hash
        one.close()
    first = found[0]
    assert first[2][0] == MARK_EVERY, "a hash is noted on the way"
    assert len({msgspec.msgpack.encode(type(told[1]).__name__) for told in first[0]}) > 1, "some are refused"
    for other in found[1:]:
        for expected, seen in zip(first, other, strict=True):
            assert seen == expected
