"""Whom this agent would look for if it had to begin anew: kept in a file, from one process to the next.

What is in the file, and of whom, is in `gossip/remembered.py`; who asks those that are remembered, in
`rejoin.py`. Members that were remembered at the start and of whom gossip has not heard since stay
remembered: an agent that is started twice while all others are away has forgotten nobody. They do for as
long as gossip itself waits for one that failed (`reconnect_timeout`).

The file follows what gossip knows: at once, then once in some seconds, on a thread, and only if it says
something new. It is synced, since the power may go on all hosts at once, and that is what it is for; its
folder is not: the file before this one does as well.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

from gemot.agent.durable import replace
from gemot.agent.gossip.message import Record
from gemot.agent.gossip.remembered import FILE, FILE_BYTES, Remembered, choose, decode, encode, remembered
from gemot.agent.gossip.throttle import Throttle
from gemot.agent.lan import member_of
from gemot.server.members import Standing
from gemot.server.model.errors import BadRequest

log = logging.getLogger("gemot.agent")

PAUSE_S = 5.0
"""Between two writes, at least."""

A_SECOND = 1_000
"""Members that are looked through for it, at most: where there are very many it is written less often."""


class Members(Protocol):
    """What is needed of gossip (`lan.Lan`)."""

    @property
    def here(self) -> int:
        """How many members there are."""

    def records(self) -> list[Record]: ...

    def standing(self, id: str) -> Standing | None: ...

    def watch(self, changed: Callable[[], None]) -> None: ...


class Memory:
    """From `start` to `stop`, or to `forget`. `own_id` is this member's, which need not remember itself."""

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        members: Members,
        own_id: str,
        data_dir: Path,
        unmet_for_s: float,
    ) -> None:
        self._loop = loop
        self._members = members
        self._own_id = own_id
        self._file = data_dir / FILE
        self._unmet: dict[str, Remembered] = {}
        self._until_s = loop.time() + unmet_for_s
        self._kept: tuple[Remembered, ...] | None = None
        self._changed = asyncio.Event()
        self._throttle = Throttle()
        self._task: asyncio.Task[None] | None = None
        self._writing: asyncio.Future[tuple[Remembered, ...]] | None = None
        self.failures = 0
        """Writes that failed; each is tried again."""

    def start(self) -> None:
        self._kept = read(self._file)
        self._unmet = {each.id: each for each in self._kept or () if each.id != self._own_id}
        self._members.watch(self._changed.set)
        self._changed.set()
        self._task = self._loop.create_task(self._run())

    async def stop(self) -> None:
        """What has changed last is kept."""
        if await self._ended():
            await self._keep()

    async def forget(self) -> None:
        """This agent leaves: whoever begins here anew looks for nobody."""
        await self._ended()
        self._unmet.clear()
        try:
            await asyncio.to_thread(self._file.unlink, missing_ok=True)
        except OSError as error:
            log.warning(
                "agent: members not forgotten: the agent will join them when it is started again, unless "
                "you remove the file: file=%s error=%s",
                self._file,
                error.strerror,
            )

    @property
    def size(self) -> int:
        """How many the file tells of."""
        return len(self._kept or ())

    # -- those of before ---------------------------------------------------------------------------

    def unmet(self) -> tuple[Remembered, ...]:
        """Who was remembered at the start, and gossip knows nothing of yet."""
        if self._loop.time() >= self._until_s:
            self._unmet.clear()
        for id in [id for id in self._unmet if self._members.standing(id) is not None]:
            del self._unmet[id]
        return tuple(self._unmet.values())

    def met(self, id: str) -> None:
        """Somebody answers where this one was: under a new id, if gossip knows nothing of this one now."""
        self._unmet.pop(id, None)

    # -- the file ----------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            await self._keep()
            await asyncio.sleep(max(PAUSE_S, self._members.here / A_SECOND))

    async def _ended(self) -> bool:
        """False if nothing ran. A write under way is waited for: there is never more than one."""
        task, self._task = self._task, None
        if task is None:
            return False
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if self._writing is not None:
            await asyncio.wait({self._writing})
        return True

    async def _keep(self) -> None:
        records, unmet = self._members.records(), self.unmet()
        self._writing = self._loop.run_in_executor(None, self._follow, records, unmet)
        try:
            self._kept = await asyncio.shield(self._writing)
        except OSError as error:
            self.failures += 1
            self._changed.set()  # to be tried again
            if self._throttle.passes("", self._loop.time()):
                log.warning(
                    "agent: members not kept: after a restart this agent may not find the others by itself: "
                    "file=%s error=%s",
                    self._file,
                    error.strerror,
                )

    def _follow(self, records: Sequence[Record], unmet: Iterable[Remembered]) -> tuple[Remembered, ...]:
        """What the file tells from now on. On a thread: of many members to choose takes a while, too."""
        known = (
            (remembered(record, server=member.role == "server"), record.status)
            for record in records
            if record.facts.id != self._own_id and (member := member_of(record.facts)) is not None
        )
        chosen = choose(known, unmet)
        if chosen != (self._kept or ()):
            self._file.parent.mkdir(mode=0o700, exist_ok=True)
            replace(self._file, encode(chosen))
        return chosen


def read(file: Path) -> tuple[Remembered, ...] | None:
    """None where nothing usable is, which is told: then the others have to be found in another way."""
    why = ""
    try:
        with file.open("rb") as opened:
            return decode(opened.read(FILE_BYTES + 1))
    except FileNotFoundError:
        return None
    except OSError as error:
        why = error.strerror or str(error)
    except BadRequest as error:
        why = error.message
    log.warning("agent: who was in the cluster is not known any more: file=%s error=%s", file, why)
    return None
