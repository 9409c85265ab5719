"""More than 2,000 faults of one server's files: each is noticed or harmless, and never a wrong answer.

At rest: a server's directory is damaged in one place and opened again. Under way: one call fails, one write
is lost or goes astray, or the power goes, while entries are saved, synced, applied and copied. Then
`one_server.read_back` compares all that is taken for whole with what was acknowledged, byte for byte. Where
something was noticed the server must be able to go on: by itself, or as one that has others fill its log.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import gc
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
from support import one_server
from support.lossy_disk import Inode, LossyDisk
from support.lossy_vfs import LossyVfs, registered

from gemot.server.copies import copy_state
from gemot.server.model.errors import Corrupt, DiskFailed, StorageFailed
from gemot.server.raft.types import SnapshotMeta
from gemot.server.recovery import Opened
from gemot.server.storage.disk import SECTOR
from gemot.server.storage.realdisk import RealDisk
from gemot.server.storage.snapshot import Snapshots
from gemot.server.storage.statefile import PAGE_BYTES, StateFile

Image = dict[str, bytes]
"""A directory: each file's bytes by its path."""

AT_REST = 1_500
UNDER_WAY = 600
EARLIER = 30
"""The entry at which the older image was taken, for what is put back."""

SHM = "state.db-shm"


class Images:
    """A server's directory after a crash and after a stop, each with one of some while before."""

    def __init__(self, folder: Path) -> None:
        disk, self.truth = RealDisk(sync=False), one_server.Truth()
        opened = one_server.open_server(folder, disk, sync=False)
        one_server.write_through(opened, disk, self.truth, last=EARLIER)
        older = _image(folder)
        one_server.write_through(opened, disk, self.truth)
        crashed = _image(folder)
        one_server.close(opened)
        self.pairs = [(crashed, older), (_image(folder), older)]


def _image(folder: Path) -> Image:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in (SHM, "lock"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def _lay_out(image: Image, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in image.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server") / "data"


@pytest.fixture(scope="module")
def images(folder: Path) -> Images:
    return Images(folder)


# -- at rest ---------------------------------------------------------------------------------------


def _place(content: bytes, random: Random, unit: int) -> int:
    """Somewhere in what is not zeros, most of the time."""
    units = max(1, len(content) // unit)
    for _ in range(20):
        at = random.randrange(units) * unit
        if content[at : at + unit].strip(b"\0"):
            break
    return at


def _flip(content: bytes, older: bytes, random: Random, unit: int) -> bytes:
    at = _place(content, random, 1)
    return content[:at] + bytes([content[at] ^ 1 << random.randrange(8)]) + content[at + 1 :]


def _zeros(content: bytes, older: bytes, random: Random, unit: int) -> bytes:
    at = _place(content, random, unit)
    return content[:at] + bytes(len(content[at : at + unit])) + content[at + unit :]


def _garbage(content: bytes, older: bytes, random: Random, unit: int) -> bytes:
    at = _place(content, random, unit)
    return content[:at] + random.randbytes(len(content[at : at + unit])) + content[at + unit :]


def _lost(content: bytes, older: bytes, random: Random, unit: int) -> bytes:
    """One place was not written since the older image."""
    changed = [at for at in range(0, len(older), unit) if older[at : at + unit] != content[at : at + unit]]
    if not changed:
        return content
    at = random.choice(changed)
    return content[:at] + older[at : at + unit] + content[at + unit :]


def _misdirected(content: bytes, older: bytes, random: Random, unit: int) -> bytes:
    """What belongs to one place stands in another one as well."""
    source, at = (_place(content, random, unit) for _ in range(2))
    return content[:at] + content[source : source + len(content[at : at + unit])] + content[at + unit :]


def _cut(content: bytes, older: bytes, random: Random, unit: int) -> bytes:
    return content[: random.randrange(len(content))]


def _put_back(content: bytes, older: bytes, random: Random, unit: int) -> bytes:
    return older or content


Damage = Callable[[bytes, bytes, Random, int], bytes]
DAMAGES: tuple[Damage, ...] = (_flip, _flip, _zeros, _garbage, _lost, _misdirected, _cut, _put_back)


def _name_of(image: Image, random: Random) -> str:
    """Parts come equally often, however many files they have."""
    parts: dict[str, list[str]] = collections.defaultdict(list)
    for name in sorted(image):
        parts[name.partition("/")[0]].append(name)
    return random.choice(parts[random.choice(sorted(parts))])


def _open_again(folder: Path, truth: one_server.Truth) -> tuple[str, list[str]]:
    """What came of it: refused, noticed, or nothing; and the words."""
    disk = RealDisk(sync=False)
    try:
        opened = one_server.open_server(folder, disk, sync=False)
    except StorageFailed as error:
        return "refused", [str(error)]
    try:
        said = one_server.read_back(opened, truth, disk, folder)
        one_server.go_on(opened, truth)
        return ("noticed" if said else "harmless"), said
    finally:
        one_server.close(opened)


@pytest.mark.parametrize("batch", range(6))
def test_damage_at_rest_is_noticed_or_harmless(batch: int, images: Images, folder: Path) -> None:
    random, ends = Random(batch), collections.Counter[str]()
    while sum(ends.values()) < AT_REST // 6:
        image, older = random.choice(images.pairs)
        name = _name_of(image, random)
        damage = random.choice(DAMAGES)
        unit = PAGE_BYTES if "state.db" in name or name.endswith(".snap") else SECTOR
        content = damage(image[name], older.get(name, b""), random, unit)
        if content == image[name]:
            continue
        _lay_out({**image, name: content}, folder)
        try:
            end, said = _open_again(folder, images.truth)
        except Exception as error:
            raise AssertionError(f"{damage.__name__} of {name} was believed, or broke it: {error}") from error
        assert end != "refused" or name.startswith("meta-"), f"{damage.__name__} of {name}: {said}"
        ends[end] += 1
    assert ends["noticed"] > AT_REST // 12, f"hardly anything was noticed: {ends}"


@pytest.mark.parametrize("which", [0, 1])
def test_a_file_that_is_missing_is_noticed(which: int, images: Images, folder: Path) -> None:
    image, _ = images.pairs[which]
    for name in image:
        _lay_out({other: content for other, content in image.items() if other != name}, folder)
        end, said = _open_again(folder, images.truth)
        assert end in ("noticed", "harmless"), f"{name}: {said}"
        # Without its first segment a log is one that was compacted further; a snapshot reaches beyond it.
        spare = ("snap/", "state.db-wal", min(other for other in image if other.startswith("log/")))
        assert end == "noticed" or name.startswith(spare), name


# -- under way -------------------------------------------------------------------------------------


class Trouble:
    """One thing that goes wrong with a disk, at the operation of that number."""

    def __init__(self, kind: str, at: int, random: Random) -> None:
        self.kind = kind
        self._left = at
        self._random = random
        self.struck = ""

    def attach(self, disk: LossyDisk) -> None:
        disk.on_change, disk.on_read, disk.on_write = self._on_change, self._on_read, self._on_write

    def _on_change(self, action: str, path: str) -> None:
        if self.kind == "power" or self.kind == action:
            self._strike(action, path, errno.EIO)

    def _on_read(self, path: str) -> None:
        if self.kind == "read":
            self._strike("read", path, errno.EIO)

    def _on_write(self, path: str, inode: Inode, data: bytes, offset: int) -> list[tuple[int, bytes]]:
        if self.kind == "full" and offset + len(data) > len(inode.content):
            self._strike("write", path, errno.ENOSPC)
        if self.kind not in ("lost", "misdirected") or self.struck or not data.strip(b"\0"):
            return [(offset, data)]
        self._left -= 1
        if self._left >= 0:
            return [(offset, data)]
        self.struck = f"{self.kind} {path}"
        places = (len(inode.durable) - len(data)) // SECTOR
        if self.kind == "lost" or places < 1:
            return []
        return [(self._random.randrange(places) * SECTOR, data)]

    def _strike(self, action: str, path: str, code: int) -> None:
        self._left -= 1
        if self._left < 0 and not self.struck:
            self.struck = f"{action} {path}"
            raise DiskFailed(f"cannot {action} {path}: {os.strerror(code)} ({errno.errorcode[code]})")


TROUBLES = {
    "power": 700,
    "write": 500,
    "sync": 150,
    "read": 700,
    "full": 100,
    "lost": 400,
    "misdirected": 400,
}
"""About how many there are of each before the work is done."""


@pytest.fixture(scope="module")
def vfs() -> Iterator[LossyVfs]:
    with registered("gemot-faults") as vfs:
        yield vfs


class Life:
    """A server on a disk that forgets, from its start to the trouble, and again after it."""

    def __init__(self, folder: Path, vfs: LossyVfs, truth: one_server.Truth) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        self.folder, self.vfs, self.truth = folder, vfs, truth
        self.disk = vfs.attach(str(folder), LossyDisk(str(folder)))
        self.opened: Opened | None = None

    def work(self) -> None:
        self.opened = one_server.open_server(self.folder, self.disk)
        one_server.write_through(self.opened, self.disk, self.truth)

    def end(self, random: Random, *, powered: bool) -> None:
        """The process is over; without power so is what was not synced."""
        old = self.disk
        if powered:
            self.disk = self.vfs.attach(str(self.folder), old.kill())
        else:
            self.disk = self.vfs.crash(str(self.folder), random)
        if self.opened is not None:
            with contextlib.suppress(StorageFailed):
                self.opened.file.close()
            self.opened = None

    def look(self) -> list[str]:
        """Start again: nothing of it is wrong, and it can go on."""
        self.opened = one_server.open_server(self.folder, self.disk)
        said = one_server.read_back(self.opened, self.truth, self.disk, self.folder)
        one_server.go_on(self.opened, self.truth)
        return said


def _live(kind: str, random: Random, folder: Path, vfs: LossyVfs, hashes: dict[int, bytes]) -> str:
    """One life with one trouble: "" if that did not come about, else how it was met."""
    life = Life(folder, vfs, one_server.Truth(hashes))
    trouble = Trouble(kind, random.randrange(TROUBLES[kind]), random)
    trouble.attach(life.disk)
    told = ""
    try:
        try:
            life.work()
        except StorageFailed as error:
            told = str(error)
        if told:
            gc.collect()  # what was open when it failed hangs on the error
        struck = trouble.struck
        life.end(random, powered=kind != "power" and random.random() < 0.5)
        try:
            said = life.look()
        except Exception as error:
            raise AssertionError(f"{kind} at {struck}; told: {told!r}; then: {error!r}") from error
        if not struck:
            return ""
        return "told" if told else "noticed" if said else "harmless"
    finally:
        life.end(random, powered=False)
        vfs.detach(str(folder))


@pytest.mark.parametrize("kind", TROUBLES)
def test_trouble_under_way_is_noticed_or_harmless(
    kind: str, images: Images, tmp_path: Path, vfs: LossyVfs
) -> None:
    random, ends = Random(kind), collections.Counter[str]()
    while sum(ends.values()) < UNDER_WAY // len(TROUBLES):
        if end := _live(kind, random, tmp_path / "data", vfs, images.truth.hashes):
            ends[end] += 1
    if kind not in ("lost", "misdirected"):
        assert ends["told"] > 0.9 * UNDER_WAY / len(TROUBLES), ends


# -- pages that are whole, and older than they should be -------------------------------------------


def _stale_page(images: Images) -> Image:
    """A state file as a clean stop leaves it, but for one page of rows that was not written since."""
    image, older = images.pairs[1]
    new, old = image["state.db"], older["state.db"]
    for at in range(PAGE_BYTES, len(old), PAGE_BYTES):
        if new[at : at + PAGE_BYTES] != old[at : at + PAGE_BYTES]:
            return {**image, "state.db": new[:at] + old[at : at + PAGE_BYTES] + new[at + PAGE_BYTES :]}
    raise AssertionError("no page of the older state differs")


def test_a_state_file_that_lost_a_write_is_not_taken_for_whole_at_a_start(
    images: Images, folder: Path
) -> None:
    _lay_out(_stale_page(images), folder)
    end, said = _open_again(folder, images.truth)
    assert end == "noticed"
    assert "rebuilt from snapshot and log" in said[0]


def test_a_state_file_that_lost_a_write_makes_no_snapshot(images: Images, folder: Path) -> None:
    _lay_out(_stale_page(images), folder)
    file = StateFile(folder / "state.db", sync=False)
    try:
        with pytest.raises(Corrupt, match=r"damaged|lost or altered"):
            copy_state(file, Snapshots.open(RealDisk(sync=False), str(folder / "snap")))
    finally:
        file.close()


def test_a_snapshot_of_such_a_state_builds_none(images: Images, folder: Path) -> None:
    """As an older release made one: its manifest fits it, and its rows do not fit their hash."""
    image, _ = images.pairs[1]
    newest = one_server.SNAPSHOTS_AT[-1]
    meta = SnapshotMeta(newest, one_server.entry(newest).term, one_server.VOTERS)
    _lay_out(image, folder)
    (folder / "state.db").unlink()
    snapshots = Snapshots.open(RealDisk(sync=False), str(folder / "snap"))
    Path(snapshots.stage(meta)).write_bytes(_stale_page(images)["state.db"])
    snapshots.commit(meta, epoch=1)
    _, said = _open_again(folder, images.truth)
    assert any(sentence.startswith(f"snapshot {newest}: the") for sentence in said), said
