"""`gemot operator`: looking after the servers."""

from __future__ import annotations

import click

from gemot.agent.cli import recover


@click.group(name="operator")
def command() -> None:
    """Look after the servers.

    \b
    What does each server that is left hold, when most are lost for good?
      gemot operator recover -show /var/lib/gemot
    """


command.add_command(recover.command)
