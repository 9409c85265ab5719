"""Where an agent stands: measured among real members, told to servers, remembered; whatever others say."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.far import start_far
from support.gossiping import Gossiper, eventually

from gemot.agent import whereabouts as module
from gemot.agent.gossip.coordinate import encode
from gemot.agent.gossip.timing import LOCAL
from gemot.agent.whereabouts import EVERY_S, Whereabouts
from gemot.server.model.coordinate import ERROR_MAX, Coordinate, NodeCoordinate, distance
from gemot.server.model.errors import GemotError, RuleFailed, Unavailable

THERE = Coordinate((0.005, *(0.0,) * 7), error=0.5)


class Servers:
    """`told` is what they heard."""

    def __init__(self, failure: GemotError | None = None) -> None:
        self.failure = failure
        self.told: list[NodeCoordinate] = []

    def locate(self, row: NodeCoordinate, *, token: str = "") -> asyncio.Future[bool]:
        self.told.append(row)
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        if self.failure is not None:
            future.set_exception(self.failure)
        else:
            future.set_result(True)
        return future


class Crowd:
    """Gossip among so many."""

    def __init__(self, here: int) -> None:
        self.here = here
        self.surveyor: Whereabouts | None = None

    def survey(self, surveyor: Whereabouts) -> None:
        self.surveyor = surveyor


def one(folder: Path, servers: Servers | None = None, here: int = 3, seed: int = 1) -> Whereabouts:
    return Whereabouts(
        node="n1",
        servers=servers or Servers(),
        gossip=Crowd(here),
        file=folder / "coordinate",
        random=random.Random(seed),
    )


def test_answers_of_others_move_it_and_its_own_answers_say_where_it_is(tmp_path: Path) -> None:
    here = one(tmp_path)
    before = here.payload()
    here.on_distance("id2", 0.02, encode(THERE))
    assert here.coordinate.error < ERROR_MAX
    assert here.payload() == encode(here.coordinate) != before
    assert here.dropped == 0


def test_an_answer_of_an_older_release_says_nothing(tmp_path: Path) -> None:
    here = one(tmp_path)
    here.on_distance("id2", 0.02, b"")
    assert (here.coordinate, here.dropped) == (Coordinate(), 0)


@pytest.mark.parametrize(
    ("rtt_s", "payload"),
    [
        (0.02, b"\xc1"),
        (0.02, encode(THERE)[:-1]),
        (0.02, bytes(128)),
        (0.02, encode(THERE).replace(b"\xcb?\xe0", b"\xcb\x7f\xf0")),
        (60.0, encode(THERE)),
        (-1.0, encode(THERE)),
        (float("nan"), encode(THERE)),
    ],
)
def test_what_is_no_place_or_no_round_trip_is_dropped_and_counted(
    tmp_path: Path, rtt_s: float, payload: bytes
) -> None:
    here = one(tmp_path)
    here.on_distance("id2", rtt_s, payload)
    assert (here.coordinate, here.dropped) == (Coordinate(), 1)


@given(st.binary(max_size=128), st.floats())
def test_no_answer_does_more_than_move_it(payload: bytes, rtt_s: float) -> None:
    here = one(Path("/nonexistent"))
    here.on_distance("id2", rtt_s, payload)
    Coordinate(*(getattr(here.coordinate, name) for name in ("vec", "error", "adjustment", "height")))


def test_it_is_told_at_once_to_nobody_and_then_as_rarely_as_consul_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first word within 15 s, by chance; each further one 15 to 30 s later; among many, later still."""

    def pauses(here: int) -> list[float]:
        slept: list[float] = []

        async def sleep(s: float) -> None:
            slept.append(s)
            if len(slept) == 200:
                raise asyncio.CancelledError

        async def work() -> None:
            whereabouts = one(tmp_path, here=here)
            with pytest.raises(asyncio.CancelledError):
                await whereabouts._run()

        with monkeypatch.context() as patch:
            patch.setattr(module.asyncio, "sleep", sleep)
            asyncio.run(work())
        return slept

    few = pauses(3)
    assert 0 <= few[0] <= EVERY_S
    assert all(EVERY_S <= pause <= 2 * EVERY_S for pause in few[1:])
    assert max(few[1:]) - min(few[1:]) > EVERY_S / 2, "not all at the same time"
    many = pauses(64 * 100)
    assert all(100 <= pause <= 200 for pause in many[1:])


@pytest.mark.parametrize("failure", [RuleFailed("srv1 is of an older release"), Unavailable("none")])
def test_servers_that_do_not_take_it_are_told_of_once_at_most(
    tmp_path: Path, failure: GemotError, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        servers = Servers(failure)
        whereabouts = one(tmp_path, servers)
        for _ in range(5):
            await whereabouts._tell()
        assert len(servers.told) == 5, "they may be upgraded"

    caplog.set_level("INFO")
    asyncio.run(work())
    assert len(caplog.records) == (1 if isinstance(failure, RuleFailed) else 0)


def test_it_is_remembered_over_a_restart(tmp_path: Path) -> None:
    async def work() -> None:
        first = one(tmp_path)
        first.start()
        first.on_distance("id2", 0.02, encode(THERE))
        await first.stop()
        assert one(tmp_path).coordinate == first.coordinate

    asyncio.run(work())


@pytest.mark.parametrize("found", [b"", b"\xc1", bytes(10_000), b"\x92\x02\x94\x90\x00\x00\x00"])
def test_a_file_that_cannot_be_read_is_begun_anew(tmp_path: Path, found: bytes) -> None:
    (tmp_path / "coordinate").write_bytes(found)
    assert one(tmp_path).coordinate == Coordinate()


def test_a_disk_that_takes_nothing_does_not_stop_the_agent(tmp_path: Path) -> None:
    async def work() -> None:
        whereabouts = one(tmp_path / "none")
        whereabouts.start()
        await whereabouts.stop()

    asyncio.run(work())


def test_real_members_measure_less_than_a_millisecond_on_one_host(tmp_path: Path) -> None:
    """Round trips are told in parts of a second, not in the whole milliseconds of the protocol's clock."""

    async def work() -> None:
        told: list[tuple[str, float]] = []
        members = [
            await Gossiper(n, on_distance=lambda id, rtt_s, _: told.append((id, rtt_s))).start()
            for n in range(3)
        ]
        try:
            for other in members[1:]:
                await other.join(members[0])
            await eventually(lambda: len(told) >= 20)
        finally:
            for member in members:
                await member.stop()
        assert {id for id, _ in told} == {member.facts.id for member in members}
        assert all(0 < rtt_s < 10 for _, rtt_s in told)
        assert len({rtt_s for _, rtt_s in told}) > 10
        assert any(rtt_s % 0.001 > 1e-6 for _, rtt_s in told)

    asyncio.run(work())


def test_a_member_whose_answers_take_long_is_found_to_be_far(tmp_path: Path) -> None:
    """Real sockets: two that are near each other, and one whose datagrams leave 60 ms late."""
    timing = msgspec.structs.replace(LOCAL, probe_interval_ms=160, probe_timeout_ms=150)

    async def work() -> None:
        places = [one(tmp_path / str(n), seed=n) for n in range(3)]
        members = [
            Gossiper(n, timing=timing, on_distance=place.on_distance, payload=place.payload)
            for n, place in enumerate(places)
        ]
        try:
            await start_far(members[2], 0.06)
            for member in members[:2]:
                await member.start()
            for member in members[1:]:
                await member.join(members[0])

            def told_apart() -> bool:
                a, b, far = (place.coordinate for place in places)
                known = far.error < ERROR_MAX / 2
                return known and min(distance(a, far), distance(b, far)) > 3 * distance(a, b)

            await eventually(told_apart)
        finally:
            for member in members:
                await member.stop()

    asyncio.run(work())
