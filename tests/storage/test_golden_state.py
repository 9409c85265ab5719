"""State files of the formats before the present one, taken over by this release."""

from __future__ import annotations

import contextlib
import gzip
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support import one_server
from support.old_state import ENTRIES, OLD_FORMATS, golden, make_old

from gemot.server.machine import Machine
from gemot.server.model import command
from gemot.server.model.command import ENVELOPE_VERSION, Envelope, UnknownCommand, encode
from gemot.server.model.kv import KvDelete, KvGet, KvSet
from gemot.server.model.restore import Restore
from gemot.server.raft.types import Entry, EntryKind
from gemot.server.state.permission import ALLOW_ALL
from gemot.server.state.store import State
from gemot.server.state.tables import FORMAT
from gemot.server.storage.realdisk import RealDisk
from gemot.server.storage.standing import examine
from gemot.server.storage.statefile import StateFile


@pytest.fixture
def present(tmp_path: Path) -> tuple[Path, one_server.Truth]:
    """The same history, by this release alone."""
    disk, truth = RealDisk(sync=False), one_server.Truth()
    opened = one_server.open_server(tmp_path / "present", disk, sync=False)
    one_server.write_through(opened, disk, truth, ENTRIES)
    one_server.close(opened)
    return tmp_path / "present" / "state.db", truth


@pytest.fixture(params=OLD_FORMATS)
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "old.db"
    path.write_bytes(gzip.decompress(golden(request.param).read_bytes()))
    return path


def test_every_format_before_the_present_one_is_kept() -> None:
    assert [number for number in OLD_FORMATS if not golden(number).exists()] == []


def test_an_old_state_is_whole_before_it_is_taken_over(old: Path) -> None:
    """As a snapshot of an older release is looked at before it is installed."""
    assert examine(old).applied_index == ENTRIES


def test_an_old_state_becomes_the_present_one_row_for_row(
    old: Path, present: tuple[Path, one_server.Truth]
) -> None:
    _, truth = present
    with contextlib.closing(StateFile(old, sync=False)) as file:
        assert file.cursor.execute("pragma user_version").get == FORMAT
        state = State(file=file)
        state.verify()
        assert (state.applied_index, state.state_hash) == (
            ENTRIES,
            truth.hashes[ENTRIES],
        )
        newest = next(put for n in range(ENTRIES, 0, -1) if (put := _put(n)).key == b"key3")
        assert state.read(KvGet(b"key3"), "")[0].value == newest.value


def _put(index: int) -> KvSet:
    put = command.decode(one_server.entry(index).data).command
    assert isinstance(put, KvSet)
    return put


def test_what_follows_has_the_same_effect_on_a_state_that_was_old(
    old: Path, present: tuple[Path, one_server.Truth]
) -> None:
    """Servers of one cluster were upgraded from different formats; their hashes go on alike."""
    hashes = []
    for path in (old, present[0]):
        with contextlib.closing(StateFile(path, sync=False)) as file:
            state = State(file=file)
            machine = Machine(state=state, authorizer=ALLOW_ALL)
            following = (KvSet(b"key1", b"new"), KvDelete(b"key3"), KvSet(b"key3", b"again"))
            machine.apply([_entry(ENTRIES + n, word) for n, word in enumerate(following, start=1)])
            state.verify()
            hashes.append(state.state_hash)
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize("number", OLD_FORMATS)
def test_the_kept_file_is_what_its_script_makes(
    number: int, present: tuple[Path, one_server.Truth], tmp_path: Path
) -> None:
    made, kept = tmp_path / "made.db", tmp_path / "kept.db"
    make_old(present[0], made, number)
    kept.write_bytes(gzip.decompress(golden(number).read_bytes()))
    assert _rows(made, number) == _rows(kept, number)


def _rows(path: Path, number: int) -> dict[str, list[Any]]:
    with contextlib.closing(StateFile(path, sync=False)) as file:
        tables = file.cursor.execute("select name from sqlite_schema where type = 'table'").fetchall()
        read = "select * from {} order by 1, 2"
        return {name: file.cursor.execute(read.format(name)).fetchall() for (name,) in tables}


# -- an older release, and a command it does not know ----------------------------------------------


class _OlderEnvelope(msgspec.Struct, frozen=True, array_like=True):
    """As it was before there were restores."""

    version: int
    time_ms: int
    accessor: str
    retry: None
    command: KvSet | KvDelete
    at_ms: int = 0  # what applies it looks there; it comes last, and an older release reads over it


def _entry(index: int, word: KvSet | KvDelete | Restore) -> Entry:
    return Entry(9, index, EntryKind.COMMAND, encode(Envelope(ENVELOPE_VERSION, index, "", None, word)))


def test_an_older_release_stops_at_a_restore_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It applies what it knows, nothing of the entry that it does not, and nothing after that."""
    monkeypatch.setattr(command, "_decoder", msgspec.msgpack.Decoder(_OlderEnvelope))
    with contextlib.closing(StateFile(tmp_path / "state.db", sync=False)) as file:
        state = State(file=file)
        machine = Machine(state=state, authorizer=ALLOW_ALL)
        machine.apply([_entry(1, KvSet(b"key", b"value"))])
        restore = Restore(b"id", "00" * 32, 1, 1, 1)
        with pytest.raises(UnknownCommand, match="a newer release wrote it: start that release again"):
            machine.apply([_entry(2, restore), _entry(3, KvSet(b"key", b"other"))])
        assert state.applied_index == 1
        assert state.read(KvGet(b"key"), "")[0].value == b"value"
