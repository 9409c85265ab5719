"""`gemot leave`: leave the cluster on purpose."""

from __future__ import annotations

import click

from gemot.agent.cli.options import client_options
from gemot.agent.client.connection import Connection

LEAVE_WITHIN_S = 60.0


@click.command(name="leave")
@client_options
def command(connection: Connection) -> None:
    """Leave the cluster on purpose and stop the agent.

    The host and its services go out of the catalog at once. A plain stop or restart does not leave: the
    others then wait for the host to come back.
    """
    connection.request("PUT", "/v1/agent/leave", timeout_s=LEAVE_WITHIN_S)
    click.echo("Graceful leave complete")
