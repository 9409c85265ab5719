"""How long the suspected has to refute, and how slow whoever suspects takes itself to be."""

from __future__ import annotations

import pytest

from gemot.agent.gossip.awareness import Awareness
from gemot.agent.gossip.suspicion import Suspicion
from gemot.agent.gossip.timing import LAN, LOCAL

LEAST, MOST = 2_000, 30_000


def suspicion(expected: int = 3) -> Suspicion:
    return Suspicion(by="a", now_ms=1_000, expected=expected, least_ms=LEAST, most_ms=MOST)


# Lifeguard, section IV.B: most - (most - least) * log(confirmations + 1) / log(expected + 1).
@pytest.mark.parametrize(("confirmed", "lasts"), [(0, 30_000), (1, 16_000), (2, 7_811), (3, 2_000)])
def test_each_confirmation_brings_the_end_nearer(confirmed: int, lasts: int) -> None:
    one = suspicion()
    for number in range(confirmed):
        assert one.confirm(f"other{number}")
    assert one.deadline_ms == 1_000 + lasts


def test_whoever_says_it_again_confirms_nothing() -> None:
    one = suspicion()
    assert not one.confirm("a")
    assert one.confirm("b")
    assert not one.confirm("b")
    assert one.confirmations == 1


def test_what_is_confirmed_enough_is_not_passed_on_for_ever() -> None:
    one = suspicion(expected=1)
    assert one.confirm("b")
    assert not one.confirm("c")
    assert one.deadline_ms == 1_000 + LEAST


def test_without_others_who_could_confirm_it_lasts_the_least_time() -> None:
    assert suspicion(expected=0).deadline_ms == 1_000 + LEAST


def test_time_in_which_nothing_could_be_heard_does_not_count() -> None:
    one = suspicion()
    one.put_off(700)
    assert one.deadline_ms == 1_000 + 700 + MOST


def test_a_suspicion_begins_anew_once_and_no_more() -> None:
    """However often whoever has it takes itself for cut off: it ends at last."""
    one = Suspicion(by="a", now_ms=1_000, expected=2, least_ms=LEAST, most_ms=MOST)
    one.begin_anew(5_000)
    assert one.deadline_ms == 5_000 + MOST
    one.begin_anew(9_000)
    assert one.deadline_ms == 5_000 + MOST


def test_awareness_scales_between_well_and_as_slow_as_it_may_be() -> None:
    awareness = Awareness(8)
    assert awareness.scaled(500) == 500
    awareness.note(-1)
    awareness.note(2)
    assert (awareness.score, awareness.scaled(500)) == (2, 1_500)
    awareness.note(100)
    assert awareness.scaled(500) == 4_000
    awareness.note(-1)
    assert awareness.score == 6


def test_awareness_of_one_step_is_none() -> None:
    awareness = Awareness(1)
    awareness.note(5)
    assert awareness.scaled(500) == 500


@pytest.mark.parametrize(
    ("members", "least_s", "most_s", "retransmits", "exchange_s"),
    [
        (1, 4, 24, 4, 30),
        (10, 4, 24, 8, 30),
        (100, 8, 48, 12, 90),
        (1_000, 12, 72, 16, 180),
        (10_000, 16, 96, 20, 300),
    ],
)
def test_times_grow_with_the_logarithm_of_the_members(
    members: int, least_s: int, most_s: int, retransmits: int, exchange_s: int
) -> None:
    """As Consul's do on a LAN."""
    assert LAN.suspicion_min_ms(members) == least_s * 1_000
    assert LAN.suspicion_max_ms(members) == most_s * 1_000
    assert LAN.retransmits(members) == retransmits
    assert LAN.push_pull_ms(members) == exchange_s * 1_000


def test_on_one_machine_all_is_sooner() -> None:
    assert LOCAL.suspicion_min_ms(3) == 600
    assert LOCAL.probe_timeout_ms < LOCAL.probe_interval_ms
