"""Many hosts that fail at once stay in service for a while, marked; a failure that lasts is one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.members import client
from support.membership import Scene

from gemot.server.mass_failure import MassFailure, MassFailureConfig
from gemot.server.members import CONTRADICTS_MS, FAIL_AGAIN_MS, FAILED_AFTER_MS
from gemot.server.serf_health import ALIVE_OUTPUT, FAILED_OUTPUT, SUSPECT_OUTPUT

CONFIG = MassFailureConfig(share=0.3, least=3, window_ms=30_000, hold_ms=60_000)
HOSTS = [f"web{n}" for n in range(1, 10)]


def _guard() -> MassFailure:
    return MassFailure(CONFIG)


# -- the rule alone ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failing", "hosts", "silent", "kept"),
    [
        (2, 3, 0, False),  # two are fewer than the least number, whatever their share
        (3, 10, 0, False),  # 30 % is not more than 30 %
        (3, 9, 0, True),
        (1, 9, 2, True),  # those that are silent count before they fail
        (1, 9, 1, False),
        (9, 9, 0, True),
    ],
)
def test_more_than_a_share_and_at_least_so_many(failing: int, hosts: int, silent: int, kept: bool) -> None:
    names = [f"web{n}" for n in range(hosts)]
    fail = names[:failing]
    found = _guard().judge(fail, names, names[failing : failing + silent], 0)
    assert sorted(found) == (fail if kept else [])


def test_failures_further_apart_than_the_window_are_not_many() -> None:
    guard = _guard()
    for number, name in enumerate(HOSTS):
        assert guard.judge([name], HOSTS, [], number * 16_000) == []
    guard = _guard()
    found = [guard.judge([name], HOSTS, [], number * 15_000) for number, name in enumerate(HOSTS[:3])]
    assert found == [[], [], HOSTS[:3]], "the first two come back with the third"


def test_each_is_kept_once_and_for_the_time_that_is_set() -> None:
    guard = _guard()
    assert guard.judge(HOSTS[:4], HOSTS, [], 1_000) == HOSTS[:4]
    assert all(guard.holds(name, 60_999) for name in HOSTS[:4])
    assert not any(guard.holds(name, 61_000) for name in HOSTS[:4])
    assert guard.judge(HOSTS[:4], HOSTS, [], 61_000) == []
    assert (guard.held, guard.judge(HOSTS[:4], HOSTS, [], 62_000)) == (0, [])
    guard.lives(HOSTS[0])
    assert guard.judge(HOSTS[:1], HOSTS, HOSTS[1:4], 63_000) == HOSTS[:1], "it lived in between"


def test_who_is_kept_counts_for_those_that_fail_later() -> None:
    guard = _guard()
    guard.judge(HOSTS[:4], HOSTS, [], 0)
    assert guard.judge([HOSTS[5]], HOSTS, [], 45_000) == [HOSTS[5]]
    assert guard.holds(HOSTS[5], 104_999)


def test_whom_the_leader_before_has_marked_is_not_kept_again() -> None:
    guard = _guard()
    guard.begin(HOSTS[:4])
    assert guard.judge(HOSTS[:5], HOSTS, HOSTS[5:], 6_000) == [HOSTS[4]]


def test_whose_time_is_over_is_not_brought_back() -> None:
    """Where the window is longer than the time that each is kept."""
    guard = MassFailure(MassFailureConfig(share=0.3, least=3, window_ms=90_000, hold_ms=60_000))
    assert guard.judge(HOSTS[:1], HOSTS, [], 0) == []
    assert guard.judge(HOSTS[1:2], HOSTS, [], 10_000) == []
    assert sorted(guard.judge(HOSTS[2:3], HOSTS, [], 65_000)) == HOSTS[1:3]


def test_a_share_of_one_turns_the_guard_off() -> None:
    guard = MassFailure(MassFailureConfig(share=1.0))
    assert guard.judge(HOSTS, HOSTS, [], 0) == []


# -- in the catalog ------------------------------------------------------------------------------------------


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path, CONFIG)
    for number in range(1, 10):
        scene.membership.joined(client(number))
    yield scene
    scene.one.close()


def _report(scene: Scene, numbers: range, ms: int) -> None:
    """These are heard of each second, for so long."""
    for _ in range(ms // 1_000):
        for number in numbers:
            scene.membership.joined(client(number))
        scene.pass_ms(1_000)


def _health(scene: Scene) -> str:
    """A letter for each of the nine: alive, suspect or failed."""
    letters = {ALIVE_OUTPUT: "a", SUSPECT_OUTPUT: "s", FAILED_OUTPUT: "f"}
    for name in HOSTS:
        assert (scene.health(name) == "critical") == (scene.output(name) == FAILED_OUTPUT)
    return "".join(letters[scene.output(name)] for name in HOSTS)


def test_many_at_once_stay_in_service_and_fail_when_it_lasts(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    _report(scene, range(1, 6), FAILED_AFTER_MS)
    assert _health(scene) == "aaaaassss"
    (told,) = [record.getMessage() for record in caplog.records if "mass failure" in record.message]
    assert told == (
        "server: mass failure: hosts fail together, kept in service for now: 4 of 9, web6, web7, web8, web9"
    )
    proposed = len(scene.proposed)
    _report(scene, range(1, 6), CONFIG.hold_ms - 2_000)
    assert (_health(scene), len(scene.proposed)) == ("aaaaassss", proposed)
    _report(scene, range(1, 6), 3_000)
    assert _health(scene) == "aaaaaffff"
    _report(scene, range(1, 6), 120_000)
    assert _health(scene) == "aaaaaffff", "once is enough"
    _report(scene, range(1, 10), 1_000)
    assert _health(scene) == "aaaaaaaaa"


def test_few_at_once_fail_as_ever(scene: Scene) -> None:
    _report(scene, range(1, 8), FAILED_AFTER_MS)
    assert _health(scene) == "aaaaaaaff"


def test_who_comes_back_in_time_has_never_failed(scene: Scene) -> None:
    _report(scene, range(1, 6), FAILED_AFTER_MS + 20_000)
    _report(scene, range(1, 10), 90_000)
    assert _health(scene) == "aaaaaaaaa"
    assert all("f" not in check.output[:1] for c in scene.proposed for check in getattr(c, "checks", ()))
    assert scene.membership.guard.held == 0


def test_the_first_of_many_come_back_when_it_is_seen_how_many_they_are(scene: Scene) -> None:
    _report(scene, range(3, 10), FAILED_AFTER_MS)
    assert _health(scene) == "ffaaaaaaa"
    _report(scene, range(6, 10), FAILED_AFTER_MS)
    assert _health(scene) == "sssssaaaa"


def test_by_gossip_too_many_are_kept_and_by_gossip_they_come_back(scene: Scene) -> None:
    for number in range(1, 10):
        scene.gossip(client(number), "alive")
    scene.pass_ms(CONTRADICTS_MS)
    for number in range(6, 10):
        scene.gossip(client(number), "suspect")
    scene.gossip(client(6), "failed")
    _report(scene, range(1, 6), 1_000)
    assert _health(scene) == "aaaaasaaa", "the three that are suspected count, and have not failed yet"
    for number in range(7, 10):
        scene.gossip(client(number), "failed")
    _report(scene, range(1, 6), 1_000)
    assert _health(scene) == "aaaaassss"
    scene.gossip(client(6), "alive")
    assert _health(scene) == "aaaaaasss"


def test_those_that_fall_silent_a_moment_after_the_first_fail_with_it(scene: Scene) -> None:
    """Their connections are given up one after the other; the first had failed, and its sessions ended."""
    for number in range(1, 10):
        scene.gossip(client(number), "alive")
    for number in range(6, 10):
        scene.membership.joined(client(number))
        scene.pass_ms(300)
    for number in range(6, 10):
        scene.gossip(client(number), "suspect")
    scene.gossip(client(6), "failed")
    scene.pass_ms(CONTRADICTS_MS - 1_200)
    assert _health(scene) == "aaaaasaaa"


def test_a_mark_that_was_not_taken_is_proposed_again(scene: Scene) -> None:
    scene.refuses = True
    _report(scene, range(1, 6), FAILED_AFTER_MS)
    scene.refuses = False
    assert _health(scene) == "aaaaaaaaa"
    _report(scene, range(1, 6), 2 * FAIL_AGAIN_MS)
    assert _health(scene) == "aaaaassss"


def test_one_that_leaves_while_it_is_kept_is_gone(scene: Scene) -> None:
    _report(scene, range(1, 6), FAILED_AFTER_MS)
    scene.heard.members[client(9).id] = client(9), "left"
    scene.membership.on_gossip(client(9), "left")
    assert scene.health("web9") == ""
    _report(scene, range(1, 6), CONFIG.hold_ms + 1_000)
    assert scene.health("web9") == ""


def test_a_leader_no_more_keeps_nobody(scene: Scene) -> None:
    _report(scene, range(1, 6), FAILED_AFTER_MS)
    assert scene.membership.guard.held == 4
    scene.membership.end()
    assert scene.membership.guard.held == 0


def test_a_new_leader_keeps_nobody_a_second_time(scene: Scene) -> None:
    _report(scene, range(1, 6), FAILED_AFTER_MS)
    scene.membership = scene.new_leader()
    scene.membership.begin()
    _report(scene, range(1, 6), FAILED_AFTER_MS - 1_000)
    assert _health(scene) == "aaaaassss"
    _report(scene, range(1, 6), 2_000)
    assert _health(scene) == "aaaaaffff"


@pytest.mark.parametrize("many", [False, True])
def test_a_failure_that_is_committed_late_does_not_outlive_a_return(scene: Scene, many: bool) -> None:
    """The host was heard again while its failure was on its way into the log: once it stayed critical until
    the next comparison, a minute later."""
    alive = range(1, 6) if many else range(1, 9)
    _report(scene, alive, FAILED_AFTER_MS - 1_000)
    scene.late = []
    _report(scene, alive, 1_000)
    assert scene.late, "the failure is proposed"
    _report(scene, range(1, 10), 1_000)
    scene.come_true()
    assert _health(scene) == "aaaaaaaaa"
