"""`gemot catalog`: datacenters, nodes and services, as the servers know them."""

from __future__ import annotations

from typing import Any

import click

from gemot.agent.cli.options import client_options, columns, read_options
from gemot.agent.client.connection import Connection
from gemot.agent.client.path import escape


@click.group(name="catalog")
def command() -> None:
    """List datacenters, nodes and services, healthy or not.

    \b
    Where does web run, and what runs on db1:
      gemot catalog nodes -service=web
      gemot catalog services -node=db1

    Whether they are healthy tells `gemot why service NAME`.
    """


@command.command()
@client_options
def datacenters(connection: Connection) -> None:
    """List the datacenters, one a line."""
    for name in connection.request("GET", "/v1/catalog/datacenters").json():
        click.echo(name)


@command.command()
@click.option("--service", default="", help="Only nodes that run this service.")
@click.option("--node-meta", multiple=True, help="Only nodes with this pair, key=value; may be repeated.")
@click.option("--near", default="", help="The nearest to this node first; _agent is the agent's own.")
@click.option("--detailed", is_flag=True, help="Tagged addresses and meta too.")
@client_options
@read_options
def nodes(
    connection: Connection,
    read: dict[str, Any],
    service: str,
    node_meta: tuple[str, ...],
    near: str,
    detailed: bool,
) -> int:
    """List the nodes, by name.

    \b
    Those in rack 7, and those that run web, the nearest to this host first:
      gemot catalog nodes -node-meta=rack=7
      gemot catalog nodes -service=web -near=_agent
    """
    path = f"/v1/catalog/service/{escape(service)}" if service else "/v1/catalog/nodes"
    params = {"node-meta": [_pair(text) for text in node_meta], "near": near or None} | read
    found = {one["Node"]: one for one in connection.request("GET", path, params=params).json()}
    if not found:
        click.echo("No nodes match the given query", err=True)
        return 0
    rows = [["Node", "ID", "Address", "DC", *(("TaggedAddresses", "Meta") if detailed else ())]]
    for name in found if near else sorted(found):
        one = found[name]
        # A node's id is long and only its begin is needed to tell nodes apart.
        row = [name, one["ID"] if detailed else one["ID"][:8], one["Address"], one["Datacenter"]]
        if detailed:
            row += [_pairs(one["TaggedAddresses"]), _pairs(one["NodeMeta"] if service else one["Meta"])]
        rows.append([cell or "-" for cell in row])
    click.echo(columns(rows))
    return 0


@command.command()
@click.option("--node", default="", help="Only services on this node.")
@click.option("--node-meta", multiple=True, help="Only services on nodes with this pair, key=value.")
@click.option("--tags", is_flag=True, help="The tags of each service too.")
@client_options
@read_options
def services(
    connection: Connection, read: dict[str, Any], node: str, node_meta: tuple[str, ...], tags: bool
) -> int:
    """List the services, one a line."""
    found = _on_node(connection, node, read) if node else _everywhere(connection, node_meta, read)
    if not found:
        click.echo("No services match the given query", err=True)
        return 0
    if tags:
        click.echo(columns([[name, ",".join(sorted(found[name]))] for name in sorted(found)]))
    else:
        click.echo("\n".join(sorted(found)))
    return 0


def _everywhere(
    connection: Connection, node_meta: tuple[str, ...], read: dict[str, Any]
) -> dict[str, list[str]]:
    params = {"node-meta": [_pair(text) for text in node_meta]} | read
    found: dict[str, list[str]] = connection.request("GET", "/v1/catalog/services", params=params).json()
    return found


def _on_node(connection: Connection, node: str, read: dict[str, Any]) -> dict[str, list[str]]:
    detail = connection.request("GET", f"/v1/catalog/node/{escape(node)}", params=read).json()
    if detail is None:
        raise click.ClickException(f'no node is called "{node}": gemot catalog nodes lists them')
    found: dict[str, set[str]] = {}
    for one in detail["Services"].values():
        found.setdefault(one["Service"], set()).update(one["Tags"] or ())
    return {name: sorted(tags) for name, tags in found.items()}


def _pair(text: str) -> str:
    """`key=value` as the API wants it, `key:value`; that form is taken too."""
    key, mark, value = text.partition("=")
    if not mark:
        key, mark, value = text.partition(":")
    if not mark or not key:
        raise click.ClickException(f'-node-meta: must be key=value, got "{text}"')
    return f"{key}:{value}"


def _pairs(found: dict[str, str] | None) -> str:
    return ",".join(f"{name}={value}" for name, value in sorted((found or {}).items()))
