"""Carries local changes to the catalog at once, and compares the whole from time to time (anti-entropy).

One task, one round at a time: a round takes all that changed since the last one, so a burst becomes few
writes. A failed round loses nothing: what it could not tell counts as changed again and goes with the next
full round. What to write is decided in `difference.py`. Source: Consul, anti-entropy.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import groupby

from gemot.agent.difference import Gap, Write, commands, compare
from gemot.agent.local import Change, LocalState
from gemot.agent.servers import Servers
from gemot.server.model.catalog import NodeDetail, NodeInfo
from gemot.server.model.errors import (
    BadRequest,
    Forbidden,
    GemotError,
    OutcomeUnknown,
    RuleFailed,
    Unavailable,
)
from gemot.server.model.query import Options

FULL_S = 60.0
RETRY_S = 15.0
JOIN_S = 3.0
MAX_STALE_MS = 2000
MAX_IN_FLIGHT = 16
REPLY_WITHIN_S = 5.0
"""How long a caller that registers something is kept waiting for the servers; the work goes on after."""

_REFUSED = (
    "sync: the servers refuse this host, so nothing of it is in the catalog, next try in %.0f s: %s. Where "
    "another host has its name, give one of the two another node_name"
)

_log = logging.getLogger(__name__)


class Sync:
    """For one event loop. `now` must be the clock of the local state; `nodes` is the cluster's size."""

    def __init__(
        self,
        *,
        local: LocalState,
        servers: Servers,
        nodes: Callable[[], int] = lambda: 1,
        now: Callable[[], float] = time.monotonic,
        uniform: Callable[[], float] = random.random,
        token: str = "",
    ) -> None:
        self._local = local
        self._servers = servers
        self._nodes = nodes
        self._now = now
        self._uniform = uniform
        self._token = token
        self._wake = asyncio.Event()
        self._changed = False
        self._compared = False
        self._refusals = 0
        """So often in a row the servers refused this host."""

        self.refusal = ""
        """Why they refuse it at present, in their words; "" if they do not."""

        self._full_at_s = 0.0
        self._pauses = 0
        self._next_round: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._unlisten: Callable[[], None] | None = None
        self.rounds: Counter[tuple[str, str]] = Counter()
        """How many there were: ("full" or "changes", "ok" or "failed")."""

    def start(self) -> None:
        """Begin with a full round."""
        self._unlisten = self._local.listen(self._on_change)
        self._full_at_s = self._now()
        self._task = asyncio.create_task(self._run(), name="sync")

    async def stop(self) -> None:
        """End at once: the catalog keeps what it was told, and waiting callers go on."""
        if self._unlisten is not None:
            self._unlisten()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        self._end_round(self._next_round)
        self._task = None

    async def settle(self, within_s: float = REPLY_WITHIN_S) -> None:
        """Wait until a round that holds every change so far was tried, whatever came of it."""
        if not self._changed or self._pauses or self._refusals or self._task is None:
            return
        if self._next_round is None:
            self._next_round = asyncio.get_running_loop().create_future()
        await asyncio.wait((self._next_round,), timeout=within_s)

    def pause(self) -> None:
        """Begin no round until `resume` was called as often. A round under way ends first."""
        self._pauses += 1

    def resume(self) -> None:
        self._pauses -= 1
        self._wake.set()

    def compare_soon(self, within_s: float = JOIN_S) -> None:
        """Have a full round within this time (a server came: it may be the first that is reachable)."""
        at_s = self._now() + within_s * self._uniform() * scale(self._nodes())
        self._full_at_s = min(self._full_at_s, at_s)
        self._wake.set()

    def _on_change(self, change: Change) -> None:
        self._changed = True
        self._wake.set()

    async def _run(self) -> None:
        while True:
            full = await self._wait_for_work()
            kind, outcome = "full" if full else "changes", "failed"
            waiting, self._next_round = self._next_round, None
            self._changed = False
            try:
                await (self._compare() if full else self._push(self._local.take_gap()))
                outcome = "ok"
            except GemotError as error:
                self._on_failure(error, full=full)
            except Exception:
                _log.exception("sync: a round failed by a fault of ours")
                self._full_at_s = min(self._full_at_s, self._later(RETRY_S))
            finally:
                self.rounds[kind, outcome] += 1
                self._end_round(waiting)

    async def _wait_for_work(self) -> bool:
        """Whether the whole is to be compared."""
        while True:
            self._wake.clear()
            due_s = self._local.check_states.release()
            now_s = self._now()
            if not self._pauses and now_s >= self._full_at_s:
                return True
            if not self._pauses and not self._refusals and self._changed:
                return not self._compared
            until_s = math.inf if self._pauses else min(self._full_at_s, due_s or math.inf)
            try:
                async with asyncio.timeout(None if until_s == math.inf else max(0.0, until_s - now_s)):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _compare(self) -> None:
        """A full round. Nothing is told before the first one knows how the catalog has what was restored."""
        self._full_at_s = self._later(FULL_S)
        answer = await self._servers.query(NodeInfo(self._local.node.node), self._options())
        found: NodeDetail | None = answer.value
        if found is not None and found.node.node.lower() != self._local.node.node.lower():
            found = None  # our name is the beginning of another node's id
        if not self._compared:
            ours = found is not None and found.node.id == self._local.node.id
            self._local.check_states.adopt(found.checks if found and ours else ())
            self._compared = True
        gap = compare(self._local.wanted(), found)
        if gap:
            _log.info("sync: the catalog differs: %s", _told(gap))
        self._local.adopt(gap.adopted)
        self._local.mark(gap)
        await self._push(self._local.take_gap())

    def _options(self) -> Options:
        """How to read what the catalog has: of what was restored its last status, not one before."""
        if not self._compared:
            return Options(token=self._token)
        return Options(consistency="stale", max_stale_ms=MAX_STALE_MS, token=self._token)

    async def _push(self, gap: Gap) -> None:
        """Write what closes the gap. Raises the first failure, after all that could not be told is marked.

        What the servers refuse is not marked: it would be refused again at each change. The next full round
        finds it, and why. Where they refuse the node itself nothing else is told before that: under its name
        stands what another host runs.
        """
        writes = commands(self._local.wanted(gap), gap)
        failure: GemotError | None = None
        refused = False
        for _, step in groupby(writes, key=lambda write: write.step):
            batch = list(step)
            failure = await self._write_step(batch, failure)
            refused = batch[0].part.node and _is_refusal(failure)
            if refused:
                break
        self._refusals = self._refusals + 1 if refused else 0
        self.refusal = str(failure) if refused else ""
        if failure is not None:
            raise failure

    async def _write_step(self, batch: Sequence[Write], failure: GemotError | None) -> GemotError | None:
        """Write these, unless it is known to be in vain by the failure so far; the failure from then on."""
        for start in range(0, len(batch), MAX_IN_FLIGHT):
            part = batch[start : start + MAX_IN_FLIGHT]
            if isinstance(failure, Unavailable | OutcomeUnknown):
                for write in part:
                    self._local.mark(write.part)
            else:
                failure = await self._write_all(part) or failure
        return failure

    async def _write_all(self, writes: Sequence[Write]) -> GemotError | None:
        """Write these side by side; the failure that weighs most, or None."""
        failures: list[GemotError] = []
        futures = []
        for write in writes:
            try:
                futures.append(self._servers.apply(write.command, token=write.token))
            except GemotError as error:
                refused: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                refused.set_exception(error)
                futures.append(refused)  # type: ignore[arg-type]
        results = await asyncio.gather(*futures, return_exceptions=True)
        for write, result in zip(writes, results, strict=True):
            if isinstance(result, Forbidden):
                _log.warning("sync: %s: refused, tried again at the next full comparison", _name(write))
            elif isinstance(result, Unavailable | OutcomeUnknown):
                self._local.mark(write.part)
                failures.append(result)
            elif isinstance(result, GemotError):
                failures.append(result)
                if not write.part.node:  # that ends the round, which tells it
                    _log.warning("sync: %s: %s", _name(write), result)
            elif isinstance(result, BaseException):
                raise result
        failures.sort(key=lambda error: not isinstance(error, Unavailable | OutcomeUnknown))
        return failures[0] if failures else None

    def _on_failure(self, error: GemotError, *, full: bool) -> None:
        """Never puts off the next full round: changes that fail may come more often than that is due."""
        refused = self._refusals and _is_refusal(error)
        if refused:  # by a name, say, whose holder has gone and keeps it for some seconds more
            at_s = self._later(min(RETRY_S, JOIN_S * 2 ** (self._refusals - 1)))
        elif full or isinstance(error, Unavailable | OutcomeUnknown):
            at_s = self._later(RETRY_S)
        else:  # the catalog is not what it was taken for: somebody else changed it
            at_s = self._now() + JOIN_S * self._uniform() * scale(self._nodes())
        self._full_at_s = min(self._full_at_s, at_s)
        wait_s = max(0.0, self._full_at_s - self._now())
        if refused:
            _log.error(_REFUSED, wait_s, error)
        else:
            _log.warning("sync: not all could be told to the servers, next try in %.0f s: %s", wait_s, error)

    def _later(self, after_s: float) -> float:
        return self._now() + after_s * (1 + self._uniform() * scale(self._nodes()))

    def _end_round(self, waiting: asyncio.Future[None] | None) -> None:
        if waiting is not None and not waiting.done():
            waiting.set_result(None)


def scale(nodes: int) -> int:
    """By how much rounds are spread out, so that a big cluster does not come all at once."""
    return 1 if nodes <= 128 else math.ceil(math.log2(nodes) - 7) + 1


def _is_refusal(failure: GemotError | None) -> bool:
    """Whether a rule of the servers says no: what else failed says nothing of the host."""
    return isinstance(failure, RuleFailed | BadRequest)


def _told(gap: Gap) -> str:
    """A gap that is not empty, in a person's words."""
    parts = []
    for verb, services, checks in (
        ("to register", len(gap.services), len(gap.checks)),
        ("to remove", len(gap.gone_services), len(gap.gone_checks)),
    ):
        counts = [
            f"{count} {kind}{'s' if count > 1 else ''}"
            for count, kind in ((services, "service"), (checks, "check"))
            if count
        ]
        if counts:
            parts.append(f"{' and '.join(counts)} {verb}")
    if gap.node:
        parts.insert(0, "the node's entry to write")
    return ", ".join(parts)


def _name(write: Write) -> str:
    """The write in a person's words."""
    part = write.part
    verb = "removal of" if part.gone_services or part.gone_checks else "registration of"
    names = sorted(part.services | part.gone_services) or sorted(part.checks | part.gone_checks.keys())
    kind = "the node" if part.node else "service" if part.services or part.gone_services else "check"
    return f"{verb} {kind} {', '.join(names[:5])}".rstrip()
