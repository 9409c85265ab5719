"""Network coordinates: what one may be, what a measurement does to it, and that 50 members find theirs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from random import Random
from statistics import median

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemot.agent.gossip.coordinate import (
    PEERS_MAX,
    RTT_MAX_S,
    WIRE_BYTES_MAX,
    Position,
    decode,
    encode,
)
from gemot.server.model.coordinate import (
    DIMENSIONS,
    ERROR_MAX,
    FAR_S,
    HEIGHT_MIN_S,
    Coordinate,
    distance,
)
from gemot.server.model.errors import BadRequest, PeerBroke

NAN, INF = math.nan, math.inf

within = st.floats(-FAR_S, FAR_S)
upto = st.floats(0, FAR_S)
coordinates = st.builds(
    Coordinate,
    vec=st.lists(within, min_size=DIMENSIONS, max_size=DIMENSIONS).map(tuple),
    error=upto,
    adjustment=within,
    height=upto,
)
rtts = st.floats(0, RTT_MAX_S)


class Same:
    """Chance that always draws the same."""

    def __init__(self, drawn: float = 0.5) -> None:
        self._drawn = drawn

    def random(self) -> float:
        return self._drawn


def at(
    *vec: float, error: float = ERROR_MAX, adjustment: float = 0.0, height: float = HEIGHT_MIN_S
) -> Coordinate:
    """The coordinate with these numbers; dimensions left out are 0."""
    return Coordinate((*vec, *(0.0,) * (DIMENSIONS - len(vec))), error, adjustment, height)


def position(start: Coordinate | None = None, *, peers_max: int = PEERS_MAX, seed: int = 1) -> Position:
    return Position(random=Random(seed), at=start, peers_max=peers_max)


# -- what a coordinate is ------------------------------------------------------------------------------


def test_one_that_knows_nothing_stands_at_the_origin_and_says_so() -> None:
    assert Coordinate() == Coordinate((0.0,) * 8, 1.5, 0.0, 1e-5)


IMPOSSIBLE = [
    (at(), {"vec": (0.0,) * 7}, "8 dimensions, not 7"),
    (at(), {"vec": (0.0,) * 9}, "8 dimensions, not 9"),
    (at(), {"vec": ()}, "8 dimensions, not 0"),
    (at(), {"vec": (*(0.0,) * 7, NAN)}, "nan"),
    (at(), {"vec": (INF, *(0.0,) * 7)}, "inf"),
    (at(), {"vec": (-100.1, *(0.0,) * 7)}, "-100.1"),
    (at(), {"error": NAN}, "nan as error"),
    (at(), {"error": -0.1}, "-0.1 as error"),
    (at(), {"error": INF}, "inf as error"),
    (at(), {"adjustment": -INF}, "-inf"),
    (at(), {"height": -1e-9}, "height"),
    (at(), {"height": NAN}, "height"),
    (at(), {"height": 1e300}, "height"),
]


@pytest.mark.parametrize(("good", "change", "said"), IMPOSSIBLE)
def test_what_cannot_be_is_refused_when_it_is_made(
    good: Coordinate, change: dict[str, object], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        msgspec.structs.replace(good, **change)


# -- distance ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (at(height=0), at(height=0), 0),
        (at(), at(), 2e-5),
        (at(3, height=0), at(0, 4, height=0), 5),
        (at(3, height=0.5), at(0, 4, height=0.25), 5.75),
        (at(3, height=0, adjustment=0.5), at(0, 4, height=0, adjustment=-0.25), 5.25),
        # Adjustments that would take all of it are left out.
        (at(3, height=0, adjustment=-4), at(0, 4, height=0, adjustment=-1), 5),
        (at(3, height=0, adjustment=-4), at(0, 4, height=0, adjustment=-0.5), 0.5),
    ],
)
def test_distance_is_vector_and_heights_and_adjustments(
    one: Coordinate, other: Coordinate, expected: float
) -> None:
    """Consul documents this very sum for a coordinate."""
    assert distance(one, other) == pytest.approx(expected)


@given(coordinates, coordinates)
def test_distance_is_the_same_both_ways_finite_and_never_negative(one: Coordinate, other: Coordinate) -> None:
    assert distance(one, other) == distance(other, one)
    assert 0 <= distance(one, other) < INF


# -- the wire ------------------------------------------------------------------------------------------


@given(coordinates)
def test_what_is_encoded_is_decoded_and_fits_beside_an_answer(coordinate: Coordinate) -> None:
    data = encode(coordinate)
    assert decode(data) == coordinate
    assert len(data) <= WIRE_BYTES_MAX


HOSTILE = {
    "nothing": b"",
    "cut": encode(Coordinate())[:-1],
    "followed by more": encode(Coordinate()) + b"\x00",
    "too long": msgspec.msgpack.encode([[0.0] * 8, 1.5, 0.0, 1e-5, bytes(100)]),
    "no text": b"\xa1\xff",
    "no text inside": b"\x94\x98" + b"\xa1\xff" * 8 + bytes(3),
    "deep": b"\x91" * WIRE_BYTES_MAX,
    "deep behind": b"\x95" + encode(Coordinate())[1:] + b"\x91" * 20,
    "a bad type behind": b"\x95" + encode(Coordinate())[1:] + b"\xc1",
    "a map": msgspec.msgpack.encode({"vec": [0.0] * 8}),
    "a number": msgspec.msgpack.encode(1.5),
    "7 dimensions": msgspec.msgpack.encode([[0.0] * 7, 1.5, 0.0, 1e-5]),
    "9 dimensions": msgspec.msgpack.encode([[0.0] * 9, 1.5, 0.0, 1e-5]),
    "words": msgspec.msgpack.encode([["a"] * 8, 1.5, 0.0, 1e-5]),
    "truths": msgspec.msgpack.encode([[True] * 8, 1.5, 0.0, 1e-5]),
    "not a number": msgspec.msgpack.encode([[NAN] * 8, 1.5, 0.0, 1e-5]),
    "infinite": msgspec.msgpack.encode([[0.0] * 8, 1.5, INF, 1e-5]),
    "huge": msgspec.msgpack.encode([[2**64 - 1] * 8, 1.5, 0.0, 1e-5]),
    "below 0": msgspec.msgpack.encode([[0.0] * 8, 1.5, 0.0, -1.0]),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_bytes_that_are_no_coordinate_are_the_peers_fault(data: bytes) -> None:
    with pytest.raises(PeerBroke, match="coordinate"):
        decode(data)


def test_what_a_newer_version_adds_is_passed_over() -> None:
    newer = b"\x96" + encode(at(0.5, error=0.1))[1:] + msgspec.msgpack.encode("more") + b"\xa1\xff"
    assert decode(newer) == at(0.5, error=0.1)


def _possible(data: bytes) -> None:
    try:
        found = decode(data)
    except PeerBroke:
        return
    assert math.isfinite(distance(found, Coordinate()))


@given(st.binary(max_size=WIRE_BYTES_MAX + 2))
def test_any_bytes_are_a_possible_coordinate_or_the_peers_fault(data: bytes) -> None:
    _possible(data)


_anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=9),
    max_leaves=12,
)


@given(st.lists(st.floats(), max_size=10), st.lists(_anything, max_size=4))
def test_anything_well_formed_is_a_possible_coordinate_or_the_peers_fault(
    vec: list[float], rest: list[object]
) -> None:
    _possible(msgspec.msgpack.encode([vec, *rest]))


@given(coordinates, st.integers(0, 100), st.integers(0, 255))
def test_a_changed_byte_gives_a_possible_coordinate_or_the_peers_fault(
    coordinate: Coordinate, where: int, byte: int
) -> None:
    data = bytearray(encode(coordinate))
    data[where] = byte
    _possible(bytes(data))


# -- one measurement -----------------------------------------------------------------------------------


@pytest.mark.parametrize("rtt_s", [NAN, INF, -INF, -1e-9, 10.001])
def test_a_round_trip_that_cannot_be_is_refused_and_changes_nothing(rtt_s: float) -> None:
    here = position(at(1, error=0.5))
    before = here.coordinate
    with pytest.raises(BadRequest, match="round trip"):
        here.observe("b", at(2), rtt_s)
    assert here.coordinate == before
    assert here.peers == 0


@pytest.mark.parametrize(
    ("rtt_s", "moved_to"),
    [(2.0, 0.875), (1.0, 1.0), (0.5, 1.0625)],
)
def test_it_steps_an_eighth_of_what_is_missed_if_both_are_as_sure(rtt_s: float, moved_to: float) -> None:
    """Vivaldi, c_c = 0.25, and half of the weight is the other's. Heights so small take next to nothing."""
    here = position(at(1, error=0.5))
    here.observe("b", at(2, error=0.5), rtt_s)
    assert here.coordinate.vec[0] == pytest.approx(moved_to, abs=1e-4)
    assert here.coordinate.vec[1:] == (0.0,) * 7


@pytest.mark.parametrize(("theirs", "moved"), [(0.0, 0.25), (0.5, 0.125), (1.5, 0.0625), (49.5, 0.0025)])
def test_who_is_unsure_moves_others_less(theirs: float, moved: float) -> None:
    here = position(at(1, error=0.5))
    here.observe("b", at(2, error=theirs), 2.0)
    assert 1 - here.coordinate.vec[0] == pytest.approx(moved, abs=1e-4)


def test_vector_and_height_share_a_step_by_their_size() -> None:
    here = position(at(error=0.5, height=0.5))
    here.observe("b", at(3, error=0.0, height=0.5), 8.0)
    # 4 s are missed, so 1 s is stepped: 3 of 4 parts of the distance are the vector's, 1 the heights'.
    assert here.coordinate.vec[0] == pytest.approx(-0.75, abs=1e-4)
    assert here.coordinate.height == pytest.approx(0.75)


def test_a_height_never_falls_below_the_least() -> None:
    here = position(at(0.001, error=0.5, height=0.002))
    for _ in range(100):
        here.observe("b", at(error=0.1, height=0.002), 0.0)
    assert here.coordinate.height == HEIGHT_MIN_S


def test_its_error_is_what_it_is_used_to_miss() -> None:
    here = position(at(1, error=0.5, height=0))
    here.observe("b", at(2, error=0.5, height=0), 4.0)
    assert here.coordinate.error == pytest.approx(0.125 * 0.75 + 0.875 * 0.5), "3 of 4 s were missed"
    here.observe("c", at(300e-6, error=0.1), 1e-6)
    assert here.coordinate.error == ERROR_MAX, "it never says more"


def test_even_who_is_certain_can_be_moved() -> None:
    here = position(at(1, error=0.0))
    for _ in range(50):
        here.observe("b", at(2, error=0.5), 0.1)
    assert distance(here.coordinate, at(2)) == pytest.approx(0.1, rel=0.1)


def test_points_that_coincide_part_in_a_drawn_direction() -> None:
    here, there = position(seed=1), position(seed=2)
    here.observe("b", there.coordinate, 0.02)
    there.observe("a", there.coordinate, 0.02)
    assert math.hypot(*here.coordinate.vec) == pytest.approx(0.02 / 8, rel=0.01)
    assert here.coordinate.vec != there.coordinate.vec
    assert here.coordinate.height == HEIGHT_MIN_S


def test_points_that_coincide_and_are_to_come_nearer_only_lower_their_heights() -> None:
    here = position(at(error=0.5, height=0.002))
    here.observe("b", at(error=0.5, height=0.002), 0.001)
    assert here.coordinate.vec == (0.0,) * 8
    assert here.coordinate.height == pytest.approx(0.002 - 0.003 / 8)


def test_points_part_even_if_no_direction_is_drawn() -> None:
    here = Position(random=Same(0.5))
    here.observe("b", Coordinate(), 0.02)
    assert here.coordinate.vec[0] == pytest.approx(0.02 / 8, rel=0.01)


def test_the_adjustment_takes_half_of_what_no_point_can_express() -> None:
    """Lee et al. 2010: the window is of 20, and counts as full from the start."""
    there = at(error=0.1, height=0.010)
    here = position(at(error=0.1, height=0))
    seen = []
    for _ in range(60):
        here.observe("b", there, 0.004)
        seen.append(here.coordinate.adjustment)
    assert seen[0] == pytest.approx(-0.006 / 40, rel=0.01)
    assert seen[9] == pytest.approx(-0.006 / 4, rel=0.01)
    assert seen[19:] == pytest.approx([-0.003] * 41, rel=0.01)


def test_the_adjustment_is_of_what_the_step_left() -> None:
    here = position(at(1, error=0.5))
    here.observe("b", at(2, error=0.5), 2.0)
    assert here.coordinate.adjustment == pytest.approx(0.875 / 40, rel=0.001)


def test_far_out_it_is_pulled_to_the_origin() -> None:
    here = position(at(50, error=0.5, height=0))
    here.observe("b", at(45, error=0.5, height=0), 5.0)
    assert here.coordinate.vec[0] == pytest.approx(50 - (50 / 150) ** 2)


@given(coordinates, coordinates, rtts)
def test_no_measurement_moves_it_farther_than_a_quarter_of_what_was_missed(
    start: Coordinate, there: Coordinate, rtt_s: float
) -> None:
    here = position(start)
    missed_s = abs(max(rtt_s, 1e-6) - math.dist(start.vec, there.vec) - start.height - there.height)
    here.observe("b", there, rtt_s)
    if here.resets:
        return
    moved_s = math.dist(start.vec, here.coordinate.vec)
    pulled_s = (FAR_S * math.sqrt(DIMENSIONS) / 150) ** 2
    assert moved_s <= 0.25 * missed_s + pulled_s
    assert abs(here.coordinate.height - start.height) <= 0.25 * missed_s + HEIGHT_MIN_S


@given(coordinates, st.lists(st.tuples(st.sampled_from("abcde"), coordinates, rtts), max_size=20))
def test_whatever_is_measured_it_stands_where_it_can(
    start: Coordinate, measured: list[tuple[str, Coordinate, float]]
) -> None:
    here = position(start, peers_max=3)
    for peer, there, rtt_s in measured:
        here.observe(peer, there, rtt_s)
        assert decode(encode(here.coordinate)) == here.coordinate
        assert 0 < here.coordinate.error <= ERROR_MAX
        assert here.coordinate.height >= HEIGHT_MIN_S
        assert here.peers <= 3


def test_one_that_is_led_out_of_the_world_begins_anew() -> None:
    here = position(at(99.9, error=0.5))
    here.observe("a", at(-99, error=FAR_S), 10.0)
    assert here.coordinate.adjustment < -4
    here.observe("b", at(95, error=0.0), 10.0)
    assert here.resets == 1
    assert here.coordinate == Coordinate()
    here.observe("c", at(0.001, error=0.5), 0.001)
    assert abs(here.coordinate.adjustment) < 0.0001, "what it missed before says nothing any more"


# -- the latencies of one peer -------------------------------------------------------------------------


def after(*rtts_s: float, peer: str = "b") -> Coordinate:
    here = position(at(0.01, error=0.5))
    for rtt_s in rtts_s:
        here.observe(peer, at(0.02, error=0.5), rtt_s)
    return here.coordinate


@pytest.mark.parametrize(
    ("measured", "as_if"),
    [
        ((0.01, 5.0), (0.01, 0.01)),  # of two the lower: answers come late, not early
        ((0.01, 0.01, 5.0), (0.01, 0.01, 0.01)),
        ((0.01, 5.0, 0.01), (0.01, 0.01, 0.01)),
        ((0.02, 0.02, 0.01), (0.02, 0.02, 0.02)),
        ((0.02, 0.01, 0.01, 5.0), (0.02, 0.01, 0.01, 0.01)),
    ],
)
def test_one_late_answer_of_three_counts_for_nothing(
    measured: tuple[float, ...], as_if: tuple[float, ...]
) -> None:
    assert after(*measured) == after(*as_if)


def test_a_longer_way_is_believed_the_second_time() -> None:
    assert after(0.01, 0.01, 0.02, 0.02) != after(0.01, 0.01, 0.01, 0.02)
    assert after(0.01, 0.01, 0.02, 0.02).error > after(0.01, 0.01, 0.01, 0.02).error


def test_each_peer_has_latencies_of_its_own() -> None:
    here, twin = position(at(0.01, error=0.5)), position(at(0.01, error=0.5))
    for one in (here, twin):
        one.observe("b", at(0.02), 0.01)
        one.observe("b", at(0.02), 0.01)
    here.observe("b", at(0.02), 5.0)
    twin.observe("c", at(0.02), 5.0)
    assert distance(twin.coordinate, at(0.02)) > 10 * distance(here.coordinate, at(0.02))


def test_a_forgotten_peer_is_measured_anew() -> None:
    here, twin = position(at(0.01, error=0.5)), position(at(0.01, error=0.5))
    for one in (here, twin):
        one.observe("b", at(0.02, error=0.5), 0.01)
    here.forget("b")
    here.forget("never-heard-of")
    assert here.peers == 0
    here.observe("b", at(0.02, error=0.5), 0.03)
    twin.observe("b", at(0.02, error=0.5), 0.03)
    assert here.coordinate != twin.coordinate


def test_beyond_the_limit_who_was_heard_of_longest_ago_is_forgotten() -> None:
    def heard(*peers: str) -> Position:
        here = position(at(0.01, error=0.5), peers_max=3)
        for peer in peers:
            here.observe(peer, at(0.02, error=0.5), 0.01)
        return here

    for last, late_counts in (("a", False), ("b", True), ("c", False), ("d", False)):
        here, calm = heard("a", "b", "c", "a", "d"), heard("a", "b", "c", "a", "d")
        assert here.peers == 3
        here.observe(last, at(0.02, error=0.5), 5.0)
        calm.observe(last, at(0.02, error=0.5), 0.01)
        assert (here.coordinate != calm.coordinate) == late_counts, last


# -- a cluster -----------------------------------------------------------------------------------------


class World:
    """Hosts with even numbers stand in one data centre and the others 40 ms off; each probes one a second.

    As SWIM does, in a drawn order of all. A round trip is what the hosts' places and links say, and on top of
    it jitter: 40 us and a hundredth on average. Late answers, of which there is a share, take 50 ms to 1 s.
    """

    def __init__(self, seed: int, hosts: int = 50) -> None:
        self._random = Random(seed)
        self._places = [self._place(host % 2) for host in range(hosts)]
        self._links_s = [self._random.uniform(50e-6, 400e-6) for _ in range(hosts)]
        self._turns: list[list[int]] = [[] for _ in range(hosts)]
        self.hosts = range(hosts)
        self.positions = [Position(random=self._random) for _ in self.hosts]

    def _place(self, centre: int) -> tuple[float, float, float]:
        return (self._random.uniform(0, 400e-6), self._random.uniform(0, 400e-6), 0.040 * centre)

    def true_s(self, one: int, other: int) -> float:
        return math.dist(self._places[one], self._places[other]) + self._links_s[one] + self._links_s[other]

    def move(self, host: int, centre: int) -> None:
        self._places[host] = self._place(centre)

    def restart(self, host: int) -> None:
        self.positions[host] = Position(random=self._random)

    def live(self, seconds: int, late: float = 0.0) -> None:
        for _ in range(seconds):
            for host in self.hosts:
                self._probe(host, self._next(host), late)

    def _next(self, host: int) -> int:
        if not self._turns[host]:
            self._turns[host] = [other for other in self.hosts if other != host]
            self._random.shuffle(self._turns[host])
        return self._turns[host].pop()

    def _probe(self, host: int, other: int, late: float) -> None:
        rtt_s = self.true_s(host, other)
        rtt_s += self._random.expovariate(1 / (40e-6 + 0.01 * rtt_s))
        if self._random.random() < late:
            rtt_s = self._random.uniform(0.05, 1.0)
        there = decode(encode(self.positions[other].coordinate))
        self.positions[host].observe(str(other), there, rtt_s)

    # -- how good it is

    def estimated_s(self, one: int, other: int) -> float:
        return distance(self.positions[one].coordinate, self.positions[other].coordinate)

    def error(self, pairs: Iterable[tuple[int, int]]) -> float:
        """The median, over these pairs, of what the estimate is off, relatively."""
        return median(abs(self.estimated_s(*pair) / self.true_s(*pair) - 1) for pair in pairs)

    def pairs(self, but: int = -1) -> list[tuple[int, int]]:
        return [(a, b) for a in self.hosts for b in range(a) if but not in (a, b)]

    def within(self) -> list[tuple[int, int]]:
        return [(a, b) for a, b in self.pairs() if a % 2 == b % 2]

    def across(self) -> list[tuple[int, int]]:
        return [(a, b) for a, b in self.pairs() if a % 2 != b % 2]

    def of(self, host: int) -> list[tuple[int, int]]:
        return [(host, other) for other in self.hosts if other != host]

    def confused(self) -> list[int]:
        """To whom a host of the other data centre seems nearer than one of the own."""
        return [host for host in self.hosts if self._nearest_stranger_s(host) < self._farthest_mate_s(host)]

    def _nearest_stranger_s(self, host: int) -> float:
        return min(self.estimated_s(*pair) for pair in self.of(host) if pair[1] % 2 != host % 2)

    def _farthest_mate_s(self, host: int) -> float:
        return max(self.estimated_s(*pair) for pair in self.of(host) if pair[1] % 2 == host % 2)

    def assert_places_are_known(self) -> None:
        """Measured over 20 seeds, at worst: 0.015 of all, 0.10 within (of less than 1 ms), 0.010 across."""
        assert self.error(self.pairs()) < 0.03
        assert self.error(self.within()) < 0.20
        assert self.error(self.across()) < 0.02
        assert self.confused() == []


SEEDS = pytest.mark.parametrize("seed", [1, 2, 3])


@SEEDS
def test_in_a_minute_members_know_who_is_near_and_in_five_how_near(seed: int) -> None:
    world = World(seed)
    world.live(60)
    assert world.confused() == []
    assert world.error(world.within()) < 0.7, (
        "0.49 at worst of 20 seeds; 1.6 at best with adjustments in the steps"
    )
    world.live(240)
    world.assert_places_are_known()
    assert median(one.coordinate.error for one in world.positions) < 0.2, "and they know that they know"


@SEEDS
def test_late_answers_hardly_move_them_and_are_soon_forgotten(seed: int) -> None:
    world = World(seed)
    world.live(300)
    world.live(300, late=0.01)
    assert world.error(world.pairs()) < 0.10, "0.037 at worst of 20 seeds"
    world.live(120)
    world.assert_places_are_known()


@SEEDS
def test_those_that_started_amid_late_answers_find_their_places(seed: int) -> None:
    world = World(seed)
    world.live(300, late=0.01)
    assert world.error(world.pairs()) < 0.20, "0.072 at worst of 20 seeds"
    world.live(120)
    world.assert_places_are_known()


@SEEDS
def test_a_member_that_moves_is_followed_and_the_others_stay(seed: int) -> None:
    """It measures each other once in 49 s, and believes the second time."""
    world = World(seed)
    world.live(300)
    world.move(0, centre=1)
    assert world.error(world.of(0)) > 0.9
    world.live(150)
    assert world.error(world.of(0)) < 0.10, "0.041 at worst of 20 seeds"
    assert world.error(world.pairs(but=0)) < 0.03
    world.move(0, centre=0)
    world.live(200)
    world.assert_places_are_known()


@SEEDS
def test_one_that_begins_anew_finds_its_place_and_moves_nobody(seed: int) -> None:
    world = World(seed)
    world.live(300)
    world.restart(1)
    world.live(30)
    assert world.error(world.of(1)) < 0.06, "0.025 at worst of 20 seeds"
    world.assert_places_are_known()


@pytest.mark.parametrize("hosts", [2, 3, 5])
def test_few_members_know_their_round_trips_too(hosts: int) -> None:
    world = World(seed=1, hosts=hosts)
    world.live(120)
    assert world.error(world.pairs()) < 0.05


def test_nobody_is_led_out_of_the_world_by_late_answers() -> None:
    world = World(seed=1)
    world.live(120, late=0.2)
    assert [one.resets for one in world.positions] == [0] * 50
