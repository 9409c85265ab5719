"""What is measured of gossip in virtual time: each experiment is a function of a seed, and prints one table.

Detection, dissemination and false alarms are those of the papers: SWIM (2002), section 5, and Lifeguard
(2018), section VI. All times are virtual, so a table is the same on any machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import median

import msgspec
from gossip.laws import Laws
from gossip.virtual import Member, Network

from gemot.agent.gossip.message import Status
from gemot.agent.gossip.timing import LAN, Timing
from gemot.agent.gossip.view import Change

WARM_MS = 10_000
LIMIT_MS = 300_000


class Spread(msgspec.Struct):
    """How long something took, over many times, in milliseconds."""

    times: list[int] = []

    def at(self, share: float) -> int:
        ordered = sorted(self.times)
        return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)] if ordered else -1

    @property
    def median(self) -> int:
        return round(median(self.times)) if self.times else -1


class Detection(msgspec.Struct):
    """From a crash to the first who suspects, the first who knows, and the last who does."""

    suspected: Spread = msgspec.field(default_factory=Spread)
    first: Spread = msgspec.field(default_factory=Spread)
    everyone: Spread = msgspec.field(default_factory=Spread)
    wrong: int = 0
    laws: int = 0


def watched(network: Network, change: Change) -> dict[str, int]:
    """When a change of each member was seen first; filled while the network runs."""
    first: dict[str, int] = {}

    def look(_member: Member, event: object) -> None:
        if event.change is change:  # type: ignore[attr-defined]
            first.setdefault(event.record.facts.id, network.now_ms)  # type: ignore[attr-defined]

    network.told.append(look)
    return first


def detection(seed: int, members: int, crashes: int, *, loss: float = 0.0, timing: Timing = LAN) -> Detection:
    """One member after the other crashes, in the middle of everything."""
    found = Detection()
    network = Network(seed, timing=timing, loss=loss)
    laws = Laws(network)
    suspected, failed = watched(network, Change.SUSPECTED), watched(network, Change.FAILED)
    network.grown(members)
    network.run_for(WARM_MS)
    for _ in range(crashes):
        victim = network.random.choice(network.running)
        network.run_for(network.random.randrange(1_000))
        suspected.pop(victim.id, None)
        failed.pop(victim.id, None)
        victim.crash()
        crashed_ms = network.now_ms
        network.run_until(lambda: victim.id in failed, LIMIT_MS)  # noqa: B023
        known_ms = network.run_until(lambda: network.everyone_holds(victim.id, Status.FAILED), LIMIT_MS)  # noqa: B023
        assert known_ms is not None, f"not everyone knows of {victim.id} after {LIMIT_MS} ms"
        found.suspected.times.append(suspected[victim.id] - crashed_ms)
        found.first.times.append(failed[victim.id] - crashed_ms)
        found.everyone.times.append(network.now_ms - crashed_ms)
    down = {member.id for member in network.members.values() if not member.up}
    found.wrong = len(network.failures(lambda id: id not in down))
    found.laws = laws.events
    return found


def expected_first_ms(members: int, timing: Timing = LAN) -> int:
    """SWIM's own formula: e / (e - 1) probe intervals until the first suspicion, and the time to refute.

    The latter is here the shortest: in a cluster with so many members others confirm it.
    """
    probe = timing.probe_interval_ms * math.e / (math.e - 1)
    return round(probe + timing.suspicion_min_ms(members))


class Alarms(msgspec.Struct):
    """Failures that were none, of members that were there all the time."""

    suspicions: int = 0
    """As often as somebody suspected somebody."""

    all: int = 0
    """As often as somebody took one for failed that was well (the paper's FP)."""

    healthy: int = 0
    """Of those, as often as it was somebody who was well itself (the paper's FP-)."""

    victims: int = 0
    """How many different members were taken for failed, being well."""

    slow: int = 0
    """As often as a slow one was taken for failed: no mistake in its worst spells."""


def false_alarms(
    seed: int,
    members: int,
    seconds: int,
    *,
    timing: Timing = LAN,
    loss: float = 0.0,
    streams: bool = True,
    slow: Slow | None = None,
) -> Alarms:
    """Nobody crashes. Datagrams are lost, or some members are slow."""
    network = Network(seed, timing=timing, loss=loss, streams=streams)
    Laws(network)
    all_members = network.grown(members)
    network.run_for(WARM_MS)
    slow_ones = network.random.sample(all_members, slow.members if slow is not None else 0)
    for member in slow_ones:
        assert slow is not None
        network.at(network.now_ms, _spell, network, member, slow)
    network.run_for(seconds * 1_000)
    slow_ids = {member.id for member in slow_ones}
    seen = network.failures(lambda _id: True)
    wrong = [(member, id) for member, id in seen if id not in slow_ids]
    return Alarms(
        suspicions=sum(e.change is Change.SUSPECTED for m in all_members for _, e in m.events),
        all=len(wrong),
        healthy=sum(member.id not in slow_ids for member, _ in wrong),
        victims=len({id for _, id in wrong}),
        slow=len(seen) - len(wrong),
    )


class Slow(msgspec.Struct, frozen=True):
    """So many members at a time are slow for `spell_ms`, well for `rest_ms`, and slow again.

    `stopped`: nothing of them happens, as after SIGSTOP; else their time goes on while what they send and
    are sent waits, as Lifeguard's experiments have it.
    """

    members: int
    spell_ms: int
    rest_ms: int
    stopped: bool = False


def _spell(network: Network, member: Member, slow: Slow) -> None:
    if slow.stopped:
        member.hang()
    else:
        member.go_deaf()

    def well() -> None:
        member.go_on()
        network.at(network.now_ms + slow.rest_ms, _spell, network, member, slow)

    network.at(network.now_ms + slow.spell_ms, well)


class Traffic(msgspec.Struct):
    """What one member sends a second."""

    members: int
    datagrams: float
    bytes: float
    streams: float


def traffic(seed: int, members: int, seconds: int, *, timing: Timing = LAN) -> Traffic:
    """When nothing happens."""
    network = Network(seed, timing=timing)
    all_members = network.grown(members)
    network.run_for(WARM_MS)
    before = [(m.sent, m.sent_bytes, m.streams) for m in all_members]
    network.run_for(seconds * 1_000)
    sums = [0, 0, 0]
    for member, (sent, sent_bytes, streams) in zip(all_members, before, strict=True):
        sums[0] += member.sent - sent
        sums[1] += member.sent_bytes - sent_bytes
        sums[2] += member.streams - streams
    datagrams, size, streams_ = (each / members / seconds for each in sums)
    return Traffic(members, datagrams, size, streams_)


def partition(seed: int, members: int, apart_s: int, *, timing: Timing = LAN) -> int:
    """Two halves do not hear each other for so long: milliseconds from then until all hold all for alive."""
    network = Network(seed, timing=timing)
    Laws(network)
    all_members = network.grown(members)
    network.run_for(WARM_MS)
    left = {member.id for member in network.random.sample(all_members, members // 2)}
    network.apart = lambda a, b: (a.id in left) != (b.id in left)
    network.run_for(apart_s * 1_000)
    network.apart = lambda _a, _b: False
    took = network.run_until(lambda: all(m.swim.members.here == members for m in all_members), LIMIT_MS, 200)
    assert took is not None, f"no one view {LIMIT_MS} ms after the partition"
    return took


class CutOff(msgspec.Struct):
    """What came of hosts that were cut off for a while, one after the other."""

    whole: Spread = msgspec.field(default_factory=Spread)
    """From the cable's return until all hold all for alive."""

    wrong: int = 0
    """As often as somebody else took somebody else for failed: nobody did fail."""

    own: int = 0
    """As often as the one that was cut off took another for failed after its return."""


def cut_off(
    seed: int, members: int, cuts: int, apart_ms: int, *, loss: float = 0.0, timing: Timing = LAN
) -> CutOff:
    """Each is alone for so long, and then among the others until its oldest suspicion would have ended."""
    found = CutOff()
    network = Network(seed, timing=timing, loss=loss)
    Laws(network)
    all_members = network.grown(members)
    network.run_for(WARM_MS)
    for alone in network.random.sample(all_members, cuts):
        began_ms = network.now_ms
        network.apart = lambda a, b: (a is alone) != (b is alone)  # noqa: B023
        network.run_for(apart_ms)
        network.apart = lambda _a, _b: False
        back_ms = network.now_ms
        whole = lambda: all(m.swim.members.here == members for m in all_members)  # noqa: E731
        took = network.run_until(whole, LIMIT_MS)
        assert took is not None, f"no one view {LIMIT_MS} ms after {alone.id} came back"
        found.whole.times.append(took)
        network.run_for(timing.suspicion_max_ms(members))
        for member in all_members:
            failed = [
                at for at, e in member.events if e.change is Change.FAILED and e.record.facts.id != alone.id
            ]
            if member is alone:
                found.own += sum(at > back_ms for at in failed)
            else:
                found.wrong += sum(at > began_ms for at in failed)
    return found


class Together(msgspec.Struct):
    """What came of many hosts that failed at once: a rack, a room, a switch between them and the others."""

    everyone: Spread = msgspec.field(default_factory=Spread)
    """From the crash until every survivor takes all of them for failed."""

    wrong: int = 0
    """As often as a survivor was taken for failed."""


def crash_together(
    seed: int, members: int, crashes: int, *, runs: int = 1, loss: float = 0.0, timing: Timing = LAN
) -> Together:
    """So many of them crash in one moment; again in another network, `runs` times."""
    found = Together()
    for run in range(runs):
        network = Network(seed + run, timing=timing, loss=loss)
        Laws(network)
        network.grown(members)
        network.run_for(WARM_MS)
        crashed = network.random.sample(network.running, crashes)
        for member in crashed:
            member.crash()
        victims = [member.id for member in crashed]
        known = lambda: all(network.everyone_holds(id, Status.FAILED) for id in victims)  # noqa: B023, E731
        took = network.run_until(known, LIMIT_MS)
        assert took is not None, f"seed {seed + run}: not all agree {LIMIT_MS} ms after the crash"
        found.everyone.times.append(took)
        found.wrong += len(network.failures(lambda id: id not in victims))  # noqa: B023
    return found


def _paper(timing: Timing, **parts: object) -> Timing:
    """With these parts of Lifeguard, and without ours."""
    none = {"awareness_max": 1, "dynamic_suspicion": False, "buddy": False, "deaf_probes": 0}
    return msgspec.structs.replace(timing, **(none | parts))


LIFEGUARD: dict[str, Callable[[Timing], Timing]] = {
    "SWIM": lambda t: _paper(t),
    "LHA-Probe": lambda t: _paper(t, awareness_max=t.awareness_max),
    "LHA-Suspicion": lambda t: _paper(t, dynamic_suspicion=True),
    "Buddy System": lambda t: _paper(t, buddy=True),
    "Lifeguard": lambda t: msgspec.structs.replace(t, deaf_probes=0),
    "Lifeguard, and silence while cut off": lambda t: t,
}
"""Lifeguard's configurations, by the names that the paper gives them; the last is what agents do."""
