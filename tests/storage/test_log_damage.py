"""Bytes on disk that are not what was written, and what opening the log makes of them."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from zlib import crc32

import pytest
from support.log_model import DIRECTORY, SEGMENT, LogModel, assert_same, batch, held, open_log
from support.lossy_disk import LossyDisk, MemoryDisk

from gemot.server.model.errors import Corrupt
from gemot.server.raft.types import Batch, Entry, EntryKind
from gemot.server.storage.disk import SECTOR
from gemot.server.storage.format import LOG_FORMAT, NewerFormat
from gemot.server.storage.log import Recovery, SegmentLog
from gemot.server.storage.realdisk import RealDisk
from gemot.server.storage.record import HEADER_BYTES, ORIGIN, Header, Kind, decode_header, encode_record
from gemot.server.storage.segment import open_segment, segment_names


def _one_segment() -> tuple[LossyDisk, SegmentLog, LogModel, str]:
    """Five batches of one to four sectors, each synced for itself."""
    disk = MemoryDisk()
    log, model = open_log(disk, segment_bytes=2 * SEGMENT).log, LogModel()
    for new in (batch(1, [1]), batch(2, [1], 900), batch(3, [1, 2]), batch(5, [2], 1500), batch(6, [2], 60)):
        log.append(new)
        log.sync()
        model.append(new)
    (name,) = disk.listdir(DIRECTORY)
    return disk, log, model, f"{DIRECTORY}/{name}"


def _several_segments() -> tuple[LossyDisk, SegmentLog, LogModel]:
    disk = MemoryDisk()
    log, model = open_log(disk).log, LogModel()
    for index in range(1, 31):
        new = batch(index, [1], 300)
        log.append(new)
        log.sync()
        model.append(new)
    return disk, log, model


def _bytes(disk: LossyDisk, path: str) -> bytes:
    return disk.open(path).pread(1 << 20, 0)


def _replacing(content: bytes) -> Callable[[bytearray], None]:
    def replace(target: bytearray) -> None:
        target[:] = content

    return replace


def _reopened(disk: LossyDisk, path: str, content: bytes, log: SegmentLog, *, with_mark: bool) -> Recovery:
    """Open a copy of the disk on which the file has this content."""
    before = _bytes(disk, path)
    disk.damage(path, _replacing(content))
    copy = MemoryDisk()
    copy.makedirs(DIRECTORY)
    for name in disk.listdir(DIRECTORY):
        file = copy.open(f"{DIRECTORY}/{name}", create=True)
        file.pwrite(_bytes(disk, f"{DIRECTORY}/{name}"), 0)
        file.sync()
    disk.damage(path, _replacing(before))
    mark = (log.durable_index, log.durable_hash) if with_mark else (0, b"")
    return open_log(copy, *mark)


def _corruptions(content: bytes) -> Iterator[tuple[str, bytes]]:
    for start in range(0, len(content), SECTOR):
        for name, sector in (
            ("zeros", bytes(SECTOR)),
            ("ones", b"\xff" * SECTOR),
            ("stale", content[:SECTOR]),
        ):
            changed = content[:start] + sector + content[start + SECTOR :]
            if changed != content:
                yield f"{name} at {start}", changed


def test_no_corrupted_sector_is_read_as_data_and_no_synced_entry_is_lost_silently() -> None:
    disk, log, model, path = _one_segment()
    content = _bytes(disk, path)[:6144]
    rest = _bytes(disk, path)[6144:]
    for what, changed in _corruptions(content):
        found = _reopened(disk, path, changed + rest, log, with_mark=True)
        assert held(found.log) == model.entries[: found.log.last_index], what
        assert found.damage is not None or found.log.last_index == model.last, what
        assert found.torn is None or found.log.last_index == model.last, what


def test_without_the_vote_files_mark_only_the_last_record_can_pass_for_torn() -> None:
    disk, log, model, path = _one_segment()
    content = _bytes(disk, path)
    for what, changed in _corruptions(content):
        found = _reopened(disk, path, changed, log, with_mark=False)
        assert held(found.log) == model.entries[: found.log.last_index], what
        assert found.damage is not None or found.log.last_index >= model.last - 1, what


@pytest.mark.parametrize("with_mark", [True, False])
def test_no_flipped_bit_is_read_as_data_nor_taken_for_a_torn_write(with_mark: bool) -> None:
    disk, log, model, path = _one_segment()
    content = _bytes(disk, path)
    used = len(content.rstrip(b"\0"))
    for at in range(0, used, 1 if with_mark else 7):
        changed = content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :]
        found = _reopened(disk, path, changed, log, with_mark=with_mark)
        assert held(found.log) == model.entries[: found.log.last_index], at
        assert found.damage is not None or found.log.last_index == model.last, at
        assert found.torn is None, at


def _good_end(found: Recovery) -> int:
    """Where the last good record of the only segment ends."""
    spot = found.log._places.find(found.log.last_index)
    assert spot is not None
    segment = found.log._places.segments[spot.segment]
    return segment.end


def test_a_last_write_torn_at_any_byte_is_cut_off_and_everything_synced_stays() -> None:
    disk, log, model, path = _one_segment()
    start = len(_bytes(disk, path).rstrip(b"\0")) // SECTOR * SECTOR + SECTOR
    for new in (batch(7, [2], 700), batch(8, [2]), batch(9, [3, 3], 500)):
        log.append(new)
        model.append(new)
    content = _bytes(disk, path)
    end = len(content.rstrip(b"\0"))
    for cut in range(start, end):
        found = _reopened(disk, path, content[:cut].ljust(len(content), b"\0"), log, with_mark=True)
        assert found.damage is None, cut
        assert found.log.last_index >= 6, cut
        assert held(found.log) == model.entries[: found.log.last_index], cut
        assert (found.torn is None) == (not content[:cut][_good_end(found) :].strip(b"\0")), cut


def test_any_sectors_missing_from_an_unsynced_group_are_a_tear_even_if_later_records_are_whole() -> None:
    disk, log, model, path = _one_segment()
    start = len(_bytes(disk, path).rstrip(b"\0")) // SECTOR * SECTOR + SECTOR
    for index in range(7, 11):
        new = batch(index, [2], 700)
        log.append(new)
        model.append(new)
    content = _bytes(disk, path)
    for at in range(start, start + 4 * 2 * SECTOR, SECTOR):
        found = _reopened(
            disk, path, content[:at] + bytes(SECTOR) + content[at + SECTOR :], log, with_mark=True
        )
        assert found.damage is None
        assert found.torn is not None
        assert 6 <= found.log.last_index < 10
        assert held(found.log) == model.entries[: found.log.last_index]


def test_the_same_missing_sectors_are_damage_once_a_later_record_shows_that_they_were_synced() -> None:
    disk, log, _, path = _one_segment()
    start = len(_bytes(disk, path).rstrip(b"\0")) // SECTOR * SECTOR + SECTOR
    for index in range(7, 11):
        log.append(batch(index, [2], 700))
    log.sync()
    log.append(batch(11, [2]))
    content = _bytes(disk, path)
    for at in range(start, start + 4 * 2 * SECTOR, SECTOR):
        found = _reopened(
            disk, path, content[:at] + bytes(SECTOR) + content[at + SECTOR :], log, with_mark=False
        )
        assert found.damage is not None
        assert found.damage.kind == "bad-record"
        assert found.damage.first_bad_index == found.log.last_index + 1


def test_a_torn_tail_is_kept_as_a_copy_and_the_log_goes_on_in_its_place() -> None:
    disk, log, model, path = _one_segment()
    mark = (log.durable_index, log.durable_hash)
    log.append(batch(7, [2], 2000))
    content = _bytes(disk, path)
    at = content.index(b"7/2:") // SECTOR * SECTOR
    disk.damage(path, _replacing(content[: at + SECTOR].ljust(len(content), b"\0")))
    found = open_log(disk, *mark)
    assert found.torn is not None
    assert _bytes(disk, found.torn.copy) == content[at : at + SECTOR].rstrip(b"\0")
    new = batch(7, [3])
    found.log.append(new)
    found.log.sync()
    model.append(new)
    again = open_log(disk.crash(), found.log.durable_index, found.log.durable_hash)
    assert (again.damage, again.torn) == (None, None)
    assert_same(again.log, model)


def test_damage_changes_nothing_on_disk_before_the_first_write_and_then_keeps_copies() -> None:
    disk, log, _ = _several_segments()
    mark = (log.durable_index, log.durable_hash)
    names = [name for _, name in segment_names(disk, DIRECTORY)]
    path = f"{DIRECTORY}/{names[1]}"
    content = bytearray(_bytes(disk, path))
    content[1100] ^= 4
    disk.damage(path, _replacing(bytes(content)))
    found = open_log(disk, *mark)
    for _ in range(2):
        found = open_log(disk, *mark)
        assert found.damage is not None
        assert (found.damage.kind, found.damage.path) == ("bad-record", path)
        assert f"damaged from entry {found.log.last_index + 1} on" in found.damage.message
        assert disk.listdir(DIRECTORY) == names
    good = found.log.last_index
    assert 0 < good < 30
    found.log.append(batch(good + 1, [2]))
    found.log.sync()
    broken = [name for name in disk.listdir(DIRECTORY) if name.endswith(".broken")]
    assert len(broken) == 1 + len(names) - 2
    again = open_log(disk.crash(), found.log.durable_index, found.log.durable_hash)
    assert again.damage is None
    assert again.log.last_index == good + 1


def test_the_node_stays_damaged_until_the_vote_file_has_the_new_mark() -> None:
    disk, log, _ = _several_segments()
    mark = (log.durable_index, log.durable_hash)
    path = f"{DIRECTORY}/{segment_names(disk, DIRECTORY)[1][1]}"
    disk.damage(path, lambda content: content.__setitem__(1100, content[1100] ^ 4))
    found = open_log(disk, *mark)
    found.log.append(batch(found.log.last_index + 1, [2]))
    found.log.sync()
    assert open_log(disk, *mark).damage is not None


@pytest.mark.parametrize("position", [0, 1, -1])
def test_a_segment_whose_header_is_bad_is_damage(position: int) -> None:
    disk, log, model = _several_segments()
    path = f"{DIRECTORY}/{segment_names(disk, DIRECTORY)[position][1]}"
    disk.damage(path, lambda content: content.__setitem__(40, content[40] ^ 1))
    found = open_log(disk, log.durable_index, log.durable_hash)
    assert found.damage is not None
    assert (found.damage.kind, found.damage.path) == ("bad-segment", path)
    assert held(found.log) == model.entries[: found.log.last_index]


def test_a_missing_segment_is_damage() -> None:
    disk, _, model = _several_segments()
    names = [name for _, name in segment_names(disk, DIRECTORY)]
    disk.remove(f"{DIRECTORY}/{names[1]}")
    found = open_log(disk)
    assert found.damage is not None
    assert found.damage.kind == "missing-segment"
    assert held(found.log) == model.entries[: found.log.last_index]


def test_a_log_that_ends_before_what_the_vote_file_remembers_is_damage() -> None:
    disk, log, model = _several_segments()
    mark = (log.durable_index, log.durable_hash)
    for _, name in reversed(segment_names(disk, DIRECTORY)):
        disk.remove(f"{DIRECTORY}/{name}")
        found = open_log(disk, *mark)
        assert found.damage is not None
        assert found.damage.kind == "lost"
        assert held(found.log) == model.entries[: found.log.last_index]
    assert open_log(disk, *mark).log.last_index == 0


def test_a_log_that_was_put_back_from_an_older_copy_and_went_on_is_damage() -> None:
    disk, log, _, path = _one_segment()
    older = _bytes(disk, path)
    log.append(batch(7, [2]))
    log.sync()
    mark = (log.durable_index, log.durable_hash)
    disk.damage(path, _replacing(older))
    assert open_log(disk, *mark).damage is not None
    other = open_log(disk).log
    other.append(batch(7, [3]))
    other.sync()
    found = open_log(disk, *mark)
    assert found.damage is not None
    assert found.damage.kind == "other-history"


def test_a_file_that_was_cut_short_is_damage() -> None:
    disk, _, _, path = _one_segment()
    disk.damage(path, lambda content: content.__delitem__(slice(4096, None)))
    found = open_log(disk)
    assert found.damage is not None
    assert "it was made with 16384" in found.damage.message


def test_a_header_that_claims_gigabytes_allocates_nothing(tmp_path: Path) -> None:
    disk, log, model, path = _one_segment()
    content = bytearray(_bytes(disk, path))
    end = len(content.rstrip(b"\0")) // SECTOR * SECTOR + SECTOR
    salt = open_segment(disk, DIRECTORY, *segment_names(disk, DIRECTORY)[0]).salt
    tail = log._tail
    header = Header(Kind.BATCH, 0xFFFFFFF0, 1, tail.serial + 1, 7, 7, 2, 2, 2, ORIGIN, tail.chain)
    raw, _ = encode_record(header, b"", salt)
    content[end : end + len(raw)] = raw
    (tmp_path / Path(path).name).write_bytes(content)
    tracemalloc.start()
    found = SegmentLog.open(
        disk=RealDisk(sync=False), directory=str(tmp_path), durable_index=6, durable_hash=log.durable_hash
    )
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.damage is not None
    assert held(found.log) == model.entries
    assert peak < 4 << 20


def _two_histories() -> tuple[list[LossyDisk], list[SegmentLog], str, int]:
    """Two logs that differ in entry 2 alone, their file's path, and where entry 3 stands in both."""
    disks, logs, path = [MemoryDisk(), MemoryDisk()], [], ""
    for n, disk in enumerate(disks):
        log = open_log(disk).log
        for new in (batch(1, [1]), batch(2, [1], 100 + n), batch(3, [1])):
            log.append(new)
        log.sync()
        logs.append(log)
        path = f"{DIRECTORY}/{disk.listdir(DIRECTORY)[0]}"
    return disks, logs, path, 3 * SECTOR


def test_a_good_record_of_another_history_ends_what_is_believed() -> None:
    disks, logs, path, at = _two_histories()
    mine, other = (_bytes(disk, path) for disk in disks)
    for mark in ((0, b""), (logs[0].durable_index, logs[0].durable_hash)):
        found = _reopened(disks[0], path, mine[:at] + other[at:], logs[0], with_mark=bool(mark[1]))
        assert found.damage is not None
        assert found.log.last_index == 2


def test_a_good_record_of_another_history_is_not_read_while_the_log_is_open() -> None:
    disks, logs, path, at = _two_histories()
    other = _bytes(disks[1], path)
    disks[0].damage(path, lambda content: content.__setitem__(slice(at, None), other[at:]))
    assert [e.index for e in logs[0].read(1, 2, 10_000)] == [1, 2]
    with pytest.raises(Corrupt, match="entry 3"):
        logs[0].read(3, 3, 10_000)


def test_a_stored_value_that_looks_like_a_header_does_not_turn_a_tear_into_damage() -> None:
    disk, log, model, path = _one_segment()
    mark = (log.durable_index, log.durable_hash)
    at = len(_bytes(disk, path).rstrip(b"\0")) // SECTOR * SECTOR + SECTOR
    header = Header(Kind.BATCH, 0, 0, 8, 9, 9, 2, 2, 2, log._durable, bytes(8))
    forged = encode_record(header, b"", crc32(b"a guess"))[0][:HEADER_BYTES]
    value = bytes(range(1, 256)) * 4
    plain = Batch([Entry(2, 7, EntryKind.COMMAND, value)])
    aligned = 2 * SECTOR - HEADER_BYTES - plain.body.index(value)
    value = value[:aligned] + forged + value[aligned + HEADER_BYTES :]
    log.append(Batch([Entry(2, 7, EntryKind.COMMAND, value)]))
    content = _bytes(disk, path)
    assert content.index(forged) % SECTOR == 0
    disk.damage(path, _replacing(content[:at] + bytes(SECTOR) + content[at + SECTOR :]))
    found = open_log(disk, *mark)
    assert found.damage is None
    assert found.torn is not None
    assert held(found.log) == model.entries


def test_a_log_of_a_newer_release_is_refused_by_name_and_not_called_damaged() -> None:
    disk, _, _, path = _one_segment()

    def renumber(content: bytearray) -> None:
        content[12:16] = (LOG_FORMAT + 1).to_bytes(4, "little")
        content[8:12] = crc32(content[12:SECTOR]).to_bytes(4, "little")

    disk.damage(path, renumber)
    with pytest.raises(NewerFormat, match=f"{path} was written by a newer release"):
        open_log(disk)


def test_a_record_kind_of_a_newer_release_is_refused_and_not_skipped() -> None:
    disk, log, _, path = _one_segment()
    end = len(_bytes(disk, path).rstrip(b"\0")) // SECTOR * SECTOR + SECTOR
    salt = open_segment(disk, DIRECTORY, *segment_names(disk, DIRECTORY)[0]).salt
    header = Header(9, 0, 0, log._tail.serial + 1, 7, 7, 2, 2, 2, ORIGIN, log._tail.chain)
    raw, found = encode_record(header, b"", salt)
    assert decode_header(raw, salt) == found
    disk.open(path).pwrite(raw, end)
    with pytest.raises(NewerFormat, match="kind 9"):
        open_log(disk)
