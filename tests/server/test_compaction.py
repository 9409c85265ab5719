"""What the log may forget once there is a new snapshot: never what leads on from the older one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from gemot.server.compaction import Compaction
from gemot.server.raft.types import SnapshotMeta

VOTERS = ("a", "b", "c")


class Parts:
    """Log, Raft, state and snapshots, as far as `Compaction` asks them; `bases` are what the log was told."""

    def __init__(self, *, older: int, newest: int, applied: int, begins: int = 0) -> None:
        self.snapshots = [SnapshotMeta(index, 3, VOTERS) for index in (older, newest)]
        self.applied_index, self.applied_term = applied, 3
        self.begins = begins
        self.bases: list[SnapshotMeta] = []
        self.told: list[tuple[int, SnapshotMeta]] = []

    def oldest_snapshot(self) -> SnapshotMeta:
        return self.snapshots[0]

    def term_at(self, index: int) -> int | None:
        return 3 if index >= self.begins else None

    def voters_at(self, _index: int) -> tuple[str, ...]:
        return VOTERS

    def compact(self, base: SnapshotMeta) -> None:
        self.bases.append(base)

    def compacted(self, through: int, meta: SnapshotMeta) -> None:
        self.told.append((through, meta))


class Bounds(msgspec.Struct):
    snapshot_entries: int = 10
    snapshot_rest_ms: int = 0
    trailing_entries: int = 20
    checkpoint_wal_bytes: int = 1 << 20


def _compaction(parts: Any) -> Compaction:
    return Compaction(
        bounds=Bounds(),
        raft=parts,
        log=parts,
        state=parts,
        upkeep=parts,
        timer=SimpleNamespace(now_ms=lambda: 0),  # type: ignore[arg-type]
        replacing=lambda: False,
        fits=lambda: True,
    )


@pytest.mark.parametrize(
    ("parts", "renew", "through"),
    [
        pytest.param({"older": 50, "newest": 90, "applied": 90}, 0, 50, id="up to the older one"),
        pytest.param({"older": 80, "newest": 90, "applied": 90}, 0, 70, id="less what followers may need"),
        pytest.param({"older": 10, "newest": 15, "applied": 15}, 0, 0, id="nothing, it is short"),
        pytest.param({"older": 50, "newest": 90, "applied": 90}, 60, 60, id="all before damage"),
        pytest.param({"older": 50, "newest": 90, "applied": 95}, 91, 50, id="not before damage is covered"),
        pytest.param({"older": 50, "newest": 90, "applied": 90, "begins": 60}, 0, 0, id="it begins later"),
    ],
)
def test_the_log_keeps_what_leads_on_from_the_older_snapshot(
    parts: dict[str, int], renew: int, through: int
) -> None:
    around = Parts(**parts)
    compaction = _compaction(around)
    if renew:
        compaction.on_rot(renew)
    compaction.taken(around.snapshots[1])
    assert around.bases == ([SnapshotMeta(through, 3, VOTERS)] if through else [])
    assert [meta for _, meta in around.told] == [around.snapshots[1]], "the newest is what is offered"
