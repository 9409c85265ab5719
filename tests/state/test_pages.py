"""Lists of keys that are read over several states: what is told is one of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.one_state import OneState

from gemot.server.model.command import Command
from gemot.server.model.errors import Busy, TooLarge
from gemot.server.model.kv import KvDelete, KvDeletePrefix, KvKeys, KvList, KvListPage, KvPurge, KvSet
from gemot.server.model.query import Query
from gemot.server.model.txn import KvOp, ReadTxn
from gemot.server.model.upkeep import ReapTombstones, TrimChanges
from gemot.server.rpc.frame import MAX_ANSWER_BYTES
from gemot.server.state import pages, scope

PAGE = 3


@pytest.fixture
def one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OneState]:
    monkeypatch.setattr(pages, "PAGE_ROWS", PAGE)
    one = OneState(tmp_path)
    yield one
    one.close()


class Slow:
    """A stopwatch by which every transaction has lasted long enough; `between` runs after each page."""

    def __init__(self, between: Callable[[], Any]) -> None:
        self._between = between
        self._now_us = 0
        self.pages = 0

    def __call__(self) -> int:
        self._now_us += pages.LONGEST_US
        if self._now_us > pages.LONGEST_US and (self._now_us // pages.LONGEST_US) % 2 == 0:
            # Asked before the transaction is renewed, not when it begins.
            self.pages += 1
            self._between()
        return self._now_us


def read_between(one: OneState, query: Query, between: Callable[[], Any]) -> tuple[Any, Slow]:
    slow = Slow(between)
    return one.read_elsewhere(query, stopwatch_us=slow), slow


def fill(one: OneState, count: int = 10) -> None:
    one.apply(*(KvSet(b"a/%02d" % n, b"old") for n in range(count)), KvSet(b"b", b"other"))


def test_a_list_that_is_read_quickly_is_read_in_one_transaction(one: OneState) -> None:
    fill(one)
    found = one.read_elsewhere(KvList(b"a/"))
    assert (found.value, found.index) == one.read(KvList(b"a/"))
    assert found.rows == 10


@pytest.mark.parametrize(
    "change",
    [
        KvSet(b"a/00", b"new"),
        KvSet(b"a/09", b"new"),
        KvSet(b"a/000", b"between two that were read"),
        KvDelete(b"a/01"),
        KvDelete(b"a/09"),
        KvDeletePrefix(b"a/0"),
        KvDeletePrefix(b""),
        KvSet(b"b", b"elsewhere"),
    ],
    ids=str,
)
@pytest.mark.parametrize("query", [KvList(b"a/"), KvKeys(b"a/"), KvKeys(b"", b"/")], ids=str)
def test_what_changes_between_two_pages_is_put_right(one: OneState, change: Command, query: Query) -> None:
    fill(one)
    changes = [change]
    found, slow = read_between(one, query, lambda: changes and one.apply(changes.pop()))
    assert slow.pages >= 3
    assert (found.value, found.index) == one.read(query)
    assert found.as_of == one.index


def test_a_range_that_is_deleted_purged_and_written_again_between_pages(one: OneState) -> None:
    fill(one)
    steps: list[list[Command]] = [[KvDeletePrefix(b"a/")], [KvPurge(100), KvSet(b"a/01", b"new")]]
    found, _ = read_between(one, KvList(b""), lambda: steps and one.apply(*steps.pop(0)))
    assert steps == []
    assert [entry.key for entry in found.value] == [b"a/01", b"b"]
    assert (found.value, found.index) == one.read(KvList(b""))


def test_more_changes_than_are_kept_are_told_and_not_guessed(one: OneState) -> None:
    fill(one)
    steps: list[Command] = [TrimChanges(10_000), KvDelete(b"a/00")]
    with pytest.raises(Busy, match="ask again"):
        read_between(one, KvList(b""), lambda: steps and one.apply(steps.pop()))


def test_changes_that_were_trimmed_before_do_no_harm(one: OneState) -> None:
    fill(one)
    one.apply(KvSet(b"a/00", b"1"))
    one.apply(TrimChanges(one.index - 1))
    found, _ = read_between(one, KvList(b""), lambda: None)
    assert (found.value, found.index) == one.read(KvList(b""))


def test_a_list_that_no_answer_could_have_is_refused_before_it_is_read(
    one: OneState, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert scope.MAX_READ_BYTES <= MAX_ANSWER_BYTES
    one.apply(*(KvSet(b"a/%03d" % n, bytes(1_000)) for n in range(300)), KvSet(b"b/1", bytes(1_000)))
    monkeypatch.setattr(scope, "MAX_READ_BYTES", 90_000)
    taken: list[bytes] = []
    whole = scope.Reading.take

    def take(reading: scope.Reading, rows: Iterable[Any]) -> list[Any]:
        return whole(reading, (taken.append(row[0]) or row for row in rows))

    monkeypatch.setattr(scope.Reading, "take", take)
    for query in (KvList(b""), KvList(b"a/"), KvList(b"a/0")):
        with pytest.raises(TooLarge, match=r"more than 90000 bytes: ask for a part of it, or.*\?limit="):
            one.read_elsewhere(query)
        assert len(taken) < 150
        taken.clear()
    assert len(one.read_elsewhere(KvList(b"a/01")).value) == 10
    assert len(one.read_elsewhere(KvKeys(b"")).value) == 301
    monkeypatch.setattr(scope, "MAX_READ_BYTES", 1_503)  # what is read of keys alone is as long as they are
    assert len(one.read_elsewhere(KvKeys(b"", b"/")).value) == 2
    one.apply(KvSet(b"b/02", b""))
    for keys in (KvKeys(b""), KvKeys(b"", b"/")):
        with pytest.raises(TooLarge, match="more than 1503 bytes"):
            one.read_elsewhere(keys)
    monkeypatch.setattr(scope, "MAX_READ_BYTES", 90_000)
    assert len(one.read_elsewhere(KvListPage(b"", b"", 60)).value.entries) == 60
    trees = ReadTxn((KvOp("get-tree", b"a/00"), KvOp("get-tree", b"a/"), KvOp("get", b"b/1")))
    errors = one.read_elsewhere(trees).value.errors
    assert [(error.op, "read less in it" in error.what) for error in errors] == [(1, True), (2, True)]


@pytest.mark.parametrize("seed", range(40))
def test_what_is_told_is_the_list_of_one_state(one: OneState, seed: int) -> None:
    """Random writes between all pages: the answer is that of the index that it names."""
    draw = random.Random(seed)
    keys = [b"%s/%02d" % (draw.choice([b"a", b"a/b", b"c"]), draw.randrange(20)) for _ in range(40)]
    prefixes = [b"", b"a", b"a/", b"a/b/", b"a/b/1", b"c/", b"d"]
    one.apply(*(KvSet(key, b"0") for key in keys))
    query = draw.choice([KvList, KvKeys])(draw.choice(prefixes[:4]))
    history: dict[int, Any] = {one.index: one.read(query)}

    def write() -> None:
        for _ in range(draw.randrange(4)):
            one.apply(
                draw.choice(
                    [
                        KvSet(draw.choice(keys), b"%d" % one.index),
                        KvSet(draw.choice(keys) + b"/x", b"new"),
                        KvDelete(draw.choice(keys)),
                        KvDeletePrefix(draw.choice(prefixes[draw.randrange(6) :])),
                        KvPurge(draw.randrange(1, 30)),
                        ReapTombstones(one.index - 5),
                    ]
                )
            )
            history[one.index] = one.read(query)

    found, slow = read_between(one, query, write)
    assert slow.pages >= 2
    assert (found.value, found.index) == history[found.as_of]
