"""Running one command: in a process group of its own, for a bounded time, with the end of its output kept."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping

import msgspec

MAX_OUTPUT_BYTES = 4096
READ_BYTES = 65536
KILLED_WAIT_S = 5.0


class Result(msgspec.Struct, frozen=True):
    """How a command ended. `problem` is "" on success; `output` is the end of what it printed."""

    problem: str
    output: str

    @property
    def ok(self) -> bool:
        return not self.problem


async def run_command(command: tuple[str, ...], *, timeout_s: float, environ: Mapping[str, str]) -> Result:
    """Run it to its end; at the timeout, or when this call is cancelled, kill its whole process group.

    A process it leaves behind in the background (and that holds its output open) is not waited for.
    """
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    output = _Output(reader)
    try:
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=writer,
                stderr=writer,
                env=dict(environ),
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            return Result(f"{command[0]} cannot be started: {reason}", "")
        finally:
            os.close(writer)
        output.start()
        problem = await _wait(process, timeout_s)
        output.read()
        return Result(problem, output.text())
    finally:
        output.stop()


async def _wait(process: asyncio.subprocess.Process, timeout_s: float) -> str:
    try:
        async with asyncio.timeout(timeout_s):
            status = await process.wait()
    except TimeoutError:
        await _kill(process)
        return f"it took longer than {timeout_s:g} s and was killed"
    except asyncio.CancelledError:
        await _kill(process)
        raise
    if status < 0:
        return f"it was ended by signal {-status} ({signal.Signals(-status).name})"
    return f"it exited with status {status}" if status else ""


async def _kill(process: asyncio.subprocess.Process) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)  # its pid is its group's id: it was started as a session
    except ProcessLookupError:
        pass
    try:
        async with asyncio.timeout(KILLED_WAIT_S):
            await process.wait()
    except TimeoutError:
        pass  # in the kernel's hands (a dead network disk); it is reaped when it ends


class _Output:
    """Reads a pipe as it fills, so that the command never blocks on it, and keeps the last bytes."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._tail = bytearray()
        self._cut = False
        self._watched = False

    def start(self) -> None:
        asyncio.get_running_loop().add_reader(self._descriptor, self._read_some)
        self._watched = True

    def read(self) -> None:
        """What is in the pipe now; not for ever, should someone go on writing."""
        for _ in range(16):
            if not self._watched:
                return
            self._read_some()

    def stop(self) -> None:
        self._unwatch()
        os.close(self._descriptor)

    def text(self) -> str:
        text = self._tail.decode("utf-8", "replace").rstrip()
        return f"... {text}" if self._cut else text

    def _read_some(self) -> None:
        try:
            data = os.read(self._descriptor, READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            self._unwatch()
            return
        self._tail += data
        if len(self._tail) > MAX_OUTPUT_BYTES:
            self._cut = True
            del self._tail[:-MAX_OUTPUT_BYTES]

    def _unwatch(self) -> None:
        if self._watched:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            self._watched = False
