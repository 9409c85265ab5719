"""`gemot event`: tell every agent something, once."""

from __future__ import annotations

from typing import Any

import click

from gemot.agent.cli.given import read_data
from gemot.agent.cli.options import client_options
from gemot.agent.client.connection import Connection
from gemot.agent.client.path import escape


@click.command(name="event")
@click.argument("payload", default="")
@click.option("--name", default="", help="What has happened; needed.")
@click.option("--node", default="", help="Only for hosts whose name matches this regular expression.")
@click.option("--service", default="", help="Only for hosts that run a service whose name matches.")
@click.option("--tag", default="", help="Of those services, only instances with a tag that matches.")
@client_options
def command(connection: Connection, payload: str, **given: Any) -> int:
    """Tell every agent, or those that are meant, that something has happened.

    \b
    Have the hosts that run web fetch their new release:
      gemot event -name=deploy -service='^web$' 4711
    where each of them runs:
      gemot watch -type=event -name=deploy ./fetch.sh

    It is told by gossip: soon, to the agents that are there now, once each, in no promised order. Nothing
    tells whether all have heard; what must not be missed belongs into a key (gemot kv). With its payload and
    filters an event may have 512 bytes. Filters are RE2's and match anywhere: put names between ^ and $.
    """
    name = given.pop("name")
    if not name:
        raise click.ClickException("-name is missing: say what has happened")
    if given["tag"] and not given["service"]:
        raise click.ClickException("-tag chooses among the instances of a -service: give that too")
    filters = {field: text for field, text in given.items() if text}
    path = f"/v1/event/fire/{escape(name)}"
    reply = connection.request("PUT", path, params=filters, body=read_data(payload))
    click.echo(f"Event ID: {reply.json()['ID']}")
    return 0
