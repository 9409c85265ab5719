"""Commands that run another one while something is held: their flags, signals, environment and exit codes."""

from __future__ import annotations

import functools
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any

import click
import msgspec

from gemot.agent.cli.guard import SURVIVED
from gemot.agent.cli.guarded import Ending, Guarded
from gemot.agent.client.hold import Hold
from gemot.agent.client.session import boot_clock
from gemot.agent.duration import parse_duration
from gemot.server.model.errors import BadRequest

LOST = 75
"""The exit code that says: what was held was lost while the command ran."""

CHILD_FAILED = 2


class Job(msgspec.Struct, frozen=True):
    """What is to be run, and how; `program` is who says so in messages."""

    program: str
    child: tuple[str, ...]
    ttl_s: float
    verbose: bool
    pass_stdin: bool
    name: str = ""

    def say(self, text: str) -> None:
        """At a terminal somebody wants to know what is waited for; a log of a cron job does not."""
        if self.verbose or (sys.stderr is not None and sys.stderr.isatty()):
            self.warn(text)

    def warn(self, text: str) -> None:
        click.echo(f"{self.program}: {text}", err=True)

    def session_name(self, key: str) -> str:
        return self.name or f"{self.program} {key[:256]} on {socket.gethostname()}"


def job_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds -ttl, -pass-stdin, -shell, -verbose; hands the command `make_job`.

    `make_job(program, child, name)` reads the flags, and raises ClickException for what cannot be. `name` is
    the session's, "" for one that says where it is from.
    """

    @click.option(
        "--ttl",
        default="15s",
        metavar="DURATION",
        help="How long what is held outlives this host (15s). To COMMAND it counts as 70s at most.",
    )
    @click.option("--pass-stdin", is_flag=True, help="Hand standard input, a file or a pipe, to COMMAND.")
    @click.option("--shell", is_flag=True, help="Run COMMAND, one text, by /bin/sh.")
    @click.option("--verbose", is_flag=True, help="Say what is waited for and what happens.")
    @functools.wraps(command)
    def wrapped(ttl: str, pass_stdin: bool, shell: bool, verbose: bool, **rest: Any) -> Any:
        def make_job(program: str, child: Sequence[str], name: str = "") -> Job:
            if shell and len(child) > 1:
                raise click.ClickException("-shell takes the command as one text: put it in quotes")
            if pass_stdin and sys.stdin is not None and sys.stdin.isatty():
                raise click.ClickException("-pass-stdin: takes a file or a pipe, not a terminal")
            words = ("/bin/sh", "-c", child[0]) if shell else tuple(child)
            return Job(program, words, seconds("-ttl", ttl), verbose, pass_stdin, name)

        return command(make_job=make_job, **rest)

    return wrapped


def key_and_child(words: Sequence[str], *, what: str, example: str) -> tuple[str, tuple[str, ...]]:
    """The first word, and the command behind it. Raises ClickException."""
    key, child = words[0] if words else "", tuple(words[1:])
    if child[:1] == ("--",):
        child = child[1:]  # as other programs part their own words from a command's
    if key and not key.strip("/"):
        raise click.ClickException(f"{key}: {what} is more than slashes: {example}")
    if not key or not child or not child[0]:
        raise click.ClickException(f"give {what} and a command: {example}")
    return key, child


def seconds(flag: str, text: str) -> float:
    """Raises ClickException."""
    try:
        told = parse_duration(text)
    except BadRequest as error:
        raise click.ClickException(f"{flag}: {error.message}") from error
    if told <= 0:
        raise click.ClickException(f"{flag}: must be more than 0, got {text[:40]}")
    return told


def run_held(
    hold: Hold,
    job: Job,
    signals: Signals,
    *,
    environ: Mapping[str, str],
    began: Callable[[Guarded], None] = lambda guarded: None,
) -> tuple[Ending, str]:
    """How the command ended, and why what it ran under was lost by then, "" if it was not.

    `began` is handed what can stop it, before it is started.
    """
    guarded = Guarded(job.ttl_s)
    try:
        signals.pass_to(guarded)
        began(guarded)
        sent_s: list[float] = []

        def follow(confirmed_s: float, why: str) -> None:
            sent_s.append(confirmed_s)
            guarded.stop() if why else guarded.renewed(confirmed_s)

        hold.follow(follow)
        held = {"CONSUL_LOCK_HELD": "true", "GEMOT_LOCK_HELD": "true", "GEMOT_LOCK_KEY": hold.guard}
        own = held | {"GEMOT_LOCK_SESSION": hold.session, "GEMOT_LOCK_FENCE": str(hold.fence)}
        sys.stdout.flush()
        guarded.start(
            job.child,
            environ={**os.environ, **own, **environ},
            confirmed_s=sent_s[0] if sent_s else boot_clock() - job.ttl_s,
            pass_stdin=job.pass_stdin,
        )
        return guarded.wait(), hold.lost
    except OSError as error:  # of the guard: too many processes, or words
        raise click.ClickException(f"{job.child[0]}: cannot be run: {error.strerror or error}") from error
    finally:
        guarded.close()


def code_of(job: Job, key: str, ending: Ending, why: str, passed: int, *, child_exit_code: bool) -> int:
    """The exit code, with what is to be said of it said."""
    child = job.child[0]
    if ending.problem:
        raise click.ClickException(f"{child}: {ending.problem}")
    if ending.stopped or why:
        stopped = "the command was stopped" if ending.stopped else "the command had ended by then"
        job.warn(f"{key} was lost: {why or 'no renewal got through'}; {stopped}")
        return LOST
    if passed and ending.code == -passed:
        return 128 + passed
    if ending.code:
        job.warn(f"{child} ended {how_ended(ending)}")
        return CHILD_FAILED if child_exit_code else 0
    return 0


def how_ended(ending: Ending) -> str:
    return f"by signal {-ending.code}" if ending.code < 0 else f"with exit code {ending.code}"


class Interrupted(BaseException):
    """A signal ended a wait."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Signals:
    """While it is waited a signal ends the wait, once: what follows tidies up. Then they are the
    command's, and while what was held is given back they are kept."""

    def __init__(self) -> None:
        self.passed = 0
        """The last that was passed on."""
        self._guarded: Guarded | None = None
        self._keeping = False
        self._kept = 0
        self._interrupted = False
        self._before: dict[signal.Signals, Any] = {}

    def pass_to(self, guarded: Guarded) -> None:
        self._guarded = guarded

    def keep(self) -> None:
        """Until `wait`: what is given back half would be left behind."""
        self._keeping, self._guarded = True, None

    def wait(self) -> None:
        """It is waited again, for no command. Raises Interrupted where a signal was kept."""
        self._keeping, self._guarded = False, None
        if self._kept:
            self._interrupt(self._kept)

    def __enter__(self) -> Signals:
        for each in SURVIVED:
            if signal.getsignal(each) != signal.SIG_IGN:  # as under nohup
                self._before[each] = signal.signal(each, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for each, before in self._before.items():
            signal.signal(each, before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._guarded is not None:
            self.passed = number
            self._guarded.signal(number)
        elif self._keeping:
            self._kept = self._kept or number
        else:
            self._interrupt(number)

    def _interrupt(self, number: int) -> None:
        if not self._interrupted:
            self._interrupted = True
            raise Interrupted(number)
