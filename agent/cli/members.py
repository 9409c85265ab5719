"""`gemot members`: the hosts of the cluster and whether they live."""

from __future__ import annotations

import re
from typing import Any

import click

from gemot.agent.age import age_ms, as_of
from gemot.agent.cli.options import client_options, columns
from gemot.agent.client.connection import Connection, Reply

NO_MATCH = 2
STATUS = {0: "none", 1: "alive", 2: "leaving", 3: "left", 4: "failed"}
_HEAD = ["Node", "Address", "Status", "Type", "Build", "Protocol", "DC"]


@click.command(name="members")
@click.option("--detailed", is_flag=True, help="All tags of each member.")
@click.option("--status", "wanted", default=".*", help='Only those whose status matches: "left|failed".')
@click.option("--wan", is_flag=True, help="The servers, under their names in the wide-area pool.")
@client_options
def command(connection: Connection, detailed: bool, wanted: str, wan: bool) -> int:
    """List the hosts of the cluster and whether they live.

    \b
    Which hosts are gone:
      gemot members -status="failed|left"

    It is the list of the agent that is asked, by gossip: of now, without a leader too. Agents that gossip
    does not reach stand in it as the servers knew them; how old that is, is told on the error output. The
    exit code is 2 when no host matches.
    """
    try:
        pattern = re.compile(wanted)
    except re.error as error:
        raise click.ClickException(f"-status: {wanted!r} is not a regular expression: {error}") from error
    reply = connection.request("GET", "/v1/agent/members", params={"wan": wan})
    if told := how_old(reply):
        click.echo(f"This list is {told}", err=True)
    members = reply.json()
    chosen = [one for one in members if pattern.search(_status(one))]
    if not chosen:
        return NO_MATCH
    chosen.sort(key=lambda one: str(one["Name"]))
    if detailed:
        rows = [["Node", "Address", "Status", "Tags"], *([*_first(one), _tags(one)] for one in chosen)]
    else:
        rows = [_HEAD, *([*_first(one), *_rest(one)] for one in chosen)]
    click.echo(columns(rows))
    return 0


def how_old(reply: Reply) -> str:
    """In words, for an answer that is not of now; else ""."""
    age = age_ms(reply.last_contact_ms, known_leader=reply.known_leader)
    return as_of(age) if age else ""


def _status(member: dict[str, Any]) -> str:
    return STATUS.get(member["Status"], "none")


def _first(member: dict[str, Any]) -> list[str]:
    host = f"[{member['Addr']}]" if ":" in member["Addr"] else member["Addr"]
    return [member["Name"], f"{host}:{member['Port']}", _status(member)]


def _rest(member: dict[str, Any]) -> list[str]:
    tags = member["Tags"]
    role = {"consul": "server", "node": "client"}.get(tags.get("role", ""), "unknown")
    build = _build(tags.get("build", ""))
    return [role, build, str(member["ProtocolCur"]), tags.get("dc", "") or "-"]


def _build(tag: str) -> str:
    """What is spoken, and Gemot's own release as metadata of it, as semantic versions have it."""
    spoken, _, revision = tag.partition(":")
    own = revision.removeprefix("gemot-") if revision.startswith("gemot-") else ""
    return f"{spoken}+gemot.{own}" if own else spoken or "-"


def _tags(member: dict[str, Any]) -> str:
    return ",".join(f"{name}={value}" for name, value in sorted(member["Tags"].items()))
