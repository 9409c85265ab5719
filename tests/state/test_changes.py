"""The change table: everything in order, trimmed from the old end only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from support.change_rows import changes_after, ends
from support.one_state import OneState

from gemot.server.model.kv import KvDelete, KvDeletePrefix, KvEntry, KvGet, KvSet
from gemot.server.model.upkeep import TrimChanges
from gemot.server.state import changes


@pytest.fixture
def one(tmp_path: Path) -> Iterator[OneState]:
    state = OneState(tmp_path)
    yield state
    state.close()


def test_each_change_is_told_once_with_its_row(one: OneState) -> None:
    one.apply(KvSet(b"a", b"1"), KvSet(b"a", b"1"), KvSet(b"a", b"2"))
    one.apply(KvDelete(b"a"), KvSet(b"b", b""), KvDeletePrefix(b"b"))
    rows = changes_after(one.state, 0, 100)
    assert [row[:5] for row in rows] == [
        (1, 0, "kv", b"a", "set"),
        (3, 0, "kv", b"a", "set"),
        (4, 0, "kv", b"a", "delete"),
        (5, 0, "kv", b"b", "set"),
        (6, 0, "kv", b"b", "delete-prefix"),
    ]
    assert rows[1][5] is not None
    assert msgspec.msgpack.decode(rows[1][5], type=KvEntry) == KvEntry(b"a", b"2", 0, 0, "", 1, 3)
    assert changes_after(one.state, 3, 2) == rows[2:4]
    assert ends(one) == (1, 6)


def test_trimming_takes_the_old_end_and_keeps_what_came_in_the_same_batch(one: OneState) -> None:
    one.apply(*(KvSet(b"%d" % n, b"") for n in range(10)))
    one.apply(KvSet(b"x", b""), TrimChanges(5), KvSet(b"y", b""))
    assert [row[0] for row in changes_after(one.state, 0, 100)] == [6, 7, 8, 9, 10, 11, 13]
    assert ends(one) == (6, 13)
    one.reopen()
    assert ends(one) == (6, 13)
    one.apply(TrimChanges(10**9))
    assert ends(one) == (0, 0)
    one.apply(KvSet(b"z", b""))
    assert ends(one) == (15, 15)
    assert one.value(KvGet(b"x")) is not None


def test_one_trim_removes_a_bounded_number_of_rows(one: OneState, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "TRIM_ROWS", 4)
    one.apply(*(KvSet(b"%d" % n, b"") for n in range(10)))
    one.apply(TrimChanges(10))
    assert ends(one) == (6, 10)


def test_changes_survive_a_snapshot(one: OneState, tmp_path: Path) -> None:
    one.apply(KvSet(b"a", b"1"), KvDelete(b"a"))
    before = changes_after(one.state, 0, 10)
    one.file.snapshot_to(tmp_path / "copy")
    one.apply(KvSet(b"b", b"1"))
    one.file.install(tmp_path / "copy")
    one.state.reload()
    assert changes_after(one.state, 0, 10) == before
    assert ends(one) == (1, 2)
