"""`gemot status`: who leads, who is here, what is waited for. Works without a quorum."""

from __future__ import annotations

import click

from gemot.agent.cli.options import client_options, columns
from gemot.agent.client.connection import Connection, Refused


@click.command(name="status")
@client_options
def command(connection: Connection) -> None:
    """Show who leads, who is here and what is waited for."""
    about = connection.request("GET", "/v1/agent/self").json()
    config, stats = about["Config"], about["Stats"]
    kind = "server" if config["Server"] else "client"
    click.echo(f"Agent    {config['NodeName']} ({kind}) in {config['Datacenter']}")
    click.echo(f"Leader   {connection.request('GET', '/v1/status/leader').json() or 'none'}")
    if waiting := stats.get("tier", {}).get("waiting"):
        click.echo(f"Waiting  {waiting}")
    if raft := stats.get("raft"):
        click.echo(
            f"Raft     {raft['state']}, term {raft['term']}, applied {raft['applied_index']} "
            f"of {raft['commit_index']} committed"
        )
    _print_members(connection)


def _print_members(connection: Connection) -> None:
    try:
        members = connection.request("GET", "/v1/agent/members", timeout_s=3).json()
    except Refused as error:
        click.echo(f"Members  unknown: {error}")
        return
    rows = [["Node", "Address", "Status", "Type"]]
    rows += [[m["Name"], f"{m['Addr']}:{m['Port']}", STATUS.get(m["Status"], "?"), _kind(m)] for m in members]
    click.echo("\n" + columns(rows))


STATUS = {0: "none", 1: "alive", 2: "leaving", 3: "left", 4: "failed"}


def _kind(member: dict[str, dict[str, str]]) -> str:
    return "server" if member["Tags"].get("role") == "consul" else "client"
