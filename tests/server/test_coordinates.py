"""Coordinates on their way to the log: each node's last word, in batches, where all can read them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from simulation.network import CALM
from simulation.run import SECOND_US, Run
from support.lossy_vfs import registered

from gemot.server.coordinates import (
    IN_ONE_COMMAND,
    MOST_AT_ONCE,
    MOST_WAITING,
    WRITE_EVERY_MS,
    CoordinateBatches,
)
from gemot.server.features import Features
from gemot.server.model.command import Command
from gemot.server.model.coordinate import Coordinate, CoordinateOf, NodeCoordinate, SetCoordinates
from gemot.server.model.errors import PeerBroke
from gemot.server.rpc.message import COORDINATES, FEATURES, Locate, Report, decode_call, encode
from gemot.server.server import Server

SERVERS = ("id1", "id2", "id3")


class Leader:
    """srv1 of three, which leads. The catalog has every node whose name begins with `n`."""

    def __init__(self) -> None:
        self.now_ms = 0
        self.proposed: list[Command] = []
        self.written = False
        self.features = Features(me="id1", servers=lambda: SERVERS, begun=lambda feature: self.written)
        self.batches = CoordinateBatches(
            features=self.features,
            propose=self.proposed.append,
            has_node=lambda name: name[:1] == "n",
            now_ms=lambda: self.now_ms,
        )

    def all_know_it(self) -> Leader:
        for server in SERVERS[1:]:
            self.features.hear(server, FEATURES)
        return self

    def pass_s(self, seconds: int) -> None:
        for _ in range(seconds):
            self.now_ms += 1_000
            self.batches.on_second()


def at(node: str, error: float = 1.5) -> NodeCoordinate:
    return NodeCoordinate(node, Coordinate(error=error))


def test_of_a_node_the_last_word_is_written_in_one_command_with_others() -> None:
    leader = Leader().all_know_it()
    leader.batches.take([at("n1", 0.1), at("n2"), at("n1", 0.2)])
    leader.pass_s(1)
    assert leader.proposed == [SetCoordinates((at("n1", 0.2), at("n2")))]
    leader.pass_s(20)
    assert len(leader.proposed) == 1


def test_it_writes_at_most_every_five_seconds_and_so_many() -> None:
    leader = Leader().all_know_it()
    for second in range(20):
        leader.batches.take(at(f"n{number}", second / 100) for number in range(2 * MOST_AT_ONCE))
        leader.pass_s(1)
    sizes = [len(each.rows) for each in leader.proposed if isinstance(each, SetCoordinates)]
    assert sum(sizes) == 20_000 // WRITE_EVERY_MS * MOST_AT_ONCE
    assert set(sizes) == {IN_ONE_COMMAND}
    assert len(encode(leader.proposed[0])) < 20_000


def test_only_nodes_of_the_catalog_are_written() -> None:
    leader = Leader().all_know_it()
    leader.batches.take([at("stranger"), at(""), at("x" * 5_000)])
    leader.pass_s(10)
    assert leader.proposed == []
    assert len(leader.batches) == 0


def test_what_waits_is_bounded() -> None:
    leader = Leader()
    leader.batches.take(at(f"n{number}") for number in range(MOST_WAITING + 100))
    assert len(leader.batches) == MOST_WAITING
    assert len(leader.batches.hand_on()) == MOST_AT_ONCE


def test_nothing_is_written_while_a_server_may_not_know_the_command() -> None:
    leader = Leader()
    leader.batches.take([at("n1")])
    leader.features.hear("id2", FEATURES)
    leader.pass_s(10)
    leader.features.hear("id3", ())
    leader.pass_s(10)
    assert leader.proposed == [], "id3 is of an older release"
    leader.features.hear("id3", FEATURES)
    leader.pass_s(1)
    assert leader.proposed == [SetCoordinates((at("n1"),))]


def test_where_the_log_has_had_one_nobody_is_waited_for() -> None:
    leader = Leader()
    leader.written = True
    leader.batches.take([at("n1")])
    leader.pass_s(1)
    assert leader.proposed == [SetCoordinates((at("n1"),))]


# -- beside older releases -----------------------------------------------------------------------------------


class _OldReport(msgspec.Struct, frozen=True, array_like=True, tag=5):
    members: tuple[None, ...]
    free_bytes: int = -1
    reserve_bytes: int = 0
    applied: int = -1


class _OldNumbered(msgspec.Struct, frozen=True, array_like=True):
    id: int
    call: _OldReport


def test_an_older_leader_reads_over_what_a_report_has_beyond_its_own() -> None:
    report = Report((), 1, 2, 3, FEATURES, (at("n1"),))
    old = msgspec.msgpack.decode(encode((1, report)), type=_OldNumbered)
    assert old.call == _OldReport((), 1, 2, 3)
    assert decode_call(encode((1, _OldReport((), 1, 2, 3)))).call == Report((), 1, 2, 3)


@pytest.mark.parametrize("wrong", [Coordinate(), ((0.0,) * 3, 1.5, 0.0, 0.0), ((0.0,) * 8, 1e9, 0.0, 0.0)])
def test_a_call_with_a_point_that_cannot_be_breaks_the_connection_and_nothing_else(wrong: object) -> None:
    data = encode((1, (21, ("n1", wrong), "")))
    if isinstance(wrong, Coordinate):
        assert decode_call(data).call == Locate(NodeCoordinate("n1", wrong))
    else:
        with pytest.raises(PeerBroke):
            decode_call(data)


# -- among servers -------------------------------------------------------------------------------------------


def test_who_is_in_no_catalog_takes_nobodys_room() -> None:
    leader = Leader().all_know_it()
    leader.batches.take([at(f"invented{n}") for n in range(MOST_WAITING)])
    leader.batches.take([at("n1")])
    leader.pass_s(WRITE_EVERY_MS // 1_000)
    assert leader.proposed == [SetCoordinates((at("n1"),))]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with registered("gemot-coordinates") as vfs:
        run = Run(2, tmp_path, vfs)
        run.network.weather = CALM
        for node in run.nodes:
            node.start()
        run.world.run(4 * SECOND_US)
        yield run
        run.close()


def test_what_a_follower_is_told_is_in_the_state_of_all_within_seconds(run: Run) -> None:
    servers: list[Server] = [node.server for node in run.nodes if node.server is not None]
    assert all(COORDINATES in server.endpoint.hello().features for server in servers)
    follower = next(server for server in servers if not server.leads)
    place = Coordinate((0.01, *(0.0,) * 7))
    told: list[object] = []
    follower.endpoint.handle(follower.me, Locate(NodeCoordinate(follower.me.name, place)), told.append)
    assert told == [True]
    run.world.run(run.world.now_us + 8 * SECOND_US)
    found = [server.state.read(CoordinateOf(follower.me.name), "")[0] for server in servers]
    assert [each.coordinate for each in found] == [place] * len(servers)
    assert len({server.state.state_hash for server in servers}) == 1
