"""Lines of kills: nothing is lost when a run is cut off, and what failed is told."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))

from kills import Kill, note, quantile, read, rows, seconds_of, summary
from report import table

KILL = Kill("r", "gemot", 0, "2026-11-26T05:00:00Z", 1.5)
LOST = msgspec.structs.replace(KILL, seconds=60.0, error="no write was acknowledged")
BROKEN = msgspec.structs.replace(KILL, system="etcd", seconds=None, error="no leader")


def test_a_run_that_is_cut_off_has_every_kill_before(tmp_path: Path) -> None:
    file = tmp_path / "kept" / "lines.jsonl"
    for kill in (KILL, LOST, BROKEN):
        note(file, kill)
    with file.open("ab") as cut:
        cut.write(b'{"run":"r","sys')
    assert read(file) == [KILL, LOST, BROKEN]


def test_a_kill_without_a_write_counts_with_what_was_waited_and_is_told() -> None:
    kills = [KILL, LOST, BROKEN]
    assert seconds_of(kills, "gemot") == [1.5, 60.0]
    assert seconds_of(kills, "etcd") == []
    assert "gemot 2 (1 with an error: no write was acknowledged)" in summary(kills)
    assert "etcd 0 (1 with an error: no leader)" in summary(kills)
    longest = next(row for row in rows(kills) if "longest" in row.name)
    assert (longest.etcd, longest.gemot) == ([], [60.0])
    assert "60" in table(rows(kills)), "a table of one system alone can be shown"
    assert table(rows([BROKEN]))


@pytest.mark.parametrize(("q", "expected"), [(0.5, 100), (0.99, 198), (1.0, 200)])
def test_a_quantile_is_a_value_that_was_measured(q: float, expected: float) -> None:
    assert quantile([float(n) for n in range(200, 0, -1)], q) == [expected]
