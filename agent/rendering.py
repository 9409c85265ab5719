"""Templates in a process of their own, over the HTTP API of this host's agent (`gemot template run`).

A composition root like `daemon.py`, for a program that may write files and reload services, which the agent
may not. It has no port; what it owes is in its own directory.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

from gemot.agent.notify import Notifier
from gemot.agent.over_http import OverHttp
from gemot.agent.template.definition import TemplateDefinition
from gemot.agent.template.runner import TemplateRunner, TemplateStatus
from gemot.agent.views import Views
from gemot.server.model.errors import BadRequest, GemotError, Unavailable

MAX_VIEWS = 10_000
STATUS_EVERY_S = 1.0
AGENT_RETRY_MIN_S = 0.25
AGENT_RETRY_MAX_S = 15.0
STOP_GRACE_S = 30.0
"""A command at work when the stop comes may finish for so long."""

log = logging.getLogger("gemot.template")


class Rendering:
    """From `run` to SIGTERM or SIGINT. `reread` gives the definitions at SIGHUP, or raises BadRequest."""

    def __init__(
        self,
        *,
        definitions: Sequence[TemplateDefinition],
        reread: Callable[[], Sequence[TemplateDefinition]],
        agent: OverHttp,
        state_dir: Path,
        notifier: Notifier,
    ) -> None:
        self._definitions = definitions
        self._reread = reread
        self._agent = agent
        self._state_dir = state_dir
        self._notifier = notifier
        self._over = asyncio.Event()
        self._runner: TemplateRunner | None = None
        self._reloading: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Raises BadRequest for templates that cannot be used, Unavailable when the directory is taken."""
        with _locked(self._state_dir):
            self._catch_signals()
            self._agent.start()
            views = Views(servers=self._agent, limit=MAX_VIEWS)
            # Ready before the agent is there: a host's boot must not wait for its cluster.
            self._notifier.ready()
            try:
                node = await self._until_over(self._node_name())
                if node is not None:
                    await self._render(views, node)
            finally:
                self._notifier.stopping()
                views.stop()
                await self._agent.stop()

    async def _render(self, views: Views, node: str) -> None:
        runner = TemplateRunner(
            definitions=self._definitions, views=views, data_dir=self._state_dir, node=node
        )
        await runner.start()
        self._runner = runner
        log.info("template: rendering %d templates: node=%s", len(self._definitions), node)
        watching = asyncio.get_running_loop().create_task(self._watch(runner))
        try:
            await self._over.wait()
            log.info("template: stopping")
        finally:
            watching.cancel()
            if self._reloading is not None:
                self._reloading.cancel()
            await runner.stop(STOP_GRACE_S)

    async def _node_name(self) -> str:
        """The agent's node, for the function `node()`: asked until there is an answer."""
        delay_s = AGENT_RETRY_MIN_S
        while True:
            try:
                return await self._agent.node_name()
            except GemotError as error:
                if delay_s == AGENT_RETRY_MIN_S:
                    log.warning("template: waiting for the agent: %s", error)
                self._notifier.status(f"Waiting for the agent: {error}")
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, AGENT_RETRY_MAX_S)

    async def _until_over(self, work: Coroutine[Any, Any, str]) -> str | None:
        """The result, or None when a signal came first."""
        loop = asyncio.get_running_loop()
        task, over = loop.create_task(work), loop.create_task(self._over.wait())
        await asyncio.wait((task, over), return_when=asyncio.FIRST_COMPLETED)
        over.cancel()
        if not task.done():
            task.cancel()
            return None
        return task.result()

    async def _watch(self, runner: TemplateRunner) -> None:
        """Tell the service manager how things are, and that the loop is alive."""
        while True:
            self._notifier.status(sum_up(runner.status()))
            self._notifier.alive()
            await asyncio.sleep(min(STATUS_EVERY_S, self._notifier.watchdog_s or STATUS_EVERY_S))

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._over.set)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)

    def _hang_up(self) -> None:
        if self._reloading is None or self._reloading.done():
            self._reloading = asyncio.get_running_loop().create_task(self._reload())

    async def _reload(self) -> None:
        self._notifier.reloading()
        try:
            definitions = await asyncio.to_thread(self._reread)
            if self._runner is not None:
                await self._runner.reload(definitions)
            self._definitions = definitions
            log.info("template: configuration reloaded: templates=%d", len(definitions))
        except BadRequest as error:
            log.error("template: configuration not reloaded, all stays as it was: %s", error.message)
        finally:
            self._notifier.ready()


def sum_up(statuses: Sequence[TemplateStatus]) -> str:
    """How the templates are, in one line."""
    counts = {
        "failing": sum(1 for one in statuses if one.error),
        "waiting": sum(1 for one in statuses if not one.error and one.waiting_for),
        "with a command owed": sum(1 for one in statuses if one.pending_command),
    }
    told = [f"{count} {what}" for what, count in counts.items() if count]
    return f"{len(statuses)} templates: {', '.join(told) or 'all up to date'}"


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the directory for this process alone."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise Unavailable(f"-state-dir: {error.filename or folder}: {error.strerror}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise Unavailable(f"-state-dir: {folder} is in use by another gemot template run") from error
    finally:
        os.close(handle)
