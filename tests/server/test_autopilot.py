"""Whom autopilot promotes and removes: its decisions as tables."""

from __future__ import annotations

import msgspec
import pytest

from gemot.server.autopilot import Standing, Step, failure_tolerance, next_step
from gemot.server.members import FAILED_AFTER_MS
from gemot.server.model.autopilot import AutopilotConfig

CONFIG = AutopilotConfig()
STABLE_MS = CONFIG.server_stabilization_time_ms
GONE_MS = FAILED_AFTER_MS + STABLE_MS

ALIVE = Standing("", voter=True, leader=False, healthy=True, stable_ms=STABLE_MS, silent_ms=0)
KINDS = {
    "L": msgspec.structs.replace(ALIVE, leader=True),
    "v": ALIVE,
    "s": msgspec.structs.replace(ALIVE, healthy=False),
    "a": msgspec.structs.replace(ALIVE, healthy=False, silent_ms=GONE_MS - 1),
    "x": msgspec.structs.replace(ALIVE, healthy=False, silent_ms=GONE_MS),
    "n": msgspec.structs.replace(ALIVE, voter=False),
    "y": msgspec.structs.replace(ALIVE, voter=False, stable_ms=STABLE_MS - 1),
    "u": msgspec.structs.replace(ALIVE, voter=False, healthy=False),
    "d": msgspec.structs.replace(ALIVE, voter=False, healthy=False, silent_ms=GONE_MS),
}
"""One letter a server: the Leader, a voter, a slow one, one away for not so long, a dead one (x); of learners
one that is ready (n), a young, an unhealthy and a dead one."""


def seen(letters: str) -> list[Standing]:
    """A server of the n-th letter has the id n."""
    return [msgspec.structs.replace(KINDS[kind], id=str(n)) for n, kind in enumerate(letters)]


@pytest.mark.parametrize(
    ("servers", "wanted"),
    [
        # Nothing is to be done.
        ("L", None), ("Lvv", None), ("Lvvvv", None), ("Lvs", None),
        # Learners: only one that is ready, the first by id, whatever others are.
        ("Ln", "promote 1"), ("Lvvn", "promote 3"), ("Lvvy", None), ("Lvvu", None), ("Lvvd", None),
        ("Lvvyn", "promote 4"), ("Lvvnn", "promote 3"),
        # A new voter is not taken where the quorum would then hang on who is not healthy.
        ("Lssn", None), ("Lsn", "promote 2"), ("Lsvn", "promote 3"),
        # The dead go once they were gone for long enough, and not before; an unhealthy one stays.
        ("Lvx", "remove 2"), ("Lva", None), ("Lvvvx", "remove 4"), ("Lvvxx", "remove 4"),
        ("Lvvx", "remove 3"),
        # Never one of two, nor more than a minority, nor while the rest is no healthy quorum.
        ("Lx", None), ("Lxx", None), ("Lxxvx", None), ("Lvxx", None), ("Lsx", None), ("Lvsxv", "remove 3"),
        ("Lssvx", None),
        # The dead first, then the new one.
        ("Lvxn", "remove 2"), ("Lxn", "promote 2"), ("Lvan", "promote 3"),
    ],
)  # fmt: skip
def test_the_next_step(servers: str, wanted: str | None) -> None:
    step = next_step(seen(servers), CONFIG)
    assert (f"{step.what} {step.id}" if step else None) == wanted


@pytest.mark.parametrize(
    ("servers", "min_quorum", "wanted"),
    [
        ("Lvx", 3, None),
        ("Lvxn", 3, Step("promote", "3")),
        ("Lvxv", 3, Step("remove", "2")),
        ("Lvvvx", 5, None),
        ("Lvvvx", 4, Step("remove", "4")),
    ],
)
def test_clean_up_leaves_as_many_voters_as_it_was_told(
    servers: str, min_quorum: int, wanted: Step | None
) -> None:
    config = msgspec.structs.replace(CONFIG, min_quorum=min_quorum)
    assert next_step(seen(servers), config) == wanted


def test_clean_up_can_be_turned_off_and_promotion_goes_on() -> None:
    config = msgspec.structs.replace(CONFIG, cleanup_dead_servers=False)
    assert next_step(seen("Lvx"), config) is None
    assert next_step(seen("Lvxn"), config) == Step("promote", "3")


def test_who_has_been_gone_longest_goes_first() -> None:
    servers = seen("Lvvxx")
    servers[3] = msgspec.structs.replace(servers[3], silent_ms=GONE_MS + 1)
    assert next_step(servers, CONFIG) == Step("remove", "3")


def test_step_by_step_a_quorum_is_always_left() -> None:
    """Whoever is dead or slow among five: carried to its end, those that answer are still a majority."""
    for number in range(4**4):
        letters = "L" + "".join("vsxa"[number >> 2 * at & 3] for at in range(4))
        servers = seen(letters)
        while (step := next_step(servers, CONFIG)) is not None:
            assert step.what == "remove"
            servers = [server for server in servers if server.id != step.id]
            healthy = sum(server.healthy for server in servers)
            assert healthy * 2 > len(servers), letters
        assert len(servers) >= min(3, 5 - letters.count("x"))


@pytest.mark.parametrize(
    ("servers", "tolerance"),
    [
        ("", 0),
        ("L", 0),
        ("Lv", 0),
        ("Lvv", 1),
        ("Lvx", 0),
        ("Lvvv", 1),
        ("Lvvvv", 2),
        ("Lvvss", 0),
        ("Lvvn", 1),
    ],
)
def test_how_many_may_still_fail(servers: str, tolerance: int) -> None:
    assert failure_tolerance(seen(servers)) == tolerance
