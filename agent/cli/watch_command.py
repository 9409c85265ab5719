"""Runs the command of `gemot watch`, and ends it with the watch: the next one would run another beside it."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Mapping, Sequence

import click

from gemot.agent.cli.guard import TOLD, send
from gemot.agent.cli.held import Signals

GRACE_S = 5.0
"""Between SIGTERM and SIGKILL."""

KILLED_S = 1.0
"""In which what was killed is gone; what is not is another user's."""


def run_command(child: Sequence[str], sent: bytes, environ: Mapping[str, str]) -> int:
    """The exit code. Raises OSError and ValueError where it cannot be run.

    A signal that ends the watch ends the command first, and what it left running in its group: raises
    Interrupted then. It has a session of its own: in a group of this one it would stop, for ever, as soon as
    it asked something at the terminal.
    """
    with Signals() as signals, os.fdopen(os.memfd_create("gemot-watch"), "r+b") as given:
        given.write(sent)
        given.seek(0)
        signals.keep()  # one that came in mid-start would leave a command that nobody knows
        running = subprocess.Popen(child, stdin=given, env=environ, start_new_session=True)
        ended = os.pidfd_open(running.pid)
        try:
            signals.wait()
            select.select([ended], [], [])
            signals.keep()
        except BaseException:
            signals.keep()
            if not _end(running.pid, ended):
                told = f"{child[0]} is still running, as pid {running.pid}: it may not be ended"
                click.echo(f"gemot watch: {told}", err=True)
            running.poll()
            raise
        finally:
            os.close(ended)
        code = running.wait()
        signals.wait()
        return code


def _end(group: int, ended: int) -> bool:
    """Is it gone? It is not reaped before the last signal, so its group's number is not another's."""
    for number in TOLD:
        send(group, number)
    select.select([ended], [], [], GRACE_S)
    send(group, signal.SIGKILL)
    return bool(select.select([ended], [], [], KILLED_S)[0])
