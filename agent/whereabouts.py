"""Where this agent stands in the network: found by its probes, told with its answers and to the servers.

How a position follows from round trips is in `gossip/coordinate.py`. Others' points come from outside and
are checked; a wrong one moves this agent's, by a bounded step, and nothing else. The servers are told as
rarely as Consul's are: by each agent some 15 to 30 s after it said so last, and less often where there are
more than a thousand, so that all together say it 64 times a second. It is written down now and then, so that
an agent that is started again begins where it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path
from typing import Protocol

import msgspec

from gemot.agent.durable import replace
from gemot.agent.gossip.coordinate import Position, Random, decode, encode
from gemot.server.model.coordinate import Coordinate, NodeCoordinate
from gemot.server.model.errors import BadRequest, GemotError, PeerBroke, RuleFailed
from gemot.server.runtime.cause import cause_of

log = logging.getLogger("gemot.agent")

FORMAT = 1
EVERY_S = 15.0
A_SECOND = 64
"""So often all agents together say where they stand, at most."""

KEEP_EVERY_S = 600.0
_FILE_BYTES = 4_096


class Survey(Protocol):
    """What is needed of gossip (`lan.Lan`)."""

    @property
    def here(self) -> int:
        """How many members there are."""

    def survey(self, surveyor: Whereabouts) -> None: ...


class Servers(Protocol):
    def locate(self, row: NodeCoordinate, *, token: str = "") -> asyncio.Future[bool]: ...


class _Kept(msgspec.Struct, frozen=True, array_like=True):
    format: int
    coordinate: Coordinate


class Whereabouts:
    """From `start` to `stop`. `file` is where it is written down."""

    def __init__(
        self, *, node: str, servers: Servers, gossip: Survey | None, file: Path, random: Random
    ) -> None:
        self._node = node
        self._servers = servers
        self._gossip = gossip
        self._file = file
        self._random = random
        self._position = Position(random=random, at=_read(file))
        self._told = False
        self._task: asyncio.Task[None] | None = None
        self.dropped = 0
        """Points of others that were none, and round trips that cannot be."""

    def start(self) -> None:
        if self._gossip is not None:
            self._gossip.survey(self)
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
            self._keep()

    @property
    def coordinate(self) -> Coordinate:
        return self._position.coordinate

    # -- what gossip asks and tells ----------------------------------------------------------------

    def payload(self) -> bytes:
        """What goes with each answer to a probe."""
        return encode(self._position.coordinate)

    def on_distance(self, id: str, rtt_s: float, payload: bytes) -> None:
        """This member answered after so long, and said where it stands; an older release says nothing."""
        if not payload:
            return
        try:
            self._position.observe(id, decode(payload), rtt_s)
        except (BadRequest, PeerBroke) as error:
            self.dropped += 1
            log.log(
                logging.WARNING if self.dropped == 1 else logging.DEBUG,
                "gossip: coordinate dropped: member=%s error=%s",
                id,
                error.message,
            )

    def forget(self, id: str) -> None:
        """That member is gone."""
        self._position.forget(id)

    # -- telling the servers -----------------------------------------------------------------------

    async def _run(self) -> None:
        """The first word soon, but not of all at the same time: many may have started together."""
        loop = asyncio.get_running_loop()
        keep_at = loop.time() + KEEP_EVERY_S
        await asyncio.sleep(self._random.random() * self._interval_s())
        while True:
            await self._tell()
            if loop.time() >= keep_at:
                keep_at = loop.time() + KEEP_EVERY_S
                await asyncio.to_thread(self._keep)
            interval_s = self._interval_s()
            await asyncio.sleep(interval_s + self._random.random() * interval_s)

    def _interval_s(self) -> float:
        members = self._gossip.here if self._gossip is not None else 1
        return max(EVERY_S, members / A_SECOND)

    async def _tell(self) -> None:
        """What does not arrive is said anew in its time."""
        try:
            async with asyncio.timeout(EVERY_S):
                await self._servers.locate(NodeCoordinate(self._node, self._position.coordinate))
        except RuleFailed as error:
            if not self._told:
                self._told = True
                log.info("agent: coordinates are not told: %s", error.message)
        except (GemotError, TimeoutError) as error:
            log.debug("agent: coordinate not told: error=%s", error)

    def _keep(self) -> None:
        """Not synced: losing it costs a few minutes of measuring."""
        with contextlib.suppress(OSError):
            replace(self._file, msgspec.msgpack.encode(_Kept(FORMAT, self._position.coordinate)), sync=False)


def _read(file: Path) -> Coordinate | None:
    """None where nothing usable is: then it is measured anew."""
    try:
        with file.open("rb") as opened:
            kept = msgspec.msgpack.decode(opened.read(_FILE_BYTES), type=_Kept)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        log.info("agent: where it stood is not known any more: file=%s error=%s", file, cause_of(error))
        return None
    return kept.coordinate if kept.format == FORMAT else None
