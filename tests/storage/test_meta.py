from __future__ import annotations

from random import Random
from zlib import crc32

import pytest
from msgspec.structs import replace
from support.log_model import batch, open_log
from support.lossy_disk import LossyDisk, MemoryDisk

from gemot.server.model.errors import Corrupt, DiskFailed
from gemot.server.storage.format import META_FORMAT, NewerFormat
from gemot.server.storage.meta import Meta, MetaFile

_COPIES = ("/data/meta-a", "/data/meta-b")


def _content(disk: LossyDisk, path: str) -> bytes:
    return disk.open(path).pread(1 << 16, 0)


def _put(disk: LossyDisk, path: str, content: bytes) -> None:
    disk.damage(path, lambda target: target.__setitem__(slice(None), content))


def _saved(*votes: tuple[int, str]) -> LossyDisk:
    disk = MemoryDisk()
    file = MetaFile.open(disk, "/data")
    file.save(Meta(node_id="n1", cluster_id="c1"))
    for term, vote in votes:
        file.save(replace(file.meta, term=term, vote=vote))
    return disk


def test_a_server_that_never_began_is_fresh_and_one_that_saved_is_not() -> None:
    disk = MemoryDisk()
    file = MetaFile.open(disk, "/data")
    assert file.fresh
    assert file.meta == Meta()
    file.save(Meta(node_id="n1"))
    assert not file.fresh
    assert not MetaFile.open(disk.crash(), "/data").fresh


def test_everything_saved_is_read_back_after_a_crash() -> None:
    disk = _saved((3, "n2"))
    file = MetaFile.open(disk, "/data")
    meta = replace(
        file.meta, promised_cluster="c1", epoch=7, repairing=True, durable_index=9, durable_hash=bytes(16)
    )
    file.save(meta)
    found = MetaFile.open(disk.crash(), "/data")
    assert replace(found.meta, sequence=0) == replace(meta, sequence=0)
    assert found.warnings == ()


def test_any_one_byte_of_either_copy_may_go_bad_and_the_vote_is_still_known() -> None:
    disk = _saved((3, "n2"), (4, "n3"))
    for path in _COPIES:
        content = _content(disk, path)
        for at in range(len(content.rstrip(b"\0"))):
            _put(disk, path, content[:at] + bytes([content[at] ^ 0x41]) + content[at + 1 :])
            found = MetaFile.open(disk, "/data")
            assert (found.meta.term, found.meta.vote) == (4, "n3"), at
            assert path in found.warnings[0]
        _put(disk, path, content)


def test_a_copy_put_back_from_an_older_state_takes_no_vote_away() -> None:
    disk = _saved((3, "n2"))
    older = [_content(disk, path) for path in _COPIES]
    file = MetaFile.open(disk, "/data")
    file.save(replace(file.meta, term=4, vote="n3"))
    for path, content in zip(_COPIES, older, strict=True):
        newer = _content(disk, path)
        _put(disk, path, content)
        found = MetaFile.open(disk, "/data")
        assert (found.meta.term, found.meta.vote) == (4, "n3")
        _put(disk, path, newer)


def test_the_same_holds_when_only_the_durable_mark_was_saved_last() -> None:
    disk = _saved((4, "n3"))
    file = MetaFile.open(disk, "/data")
    for index in range(5):
        file.save(replace(file.meta, durable_index=index, durable_hash=bytes(16)))
        for path in _COPIES:
            content = _content(disk, path)
            _put(disk, path, b"garbage".ljust(512))
            assert MetaFile.open(disk, "/data").meta.vote == "n3"
            _put(disk, path, content)


def test_one_copy_missing_is_a_warning_and_the_next_save_writes_both() -> None:
    for path in _COPIES:
        disk = _saved((4, "n3"))
        disk.remove(path)
        file = MetaFile.open(disk, "/data")
        assert file.meta.vote == "n3"
        assert "missing or empty" in file.warnings[0]
        file.save(file.meta)
        assert disk.exists(path)
        assert MetaFile.open(disk, "/data").warnings == ()


def test_both_copies_bad_stops_the_server_and_says_what_to_do() -> None:
    disk = _saved((4, "n3"))
    for path in _COPIES:
        _put(disk, path, b"\xff" * 512)
    with pytest.raises(Corrupt, match="let it join as a new server"):
        MetaFile.open(disk, "/data")


def test_a_log_without_a_vote_file_stops_the_server() -> None:
    disk = _saved((4, "n3"))
    log = open_log(disk).log
    log.append(batch(1, [4]))
    log.sync()
    for path in _COPIES:
        disk.remove(path)
    with pytest.raises(Corrupt, match="meta-a and meta-b are missing"):
        MetaFile.open(disk, "/data")


def test_a_copy_of_a_newer_release_is_refused_by_name() -> None:
    disk = _saved((4, "n3"))
    content = bytearray(_content(disk, _COPIES[0]))
    content[12:16] = (META_FORMAT + 1).to_bytes(4, "little")
    length = int.from_bytes(content[16:20], "little")
    content[8:12] = crc32(content[12 : 20 + length]).to_bytes(4, "little")
    _put(disk, _COPIES[0], bytes(content))
    with pytest.raises(NewerFormat, match="/data/meta-a was written by a newer release"):
        MetaFile.open(disk, "/data")


def test_an_absurdly_large_copy_is_refused_before_it_is_read() -> None:
    disk = _saved((4, "n3"))
    for path in _COPIES:
        _put(disk, path, bytes(1 << 20))
    with pytest.raises(Corrupt, match="at most 4096 make sense"):
        MetaFile.open(disk, "/data")


def test_neither_a_second_vote_in_a_term_nor_an_older_term_is_ever_saved() -> None:
    file = MetaFile.open(_saved((4, "n3")), "/data")
    with pytest.raises(ValueError, match="second vote in term 4"):
        file.save(replace(file.meta, vote="n2"))
    with pytest.raises(ValueError, match="second vote in term 4"):
        file.save(replace(file.meta, vote=""))
    with pytest.raises(ValueError, match="go back from 4 to 3"):
        file.save(replace(file.meta, term=3, vote=""))
    file.save(replace(file.meta, term=5, vote=""))
    file.save(replace(file.meta, vote="n1"))


@pytest.mark.parametrize("seed", range(10))
def test_a_crash_at_any_operation_of_a_save_leaves_the_old_or_the_new_and_never_less(seed: int) -> None:
    for stop in range(12):
        disk = _saved((3, "n2"))
        file = MetaFile.open(disk, "/data")
        left = stop

        def count(action: str, path: str) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise InterruptedError

        disk.on_change = count
        done = True
        try:
            file.save(replace(file.meta, term=4, vote="n3"))
        except InterruptedError:
            done = False
        disk.on_change = None
        found = MetaFile.open(disk.crash(Random(seed)), "/data").meta
        assert (found.term, found.vote) in ([(4, "n3")] if done else [(3, "n2"), (4, "n3")])
        assert done == (stop >= 4)


def test_a_failed_sync_is_not_taken_for_a_saved_vote() -> None:
    disk = _saved((3, "n2"))
    file = MetaFile.open(disk, "/data")
    disk.fail_sync = 5
    with pytest.raises(DiskFailed, match=r"meta-.*EIO"):
        file.save(replace(file.meta, term=4, vote="n3"))
    assert file.meta.term == 3


def test_a_vote_that_a_cut_save_left_in_one_copy_is_in_both_once_it_was_read() -> None:
    """Simulator, seed 1026: it stopped between the copies, started, and one flipped bit took its term."""
    disk = MemoryDisk()
    MetaFile.open(disk, "/data").save(Meta(node_id="n", term=6, vote="a"))
    names = {name: disk.open(f"/data/{name}").pread(4_096, 0) for name in ("meta-a", "meta-b")}
    MetaFile.open(disk, "/data").save(Meta(node_id="n", term=7, vote="b"))
    for name in names:
        again = MemoryDisk()
        for each in names:
            content = names[each] if each == name else disk.open(f"/data/{each}").pread(4_096, 0)
            file = again.open(f"/data/{each}", create=True)
            file.pwrite(content, 0)
            file.sync()
        if MetaFile.open(again, "/data").meta.term == 7:
            for damaged in names:
                copy = {each: again.open(f"/data/{each}").pread(4_096, 0) for each in names}
                again.damage(f"/data/{damaged}", lambda raw: raw.__setitem__(30, raw[30] ^ 1))
                assert MetaFile.open(again, "/data").meta.term == 7, f"{damaged} alone held it"
                again.open(f"/data/{damaged}").pwrite(copy[damaged], 0)
