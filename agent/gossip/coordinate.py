"""Where members stand in the network, so that the round trip between any two is known without a ping. Pure.

Each member keeps a point such that its distance from another's point is the round trip between the two. It
measures some others (the probes do that anyway), learns their points with the answer, and steps towards or
away from each until the distances fit. Nobody measures all pairs, and nobody is in charge. What this is not:
it decides nothing, and no rule of the state may depend on it; a member may say of itself what it wants.

Sources: the steps, their weight by error, and the height (the link that all of a host's traffic shares) are
those of Dabek, Cox, Kaashoek, Morris, "Vivaldi: A Decentralized Network Coordinate System" (2004). The median
of recent measurements of one link and the pull to the origin are of Ledlie, Gardner, Seltzer, "Network
Coordinates in the Wild" (2007). The adjustment, which takes in what no point can express, is of Lee, Zhang,
Sahu, Saha, "On Suitability of Euclidean Embedding for Host-Based Network Coordinate Systems" (2010). The
number of dimensions and all constants are serf's: a coordinate of ours is read as one of Consul's.

Two things differ from serf, for what 20 simulations of 50 members showed. Vector and height share a step, as
in the Vivaldi paper, so that it is never longer than its force: where each took the whole, late answers (up
to 1 s) threw heights in one data centre up to 0.42 s high, against 0.10 s. And the adjustment stays out of
the steps, as with Lee et al.: after a minute, round trips within one of two data centres were estimated wrong
by 0.39 of what they are; else by 1.9.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Protocol

import msgspec

from gemot.server.model.coordinate import (
    DIMENSIONS,
    ERROR_MAX,
    HEIGHT_MIN_S,
    Coordinate,
    unadjusted,
)
from gemot.server.model.errors import BadRequest, PeerBroke

RTT_MAX_S = 10.0
"""A longer round trip is a stopped host or a clock that jumped, and says nothing of the network."""

WIRE_BYTES_MAX = 128
"""An answer to a probe carries a coordinate, beside news. Ours are 101 bytes; some room for a field."""

PEERS_MAX = 8_192
"""Whose latencies are kept, about 2 MB of them; beyond, who was heard of longest ago is forgotten."""

_ERROR_MIN = 1e-6
"""Nobody is so sure of its place that nothing could move it."""

_ERROR_GAIN = 0.25
_STEP_GAIN = 0.25
"""Vivaldi's c_e and c_c: how much one measurement counts at most. More is faster, and restless."""

_LATENCIES = 3
"""Of one peer. Enough for one late answer to count for nothing, few enough to follow a change of route."""

_ADJUSTED = 20
"""Over how many of the last measurements, of whatever peer, the adjustment is taken."""

_GRAVITY_S = 150.0
"""At this distance from the origin the pull is 1 s a step; at 100 ms less than a microsecond: it hinders
nobody, and keeps the whole cluster from drifting away over the years."""

_TOGETHER_S = 1e-6
"""Points less apart have no direction from each other; and no round trip counts for less."""


class Random(Protocol):
    def random(self) -> float:
        """In [0, 1)."""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Coordinate)


def encode(coordinate: Coordinate) -> bytes:
    return _encoder.encode(coordinate)


def decode(data: bytes) -> Coordinate:
    """Raises PeerBroke for anything but a possible coordinate; what a newer version adds is passed over."""
    if len(data) > WIRE_BYTES_MAX:
        raise PeerBroke(f"a coordinate of {len(data)} bytes, the limit is {WIRE_BYTES_MAX}")
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PeerBroke(f"no coordinate: {error}") from error


class Position:
    """Where this member stands, by its own measurements.

    `at`: where it stood before a restart. `random` gives the direction in which points part that coincide.
    """

    def __init__(self, *, random: Random, at: Coordinate | None = None, peers_max: int = PEERS_MAX) -> None:
        self.coordinate = at or Coordinate()
        self.resets = 0
        self._random = random
        self._peers_max = peers_max
        self._latencies: dict[str, tuple[float, ...]] = {}
        self._misses: deque[float] = deque(maxlen=_ADJUSTED)

    @property
    def peers(self) -> int:
        """Of how many latencies are kept."""
        return len(self._latencies)

    def observe(self, peer: str, there: Coordinate, rtt_s: float) -> None:
        """`peer` stands `there`, by its own account, and answered after `rtt_s`.

        Raises BadRequest for a round trip that cannot be or tells nothing; nothing has changed then.
        """
        if not 0 <= rtt_s <= RTT_MAX_S:
            raise BadRequest(f"a round trip of {rtt_s} s is outside 0 to {RTT_MAX_S} s")
        usual_s = max(_TOGETHER_S, self._usual(peer, rtt_s))
        try:
            self.coordinate = self._adjusted(self._stepped(there, usual_s), there, usual_s)
        except ValueError:
            self._begin_anew()

    def forget(self, peer: str) -> None:
        """It is gone, or has come back elsewhere: what was measured before says nothing of it any more."""
        self._latencies.pop(peer, None)

    def _usual(self, peer: str, rtt_s: float) -> float:
        """The median of the last few. Of two it is the lower: answers come late, never early."""
        latencies = (*self._latencies.pop(peer, ()), rtt_s)[-_LATENCIES:]
        self._latencies[peer] = latencies
        if len(self._latencies) > self._peers_max:
            del self._latencies[next(iter(self._latencies))]
        return sorted(latencies)[(len(latencies) - 1) // 2]

    def _stepped(self, there: Coordinate, rtt_s: float) -> Coordinate:
        """One step of Vivaldi: the longer, the less is known here and the more there."""
        here = self.coordinate
        missing_s = rtt_s - unadjusted(here, there)
        before = max(_ERROR_MIN, here.error)
        weight = before / (before + there.error)
        gain = _ERROR_GAIN * weight
        error = min(ERROR_MAX, gain * abs(missing_s) / rtt_s + (1 - gain) * before)
        vec, height = self._pushed(there, _STEP_GAIN * weight * missing_s)
        return Coordinate(_pulled(vec), error, here.adjustment, height)

    def _pushed(self, there: Coordinate, force_s: float) -> tuple[tuple[float, ...], float]:
        """This vector and height after a push away from another point: each takes its share of it.

        Points that coincide have no direction to part in, so one is drawn.
        """
        here = self.coordinate
        apart_s = math.dist(here.vec, there.vec)
        heights_s = here.height + there.height
        if apart_s <= _TOGETHER_S and force_s > 0:
            moved = zip(here.vec, self._direction(), strict=True)
            return tuple(x + force_s * u for x, u in moved), max(HEIGHT_MIN_S, here.height)
        share = force_s / (apart_s + heights_s)
        vec = tuple(x + share * (x - y) for x, y in zip(here.vec, there.vec, strict=True))
        return vec, max(HEIGHT_MIN_S, here.height + share * heights_s)

    def _direction(self) -> tuple[float, ...]:
        drawn = tuple(self._random.random() - 0.5 for _ in range(DIMENSIONS))
        length = math.hypot(*drawn)
        if length <= _TOGETHER_S:
            return (1.0, *(0.0,) * (DIMENSIONS - 1))
        return tuple(u / length for u in drawn)

    def _adjusted(self, stepped: Coordinate, there: Coordinate, rtt_s: float) -> Coordinate:
        """Half of what it misses on average: the other half is the peers' to put right.

        Over a full window, even while there are fewer measurements: the first ones say little.
        """
        self._misses.append(rtt_s - unadjusted(stepped, there))
        return msgspec.structs.replace(stepped, adjustment=sum(self._misses) / (2 * _ADJUSTED))

    def _begin_anew(self) -> None:
        """It was led to where nobody can be; nothing that follows from there would be worth more."""
        self.coordinate = Coordinate()
        self.resets += 1
        self._misses.clear()


def _pulled(vec: tuple[float, ...]) -> tuple[float, ...]:
    """Nearer to the origin by the square of the distance from it, in units of `_GRAVITY_S`."""
    share = math.hypot(*vec) / _GRAVITY_S**2
    return tuple(x - share * x for x in vec)
