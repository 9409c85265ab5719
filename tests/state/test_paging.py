"""Pages of lists: together they are the list, and each costs what is in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.naive_state import NaiveState
from support.one_state import OneState

from gemot.server.model.errors import BadRequest
from gemot.server.model.kv import (
    MAX_PAGE,
    KvDelete,
    KvDeletePrefix,
    KvEntry,
    KvKeys,
    KvKeysPage,
    KvList,
    KvListPage,
    KvPurge,
    KvSet,
)
from gemot.server.state.permission import Operation
from gemot.server.state.scope import LongList

PIECES = st.sampled_from([b"a", b"b", b"/", b"\x00", b"\xff"])
KEYS = st.lists(PIECES, min_size=1, max_size=4).map(b"".join)


@pytest.fixture
def one(tmp_path: Path) -> Iterator[OneState]:
    one = OneState(tmp_path)
    yield one
    one.close()


def pages(one: OneState, first: KvListPage | KvKeysPage) -> list[Any]:
    """What is in all of them, one after the other."""
    found: list[Any] = []
    after = first.after
    while True:
        page = one.value(msgspec.structs.replace(first, after=after))
        rows = page.entries if isinstance(first, KvListPage) else page.keys
        assert len(rows) <= first.limit
        found += rows
        if not page.next:
            return found
        assert page.next > after
        after = page.next


@example({b"a/", b"a/b", b"a/c/d", b"a/e"}, b"a/", b"/", b"a/", 2)
@example({b"a:", b"a::b", b"a:::c"}, b"a:", b"::", b"", 1)
@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.sets(KEYS, max_size=12), st.one_of(st.just(b""), KEYS), st.sampled_from([b"", b"/", b"ab", b"\xff"]),
    st.one_of(st.just(b""), KEYS), st.integers(1, 4),
)  # fmt: skip
def test_a_page_of_any_list_is_that_of_the_model(
    tmp_path_factory: pytest.TempPathFactory,
    keys: set[bytes],
    prefix: bytes,
    separator: bytes,
    after: bytes,
    limit: int,
) -> None:
    one, model = OneState(tmp_path_factory.mktemp("one")), NaiveState()
    try:
        for key in sorted(keys):
            model.kv[key] = KvEntry(key, b"", 0, 0, "", one.index + 1, one.index + 1)
            one.apply(KvSet(key, b""))
        for query in (KvListPage(prefix, after, limit), KvKeysPage(prefix, separator, after, limit)):
            assert one.value(query) == model.read(query)
        assert pages(one, KvListPage(prefix, b"", limit)) == one.value(KvList(prefix))
        assert pages(one, KvKeysPage(prefix, separator, b"", limit)) == one.value(KvKeys(prefix, separator))
    finally:
        one.close()


def test_what_a_deleted_range_hides_is_in_no_page_and_ends_none_early(one: OneState) -> None:
    one.apply(*(KvSet(b"a/%03d" % number, b"") for number in range(300)), KvSet(b"z", b""))
    one.apply(KvDeletePrefix(b"a/"), KvSet(b"a/250", b""))
    for _ in range(3):
        assert [row.key for row in pages(one, KvListPage(b"", b"", 1))] == [b"a/250", b"z"]
        assert pages(one, KvKeysPage(b"", b"/", b"", 1)) == [b"a/", b"z"]
        one.apply(KvPurge(200))


def test_a_page_costs_its_own_rows_however_long_the_list_is(one: OneState) -> None:
    one.apply(*(KvSet(b"k/%04d/x" % number, b"") for number in range(2_000)))
    with pytest.raises(LongList):
        one.state.read(KvList(b"k/"), "", 1_000)
    page, _ = one.state.read(KvListPage(b"k/", b"k/1900/x", 10), "", 11)
    assert [row.key for row in page.entries] == [b"k/%04d/x" % number for number in range(1_901, 1_911)]
    names, _ = one.state.read(KvKeysPage(b"k/", b"/", b"k/0005/", 10), "", 11)
    assert names.keys == [b"k/%04d/" % number for number in range(6, 16)]
    folder, _ = one.state.read(KvKeysPage(b"", b"/", b"", 10), "", 1)
    assert folder.keys == [b"k/"], "what is behind a name is not looked at"


def test_the_index_of_a_page_is_moved_by_what_changes_it_and_not_by_other_pages(one: OneState) -> None:
    one.apply(*(KvSet(b"k%d" % number, b"") for number in range(9)))
    first, last = KvListPage(b"k", b"", 2), KvListPage(b"k", b"k6", 2)
    seen = one.at(first)
    one.apply(KvSet(b"k8", b"new"))
    assert (one.at(first), one.at(last)) == (seen, one.index)
    one.apply(KvDelete(b"k1"))
    assert (one.at(first), one.at(last)) == (one.index, one.index - 1)
    one.apply(KvSet(b"k9", b""))
    assert one.at(last) == one.index, "that there is more is part of a page"


@pytest.mark.parametrize("limit", [0, -1, MAX_PAGE + 1, 1 << 63, -(1 << 63)])
@pytest.mark.parametrize("separator", [b"", b"/"])
def test_a_page_that_none_can_be_is_refused_whoever_asks(one: OneState, limit: int, separator: bytes) -> None:
    one.apply(KvSet(b"a", b""))
    for query in (KvListPage(b"", b"", limit), KvKeysPage(b"", separator, b"", limit)):
        with pytest.raises(BadRequest, match="a page has 1 to 10000 entries"):
            one.read(query)
        with pytest.raises(BadRequest):
            one.read_elsewhere(query)


def test_a_page_tells_no_name_that_may_not_be_seen(tmp_path: Path) -> None:
    class Rules:
        def allowed(self, _accessor: str, operation: Operation) -> bool:
            return b"secret" not in operation.name

    one = OneState(tmp_path)
    one.apply(*(KvSet(key, b"") for key in (b"a", b"b-secret", b"c", b"d-secret", b"e-secret", b"f")))
    one.state._authorizer = Rules()
    told: list[bytes] = []
    after = b""
    while True:
        page = one.value(KvKeysPage(b"", b"", after, 1))
        told += page.keys
        assert page.next in (b"", *told)
        assert [entry.key for entry in one.value(KvListPage(b"", after, 1)).entries] == page.keys
        if not (after := page.next):
            break
    assert told == [b"a", b"c", b"f"]
    one.close()
