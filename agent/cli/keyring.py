"""`gemot keyring`: the keys of gossip on all members."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from gemot.agent.cli.options import client_options
from gemot.agent.client.connection import Connection

PATH = "/v1/operator/keyring"
WITHIN_S = 120.0
MOST_RELAYS = 5
MAX_KEY_BYTES = 256
_METHODS = {"install": "POST", "use": "PUT", "remove": "DELETE"}
_DONE = {
    "install": "Key installed on all members: it opens gossip. Next: -use",
    "use": "Key in use by all members: it seals gossip. Next, for the key before: -remove",
    "remove": "Key removed from all members",
}


@click.command(name="keyring")
@click.option("--list", "listing", is_flag=True, help="Show the keys, and how many members have each.")
@click.option("--list-primary", is_flag=True, help="Only those that members seal with.")
@click.option("--install", default="", metavar="KEY", help="Step 1: all can open what this key sealed.")
@click.option("--use", default="", metavar="KEY", help="Step 2: all seal with it.")
@click.option("--remove", default="", metavar="KEY", help="Step 3: nobody opens what that key sealed.")
@click.option(
    "--relay-factor", type=click.IntRange(0, MOST_RELAYS), default=0, help="Taken, and not needed: 0 to 5."
)
@click.option("--local-only", is_flag=True, help="Taken, and not needed: there is one datacenter.")
@client_options
def command(
    connection: Connection,
    listing: bool,
    list_primary: bool,
    relay_factor: int,
    local_only: bool,
    **steps: str,
) -> None:
    """List and change the keys of gossip, on all members.

    \b
    From one key to another, each step once the one before is done on all:
      gemot keygen > new
      gemot keyring -install=- < new
      gemot keyring -use=- < new
      gemot keyring -remove=OLD
      gemot keyring -list

    KEY is in base64; `-` reads it from the standard input, so that it stands in no list of processes. Each
    step is refused, with nothing changed, where it would cut off a member: -use until all have the key,
    -remove while anyone seals with it, and both while a member has failed (`gemot force-leave` says that it
    will not come back). What is changed lasts in each member's `serf/local.keyring`. A member that joins has
    what its own file or `encrypt` says: change that as well.

    A key that leaked is not replaced this way: who has it reads along, and learns the new one as it is
    installed. Stop all agents, put a new key in `encrypt`, delete each `serf/local.keyring` (it wins over
    `encrypt`), and start them again.
    """
    given = [(step, key) for step, key in steps.items() if key]
    if len(given) + listing + list_primary != 1:
        raise click.UsageError("give one of -list, -list-primary, -install, -use and -remove")
    params: dict[str, Any] = {"relay-factor": relay_factor or None}
    if not given:
        _list(connection, params | {"local-only": local_only}, primary=list_primary)
        return
    step, key = given[0]
    body = json.dumps({"Key": _read(key)}).encode()
    reply = connection.request(_METHODS[step], PATH, params=params, body=body, timeout_s=WITHIN_S)
    click.echo(_DONE[step])
    if told := reply.headers.get("x-gemot-done", ""):
        click.echo(told, err=True)


def _list(connection: Connection, params: dict[str, Any], *, primary: bool) -> None:
    for row in connection.request("GET", PATH, params=params, timeout_s=WITHIN_S).json():
        click.echo(f"{row['Datacenter']} (LAN):")
        counts, primaries = row["PrimaryKeys" if primary else "Keys"], row["PrimaryKeys"]
        for key, count in sorted(counts.items(), key=lambda each: (-primaries.get(each[0], 0), each[0])):
            sealing = f"  primary [{primaries[key]}/{row['NumNodes']}]" if key in primaries else ""
            told = f"  {key} ({_fingerprint(key)}) [{count}/{row['NumNodes']}]"
            click.echo(f"{told}{'' if primary else sealing}")
        for name, why in sorted(row.get("Messages", {}).items()):
            click.echo(f"  {name}: {why}", err=True)


def _fingerprint(key: str) -> str:
    """As logs and refusals name it."""
    from gemot.agent.gossip.keyring import Key

    return Key.parse(key).fingerprint


def _read(key: str) -> str:
    return sys.stdin.read(MAX_KEY_BYTES).strip() if key == "-" else key
