"""The ledger of damage: each ends in the class that its story says, and what is believed is a violation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pytest
from simulation.damage import Case, Ledger
from simulation.network import CALM
from simulation.node import Node
from simulation.run import SECOND_US, Run
from simulation.witness import Violation
from simulation.world import World
from support.lossy_disk import Inode, LossyDisk, LossyFile, MemoryDisk
from support.lossy_vfs import LossyVfs, registered
from support.scars import Scar

PATH = "/data/meta-a"


class Scene:
    """One file of 4 KiB, written and synced."""

    def __init__(self) -> None:
        self.disk = MemoryDisk()
        self.file: LossyFile = self.disk.open(PATH, create=True)
        self.file.pwrite(bytes(range(256)) * 16, 0)
        self.file.sync()
        self.disk.sync_dir("/data")
        self.world = World(1)
        self.ledger = Ledger(self.world)
        self.said: list[tuple[int, str]] = []
        self.forgetful = False

    @property
    def inode(self) -> Inode:
        inode = self.disk.find(PATH)
        assert inode is not None
        return inode

    def note(self, *scars: Scar) -> None:
        node = SimpleNamespace(name="srv1", said_of_disk=self.said, forgetful=self.forgetful)
        self.ledger.note(node, "damage", PATH, list(scars))  # type: ignore[arg-type]

    def flip(self, at: int) -> None:
        before = bytes([self.inode.durable[at]])
        self.disk.decay(PATH, at, bytes([before[0] ^ 1]))
        self.note(self.inode.alter(before, at))

    def lose(self, data: bytes, offset: int) -> None:
        self.disk.on_write = lambda path, inode, written, at: self.note(inode.lose(written, at)) or []
        self.file.pwrite(data, offset)
        self.disk.on_write = None

    def misdirect(self, data: bytes, offset: int, astray: int) -> None:
        def bend(path: str, inode: Inode, written: bytes, at: int) -> list[tuple[int, bytes]]:
            self.note(inode.lose(written, at), inode.scratch(written, astray))
            return [(astray, written)]

        self.disk.on_write = bend
        self.file.pwrite(data, offset)
        self.disk.on_write = None

    def crash(self, random: Random | None = None) -> None:
        self.disk: LossyDisk = self.disk.crash(random)

    def end(self) -> str:
        (case,) = self.ledger.cases
        return self.ledger.class_of(case)


def _written_anew(scene: Scene) -> None:
    scene.flip(700)
    scene.file.pwrite(b"new" * 100, 600)
    scene.file.sync()


def _read_and_written_anew(scene: Scene) -> None:
    scene.flip(700)
    scene.file.pread(10, 695)
    scene.file.pwrite(b"new" * 100, 600)
    scene.file.sync()


def _written_beside(scene: Scene) -> None:
    scene.flip(700)
    scene.file.pread(10, 0)
    scene.file.pwrite(b"new", 701)
    scene.file.sync()


def _removed(scene: Scene) -> None:
    scene.flip(700)
    scene.disk.remove(PATH)
    scene.disk.sync_dir("/data")


def _removed_and_back_after_a_crash(scene: Scene) -> None:
    scene.flip(700)
    scene.disk.remove(PATH)
    scene.crash()


def _noticed(scene: Scene) -> None:
    scene.flip(700)
    scene.said.append((0, f"{PATH} is damaged: it fails its checksum"))


def _an_error_of_the_disk(scene: Scene) -> None:
    scene.flip(700)
    scene.said.append((0, f"cannot read {PATH}: Input/output error (EIO)"))


def _said_before(scene: Scene) -> None:
    scene.said.append((0, f"{PATH} is damaged: it fails its checksum"))
    scene.world.run(1)
    scene.flip(700)


def _said_of_another_part(scene: Scene) -> None:
    scene.flip(700)
    scene.said.append((0, "snapshot 7: it is damaged and is not used"))


def _lost_and_never_synced(scene: Scene) -> None:
    scene.lose(b"lost", 512)
    scene.crash()


def _lost_and_synced(scene: Scene) -> None:
    scene.lose(b"lost", 512)
    scene.file.sync()
    scene.crash()


def _lost_and_synced_unknown_to_the_vote_file(scene: Scene) -> None:
    scene.forgetful = True
    _lost_and_synced(scene)


def _lost_after_an_older_write_to_the_same_place(scene: Scene) -> None:
    scene.file.pwrite(b"old!", 512)
    scene.lose(b"lost", 512)
    scene.file.sync()


def _lost_and_written_again(scene: Scene) -> None:
    scene.lose(b"lost", 512)
    scene.file.pwrite(b"again", 512)
    scene.file.sync()


def _astray_and_never_synced(scene: Scene) -> None:
    scene.misdirect(b"lost", 512, 1024)
    scene.crash()


class Keeps:
    """A crash that keeps every unsynced write."""

    def randrange(self, stop: int, /) -> int:
        return 0


def _astray_and_kept_by_a_crash(scene: Scene) -> None:
    """What a crash may leave is in its place; this is not."""
    scene.misdirect(b"lost", 512, 1024)
    scene.crash(Keeps())  # type: ignore[arg-type]


STORIES: dict[Callable[[Scene], None], str] = {
    _written_anew: "overwritten",
    _read_and_written_anew: "passed over",
    _written_beside: "unused",
    _removed: "gone",
    _removed_and_back_after_a_crash: "unused",
    _noticed: "noticed",
    _an_error_of_the_disk: "unused",
    _said_before: "unused",
    _said_of_another_part: "unused",
    _lost_and_never_synced: "unsynced",
    _lost_and_synced: "unused",
    _lost_and_synced_unknown_to_the_vote_file: "unmarked",
    _lost_after_an_older_write_to_the_same_place: "unused",
    _lost_and_written_again: "overwritten",
    _astray_and_never_synced: "unsynced",
    _astray_and_kept_by_a_crash: "unused",
}
"""Where a story ends in "unused", the damage is still there: that it is unused is for `read_all` to prove."""


@pytest.mark.parametrize(
    ("story", "end"), STORIES.items(), ids=lambda value: getattr(value, "__name__", value)
)
def test_a_damage_ends_as_its_story_says(story: Callable[[Scene], None], end: str) -> None:
    scene = Scene()
    story(scene)
    assert scene.end() == end


def test_bytes_that_are_as_they_should_be_are_no_damage() -> None:
    scene = Scene()
    scene.lose(bytes(range(16)), 512)
    assert scene.ledger.cases == []


# -- what is left in the end -----------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Three servers, in calm, that know a leader."""
    with registered("gemot-damage") as vfs:
        run = _calm_run(tmp_path, vfs)
        try:
            yield run
        finally:
            run.close()


def _calm_run(directory: Path, vfs: LossyVfs) -> Run:
    run = Run(1, directory, vfs)
    run.network.weather = CALM
    for node in run.nodes:
        node.start()
    run.world.run(3 * SECOND_US)
    return run


def _put_back(run: Run, node: Node, path: str, content: bytes) -> Case:
    """The file is as it once was."""
    inode = node.lossy.find(path)
    assert inode is not None
    before = bytes(inode.durable)
    node.lossy.damage(path, lambda there: there.__setitem__(slice(None), content))
    run.ledger.note(node, "put-back", path, [inode.alter(before, 0)])
    return run.ledger.cases[-1]


def _metas(node: Node) -> dict[str, bytes]:
    return {
        path: bytes(node.lossy.find(path).durable)  # type: ignore[union-attr]
        for path in (f"{node.directory}/meta-a", f"{node.directory}/meta-b")
    }


def _elect_anew(run: Run) -> Node:
    """Another leader; a server that followed both."""
    leader = run.leader()
    assert leader is not None
    follower = next(node for node in run.nodes if node is not leader)
    leader.crash()
    run.world.run(run.world.now_us + 5 * SECOND_US)
    assert follower.up
    return follower


def test_damage_that_is_left_is_noticed_when_everything_is_read(run: Run) -> None:
    old = _metas(run.nodes[0])
    node = run.nodes[0]
    run.world.run(run.world.now_us + 5 * SECOND_US)
    path = f"{node.directory}/meta-a"
    _put_back(run, node, path, bytes([*old[path][:20], old[path][20] ^ 1, *old[path][21:]]))
    assert run.ledger.close(run.invariants)["noticed"] == 1


def test_damage_that_is_believed_is_a_violation(run: Run) -> None:
    """Both copies of a vote file as they once were: no checksum can tell."""
    old = {node.name: _metas(node) for node in run.nodes}
    node = _elect_anew(run)
    run.invariants.after_event(None)
    for path, content in old[node.name].items():
        _put_back(run, node, path, content)
    with pytest.raises(Violation, match="forgot a term"):
        run.ledger.close(run.invariants)


def test_entries_that_are_silently_gone_are_a_violation(run: Run) -> None:
    node = run.nodes[0]
    path = f"{node.directory}/state.db"
    content = bytes(node.lossy.find(path).durable)  # type: ignore[union-attr]
    _put_back(run, node, path, content[:-1] + bytes([content[-1] ^ 1]))
    node.durable_terms[1_000] = 1
    with pytest.raises(Violation, match="and does not know"):
        run.ledger.close(run.invariants)
