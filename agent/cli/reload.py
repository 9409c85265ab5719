"""`gemot reload`: read the configuration again."""

from __future__ import annotations

import click

from gemot.agent.cli.options import client_options
from gemot.agent.client.connection import Connection


@click.command(name="reload")
@client_options
def command(connection: Connection) -> None:
    """Have the agent read its configuration again, as SIGHUP does.

    All or nothing: with a mistake in the files everything stays as it was, and the mistakes are told here.
    `gemot validate` finds them beforehand.
    """
    reply = connection.request("PUT", "/v1/agent/reload")
    click.echo("Configuration reload triggered")
    if waits := reply.headers.get("x-gemot-needs-restart"):
        click.echo(f"Needs a restart to take effect: {waits}")
