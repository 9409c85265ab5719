"""The verdict of lock-set on logs written by hand: what a restore took back is not owed, all else is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from simulation.families.lock_set import CHECKED, GUARDED, LockSetFamily
from simulation.witness import Violation
from simulation.world import World

from gemot.server.model.kv import KvEntry, KvSet
from gemot.server.model.query import Applied
from gemot.server.model.restore import Restore
from gemot.server.model.txn import CheckFence, KvOp, Txn, TxnAnswer, encode

KEY, LOCK = b"set/0/check-fence", b"set/0/lock"
DONE = encode(TxnAnswer((), ()))


class Story:
    """Writes and restores in the order of the log. The key ends with the value it is said to have."""

    def __init__(self) -> None:
        self.family = LockSetFamily(World(1))

    def write(self, index: int, element: bytes, parent: bytes, *, read_at: int) -> Story:
        """One of which its writer was told."""
        family = self.family
        family._parents[element], family._read_at[element] = parent, read_at
        family._told[CHECKED].add(element)
        ops = (CheckFence(LOCK, 1), KvOp("set", KEY, b"%b %b" % (element, parent)))
        family.effect(index, Txn(ops), Applied(index, DONE))
        return self

    def restore(self, at: int, of: int) -> Story:
        self.family.effect(at, Restore(b"", "", 0, of, 0), Applied(at, True))
        return self

    def acquire(self, index: int, by: str, fence: int) -> Story:
        self.family.effect(index, KvSet(LOCK, b"", acquire=by), Applied(index, fence))
        return self

    def ends_with(self, value: bytes) -> LockSetFamily:
        rows = [KvEntry(KEY, value, 0, 0, "", 0, 0)]
        state: Any = SimpleNamespace(index=100, read=lambda query, accessor: (rows, 100))
        self.family.actors([SimpleNamespace(opened=SimpleNamespace(state=state))])  # type: ignore[list-item]
        self.family.check()
        return self.family


def _two() -> Story:
    return Story().write(10, b"1", b"", read_at=5).write(20, b"2", b"1", read_at=15)


def test_what_was_written_after_the_snapshot_is_taken_back_and_not_lost() -> None:
    tally = _two().restore(30, 15).ends_with(b"1 ").tallies[CHECKED]
    assert (tally.told, tally.taken_back, tally.carried_over, tally.lost) == (2, 1, 0, 0)


def test_what_was_written_before_the_snapshot_must_be_there() -> None:
    with pytest.raises(Violation, match="1 elements of check-fence are lost"):
        _two().restore(30, 25).ends_with(b"1 ")


def test_what_an_undone_restore_had_taken_back_is_owed_again() -> None:
    with pytest.raises(Violation, match="1 elements of check-fence are lost"):
        _two().restore(30, 15).restore(40, 25).ends_with(b"1 ")


def test_a_late_write_that_loses_one_is_found_beside_restores_too() -> None:
    """It was read before a restore, in a state that is not gone: a fence must tell the two apart."""
    story = _two().restore(30, 25).write(40, b"3", b"1", read_at=12)
    with pytest.raises(Violation, match="1 elements of check-fence are lost"):
        story.ends_with(b"3 1")


def test_what_is_written_over_with_a_reading_that_a_restore_took_back_is_counted_by_itself() -> None:
    """Element 3 was read in a state that is gone when 4 is written over 2."""
    story = _two().restore(30, 15).write(35, b"3", b"1", read_at=32).restore(40, 25)
    tally = story.write(50, b"4", b"3", read_at=37).ends_with(b"4 3").tallies[CHECKED]
    assert (tally.told, tally.taken_back, tally.carried_over, tally.lost) == (4, 1, 1, 0)


def test_an_element_that_was_told_and_stands_nowhere_in_the_log_is_found() -> None:
    story = _two()
    story.family._told[GUARDED].add(b"9")
    with pytest.raises(Violation, match="stand nowhere in the log"):
        story.ends_with(b"2 1")


def test_a_fence_that_was_given_before_a_restore_is_never_given_again_to_another() -> None:
    story = Story().acquire(10, "a", 10).acquire(20, "b", 20).restore(30, 15)
    story.acquire(35, "a", 10)  # it holds the lock again, and is told its fence once more
    with pytest.raises(Violation, match="20 was given before"):
        story.acquire(40, "c", 20)


def test_who_held_a_lock_in_a_state_that_is_gone_gets_a_greater_fence() -> None:
    story = Story().acquire(10, "a", 10).acquire(20, "b", 20).restore(30, 15)
    with pytest.raises(Violation, match="20 was given before"):
        story.acquire(40, "b", 20)
