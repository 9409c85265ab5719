"""The leader's chore for the history of keys: when it begins, and when something of it is to be forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.one_state import OneState
from support.virtual import VirtualTimer

from gemot.server.features import Features
from gemot.server.kv_history import LOOK_EVERY_MS, KvHistory, KvHistoryConfig
from gemot.server.model.kv import KvSet
from gemot.server.model.upkeep import TrimHistory
from gemot.server.rpc.message import FEATURES, HISTORY
from gemot.server.state import history

DAY_MS = 24 * 3_600_000


class Scene:
    def __init__(self, folder: Path) -> None:
        self.one = OneState(folder)
        self.timer = VirtualTimer()
        self.features = Features(me="a", servers=lambda: ("a", "b"), begun=self.one.state.has_had)
        self.chore = self.with_config(KvHistoryConfig(revisions=64, keep_ms=DAY_MS, max_bytes=100_000))

    def with_config(self, config: KvHistoryConfig) -> KvHistory:
        return KvHistory(config=config, state=self.one.state, features=self.features, timer=self.timer)

    def begin(self) -> None:
        self.features.hear("b", FEATURES)
        self.do()

    def do(self) -> None:
        command = self.chore.due()
        assert command is not None
        self.one.apply(command)

    def write(self, count: int, size: int = 100) -> None:
        self.one.at_ms = self.timer.wall_ms()
        self.one.apply(
            *(KvSet(b"k%d" % n, self.timer.now_ms().to_bytes(8, "big") * size) for n in range(count))
        )


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    scene.one.close()


def test_it_begins_once_every_server_knows_of_it(scene: Scene) -> None:
    assert scene.chore.due() is None
    scene.features.hear("b", tuple([known for known in FEATURES if known != HISTORY]))
    assert scene.chore.due() is None
    scene.features.hear("b", FEATURES)
    assert scene.chore.due() == TrimHistory(64, scene.timer.wall_ms() - DAY_MS, 100_000)
    scene.do()
    assert scene.chore.due() is None
    assert scene.one.state.has_had(HISTORY)


def test_what_outlived_its_time_is_forgotten_to_the_end(scene: Scene) -> None:
    scene.begin()
    for _ in range(2):
        scene.write(700, 1)
        scene.timer.pass_ms(1)
    scene.timer.pass_ms(DAY_MS - 1)
    assert scene.chore.due() is None, "it ended a day ago to the millisecond"
    scene.timer.pass_ms(LOOK_EVERY_MS)
    rounds = 0
    while scene.chore.due() is not None:
        scene.do()
        rounds += 1
    assert rounds == 2
    assert scene.one.state.history[2] == 0


def test_more_than_it_may_take_is_cut_to_that(scene: Scene) -> None:
    scene.begin()
    while scene.chore.due() is None:
        scene.timer.pass_ms(1)
        scene.write(20)
    assert scene.one.state.history[2] > 100_000
    scene.do()
    assert 90_000 < scene.one.state.history[2] <= 100_000
    assert scene.chore.due() is None


def test_what_is_more_than_is_told_of_a_key_is_swept_away_to_the_end(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "SWEEP_LEAST", 100)
    monkeypatch.setattr(history, "SWEEP_ROWS", 100)
    scene.begin()
    for _ in range(300):
        scene.timer.pass_ms(1)
        scene.write(1, 1)
    assert scene.one.state.history[1] == 1
    rounds = 0
    while scene.chore.due() is not None:
        scene.do()
        rounds += 1
    assert rounds == 3
    assert scene.one.file.cursor.execute("select count(*) from old").get == 64
    assert scene.one.state.history[1] == 1, "what is told is told from the same index on"


def test_a_leader_with_another_bound_sets_it(scene: Scene) -> None:
    scene.begin()
    scene.chore = scene.with_config(KvHistoryConfig(revisions=3))
    scene.do()
    assert scene.one.state.history[0] == 3
    scene.write(700)
    scene.timer.pass_ms(1)
    scene.write(700)
    scene.chore = scene.with_config(KvHistoryConfig(revisions=0))
    rounds = 0
    while scene.chore.due() is not None:
        scene.do()
        rounds += 1
    assert rounds == 2
    assert scene.one.state.history[0] == 0
    assert scene.one.state.history[2] == 0
