"""A client agent's way to real servers: it survives their loss, and tells the truth about its writes."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from support.http_agent import run_uvloop, until
from support.members import client, hello

from gemot.agent import remote as remote_module
from gemot.agent.remote import RemoteServers
from gemot.server.config import ServerConfig
from gemot.server.model.catalog import Node as Host
from gemot.server.model.catalog import NodeInfo, Register
from gemot.server.model.command import IdempotencyKey
from gemot.server.model.coordinate import Coordinate, CoordinateOf, Coordinates, NodeCoordinate
from gemot.server.model.errors import (
    GemotError,
    OlderRelease,
    OutcomeForgotten,
    OutcomeUnknown,
    RuleFailed,
    TooLarge,
    Unavailable,
)
from gemot.server.model.kv import KvGet, KvSet
from gemot.server.model.query import Answer, Applied, Options
from gemot.server.model.upkeep import PruneRetries
from gemot.server.raft.types import Message
from gemot.server.rpc.message import (
    FEATURES,
    Apply,
    Ask,
    Call,
    Hello,
    Locate,
    Member,
    Operate,
    Status,
    Subscribe,
    TierStatus,
)
from gemot.server.runtime.connection import Listener
from gemot.server.runtime.node import Node, NodeConfig
from gemot.server.runtime.timer import LoopTimer
from gemot.server.server import Server
from gemot.server.storage.realdisk import RealDisk

HOLD_MS = 2_000
KEY = KvGet(b"k")


class Face:
    """One more RPC face of a real server: what a client is told can be lost on the way, once or for good."""

    def __init__(self, server: Server, number: int) -> None:
        self._server = server
        loop = asyncio.get_running_loop()
        self.listener = Listener(loop=loop, tier=self, host="127.0.0.1", port=0)
        self.number = number
        self.asked: list[Call] = []
        self.cluster = "c1"
        self.knows_leader = False
        self.features = FEATURES
        self.lose: Callable[[Call], bool] = lambda call: False
        self.refuses: GemotError | None = None

    async def start(self) -> None:
        await self.listener.start()
        host, port = self.listener.bound
        self.member = Member(
            f"face{self.number}", f"f{self.number}", host, "server", "dc1", "", f"{host}:{port}"
        )

    def hello(self) -> Hello:
        return hello(self.member, cluster=self.cluster, features=self.features)

    def handle(self, member: Member, call: Call, reply: Callable[[Any], None]) -> Callable[[], None]:
        self.asked.append(call)
        if isinstance(call, Status):
            reply(TierStatus(self.member if self.knows_leader else None, (), {}))
            return lambda: None
        if isinstance(call, Subscribe) and self.refuses is not None:
            reply(self.refuses)
            return lambda: None
        if self.lose(call):
            # It is done, and the connection breaks before the answer is out.
            return self._server.endpoint.handle(member, call, lambda result: self.break_all())
        return self._server.endpoint.handle(member, call, reply)

    def break_all(self) -> None:
        for connection in list(self.listener._sessions):
            connection.abort("broken by the test")

    def on_raft(self, member: Member, cluster: str, message: Message) -> None: ...

    def on_connected(self, member: Member) -> None: ...

    def on_disconnected(self, member: Member) -> None: ...

    def subscribed(self) -> list[Subscribe]:
        return [call for call in self.asked if isinstance(call, Subscribe)]


class Scene:
    def __init__(self, node: Node, faces: list[Face], remote: RemoteServers) -> None:
        self.node = node
        self.faces = faces
        self.remote = remote

    @property
    def connected(self) -> Face:
        member = self.remote.connected_to
        assert member is not None
        return next(face for face in self.faces if face.member.id == member.id)

    async def ready(self) -> None:
        await until(lambda: self.remote.connected_to is not None)

    async def set(self, value: bytes) -> Applied:
        """By another way than the client's."""
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.node.server.apply(KvSet(b"k", value), "", None, done.set_result)
        result = await done
        assert isinstance(result, Applied), result
        return result


@contextlib.asynccontextmanager
async def cluster(folder: Path, faces: int = 2) -> AsyncIterator[Scene]:
    """A real server of one, behind several doors, and a client agent that knows them all."""
    loop = asyncio.get_running_loop()
    failed: list[BaseException] = []
    me = Member("s" * 36, "srv1", "127.0.0.1", "server", "dc1", "", "127.0.0.1:8300")
    config = NodeConfig(
        me=me,
        directory=str(folder / "raft"),
        bind="127.0.0.1",
        rpc_port=0,
        segment_bytes=1 << 20,
        raft_multiplier=1,
        server=ServerConfig(bootstrap_expect=1, hold_ms=HOLD_MS),
        sync=False,
    )
    node = Node(config=config, disk=RealDisk(sync=False), loop=loop, fatal=failed.append)
    await node.start()
    doors = [Face(node.server, n) for n in range(1, faces + 1)]
    for door in doors:
        await door.start()
    remote = RemoteServers(
        loop=loop,
        timer=LoopTimer(loop),
        hello=lambda: hello(client(1)),
        origin=b"client-1",
        hold_ms=HOLD_MS,
        shuffle=random.Random(1).shuffle,
    )
    remote.learn(tuple(door.member for door in doors))
    remote.start()
    try:
        await until(lambda: node.server.leads)
        yield Scene(node, doors, remote)
        assert failed == []
    finally:
        await remote.stop()
        for door in doors:
            await door.listener.stop()
        await node.stop()


async def _get(remote: RemoteServers) -> Any:
    return (await remote.query(KEY, Options())).value


def test_calls_made_before_the_link_is_there_wait_for_it(tmp_path: Path) -> None:
    async def work() -> None:
        async with cluster(tmp_path) as scene:
            applied = await scene.remote.apply(KvSet(b"k", b"early"))
            assert applied.value is True
            assert (await _get(scene.remote)).value == b"early"

    run_uvloop(work())


def test_a_lost_server_is_replaced_by_another(tmp_path: Path) -> None:
    async def work() -> None:
        async with cluster(tmp_path) as scene:
            await scene.ready()
            first = scene.connected
            await first.listener.stop()
            await until(
                lambda: scene.remote.connected_to is not None and scene.remote.connected_to != first.member
            )
            await scene.remote.apply(KvSet(b"k", b"v"))
            assert (await _get(scene.remote)).value == b"v"

    run_uvloop(work())


def test_a_write_whose_answer_was_lost_is_applied_once(tmp_path: Path) -> None:
    """The server did it and the line broke; the second try, through another door, finds it done."""

    async def work() -> None:
        async with cluster(tmp_path) as scene:
            await scene.ready()
            for round in range(5):
                door = scene.connected
                left = [True]

                def lose(call: Call, left: list[bool] = left) -> bool:
                    return isinstance(call, Apply) and bool(left) and left.pop()

                door.lose = lose
                applied = await scene.remote.apply(KvSet(b"k%d" % round, b"v"))
                row = (await scene.remote.query(KvGet(b"k%d" % round), Options())).value
                assert (row.create_index, row.modify_index) == (applied.index, applied.index)
                assert left == []
            tries = [call.retry for face in scene.faces for call in face.asked if isinstance(call, Apply)]
            assert len(tries) == 10
            assert len(set(map(repr, tries))) == 5, "each second try bears the name of the first"

    run_uvloop(work())


def test_a_compare_and_set_whose_answer_was_lost_is_still_true(tmp_path: Path) -> None:
    """Applied a second time it would say False, and its caller would believe to have lost."""

    async def work() -> None:
        async with cluster(tmp_path) as scene:
            await scene.ready()
            left = [True]
            scene.connected.lose = lambda call: isinstance(call, Apply) and bool(left) and left.pop()
            applied = await scene.remote.apply(KvSet(b"lock", b"mine", cas=0))
            assert applied.value is True

    run_uvloop(work())


async def _error(future: asyncio.Future[Any]) -> GemotError:
    try:
        async with asyncio.timeout(20):
            result = await future
    except GemotError as error:
        return error
    raise AssertionError(f"no error but {result}")


def test_a_write_that_perhaps_was_done_is_never_called_undone(tmp_path: Path) -> None:
    async def work() -> None:
        async with cluster(tmp_path) as scene:
            await scene.ready()

            def lose(call: Call) -> bool:
                if isinstance(call, Apply):
                    for face in scene.faces:
                        if face.listener._server is not None:
                            face.listener._server.close()
                    return True
                return False

            for face in scene.faces:
                face.lose = lose
            assert type(await _error(scene.remote.apply(KvSet(b"k", b"v")))) is OutcomeUnknown
            assert isinstance(await _error(scene.remote.apply(KvSet(b"k", b"v"))), Unavailable)

    run_uvloop(work())


def test_a_write_that_perhaps_was_done_is_not_called_refused_by_a_server_that_was_not_sent_it(
    tmp_path: Path,
) -> None:
    """While the servers are upgraded, the second try may come to one that does not know the command yet."""

    async def work() -> None:
        async with cluster(tmp_path) as scene:
            await scene.ready()
            newer = scene.connected
            (older,) = [face for face in scene.faces if face is not newer]
            older.features = ()

            def lose(call: Call) -> bool:
                if isinstance(call, Apply) and newer.listener._server is not None:
                    newer.listener._server.close()
                return isinstance(call, Apply)

            newer.lose = lose
            wrote = scene.remote.apply(KvSet(b"k", b"v", ttl_ms=60_000))
            assert type(await _error(wrote)) is OutcomeUnknown
            assert (await _get(scene.remote)).value == b"v"
            assert scene.connected is older
            assert type(await _error(scene.remote.apply(KvSet(b"k", b"w", ttl_ms=60_000)))) is OlderRelease

    run_uvloop(work())


def test_what_an_operator_asked_is_unknown_when_its_answer_is_lost_and_not_asked_again(
    tmp_path: Path,
) -> None:
    """It bears no name: a second try was told that there is no such peer, just removed."""

    async def work() -> None:
        async with cluster(tmp_path) as scene:
            await scene.ready()
            scene.connected.lose = lambda call: isinstance(call, Operate)
            assert type(await _error(scene.remote.operate(Operate("transfer")))) is OutcomeUnknown
            asked = [call for face in scene.faces for call in face.asked if isinstance(call, Operate)]
            assert asked == [Operate("transfer")]

    run_uvloop(work())


def test_a_subscription_goes_on_from_its_index_through_every_loss(tmp_path: Path) -> None:
    """Nothing is missed, nothing told twice, and the next server is asked from where it had got to."""

    async def work() -> None:
        async with cluster(tmp_path) as scene:
            await scene.ready()
            told: list[Answer] = []
            subscription = scene.remote.subscribe(KEY, told.append)
            await until(lambda: len(told) == 1)
            for number in range(6):
                applied = await scene.set(b"%d" % number)
                await until(lambda index=applied.index: told[-1].index == index)
                scene.connected.break_all()
                await until(lambda: scene.remote.connected_to is None)
                missed = await scene.set(b"missed %d" % number)
                await until(lambda index=missed.index: told[-1].index == index)
            indexes = [answer.index for answer in told]
            assert indexes == sorted(set(indexes))
            assert [answer.value.value for answer in told[1:]] == [
                value for n in range(6) for value in (b"%d" % n, b"missed %d" % n)
            ]
            asked_from = [call.from_index for face in scene.faces for call in face.subscribed()]
            assert sorted(asked_from)[0] == 0
            assert asked_from.count(0) == 1, "only the first began at the beginning"
            subscription.cancel()
            count = len(told)
            await scene.set(b"after")
            await scene.remote.query(KEY, Options())
            assert len(told) == count

    run_uvloop(work())


def test_who_subscribes_is_told_of_a_refusal_and_goes_on_when_it_is_over(tmp_path: Path) -> None:
    async def work() -> None:
        async with cluster(tmp_path, faces=1) as scene:
            await scene.ready()
            scene.faces[0].refuses = TooLarge("more than 64 MiB")
            told: list[Answer] = []
            refused: list[GemotError] = []
            scene.remote.subscribe(KEY, told.append, None, refused.append)
            await until(lambda: len(refused) == 2)
            assert [str(error) for error in refused] == ["more than 64 MiB"] * 2
            scene.faces[0].refuses = None
            await until(lambda: told != [])

    run_uvloop(work())


def test_subscriptions_begin_anew_when_the_servers_are_another_cluster(tmp_path: Path) -> None:
    """Its indexes are lower: asked from the old one, it would stay silent while all looks well."""

    async def work() -> None:
        async with cluster(tmp_path, faces=1) as scene:
            await scene.ready()
            told: list[Answer] = []
            anew: list[int] = []
            scene.remote.on_new_cluster = lambda: anew.append(len(told))
            scene.remote.subscribe(KEY, told.append)
            await until(lambda: len(told) == 1)
            await scene.set(b"1")
            await until(lambda: len(told) == 2)
            scene.faces[0].cluster = "c2"
            scene.connected.break_all()
            await until(lambda: len(told) == 3)
            assert anew == [2], "told before the first answer of the other cluster"
            assert [call.from_index for call in scene.faces[0].subscribed()] == [0, 0]
            scene.connected.break_all()
            await until(lambda: len(scene.faces[0].subscribed()) == 3)
            assert scene.faces[0].subscribed()[-1].from_index == told[-1].index
            assert len(anew) == 1

    run_uvloop(work())


def test_a_server_without_a_cluster_yet_is_greeted_until_it_has_one(tmp_path: Path) -> None:
    """A server begun anew is no other cluster before it says which; the link is not kept in ignorance."""

    async def work() -> None:
        async with cluster(tmp_path, faces=1) as scene:
            await scene.ready()
            anew: list[int] = []
            scene.remote.on_new_cluster = lambda: anew.append(1)
            scene.faces[0].cluster = ""
            scene.connected.break_all()
            await until(lambda: scene.remote.connected_to is None)
            await until(lambda: scene.remote.connected_to is not None)
            assert anew == []
            scene.faces[0].cluster = "c2"
            await until(lambda: anew == [1])

    run_uvloop(work())


def test_a_blocking_read_outlives_its_server(tmp_path: Path) -> None:
    async def work() -> None:
        async with cluster(tmp_path) as scene:
            await scene.ready()
            index = (await scene.set(b"1")).index
            waiting = scene.remote.query(KEY, Options(index=index, wait_ms=60_000))
            for _ in range(3):
                await until(lambda: scene.remote.connected_to is not None)
                scene.connected.break_all()
                await until(lambda: scene.remote.connected_to is None)
            await until(lambda: scene.remote.connected_to is not None)
            assert not waiting.done()
            await scene.set(b"2")
            async with asyncio.timeout(20):
                assert (await waiting).value.value == b"2"

    run_uvloop(work())


def test_a_cancelled_read_takes_its_waiter_away_on_the_server(tmp_path: Path) -> None:
    async def work() -> None:
        async with cluster(tmp_path) as scene:
            await scene.ready()
            index = (await scene.set(b"1")).index
            waiting = scene.remote.query(KEY, Options(index=index, wait_ms=60_000))
            await until(lambda: scene.node.server.reads.waiting == 1)
            waiting.cancel()
            await until(lambda: scene.node.server.reads.waiting == 0)

    run_uvloop(work())


def test_a_server_without_a_leader_is_left_only_for_one_that_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was once left for any other: what it held then counted as perhaps done, and waited anew."""
    monkeypatch.setattr(remote_module, "LEADERLESS_MS", 0)

    async def work() -> None:
        async with cluster(tmp_path) as scene:
            await scene.ready()
            first = scene.connected
            other = next(face for face in scene.faces if face is not first)
            asked = len(other.asked)
            scene.remote.leave_leaderless()
            await until(lambda: len(other.asked) > asked)
            await until(lambda: scene.remote._looking is None)
            assert scene.connected is first
            other.knows_leader = True
            scene.remote.leave_leaderless()
            await until(lambda: scene.remote.connected_to is not None and scene.connected is other)

    run_uvloop(work())


def test_with_no_server_known_a_call_fails_after_the_hold_time_saying_so(tmp_path: Path) -> None:
    async def work() -> None:
        async with cluster(tmp_path, faces=0) as scene:
            assert scene.remote.waiting_for == "Waiting for servers: none is known yet"
            error = await _error(scene.remote.query(KEY, Options()))
            assert isinstance(error, Unavailable)
            assert "No known server answers: waiting for servers: none is known yet" in error.message

    run_uvloop(work())


def test_leaving_takes_the_node_out_before_it_is_answered(tmp_path: Path) -> None:
    async def work() -> None:
        async with cluster(tmp_path) as scene:
            await scene.ready()
            scene.node.server.membership.joined(client(1))

            async def node() -> Any:
                return (await scene.remote.query(NodeInfo("web1"), Options())).value

            async with asyncio.timeout(20):
                while await node() is None:  # noqa: ASYNC110 - the catalog is asked, it has no event
                    await asyncio.sleep(0.01)
            assert await scene.remote.leave("web1") is True
            assert await node() is None

    run_uvloop(work())


def test_a_key_whose_answer_is_forgotten_is_not_asked_again_and_again(tmp_path: Path) -> None:
    async def work() -> None:
        async with cluster(tmp_path) as scene:
            await scene.ready()
            key = IdempotencyKey("once", b"hash")
            await scene.remote.apply(KvSet(b"k", b"v"), key=key)
            pruned: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            scene.node.server.replica.propose(PruneRetries(1 << 60), "", None, pruned.set_result)
            await pruned
            asked = sum(isinstance(call, Apply) for face in scene.faces for call in face.asked)
            error = await _error(scene.remote.apply(KvSet(b"k", b"v"), key=key))
            assert isinstance(error, OutcomeForgotten)
            assert sum(isinstance(call, Apply) for face in scene.faces for call in face.asked) == asked + 1

    run_uvloop(work())


# -- coordinates -----------------------------------------------------------------------------------

PLACE = NodeCoordinate("web1", Coordinate())


def test_a_server_hears_where_this_host_stands(tmp_path: Path) -> None:
    async def work() -> None:
        async with cluster(tmp_path, faces=1) as scene:
            await scene.ready()
            await scene.remote.apply(Register(Host("web1", "10.0.0.1")))
            assert await scene.remote.locate(PLACE, token="t") is True
            assert scene.faces[0].asked[-1] == Locate(PLACE, "t")
            assert len(scene.node.server.coordinates) == 1

    run_uvloop(work())


@pytest.mark.parametrize(
    ("ask", "feature"),
    [
        (lambda remote: remote.locate(PLACE), "coordinates"),
        (lambda remote: remote.query(Coordinates(), Options()), "coordinates"),
        (lambda remote: remote.query(CoordinateOf("web1"), Options(index=3)), "coordinates"),
        (lambda remote: remote.operate(Operate("force-leave", node="web1")), "force-leave"),
    ],
)
def test_a_server_of_an_older_release_is_not_asked_what_it_would_take_for_nonsense(
    tmp_path: Path, ask: Callable[[RemoteServers], asyncio.Future[Any]], feature: str
) -> None:
    async def work() -> None:
        async with cluster(tmp_path, faces=1) as scene:
            scene.faces[0].features = ()
            scene.faces[0].break_all()
            await until(lambda: scene.remote.connected_to is None)
            await scene.ready()
            told = f"f1 is of an older release without {feature}: upgrade it"
            with pytest.raises(RuleFailed, match=told):
                await ask(scene.remote)
            assert not any(isinstance(call, Locate | Ask | Operate) for call in scene.faces[0].asked)
            assert scene.remote.connected_to is not None

    run_uvloop(work())


def test_without_a_server_nobody_is_waited_for(tmp_path: Path) -> None:
    async def work() -> None:
        async with cluster(tmp_path, faces=1) as scene:
            await scene.ready()
            await scene.faces[0].listener.stop()
            scene.faces[0].break_all()
            await until(lambda: scene.remote.connected_to is None)
            with pytest.raises(Unavailable):
                await scene.remote.locate(PLACE)

    run_uvloop(work())
