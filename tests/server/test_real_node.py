"""A real server's threads and loop: what ends it, and how it ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.http_agent import run_uvloop, until

from gemot.server.config import ServerConfig
from gemot.server.model.errors import Corrupt, DiskFailed, GemotError
from gemot.server.model.kv import KvList, KvSet
from gemot.server.model.query import Applied, Options
from gemot.server.raft.types import SnapshotMeta
from gemot.server.reads import LIST_ROWS
from gemot.server.rpc.message import Member
from gemot.server.runtime.node import Node, NodeConfig
from gemot.server.state.store import Found, State
from gemot.server.storage.realdisk import RealDisk
from gemot.server.storage.statefile import StateFile


class Scene:
    def __init__(self, folder: Path) -> None:
        self.fatal: list[BaseException] = []
        self.lost: list[dict[str, Any]] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: self.lost.append(context))
        me = Member("a" * 36, "srv1", "127.0.0.1", "server", "dc1", "", "127.0.0.1:1")
        config = NodeConfig(
            me=me,
            directory=str(folder / "raft"),
            bind="127.0.0.1",
            rpc_port=0,
            segment_bytes=1 << 20,
            raft_multiplier=1,
            server=ServerConfig(bootstrap_expect=1),
            sync=False,
        )
        self.node = Node(config=config, disk=RealDisk(sync=False), loop=loop, fatal=self.fatal.append)

    async def start(self) -> None:
        await self.node.start()
        await until(lambda: self.node.server.leads)


def _run(case: Coroutine[Any, Any, None]) -> None:
    run_uvloop(case)


@pytest.mark.parametrize("where", ["log", "worker"])
def test_a_failure_in_what_a_thread_has_finished_ends_the_node(tmp_path: Path, where: str) -> None:
    async def case() -> None:
        scene = Scene(tmp_path)
        await scene.start()

        def fail(*_: object) -> None:
            raise DiskFailed("the state could not be replaced")

        if where == "log":
            scene.node._log.keep_pledge(b"", fail)  # what a thread's end is told to
        else:
            scene.node.take_snapshot(lambda _index: (), fail)
        await until(lambda: bool(scene.fatal or scene.lost))
        await scene.node.stop()
        assert [str(error) for error in scene.fatal] == ["the state could not be replaced"]
        assert scene.lost == []

    _run(case())


def test_a_stop_amid_writes_is_no_failure(tmp_path: Path) -> None:
    async def case() -> None:
        scene = Scene(tmp_path)
        await scene.start()
        answers: list[Applied | GemotError] = []
        sent = 0

        def write(*_: object) -> None:
            nonlocal sent
            sent += 1
            scene.node.server.apply(KvSet(b"k", b"%d" % sent), "", None, answered)

        def answered(result: Applied | GemotError) -> None:
            answers.append(result)
            write()

        for _ in range(3_000):
            write()
        await until(lambda: len(answers) > 9_000)
        await scene.node.stop()
        told = len(answers)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(answers) == told, "nothing is answered by a server that has stopped"
        assert scene.fatal == []
        assert scene.lost == []

    _run(case())


def _list(scene: Scene, query: KvList, **options: Any) -> list[Any]:
    told: list[Any] = []
    scene.node.server.query(query, Options(consistency="stale", **options), told.append)
    return told


async def _fill(scene: Scene, count: int) -> None:
    answers: list[Applied | GemotError] = []
    for number in range(count):
        scene.node.server.apply(KvSet(b"many/%05d" % number, b"v"), "", None, answers.append)
    await until(lambda: len(answers) == count)


def test_a_long_list_is_read_by_a_thread_and_the_loop_goes_on(tmp_path: Path) -> None:
    async def case() -> None:
        scene = Scene(tmp_path)
        await scene.start()
        await _fill(scene, LIST_ROWS + 1)
        readers: list[str] = []
        read_on = State.read_on

        def noted(self: State, *arguments: Any, **named: Any) -> Found:
            readers.append(threading.current_thread().name)
            return read_on(self, *arguments, **named)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(State, "read_on", noted)
            told = _list(scene, KvList(b"many/"))
            assert told == [], "the loop does not wait for it"
            await until(lambda: bool(told))
        assert readers == ["gemot-reader"]
        assert [row.key for row in told[0].value] == [b"many/%05d" % n for n in range(LIST_ROWS + 1)]
        assert _list(scene, KvList(b"many/0000"))[0].value, "a short one is there at once"
        await scene.node.stop()
        assert (scene.fatal, scene.lost) == ([], [])

    _run(case())


def test_a_stop_amid_long_reads_is_no_failure(tmp_path: Path) -> None:
    async def case() -> None:
        scene = Scene(tmp_path)
        await scene.start()
        await _fill(scene, LIST_ROWS + 1)
        told = [_list(scene, KvList(b"many/")), _list(scene, KvList(b""))]
        await scene.node.stop()
        before = [len(each) for each in told]
        for _ in range(20):
            await asyncio.sleep(0)
        assert [len(each) for each in told] == before, "nothing is answered by a server that has stopped"
        assert (scene.fatal, scene.lost) == ([], [])

    _run(case())


def test_a_state_that_cannot_be_read_by_the_thread_ends_the_node(tmp_path: Path) -> None:
    async def case() -> None:
        scene = Scene(tmp_path)
        await scene.start()
        await _fill(scene, LIST_ROWS + 1)

        def broken(*_: object, **__: object) -> Found:
            raise Corrupt("a page does not fit its checksum")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(State, "read_on", broken)
            told = _list(scene, KvList(b"many/"))
            await until(lambda: bool(scene.fatal))
        assert told == []
        assert isinstance(scene.fatal[0], Corrupt)
        await scene.node.stop()

    _run(case())


def test_a_state_is_replaced_by_the_worker_and_loaded_on_the_loop(tmp_path: Path) -> None:
    """What is asked meanwhile waits, and finds the new state."""

    async def case() -> None:
        scene = Scene(tmp_path)
        await scene.start()
        server, threads = scene.node.server, []
        await _fill(scene, 10)
        server.state.settle()  # a snapshot is of what SQLite has committed
        taken: list[SnapshotMeta] = []
        scene.node.take_snapshot(server._raft.voters_at, taken.append)
        await until(lambda: bool(taken))
        await _fill(scene, 20)

        def noting(original: Any) -> Any:
            def noted(*arguments: Any) -> Any:
                threads.append(threading.current_thread().name)
                return original(*arguments)

            return noted

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(StateFile, "install", noting(StateFile.install))
            patch.setattr(State, "reload", noting(State.reload))
            # A leader is never given a snapshot: its chores read the state.
            scene.node._ticker.stop()
            server.replica.hold()
            server.reads.hold()
            scene.node.replace_state(taken[0], server.on_replaced)
            told = [_list(scene, KvList(b"many/")), _list(scene, KvList(b"many/"), index=1)]
            assert told == [[], []]
            await until(lambda: all(told))
        assert threads == ["gemot-worker", threading.main_thread().name]
        assert [len(each[0].value) for each in told] == [10, 10]
        await scene.node.stop()
        assert (scene.fatal, scene.lost) == ([], [])

    _run(case())


def test_a_snapshot_names_the_voters_at_the_index_that_was_copied(tmp_path: Path) -> None:
    """Writes go on between the asking and the copy: the voters of the asking may not be those of the copy."""

    async def case() -> None:
        scene = Scene(tmp_path)
        await scene.start()
        asked_at = scene.node.server.state.applied_index
        taken: list[SnapshotMeta] = []
        with pytest.MonkeyPatch.context() as patch:
            copy, begun, go = StateFile.snapshot_to, threading.Event(), threading.Event()

            def late(file: StateFile, path: Path) -> tuple[int, int]:
                begun.set()
                assert go.wait(30)
                return copy(file, path)

            patch.setattr(StateFile, "snapshot_to", late)
            scene.node.take_snapshot(lambda index: (f"voter at {index}",), taken.append)
            await until(begun.is_set)
            await _fill(scene, 10)
            scene.node.server.state.settle()
            go.set()
            await until(lambda: bool(taken))
        assert taken[0].index >= asked_at + 10
        assert taken[0].voters == (f"voter at {taken[0].index}",)
        assert scene.node.newest_snapshot() == taken[0]
        await scene.node.stop()
        assert (scene.fatal, scene.lost) == ([], [])

    _run(case())


def test_a_snapshot_that_comes_in_is_verified_by_the_worker(tmp_path: Path) -> None:
    async def case() -> None:
        scene = Scene(tmp_path)
        await scene.start()
        taken: list[SnapshotMeta] = []
        scene.node.take_snapshot(scene.node.server._raft.voters_at, taken.append)
        await until(lambda: bool(taken))
        whole = scene.node.read_chunk(taken[0].index, taken[0].term, 0)
        later = msgspec.structs.replace(taken[0], index=taken[0].index + 1_000)
        verdicts: list[GemotError | None] = []
        for data in (whole.data, bytes(len(whole.data))):
            inbox = scene.node.inbox(later, whole)
            inbox.write(0, data)
            verdict: asyncio.Future[GemotError | None] = asyncio.get_running_loop().create_future()
            inbox.finish(verdict.set_result)
            assert not verdict.done(), "the loop does not wait for it"
            verdicts.append(await verdict)
        assert verdicts[0] is None
        assert isinstance(verdicts[1], Corrupt)
        assert scene.node.newest_snapshot() == later, "the whole one was kept"
        await scene.node.stop()
        assert (scene.fatal, scene.lost) == ([], [])

    _run(case())
