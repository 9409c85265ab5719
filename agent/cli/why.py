"""`gemot why`: explains why a service or a template is as it is."""

from __future__ import annotations

import json

import click

from gemot.agent.cli.options import client_options
from gemot.agent.client.connection import Connection
from gemot.agent.client.path import escape


@click.group(name="why")
def command() -> None:
    """Explain why something is as it is. Without a leader, how old the explanation is comes with it.

    \b
    Why is web1 not in the answers?
      gemot why service web
    Why is this file not up to date?
      gemot why template /etc/haproxy/haproxy.cfg
    """


@command.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="As the API tells it (/v1/gemot/why/service/NAME).")
@client_options
def service(connection: Connection, name: str, as_json: bool) -> int:
    """Say for each instance of NAME whether it is in the answers, and what keeps it out.

    The exit code is 1 when there is no such service.
    """
    told = connection.request("GET", f"/v1/gemot/why/service/{escape(name)}").json()
    if as_json:
        click.echo(json.dumps(told, indent=4, ensure_ascii=False))
    else:
        click.echo("\n".join(told["Explanation"]))
    return 0 if told["Exists"] else 1


@command.command()
@click.argument("destination", default="")
@click.option("--json", "as_json", is_flag=True, help="As the API tells it (/v1/gemot/why/template).")
@client_options
def template(connection: Connection, destination: str, as_json: bool) -> int:
    """Say for each template of the agent whether its file is up to date, and what it waits for.

    DESTINATION is the file, or the template's source; without it every template is told.
    """
    told = connection.request("GET", "/v1/gemot/why/template", params={"destination": destination}).json()
    if as_json:
        click.echo(json.dumps(told, indent=4, ensure_ascii=False))
    elif told:
        click.echo("\n".join(one["Explanation"] for one in told))
    elif destination:
        click.echo(f"{destination} is neither destination nor source of a template of this agent", err=True)
    else:
        click.echo("This agent has no templates", err=True)
    return 0 if told or not destination else 1
