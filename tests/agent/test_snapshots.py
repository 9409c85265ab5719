"""The snapshot agent: on the leader alone, whole files or none, the newest kept, failures told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from support.archives import archive_of
from support.http_agent import run, until
from support.one_state import OneState

from gemot.agent.archives import Saved
from gemot.agent.snapshots import Plan, SnapshotAgent
from gemot.server.model.errors import NoLeader
from gemot.server.model.kv import KvSet


class Scene:
    """A cluster of one state; `now` is the wall clock."""

    def __init__(self, folder: Path, *, retain: int = 3, verify: bool = True) -> None:
        self.one = OneState(folder)
        self._folder = folder
        self.path = folder / "backup"
        self.leads = True
        self.now = 1_800_000_000.0
        self.damage: Callable[[bytes], bytes] = bytes
        self.failure: NoLeader | None = None
        self.agent = SnapshotAgent(
            plan=Plan(str(self.path), 3600.0, retain, verify),
            leads=lambda: self.leads,
            save=self._save,
            wall=lambda: self.now,
            look_every_s=0.001,
        )

    async def _save(self) -> Saved:
        if self.failure is not None:
            raise self.failure
        self.one.apply(KvSet(b"k", b"%d" % self.one.index))
        data = self.damage(archive_of(self.one, self._folder / "source"))

        async def pieces() -> AsyncIterator[bytes]:
            for at in range(0, len(data), 1000):
                yield data[at : at + 1000]

        return Saved(self.one.index, 0, len(data), True, 0, pieces())

    @property
    def files(self) -> list[str]:
        return sorted(path.name for path in self.path.iterdir()) if self.path.exists() else []

    async def hours(self, count: int) -> None:
        for _ in range(count):
            told = self.agent.taken + self.agent.failures
            self.now += 3600
            await until(lambda told=told: self.agent.taken + self.agent.failures > told)  # type: ignore[misc]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.one.close()


def working(scene: Scene, case: Callable[[], object]) -> None:
    async def work() -> None:
        await scene.agent.start()
        try:
            await case()  # type: ignore[misc]
        finally:
            await scene.agent.stop()

    run(work())


def test_a_leader_without_a_snapshot_takes_one_at_once_and_then_by_the_interval(scene: Scene) -> None:
    async def case() -> None:
        await until(lambda: scene.agent.taken == 1)
        assert scene.files == ["gemot-00000000000000000001-20270115T080000Z.snap"]
        for _ in range(50):
            await asyncio.sleep(0)
        assert scene.agent.taken == 1
        await scene.hours(1)
        assert scene.agent.taken == 2
        assert scene.agent.stats()["last_index"] == "2"
        assert (scene.path / scene.files[0]).stat().st_mode & 0o777 == 0o600

    working(scene, case)


def test_the_oldest_are_removed_and_nothing_else(scene: Scene) -> None:
    async def case() -> None:
        await until(lambda: scene.agent.taken == 1)
        (scene.path / "mine.txt").write_text("kept")
        await scene.hours(5)

        def indexes() -> list[str]:
            return [name.split("-")[1].lstrip("0") for name in scene.files if name.startswith("gemot-")]

        # The oldest goes after the newest is there.
        await until(lambda: indexes() == ["4", "5", "6"])
        assert "mine.txt" in scene.files

    working(scene, case)


def test_one_that_does_not_lead_takes_none_until_it_does(scene: Scene) -> None:
    async def case() -> None:
        scene.leads = False
        await asyncio.sleep(0.05)
        assert scene.agent.taken == 0
        scene.leads = True
        await until(lambda: scene.agent.taken == 1)

    scene.leads = False
    working(scene, case)


def test_a_damaged_one_never_bears_its_name(scene: Scene) -> None:
    async def case() -> None:
        await until(lambda: scene.agent.failures == 1)
        assert scene.files == []
        assert "damaged" in scene.agent.stats()["last_failure"]
        scene.damage = bytes
        scene.now += 61
        await until(lambda: scene.agent.taken == 1)
        assert scene.agent.stats()["last_failure"] == ""

    scene.damage = lambda data: data[:300] + bytes((data[300] ^ 1,)) + data[301:]
    working(scene, case)


def test_a_failure_is_told_and_tried_again_soon(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    async def case() -> None:
        await until(lambda: scene.agent.failures == 1)
        assert scene.agent.stats()["last_failure"] == "No cluster leader"
        assert "event=snapshot-agent-failed" in caplog.text
        scene.now += 61
        await until(lambda: scene.agent.failures == 2)

    scene.failure = NoLeader()
    working(scene, case)


def test_what_a_crash_left_half_is_removed(scene: Scene) -> None:
    async def case() -> None:
        await until(lambda: scene.agent.taken == 1)
        assert all(name.endswith(".snap") for name in scene.files)

    scene.path.mkdir()
    (scene.path / "gemot-00000000000000000009-20200101T000000Z.snap.unverified").write_bytes(b"half")
    (scene.path / ".gemot-snapshot-agent-x").mkdir()
    working(scene, case)
