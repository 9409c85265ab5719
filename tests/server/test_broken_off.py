"""A list that is read for too long while writes go on: it is broken off once the state's log is full."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any, cast

import apsw
from support.http_agent import run_uvloop, until

from gemot.server.model.errors import Busy
from gemot.server.model.kv import KvList
from gemot.server.runtime.reader import OLD_US, ReaderThread
from gemot.server.runtime.timer import LoopTimer
from gemot.server.state.store import State
from gemot.server.storage.statefile import StateFile

LIMIT = 1 << 20
FOR_EVER = "with recursive n(x) as (select 1 union all select x + 1 from n) select count(*) from n, meta"


class Scene:
    """A reader whose every list takes for ever, and a clock that stands still until it is told."""

    def __init__(self, folder: Path) -> None:
        self.file = StateFile(folder / "state.db", sync=False, wal_limit_bytes=LIMIT)
        self.file.cursor.execute("create table filling (bytes)")
        self.fatal: list[BaseException] = []
        self.reading = threading.Event()
        self.now_us = 0
        self.told: list[Any] = []
        self.reader = ReaderThread(
            loop=asyncio.get_running_loop(),
            file=self.file,
            state=cast(State, self),
            timer=cast(LoopTimer, self),
            tell=lambda done: done(),
            fatal=self.fatal.append,
        )
        self.reader.start()

    applied_index = 0

    def settle(self) -> None: ...

    def wall_ms(self) -> int:
        return 0

    def stopwatch_us(self) -> int:
        return self.now_us

    def read_on(self, connection: apsw.Connection, *_: Any, **__: Any) -> Any:
        connection.execute("begin; select * from meta").get  # noqa: B018 - from here on it holds on to the log
        self.reading.set()
        with self.file.explained:
            return connection.execute(FOR_EVER).get

    def write(self, size: int) -> None:
        self.file.begin()
        self.file.cursor.execute("insert into filling values (?)", (bytes(size),))
        self.file.commit()

    async def ask(self) -> None:
        self.reader.submit(KvList(b""), "", self.told.append)
        await until(self.reading.is_set)

    def close(self) -> None:
        self.reader.stop()
        self.file.close()


def test_past_the_logs_limit_an_old_read_is_broken_off_and_the_log_starts_over(tmp_path: Path) -> None:
    async def case() -> None:
        scene = Scene(tmp_path)
        await scene.ask()
        scene.now_us = OLD_US
        for _ in range(8):
            scene.write(LIMIT // 4)
        await until(lambda: bool(scene.told))
        assert isinstance(scene.told[0], Busy)
        assert "ask again, or for less" in scene.told[0].message
        assert scene.reader.broken_off == 1
        for _ in range(4):
            scene.write(LIMIT // 8)
        assert scene.file.wal_bytes() < LIMIT
        assert scene.fatal == []
        scene.close()

    run_uvloop(case())


def test_a_young_read_goes_on_however_full_the_log_is(tmp_path: Path) -> None:
    async def case() -> None:
        scene = Scene(tmp_path)
        await scene.ask()
        scene.now_us = OLD_US - 1
        for _ in range(8):
            scene.write(LIMIT // 4)
        assert scene.told == []
        scene.now_us = OLD_US
        scene.reader.break_off()
        await until(lambda: bool(scene.told))
        scene.close()

    run_uvloop(case())


def test_an_old_read_goes_on_while_the_log_is_below_its_limit(tmp_path: Path) -> None:
    async def case() -> None:
        scene = Scene(tmp_path)
        await scene.ask()
        scene.now_us = 10 * OLD_US
        scene.write(LIMIT // 8)
        assert scene.told == []
        scene.reader.break_off()
        await until(lambda: bool(scene.told))
        scene.close()

    run_uvloop(case())
