"""The checker of followers: a right story passes, and each broken promise is seen."""

from __future__ import annotations

import pytest
from simulation.followers import Began, Heard, Logged, Truth, check_follower
from simulation.watches import Watched
from simulation.witness import Violation

from gemot.server.model.changes import KvChange, Told
from gemot.server.model.command import Command
from gemot.server.model.kv import ExpireKeys, KvDelete, KvDeletePrefix, KvEntry, KvSet
from gemot.server.model.restore import Restore
from gemot.server.model.txn import KvOp, Txn, TxnAnswer, TxnError, encode
from gemot.server.model.upkeep import TrimChanges

ALL = Watched(b"a/", prefix=True)
ONE = Watched(b"a/1")

TWICE = Txn((KvOp("set", b"a/1", b"x"), KvOp("set", b"a/2", b"y"), KvOp("set", b"a/1", b"z")))
IN_VAIN = Txn((KvOp("set", b"a/1", b"no"), KvOp("check-index", b"a/1", index=1)))
DONE = encode(TxnAnswer((), ()))


def _log(*commands: tuple[int, Command], value: bool | bytes = True) -> list[Logged]:
    return [
        Logged(index, 0, command, DONE if isinstance(command, Txn) else value) for index, command in commands
    ]


LOG = _log(
    (5, KvSet(b"a/1", b"a")),
    (6, KvSet(b"b", b"b")),
    (7, TWICE),
    (8, KvSet(b"a/1", b"no", cas=5)),
    (9, KvDeletePrefix(b"a")),
    (11, KvSet(b"a/3", b"c")),
    (12, KvDelete(b"a/3")),
)
TRIMMED = [*LOG, *_log((13, TrimChanges(8)))]
RESTORED = [*LOG, *_log((20, Restore("id", "sha", 1, 6, 0)), (21, KvSet(b"a/1", b"again")))]


def _entry(key: bytes, value: bytes, created: int, modified: int) -> KvEntry:
    return KvEntry(key, value, 0, 0, "", created, modified)


def _set(key: bytes, value: bytes, created: int, modified: int) -> KvChange:
    return KvChange(modified, "set", key, _entry(key, value, created, modified))


AT_5 = Began(5, 0, (_entry(b"a/1", b"a", 5, 5),))
AT_7 = Began(7, 0, (_entry(b"a/1", b"z", 5, 7), _entry(b"a/2", b"y", 7, 7)))
SEVEN = [_set(b"a/1", b"x", 5, 7), _set(b"a/2", b"y", 7, 7), _set(b"a/1", b"z", 5, 7)]
NINE = [KvChange(9, "delete-prefix", b"a/", None)]
LAST = [_set(b"a/3", b"c", 11, 11), KvChange(12, "delete", b"a/3", None)]


def _heard(
    after: int,
    changes: list[KvChange],
    through: int,
    *,
    epoch: int = 0,
    index: int = 0,
    compacted: bool = False,
) -> Heard:
    return Heard(after, index or max(after, through), epoch, Told(changes, through, compacted))


GOOD = {
    "one after another": [AT_5, _heard(5, SEVEN, 8), _heard(8, NINE, 10), _heard(10, LAST, 12)],
    "all at once": [AT_5, _heard(5, SEVEN + NINE + LAST, 12)],
    "nothing at first": [Began(1, 0, ()), _heard(1, [], 4), _heard(4, [_set(b"a/1", b"a", 5, 5)], 6)],
    "a server that lags": [AT_5, _heard(5, SEVEN, 8), _heard(8, [], 6), _heard(8, NINE, 9)],
}

BAD = {
    "an entry in parts": ([AT_5, _heard(5, SEVEN[:2], 7)], "at 7 it tells"),
    "a write between is left out": ([AT_5, _heard(5, SEVEN[1:], 7)], "at 7 it tells"),
    "an entry is lost": ([AT_7, _heard(7, LAST, 12)], "is not told"),
    "nothing is told of it": ([AT_5, _heard(5, [], 12)], "is not told"),
    "a deleted range is lost": ([AT_7, _heard(7, [], 10)], "is not told"),
    "one is told twice": ([AT_5, _heard(5, SEVEN, 7), _heard(7, SEVEN, 8)], "not in order"),
    "a row is told twice": ([AT_5, _heard(5, [*SEVEN, SEVEN[-1]], 7)], "is told twice"),
    "not in order": ([AT_5, _heard(5, NINE + SEVEN, 10)], "not in order"),
    "beyond where it says it stands": ([AT_5, _heard(5, SEVEN + NINE, 8)], "not in order"),
    "what was refused": ([AT_7, _heard(7, [_set(b"a/1", b"no", 5, 8)], 8)], "at 8 it tells"),
    "a value of another": ([AT_5, _heard(5, [*SEVEN[:2], _set(b"a/1", b"?", 5, 7)], 7)], "at 7 it tells"),
    "what others follow": ([AT_5, _heard(5, [_set(b"b", b"b", 6, 6)], 6)], "none of it"),
    "a range above": ([AT_7, _heard(7, [KvChange(9, "delete-prefix", b"a", None)], 9)], "not followed"),
    "gone, and it is there": ([AT_5, _heard(5, [], 12, compacted=True)], "was trimmed"),
    "another epoch, and there is none": ([AT_5, _heard(5, [], 12, epoch=1)], "in the epoch 0"),
    "a beginning that was not so": ([Began(7, 0, AT_5.entries)], "was there at its index"),
    "a step that nobody took": ([AT_5, _heard(6, SEVEN, 7)], "it stood at 5"),
}


def _check(watched: Watched, story: list[Began | Heard], log: list[Logged], due: int | None = None) -> int:
    return check_follower("f", watched, story, Truth(log), due)[0]


@pytest.mark.parametrize("name", GOOD)
def test_a_right_story_passes(name: str) -> None:
    _check(ALL, GOOD[name], LOG)


@pytest.mark.parametrize("name", BAD)
def test_a_broken_promise_is_seen(name: str) -> None:
    story, why = BAD[name]
    with pytest.raises(Violation, match=why):
        _check(ALL, story, LOG)


def test_of_one_key_that_part_of_a_deleted_range_is_told() -> None:
    gone = KvChange(9, "delete", b"a/1", None)
    _check(ONE, [AT_5, _heard(5, [SEVEN[0], SEVEN[2], gone], 12)], LOG, due=12)
    with pytest.raises(Violation, match="none of it"):
        _check(ONE, [AT_5, _heard(5, SEVEN, 7)], LOG)


def test_what_was_trimmed_is_gone_for_who_stood_before_it_alone() -> None:
    _check(ALL, [AT_5, _heard(5, [], 13, compacted=True), Began(12, 0, ())], TRIMMED, due=13)
    _check(ALL, [Began(9, 0, ()), _heard(9, LAST, 13)], TRIMMED, due=13)
    with pytest.raises(Violation, match="only what is up to 8"):
        _check(ALL, [Began(9, 0, ()), _heard(9, [], 13, compacted=True)], TRIMMED)
    with pytest.raises(Violation, match="nothing of it has changed"):
        _check(
            Watched(b"b"),
            [Began(6, 0, (_entry(b"b", b"b", 6, 6),)), _heard(6, [], 13, compacted=True)],
            TRIMMED,
        )


def test_after_a_restore_all_is_read_anew() -> None:
    again = [Began(20, 1, AT_5.entries), _heard(20, [_set(b"a/1", b"again", 5, 21)], 21, epoch=1)]
    _check(ALL, [AT_5, _heard(5, [], 20, epoch=1, index=20), *again], RESTORED, due=21)
    with pytest.raises(Violation, match="is of the epoch 1"):
        _check(ALL, [Began(12, 0, ()), _heard(12, [], 21)], RESTORED)


def test_a_transaction_that_failed_changes_nothing() -> None:
    failed = Logged(6, 0, IN_VAIN, encode(TxnAnswer((), (TxnError(1, "stale"),))))
    _check(ALL, [AT_5, _heard(5, [], 6)], [LOG[0], failed], due=6)


def test_a_key_that_expires_is_told_as_deleted() -> None:
    expiring = Logged(5, 0, KvSet(b"a/1", b"a", ttl_ms=1_000), True)
    early, late = (Logged(i, ms, ExpireKeys(((b"a/1", 5),)), ms > 1_000) for i, ms in ((6, 900), (7, 1_250)))
    began = Began(5, 0, (KvEntry(b"a/1", b"a", 0, 0, "", 5, 5, ttl_ms=1_000, remaining_ms=77),))
    gone = KvChange(7, "delete", b"a/1", None)
    _check(ALL, [began, _heard(5, [gone], 7)], [expiring, early, late], due=7)
    with pytest.raises(Violation, match="not told"):
        _check(ALL, [began, _heard(5, [], 7)], [expiring, early, late])


def test_in_the_end_the_last_change_is_there() -> None:
    story = [AT_5, _heard(5, SEVEN, 8)]
    assert _check(ALL, story, LOG) == 8
    assert _check(ALL, story, LOG, due=8) == 8
    with pytest.raises(Violation, match="was missed"):
        _check(ALL, story, LOG, due=9)
    with pytest.raises(Violation, match="was missed"):
        _check(ALL, [AT_5, _heard(5, [], 13, compacted=True)], TRIMMED, due=13)
