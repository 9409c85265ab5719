"""`gemot leave`: leave the cluster on purpose."""

from __future__ import annotations

import click

from gemot.agent.cli.options import client_options
from gemot.agent.client.connection import Connection, Refused

LEAVE_WITHIN_S = 60.0


@click.command(name="leave")
@client_options
def command(connection: Connection) -> None:
    """Leave the cluster on purpose and stop the agent.

    The host and its services go out of the catalog at once, and the agent forgets who was in the cluster,
    unless `rejoin_after_leave` is set: started again, it joins whom `retry_join` names. A plain stop or
    restart does not leave: the others then wait for the host to come back, and it finds them by itself.
    """
    try:
        connection.request("PUT", "/v1/agent/leave", timeout_s=LEAVE_WITHIN_S)
    except Refused as error:
        if not error.undone:
            raise
        raise click.ClickException(
            f"{error.text}. Nothing was changed, and this agent goes on; to stop it without leaving, end its "
            "process (SIGTERM)"
        ) from error
    click.echo("Graceful leave complete")
