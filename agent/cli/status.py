"""`gemot status`: who leads, who is here, what is waited for. Works without a quorum, and without servers."""

from __future__ import annotations

from typing import Any

import click

from gemot.agent.cli.members import how_old
from gemot.agent.cli.options import client_options, columns
from gemot.agent.client.connection import Connection, ConnectionBroke, Refused

ASK_S = 1.0
"""What each part may take: without servers there is no better answer later."""

MEMBERS_S = 3.0
"""The agent knows them itself; it asks servers a second for those of which it does not."""


@click.command(name="status")
@client_options
def command(connection: Connection) -> None:
    """Show who leads, who is here and what is waited for.

    It answers at once, with a leader or without: what is old is marked with its age.
    """
    leader = _leader(connection)  # first: by the answer the agent knows what is waited for now
    about = connection.request("GET", "/v1/agent/self").json()
    config, stats = about["Config"], about["Stats"]
    kind = "server" if config["Server"] else "client"
    click.echo(f"Agent    {config['NodeName']} ({kind}) in {config['Datacenter']}")
    click.echo(f"Leader   {'unknown, no server answers' if leader is None else leader or 'none'}")
    if waiting := stats.get("tier", {}).get("waiting"):
        click.echo(f"Waiting  {waiting}")
    if refused := stats.get("agent", {}).get("refused"):
        click.echo(f"Refused  nothing of this host is in the catalog: {refused}")
    if space := stats.get("consul", {}).get("space"):
        click.echo(f"Space    {space}")
    if (suspects := stats.get("consul", {}).get("suspects", "0")) != "0":
        click.echo(f"Suspect  {suspects} unreachable hosts are kept in service: many at once (mass_failure)")
    if raft := stats.get("raft"):
        votes = "" if raft.get("voter") != "false" else ", without a vote"
        click.echo(
            f"Raft     {raft['state']}{votes}, term {raft['term']}, applied {raft['applied_index']} "
            f"of {raft['commit_index']} committed"
        )
    if raft and (scrub := raft.get("last_scrub")):
        click.echo(f"Scrub    last pass ended {scrub}")
    if snapshots := stats.get("snapshot_agent"):
        click.echo(f"Backup   {_backup(snapshots)}")
    _print_members(connection)


def _backup(stats: dict[str, str]) -> str:
    """What the snapshot agent of this server did last."""
    last = f"last at {stats['last_time']}, index {stats['last_index']}" if stats["last_time"] else "none yet"
    if failure := stats["last_failure"]:
        return f"{last}; the next one FAILED: {failure}"
    return last if stats["leads"] == "true" else f"{last}; the leader takes them"


def _leader(connection: Connection) -> str | None:
    """ "" without one, None when no server can be asked."""
    try:
        return str(connection.request("GET", "/v1/status/leader", timeout_s=ASK_S).json())
    except (Refused, ConnectionBroke):
        return None


def _print_members(connection: Connection) -> None:
    try:
        reply = connection.request("GET", "/v1/agent/members", timeout_s=MEMBERS_S)
    except (Refused, ConnectionBroke) as error:
        click.echo(f"Members  unknown: {error}")
        return
    if told := how_old(reply):
        click.echo(f"Members  {told}")
    members: list[dict[str, Any]] = reply.json()
    rows = [["Node", "Address", "Status", "Type"]]
    rows += [[m["Name"], f"{m['Addr']}:{m['Port']}", STATUS.get(m["Status"], "?"), _kind(m)] for m in members]
    click.echo("\n" + columns(rows))


STATUS = {0: "none", 1: "alive", 2: "leaving", 3: "left", 4: "failed"}


def _kind(member: dict[str, dict[str, str]]) -> str:
    return "server" if member["Tags"].get("role") == "consul" else "client"
