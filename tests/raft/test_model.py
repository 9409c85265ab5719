"""The bounded model check, with as many states as a test has time for (`make model` has a million).

And that it sees: each bug planted in the core is found, from the beginning that can lead to it.
"""

from __future__ import annotations

import pytest
from mutants.bug import Bug, planted
from mutants.bugs.every import BUGS
from support.raft_frozen import IDS, from_bytes, member_hashes, new_member, settle_clocks, to_bytes
from support.raft_laws import Event
from support.raft_model import Bounds, Model, State
from support.raft_scopes import SCOPES, check

STATES = 3_000
PLANT_STATES = 40_000
PLANTED = [bug for bug in BUGS.values() if bug.scope]


@pytest.mark.parametrize("name", SCOPES)
def test_every_law_holds_in_every_state_within_reach(name: str) -> None:
    _, result = check(name, STATES)
    assert not result.violation, result.violation
    assert result.complete or result.states == STATES


@pytest.mark.parametrize("name", ["grow-all", "lost-all"])
def test_a_small_scope_is_seen_to_its_end(name: str) -> None:
    _, result = check(name, 20_000)
    assert result.complete
    assert not result.violation


@pytest.mark.parametrize("bug", PLANTED, ids=lambda bug: bug.name)
def test_a_planted_bug_is_found(bug: Bug) -> None:
    with planted(bug):
        _, result = check(bug.scope, PLANT_STATES)
    assert bug.law in (result.violation.splitlines() or ["nothing"])[0]


def _led_by(model: Model, id: str) -> State:
    return model.between(model.do(model.founded(IDS), "timeout", id), IDS)


def test_states_that_differ_by_the_names_of_servers_are_one() -> None:
    model = Model(Bounds())
    names = {model.name(_led_by(model, id)) for id in IDS}
    assert len(names) == 1
    state = _led_by(model, "1")
    assert model.name(model.do(state, "propose", "1", b"x")) not in names


def test_a_server_brought_to_life_again_is_the_same() -> None:
    member = new_member("1")
    member.raft.bootstrap(list(IDS))
    member.pump()
    settle_clocks(member)
    before = member_hashes(member)
    again = from_bytes(to_bytes(member))
    assert member_hashes(again) == before
    again.finish_saves()
    settle_clocks(again)
    assert member_hashes(again)[0] not in before


def test_what_no_clock_and_no_counter_can_tell_apart_is_the_same() -> None:
    """The same server after more ticks, heartbeats and saves of the past has the same name."""
    model = Model(Bounds())
    state = _led_by(model, "1")
    beaten = model.between(model.do(state, "beat", "1"), IDS)
    assert model.name(beaten) == model.name(state)


def test_a_message_that_was_delivered_may_come_again() -> None:
    model = Model(Bounds(proposals=1))
    state = model.do(_led_by(model, "1"), "propose", "1", b"x")
    first = next(n for n in state.sent if model.messages[n][0] == 1)
    heard = model.do(state, "step", "2", first)
    assert first in heard.sent
    assert model.after(heard, Event("step", 1, first), heard.spent) is None, "and then does nothing"
