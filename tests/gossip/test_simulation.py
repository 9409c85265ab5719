"""A hundred members in virtual time: found, not imagined, cheap, one again, and lawful all the while.

`make gossip-sim` has the same experiments at every size; the figures that were found are in RESULTS.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import msgspec
import pytest
from gossip.experiments import (
    LIFEGUARD,
    Slow,
    crash_together,
    cut_off,
    detection,
    expected_first_ms,
    false_alarms,
    partition,
    traffic,
)
from gossip.laws import Broken, Laws
from gossip.virtual import Member, Network

from gemot.agent.gossip.members import HERE
from gemot.agent.gossip.message import Alive, Facts, Record, Status
from gemot.agent.gossip.timing import LAN
from gemot.agent.gossip.view import Change, Event, Place

MANY = 100


@pytest.mark.parametrize("loss", [0.0, 0.3])
def test_a_crash_is_known_to_all_in_the_time_that_the_formula_says(loss: float) -> None:
    """And nobody else is taken for failed meanwhile, at 30 % loss either."""
    found = detection(3, MANY, 12, loss=loss)
    assert found.wrong == 0
    assert found.first.median < 1.25 * expected_first_ms(MANY)
    assert found.everyone.at(0.99) < 15_000
    assert found.laws > 12 * MANY


def test_a_crash_is_found_among_a_thousand_members_that_somebody_invented() -> None:
    """Without a key anybody can; each is probed in its turn, and those that have answered more often."""
    network = Network(4)
    members = network.grown(20)
    network.run_for(60_000)
    lies = [Alive(0, Facts(f"x{n}", f"nowhere{n}", "10.99.0.1", 8301)) for n in range(1_000)]
    for member in members:
        member.do(lambda one=member: one.swim.on_words(lies, Place("10.99.0.1", 8301), network.now_ms))  # type: ignore[misc]
    network.run_for(1_000)
    assert all(member.swim.members.here > 900 for member in members)
    members[7].crash()
    took = network.run_until(lambda: network.everyone_holds(members[7].id, Status.FAILED), 120_000)
    assert took is not None
    assert took < 2 * expected_first_ms(1_000)


def test_it_costs_each_member_the_same_in_a_small_cluster_and_in_a_large_one() -> None:
    few, many = traffic(1, 10, 120), traffic(1, 4 * MANY, 120)
    assert many.datagrams == pytest.approx(few.datagrams, rel=0.01)
    assert many.bytes == pytest.approx(few.bytes, rel=0.05)
    assert many.streams <= few.streams


def test_datagrams_that_get_lost_make_nobody_fail() -> None:
    assert false_alarms(5, MANY, 60, loss=0.3).all == 0
    assert false_alarms(5, MANY, 30, loss=0.2, streams=False).all <= 2, "where no connection helps out either"


def test_a_process_that_is_stopped_for_two_seconds_is_not_taken_for_failed_and_takes_nobody() -> None:
    alarms = false_alarms(2, MANY, 60, slow=Slow(10, 2_000, 5_000, stopped=True))
    assert (alarms.all, alarms.slow) == (0, 0)
    assert alarms.suspicions > 0


def test_whoever_was_stopped_for_half_a_minute_takes_nobody_for_failed() -> None:
    alarms = false_alarms(2, MANY, 70, slow=Slow(10, 30_000, 5_000, stopped=True))
    assert alarms.all == 0
    assert alarms.slow > 0, "it is itself taken for failed"


def test_each_part_of_lifeguard_has_slow_members_blame_fewer_others() -> None:
    """The order of the paper's table: least without any of them, best with all."""
    slow = Slow(8, 8_192, 512)
    fp = {
        name: false_alarms(1, 48, 50, timing=timing(LAN), slow=slow).all for name, timing in LIFEGUARD.items()
    }
    assert fp["SWIM"] > 50
    assert fp["LHA-Probe"] < fp["SWIM"] / 2
    assert fp["LHA-Suspicion"] < fp["SWIM"] / 2
    assert fp["Buddy System"] <= 1.25 * fp["SWIM"], "by itself it changes little, one way or the other"
    assert fp["Lifeguard"] < fp["SWIM"] / 10
    assert fp["Lifeguard, and silence while cut off"] <= fp["Lifeguard"]


@pytest.mark.parametrize(("members", "crashes"), [(5, 3), (10, 7), (10, 8)])
@pytest.mark.parametrize("loss", [0.0, 0.1])
def test_the_survivors_agree_where_most_hosts_crash_together(members: int, crashes: int, loss: float) -> None:
    """Hardly any of their probes is answered; all the same they are not cut off, for they hear each other.

    A suspicion that nobody confirms lasts 24 s here, and begins anew once at most; before the last is probed
    a survivor, which takes itself for slow, has asked all the others: 8 s each.
    """
    found = crash_together(1, members, crashes, runs=3, loss=loss)
    assert found.wrong == 0
    bound = 2 * LAN.suspicion_max_ms(members) + crashes * LAN.awareness_max * LAN.probe_interval_ms
    assert max(found.everyone.times) < bound


@pytest.mark.parametrize(("members", "cuts"), [(3, 1), (5, 2), (30, 4)])
@pytest.mark.parametrize("apart_s", [3, 10, 20, 40, 90])
def test_a_host_that_was_cut_off_and_is_back_makes_nobody_take_others_for_failed(
    members: int, cuts: int, apart_s: int
) -> None:
    """It missed all others meanwhile, and its suspicions end when it is long among them again.

    With five members and Consul's timings such a suspicion lasts 24 s, with thirty 35 s. With three there is
    nobody to confirm it, and it lasts 4 s: what silence is must not grow with the silence.
    """
    assert cut_off(1, members, cuts, apart_s * 1_000).wrong == 0


@pytest.mark.parametrize("seed", range(4))
def test_halves_that_were_apart_become_one_again_by_themselves(seed: int) -> None:
    assert partition(seed, 30, 60) < 60_000


def test_a_cluster_grows_from_one_and_every_member_knows_all() -> None:
    network = Network(1)
    Laws(network)
    first = network.add(1)
    for number in range(2, 41):
        member = network.add(number)
        network.exchange(member, first.place)
        network.run_for(network.random.randrange(400))
    took = network.run_until(lambda: all(m.swim.members.here == 40 for m in network.running), 30_000)
    assert took is not None
    assert took < 5_000


def test_after_a_loss_of_power_of_all_they_find_each_other_by_what_they_are_told() -> None:
    """Every process begins anew with its id and no memory, and asks one address, as `retry_join` does."""
    network = Network(2)
    before = network.grown(20)
    network.run_for(10_000)
    for member in before:
        member.crash()
    again = [network.add(number) for number in range(1, 21)]
    for member in again[1:]:
        network.exchange(member, again[0].place)
    took = network.run_until(lambda: all(m.swim.members.here == 20 for m in again), 30_000)
    assert took is not None


def test_one_that_begins_anew_and_is_told_of_nobody_is_found_by_those_who_know_it() -> None:
    """The first server of a cluster: others were told to join it, and it nobody."""
    network = Network(6)
    Laws(network)
    members = network.grown(12)
    network.run_for(5_000)
    members[0].crash()
    network.run_for(1_000)
    again = network.add(1)
    took = network.run_until(lambda: again.swim.members.here == 12, 30_000)
    assert took is not None
    assert took < 15_000


def test_one_that_restarts_quickly_was_never_gone() -> None:
    network = Network(3)
    Laws(network)
    members = network.grown(10)
    network.run_for(5_000)
    members[4].crash()
    network.run_for(1_000)
    again = network.add(5)
    network.exchange(again, members[0].place)
    network.run_for(30_000)
    assert network.everyone_holds(again.id, Status.ALIVE)
    assert network.failures(lambda id: id == again.id) == []


@pytest.mark.parametrize("prune", [False, True])
def test_a_good_bye_and_a_word_of_an_operator_reach_all(prune: bool) -> None:
    network = Network(4)
    Laws(network)
    members = network.grown(30)
    network.run_for(5_000)
    members[7].do(lambda: members[7].swim.leave(network.now_ms))
    assert network.run_until(lambda: members[7].swim.said_goodbye, 10_000) is not None
    members[7].crash()
    members[8].crash()
    network.run_for(60_000)
    assert network.everyone_holds(members[7].id, Status.LEFT)
    assert network.everyone_holds(members[8].id, Status.FAILED)
    members[0].do(lambda: members[0].swim.expect_no_more(members[8].id, network.now_ms, prune=prune))
    network.run_for(10_000)
    assert network.everyone_holds(members[8].id, None if prune else Status.LEFT)
    network.run_for(120_000)
    assert network.everyone_holds(members[8].id, None if prune else Status.LEFT), "no exchange brings it back"


def test_who_was_pruned_and_lives_comes_back() -> None:
    network = Network(5)
    Laws(network)
    members = network.grown(12)
    network.run_for(5_000)
    alone = members[3]
    network.apart = lambda a, b: alone in (a, b)
    network.run_for(60_000)
    members[0].do(lambda: members[0].swim.expect_no_more(alone.id, network.now_ms, prune=True))
    network.run_for(10_000)
    network.apart = lambda _a, _b: False
    took = network.run_until(lambda: network.everyone_holds(alone.id, Status.ALIVE), 120_000)
    assert took is not None


SHORT = msgspec.structs.replace(LAN, reconnect_timeout_ms=300_000, tombstone_timeout_ms=200_000)
"""Those that are gone are forgotten within minutes."""


@pytest.mark.parametrize("seed", range(8))
def test_whatever_happens_no_law_is_broken_and_all_agree_in_the_end(seed: int) -> None:
    """Loss, crashes, restarts, good-byes, new facts, prunes, partitions, hosts that hang; then calm.

    In the end everybody holds the same of those that are here, to the incarnation, and nobody remembers the
    others.
    """
    network = Network(seed, loss=0.05, timing=SHORT)
    Laws(network)
    random = Random(seed)
    members = network.grown(25)
    network.run_for(5_000)
    for _ in range(40):
        _befall(network, random, members)
        network.run_for(random.randrange(8_000))
    network.apart = lambda _a, _b: False
    for member in network.running:
        member.go_on()
    took = network.run_until(lambda: _agreed(network), 400_000, 500)
    assert took is not None
    network.run_for(2 * SHORT.reconnect_timeout_ms)
    here = {member.id for member in network.running}
    assert all({r.facts.id for r in member.swim.members} == here for member in network.running)
    assert _agreed(network)


WHAT = ("crash", "restart", "leave", "hang", "go on", "apart", "together", "update", "prune")


def _befall(network: Network, random: Random, members: list[Member]) -> None:
    number = random.randrange(len(members))
    member = members[number]
    some_left = sum(each.up for each in members) > 14
    now = network.now_ms
    match random.choice(
        ["crash", "restart", "leave", "hang", "go on", "apart", "together", "update", "prune"]
    ):
        case "crash" if member.up and some_left:
            member.crash()
        case "restart" if not member.up:
            members[number] = network.add(number + 1)
            _join(network, members[number], random)
        case "leave" if member.up and not member.hangs and some_left:
            member.do(lambda: member.swim.leave(now))
            network.run_until(lambda: member.swim.said_goodbye, 5_000)
            member.crash()
        case "hang":
            member.hang()
        case "go on":
            member.go_on()
        case "apart":
            some = {each.id for each in random.sample(members, random.randrange(1, 12))}
            network.apart = lambda a, b: (a.id in some) != (b.id in some)
        case "together":
            network.apart = lambda _a, _b: False
        case "update" if member.up:
            facts = msgspec.structs.replace(member.swim.me, meta=str(now).encode())
            member.do(lambda: member.swim.update(facts, now))
        case "prune":
            operator = random.choice(network.running)
            operator.do(lambda: operator.swim.expect_no_more(member.id, now, prune=random.random() < 0.7))


def _join(network: Network, member: Member, random: Random) -> None:
    """Ask one that may know the others, until it is not alone, as `retry_join` does."""
    if member.up and member.swim.members.here <= 1:
        network.exchange(member, random.choice(network.running).place)
        network.at(network.now_ms + 5_000, _join, network, member, random)


def _agreed(network: Network) -> bool:
    """Of those that run everybody holds the same, and nobody holds anybody else for alive."""
    here = {member.id: Record(member.swim.me, member.swim.incarnation) for member in network.running}
    return all(
        {record.facts.id: record for record in member.swim.members if record.status in HERE} == here
        for member in network.running
    )


# -- the laws can be broken ----------------------------------------------------------------------------------


@dataclass
class Seen:
    change: Change
    incarnation: int = 0
    status: Status = Status.ALIVE
    id: str = "id2"


@pytest.mark.parametrize(
    "history",
    [
        [Seen(Change.FAILED, status=Status.FAILED), Seen(Change.FAILED, status=Status.FAILED)],
        [Seen(Change.JOINED), Seen(Change.JOINED)],
        [Seen(Change.REAPED, 3, Status.FAILED), Seen(Change.JOINED, 3)],
        [Seen(Change.REAPED, 3, Status.FAILED), Seen(Change.SUSPECTED, 4, Status.SUSPECT)],
        [Seen(Change.JOINED, 4), Seen(Change.SUSPECTED, 3, Status.SUSPECT)],
        [Seen(Change.JOINED, status=Status.FAILED)],
        [Seen(Change.FAILED, status=Status.FAILED, id="id1")],
    ],
)
def test_a_history_that_breaks_a_law_is_seen(history: list[Seen]) -> None:
    network = Network(1)
    laws = Laws(network)
    member = network.add(1, id="id1")
    events = [
        Event(seen.change, Record(Facts(seen.id, "node", "10.0.0.2", 8301), seen.incarnation, seen.status))
        for seen in history
    ]
    for event in events[:-1]:
        laws.look(member, event)
    with pytest.raises(Broken):
        laws.look(member, events[-1])
