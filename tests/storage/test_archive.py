"""Archives of snapshots: what comes back is what was saved, and nothing else is let in."""

from __future__ import annotations

import gzip
import re
import resource
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import apsw
import msgspec
import pytest
from support.archives import altered, archive_of, blobs_at, fitting, packed, parts, take_in
from support.one_state import OneState

from gemot.server.model.catalog import Node, Register, Service
from gemot.server.model.errors import BadRequest, GemotError, NotFound, Unavailable
from gemot.server.model.kv import KvDelete, KvSet
from gemot.server.storage.archive import MAGIC, Head, Unpacker
from gemot.server.storage.blobs import Blobs
from gemot.server.storage.realdisk import RealDisk
from gemot.server.storage.sqlite import CHECKSUM_VFS


@pytest.fixture
def one(tmp_path: Path) -> Iterator[OneState]:
    state = OneState(tmp_path)
    for number in range(200):
        state.apply(KvSet(b"k/%d" % number, b"value %d " % number * 20))
    state.apply(KvDelete(b"k/7"))
    state.apply(Register(Node("n1", "10.0.0.1"), (Service("web", "web"),)))
    yield state
    state.close()


@pytest.fixture
def archive(one: OneState, tmp_path: Path) -> bytes:
    return archive_of(one, tmp_path / "source")


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return blobs_at(tmp_path / "target")


def left(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "target").rglob("*") if path.is_file())


def test_what_comes_back_is_the_state_that_was_saved(
    one: OneState, archive: bytes, blobs: Blobs, tmp_path: Path
) -> None:
    head, state = parts(archive)
    assert (head.index, head.term, head.voters, head.cluster) == (one.index, 1, ("a", "b"), "cluster")
    sha256 = take_in(blobs, archive)
    assert blobs.has(sha256)
    assert Path(blobs.path(sha256)).read_bytes() == state
    assert left(tmp_path) == [f"{sha256}.json", f"{sha256}.state"]


@pytest.mark.parametrize("piece", [1, 7, 1000, 1 << 20])
def test_how_it_is_cut_into_pieces_does_not_matter(archive: bytes, blobs: Blobs, piece: int) -> None:
    assert take_in(blobs, archive, piece=piece) == parts(archive)[0].sha256


def test_a_blob_is_there_after_a_restart_and_nothing_else(
    archive: bytes, blobs: Blobs, tmp_path: Path
) -> None:
    sha256 = take_in(blobs, archive)
    blobs.take_in(9, archive[: len(archive) // 2])
    again = blobs_at(tmp_path / "target")
    assert [blob.sha256 for blob in again.all()] == [sha256]
    assert left(tmp_path) == [f"{sha256}.json", f"{sha256}.state"]


@pytest.mark.parametrize("what", ["manifest cut", "state cut", "state gone"])
def test_a_blob_that_is_not_whole_is_none(archive: bytes, blobs: Blobs, tmp_path: Path, what: str) -> None:
    sha256 = take_in(blobs, archive)
    path = Path(blobs.path(sha256))
    if what == "manifest cut":
        path.with_suffix(".json").write_bytes(b'{"sha')
    elif what == "state cut":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        path.unlink()
    assert blobs_at(tmp_path / "target").all() == ()
    assert left(tmp_path) == []


def test_an_archive_cut_anywhere_is_refused_and_leaves_nothing(
    archive: bytes, blobs: Blobs, tmp_path: Path
) -> None:
    for size in [*range(0, 40), *range(40, len(archive), max(1, len(archive) // 60)), len(archive) - 1]:
        with pytest.raises(BadRequest, match=r"cut short|no gzip|damaged"):
            take_in(blobs, archive[:size])
        assert left(tmp_path) == [], size


def _unpacked(archive: bytes) -> bytes | None:
    try:
        return gzip.decompress(archive)
    except (OSError, EOFError, zlib.error):
        return None


INSTEAD = ": copy or save it again, or take another one"


def refusal(blobs: Blobs, archive: bytes) -> str:
    with pytest.raises(BadRequest) as caught:
        take_in(blobs, archive)
    return caught.value.message


def test_a_cut_archive_is_told_with_its_size_as_it_came_and_as_unpacked(archive: bytes, blobs: Blobs) -> None:
    head, _ = parts(archive)
    told = refusal(blobs, archive[: len(archive) // 2])
    found = re.fullmatch(
        r"the snapshot is cut short: its (\d+) bytes hold, unpacked, (\d+) of the (\d+) bytes of the state, "
        rf"and the end is missing{INSTEAD}",
        told,
    )
    assert found, told
    came, unpacked, whole = map(int, found.groups())
    assert (came, whole) == (len(archive) // 2, head.size)
    assert 0 < unpacked < whole
    assert f"its {len(archive) - 1} bytes hold, unpacked, {whole} of the {whole} bytes of the state, and" in (
        refusal(blobs, archive[:-1])
    )
    assert refusal(blobs, archive[:20]) == (
        f"the snapshot is cut short: its 20 bytes end within its first lines{INSTEAD}"
    )
    assert refusal(blobs, b"") == f"the snapshot is cut short: it is empty{INSTEAD}"


def test_what_is_wrong_is_told_in_words_of_ours_and_with_the_way_out(archive: bytes, blobs: Blobs) -> None:
    ours = "give a file that `gemot snapshot save` wrote"
    assert refusal(blobs, b"<html>not found</html>") == (
        f"not a snapshot of Gemot: it is no gzip stream: {ours}"
    )
    assert refusal(blobs, gzip.compress(b"meta.json")) == (
        f"not a snapshot of Gemot: it is a gzip stream that begins otherwise: {ours}"
    )
    other_sum = archive[:-8] + bytes((archive[-8] ^ 1,)) + archive[-7:]
    assert refusal(blobs, other_sum) == (
        f"the snapshot is damaged: the checksum at the end of its gzip stream does not fit{INSTEAD}"
    )
    assert refusal(blobs, archive[:10] + b"\xff" * 64) == (
        f"the snapshot is damaged: its gzip stream holds what cannot be unpacked{INSTEAD}"
    )


def test_damage_far_behind_is_told_with_how_much_of_the_state_is_before_it(archive: bytes) -> None:
    head, state = parts(archive)
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    half = packer.compress(MAGIC + msgspec.json.encode(head) + b"\n" + state[:65_536])
    unpacker = Unpacker(write=lambda data, offset: None)
    unpacker.feed(half + packer.flush(zlib.Z_FULL_FLUSH))
    with pytest.raises(BadRequest, match=f": 65536 of the {head.size} bytes of its state are before that"):
        unpacker.feed(b"\xff" * 64)


def test_a_flipped_byte_anywhere_is_refused_and_leaves_nothing(
    archive: bytes, blobs: Blobs, tmp_path: Path
) -> None:
    step = max(1, len(archive) // 80)
    for at in [*range(0, 3), *range(10, 40), *range(40, len(archive), step), len(archive) - 5]:
        damaged = archive[:at] + bytes((archive[at] ^ 0x41,)) + archive[at + 1 :]
        if _unpacked(damaged) == _unpacked(archive):
            continue  # another way to say the same: a run of zeros copied from another run of zeros
        with pytest.raises(BadRequest):
            take_in(blobs, damaged)
        assert left(tmp_path) == [], at


def test_a_flipped_byte_of_the_state_under_a_head_that_fits_is_refused(
    archive: bytes, blobs: Blobs, tmp_path: Path
) -> None:
    """So says SQLite's page checksum, or the state hash."""
    head, state = parts(archive)
    for at in range(200, len(state), len(state) // 40):
        damaged = state[:at] + bytes((state[at] ^ 0x41,)) + state[at + 1 :]
        with pytest.raises(BadRequest, match="damaged"):
            take_in(blobs, fitting(head, damaged))
        assert left(tmp_path) == [], at


HEADS: list[tuple[str, Callable[[Head], Head], str]] = [
    ("format", lambda h: msgspec.structs.replace(h, format=99), "a newer release"),
    ("format 0", lambda h: msgspec.structs.replace(h, format=0), "cannot be"),
    ("index", lambda h: msgspec.structs.replace(h, index=h.index + 1), "do not belong|its state is of"),
    ("epoch", lambda h: msgspec.structs.replace(h, epoch=5), "its state is of"),
    ("epoch < 0", lambda h: msgspec.structs.replace(h, epoch=-1), "cannot be"),
    ("term", lambda h: msgspec.structs.replace(h, term=9), "its state is of"),
    ("size", lambda h: msgspec.structs.replace(h, size=h.size - 4096), "damaged"),
    ("huge", lambda h: msgspec.structs.replace(h, size=1 << 50), "at most"),
    ("hash", lambda h: msgspec.structs.replace(h, sha256="0" * 64), "SHA-256"),
    ("path", lambda h: msgspec.structs.replace(h, sha256="../" * 21 + "x"), "SHA-256"),
]


@pytest.mark.parametrize(("name", "change", "told"), HEADS, ids=[name for name, _, _ in HEADS])
def test_a_head_that_lies_is_refused(
    archive: bytes, blobs: Blobs, tmp_path: Path, name: str, change: Callable[[Head], Head], told: str
) -> None:
    head, state = parts(archive)
    with pytest.raises(GemotError, match=told):
        take_in(blobs, packed(change(head), state))
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    "rubbish",
    [b"", b"hello", b"\x1f\x8b", MAGIC, zlib.compress(b"x"), zlib.compress(MAGIC, wbits=31)],
    ids=["empty", "text", "two bytes", "not packed", "zlib", "no head"],
)
def test_rubbish_is_told_as_such(blobs: Blobs, tmp_path: Path, rubbish: bytes) -> None:
    with pytest.raises(BadRequest, match=r"not a snapshot|no gzip|cut short"):
        take_in(blobs, rubbish)
    assert left(tmp_path) == []


@pytest.mark.parametrize("more", [b"x", b"\x1f\x8b\x08", "twice"], ids=["a byte", "a head", "twice"])
def test_bytes_behind_the_end_are_refused(archive: bytes, blobs: Blobs, more: bytes | str) -> None:
    with pytest.raises(BadRequest, match="more bytes follow"):
        take_in(blobs, archive + (archive if isinstance(more, str) else more))


def _feed(unpacker: Unpacker, pieces: Iterable[bytes]) -> None:
    for piece in pieces:
        unpacker.feed(piece)


def _bomb(head: Head) -> Iterator[bytes]:
    """Zeros without an end, a thousand times smaller on the way."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    yield packer.compress(MAGIC + msgspec.json.encode(head) + b"\n" + b"SQLite format 3\0")
    zeros = bytes(1 << 20)
    while True:
        yield packer.compress(zeros)


def test_a_bomb_is_refused_at_its_first_page_in_bounded_memory(archive: bytes) -> None:
    head, _ = parts(archive)
    written = 0

    def write(data: bytes, offset: int) -> None:
        nonlocal written
        written += len(data)

    unpacker = Unpacker(write=write)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BadRequest, match="no state file"):
        _feed(unpacker, _bomb(msgspec.structs.replace(head, size=1 << 30)))
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert written <= 1 << 21
    assert grown_kib < 64 << 10


def test_a_stream_without_an_end_stops_at_the_size_it_declares(archive: bytes) -> None:
    head, state = parts(archive)
    written = 0

    def write(data: bytes, offset: int) -> None:
        nonlocal written
        written = offset + len(data)

    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    unpacker = Unpacker(write=write)
    unpacker.feed(packer.compress(MAGIC + msgspec.json.encode(head) + b"\n" + state))
    with pytest.raises(BadRequest, match=f"more than the {head.size} bytes"):
        _feed(unpacker, (packer.compress(bytes(1 << 20)) for _ in range(10_000)))
    assert written <= head.size


def test_a_head_without_an_end_is_not_waited_for() -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    unpacker = Unpacker(write=lambda data, offset: None)
    unpacker.feed(packer.compress(MAGIC))
    with pytest.raises(BadRequest, match="no head in its first"):
        _feed(unpacker, (packer.compress(b"{" * (1 << 20)) for _ in range(1_000)))


def _sql(statement: str) -> Callable[[apsw.Connection], None]:
    def change(connection: apsw.Connection) -> None:
        connection.execute(statement).get  # noqa: B018 - run to its end

    return change


HARM = {
    "a trigger": "create trigger t after insert on kv begin delete from node; end",
    "a view": "create view v as select * from kv",
    "a table more": "create table more (x)",
    "an index more": "create index more on kv (modify_index)",
    "a table less": "drop table idempotency",
    "another program's file": "pragma application_id=7",
    "a newer format": "pragma user_version=99",
    "a row more": "insert into kv values (x'61', 1, x'c0')",
    "a row less": "delete from kv where key = 'k/8' or key = x'6b2f38'",
    "a row that cannot be read": "update kv set row = x'c1' where key = x'6b2f38'",
    "an altered row": "update tombstone set idx = 1",
    "no running values": "delete from meta",
    "text for a number": "update meta set rows_sum = 'abc'",
}


@pytest.mark.parametrize("what", HARM)
def test_a_state_file_made_to_harm_is_refused(
    archive: bytes, blobs: Blobs, tmp_path: Path, what: str
) -> None:
    """Its pages, its size and its SHA-256 all fit: whoever made it had SQLite, and our format."""
    made = altered(archive, tmp_path, _sql(HARM[what]))
    with pytest.raises(BadRequest, match=r"damaged|use the newer release"):
        take_in(blobs, made)
    assert left(tmp_path) == []


def test_without_room_nothing_is_begun(archive: bytes, tmp_path: Path) -> None:
    class Full(RealDisk):
        def free_bytes(self, path: str) -> int:
            return 1000

    blobs = Blobs.open(Full(sync=False), str(tmp_path / "target"), CHECKSUM_VFS)
    with pytest.raises(Unavailable, match="there is no room"):
        take_in(blobs, archive)
    assert left(tmp_path) == []


def test_an_export_is_gone_once_it_is_dropped(one: OneState, blobs: Blobs, tmp_path: Path) -> None:
    one.state.settle()
    blobs.export(one.file, 3, (), "", "")
    assert left(tmp_path) == ["3.gz"]
    blobs.drop_export(3)
    with pytest.raises(NotFound, match="ask for another one"):
        blobs.read_export(3, 0)
    assert left(tmp_path) == []
