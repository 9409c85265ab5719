"""What an agent remembers of others from one process to the next, on a real disk that may fail."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from support.gossiping import eventually

from gemot.agent import memory as module
from gemot.agent import rejoin as rejoin_module
from gemot.agent.gossip.message import Record, Status
from gemot.agent.gossip.remembered import FILE, FILE_BYTES, Remembered, decode, encode
from gemot.agent.lan import STANDINGS, facts_of
from gemot.agent.memory import Memory, read
from gemot.agent.rejoin import AT_ONCE, Rejoin
from gemot.server.members import Standing
from gemot.server.rpc.message import Member

ME = "me"


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is waited for is the condition, not the pause."""
    monkeypatch.setattr(module, "PAUSE_S", 0.01)
    monkeypatch.setattr(rejoin_module, "QUICK_S", 0.01)


class Crowd:
    """Gossip, as far as it is looked at."""

    def __init__(self) -> None:
        self.there: dict[str, tuple[Member, Record]] = {}
        self._changed: Callable[[], None] = lambda: None
        self.put(ME)

    def put(self, id: str, status: Status = Status.ALIVE, *, host: str = "", server: bool = False) -> None:
        member = Member(
            id=id,
            name=f"node-{id}",
            address=host or f"10.0.0.{len(self.there) + 1}",
            role="server" if server else "client",
            datacenter="dc1",
            build="1",
            rpc="10.0.0.1:8300" if server else "",
        )
        if id in self.there and not host:
            member = self.there[id][0]
        self.there[id] = (member, Record(facts_of(member, 8301), 0, status))
        self._changed()

    @property
    def here(self) -> int:
        return len(self.there)

    def records(self) -> list[Record]:
        return [record for _, record in self.there.values()]

    def standing(self, id: str) -> Standing | None:
        return STANDINGS[self.there[id][1].status] if id in self.there else None

    def watch(self, changed: Callable[[], None]) -> None:
        self._changed = changed


def memory(folder: Path, crowd: Crowd, *, unmet_for_s: float = 1e9) -> Memory:
    loop = asyncio.get_running_loop()
    return Memory(loop=loop, members=crowd, own_id=ME, data_dir=folder, unmet_for_s=unmet_for_s)


def ids(folder: Path) -> list[str]:
    """Of whom the file tells; it is whole whenever it is looked at."""
    file = folder / FILE
    return [each.id for each in decode(file.read_bytes())] if file.exists() else []


def keep(folder: Path, *ids: str) -> tuple[Remembered, ...]:
    members = tuple(Remembered(id, f"node-{id}", f"10.0.1.{n}", 8301) for n, id in enumerate(ids, 1))
    (folder / FILE).parent.mkdir(exist_ok=True)
    (folder / FILE).write_bytes(encode(members))
    return members


def test_members_are_written_down_as_they_come_and_go(tmp_path: Path) -> None:
    async def run() -> None:
        crowd = Crowd()
        one = memory(tmp_path, crowd)
        one.start()
        assert not (tmp_path / FILE).exists(), "of nobody there is no file"
        crowd.put("b")
        crowd.put("a", server=True)
        await eventually(lambda: ids(tmp_path) == ["a", "b"])
        assert one.size == 2
        assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600
        crowd.put("b", Status.FAILED)
        crowd.put("c")
        await eventually(lambda: ids(tmp_path) == ["a", "b", "c"])
        crowd.put("b", Status.LEFT)
        await eventually(lambda: ids(tmp_path) == ["a", "c"])
        await one.stop()

    asyncio.run(run())


def test_what_says_nothing_new_is_not_written(tmp_path: Path) -> None:
    async def run() -> None:
        crowd = Crowd()
        one = memory(tmp_path, crowd)
        one.start()
        crowd.put("a")
        await eventually(lambda: ids(tmp_path) == ["a"])
        before = (tmp_path / FILE).stat()
        for status in (Status.SUSPECT, Status.ALIVE, Status.FAILED, Status.ALIVE):
            crowd.put("a", status)
            await asyncio.sleep(0.03)
        await one.stop()
        after = (tmp_path / FILE).stat()
        assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)

    asyncio.run(run())


def test_between_two_writes_there_is_a_pause_and_the_end_keeps_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAUSE_S", 1e6)

    async def run() -> None:
        crowd = Crowd()
        one = memory(tmp_path, crowd)
        crowd.put("a")
        one.start()
        await eventually(lambda: ids(tmp_path) == ["a"])
        crowd.put("b")
        await asyncio.sleep(0.05)
        assert ids(tmp_path) == ["a"]
        await one.stop()
        assert ids(tmp_path) == ["a", "b"]

    asyncio.run(run())


def test_who_is_away_at_two_starts_is_remembered_at_the_third(tmp_path: Path) -> None:
    keep(tmp_path, "a", "b")

    async def run() -> None:
        for _ in range(2):
            one = memory(tmp_path, Crowd())
            one.start()
            await one.stop()
        crowd = Crowd()
        one = memory(tmp_path, crowd)
        one.start()
        assert [each.id for each in one.unmet()] == ["a", "b"]
        crowd.put("a")
        assert [each.id for each in one.unmet()] == ["b"], "gossip has told of a"
        crowd.put("c")
        await eventually(lambda: ids(tmp_path) == ["a", "b", "c"])
        one.met("b")
        await one.stop()
        assert ids(tmp_path) == ["a", "c"], "somebody else is where b was"

    asyncio.run(run())


def test_who_is_not_met_in_time_is_forgotten(tmp_path: Path) -> None:
    keep(tmp_path, "a")

    async def run() -> None:
        one = memory(tmp_path, Crowd(), unmet_for_s=0.0)
        one.start()
        assert one.unmet() == ()
        await one.stop()
        assert ids(tmp_path) == []

    asyncio.run(run())


def test_who_leaves_forgets_and_nothing_comes_after_it(tmp_path: Path) -> None:
    async def run() -> None:
        crowd = Crowd()
        one = memory(tmp_path, crowd)
        one.start()
        crowd.put("a")
        await eventually(lambda: ids(tmp_path) == ["a"])
        crowd.put("b")
        await one.forget()
        crowd.put("c")
        await one.stop()
        assert not (tmp_path / FILE).exists()

    asyncio.run(run())


BAD = [b"", b"\0" * 300, encode(())[:-5], b'{"format": 2, "members": []}', b"x" * 10 * FILE_BYTES]


@pytest.mark.parametrize("data", BAD, ids=["empty", "zeros", "cut", "newer", "huge"])
def test_a_bad_file_is_told_once_and_written_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    keep(tmp_path)
    (tmp_path / FILE).write_bytes(data)

    async def run() -> None:
        crowd = Crowd()
        one = memory(tmp_path, crowd)
        one.start()
        assert one.unmet() == ()
        crowd.put("a")
        await eventually(lambda: (tmp_path / FILE).read_bytes() != data)
        await one.stop()

    asyncio.run(run())
    assert ids(tmp_path) == ["a"]
    warned = [each.message for each in caplog.records if each.levelno >= logging.WARNING]
    assert len(warned) == 1
    assert str(tmp_path / FILE) in warned[0]


def test_what_is_no_file_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / FILE).mkdir(parents=True)
    assert read(tmp_path / FILE) is None
    assert "is not known any more" in caplog.text


def test_a_disk_that_fails_is_told_once_and_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    in_the_way = tmp_path / "serf"
    in_the_way.write_text("no folder")

    async def run() -> None:
        crowd = Crowd()
        one = memory(tmp_path, crowd)
        one.start()
        crowd.put("a")
        await eventually(lambda: one.failures > 3)
        in_the_way.unlink()
        await eventually(lambda: ids(tmp_path) == ["a"])
        await one.stop()

    asyncio.run(run())
    warned = [each.message for each in caplog.records if "members not kept" in each.message]
    assert len(warned) == 1


# -- asking those of before ------------------------------------------------------------------------


class Doors:
    """Who is met where: `there` answers, and gossip then knows all of `tells`."""

    def __init__(self, crowd: Crowd, there: set[str], tells: tuple[str, ...] = ()) -> None:
        self.crowd = crowd
        self.there = there
        self.tells = tells
        self.asked: list[str] = []
        self.wanted: dict[str, str] = {}
        self.most = self.now = 0

    async def meet(self, address: tuple[str, int], id: str) -> str:
        self.asked.append(address[0])
        self.wanted[address[0]] = id
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.001)
        self.now -= 1
        if address[0] not in self.there:
            return "nobody is there"
        for id in self.tells:
            self.crowd.put(id)
        return ""


def rejoin(folder: Path, doors: Doors) -> Rejoin:
    return Rejoin(
        loop=asyncio.get_running_loop(),
        memory=memory(folder, doors.crowd),
        meet=doors.meet,
        alone=lambda: doors.crowd.here == 1,
        random=Random(1),
        interval_s=0.02,
    )


def test_a_few_at_a_time_are_asked_until_one_tells_of_all(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    names = [f"m{n}" for n in range(40)]
    members = keep(tmp_path, *names)

    async def run() -> None:
        doors = Doors(Crowd(), {members[25].host}, tuple(names))
        one = rejoin(tmp_path, doors)
        one.start()
        assert one.waiting_for == "none of 40 members of before the restart has answered"
        await eventually(lambda: doors.crowd.here > 1)
        assert one.waiting_for == ""
        await eventually(lambda: not doors.now)
        asked = len(doors.asked)
        await asyncio.sleep(0.1)
        assert len(doors.asked) == asked, "all are known"
        assert 1 < doors.most <= AT_ONCE
        ids = {each.host: each.id for each in members}
        assert doors.wanted == {host: ids[host] for host in doors.wanted}, "each is asked for by its id"
        await one.stop()

    asyncio.run(run())
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert caplog.text.count("agent: rejoining: remembered=40") == 1
    assert caplog.text.count("agent: rejoined: by=node-m25") == 1


def test_two_that_met_go_on_asking_for_the_third(tmp_path: Path) -> None:
    """Power failed everywhere: who is back first knows nothing of the others either."""
    members = keep(tmp_path, "a", "b", "c")

    async def run() -> None:
        doors = Doors(Crowd(), {members[0].host}, ("a",))
        one = rejoin(tmp_path, doors)
        one.start()
        await eventually(lambda: "a" in doors.crowd.there)
        doors.there, doors.tells = {members[2].host}, ("b", "c")
        await eventually(lambda: "c" in doors.crowd.there)
        await one.stop()

    asyncio.run(run())


def test_who_remembers_nobody_asks_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    async def run() -> None:
        doors = Doors(Crowd(), set())
        one = rejoin(tmp_path, doors)
        one.start()
        await asyncio.sleep(0.05)
        assert one.waiting_for == ""
        assert doors.asked == []
        await one.stop()

    asyncio.run(run())
    assert "rejoin" not in caplog.text


def test_a_server_is_among_those_that_are_asked_first(tmp_path: Path) -> None:
    members = [Remembered(f"m{n}", f"m{n}", f"10.0.1.{n}", 8301, server=n == 77) for n in range(100)]
    keep(tmp_path)
    (tmp_path / FILE).write_bytes(encode(tuple(members)))

    async def run() -> None:
        doors = Doors(Crowd(), set())
        one = rejoin(tmp_path, doors)
        one.start()
        await eventually(lambda: len(doors.asked) >= AT_ONCE)
        assert "10.0.1.77" in doors.asked[:AT_ONCE]
        await one.stop()

    asyncio.run(run())
