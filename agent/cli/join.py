"""`gemot join`: meet a cluster now."""

from __future__ import annotations

from urllib.parse import quote

import click

from gemot.agent.cli.options import client_options
from gemot.agent.client.connection import Connection, Refused

WITHIN_S = 60.0


@click.command(name="join")
@click.argument("addresses", nargs=-1, required=True, metavar="ADDRESS...")
@click.option("--wan", is_flag=True, help="Not taken: there is no WAN pool.")
@client_options
def command(connection: Connection, addresses: tuple[str, ...], wan: bool) -> int:
    """Have the agent meet a cluster now, by the address of any member: host, host:port or [ipv6]:port.

    Without a port it is the one that this agent gossips on itself: `ports.serf_lan`, 8301 by default.

    \b
      gemot join 10.0.0.1 10.0.0.2:8301

    The agent remembers whom it met, and is back among them after a restart. After `gemot leave` it is not,
    unless `rejoin_after_leave` is set. `retry_join` in the configuration joins at each start. The exit code
    is 1 when no address could be joined.
    """
    joined = 0
    for address in addresses:
        try:
            params = {"wan": "1" if wan else None}
            connection.request(
                "PUT", f"/v1/agent/join/{quote(address, safe='')}", params=params, timeout_s=WITHIN_S
            )
            joined += 1
        except Refused as error:
            click.echo(f"Error joining address '{address}': {error.text}", err=True)
    if not joined:
        click.echo("Failed to join any nodes.", err=True)
        return 1
    click.echo(f"Successfully joined cluster by contacting {joined} nodes.")
    return 0
