"""`gemot lock`: runs a command while it holds a lock, on one host at a time."""

from __future__ import annotations

from typing import Any

import click

from gemot.agent.cli.flags_first import FlagsFirst
from gemot.agent.cli.held import (
    Interrupted,
    Job,
    Signals,
    code_of,
    job_options,
    key_and_child,
    run_held,
    seconds,
)
from gemot.agent.cli.options import client_options
from gemot.agent.cli.waiting import what_agent_waits_for
from gemot.agent.client.agents import Agents, passes
from gemot.agent.client.connection import ClientError, Connection
from gemot.agent.client.hold import Hold
from gemot.agent.client.lock import Lock
from gemot.agent.client.recipe import Recipe
from gemot.agent.client.semaphore import MAX_LIMIT, Semaphore
from gemot.agent.client.session import boot_clock


@click.command(name="lock", cls=FlagsFirst)
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="PREFIX COMMAND...")
@click.option("--n", "holders", default=1, type=int, help="How many may hold it: 1, the default, or more.")
@click.option(
    "--try", "patience", default="", metavar="DURATION", help="Give up when not had by then: 5s, 1m."
)
@click.option("--timeout", default="", metavar="DURATION", help="The same as -try; the shorter one counts.")
@click.option("--child-exit-code", is_flag=True, help="End with 2 when COMMAND fails.")
@click.option(
    "--monitor-retry",
    default=3,
    type=int,
    help="Taken as Consul's, without effect: errors are retried as long as the lock is safe.",
)
@click.option("--name", default="", help="Name of the session, for whoever lists them.")
@job_options
@client_options
def command(connection: Connection, words: tuple[str, ...], make_job: Any, holders: int, **flags: Any) -> int:
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

    A session can end before its TTL (it is destroyed, its host is found dead), and the lock passes a minute
    after that at the latest. So a -ttl above 70s counts as 70s for all of this: renewals each 23 s, SIGTERM
    42 s after the last and SIGKILL after 52.5. That the lock stays taken for longer when this host is gone
    is what such a -ttl is for.

    With -n above 1 it is a semaphore, and not this lock: see gemot semaphore. All who use it give the same -n
    and the same -ttl.

    \b
    Exit codes:
      0    COMMAND has run (it may have failed: see -child-exit-code)
      1    the lock was not had, or COMMAND could not be run
      2    COMMAND failed, with -child-exit-code
      75   the lock was lost while COMMAND ran, and COMMAND was stopped
      128+N  gemot was sent signal N: it waited no longer, or COMMAND ended by it
    """
    example = "gemot lock jobs/nightly ./nightly.sh"
    prefix, child = key_and_child(words, what="a prefix", example=example)
    if not 1 <= holders <= MAX_LIMIT:
        raise click.ClickException(f"-n: {holders} holders: must be from 1 to {MAX_LIMIT}")
    job = make_job("gemot lock", child, flags["name"])
    recipe = Lock(prefix) if holders == 1 else Semaphore(prefix, holders, delay_s=job.ttl_s)
    return run_under(recipe, connection, job, flags)


def run_under(recipe: Recipe, connection: Connection, job: Job, flags: dict[str, Any]) -> int:
    """Take it, run the command, give it back; `flags` are those of `command` that are left."""
    patience_s = min(
        (seconds(f"-{name}", flags[key]) for name, key in _PATIENCES if flags[key]), default=None
    )
    agents = Agents(connection.address, token=connection.token)
    hold = Hold(agents, recipe, name=job.session_name(recipe.key), ttl_s=job.ttl_s, tell=job.say)
    with Signals() as signals:
        why = ""
        try:
            _acquire(hold, patience_s, connection)
            job.say(f"holding {hold.key}, fence {hold.fence}")
            ending, why = run_held(hold, job, signals, environ={})
        except Interrupted as interrupted:
            return 128 + interrupted.number
        finally:
            signals.keep()
            held = hold.release()
            agents.close()
    if not held and not why:
        why = "it was not ours any more when it was given back"
    return code_of(job, hold.key, ending, why, signals.passed, child_exit_code=bool(flags["child_exit_code"]))


def _acquire(hold: Hold, patience_s: float | None, connection: Connection) -> None:
    """Raises ClickException where it is not had within the patience, whatever that was spent on."""
    why, began_s = "", boot_clock()
    try:
        if hold.acquire(patience_s) is not None:
            return
    except ClientError as error:
        if patience_s is None or boot_clock() - began_s < patience_s or not passes(error):
            raise
        why = f": {what_agent_waits_for(connection.address, connection.token) or error}"
    raise click.ClickException(f"{hold.key}: not had within {patience_s:g} s{why}")


_PATIENCES = (("try", "patience"), ("timeout", "timeout"))
