from __future__ import annotations

import errno
import threading

import pytest
from support.log_model import DIRECTORY, SEGMENT, LogModel, assert_same, batch, held, open_log
from support.lossy_disk import LossyDisk, MemoryDisk

from gemot.server.model.errors import Corrupt, DiskFailed
from gemot.server.storage.log import SegmentLog
from gemot.server.storage.realdisk import RealDisk
from gemot.server.storage.segment import segment_names


def _filled(disk: LossyDisk, entries: int, size: int = 300) -> tuple[SegmentLog, LogModel]:
    """A synced log of single-entry batches, term 1 and then 2; about six records to a segment."""
    log, model = open_log(disk).log, LogModel()
    for index in range(1, entries + 1):
        new = batch(index, [1 + index // 20], size)
        log.append(new)
        model.append(new)
    log.sync()
    return log, model


def _append_many(log: SegmentLog, first: int, stop: int) -> None:
    for index in range(first, stop):
        log.append(batch(index, [1], 300))


def test_an_empty_log_starts_after_entry_0_of_term_0() -> None:
    opened = open_log(MemoryDisk())
    log = opened.log
    assert (opened.damage, opened.torn) == (None, None)
    assert (log.first_index, log.last_index, log.last_term) == (1, 0, 0)
    assert log.term(0) == 0
    assert log.term(1) is None
    assert log.read(1, 10, 1000) == ()


def test_what_was_appended_is_read_back_before_and_after_the_sync_and_after_reopening() -> None:
    disk = MemoryDisk()
    log, model = open_log(disk).log, LogModel()
    for new in (batch(1, [1, 1, 2]), batch(4, [2]), batch(5, [3, 3])):
        log.append(new)
        model.append(new)
    assert_same(log, model)
    log.sync()
    assert_same(log, model)
    again = open_log(disk, log.durable_index, log.durable_hash)
    assert (again.damage, again.torn) == (None, None)
    assert_same(again.log, model)
    assert again.log.tail_hash == log.tail_hash


def test_a_batch_is_on_disk_byte_for_byte_as_it_was_given() -> None:
    disk = MemoryDisk()
    log = open_log(disk).log
    new = batch(1, [1, 1])
    log.append(new)
    (name,) = disk.listdir(DIRECTORY)
    assert new.body in disk.open(f"{DIRECTORY}/{name}").pread(1 << 20, 0)


def test_a_batch_that_begins_at_or_below_the_last_entry_replaces_the_suffix() -> None:
    disk = MemoryDisk()
    log, model = _filled(disk, 50)
    for new in (batch(31, [4, 4]), batch(33, [4]), batch(20, [5, 6, 6])):
        log.append(new)
        model.append(new)
        assert_same(log, model)
    log.sync()
    again = open_log(disk, log.durable_index, log.durable_hash)
    assert again.damage is None
    assert_same(again.log, model)


def test_a_replaced_suffix_that_was_durable_is_no_loss_after_reopening() -> None:
    disk = MemoryDisk()
    log, _ = _filled(disk, 50)
    index, tail = log.durable_index, log.durable_hash
    log.append(batch(10, [9]))
    log.sync()
    again = open_log(disk, index, tail)
    assert again.damage is None
    assert again.log.last_index == 10


@pytest.mark.parametrize("first", [0, 3])
def test_a_batch_that_does_not_follow_is_refused(first: int) -> None:
    log = open_log(MemoryDisk()).log
    log.append(batch(1, [1]))
    with pytest.raises(ValueError, match="does not follow"):
        log.append(batch(first, [1]))


def test_a_read_stops_at_max_bytes_but_gives_at_least_one_entry() -> None:
    log = open_log(MemoryDisk()).log
    log.append(batch(1, [1] * 10, 100))
    log.append(batch(11, [1] * 10, 100))
    assert [e.index for e in log.read(5, 20, 1)] == [5]
    assert [e.index for e in log.read(5, 20, 1000)] == list(range(5, 15))
    assert [e.index for e in log.read(9, 12, 10_000)] == [9, 10, 11, 12]
    assert log.read(21, 30, 10_000) == ()


def test_a_record_larger_than_a_segment_gets_a_segment_of_its_size() -> None:
    disk = MemoryDisk()
    log, model = _filled(disk, 10)
    for new in (batch(11, [1], 100_000), batch(12, [1])):
        log.append(new)
        model.append(new)
    log.sync()
    assert_same(open_log(disk, log.durable_index, log.durable_hash).log, model)


def test_compaction_drops_whole_old_segments_and_keeps_the_rest_readable() -> None:
    disk = MemoryDisk()
    log, model = _filled(disk, 100)
    before = len(segment_names(disk, DIRECTORY))
    log.compact(60)
    assert 40 < log.first_index <= 61
    assert len(segment_names(disk, DIRECTORY)) < before
    assert log.term(log.first_index - 2) is None
    assert log.read(1, 10, 1000) == ()
    assert_same(log, model)
    after = open_log(disk.crash(), log.durable_index, log.durable_hash)
    assert after.damage is None
    assert after.log.start == log.start
    assert_same(after.log, model)


def test_compaction_never_drops_an_entry_above_its_bound() -> None:
    for through in range(0, 101):
        log, _ = _filled(MemoryDisk(), 100)
        log.compact(through)
        assert log.first_index <= through + 1
        assert log.last_index == 100


def test_compaction_after_a_replaced_suffix_starts_where_the_new_suffix_does() -> None:
    disk = MemoryDisk()
    log, model = _filled(disk, 60)
    for index in range(31, 50):
        new = batch(index, [7], 300)
        log.append(new)
        model.append(new)
    log.sync()
    log.compact(30)
    assert log.first_index <= 31
    assert_same(log, model)
    log.compact(40)
    assert 31 <= log.first_index <= 41
    assert_same(log, model)
    again = open_log(disk, log.durable_index, log.durable_hash)
    assert again.damage is None
    assert again.log.start == log.start
    assert_same(again.log, model)


def test_a_reset_forgets_every_entry_durably_and_the_log_goes_on_after_the_snapshot() -> None:
    disk = MemoryDisk()
    log, _ = _filled(disk, 40)
    mark = (log.durable_index, log.durable_hash)
    log.reset(1000, 8)
    after = open_log(disk.crash(), *mark)
    assert after.damage is None
    model = LogModel(1000, 8)
    assert_same(after.log, model)
    new = batch(1001, [9, 9])
    after.log.append(new)
    model.append(new)
    assert_same(after.log, model)


def test_a_mark_whose_segment_was_compacted_away_is_no_loss() -> None:
    disk = MemoryDisk()
    log, model = _filled(disk, 10)
    index, tail = log.durable_index, log.durable_hash
    for at in range(11, 60):
        new = batch(at, [3], 300)
        log.append(new)
        model.append(new)
    log.sync()
    log.compact(50)
    again = open_log(disk, index, tail)
    assert again.damage is None
    assert_same(again.log, model)


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_after_a_failed_sync_nothing_is_written_or_synced_any_more(code: int) -> None:
    disk = MemoryDisk()
    log, _ = _filled(disk, 3)
    log.append(batch(4, [1]))
    disk.fail_sync = code
    with pytest.raises(DiskFailed, match=f"cannot sync /data/log/.*{errno.errorcode[code]}"):
        log.sync()
    for attempt in (
        log.sync,
        lambda: log.append(batch(5, [1])),
        lambda: log.reset(9, 9),
        lambda: log.compact(1),
    ):
        with pytest.raises(DiskFailed, match=errno.errorcode[code]):
            attempt()


def test_a_full_disk_stops_the_log_and_loses_nothing_that_was_synced() -> None:
    for room in range(0, 12_000, 700):
        disk = MemoryDisk()
        log, model = _filled(disk, 5)
        mark = (log.durable_index, log.durable_hash)
        disk.space_left = room
        with pytest.raises(DiskFailed, match="ENOSPC"):
            _append_many(log, 6, 60)
        after = open_log(disk.crash(), *mark)
        assert after.damage is None
        assert held(after.log)[:5] == model.entries


def test_a_segment_prepared_beforehand_becomes_the_next_one_with_the_same_content() -> None:
    log, _ = _filled(MemoryDisk(), 4)
    assert not log.wants_spare, "most of the segment is free"
    disk = MemoryDisk()
    log, model = _filled(disk, 10)
    assert log.wants_spare, "more than half of it is used"
    log.keep_spare(log.make_spare())
    assert not log.wants_spare
    for index in range(11, 40):
        new = batch(index, [2], 300)
        log.append(new)
        model.append(new)
    log.sync()
    assert "next.tmp" not in disk.listdir(DIRECTORY)
    again = open_log(disk.crash(), log.durable_index, log.durable_hash)
    assert (again.damage, again.torn) == (None, None)
    assert_same(again.log, model)


def test_a_record_too_large_for_the_prepared_segment_gets_one_of_its_own_and_leaves_it_for_later() -> None:
    disk = MemoryDisk()
    log, _ = _filled(disk, 4)
    log.keep_spare(log.make_spare())
    log.append(batch(5, [2], 20_000))
    assert "next.tmp" in disk.listdir(DIRECTORY)
    log.append(batch(6, [2], 300))
    assert "next.tmp" not in disk.listdir(DIRECTORY)


def test_a_prepared_segment_that_was_never_used_is_removed_at_the_next_start() -> None:
    disk = MemoryDisk()
    log, model = _filled(disk, 4)
    log.make_spare()
    disk.sync_dir(DIRECTORY)
    after = disk.crash()
    assert "next.tmp" in after.listdir(DIRECTORY)
    assert_same(open_log(after, log.durable_index, log.durable_hash).log, model)
    assert "next.tmp" not in after.listdir(DIRECTORY)


def test_a_segment_that_cannot_be_prepared_leaves_no_file_and_the_log_goes_on() -> None:
    disk = MemoryDisk()
    log, _ = _filled(disk, 4)
    for room, told in ((100, "are wanted there"), (SEGMENT + 100, "are wanted there")):
        disk.space_left = room
        with pytest.raises(DiskFailed, match=told):
            log.make_spare()
        assert disk.space_left == room, "what little is left is not taken, not even for a while"
    disk.space_left = None
    assert "next.tmp" not in disk.listdir(DIRECTORY)
    log.append(batch(5, [2], 300))
    log.sync()


def test_a_segment_that_finds_no_room_leaves_nothing_behind_and_says_how_much_it_needs() -> None:
    for room in (0, 100, 3_000):
        disk = MemoryDisk()
        log = open_log(disk).log
        disk.space_left = room
        with pytest.raises(DiskFailed, match=r"needed, \d+ are free there .*ENOSPC.*raft_log_segment_bytes"):
            log.begin()
        assert disk.listdir(DIRECTORY) == []


def test_a_log_that_has_begun_and_holds_nothing_is_read_back_as_such() -> None:
    disk = MemoryDisk()
    log = open_log(disk).log
    log.begin()
    log.begin()
    assert len(disk.listdir(DIRECTORY)) == 1
    again = open_log(disk.crash())
    assert (again.damage, again.torn, again.log.last_index) == (None, None, 0)
    again.log.reset(7, 2)
    again.log.append(batch(8, [2]))
    assert again.log.last_index == 8


def test_a_damaged_log_is_not_begun() -> None:
    disk = MemoryDisk()
    log, _ = _filled(disk, 3)
    (name,) = disk.listdir(DIRECTORY)
    disk.remove(f"{DIRECTORY}/{name}")
    found = open_log(disk, log.durable_index, log.durable_hash)
    assert found.damage is not None
    found.log.begin()
    assert disk.listdir(DIRECTORY) == []


def test_a_record_damaged_while_the_log_is_open_is_refused_and_not_returned() -> None:
    disk = MemoryDisk()
    log, _ = _filled(disk, 3)
    (name,) = disk.listdir(DIRECTORY)

    def flip(content: bytearray) -> None:
        content[1200] ^= 1

    disk.damage(f"{DIRECTORY}/{name}", flip)
    assert [e.index for e in log.read(1, 1, 1000)] == [1]
    with pytest.raises(Corrupt, match="entry 2"):
        log.read(1, 3, 10_000)


def test_a_record_that_stands_in_the_place_of_another_is_refused() -> None:
    disk = MemoryDisk()
    log, _ = _filled(disk, 3)
    (name,) = disk.listdir(DIRECTORY)

    def misdirect(content: bytearray) -> None:
        content[1024:1536] = content[512:1024]

    disk.damage(f"{DIRECTORY}/{name}", misdirect)
    with pytest.raises(Corrupt):
        log.read(2, 2, 1000)


def test_one_thread_reads_while_another_appends_replaces_and_compacts(tmp_path: object) -> None:
    log = SegmentLog.open(disk=RealDisk(sync=False), directory=f"{tmp_path}/log", segment_bytes=1 << 16).log
    wrong: list[str] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            first = log.first_index
            found = log.read(first, first + 200, 1 << 20)
            if [e.index for e in found] != list(range(first, first + len(found))):
                wrong.append(f"gap from {first}")
            wrong.extend(
                f"entry {e.index}" for e in found if not e.data.startswith(f"{e.index}/{e.term}:".encode())
            )

    reader = threading.Thread(target=read)
    reader.start()
    index = 1
    for round_number in range(2000):
        log.append(batch(index, [1 + round_number // 100] * 3, 200))
        index += 3
        if round_number % 50 == 49:
            index -= 20
        if round_number % 200 == 199:
            log.compact(index - 100)
    done.set()
    reader.join()
    assert wrong == []
    log.close()
