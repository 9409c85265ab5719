"""A compiled template, and its evaluation against known answers: on a thread of its own, with a deadline.

Jinja2 runs as Python bytecode, so a loop that takes too long is ended by raising an error inside its
thread; `sandbox.py` keeps single steps short. An evaluation never waits for an answer.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import re
import stat
import threading
import traceback
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec
from jinja2 import Template, TemplateSyntaxError

from gemot.agent.fields import Mistakes
from gemot.agent.template.definition import MAX_CONTENTS_BYTES, TemplateDefinition
from gemot.agent.template.dependencies import Need
from gemot.agent.template.errors import TemplateFailed
from gemot.agent.template.filters import FILTERS
from gemot.agent.template.functions import Reads
from gemot.agent.template.pending import Unresolved
from gemot.agent.template.review import other_language, review
from gemot.agent.template.sandbox import MAX_OUTPUT_BYTES, make_environment
from gemot.agent.template.swap import resolve_owner

_LINE_END = re.compile(r"\r\n|\r|\n")
DEADLINE_S = 10.0
MAX_FAULTS = 100
"""The most that are told of one template."""

T = TypeVar("T")


class Evaluation(msgspec.Struct, frozen=True):
    """One evaluation: the bytes for the file, or None and why not; and everything that was asked for."""

    content: bytes | None
    needs: dict[bytes, Need]
    unanswered: tuple[Need, ...] = ()
    absent: tuple[Need, ...] = ()


class Program:
    """One template, compiled. Its text is read once; a change of the source file needs a new one."""

    def __init__(self, name: str, template: Template) -> None:
        self.name = name
        self._template = template

    async def evaluate(
        self,
        known: Mapping[bytes, Any],
        *,
        environ: Mapping[str, str],
        node: str = "",
        deadline_s: float = DEADLINE_S,
    ) -> Evaluation:
        """Evaluate with these answers (not to be changed meanwhile). Raises TemplateFailed."""
        reads = Reads(known=known, environ=environ, node=node)
        return await run_bounded(lambda: self._evaluate(reads), self.name, deadline_s)

    def _evaluate(self, reads: Reads) -> Evaluation:
        content: bytes | None = None
        try:
            content = self._generate(reads)
        except Unresolved:
            pass
        except Exception as error:
            if reads.complete or reads.too_many:  # else: perhaps it fails only for want of an answer
                raise _explain(self.name, error) from error
        return Evaluation(
            content=content if reads.complete else None,
            needs=reads.needs,
            unanswered=tuple(reads.unanswered.values()),
            absent=tuple(reads.absent.values()),
        )

    def _generate(self, reads: Reads) -> bytes:
        pieces: list[bytes] = []
        size = 0
        for text in self._template.generate(reads.functions()):
            pieces.append(text.encode("utf-8", "surrogateescape"))
            size += len(pieces[-1])
            if size > MAX_OUTPUT_BYTES:
                raise TemplateFailed(f"the file would be larger than {MAX_OUTPUT_BYTES} bytes, the limit")
        return b"".join(pieces)


async def compile_template(definition: TemplateDefinition, *, deadline_s: float = DEADLINE_S) -> Program:
    """Read and compile. Raises TemplateFailed that names the file and, for a fault in it, the line."""
    return await run_bounded(lambda: _compile(definition), definition.name, deadline_s)


def check_template(definition: TemplateDefinition, *, deadline_s: float = DEADLINE_S) -> None:
    """Blocking: raise Mistakes with everything that keeps a definition from being used on this host."""
    found: list[tuple[str, str]] = []
    try:
        resolve_owner(definition)
    except TemplateFailed as error:
        found.append(("", error.message))
    found += _compile_aside(definition, deadline_s)
    if found:
        raise Mistakes.of(found)


def _compile_aside(definition: TemplateDefinition, deadline_s: float) -> list[tuple[str, str]]:
    """What is wrong with its text; on a thread of its own, which can be ended."""
    path = "source" if definition.source else "contents"
    faults: list[tuple[str, str]] = []

    def run() -> None:
        try:
            _compile(definition)
        except TemplateFailed as error:
            faults.extend((path, line) for line in error.message.splitlines())
        except _DeadlinePassed:
            pass
        except Exception as error:
            faults.append((path, f"{definition.name}: cannot be compiled: {error!r:.200}"))

    thread = threading.Thread(target=run, name=f"template {definition.name}"[:60], daemon=True)
    thread.start()
    thread.join(deadline_s)
    if thread.is_alive():
        _end(thread)
        return [(path, _too_slow(definition.name, deadline_s))]
    return faults


def _compile(definition: TemplateDefinition) -> Program:
    """Raises TemplateFailed, with a line for each fault."""
    name = definition.name
    text = _read_source(definition.source) if definition.source else definition.contents
    environment = make_environment(
        filters=FILTERS,
        strict=definition.error_on_missing_key,
        left_delimiter=definition.left_delimiter,
        right_delimiter=definition.right_delimiter,
    )
    try:
        tree = environment.parse(text, name=name, filename=name)
        if faults := review(tree, environment):
            raise TemplateFailed("\n".join(f"{name}:{line}: {fault}" for line, fault in faults[:MAX_FAULTS]))
        code = environment.compile(tree, name=name, filename=name)
        template = environment.template_class.from_code(environment, code, environment.globals)
    except TemplateFailed:
        raise
    except TemplateSyntaxError as error:
        # As Jinja2 counts them: it also ends a line at a lone carriage return.
        line = [*_LINE_END.split(text), ""][error.lineno - 1]
        raise TemplateFailed(f"{name}:{error.lineno}: {error.message}{other_language(line)}") from error
    except Exception as error:
        raise _explain(name, error) from error
    return Program(name, template)


def _read_source(path: str) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise TemplateFailed(f"{path}: the template is not a regular file")
            data = file.read(MAX_CONTENTS_BYTES + 1)
    except OSError as error:
        raise TemplateFailed(f"{path}: the template cannot be read: {error.strerror}") from error
    if len(data) > MAX_CONTENTS_BYTES:
        raise TemplateFailed(f"{path}: is larger than {MAX_CONTENTS_BYTES} bytes, the limit of a template")
    return data.decode("utf-8", "surrogateescape")


def _explain(name: str, error: Exception) -> TemplateFailed:
    """The error with the place in the template."""
    if isinstance(error, TemplateSyntaxError):
        return TemplateFailed(f"{name}:{error.lineno}: {error.message}")
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == name]
    place = f"{name}:{lines[-1]}" if lines and lines[-1] else name
    if isinstance(error, RecursionError):
        return TemplateFailed(f"{place}: it is nested or calls itself too deeply")
    if isinstance(error, TemplateFailed):
        return TemplateFailed(f"{place}: {error.message}")
    kind = type(error).__name__
    text = str(error)[:500] or kind
    return TemplateFailed(f"{place}: {text}" if kind in _PLAIN_KINDS else f"{place}: {kind}: {text}")


_PLAIN_KINDS = frozenset(("UndefinedError", "SecurityError", "TemplateRuntimeError", "FilterArgumentError"))


class _DeadlinePassed(BaseException):
    """Raised inside the worker's thread. Not an Exception, so that nothing there takes it for its own."""


async def run_bounded(work: Callable[[], T], name: str, deadline_s: float) -> T:
    """The result of `work`, run on a thread of its own; ended, and TemplateFailed raised, at the deadline."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        try:
            result, error = work(), None
        except _DeadlinePassed:
            return
        except Exception as failure:
            result, error = None, failure
        try:
            loop.call_soon_threadsafe(settle, result, error)
        except RuntimeError:
            pass  # the loop has closed: nobody waits any more

    def run_quietly() -> None:
        try:
            run()
        except _DeadlinePassed:
            pass  # it came when the work was done already

    thread = threading.Thread(target=run_quietly, name=f"template {name}"[:60], daemon=True)
    thread.start()
    try:
        async with asyncio.timeout(deadline_s):
            return await done
    except TimeoutError:
        raise TemplateFailed(_too_slow(name, deadline_s)) from None
    finally:
        if not done.done() or done.cancelled():
            _end(thread)


def _too_slow(name: str, deadline_s: float) -> str:
    return f"{name}: it took longer than {deadline_s:g} s to evaluate, the limit"


def _end(thread: threading.Thread) -> None:
    """Raise an error in the thread at its next bytecode. Without effect on one that has ended."""
    if thread.ident is not None and thread.is_alive():
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(thread.ident), ctypes.py_object(_DeadlinePassed)
        )
