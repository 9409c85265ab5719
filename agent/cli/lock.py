"""`gemot lock`: runs a command while it holds a lock, on one host at a time."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import click

from gemot.agent.cli.flags_first import FlagsFirst
from gemot.agent.cli.guarded import Ending, Guarded
from gemot.agent.cli.options import client_options
from gemot.agent.client.agents import Agents
from gemot.agent.client.connection import Connection
from gemot.agent.client.lock import Lock
from gemot.agent.client.session import boot_clock
from gemot.agent.duration import parse_duration
from gemot.server.model.errors import BadRequest

LOST = 75
"""The exit code that says: the lock was lost while the command ran."""

CHILD_FAILED = 2

_PASSED_ON = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)


@click.command(name="lock", cls=FlagsFirst)
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="PREFIX COMMAND...")
@click.option("--n", "holders", default=1, type=int, help="How many may hold it: 1, the default.")
@click.option("--name", default="", help="Name of the session, for whoever lists them.")
@click.option(
    "--try", "patience", default="", metavar="DURATION", help="Give up when not had by then: 5s, 1m."
)
@click.option("--timeout", default="", metavar="DURATION", help="The same as -try; the shorter one counts.")
@click.option("--ttl", default="15s", metavar="DURATION", help="How long the lock outlives this host (15s).")
@click.option("--child-exit-code", is_flag=True, help="End with 2 when COMMAND fails.")
@click.option("--pass-stdin", is_flag=True, help="Hand standard input, a file or a pipe, to COMMAND.")
@click.option("--shell", is_flag=True, help="Run COMMAND, one text, by /bin/sh.")
@click.option("--verbose", is_flag=True, help="Say what is waited for and what happens.")
@click.option(
    "--monitor-retry",
    default=3,
    type=int,
    help="Taken as Consul's, without effect: errors are retried as long as the lock is safe.",
)
@client_options
def command(connection: Connection, words: tuple[str, ...], ttl: str, **flags: Any) -> int:
    """Run COMMAND while holding the lock PREFIX/.lock; wait for the lock first.

    \b
    The nightly job, on whichever host comes first; the others wait and follow:
      gemot lock jobs/nightly ./nightly.sh
    Only if nobody else is at it:
      gemot lock -try=5s jobs/nightly ./nightly.sh

    Those who wait get it in the order they came. Consul's own clients and `consul lock` keep it from these,
    and the other way round. COMMAND is run without a shell, in a process group of its own; signals to gemot
    lock are passed on to it. What it leaves running in its group is killed before the lock is given back.

    COMMAND finds in its environment: GEMOT_LOCK_HELD=true (and CONSUL_LOCK_HELD=true), GEMOT_LOCK_KEY,
    GEMOT_LOCK_SESSION, and GEMOT_LOCK_FENCE, a number greater than that of whoever held the lock before.

    The lock lives as long as its session is renewed, every third of the TTL. When the lock is lost, or no
    renewal got through for 0.6 of the TTL, COMMAND gets SIGTERM, and SIGKILL at 0.75 of it, before the lock
    can pass to another; a guard process does so even if gemot lock itself is killed or stopped. None of this
    helps on a host that sleeps: what wakes up there may write once more. Where that must not be, pass the
    fence along with each write, and have what is written to refuse a smaller one than it has seen.

    \b
    Exit codes:
      0    COMMAND has run (it may have failed: see -child-exit-code)
      1    the lock was not had, or COMMAND could not be run
      2    COMMAND failed, with -child-exit-code
      75   the lock was lost while COMMAND ran, and COMMAND was stopped
      128+N  ended by signal N: it waited no longer, or COMMAND ended by it
    """
    prefix, child = _read_words(words, shell=flags["shell"])
    if flags["holders"] != 1:
        raise click.ClickException(
            f"-n: {flags['holders']} holders at once is a semaphore, which is not there yet: leave -n out"
        )
    if flags["pass_stdin"] and sys.stdin is not None and sys.stdin.isatty():
        raise click.ClickException("-pass-stdin: takes a file or a pipe, not a terminal")
    say = _teller(flags["verbose"])
    ttl_s = _seconds("-ttl", ttl)
    patience_s = min(
        (_seconds(f"-{name}", flags[key]) for name, key in _PATIENCES if flags[key]), default=None
    )
    agents = Agents(connection.address, token=connection.token)
    lock = Lock(agents, prefix, name=flags["name"] or _name(prefix), ttl_s=ttl_s, tell=say)
    with _Signals() as signals:
        try:
            if lock.acquire(patience_s) is None:
                raise click.ClickException(f"{lock.key}: not had within {patience_s:g} s")
            say(f"holding {lock.key}, fence {lock.fence}")
            ending, why = _run(lock, child, signals, ttl_s=ttl_s, pass_stdin=flags["pass_stdin"])
        except _Interrupted as interrupted:
            return 128 + interrupted.number
        finally:
            held = lock.release()
            agents.close()
    if not held and not why:
        why = "it was not ours any more when it was given back"
    return _code(lock.key, child[0], ending, why, signals.passed, flags["child_exit_code"])


_PATIENCES = (("try", "patience"), ("timeout", "timeout"))


def _read_words(words: Sequence[str], *, shell: bool) -> tuple[str, tuple[str, ...]]:
    prefix, child = words[0] if words else "", tuple(words[1:])
    if child[:1] == ("--",):
        child = child[1:]  # as other programs part their own words from a command's
    if not prefix.strip("/") or not child or not child[0]:
        raise click.ClickException("give a prefix and a command: gemot lock jobs/nightly ./nightly.sh")
    if shell and len(child) > 1:
        raise click.ClickException("-shell takes the command as one text: put it in quotes")
    return prefix, ("/bin/sh", "-c", child[0]) if shell else child


def _seconds(flag: str, text: str) -> float:
    try:
        seconds = parse_duration(text)
    except BadRequest as error:
        raise click.ClickException(f"{flag}: {error.message}") from error
    if seconds <= 0:
        raise click.ClickException(f"{flag}: must be more than 0, got {text[:40]}")
    return seconds


def _name(prefix: str) -> str:
    return f"gemot lock {prefix.strip('/')[:256]} on {socket.gethostname()}"


def _teller(verbose: bool) -> Callable[[str], None]:
    """At a terminal somebody wants to know what is waited for; a log of a cron job does not."""
    loud = verbose or (sys.stderr is not None and sys.stderr.isatty())
    return (lambda text: click.echo(f"gemot lock: {text}", err=True)) if loud else (lambda text: None)


def _run(
    lock: Lock, child: Sequence[str], signals: _Signals, *, ttl_s: float, pass_stdin: bool
) -> tuple[Ending, str]:
    """How the command ended, and why the lock was lost by then, "" if it was not."""
    guarded = Guarded(ttl_s)
    try:
        signals.pass_to(guarded)
        sent_s: list[float] = []

        def follow(confirmed_s: float, why: str) -> None:
            sent_s.append(confirmed_s)
            guarded.stop() if why else guarded.renewed(confirmed_s)

        lock.follow(follow)
        held = {"CONSUL_LOCK_HELD": "true", "GEMOT_LOCK_HELD": "true", "GEMOT_LOCK_KEY": lock.key}
        own = held | {"GEMOT_LOCK_SESSION": lock.session, "GEMOT_LOCK_FENCE": str(lock.fence)}
        sys.stdout.flush()
        guarded.start(
            child,
            environ=os.environ | own,
            confirmed_s=sent_s[0] if sent_s else boot_clock() - ttl_s,
            pass_stdin=pass_stdin,
        )
        return guarded.wait(), lock.lost
    except OSError as error:  # of the guard: too many processes, or words
        raise click.ClickException(f"{child[0]}: cannot be run: {error.strerror or error}") from error
    finally:
        guarded.close()


def _code(key: str, child: str, ending: Ending, why: str, passed: int, child_exit_code: bool) -> int:
    if ending.problem:
        raise click.ClickException(f"{child}: {ending.problem}")
    if ending.stopped or why:
        stopped = "the command was stopped" if ending.stopped else "the command had ended by then"
        click.echo(f"gemot lock: {key} was lost: {why or 'no renewal got through'}; {stopped}", err=True)
        return LOST
    if passed and ending.code == -passed:
        return 128 + passed
    if ending.code:
        how = f"by signal {-ending.code}" if ending.code < 0 else f"with exit code {ending.code}"
        click.echo(f"gemot lock: {child} ended {how}", err=True)
        return CHILD_FAILED if child_exit_code else 0
    return 0


class _Interrupted(BaseException):
    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class _Signals:
    """While it is waited a signal ends the wait, once: what follows tidies up. Then they are the
    command's."""

    def __init__(self) -> None:
        self.passed = 0
        """The last that was passed on."""
        self._guarded: Guarded | None = None
        self._interrupted = False
        self._before: dict[signal.Signals, Any] = {}

    def pass_to(self, guarded: Guarded) -> None:
        self._guarded = guarded

    def __enter__(self) -> _Signals:
        for each in _PASSED_ON:
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
        elif not self._interrupted:
            self._interrupted = True
            raise _Interrupted(number)
