"""`gemot watch`: prints a value, or runs a command each time it changes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import click

from gemot.agent.cli.flags_first import FlagsFirst
from gemot.agent.cli.options import client_options, read_options
from gemot.agent.client.connection import ClientError, Connection, Refused
from gemot.agent.client.path import escape
from gemot.agent.client.watch import EventWatch, Seen, Watch, back_off_s

TYPES = ("key", "keyprefix", "service", "services", "nodes", "checks", "event")
_NEEDS = {"key": "key", "keyprefix": "prefix", "service": "service"}
_TAKES = {
    "key": ("key",),
    "keyprefix": ("prefix",),
    "service": ("service", "tag", "passingonly"),
    "services": (),
    "nodes": (),
    "checks": ("service", "state"),
    "event": ("name",),
}


@click.command(name="watch", cls=FlagsFirst)
@click.argument("child", nargs=-1, type=click.UNPROCESSED, metavar="[COMMAND...]")
@click.option("--type", "kind", default="", help=f"What to watch: {', '.join(TYPES)}.")
@click.option("--key", default="", help="The key, for -type=key.")
@click.option("--prefix", default="", help="The prefix, for -type=keyprefix.")
@click.option("--service", default="", help="The service, for -type=service and -type=checks.")
@click.option("--tag", multiple=True, help="Only instances with this tag; may be repeated.")
@click.option("--passingonly", default=False, is_flag=True, help="Only instances whose checks all pass.")
@click.option("--state", default="", help="any, passing, warning or critical, for -type=checks.")
@click.option("--name", default="", help="Only events of this name, for -type=event.")
@click.option("--shell", is_flag=True, help="Run COMMAND, one text, by /bin/sh.")
@client_options
@read_options
def command(
    connection: Connection,
    read: dict[str, Any],
    child: tuple[str, ...],
    kind: str,
    key: str,
    prefix: str,
    service: str,
    tag: tuple[str, ...],
    passingonly: bool,
    state: str,
    name: str,
    shell: bool,
) -> int:
    """Print what is watched as JSON and exit, or run COMMAND now and at each change.

    \b
    Rewrite a file whenever the healthy instances of web change:
      gemot watch -type=service -service=web -passingonly ./write-backends.sh

    COMMAND gets the JSON on standard input and the index in $CONSUL_INDEX, one run at a time. It is run
    without a shell; what changes meanwhile is told in one run after it. It ends with Ctrl-C. While the agent
    is away it waits, longer each time, up to 3 minutes.

    Of events (gemot event) COMMAND gets those that the agent still has when it begins, a list that may be
    empty, and from then on the new ones alone.
    """
    given: dict[str, Any] = {"key": key, "prefix": prefix, "service": service, "tag": tag}
    given |= {"passingonly": passingonly, "state": state, "name": name}
    path, params = _locate(kind, given)
    watch = (EventWatch if kind == "event" else Watch)(connection, path, **params, **read)
    if not child:
        click.echo(json.dumps(_shown(kind, watch.look().value), indent=4, ensure_ascii=False))
        return 0
    if shell and len(child) > 1:
        raise click.ClickException("-shell takes the command as one text: put it in quotes")
    return _follow(watch, kind, ("/bin/sh", "-c", child[0]) if shell else child)


def _locate(kind: str, given: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    if kind not in TYPES:
        raise click.ClickException(f'-type: must be one of {", ".join(TYPES)}, got "{kind}"')
    stray = [name for name, value in given.items() if value and name not in _TAKES[kind]]
    if stray:
        raise click.ClickException(f"-{stray[0]} has no meaning for -type={kind}")
    need = _NEEDS.get(kind)
    if need and not given[need]:
        raise click.ClickException(f"-{need} is missing: -type={kind} needs it")
    match kind:
        case "key":
            return f"/v1/kv/{escape(given['key'].lstrip('/'))}", {}
        case "keyprefix":
            return f"/v1/kv/{escape(given['prefix'].lstrip('/'))}", {"recurse": True}
        case "service":
            params = {"tag": list(given["tag"]), "passing": given["passingonly"]}
            return f"/v1/health/service/{escape(given['service'])}", params
        case "checks" if given["service"] and given["state"]:
            raise click.ClickException("-type=checks takes -service or -state, not both")
        case "checks" if given["service"]:
            return f"/v1/health/checks/{escape(given['service'])}", {}
        case "checks":
            return f"/v1/health/state/{escape(given['state'] or 'any')}", {}
        case "event":
            return "/v1/event/list", {"name": given["name"] or None}
    return f"/v1/catalog/{kind}", {}


def _shown(kind: str, value: Any) -> Any:
    """A key by itself, null when there is none; every list as a list."""
    if kind == "key":
        return value[0] if value else None
    return [] if kind == "keyprefix" and value is None else value


def _follow(watch: Watch | EventWatch, kind: str, child: Sequence[str]) -> int:
    failures = 0
    while True:
        try:
            seen = watch.next()
        except Refused as error:
            if 400 <= error.status < 500 and error.status != 429:  # asking again is answered alike
                raise
            failures = _wait_out(error, failures)
        except ClientError as error:
            failures = _wait_out(error, failures)
        else:
            failures = 0
            _run(child, seen, json.dumps(_shown(kind, seen.value), ensure_ascii=False))


def _wait_out(error: ClientError, failures: int) -> int:
    delay_s = back_off_s(failures + 1)
    click.echo(f"gemot watch: {error}; again in {delay_s:g} s", err=True)
    time.sleep(delay_s)
    return failures + 1


def _run(child: Sequence[str], seen: Seen, text: str) -> None:
    environ = os.environ | {"CONSUL_INDEX": str(seen.index)}
    sys.stdout.flush()
    try:
        done = subprocess.run(child, input=f"{text}\n".encode("utf-8", "replace"), env=environ, check=False)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise click.ClickException(f"cannot run {child[0]}: {why}") from error
    if done.returncode:
        click.echo(f"gemot watch: {child[0]} ended with exit code {done.returncode}", err=True)
