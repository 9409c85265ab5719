"""`gemot operator recover`: going on from what is left when a quorum of the servers is lost for good.

It speaks to no agent: it works on data directories whose agents are stopped.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from gemot.agent.cli.options import columns

if TYPE_CHECKING:
    from gemot.server.salvage import Held, Plan
    from gemot.server.storage.disk import Disk

_LOST = """\
What may be lost: entries after {last} that were acknowledged by the other servers and never came here.
Nothing here can tell whether there were any. Entries up to {last} are kept, those after {commit} too, of
which it is not known here whether they were ever acknowledged."""

_AFTER = """\
Next: start this server; it goes on {how}. Servers taken for lost must not come back as they were: they
belong to cluster {old} still, and are refused. Move their data directories away, and they join anew."""


@click.command(name="recover")
@click.argument("directories", nargs=-1, required=True, metavar="DATA_DIR...")
@click.option("--show", is_flag=True, help="Only say what each directory holds, a line each.")
@click.option("--format", "form", type=click.Choice(["pretty", "json"]), default="pretty", help="Of -show.")
@click.option("--voters", default="", help="The new voters, server ids separated by commas.")
@click.option("--self", "alone", is_flag=True, help="The server of the best log is the only voter.")
@click.option("--cluster", default="", help="Only have this server belong to the cluster that goes on.")
@click.option("--damaged", is_flag=True, help="Go on from a log that lost entries, if there is no other.")
@click.option(
    "--dry-run", is_flag=True, help="Say what would be done, and do nothing: so it is without -yes."
)
@click.option("--yes", is_flag=True, help="Do it.")
def command(
    directories: tuple[str, ...],
    show: bool,
    form: str,
    voters: str,
    alone: bool,
    cluster: str,
    damaged: bool,
    dry_run: bool,
    yes: bool,
) -> int:
    """Go on from what is left when a quorum of the servers is lost for good.

    While a majority of the servers can still be started, start them: nothing is lost then, and this command
    is not for you. Otherwise stop every agent that is left, and compare what they hold:

    \b
      gemot operator recover -show /var/lib/gemot

    Take the server whose log is the best (the newest last term, then the highest last entry; with several
    directories the best is found), and there:

    \b
      gemot operator recover -self /var/lib/gemot
      gemot operator recover -self -yes /var/lib/gemot

    The first only says what the second does. It keeps copies of the vote file and of the newest log segment,
    writes a new set of voters behind the log, and a new cluster id: servers that were taken for lost and come
    back cannot undo what is written from now on. Nothing is cut off. An epoch begins, and indexes jump by
    1,000,000,000: no fence or index that only the lost servers gave out is given out again.

    With -voters=ID,ID the other servers named keep their logs: run what the command prints there, and start
    all of them. Every other server is wiped and joins as a new one.
    """
    from gemot.server.model.errors import DiskFailed, GemotError
    from gemot.server.storage.realdisk import RealDisk

    if voters and alone:
        raise click.UsageError("-voters and -self exclude each other")
    disk = RealDisk()
    try:
        with ExitStack() as stack:
            found = [stack.enter_context(_held(disk, directory)) for directory in dict.fromkeys(directories)]
            if cluster:
                _follow(disk, found, cluster, yes=yes and not dry_run)
            elif show or not (voters or alone):
                _show(found, form)
            else:
                wanted = tuple(id.strip() for id in voters.split(",") if id.strip())
                _recover(disk, found, wanted, damaged=damaged, yes=yes and not dry_run)
    except DiskFailed as error:
        click.echo(f"Error: {error.message}", err=True)
        return 74
    except GemotError as error:
        raise click.ClickException(error.message) from error
    except OSError as error:
        raise click.ClickException(f"{error.filename}: {error.strerror}") from error
    return 0


@contextmanager
def _held(disk: Disk, directory: str) -> Iterator[Held]:
    """What it holds; its lock is kept meanwhile. Only its owner may: files of another user end its agent."""
    from gemot.server.model.errors import BadRequest
    from gemot.server.salvage import look

    owner = os.stat(directory).st_uid
    if owner != os.geteuid():
        raise BadRequest(
            f"{directory} belongs to user {owner}, this is {os.geteuid()}: run it as that user, or the agent "
            "could not open what is written (runuser -u USER -- gemot operator recover ...)"
        )
    raft = os.path.join(directory, "raft")
    if not disk.exists(raft):
        raise BadRequest(f"{directory} holds no Raft data: name the data_dir of a server")
    lock = disk.lock(f"{directory}/lock")
    try:
        yield look(disk, raft)
    finally:
        lock.release()


def _show(found: list[Held], form: str) -> None:
    from gemot.server.salvage import best

    first = best(found)
    if form == "json":
        click.echo(json.dumps([_as_json(held, held is first) for held in found], indent=4))
        return
    rows = [["Server", "Last term", "Last entry", "Committed", "Voted in", "Whole", "Voters", "Cluster"]]
    rows += [
        [
            held.node,
            str(held.last_term),
            str(held.last_index),
            f"{held.commit} or more",
            str(held.term),
            "no use" if held.gap else "repairing" if held.repairing else "yes",
            ",".join(held.voters) or "none",
            held.cluster or "none",
        ]
        for held in found
    ]
    click.echo(columns(rows))
    for held in found:
        for told in filter(None, (held.gap, held.damage)):
            click.echo(f"{held.node}: {told}")
        if held.by_hand:
            click.echo(
                f"{held.node}: its voters were set by hand in entry {held.voters_index}: {held.by_hand}"
            )
    if len(found) > 1:
        click.echo(f"The best log is that of {first.node}, in {first.directory}")


def _as_json(held: Held, is_best: bool) -> dict[str, object]:
    return {
        "Directory": held.directory,
        "ID": held.node,
        "Cluster": held.cluster,
        "Term": held.term,
        "FirstIndex": held.first_index,
        "LastIndex": held.last_index,
        "LastTerm": held.last_term,
        "CommitIndexAtLeast": held.commit,
        "Voters": list(held.voters),
        "VotersIndex": held.voters_index,
        "SetByHand": held.by_hand,
        "Repairing": held.repairing,
        "Problem": held.gap or held.damage,
        "Best": is_best,
    }


def _recover(disk: Disk, found: list[Held], voters: tuple[str, ...], *, damaged: bool, yes: bool) -> None:
    from gemot.server.salvage import back_up, best, carry_out, plan

    held = best(found)
    planned = plan(held, voters or (held.node,), damaged=damaged)
    _show(found, "pretty")
    click.echo()
    click.echo(
        f"{'Writing' if yes else 'Would write'} entry {planned.index} of term {planned.term} behind the log "
        f"in {held.directory}: the voters are {', '.join(planned.voters)}, the cluster is {planned.cluster}."
    )
    click.echo(_LOST.format(last=held.last_index, commit=held.commit))
    if not yes:
        click.echo("Nothing was done. Say -yes to do it.")
        return
    click.echo(f"Copies of the vote file and the newest segment: {back_up(disk, held.directory)}")
    now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    note = f"{now} by gemot operator recover, instead of {','.join(held.voters)}"
    for told in carry_out(disk, planned, note=note, random=random.Random()):
        click.echo(f"Put right first: {told}")
    _next(planned)


def _next(planned: Plan) -> None:
    others = [id for id in planned.voters if id != planned.held.node]
    how = f"once a majority of {', '.join(planned.voters)} runs" if others else "alone"
    for id in others:
        what = f"gemot operator recover -cluster={planned.cluster} -yes DATA_DIR"
        click.echo(f"On the host of {id}, before it starts: {what}")
    click.echo(_AFTER.format(how=how, old=planned.held.cluster))


def _follow(disk: Disk, found: list[Held], cluster: str, *, yes: bool) -> None:
    from gemot.server.salvage import back_up, check_cluster, follow

    check_cluster(cluster)
    for held in found:
        if not yes:
            click.echo(
                f"Would have {held.node} belong to cluster {cluster}, not {held.cluster}. Say -yes to do it."
            )
            continue
        click.echo(f"Copies of the vote file and the newest segment: {back_up(disk, held.directory)}")
        follow(disk, held, cluster)
        click.echo(
            f"{held.node} belongs to cluster {cluster} now. Start it once the server of the best log is ready"
        )
