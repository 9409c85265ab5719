"""A crash at any moment: what was synced is there, and what is there was written."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from support.log_model import LogModel, assert_same, batch, held, open_log
from support.lossy_disk import LossyDisk, MemoryDisk

from gemot.server.model.errors import Corrupt
from gemot.server.storage.log import SegmentLog
from gemot.server.storage.meta import Meta, MetaFile


class _Crash(Exception):
    pass


class _Node:
    """A log with its vote file, and the states that a crash may leave: the last synced one and later."""

    def __init__(self, disk: LossyDisk, possible: LogModel) -> None:
        self.disk = disk
        self.meta = MetaFile.open(disk, "/data")
        if self.meta.fresh:
            self.meta.save(Meta(node_id="n1"))
        mark = (self.meta.meta.durable_index, self.meta.meta.durable_hash)
        opened = open_log(disk, *mark, segment_bytes=4096)
        assert opened.damage is None, opened.damage
        self.log: SegmentLog = opened.log
        self.model = possible
        self.possible = [possible]

    def append(self, first: int, terms: list[int], size: int) -> None:
        new = batch(first, terms, size)
        self.model = self.model.copy()
        self.model.append(new)
        self.possible.append(self.model)
        self.log.append(new)

    def sync(self) -> None:
        self.log.sync()
        self.possible = [self.model]

    def reset(self, index: int, term: int) -> None:
        self.model = LogModel(index, term)
        self.possible.append(self.model)
        self.log.reset(index, term)
        self.possible = [self.model]

    def save_meta(self, term: int) -> None:
        new = replace(
            self.meta.meta,
            term=max(term, self.meta.meta.term),
            durable_index=self.log.durable_index,
            durable_hash=self.log.durable_hash,
        )
        self.meta.save(new)

    def recovered(self, random: Random | None, *, killed: bool = False) -> _Node:
        """The node after a crash (of its process alone if `killed`). Its log must be a possible one."""
        disk = self.disk.kill() if killed else self.disk.crash(random)
        after = _Node(disk, self.model)
        log = after.log
        for model in reversed(self.possible):
            if log.last_index == model.last and log.first_index > model.start:
                dropped = log.first_index - 1 - model.start
                if held(log) == model.entries[dropped:] and log.last_term == model.last_term:
                    assert_same(log, model)
                    after.model, after.possible = model, [model]
                    return after
        raise AssertionError(f"the log {log.first_index}..{log.last_index} was never written")


def _script(node: _Node) -> Iterator[None]:
    """Appends in groups, replaced suffixes, large records, sealed segments, compaction, an install."""
    for index in range(1, 8):
        node.append(index, [1], 300)
        if index % 3 == 0:
            node.sync()
        yield
    node.save_meta(1)
    yield
    node.append(6, [2, 2], 900)
    node.append(8, [2], 10)
    yield
    node.sync()
    node.append(9, [2], 6000)
    node.append(4, [3], 10)
    node.sync()
    yield
    for index in range(5, 12):
        node.append(index, [3], 700)
        node.sync()
    node.save_meta(3)
    node.log.compact(8)
    yield
    node.reset(40, 5)
    node.save_meta(5)
    for index in range(41, 46):
        node.append(index, [5], 500)
    node.sync()
    node.log.compact(44)
    yield


def _run(node: _Node, stop_after: int) -> bool:
    """Run the script up to that many disk operations; True if it came to its end before."""
    left = stop_after

    def count(action: str, path: str) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise _Crash

    node.disk.on_change = count
    try:
        for _ in _script(node):
            pass
    except _Crash:
        return False
    finally:
        node.disk.on_change = None
    return True


@pytest.mark.parametrize("seed", range(6))
def test_a_crash_at_any_disk_operation_keeps_all_that_was_synced(seed: int) -> None:
    stop, ended = 0, False
    while not ended:
        node = _Node(MemoryDisk(), LogModel())
        ended = _run(node, stop)
        again = node.recovered(Random(seed * 1000 + stop)).recovered(Random(stop))
        again.append(again.model.last + 1, [9], 100)
        again.sync()
        again.save_meta(9)
        again.recovered(Random(stop))
        stop += 1
    assert stop > 100


def test_what_a_restarted_process_found_survives_a_power_loss_right_after() -> None:
    stop, ended = 0, False
    while not ended:
        node = _Node(MemoryDisk(), LogModel())
        ended = _run(node, stop)
        restarted = node.recovered(None, killed=True)
        term = restarted.meta.meta.term
        again = restarted.recovered(None)
        assert again.log.last_index == restarted.log.last_index
        assert again.meta.meta.term == term
        again = again.recovered(None, killed=True)
        again.append(again.model.last + 1, [9], 100)
        again.sync()
        again.recovered(None)
        stop += 1


def test_a_restarted_process_that_goes_on_at_once_loses_nothing_to_a_later_power_loss() -> None:
    stop, ended = 0, False
    while not ended:
        node = _Node(MemoryDisk(), LogModel())
        ended = _run(node, stop)
        restarted = node.recovered(None, killed=True)
        restarted.append(restarted.model.last + 1, [9], 100)
        restarted.sync()
        restarted.recovered(None)
        stop += 1


def test_a_crash_during_recovery_loses_nothing_either() -> None:
    for stop in range(0, 40):
        node = _Node(MemoryDisk(), LogModel())
        _run(node, 30 + stop)
        disk = node.disk.crash(Random(stop))
        left = stop % 8

        def count(action: str, path: str) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise _Crash

        disk.on_change = count
        try:
            _Node(disk, node.model)
        except _Crash:
            pass
        disk.on_change = None
        node.disk = disk
        node.recovered(Random(stop))


def test_a_disk_whose_sync_is_a_lie_is_found_out() -> None:
    """The planted bug: were this to pass unnoticed, the tests above would prove nothing."""
    node = _Node(MemoryDisk(sync_works=False), LogModel())
    _run(node, 1_000_000)
    with pytest.raises((AssertionError, Corrupt)):
        node.recovered(Random(1))


_STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("append"), st.integers(0, 6), st.integers(1, 4), st.sampled_from([1, 100, 600, 5000])
        ),
        st.tuples(st.just("sync"), st.just(0), st.just(0), st.just(0)),
        st.tuples(st.just("compact"), st.integers(0, 6), st.just(0), st.just(0)),
        st.tuples(st.just("meta"), st.just(0), st.just(0), st.just(0)),
        st.tuples(st.just("reset"), st.integers(0, 3), st.just(0), st.just(0)),
        st.tuples(st.just("crash"), st.integers(0, 1 << 16), st.just(0), st.just(0)),
    ),
    max_size=30,
)


@settings(max_examples=150, derandomize=True, deadline=None)
@given(_STEPS)
def test_the_log_is_what_a_list_would_be_through_any_steps_and_crashes(
    steps: list[tuple[str, int, int, int]],
) -> None:
    node, term = _Node(MemoryDisk(), LogModel()), 1
    for action, number, count, size in steps:
        if action == "append":
            back = number if number < 4 else 0
            first = max(node.log.first_index, node.model.last + 1 - back)
            term += back > 0
            node.append(first, [term] * count, size)
            assert_same(node.log, node.model)
        elif action == "sync":
            node.sync()
        elif action == "compact":
            node.log.compact(node.model.last - number)
            assert_same(node.log, node.model)
        elif action == "meta":
            node.save_meta(term)
        elif action == "reset":
            term += 1
            node.reset(node.model.last + number, term)
        else:
            node = node.recovered(Random(number))
            term = max(term, node.model.last_term)
