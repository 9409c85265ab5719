"""A command that runs under a lease, and a guard beside it that ends it in time (`guard.py`)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gemot.agent.cli import guard
from gemot.agent.client.lease import trusted_s

TERM_SHARE = 0.6
"""Of the TTL (`trusted_s`) after the last confirmed renewal was sent, when the command is told to stop."""

KILL_SHARE = 0.75
"""When it is killed: nothing of it may run at 0.8, where the lease counts as lost."""


class Ending(NamedTuple):
    """How it ended: `code` as of subprocess, negative by a signal; `problem` where it did not run, else "".

    `stopped` says that the guard stopped it.
    """

    code: int
    stopped: bool
    problem: str


def deadlines(ttl_s: float, confirmed_s: float) -> tuple[float, float]:
    """When the command is told to stop, and when it is killed, if no other renewal is confirmed."""
    return confirmed_s + trusted_s(ttl_s) * TERM_SHARE, confirmed_s + trusted_s(ttl_s) * KILL_SHARE


class Guarded:
    """Orders to the guard are from any thread, and from handlers of signals; the rest is of one thread."""

    def __init__(self, ttl_s: float) -> None:
        self._ttl_s = ttl_s
        self._orders_end, self._orders = os.pipe()
        self._reports, self._reports_end = os.pipe()
        # A guard that does not read must not hold up who renews; nothing but the newest order matters then.
        os.set_blocking(self._orders, False)
        self._guard: subprocess.Popen[bytes] | None = None
        self._group = 0
        # Taken again by the handler of a signal that comes while it is held.
        self._lock = threading.RLock()

    def start(
        self, command: Sequence[str], *, environ: Mapping[str, str], confirmed_s: float, pass_stdin: bool
    ) -> None:
        """Raises OSError where the guard itself cannot be started."""
        ends = (str(self._orders_end), str(self._reports_end))
        times = [repr(each) for each in deadlines(self._ttl_s, confirmed_s)]
        # The guard begins with them blocked, and lets them in once it survives them.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, guard.SURVIVED)
        try:
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", guard.__file__, *ends, *times, *command],
                stdin=None if pass_stdin else subprocess.DEVNULL,
                env=dict(environ),
                pass_fds=(self._orders_end, self._reports_end),
                # Keys at the terminal are for gemot lock, which passes them on.
                process_group=0,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            os.close(self._orders_end)
            os.close(self._reports_end)

    def renewed(self, confirmed_s: float) -> None:
        """A renewal that was sent then is confirmed."""
        self._order("until {!r} {!r}".format(*deadlines(self._ttl_s, confirmed_s)))

    def stop(self, *, soon: bool = True) -> None:
        """The command is told to stop, and killed soon after, for the lock is lost; else at the deadline."""
        term_s, kill_s = deadlines(self._ttl_s, 0.0)
        self._order(f"stop {kill_s - term_s if soon else kill_s!r}")

    def signal(self, number: int) -> None:
        """Pass it to the command's group."""
        self._order(f"signal {number}")

    def wait(self) -> Ending:
        """Until nothing of it runs any more."""
        ending = Ending(1, False, "its guard was killed, and it was killed for that")
        with os.fdopen(self._reports, "rb", closefd=False) as reports:
            for line in reports:
                word, _, rest = line.decode(errors="replace").rstrip("\n").partition(" ")
                if word == "started":
                    self._group = int(rest)
                elif word == "failed":
                    ending, self._group = Ending(1, False, rest), 0
                elif word == "ended":
                    code, stopped = rest.split()
                    ending, self._group = Ending(int(code), stopped == "1", ""), 0
        if self._group:
            try:
                os.killpg(self._group, signal.SIGKILL)
            except OSError:
                pass
            self._group = 0
        return ending

    def close(self) -> None:
        """End what still runs, and wait for that."""
        with self._lock:
            orders, self._orders = self._orders, -1
        os.close(orders)
        if self._guard is not None:
            self.wait()
            self._guard.wait()
        os.close(self._reports)

    def _order(self, line: str) -> None:
        with self._lock:
            if self._orders < 0:
                return
            try:
                os.write(self._orders, f"{line}\n".encode())
            except OSError:
                pass  # it has ended, or does not read
