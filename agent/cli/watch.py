"""`gemot watch`: prints a value, follows its changes, or runs a command each time it changes."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from gemot.agent.cli.flags_first import FlagsFirst
from gemot.agent.cli.held import Interrupted
from gemot.agent.cli.options import client_options, read_options
from gemot.agent.cli.watch_command import run_command
from gemot.agent.cli.watch_events import Inbox, events
from gemot.agent.cli.watch_state import WatchState
from gemot.agent.cli.watch_telling import MOST_GATHERED, Tell, Telling
from gemot.agent.cli.watched import TYPES, Watched, locate, shown
from gemot.agent.client.connection import Connection
from gemot.agent.client.watch import Watch
from gemot.agent.duration import parse_duration
from gemot.server.model.errors import BadRequest

_NAMES = ("key", "prefix", "service", "tag", "passingonly", "state", "name", "node", "session")


@click.command(name="watch", cls=FlagsFirst)
@click.argument("child", nargs=-1, type=click.UNPROCESSED, metavar="[COMMAND...]")
@click.option("--type", "kind", default="", help=f"What to watch: {', '.join(TYPES)}.")
@click.option("--key", default="", help="The key, for -type=key.")
@click.option("--prefix", default="", help="The prefix, for -type=keyprefix.")
@click.option("--service", default="", help="The service, for -type=service and -type=checks.")
@click.option("--tag", multiple=True, help="Only instances with this tag; may be repeated.")
@click.option("--passingonly", default=False, is_flag=True, help="Only instances whose checks all pass.")
@click.option(
    "--state",
    type=click.Choice(["any", "passing", "warning", "critical"]),
    default=None,
    help="any, passing, warning or critical, for -type=checks.",
)
@click.option("--name", default="", help="Only events of this name, for -type=event.")
@click.option("--node", default="", help="The node, for -type=node.")
@click.option("--session", default="", help="The session's id, for -type=session.")
@click.option("--shell", is_flag=True, help="Run COMMAND, one text, by /bin/sh.")
@click.option("--f", "follow", is_flag=True, help="Without COMMAND: print each change as a line of JSON.")
@click.option("--changes", is_flag=True, help="Give COMMAND the changes, in place of what there is.")
@click.option("--debounce", default="", metavar="DURATION", help="Tell in one run what comes within: 2s.")
@click.option("--retry", is_flag=True, help="Run a COMMAND that failed again, after 1 s, 2 s, up to 60 s.")
@click.option(
    "--state-file", default="", metavar="FILE", help="Keep what was told, so that no start repeats it."
)
@client_options
@read_options
def command(
    connection: Connection, read: dict[str, Any], child: tuple[str, ...], kind: str, **flags: Any
) -> int:
    """Print what is watched as JSON and exit, or run COMMAND now and at each change.

    \b
    Rewrite a file whenever the healthy instances of web change:
      gemot watch -type=service -service=web -passingonly ./write-backends.sh
    The same, but a restart runs it only if something changed meanwhile:
      gemot watch -type=service -service=web -state-file=/var/lib/web.watch ./write-backends.sh
    Each change of the keys below app/, with what was there before:
      gemot watch -type=keyprefix -prefix=app/ -f

    COMMAND gets the JSON on standard input and the index in $CONSUL_INDEX, one run at a time. It is run
    without a shell, in a session of its own, so it cannot ask at a terminal; what changes meanwhile is told
    in one run after it. It ends with Ctrl-C, or by SIGTERM; a COMMAND that runs then gets SIGTERM first, and
    SIGKILL after 5 s. While the agent is away it waits, longer each time, up to 30 s, and goes on where it
    was.

    \b
    With -changes, and as lines with -f, the JSON is (at first, all that is there):
      {"Index":7,"Changes":[{"Op":"set","Key":"app/a","Old":null,"New":{...}}]}

    Op is set or delete; Old or New is null where there is nothing. Of keys each change is told, of all else
    how it is: quick changes may come as one. Where an agent does not know each change any more, that is said
    on standard error, and what differs is told. Keys of instances and checks are "node/id", a "/" in the
    node's name as %2F (and its "%" as %25); of -type=node they are "node", "service/id" and "check/id", and
    checks are told by -changes and -f alone.

    Of events (gemot event) COMMAND gets those that the agent still has when it begins, a list that may be
    empty, and from then on the new ones alone.

    A COMMAND that fails is told, and not run again but with -retry. The state file is written when it has
    ended well: what was cut off by a crash, or failed last, is told once more by the next start. With
    -changes and for events the file holds the items themselves. It is of one watch and one cluster.

    An agent that has no push watches (Consul, say) is asked by blocking queries; so is any with -stale.
    """
    given = {name: flags[name] for name in _NAMES}
    watched = locate(kind, given)
    _check(child, flags)
    if not child and not flags["follow"]:
        watch = Watch(connection, watched.path, **watched.params, **read)
        click.echo(json.dumps(shown(kind, watch.look().value), indent=4, ensure_ascii=False))
        return 0
    by_change = flags["changes"] or flags["follow"]
    path = Path(flags["state_file"]) if flags["state_file"] else None
    what = {name: _plain(value) for name, value in given.items() if value}
    what |= {"type": kind, "changes": by_change}
    tell = _command(("/bin/sh", "-c", child[0]) if flags["shell"] else child) if child else _print
    try:
        _run(connection, read, watched, WatchState(path, what), tell, by_change=by_change, flags=flags)
    except Interrupted as interrupted:
        if interrupted.number != signal.SIGINT:
            os.kill(os.getpid(), interrupted.number)  # of which it dies, as it does between two runs
        return 128 + interrupted.number
    return 0


def _run(
    connection: Connection,
    read: dict[str, Any],
    watched: Watched,
    state: WatchState,
    tell: Tell,
    *,
    by_change: bool,
    flags: dict[str, Any],
) -> None:
    debounce_s = _seconds("-debounce", flags["debounce"])
    kept = state.read()
    place = kept.place if kept.items is not None else ""
    inbox = Inbox(events(connection, watched, read, place))
    inbox.start()
    Telling(
        events=inbox,
        watched=watched,
        kept=kept,
        state=state,
        tell=tell,
        by_change=by_change,
        debounce_s=debounce_s,
        at_once=1 if flags["follow"] and not debounce_s else MOST_GATHERED,
        retries=flags["retry"],
    ).run()


def _check(child: tuple[str, ...], flags: dict[str, Any]) -> None:
    """Flags that have no meaning together. Raises ClickException."""
    if flags["shell"] and len(child) > 1:
        raise click.ClickException("-shell takes the command as one text: put it in quotes")
    if child and flags["follow"]:
        raise click.ClickException("-f prints the changes: leave COMMAND out, or use -changes in its place")
    for name in ("changes", "retry"):
        if flags[name] and not child:
            raise click.ClickException(f"-{name} is for COMMAND, and none is given")
    for name, flag in (("debounce", "-debounce"), ("state_file", "-state-file")):
        if flags[name] and not child and not flags["follow"]:
            raise click.ClickException(f"{flag} is for what follows changes: give COMMAND or -f")


def _seconds(flag: str, text: str) -> float:
    try:
        seconds = parse_duration(text) if text else 0.0
    except BadRequest as error:
        raise click.ClickException(f"{flag}: {error.message}") from error
    if not 0 <= seconds <= 3600:
        raise click.ClickException(f"{flag}: must be between 0 and 1h, got {text[:40]}")
    return seconds


def _plain(value: Any) -> Any:
    """Bytes of a key that are no UTF-8 as JSON can hold them."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _print(_index: int, text: str) -> bool:
    click.echo(text)
    sys.stdout.flush()
    return True


def _command(child: Sequence[str]) -> Tell:
    def tell(index: int, text: str) -> bool:
        environ = os.environ | {"CONSUL_INDEX": str(index)}
        sys.stdout.flush()
        try:
            sent = f"{text}\n".encode("utf-8", "replace")
            code = run_command(child, sent, environ)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise click.ClickException(f"cannot run {child[0]}: {why}") from error
        if code:
            click.echo(f"gemot watch: {child[0]} ended with exit code {code}", err=True)
        return code == 0

    return tell
