"""A process beside a command: it starts it, and sees to it that nothing of it runs when the lease can end.

It is a process of its own so that the deadline holds when `gemot lock` is killed or stopped. Those who renew
tell it later deadlines; without one it tells the command to stop (SIGTERM to its process group), and then
kills the group. When whoever renewed is gone it does so at once. It ends with the command, and whatever the
command leaves in its group ends too. Out of its reach is what has left the group (a daemon), and who kills it
together with `gemot lock`: then only the fence is left.

It survives the signals that end others: a service manager that stops a unit sends SIGTERM to all processes
there, this one among them, and the command is to have its time. SIGTERM to this process alone is passed on.

Run by its path, with the standard library alone, so that it starts within milliseconds: `guard.py ORDERS
REPORTS TERM_S KILL_S COMMAND...`: two file descriptors, two times of the boot clock. Orders are lines: `until
TERM_S KILL_S`, `stop GRACE_S`, `signal NUMBER`. Reports are `started PID`, then `failed WHY` where that could
not become the command, and `ended CODE 0|1`, where 1 says that it had to stop the command.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from functools import partial
from types import FrameType

LOOK_S = 0.2
"""Waits are cut into pieces of this length: a wait does not count the time that the host slept."""

PASS_S = 1.0
"""How long a SIGTERM that was sent to this process may also be on its way through `gemot lock`."""

SURVIVED = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
"""By this process; `gemot lock` passes them on to the command."""

TOLD = (signal.SIGTERM, signal.SIGCONT)
"""A command that is stopped does not hear the first without the second."""


class Plan:
    """When to tell the command to stop, and when to kill it. Pure: the time is handed in."""

    def __init__(self, term_s: float, kill_s: float) -> None:
        self._term_s = term_s
        self._kill_s = kill_s
        self._over = False
        self.stopping = False
        """The command was told to stop, or killed."""
        self._killed = False
        self._ask_s = float("inf")
        self._passed_s = float("-inf")

    def until(self, term_s: float, kill_s: float) -> None:
        """A later deadline. An earlier one is old news, and from a stop or SIGTERM there is no way back."""
        if not self._over and not self.stopping:
            self._term_s = max(self._term_s, term_s)
            self._kill_s = max(self._kill_s, kill_s)

    def stop(self, now_s: float, grace_s: float) -> None:
        """Tell it now, and kill it so much later; the deadline stays where it is from then on."""
        self._over = True
        self._term_s = min(self._term_s, now_s)
        self._kill_s = min(self._kill_s, now_s + grace_s)

    def asked(self, now_s: float) -> None:
        """SIGTERM came to this process. The command is told and not hurried: what it runs under is not lost.

        Where it came to all processes, `gemot lock` tells it.
        """
        if now_s > self._passed_s + PASS_S:
            self._ask_s = min(self._ask_s, now_s + PASS_S)

    def passed(self, now_s: float) -> None:
        """`gemot lock` has told it."""
        self._ask_s, self._passed_s = float("inf"), now_s

    def step(self, now_s: float) -> tuple[signal.Signals, ...]:
        """What to send now, each once."""
        if now_s >= self._kill_s and not self._killed:
            self.stopping = self._killed = True
            return (signal.SIGKILL,)
        if now_s >= self._term_s and not self.stopping:
            self.stopping = True
            return TOLD
        if now_s >= self._ask_s:
            self._ask_s = float("inf")
            return () if self.stopping else TOLD
        return ()

    def wait_s(self, now_s: float) -> float:
        """How long there is nothing to send."""
        left_s = (self._kill_s if self.stopping else min(self._term_s, self._kill_s, self._ask_s)) - now_s
        return LOOK_S if self._killed else max(0.0, min(LOOK_S, left_s))


def now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Guard:
    """The process."""

    def __init__(self, orders: int, reports: int, plan: Plan) -> None:
        self._orders = orders
        self._reports = reports
        self._plan = plan
        self._unread = b""

    def run(self, command: list[str]) -> None:
        if self._plan.step(now()):  # whoever asked stood still for that long
            self._report(f"ended {-signal.SIGTERM} 1")
            return
        survived = self._survive()
        try:
            child = subprocess.Popen(command, process_group=0, preexec_fn=partial(self._begin, survived))
        except (OSError, ValueError) as error:
            self._report(
                f"failed cannot be run: {(error.strerror if isinstance(error, OSError) else None) or error}"
            )
            return
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SURVIVED)
        self._await_end(child.pid)
        # It is not reaped yet, so its group's number is not another's.
        send(child.pid, signal.SIGKILL)
        self._report(f"ended {child.wait()} {int(self._plan.stopping)}")

    def _survive(self) -> list[signal.Signals]:
        """Which are survived: not what is ignored here, as under nohup, and will be by the command.

        `Guarded.start` has them blocked; they are let in once there is a command to pass anything on to.
        """
        survived = [each for each in SURVIVED if signal.getsignal(each) != signal.SIG_IGN]
        for each in survived:
            signal.signal(each, self._handle)
        return survived

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGTERM:
            self._plan.asked(now())

    def _begin(self, survived: list[signal.Signals]) -> None:
        """In the child, just before it becomes the command, to which all signals are as to any program.

        So there is no moment in which this guard may be killed while nobody knows what it has started.
        """
        for each in survived:
            signal.signal(each, signal.SIG_DFL)
        self._report(f"started {os.getpid()}")
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SURVIVED)

    def _await_end(self, pid: int) -> None:
        ended, poll = os.pidfd_open(pid), select.poll()
        poll.register(ended, select.POLLIN)
        poll.register(self._orders, select.POLLIN)
        while True:
            for number in self._plan.step(now()):
                send(pid, number)
            ready = dict(poll.poll(self._plan.wait_s(now()) * 1000 + 1))
            if ended in ready:
                os.close(ended)
                return
            if self._orders in ready and not self._read(pid):
                poll.unregister(self._orders)
                self._plan.stop(now(), float("inf"))

    def _read(self, pid: int) -> bool:
        """False at the end of all orders."""
        read = os.read(self._orders, 1 << 16)
        *lines, self._unread = (self._unread + read).split(b"\n")
        for line in lines:
            word, *numbers = line.decode().split()
            if word == "until":
                self._plan.until(float(numbers[0]), float(numbers[1]))
            elif word == "stop":
                self._plan.stop(now(), float(numbers[0]))
            elif word == "signal":
                send(pid, int(numbers[0]))
                if int(numbers[0]) == signal.SIGTERM:
                    self._plan.passed(now())
        return bool(read)

    def _report(self, line: str) -> None:
        try:
            os.write(self._reports, line.replace("\n", " ").encode(errors="replace") + b"\n")
        except OSError:
            pass  # nobody is there to read it


def send(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except OSError:
        pass  # it is gone, or another user's


def main(arguments: list[str]) -> None:
    orders, reports, term_s, kill_s, *command = arguments
    Guard(int(orders), int(reports), Plan(float(term_s), float(kill_s))).run(command)


if __name__ == "__main__":
    main(sys.argv[1:])
