"""`gemot info`: the local agent's figures."""

from __future__ import annotations

import click

from gemot.agent.cli.options import client_options
from gemot.agent.client.connection import Connection


@click.command(name="info")
@client_options
def command(connection: Connection) -> None:
    """Show figures of the local agent, by part."""
    stats = connection.request("GET", "/v1/agent/self").json()["Stats"]
    for part in sorted(stats):
        click.echo(f"{part}:")
        for name in sorted(stats[part]):
            click.echo(f"\t{name} = {stats[part][name]}")
