"""`gemot rtt`: how long a message between two hosts takes there and back, by their coordinates."""

from __future__ import annotations

import click
import msgspec

from gemot.agent.cli.options import client_options
from gemot.agent.client.connection import Connection, NotAnAgent
from gemot.server.model.coordinate import Coordinate, distance


class _Coord(msgspec.Struct, rename="pascal"):
    vec: tuple[float, ...]
    error: float
    adjustment: float
    height: float


class _Row(msgspec.Struct, rename="pascal"):
    node: str
    coord: _Coord


class _Datacenter(msgspec.Struct, rename="pascal"):
    datacenter: str
    coordinates: list[_Row]


_rows = msgspec.json.Decoder(list[_Row]).decode
_datacenters = msgspec.json.Decoder(list[_Datacenter]).decode


@click.command(name="rtt")
@click.argument("node")
@click.argument("other", default="")
@click.option("--wan", is_flag=True, help="Servers, each as name.datacenter: srv1.dc1.")
@client_options
def command(connection: Connection, node: str, other: str, wan: bool) -> int:
    """Estimate the round trip between NODE and OTHER, or the agent that is asked.

    \b
    How far db1 is from here, and from web1:
      gemot rtt db1
      gemot rtt db1 web1

    Agents measure some others all the time and find a place for themselves that fits (network coordinates);
    the estimate is the distance of two places, and nothing is sent to either. Half a minute after a host has
    come its place is known, and the longer it runs the better.
    """
    if not other:
        told = connection.request("GET", "/v1/agent/self").json()["Config"]
        other = f"{told['NodeName']}.{told['Datacenter']}" if wan else told["NodeName"]
    places = _places(connection, wan)
    rtt_ms = 1000 * distance(_place(places, node), _place(places, other))
    kind = "WAN" if wan else "LAN"
    click.echo(f"Estimated {node} <-> {other} rtt: {rtt_ms:.3f} ms (using {kind} coordinates)")
    return 0


def _places(connection: Connection, wan: bool) -> dict[str, Coordinate]:
    body = connection.request("GET", f"/v1/coordinate/{'datacenters' if wan else 'nodes'}").body
    try:
        if not wan:
            return {row.node.lower(): _coordinate(row.coord) for row in _rows(body)}
        return {
            f"{row.node}.{dc.datacenter}".lower(): _coordinate(row.coord)
            for dc in _datacenters(body)
            for row in dc.coordinates
        }
    except (msgspec.DecodeError, ValueError) as error:
        raise NotAnAgent(f"the answer is no list of coordinates: {error}") from error


def _coordinate(told: _Coord) -> Coordinate:
    return Coordinate(told.vec, told.error, told.adjustment, told.height)


def _place(places: dict[str, Coordinate], node: str) -> Coordinate:
    place = places.get(node.lower())
    if place is None:
        known = ", ".join(sorted(places)[:10]) or "no one's"
        raise click.ClickException(f'Could not find a coordinate for node "{node}"; known are {known}')
    return place
