"""`gemot election`: campaigns and runs a command while leading, tells who leads, asks a leader to resign."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Sequence
from typing import Any

import click

from gemot.agent.cli.flags_first import FlagsFirst
from gemot.agent.cli.guarded import Guarded
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
from gemot.agent.client.agents import Agents, passes
from gemot.agent.client.connection import ClientError, Connection
from gemot.agent.client.election import (
    Election,
    Leader,
    Observer,
    ask_to_resign,
    is_asked_to_resign,
    leader_of,
)
from gemot.agent.client.entry import Entry, entries
from gemot.agent.client.hold import Hold
from gemot.agent.client.kv import Kv
from gemot.agent.client.path import escape
from gemot.agent.client.watch import back_off_s

AGAIN_S = 1.0
"""Between the end of one term and the next campaign: a command that ends at once must not spin."""

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)

NOBODY = 2
"""The exit code of `observe -once` where nobody leads."""

_EXAMPLE = "gemot election run jobs/leader ./leader.sh"


@click.group(name="election")
def command() -> None:
    """Have one host of the cluster lead, and know which.

    \b
    On each host that may lead; where it does, the command runs:
      gemot election run -address=10.0.0.5:8080 jobs/leader ./leader.sh
    Who leads, now and at each change:
      gemot election observe jobs/leader
    Have another one lead:
      gemot election resign jobs/leader
    """


@command.command(cls=FlagsFirst)
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="KEY COMMAND...")
@click.option("--name", default="", help="Name of this candidate: the host's name if none is given.")
@click.option("--address", default="", help="Where the leader is reached, for whoever looks for it.")
@click.option("--once", is_flag=True, help="Lead once at most: end with COMMAND, or when the lead is lost.")
@click.option("--child-exit-code", is_flag=True, help="With -once: end with 2 when COMMAND fails.")
@job_options
@client_options
def run(connection: Connection, words: tuple[str, ...], make_job: Any, **flags: Any) -> int:
    """Campaign for KEY; run COMMAND while leading, and campaign again when it ended or the lead is lost.

    \b
    On each host that may lead:
      gemot election run -address=10.0.0.5:8080 jobs/leader ./leader.sh

    While this host leads KEY holds a JSON object with Name, Address, Host and Pid, and is held by its
    session; where nobody leads there is no KEY. Candidates lead in the order they came. Any program that
    elects as Consul's guide says, by acquiring KEY, takes part.

    COMMAND is run, and ended in time, as by gemot lock, with the same in its environment: GEMOT_LOCK_KEY is
    KEY, and GEMOT_LOCK_FENCE the fence of this term, greater than that of any leader before. Asked to resign
    (gemot election resign), COMMAND gets SIGTERM, SIGKILL at 0.75 of the TTL after the last renewal (a -ttl
    above 70s counts as 70s, as by gemot lock), and the lead is given back once it is gone. It goes on until
    a signal ends it: signals are passed on to COMMAND, and after SIGINT, SIGTERM or SIGQUIT, or one that
    COMMAND ended by, there is no other campaign.

    \b
    Exit codes:
      0    with -once: COMMAND has run, or was stopped to resign; else: COMMAND ended well after a signal
      1    KEY is something else's, no agent answered at first, or COMMAND could not be run
      2    COMMAND failed, with -once and -child-exit-code
      75   with -once: the lead was lost while COMMAND ran, and COMMAND was stopped
      128+N  gemot was sent signal N: it waited no longer, or COMMAND ended by it
    """
    key, child = key_and_child(words, what="a key", example=_EXAMPLE)
    job = make_job("gemot election", child)
    try:
        election = Election(key, name=flags["name"], address=flags["address"])
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    agents = Agents(connection.address, token=connection.token)
    with Signals() as signals:
        first = True
        try:
            while True:
                try:
                    code = _lead(agents, election, job, signals, child_exit_code=flags["child_exit_code"])
                    if flags["once"] or signals.passed in _ENDING or code == 128 + signals.passed:
                        return code
                    pause_s = AGAIN_S
                except ClientError as error:
                    if first or not passes(error):
                        raise
                    pause_s = back_off_s(1)
                    job.warn(f"{error}; again in {pause_s:g} s")
                first = False
                signals.wait()
                time.sleep(pause_s)
        except Interrupted as interrupted:
            return 128 + interrupted.number
        finally:
            agents.close()


class _Resigning:
    """A request to resign, seen by the thread that watches the key."""

    def __init__(self) -> None:
        self.asked = False
        self._guarded: Guarded | None = None

    def see(self, rows: Sequence[Entry]) -> None:
        if is_asked_to_resign(rows):
            self.asked = True
            self._stop()

    def began(self, guarded: Guarded) -> None:
        self._guarded = guarded
        if self.asked:
            self._stop()

    def _stop(self) -> None:
        if self._guarded is not None:
            self._guarded.stop(soon=False)


def _lead(agents: Agents, election: Election, job: Job, signals: Signals, *, child_exit_code: bool) -> int:
    """One campaign and one term; the code to end with, if it is the last."""
    resigning = _Resigning()
    name = job.session_name(election.key)
    hold = Hold(agents, election, name=name, ttl_s=job.ttl_s, tell=job.say, seen=resigning.see)
    why = ""
    try:
        hold.acquire()
        job.say(f"leading by {hold.key}, fence {hold.fence}")
        ending, why = run_held(hold, job, signals, environ={}, began=resigning.began)
    finally:
        signals.keep()
        held = hold.release()
    if not held and not why:
        why = "it was not ours any more when it was given back"
    if resigning.asked and ending.stopped and not why:
        job.warn(f"{hold.key}: asked to resign; the command was stopped, and the lead is given back")
        return 0
    return code_of(job, hold.key, ending, why, signals.passed, child_exit_code=child_exit_code)


@command.command()
@click.argument("key")
@click.option("--once", is_flag=True, help="Tell who leads now, and end; with 2 if nobody does.")
@click.option("--json", "as_json", is_flag=True, help="A JSON object a line.")
@client_options
def observe(connection: Connection, key: str, once: bool, as_json: bool) -> int:
    """Print who leads by KEY, and a line more at each change.

    \b
    Reload a proxy whenever another one leads:
      gemot election observe -json jobs/leader | while read -r line; do ./point-at "$line"; done

    It sleeps while nothing changes. While the agent is away it waits, longer each time, up to 3 minutes, and
    then tells what is different. With -json a line has Leader (Name and Address, or null), Session, Fence
    and Resigning.

    \b
    Exit codes:
      0    told, with -once
      1    no agent answered, with -once; or KEY cannot be read
      2    nobody leads, with -once
    """
    observer, failures = Observer(connection, _key(key)), 0
    while True:
        try:
            leader = observer.next()
        except ClientError as error:
            if once or not passes(error):
                raise
            failures += 1
            delay_s = back_off_s(failures)
            click.echo(f"gemot election: {error}; again in {delay_s:g} s", err=True)
            time.sleep(delay_s)
            continue
        failures = 0
        click.echo(_as_json(leader) if as_json else _as_text(leader))
        if once:
            return 0 if leader is not None else NOBODY


@command.command()
@click.argument("key")
@click.option(
    "--timeout", default="30s", metavar="DURATION", help="How long to wait until it has resigned (30s)."
)
@click.option("--force", is_flag=True, help="Destroy the leader's session instead of asking it.")
@client_options
def resign(connection: Connection, key: str, timeout: str, force: bool) -> int:
    """Ask whoever leads by KEY to resign, and wait until it has.

    The request is written into the leader's own record, so it is for no other leader. gemot election run
    obeys: it stops its command, gives the lead back, and campaigns again behind all who wait; where nobody
    waits it leads once more. A leader that does not take requests, or does not follow one, can be deposed
    with -force: its session is destroyed, and the next one leads after the delay that the session asked for.

    \b
    Exit codes:
      0    it has resigned
      1    nobody leads, the leader takes no requests, or it still led at the end of -timeout
    """
    key, kv = _key(key), Kv(connection)
    until_s = time.monotonic() + seconds("-timeout", timeout)
    entry = kv.get(key)
    leader = leader_of([entry] if entry is not None else []) if force else ask_to_resign(kv, key)
    if leader is None:
        raise click.ClickException(f"{key}: nobody leads")
    if force:
        connection.request("PUT", f"/v1/session/destroy/{escape(leader.session)}")
    index = 0
    while (left_s := until_s - time.monotonic()) > 0:
        params = {"index": index or None, "wait": f"{max(1, round(min(left_s, 10) * 1000))}ms"}
        reply = connection.request("GET", f"/v1/kv/{escape(key)}", params=params, ok=(200, 404))
        now = leader_of(entries(reply))
        if now is None or (now.session, now.fence) != (leader.session, leader.fence):
            click.echo(f"{_who(leader)} {'was deposed' if force else 'has resigned'}")
            return 0
        index = reply.index
    raise click.ClickException(f"{key}: {_who(leader)} still leads; -force destroys its session")


def _key(key: str) -> str:
    if not (key := key.strip("/")):
        raise click.ClickException("give the key of an election, such as jobs/leader")
    return key


def _who(leader: Leader) -> str:
    at = f" at {leader.address}" if leader.address else ""
    return (leader.name or f"session {leader.session}") + at


def _as_text(leader: Leader | None) -> str:
    if leader is None:
        return "nobody leads"
    asked = ", asked to resign" if leader.resigning else ""
    return f"{_who(leader)} leads, fence {leader.fence}{asked}"


def _as_json(leader: Leader | None) -> str:
    told: dict[str, object] = {"Leader": None, "Session": "", "Fence": 0, "Resigning": False}
    if leader is not None:
        told = {
            "Leader": {"Name": leader.name, "Address": leader.address},
            "Session": leader.session,
            "Fence": leader.fence,
            "Resigning": leader.resigning,
        }
    return json.dumps(told, ensure_ascii=False)
