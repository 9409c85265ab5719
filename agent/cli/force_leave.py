"""`gemot force-leave`: a member that failed will not come back."""

from __future__ import annotations

from urllib.parse import quote

import click

from gemot.agent.cli.options import client_options
from gemot.agent.client.connection import Connection

WITHIN_S = 60.0


@click.command(name="force-leave")
@click.argument("node")
@click.option("--prune", is_flag=True, help="Erase it from every list; one that has left already, too.")
@click.option("--wan", is_flag=True, help="Not taken: there is no WAN pool.")
@client_options
def command(connection: Connection, node: str, prune: bool, wan: bool) -> None:
    """Say of a member that failed that it will not come back; any agent can be asked.

    \b
      gemot members -status=failed
      gemot force-leave web7

    It is listed as left then, no change of keys waits for it, and what hangs on it goes: its node, services
    and checks out of the catalog, and of a server the vote. That is refused, with nothing changed, where the
    other servers could not go on without it, and for a member that is alive: it would come straight back, so
    run `gemot leave` on its host. Should it come back after all, it is a member again.
    """
    params = {"prune": prune, "wan": "1" if wan else None}
    path = f"/v1/agent/force-leave/{quote(node, safe='')}"
    reply = connection.request("PUT", path, params=params, timeout_s=WITHIN_S)
    click.echo(reply.headers.get("x-gemot-done", "") or f"{node} has left")
