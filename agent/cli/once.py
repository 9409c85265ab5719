"""`gemot once`: runs a command once in the whole cluster, and remembers that it was."""

from __future__ import annotations

from typing import Any

import click

from gemot.agent.cli.flags_first import FlagsFirst
from gemot.agent.cli.guarded import Ending
from gemot.agent.cli.held import (
    CHILD_FAILED,
    LOST,
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
from gemot.agent.client.agents import Agents
from gemot.agent.client.connection import Connection
from gemot.agent.client.hold import Hold
from gemot.agent.client.kv import Kv
from gemot.agent.client.lock import Lock, shown
from gemot.agent.client.once import Done, Once
from gemot.agent.client.recipe import LockLost

NO_WAIT_S = 5.0
"""What an agent may take, with -no-wait, to give out a lock that nobody holds."""


@click.command(name="once", cls=FlagsFirst)
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="KEY COMMAND...")
@click.option("--no-wait", is_flag=True, help="Give up at once where another host is at it.")
@click.option(
    "--try", "patience", default="", metavar="DURATION", help="Give up when it is not one's turn by then: 5s."
)
@click.option("--record-failure", is_flag=True, help="A COMMAND that fails counts as done, too.")
@click.option("--name", default="", help="Name of the session, for whoever lists them.")
@job_options
@client_options
def command(connection: Connection, words: tuple[str, ...], make_job: Any, **flags: Any) -> int:
    """Run COMMAND unless it was done already, by any host; remember at KEY that it was.

    \b
    On every host, when a release comes up; one of them migrates, the others wait until it has:
      gemot once db/migrated-7 ./migrate 7
    Do it again:
      gemot kv delete db/migrated-7

    Where KEY is there, nothing is run. Else the lock KEY/.lock is taken as by gemot lock, KEY is looked at
    again, COMMAND is run, and when it succeeded KEY is written: a JSON object with Host, Pid, Time, ExitCode
    and Fence. Who waited looks at KEY when its turn comes, so one that failed is followed by the next host's
    try. With -record-failure a failure is written as well, and nobody tries again.

    KEY is written under the fence of the lock: by whoever held it all the time, or by nobody. So COMMAND is
    never run by two at once, nor after KEY is there. It can be run again where a host fails between its end
    and the record: COMMAND has to bear that. It has the same in its environment as by gemot lock, and is
    ended in time as there: a -ttl above 70s counts as 70s for that.

    \b
    Exit codes:
      0    it is done: COMMAND succeeded now, or a record says that it did
      1    it is not done here: another is at it (-no-wait, -try), KEY is something else's, or COMMAND could
           not be run
      2    COMMAND failed, now or, with -record-failure, before
      75   the lock was lost while COMMAND ran, or a signal came between its end and the record: it may be
           done, and there is no record, or it is not known whether there is one (the message says which)
      128+N  gemot was sent signal N: it waited no longer, or COMMAND ended by it
    """
    example = "gemot once db/migrated-7 ./migrate 7"
    key, child = key_and_child(words, what="a key", example=example)
    job = make_job("gemot once", child, flags["name"])
    patience_s = seconds("-try", flags["patience"]) if flags["patience"] else None
    once = Once(Kv(connection), key)
    if (before := once.done()) is not None:
        return _told(job, once.key, before)
    if flags["no_wait"]:
        _refuse_if_taken(connection, once.key)
        patience_s = min(NO_WAIT_S, patience_s or NO_WAIT_S)
    return _under_lock(connection, once, job, patience_s, record_failure=flags["record_failure"])


def _under_lock(
    connection: Connection, once: Once, job: Job, patience_s: float | None, *, record_failure: bool
) -> int:
    agents = Agents(connection.address, token=connection.token)
    lock = Lock(once.key)
    hold = Hold(agents, lock, name=job.session_name(lock.key), ttl_s=job.ttl_s, tell=job.say)
    with Signals() as signals:
        try:
            if hold.acquire(patience_s) is None:
                raise click.ClickException(f"{once.key}: another is at it, and was not done within the time")
            if not hold.fence:
                raise click.ClickException("the servers give no fences, without which no record is sure")
            if (before := once.done()) is not None:
                return _told(job, once.key, before)
            ending, why = run_held(hold, job, signals, environ={})
            return _end(once, hold, job, ending, why, signals, record_failure=record_failure)
        except Interrupted as interrupted:
            return 128 + interrupted.number
        finally:
            signals.keep()
            hold.release()
            agents.close()


def _end(
    once: Once, hold: Hold, job: Job, ending: Ending, why: str, signals: Signals, *, record_failure: bool
) -> int:
    """The exit code, once the record is written if there is to be one, or a signal ended the try."""
    code = code_of(job, hold.key, ending, why, signals.passed, child_exit_code=True)
    if code == LOST:
        job.warn(f"{once.key}: there is no record: it may be run again")
        return code
    if code and not (record_failure and code == CHILD_FAILED):
        return code
    try:
        signals.wait()
        once.record(hold, ending.code if ending.code >= 0 else 128 - ending.code)
        signals.keep()
    except LockLost as error:
        job.warn(f"{job.child[0]} has run, but {error}")
        return LOST
    except Interrupted as interrupted:
        told = (
            f"signal {interrupted.number} came before it was recorded; whether there is a record is not known"
        )
        job.warn(f"{job.child[0]} has run, but {told}: look at {once.key} before a new run")
        return LOST
    return code


def _told(job: Job, key: str, done: Done) -> int:
    how = f", with exit code {done.exit_code}" if done.exit_code else ""
    told = f"{key}: was done by {done.host} at {done.time}{how}"
    job.warn(told) if done.exit_code else job.say(told)
    return CHILD_FAILED if done.exit_code else 0


def _refuse_if_taken(connection: Connection, key: str) -> None:
    entry = Kv(connection).get(Lock(key).key)
    if entry is not None and entry.session:
        raise click.ClickException(f"{key}: another is at it: {shown(entry)}")
