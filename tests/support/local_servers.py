"""The server tier of one process without consensus: real state, machine and reads over a real file.

Every command is an entry of its own, applied as soon as it is asked for; so each answer is that of a
server that leads alone. What leadership and time can do is told by hand: `failure`, `leads`.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gemot.agent.in_process import deliver, settle
from gemot.agent.servers import Subscription
from gemot.server.machine import Machine
from gemot.server.model.command import ENVELOPE_VERSION, Command, Envelope, IdempotencyKey, encode
from gemot.server.model.coordinate import NodeCoordinate, SetCoordinates
from gemot.server.model.errors import GemotError, Unavailable
from gemot.server.model.kv import KvEntry, KvList
from gemot.server.model.query import Answer, Applied, Options, Query
from gemot.server.raft.types import Entry, EntryKind
from gemot.server.reads import Reads
from gemot.server.rpc.message import Operate, Survey, Surveyed
from gemot.server.runtime.timer import LoopTimer
from gemot.server.state import digest
from gemot.server.state.store import Found, State
from gemot.server.state.watch import Hub
from gemot.server.storage.statefile import StateFile

FIRST_INDEX = 10
"""The index before any write: as after an election, not 0."""


class _NoJitter:
    def random(self) -> float:
        return 0.0

    def randrange(self, stop: int) -> int:
        return 0

    def randbytes(self, n: int) -> bytes:
        return bytes(n)


class _Confirmed:
    """Nobody else could lead: every read is fresh at once."""

    def confirm(self, done: Callable[[Unavailable | None], None], *, hold_ms: int = 0) -> None:
        done(None)

    def on_applied(self) -> None: ...


class LocalServers:
    """`failure` fails every ask, `unreadable` every read; `time_ms` is cluster time.

    `asked` keeps token and key of each write, `applied` its command.
    """

    def __init__(self, folder: Path) -> None:
        self._loop = asyncio.get_running_loop()
        self._file = StateFile(folder / "state.db", sync=False)
        self.state = State(file=self._file)
        self._machine = Machine(state=self.state)
        timer = LoopTimer(self._loop)
        self._reads = Reads(
            state=self.state,
            hub=Hub(),
            contact=self,
            confirmations=_Confirmed(),  # type: ignore[arg-type]
            timer=timer,
            random=_NoJitter(),
            reader=self,
        )
        self.failure: GemotError | None = None
        self.unreadable: GemotError | None = None
        self.leads = True
        self.time_ms = 0
        self.operated: list[Operate | Survey] = []
        self.surveyed = Surveyed((), 7, True, 0, "srv1", "")
        self.applied: list[Command] = []
        self.located: list[tuple[NodeCoordinate, str]] = []
        self.asked: list[tuple[str, IdempotencyKey | None]] = []
        noop = (Entry(1, index, EntryKind.NOOP, b"") for index in range(1, FIRST_INDEX + 1))
        self._machine.apply(tuple(noop))

    def close(self) -> None:
        self._file.close()

    def submit(self, query: Query, accessor: str, done: Callable[[Found | GemotError], None]) -> None:
        """The `Reader` port: on a connection of its own, a little later."""

        def read() -> None:
            with contextlib.closing(self._file.reader()) as connection:
                done(self.state.read_on(connection, query, accessor))

        self._loop.call_soon(read)

    def last_contact_ms(self) -> int:
        return 0

    def knows_leader(self) -> bool:
        return self.leads

    @property
    def waiting(self) -> int:
        """Blocking reads that wait now."""
        return self._reads.waiting

    @property
    def content(self) -> int:
        """A hash over every row of every table, computed anew: equal means nothing was changed."""
        return digest.sum_from_scratch(self._file.cursor)

    @property
    def rows(self) -> dict[bytes, KvEntry]:
        entries, _ = self.state.read(KvList(b""), "")
        return {entry.key: entry for entry in entries}

    def apply(
        self, command: Command, *, token: str = "", key: IdempotencyKey | None = None
    ) -> asyncio.Future[Applied]:
        future: asyncio.Future[Applied] = self._loop.create_future()
        self.asked.append((token, key))
        if self.failure is not None:
            future.set_exception(self.failure)
            return future
        self.applied.append(command)
        envelope = Envelope(ENVELOPE_VERSION, self.time_ms, token, key, command)
        entry = Entry(1, self.state.applied_index + 1, EntryKind.COMMAND, encode(envelope))
        (outcome,) = self._machine.apply((entry,))
        self._reads.on_applied(list(outcome.touched))
        settle(future)(outcome.result)
        return future

    def query(self, query: Query, options: Options) -> asyncio.Future[Answer]:
        future: asyncio.Future[Answer] = self._loop.create_future()
        if failure := self.failure or self.unreadable:
            future.set_exception(failure)
            return future
        cancel = self._reads.query(query, options, options.token, settle(future))
        future.add_done_callback(lambda done: cancel() if done.cancelled() else None)
        return future

    def subscribe(
        self,
        query: Query,
        on_answer: Callable[[Answer], None],
        on_bookmark: Callable[[Answer], None] | None = None,
        on_refusal: Callable[[GemotError], None] | None = None,
    ) -> Subscription:
        def told(event: Any) -> None:
            if not isinstance(event, GemotError):
                deliver(event, on_answer, on_bookmark)
            elif on_refusal is not None:
                on_refusal(event)

        return _Subscribed(self._reads.subscribe(query, "", 0, told))

    def operate(self, call: Operate | Survey) -> asyncio.Future[Any]:
        """`surveyed` is what is seen; what was wanted is kept in `operated`."""
        self.operated.append(call)
        future: asyncio.Future[Any] = self._loop.create_future()
        settle(future)(self.failure or (self.surveyed if isinstance(call, Survey) else True))
        return future

    def locate(self, row: NodeCoordinate, *, token: str = "") -> asyncio.Future[bool]:
        """Written at once, as the leader does in its time."""
        self.located.append((row, token))
        future: asyncio.Future[bool] = self._loop.create_future()
        if self.failure is None:
            self.apply(SetCoordinates((row,)))
        settle(future)(self.failure or True)
        return future

    def leader(self) -> asyncio.Future[str]:
        return self._known("127.0.0.1:8300" if self.leads else "")

    def peers(self) -> asyncio.Future[list[str]]:
        return self._known(["127.0.0.1:8300"])

    def stats(self) -> dict[str, dict[str, str]]:
        return {"consul": {"server": "true", "leader": "true"}, "raft": {"state": "Leader"}}

    def _known(self, value: Any) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._loop.create_future()
        future.set_result(value)
        return future


class _Subscribed:
    """A `Subscription` over a cancelling callable."""

    def __init__(self, cancel: Callable[[], None]) -> None:
        self.cancel = cancel


@contextlib.contextmanager
def local_servers() -> Iterator[LocalServers]:
    with tempfile.TemporaryDirectory() as folder:
        servers = LocalServers(Path(folder))
        try:
            yield servers
        finally:
            servers.close()
