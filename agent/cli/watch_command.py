"""Runs the command of `gemot watch`, and ends it with the watch: the next one would run another beside it."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Mapping, Sequence

from gemot.agent.cli.held import Signals

GRACE_S = 5.0
"""Between SIGTERM and SIGKILL."""


def run_command(child: Sequence[str], sent: bytes, environ: Mapping[str, str]) -> int:
    """The exit code. Raises OSError and ValueError where it cannot be run.

    A signal that ends the watch ends the command first, and what it left running in its group: raises
    Interrupted then.
    """
    with Signals() as signals:
        signals.keep()  # one that came in mid-start would leave a command that nobody knows
        with subprocess.Popen(child, stdin=subprocess.PIPE, env=environ, process_group=0) as running:
            try:
                signals.wait()
                running.communicate(sent)
            except BaseException:
                _end(running.pid)
                raise
        return running.returncode


def _end(group: int) -> None:
    """It is not reaped before the last signal, so its group's number is not another's."""
    ended = os.pidfd_open(group)
    for number in (signal.SIGTERM, signal.SIGCONT):
        _send(group, number)
    select.select([ended], [], [], GRACE_S)
    os.close(ended)
    _send(group, signal.SIGKILL)


def _send(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except OSError:
        pass  # it is gone, or another user's
