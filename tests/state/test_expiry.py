"""Keys that expire: never before their TTL, by the log's own time, and only as they were written last."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.change_rows import changes_after
from support.one_state import OneState

from gemot.server.model import command
from gemot.server.model.catalog import Node, Register
from gemot.server.model.command import ENVELOPE_VERSION, Envelope, UnknownCommand, decode, encode, version_of
from gemot.server.model.errors import RuleFailed
from gemot.server.model.history import KvAsOf
from gemot.server.model.kv import (
    LEAST_TTL_MS,
    MAX_TTL_MS,
    ExpireKeys,
    KvDelete,
    KvDeletePrefix,
    KvEntry,
    KvGet,
    KvKeys,
    KvList,
    KvPurge,
    KvSet,
)
from gemot.server.model.session import CreateSession, DestroySession, Session
from gemot.server.model.txn import KvOp, Txn
from gemot.server.model.upkeep import TrimHistory
from gemot.server.rpc.message import EXPIRY
from gemot.server.state import expiry

TTL_MS = 10_000
DUE_MS = TTL_MS + TTL_MS // expiry.LATE_SHARE
SET = KvSet(b"a", b"v", ttl_ms=TTL_MS)


@pytest.fixture
def one(tmp_path: Path) -> Iterator[OneState]:
    state = OneState(tmp_path)
    state.skip(9)
    yield state
    state.state.verify()
    state.close()


def pass_ms(one: OneState, ms: int) -> int:
    """Cluster time passes as it does on a leader; how many keys were deleted then."""
    one.time_ms += ms
    deleted = one.result(ExpireKeys(one.state.keys_due(one.time_ms)))
    assert isinstance(deleted, int)
    return deleted


def names(one: OneState) -> list[bytes]:
    found: list[bytes] = one.value(KvKeys(b""))
    return found


def rows(one: OneState) -> int:
    found: int = one.file.cursor.execute("select count(*) from expiry").get
    return found


# -- how long ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ttl_ms", [LEAST_TTL_MS, 3_999, 4_000, TTL_MS, 86_400_000, MAX_TTL_MS])
def test_a_key_is_deleted_after_its_ttl_and_by_no_more_than_a_quarter_late(
    one: OneState, ttl_ms: int
) -> None:
    one.apply(KvSet(b"a", b"v", ttl_ms=ttl_ms))
    assert one.value(KvGet(b"a")).remaining_ms == ttl_ms
    assert pass_ms(one, ttl_ms) == 0
    assert one.value(KvGet(b"a")).remaining_ms == 0
    late_ms = max(ttl_ms // expiry.LATE_SHARE, expiry.LEAST_LATE_MS)
    assert ttl_ms + late_ms <= ttl_ms * 5 // 4
    assert pass_ms(one, late_ms - 1) == 0
    assert names(one) == [b"a"]
    assert pass_ms(one, 1) == 1
    assert (names(one), rows(one)) == ([], 0)


@pytest.mark.parametrize("ttl_ms", [-1, 1, LEAST_TTL_MS - 1, MAX_TTL_MS + 1, 1 << 62])
@pytest.mark.parametrize("in_txn", [False, True])
def test_a_ttl_that_no_key_can_have_is_refused_and_nothing_is_written(
    one: OneState, ttl_ms: int, in_txn: bool
) -> None:
    write = KvSet(b"a", b"v", ttl_ms=ttl_ms)
    result = one.result(Txn((KvOp("set", b"a", ttl_ms=ttl_ms),)) if in_txn else write)
    text = f"Invalid TTL of a key: {ttl_ms} ms, must be from 1000 to 315360000000 (ten years)"
    assert text.encode() in result if in_txn else isinstance(result, RuleFailed) and result.message == text
    assert (names(one), rows(one)) == ([], 0)


def test_an_expiry_is_a_delete_to_all_who_watch(one: OneState) -> None:
    one.apply(SET, KvSet(b"b", b""))
    before = one.at(KvList(b"a"))
    one.time_ms += DUE_MS
    touched = one.touched(ExpireKeys(one.state.keys_due(one.time_ms)))
    assert touched == (("kv", b"a"),)
    assert one.at(KvList(b"a")) == one.index > before
    assert one.read(KvGet(b"a")) == (None, one.index)
    changed = changes_after(one.state, one.index - 1, 10)
    assert changed == [(one.index, 0, "kv", b"a", "delete", None)]


def test_what_is_left_outlives_a_restart(one: OneState) -> None:
    one.apply(SET)
    pass_ms(one, TTL_MS - 1_000)
    one.reopen()
    assert one.value(KvGet(b"a")).remaining_ms == 1_000
    assert one.state.deadlines_exist()
    assert pass_ms(one, DUE_MS - TTL_MS + 999) == 0
    assert pass_ms(one, 1) == 1
    assert not one.state.deadlines_exist()


def test_in_another_epoch_a_ttl_begins_anew(one: OneState) -> None:
    """Its deadline came with a restore: it is of another cluster's time, or long ago."""
    one.apply(SET)
    with one.state.batch() as writing:
        writing.meta.epoch += 1
    one.time_ms += 100 * DUE_MS
    assert one.value(KvGet(b"a")).remaining_ms == TTL_MS
    index = one.at(KvGet(b"a"))
    assert pass_ms(one, 0) == 0
    assert pass_ms(one, DUE_MS - 1) == 0
    assert one.at(KvGet(b"a")) == index, "nobody who reads sees that it began anew"
    assert pass_ms(one, 1) == 1


def test_one_entry_deletes_so_many_and_the_next_one_goes_on(one: OneState) -> None:
    one.apply(*(KvSet(b"%04d" % number, b"", ttl_ms=TTL_MS) for number in range(expiry.MOST_KEYS + 3)))
    assert pass_ms(one, DUE_MS) == expiry.MOST_KEYS
    assert pass_ms(one, 0) == 3
    assert pass_ms(one, 0) == 0


# -- what else happens to such a key -----------------------------------------------------------------------


def lock(one: OneState) -> None:
    one.apply(Register(Node("n1", "10.0.0.1")), CreateSession(Session("s1", "n1", lock_delay_ns=0)))


@pytest.mark.parametrize(
    "again",
    [
        KvSet(b"a", b"w"),
        KvSet(b"a", b"v"),
        KvSet(b"a", b"v", cas=10),
        KvSet(b"a", b"v", acquire="s1"),
        Txn((KvOp("set", b"a", b"v"),)),
    ],
    ids=str,
)
def test_any_write_without_a_ttl_makes_the_key_stay(one: OneState, again: Any) -> None:
    one.apply(SET)
    lock(one)
    one.apply(again)
    entry = one.value(KvGet(b"a"))
    assert (entry.ttl_ms, entry.modify_index, rows(one)) == (0, one.index, 0)
    assert pass_ms(one, 100 * DUE_MS) == 0


@pytest.mark.parametrize(
    "again",
    [
        msgspec.structs.replace(SET, value=b"w"),
        msgspec.structs.replace(SET, cas=10, value=b"w"),
        msgspec.structs.replace(SET, acquire="s1"),
        Txn((KvOp("set", b"a", b"w", ttl_ms=TTL_MS),)),
    ],
    ids=str,
)
def test_any_write_with_a_ttl_begins_it_anew(one: OneState, again: Any) -> None:
    one.apply(SET)
    lock(one)
    pass_ms(one, TTL_MS)
    due = ((b"a", 10),)
    one.apply(again)
    assert one.value(KvGet(b"a")).remaining_ms == TTL_MS
    assert pass_ms(one, DUE_MS - 1) == 0
    one.time_ms += 1
    assert one.result(ExpireKeys(due)) == 0, "that was proposed for the key as it was"
    assert one.result(ExpireKeys(one.state.keys_due(one.time_ms))) == 1


def test_the_same_write_again_moves_no_index_wakes_no_one_and_begins_the_ttl_anew(one: OneState) -> None:
    """So a heartbeat costs those nothing who watch whether it is there."""
    one.apply(SET)
    index = one.at(KvGet(b"a"))
    for _ in range(5):
        assert pass_ms(one, TTL_MS) == 0
        due = ((b"a", index),)
        assert one.touched(SET) == ()
        assert one.result(ExpireKeys(due)) == 0, "the deadline it goes by is the one in the state"
    assert one.read(KvGet(b"a"))[1] == index
    assert rows(one) == 1


def test_a_refused_write_leaves_the_ttl_as_it_was(one: OneState) -> None:
    one.apply(SET)
    pass_ms(one, TTL_MS)
    assert one.result(KvSet(b"a", b"w", cas=9)) is False
    assert one.result(KvSet(b"a", b"w", release="s1", ttl_ms=TTL_MS)) is False
    one.apply(Txn((KvOp("set", b"a", b"w"), KvOp("check-index", b"a", index=9))))
    assert one.value(KvGet(b"a")).remaining_ms == 0
    assert pass_ms(one, DUE_MS - TTL_MS) == 1


def test_a_locked_key_expires_all_the_same_and_is_free_then(one: OneState) -> None:
    lock(one)
    one.apply(KvSet(b"a", b"v", acquire="s1", ttl_ms=TTL_MS))
    assert pass_ms(one, DUE_MS) == 1
    assert one.state.count("held") == 0
    assert one.result(KvSet(b"a", b"v", acquire="s1")) > 0


def test_the_end_of_a_session_is_no_write_of_its_keys(one: OneState) -> None:
    lock(one)
    one.apply(KvSet(b"a", b"v", acquire="s1", ttl_ms=TTL_MS))
    pass_ms(one, TTL_MS)
    one.apply(DestroySession("s1"))
    entry = one.value(KvGet(b"a"))
    assert (entry.session, entry.ttl_ms, entry.remaining_ms) == ("", TTL_MS, 0)
    assert pass_ms(one, DUE_MS - TTL_MS) == 1


@pytest.mark.parametrize("delete", [KvDelete(b"a"), KvDeletePrefix(b""), Txn((KvOp("delete-tree", b"a"),))])
@pytest.mark.parametrize("purged", [False, True])
def test_a_delete_ends_it_and_the_next_key_of_that_name_has_none_of_it(
    one: OneState, delete: Any, purged: bool
) -> None:
    one.apply(SET)
    one.apply(delete)
    if purged:
        one.apply(KvPurge(100))
        assert rows(one) == 0
    one.apply(KvSet(b"a", b"new"))
    assert pass_ms(one, 100 * DUE_MS) == 0
    assert (names(one), rows(one)) == ([b"a"], 0)


def test_a_hidden_key_that_is_due_is_forgotten_and_nobody_is_told(one: OneState) -> None:
    one.apply(SET, KvDeletePrefix(b"a"))
    one.time_ms += DUE_MS
    due = one.state.keys_due(one.time_ms)
    assert due == ((b"a", 10),)
    assert one.touched(ExpireKeys(due)) == ()
    assert (one.state.keys_due(one.time_ms), rows(one)) == ((), 0)
    one.apply(KvPurge(100))


# -- other releases ----------------------------------------------------------------------------------------


def test_a_key_without_a_ttl_is_stored_as_it_always_was(one: OneState) -> None:
    one.apply(KvSet(b"a", b"v", 7))
    stored = one.file.cursor.execute("select row from kv").get
    assert msgspec.msgpack.decode(stored) == [b"a", b"v", 7, 0, "", 10, 10]
    assert not one.state.has_had(EXPIRY)
    one.apply(SET)
    assert one.state.has_had(EXPIRY)
    stored = one.file.cursor.execute("select row from kv").get
    assert msgspec.msgpack.decode(stored, type=KvEntry).remaining_ms == 0


@pytest.mark.parametrize(
    ("written", "version"),
    [
        (SET, 2),
        (KvSet(b"a", b"v"), 1),
        (Txn((KvOp("set", b"a"), KvOp("set", b"b", ttl_ms=1_000))), 2),
        (Txn((KvOp("set", b"a"),)), 1),
        (KvDelete(b"a"), 1),
    ],
    ids=str,
)
def test_a_release_that_would_keep_the_key_stops_at_its_entry(
    monkeypatch: pytest.MonkeyPatch, written: Any, version: int
) -> None:
    entry = encode(Envelope(version_of(written), 0, "", None, written))
    assert decode(entry).command == written
    assert version_of(written) == version <= ENVELOPE_VERSION
    monkeypatch.setattr(command, "ENVELOPE_VERSION", 1)
    if version == 1:
        decode(entry)
    else:
        with pytest.raises(UnknownCommand, match="start the newer release again"):
            decode(entry)


def test_with_history_kept_an_expired_revision_is_told_with_its_end(one: OneState) -> None:
    one.apply(TrimHistory(8, 0, 1 << 20))
    one.apply(SET)
    entry = one.value(KvGet(b"a"))
    assert (entry.ttl_ms, entry.revision) == (TTL_MS, 1)
    assert pass_ms(one, DUE_MS) == 1
    (was,) = one.value(KvAsOf(b"a", one.index - 1, True)).rows
    assert (was.value, was.ttl_ms, was.remaining_ms) == (b"v", TTL_MS, 0)
    assert one.value(KvAsOf(b"a", one.index, True)).rows == []
