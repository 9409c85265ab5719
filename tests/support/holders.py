"""Holders of `gemot lock` as processes, and one who sees when each is inside, by a pipe of its command.

The command writes its fence into the pipe and then waits. It is inside for as long as anything of it has open
what it opened: the pipe, whose end tells of it here, and a file of the lock that it has under flock(2). Who
comes in while another has that says so. So whether two were inside is told by the kernel, at the entry, and
hangs on nothing that this process sees early or late.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

from support.cluster import Agent
from support.dev_agent import PROGRAM

INSIDE = """exec 3>"$0" 4>"$1"; both=0; flock -n 4 || both=1
echo "$GEMOT_LOCK_FENCE $both $$ $PPID" >&3
[ $both = 0 ] || flock 4
exec sleep 100000"""
"""Its sleep keeps both."""


class Holder:
    """One `gemot lock`. `entered_s` and `left_s` are when it was seen, by the monotonic clock."""

    def __init__(self, *, agent: Agent, folder: Path, name: str, prefix: str, ttl_s: float) -> None:
        self.agent = agent
        self.fence = 0
        self.entered_s = 0.0
        self.left_s = 0.0
        self.both = False
        """Was another one inside when it came?"""

        self.late = False
        """Its host was stopped as a whole: only its fence tells that it is late."""

        self._ids: list[int] = []
        path = folder / f"{name}.inside"
        os.mkfifo(path)
        self._pipe = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self._unread = b""
        self._told = folder / f"{name}.told"
        flags = [f"-ttl={round(ttl_s * 1000)}ms", f"-http-addr={agent.http}"]
        with self._told.open("wb") as told:
            self.process = subprocess.Popen(
                [*PROGRAM, "lock", "-verbose", *flags, prefix, "sh", "-c", INSIDE, path, folder / "inside"],
                stdin=subprocess.DEVNULL,
                stdout=told,
                stderr=told,
            )

    @property
    def inside(self) -> bool:
        return self.entered_s > 0 and self.left_s == 0

    @property
    def waits(self) -> bool:
        return "waiting" in self._told.read_text()

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def told(self) -> str:
        return self._told.read_text()

    def look(self) -> bool:
        """Has it entered since the last look?"""
        try:
            read = os.read(self._pipe, 4096)
        except BlockingIOError:
            return False
        if not read:
            if self.inside:
                self.left_s = time.monotonic()
            return False
        self._unread += read
        if self.entered_s or b"\n" not in self._unread:
            return False
        self.fence, both, *self._ids = map(int, self._unread.split())
        self.both = both == 1
        self.entered_s = time.monotonic()
        return True

    def kill(self) -> None:
        """The program that holds the lock; what it started is not ours to end."""
        self.process.kill()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def stop_host(self) -> None:
        """All that runs there: nothing is left that could keep a deadline."""
        self.late = True
        for pid in (self.process.pid, *reversed(self._ids)):
            os.kill(pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """The command last: the guard is to find it before it does anything."""
        pids = (self.process.pid, *reversed(self._ids)) if self.late else (self.process.pid,)
        if self.process.poll() is None:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):  # the guard was quicker
                    os.kill(pid, signal.SIGCONT)

    def end(self) -> None:
        if self.process.poll() is None:
            self.go_on()
            self.process.terminate()
        self.process.wait(60)
        os.close(self._pipe)
