"""Rendering templates once, for a command line: wait for every answer, then show the files or write them."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping, Sequence

import msgspec

from gemot.agent.template.command import run_command
from gemot.agent.template.definition import TemplateDefinition, check_together
from gemot.agent.template.dependencies import Views
from gemot.agent.template.errors import CommandFailed, TemplateFailed
from gemot.agent.template.job import Job
from gemot.agent.template.render import compile_template
from gemot.agent.template.swap import swap


class Rendered(msgspec.Struct, frozen=True):
    """What a template renders to now. Nothing has been written."""

    definition: TemplateDefinition
    content: bytes


async def render_once(
    definitions: Sequence[TemplateDefinition],
    views: Views,
    timeout_s: float,
    *,
    environ: Mapping[str, str] = os.environ,
    node: str = "",
) -> list[Rendered]:
    """Every template complete, in the given order; `wait` is ignored.

    Raises TemplateFailed for a template at fault, or naming everything still missing at the timeout.
    """
    check_together(definitions)
    wake = asyncio.Event()
    jobs: list[Job] = []
    try:
        for definition in definitions:
            program = await compile_template(definition)
            jobs.append(
                Job(definition=definition, program=program, views=views, wake=wake.set, now=time.monotonic)
            )
        contents: dict[str, bytes] = {}
        try:
            async with asyncio.timeout(timeout_s):
                await _settle(jobs, wake, contents, environ, node)
        except TimeoutError:
            raise TemplateFailed(_missing(jobs, contents, timeout_s)) from None
        return [Rendered(job.definition, contents[job.definition.destination]) for job in jobs]
    finally:
        for job in jobs:
            job.stop()


async def apply(
    rendered: Sequence[Rendered], *, environ: Mapping[str, str] = os.environ
) -> list[TemplateDefinition]:
    """Write the files that differ, then run their commands, equal ones once. Returns those written.

    Raises TemplateFailed at the first file that cannot be written: those before it are, no command has run.
    Raises CommandFailed at the first command that fails: all files are written, those before it have run.
    Nothing is recorded as owed: whoever called sees the failure.
    """
    written = [
        one.definition
        for one in rendered
        if await asyncio.to_thread(swap, one.definition, one.content) == "written"
    ]
    timeouts: dict[tuple[str, ...], float] = {}
    for definition in written:
        if definition.command:
            least_s = timeouts.get(definition.command, 0.0)
            timeouts[definition.command] = max(least_s, definition.command_timeout_s)
    for command, timeout_s in timeouts.items():
        result = await run_command(command, timeout_s=timeout_s, environ=environ)
        if not result.ok:
            raise CommandFailed(f"{' '.join(command)[:200]}: {result.problem}\n{result.output}".rstrip())
    return written


def show(rendered: Sequence[Rendered]) -> bytes:
    """What a dry run prints: `> destination`, then the content, for each."""
    parts = []
    for one in rendered:
        parts.append(b"> " + os.fsencode(one.definition.destination) + b"\n" + one.content)
        if one.content and not one.content.endswith(b"\n"):
            parts.append(b"\n")
    return b"".join(parts)


async def _settle(
    jobs: Sequence[Job],
    wake: asyncio.Event,
    contents: dict[str, bytes],
    environ: Mapping[str, str],
    node: str,
) -> None:
    """Evaluate whatever is not complete yet, each time an answer comes."""
    while True:
        wake.clear()
        for job in jobs:
            if job.definition.destination not in contents:
                content = await job.evaluate(environ=environ, node=node)
                if content is not None:
                    contents[job.definition.destination] = content
        if len(contents) == len(jobs):
            return
        await wake.wait()


def _missing(jobs: Sequence[Job], contents: Mapping[str, bytes], timeout_s: float) -> str:
    waits = [
        f"{job.definition.name} waits for {', '.join(job.waiting_for) or 'its evaluation'}"
        for job in jobs
        if job.definition.destination not in contents
    ]
    return f"not complete after {timeout_s:g} s: {'; '.join(waits)}"
