"""`gemot operator`: who votes, how the servers are, and how they are looked after."""

from __future__ import annotations

import json
from typing import Any

import click

from gemot.agent.cli import recover
from gemot.agent.cli.options import client_options, columns, read_options
from gemot.agent.client.connection import Connection

_HEAD = ["Node", "ID", "Address", "State", "Voter", "RaftProtocol", "Commit Index", "Trails Leader By"]
_CONFIG = "/v1/operator/autopilot/configuration"
_HEALTH = "/v1/operator/autopilot/health"
_OWN_HEALTH = "/v1/gemot/raft/health"
_UNKNOWN = "unknown"
OPERATE_S = 30.0
UNHEALTHY = 429
_SETTABLE = (
    "CleanupDeadServers",
    "LastContactThreshold",
    "MaxTrailingLogs",
    "MinQuorum",
    "ServerStabilizationTime",
)


@click.group(name="operator")
def command() -> None:
    """Look after the servers: who votes, who leads, and what is done about those that fail.

    \b
    Who votes, and how far behind each is:
      gemot operator raft list-peers
    """


@command.group()
def raft() -> None:
    """The servers that agree by Raft."""


@command.group()
def autopilot() -> None:
    """How the leader looks after the servers: who is promoted, and who is removed when it is dead."""


@raft.command("list-peers")
@client_options
@read_options
def list_peers(connection: Connection, read: dict[str, Any]) -> None:
    """List the servers and whether they vote. A server that joins is listed before it votes.

    What the server that is asked cannot tell is `unknown`: the state of a dead one, and with -stale what
    others have of the log.
    """
    servers = connection.request("GET", "/v1/operator/raft/configuration", params=read).json()["Servers"]
    health = _OWN_HEALTH if read["stale"] else _HEALTH
    seen = connection.request("GET", health, ok=(200, UNHEALTHY)).json()["Servers"]
    alive = {one["ID"] for one in seen if one["SerfStatus"] == "alive"}
    leader = next((one for one in servers if one["Leader"]), None)
    rows = [
        [
            one["Node"],
            one["ID"],
            one["Address"] or "-",
            _raft_state(one, leader, alive=one["ID"] in alive),
            str(one["Voter"]).lower(),
            one["ProtocolVersion"],
            str(one["LastIndex"] or _UNKNOWN),
            _behind(one, leader),
        ]
        for one in servers
    ]
    click.echo(columns([_HEAD, *rows]))


@raft.command("remove-peer")
@click.option("--id", "peer", default="", help="The server's id, as list-peers has it.")
@click.option("--address", default="", help="Its address, ip:port, in place of the id.")
@client_options
def remove_peer(connection: Connection, peer: str, address: str) -> None:
    """Take the vote of a server that will not come back.

    One that still runs comes back as a non-voter and is promoted once it is stable: stop it first, or have it
    leave (`gemot leave` on its host).
    """
    if bool(peer) == bool(address):
        raise click.ClickException("give either -id or -address of the server to remove")
    params = {"id": peer or None, "address": address or None}
    # Looked at before: a leader that is removed itself leaves a successor that has seen nothing yet.
    name = _alive(connection, peer, address)
    connection.request("DELETE", "/v1/operator/raft/peer", params=params, timeout_s=OPERATE_S)
    click.echo(f'Removed peer with {"id" if peer else "address"} "{peer or address}"')
    if name:
        click.echo(
            f"{name} was alive a moment ago: it comes back as a non-voter and is promoted again once it is "
            "stable, unless it is stopped or told to leave",
            err=True,
        )


@raft.command("transfer-leader")
@click.option("--id", "peer", default="", help="Who is to lead; without it the one that has most.")
@client_options
def transfer_leader(connection: Connection, peer: str) -> None:
    """Hand the leadership to another server. Writes wait meanwhile; none is lost."""
    params = {"id": peer or None}
    connection.request("POST", "/v1/operator/raft/transfer-leader", params=params, timeout_s=OPERATE_S)
    click.echo("Success")


@raft.command()
@client_options
def health(connection: Connection) -> int:
    """Show the servers as the one that is asked sees them; needs no leader.

    The exit code is 1 when any of them is not healthy.
    """
    found = connection.request("GET", _OWN_HEALTH, ok=(200, UNHEALTHY)).json()
    click.echo(f"Seen by  {found['SeenBy']}")
    click.echo(f"Leader   {found['Leader'] or 'none'}")
    if found["Waiting"]:
        click.echo(f"Waiting  {found['Waiting']}")
    rows = [["Node", "Address", "Status", "Voter", "Healthy", "Last Contact"]]
    for one in found["Servers"]:
        yes = [str(one[name]).lower() for name in ("Voter", "Healthy")]
        rows.append([one["Name"], one["Address"] or "-", one["SerfStatus"], *yes, one["LastContact"] or "-"])
    click.echo("\n" + columns(rows))
    return 0 if found["Healthy"] else 1


@autopilot.command("get-config")
@client_options
@read_options
def get_config(connection: Connection, read: dict[str, Any]) -> None:
    """Show how the servers are looked after."""
    found = connection.request("GET", _CONFIG, params=read).json()
    for name, value in found.items():
        if name not in ("CreateIndex", "ModifyIndex"):
            click.echo(f"{name} = {_shown(value)}")


@autopilot.command("set-config")
@click.option("--cleanup-dead-servers", type=bool, default=None, help="Remove servers that are dead.")
@click.option("--last-contact-threshold", default=None, help='How late an answer may be: "200ms".')
@click.option("--max-trailing-logs", type=int, default=None, help="Entries a server may be behind.")
@click.option("--min-quorum", type=int, default=None, help="Voters that clean-up leaves at least.")
@click.option(
    "--server-stabilization-time", default=None, help='How long to be healthy before voting: "10s".'
)
@client_options
def set_config(connection: Connection, **given: Any) -> None:
    """Change how the servers are looked after; what is not named stays as it is."""
    if all(value is None for value in given.values()):
        options = ", ".join(f"-{_option(name).replace('_', '-')}" for name in _SETTABLE)
        raise click.UsageError(f"nothing to change: give at least one of {options}")
    found = connection.request("GET", _CONFIG).json()
    body = {name: found[name] for name in _SETTABLE}
    for name in _SETTABLE:
        if (value := given[_option(name)]) is not None:
            body[name] = value
    params = {"cas": found["ModifyIndex"]}
    reply = connection.request("PUT", _CONFIG, params=params, body=json.dumps(body).encode())
    if reply.json() is not True:
        raise click.ClickException(
            "somebody else has just changed the configuration: look again, then try again"
        )
    click.echo("Configuration updated!")


@autopilot.command()
@click.option(
    "--format", "form", type=click.Choice(["pretty", "json"]), default="pretty", help="pretty or json."
)
@client_options
def state(connection: Connection, form: str) -> None:
    """Show how the leader sees the servers."""
    found = connection.request("GET", "/v1/operator/autopilot/state").json()
    if form == "json":
        click.echo(json.dumps(found, indent=4))
        return
    click.echo(f"Healthy:                      {_shown(found['Healthy'])}")
    click.echo(f"Failure Tolerance:            {found['FailureTolerance']}")
    click.echo(f"Optimistic Failure Tolerance: {found['OptimisticFailureTolerance']}")
    click.echo(f"Leader:                       {found['Leader']}")
    click.echo("Voters:")
    for voter in found["Voters"]:
        click.echo(f"   {voter}")
    click.echo("Servers:")
    for id, one in found["Servers"].items():
        click.echo(f"   {id}")
        for name in ("Name", "Address", "Version", "Status", "NodeStatus", "Healthy", "LastContact"):
            click.echo(f"      {name + ':':<13} {_shown(one[name])}")
        for name in ("LastTerm", "LastIndex", "StableSince"):
            click.echo(f"      {name + ':':<13} {one[name]}")


command.add_command(recover.command)


def _raft_state(one: dict[str, Any], leader: dict[str, Any] | None, *, alive: bool) -> str:
    """It follows if it lives, there is somebody to follow, and it has said what it has of the log."""
    if one["Leader"]:
        return "leader"
    return "follower" if alive and leader is not None and one["LastIndex"] else _UNKNOWN


def _behind(one: dict[str, Any], leader: dict[str, Any] | None) -> str:
    if one["Leader"]:
        return "-"
    if leader is None or not leader["LastIndex"] or not one["LastIndex"]:
        return _UNKNOWN
    behind = max(0, leader["LastIndex"] - one["LastIndex"])
    return f"{behind} commit{'' if behind == 1 else 's'}"


def _alive(connection: Connection, id: str, address: str) -> str:
    """The name of that server if the leader hears of it, else ""."""
    found = connection.request("GET", _HEALTH, ok=(200, UNHEALTHY), timeout_s=OPERATE_S).json()
    named = (one for one in found["Servers"] if (one["ID"] == id if id else one["Address"] == address))
    return next((one["Name"] for one in named if one["SerfStatus"] == "alive"), "")


def _option(name: str) -> str:
    """`MinQuorum` as the option's variable is called: `min_quorum`."""
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return '""' if value == "" else str(value)
