"""The probe that runs a program: exit 0 is passing, 1 is warning, anything else is critical.

The program is started from its argument list, without a shell, in a session of its own. On timeout the
whole process group is asked to end (TERM), then made to (KILL). Only the last bytes of its output are kept,
however much it writes. What left the group by a session of its own is out of reach.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess

from gemot.checks.definition import CheckDefinition
from gemot.checks.status import Outcome, Status, cut_tail

DEFAULT_TIMEOUT_S = 30.0

TERM_GRACE_S = 2.0
"""How long a group that was asked to end has before it is made to."""

REAP_S = 5.0
"""How long the end of a killed program is waited for (it may hang in the kernel)."""

DRAIN_S = 0.2
"""How long output is still read after the program's end, when a child of it keeps the pipe open."""

_CHUNK_BYTES = 65536
_STATUS_BY_EXIT: dict[int, Status] = {0: "passing", 1: "warning"}


async def probe(definition: CheckDefinition) -> Outcome:
    """Run the program once. Never raises but for cancellation, which kills the group."""
    if not definition.from_config:
        return Outcome("critical", "Scripts run only from this host's configuration files: nothing was run")
    timeout_s = definition.timeout_s or DEFAULT_TIMEOUT_S
    try:
        run = _Run(definition.args, definition.output_max_bytes)
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        return Outcome("critical", f"Failed to start {definition.args[0]!r}: {why}")
    try:
        if not await run.wait(timeout_s):
            await run.end_group()
            return Outcome("critical", f"Timed out ({timeout_s:g}s) running check\n\n{run.output()}")
        await run.drain()
        return Outcome(_STATUS_BY_EXIT.get(run.exit_code(), "critical"), run.output())
    finally:
        await run.close()


class _Run:
    """One running program, its pipe and its end, watched from the loop without a thread."""

    def __init__(self, args: tuple[str, ...], keep_bytes: int) -> None:
        self._keep_bytes = keep_bytes
        self._tail = b""
        self._total = 0
        self._loop = asyncio.get_running_loop()
        self._exited = self._loop.create_future()
        self._drained = self._loop.create_future()
        self._pipe, write_end = os.pipe()
        try:
            os.set_blocking(self._pipe, False)
            self._process = subprocess.Popen(
                args,
                stdin=subprocess.DEVNULL,
                stdout=write_end,
                stderr=write_end,
                start_new_session=True,
            )
        except BaseException:
            os.close(self._pipe)
            raise
        finally:
            os.close(write_end)
        self._pid_fd = os.pidfd_open(self._process.pid)
        self._loop.add_reader(self._pid_fd, self._on_exit)
        self._loop.add_reader(self._pipe, self._on_output)

    async def wait(self, timeout_s: float) -> bool:
        """Whether the program ended within the time."""
        await asyncio.wait((self._exited,), timeout=timeout_s)
        return self._exited.done()

    async def drain(self) -> None:
        await asyncio.wait((self._drained,), timeout=DRAIN_S)

    async def end_group(self) -> None:
        """End the whole group. The program is reaped only afterwards, so the group's id is still its own."""
        self._signal(signal.SIGTERM)
        await self.wait(TERM_GRACE_S)
        self._signal(signal.SIGKILL)
        await self.wait(REAP_S)
        await self.drain()

    def exit_code(self) -> int:
        """0 to 255, or the negative number of the signal that ended it."""
        return self._process.wait()

    def output(self) -> str:
        return cut_tail(self._tail, self._total)

    async def close(self) -> None:
        if not self._exited.done():
            self._signal(signal.SIGKILL)
            await self.wait(REAP_S)
        if self._exited.done():
            self._process.wait()
        self._loop.remove_reader(self._pid_fd)
        self._loop.remove_reader(self._pipe)
        os.close(self._pid_fd)
        os.close(self._pipe)

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self._process.pid, number)
        except (ProcessLookupError, PermissionError):
            pass  # all gone, or what is left runs as another user

    def _on_exit(self) -> None:
        self._loop.remove_reader(self._pid_fd)
        if not self._exited.done():
            self._exited.set_result(None)

    def _on_output(self) -> None:
        try:
            chunk = os.read(self._pipe, _CHUNK_BYTES)
        except BlockingIOError:
            return
        self._total += len(chunk)
        self._tail = (self._tail + chunk)[-self._keep_bytes :] if self._keep_bytes else b""
        if not chunk:
            self._loop.remove_reader(self._pipe)
            if not self._drained.done():
                self._drained.set_result(None)
