"""The templates of this agent, kept rendered: evaluation, files and commands, pass after pass.

One pass evaluates every template that changed and has been quiet long enough, puts all new files in
place, then runs the commands, equal ones once. Passes come one after the other, so a command always sees
the files of its pass. A command is owed from before its file's rename until it succeeds, across crashes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from gemot.agent.template.command import run_command
from gemot.agent.template.definition import TemplateDefinition, check_together
from gemot.agent.template.dependencies import FILE_POLL_S, Views
from gemot.agent.template.errors import TemplateFailed
from gemot.agent.template.job import Job
from gemot.agent.template.owed import OwedCommands
from gemot.agent.template.render import compile_template
from gemot.agent.template.swap import Outcome, resolve_owner, swap, sweep
from gemot.server.model.errors import BadRequest, GemotError

SPACING_S = 0.1
"""Between passes, for templates that were rendered before: what changes together is rendered together."""

RETRY_MIN_S = 1.0
RETRY_MAX_S = 60.0
STOP_GRACE_S = 5.0

_log = logging.getLogger(__name__)


class TemplateStatus(msgspec.Struct, frozen=True):
    """One template as `why` and the metrics see it. Times are seconds of the wall clock, 0 for never.

    `waiting_for` names what has not answered or does not exist; with `error` it says why the file is not
    up to date. `pending_command` is the command still owed, `command_error` its last failure. `age_s` is for
    how long nothing vouches for the oldest of its values.
    """

    source: str
    destination: str
    waiting_for: tuple[str, ...]
    error: str
    rendered_at: float
    written_at: float
    writes: int
    failures: int
    pending_command: tuple[str, ...]
    command_error: str
    age_s: float = 0.0


class _Debt:
    """A command that is owed, for which destinations, and when to try it (again)."""

    def __init__(self, due_at: float) -> None:
        self.jobs: dict[str, Job] = {}
        self.due_at = due_at
        self.tries = 0
        self.error = ""


class TemplateRunner:
    """Runs from `start` to `stop`. For one event loop; evaluation and disk are on worker threads."""

    def __init__(
        self,
        *,
        definitions: Sequence[TemplateDefinition],
        views: Views,
        data_dir: Path,
        environ: Mapping[str, str] = os.environ,
        node: str = "",
        now: Callable[[], float] = time.monotonic,
        file_poll_s: float = FILE_POLL_S,
        retry_min_s: float = RETRY_MIN_S,
    ) -> None:
        """`node` is the name of this agent's node, for the function `node()`; `now` never goes back."""
        self._definitions = tuple(definitions)
        self._views = views
        self._owed = OwedCommands(data_dir)
        self._environ = environ
        self._node = node
        self._now = now
        self._file_poll_s = file_poll_s
        self._retry_min_s = retry_min_s
        self._jobs: list[Job] = []
        self._debts: dict[tuple[str, ...], _Debt] = {}
        self._wake = asyncio.Event()
        self._lane = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self._passed_at = now() - SPACING_S

    async def start(self) -> None:
        """Compile every template, take up what is owed, begin. Raises BadRequest naming every fault."""
        jobs = await self._compile(self._definitions)
        self._install(jobs, await asyncio.to_thread(self._take_up, [job.definition for job in jobs]))
        self._task = asyncio.get_running_loop().create_task(self._run(), name="templates")

    async def stop(self, grace_s: float = STOP_GRACE_S) -> None:
        """End after the step at hand, or kill its command after `grace_s`; what is owed stays recorded."""
        self._stopping = True
        self._wake.set()
        if self._task is not None:
            await asyncio.wait((self._task,), timeout=grace_s)
            self._task.cancel()
            await asyncio.wait((self._task,))
        for job in self._jobs:
            job.stop()

    async def reload(self, definitions: Sequence[TemplateDefinition]) -> None:
        """Go on with these, and with their sources read anew. All or nothing: raises as `start` does."""
        async with self.reloading(definitions) as switch:
            switch()

    @contextlib.asynccontextmanager
    async def reloading(self, definitions: Sequence[TemplateDefinition]) -> AsyncIterator[Callable[[], None]]:
        """A reload in two steps, for one that must hold together with others.

        All that can fail happens before the body is entered, while nothing is rendered; the body calls
        what it is given to switch over, at once and without fail, or does not, and all stays as it was.
        """
        jobs = await self._compile(definitions)
        async with self._lane:
            owed = await asyncio.to_thread(self._take_up, [job.definition for job in jobs])

            def switch() -> None:
                old = self._jobs
                self._install(jobs, owed)
                self._definitions = tuple(definitions)
                for job in old:
                    job.stop()  # last, so that what both watch stays watched
                self._wake.set()

            yield switch

    @property
    def writes(self) -> int:
        """Files written, since the start or the last reload."""
        return sum(job.writes for job in self._jobs)

    @property
    def failures(self) -> int:
        """Renderings that failed, since the start or the last reload."""
        return sum(job.failures for job in self._jobs)

    def status(self) -> list[TemplateStatus]:
        """Every template, in the order of the configuration."""
        return [self._status(job) for job in self._jobs]

    async def _compile(self, definitions: Sequence[TemplateDefinition]) -> list[Job]:
        check_together(definitions)
        faults: list[str] = []
        jobs = []
        for definition in definitions:
            try:
                resolve_owner(definition)
                program = await compile_template(definition)
            except TemplateFailed as error:
                faults += error.message.splitlines()
                continue
            jobs.append(
                Job(
                    definition=definition,
                    program=program,
                    views=self._views,
                    wake=self._wake.set,
                    now=self._now,
                    file_poll_s=self._file_poll_s,
                )
            )
        if faults:
            raise BadRequest("templates: " + "; ".join(faults))
        return jobs

    def _install(self, jobs: list[Job], owed: list[TemplateDefinition]) -> None:
        by_id = {job.definition.id: job for job in jobs}
        self._jobs = jobs
        self._debts = {}
        for definition in owed:
            _log.info("template: the command for %s is still owed: it runs now", definition.destination)
            self._owe(by_id[definition.id])

    def _take_up(self, definitions: list[TemplateDefinition]) -> list[TemplateDefinition]:
        for definition in definitions:
            sweep(definition)
        return self._owed.load(definitions)

    def _owe(self, job: Job) -> None:
        debt = self._debts.setdefault(job.definition.command, _Debt(self._now()))
        debt.jobs[job.definition.id] = job
        debt.due_at = self._now()
        debt.tries = 0

    async def _run(self) -> None:
        while not self._stopping:
            await self._sleep()
            async with self._lane:
                try:
                    await self._pass()
                except Exception:
                    _log.exception("template: a pass failed, the next one is in %g s", RETRY_MIN_S)
                    await asyncio.sleep(RETRY_MIN_S)

    async def _sleep(self) -> None:
        """Until something is due."""
        while not self._stopping:
            self._wake.clear()
            times = [due_at for job in self._jobs if (due_at := self._due_at(job)) is not None]
            times += [debt.due_at for debt in self._debts.values()]
            wait_s = min(times) - self._now() if times else None
            if wait_s is not None and wait_s <= 0:
                return
            try:
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _pass(self) -> None:
        now = self._now()
        for job in self._jobs:
            due_at = self._due_at(job)
            if due_at is not None and due_at <= now and not self._stopping:
                await self._render(job)
        now = self._now()
        for command, debt in list(self._debts.items()):
            if debt.due_at <= now and not self._stopping:
                await self._pay(command, debt)
        self._passed_at = self._now()

    def _due_at(self, job: Job) -> float | None:
        due_at = job.due_at
        if due_at is None or not job.rendered_at:
            return due_at
        return max(due_at, self._passed_at + SPACING_S)

    async def _render(self, job: Job) -> None:
        """Evaluate one template; put its file in place if it is complete and differs."""
        definition = job.definition
        try:
            content = await job.evaluate(environ=self._environ, node=self._node)
            if content is None:
                return
            outcome = await asyncio.to_thread(self._swap, definition, content)
        except GemotError as error:
            if job.error != error.message:
                _log.warning("template: %s", error.message)
            job.fail(error.message, retry_s=_backoff(job.failed_in_a_row, self._retry_min_s))
            return
        job.succeed(written=outcome == "written")
        if outcome == "same":
            return
        done = "wrote" if outcome == "written" else "set mode and owner of"
        _log.info("template: %s %s", done, definition.destination)
        if outcome == "written" and definition.command:
            self._owe(job)

    def _swap(self, definition: TemplateDefinition, content: bytes) -> Outcome:
        """On a worker thread. A record made for a rename that did not happen is taken back."""
        recorded = False

        def record() -> None:
            nonlocal recorded
            recorded = self._owed.record(definition)

        try:
            return swap(definition, content, before_rename=record if definition.command else lambda: None)
        except TemplateFailed:
            if recorded:
                self._owed.clear([definition])
            raise

    async def _pay(self, command: tuple[str, ...], debt: _Debt) -> None:
        """Run a command that is owed. Owed no more when it succeeds, tried again later when not."""
        definitions = [job.definition for job in debt.jobs.values()]
        timeout_s = max(definition.command_timeout_s for definition in definitions)
        result = await run_command(command, timeout_s=timeout_s, environ=self._environ)
        where = ", ".join(definition.destination for definition in definitions)
        if result.ok:
            await asyncio.to_thread(self._owed.clear, definitions)
            del self._debts[command]
            _log.info("template: ran %s for %s: %s", _show(command), where, result.output or "no output")
            return
        delay_s = _backoff(debt.tries, self._retry_min_s)
        debt.tries += 1
        debt.due_at = self._now() + delay_s
        debt.error = f"{result.problem}: {result.output}" if result.output else result.problem
        _log.warning("template: %s for %s: %s; again in %g s", _show(command), where, debt.error, delay_s)

    def _status(self, job: Job) -> TemplateStatus:
        debt = self._debts.get(job.definition.command)
        mine = debt if debt is not None and job.definition.id in debt.jobs else None
        return TemplateStatus(
            source=job.definition.name,
            destination=job.definition.destination,
            waiting_for=job.waiting_for,
            error=job.error,
            rendered_at=job.rendered_at,
            written_at=job.written_at,
            writes=job.writes,
            failures=job.failures,
            pending_command=job.definition.command if mine is not None else (),
            command_error=mine.error if mine is not None else "",
            age_s=job.age_s,
        )


def _backoff(tries: int, least_s: float) -> float:
    """1, 2, 4, ... 60 seconds."""
    return min(least_s * 2.0 ** min(tries, 16), max(RETRY_MAX_S, least_s))


def _show(command: tuple[str, ...]) -> str:
    return " ".join(command)[:200]
