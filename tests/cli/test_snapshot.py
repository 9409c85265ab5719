"""`gemot snapshot`: what it writes, what it shows, and how it tells that a file is not what it should be."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from support.dev_agent import Shell


@pytest.fixture
def saved(gemot: Shell) -> Path:
    assert gemot("kv", "put", "snapshot/of/one", "1").code == 0
    assert gemot("kv", "put", "snapshot/of/two", "22").code == 0
    done = gemot("snapshot", "save", "backup.snap")
    assert done.code == 0, done.err
    assert done.out.startswith("Saved and verified snapshot to index ")
    return gemot.folder / "backup.snap"


def test_what_is_saved_is_one_file_that_only_its_owner_reads(gemot: Shell, saved: Path) -> None:
    assert [path.name for path in gemot.folder.iterdir()] == ["backup.snap"]
    assert saved.stat().st_mode & 0o777 == 0o600
    assert saved.read_bytes()[:2] == b"\x1f\x8b", "gzip, as Consul's"


def test_an_inspection_needs_no_agent(gemot: Shell, saved: Path) -> None:
    done = gemot("snapshot", "inspect", "backup.snap", GEMOT_HTTP_ADDR="127.0.0.1:1")
    assert done.code == 0, done.err
    lines = [line.split() for line in done.out.splitlines()]
    assert [words[0] for words in lines[:6]] == ["ID", "Size", "Index", "Term", "Epoch", "Version"]
    assert ["Type", "Count", "Size"] in lines
    assert any(words[:1] == ["KVS"] for words in lines)
    assert lines[-1][0] == "Total"
    assert [path.name for path in gemot.folder.iterdir()] == ["backup.snap"]


def test_an_inspection_as_json_counts_keys_by_how_they_begin(gemot: Shell, saved: Path) -> None:
    done = gemot("snapshot", "inspect", "-format=json", "-kvdetails", "-kvfilter=snapshot/", "backup.snap")
    found = json.loads(done.out)
    assert found["Meta"]["Size"] == saved.stat().st_size
    assert found["Meta"]["Index"] > 0
    assert found["StatsKV"] == [{"Name": "snapshot/of", "Count": 2, "Sum": 33}]
    deeper = gemot(
        "snapshot", "inspect", "-format=json", "-kvdetails", "-kvdepth=3", "-kvfilter=snap", "backup.snap"
    )
    assert [row["Name"] for row in json.loads(deeper.out)["StatsKV"]] == [
        "snapshot/of/two",
        "snapshot/of/one",
    ]


def test_a_restore_brings_back_what_was_saved(gemot: Shell, saved: Path) -> None:
    gemot("kv", "put", "snapshot/later", "3")
    done = gemot("snapshot", "restore", "backup.snap")
    assert done.code == 0, done.err
    assert done.out.startswith("Restored snapshot: index ")
    assert gemot("kv", "get", "-recurse", "snapshot/").out == "snapshot/of/one:1\nsnapshot/of/two:22\n"


def test_an_epoch_that_was_is_refused_saying_which_will_do(gemot: Shell, saved: Path) -> None:
    first = gemot("snapshot", "restore", "backup.snap").out.split()[-1]
    done = gemot("snapshot", "restore", "-epoch", first, "backup.snap")
    assert done.code == 1
    assert f"give {int(first) + 1} or more" in done.err


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("cut", "the snapshot is cut short: its "),
        ("flipped", "the snapshot is damaged: the checksum at the end of its gzip stream does not fit: copy"),
        ("altered", "the snapshot is damaged: its SHA-256 is "),
        (
            "other",
            "not a snapshot of Gemot: it is no gzip stream: give a file that `gemot snapshot save` wrote",
        ),
        ("empty", "the snapshot is cut short: it is empty: copy or save it again"),
    ],
)
def test_a_damaged_file_is_told_by_inspect_and_by_restore(
    gemot: Shell, saved: Path, how: str, told: str
) -> None:
    data = saved.read_bytes()
    state = gzip.decompress(data)
    made = {
        "cut": data[: len(data) // 2],
        # In the checksum: a bit of a distance within a run of zeros may flip and nothing is changed.
        "flipped": data[:-8] + bytes((data[-8] ^ 8,)) + data[-7:],
        "altered": gzip.compress(state[:-100] + bytes((state[-100] ^ 8,)) + state[-99:]),
        "other": b"no snapshot",
        "empty": b"",
    }
    saved.write_bytes(made[how])
    for verb in ("inspect", "restore"):
        done = gemot("snapshot", verb, "backup.snap")
        assert done.code == 1
        assert told in done.err
        assert "decompress" not in done.err
        assert done.out == ""


def test_a_file_that_is_not_there_is_told(gemot: Shell) -> None:
    for verb in ("inspect", "restore"):
        done = gemot("snapshot", verb, "nowhere.snap")
        assert done.code == 1
        assert "nowhere.snap" in done.err


def test_a_save_that_fails_leaves_nothing(gemot: Shell) -> None:
    done = gemot("snapshot", "save", "backup.snap", GEMOT_HTTP_ADDR="127.0.0.1:1")
    assert done.code == 1
    assert "cannot reach an agent" in done.err
    assert list(gemot.folder.iterdir()) == []
    done = gemot("snapshot", "save", "no/such/folder/backup.snap")
    assert done.code == 1
    assert "No such file or directory" in done.err
