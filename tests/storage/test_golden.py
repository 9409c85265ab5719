"""Data directories that earlier releases wrote, read by this one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.log_model import LogModel, assert_same, batch, entry, held
from support.make_golden import SNAPSHOT, SNAPSHOT_BYTES, write

from gemot.server.raft.types import Entry, SnapshotMeta
from gemot.server.storage.log import SegmentLog
from gemot.server.storage.meta import MetaFile
from gemot.server.storage.realdisk import RealDisk
from gemot.server.storage.snapshot import Snapshots

_GOLDEN = Path(__file__).parents[1] / "golden"
_VERSIONS = sorted(path.name for path in _GOLDEN.iterdir() if path.is_dir())

_ENTRIES: list[Entry] = [
    *[entry(index, 1, 40) for index in (1, 2, 3)],
    entry(4, 1, 700),
    entry(5, 1, 900),
    entry(6, 2, 60),
    entry(7, 3, 60),
    entry(8, 3, 2000),
    entry(9, 3, 40),
]


def _open(folder: Path) -> tuple[MetaFile, SegmentLog, Snapshots]:
    disk = RealDisk(sync=False)
    meta = MetaFile.open(disk, str(folder))
    mark = (meta.meta.durable_index, meta.meta.durable_hash)
    opened = SegmentLog.open(
        disk=disk, directory=f"{folder}/log", segment_bytes=4096, durable_index=mark[0], durable_hash=mark[1]
    )
    assert (opened.damage, opened.torn, meta.warnings) == (None, None, ())
    return meta, opened.log, Snapshots.open(disk, f"{folder}/snap")


@pytest.fixture(params=_VERSIONS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return Path(shutil.copytree(_GOLDEN / request.param, tmp_path / "data"))


def test_every_entry_the_vote_and_the_snapshot_are_read_as_they_were_written(folder: Path) -> None:
    meta, log, snapshots = _open(folder)
    assert (meta.meta.node_id, meta.meta.cluster_id, meta.meta.term, meta.meta.vote) == ("n1", "c1", 3, "n2")
    assert meta.meta.base in (SNAPSHOT, SnapshotMeta(0, 0, ()))
    assert held(log) == _ENTRIES
    assert log.durable_index == meta.meta.durable_index == 9
    assert snapshots.all() == (SNAPSHOT,)
    assert snapshots.verify(SNAPSHOT)
    assert snapshots.read_chunk(SNAPSHOT, 0, 10_000) == SNAPSHOT_BYTES


def test_this_release_goes_on_writing_where_the_older_one_stopped(folder: Path) -> None:
    _, log, _ = _open(folder)
    model = LogModel()
    model.entries = list(_ENTRIES)
    for index in range(8, 20):
        new = batch(index, [4], 500)
        log.append(new)
        model.append(new)
    log.sync()
    assert_same(_open(folder)[1], model)


def test_the_present_format_is_written_byte_for_byte_as_the_newest_golden_directory_has_it(
    tmp_path: Path,
) -> None:
    """If this fails, what is written changed: make a new directory.

    And give the format a new number if an older release could misread it.
    """
    write(tmp_path / "new")
    newest = _GOLDEN / max(_VERSIONS, key=lambda name: int(name[1:]))
    files = sorted(path.relative_to(newest) for path in newest.rglob("*") if path.is_file())
    assert files == sorted(
        p.relative_to(tmp_path / "new") for p in (tmp_path / "new").rglob("*") if p.is_file()
    )
    for name in files:
        if name.suffix != ".json":
            assert (newest / name).read_bytes() == (tmp_path / "new" / name).read_bytes(), name
