"""`gemot rtt`: how long a message between two hosts takes there and back, by their coordinates."""

from __future__ import annotations

from difflib import get_close_matches

import click
import msgspec

from gemot.agent.cli.options import client_options
from gemot.agent.client.connection import Connection, NotAnAgent, Refused
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


_SHOWN = 128
_LISTED = 10

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
    rtt_ms = 1000 * distance(*(_place(connection, places, name, wan) for name in (node, other)))
    kind = "WAN" if wan else "LAN"
    click.echo(f"Estimated {node} <-> {other} rtt: {rtt_ms:.3f} ms (using {kind} coordinates)")
    return 0


def _places(connection: Connection, wan: bool) -> dict[str, Coordinate]:
    try:
        body = connection.request("GET", f"/v1/coordinate/{'datacenters' if wan else 'nodes'}").body
    except Refused as error:
        if "support disabled" not in error.text:
            raise
        way = "its disable_coordinates is set. Take it out there, or name another agent with -http-addr"
        raise click.ClickException(f"{error.text} on the agent that was asked: {way}") from error
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


def _place(connection: Connection, places: dict[str, Coordinate], node: str, wan: bool) -> Coordinate:
    place = places.get(node.lower())
    if place is None:
        why = _why_not_wan(list(places), node) if wan else _why_not(connection, list(places), node)
        raise click.ClickException(f'Could not find a coordinate for node "{node[:_SHOWN]}": {why}')
    return place


def _why_not(connection: Connection, known: list[str], node: str) -> str:
    """Nodes of the catalog may have a place as well, and no agent."""
    names = {str(one["Name"]).lower() for one in connection.request("GET", "/v1/agent/members").json()}
    if node.lower() in names:
        return (
            "it has told none yet. An agent does half a minute after it has come, unless its "
            "disable_coordinates is set: try again then"
        )
    short = node.lower().rpartition(".")[0]
    if short in names:
        return f"no agent has that name. Give {short}, or -wan for servers as name.datacenter"
    return f"no agent has that name{_near(node, sorted({*names, *known}))}. Those there are: gemot members"


def _why_not_wan(known: list[str], node: str) -> str:
    """Servers alone have one; whether a name is a server's is not told here."""
    if not known:
        return "no server has told one yet. Each does half a minute after it has come: try again then"
    told = ", ".join(sorted(known)[:_LISTED])
    same = [name for name in known if name.rpartition(".")[0] == node.lower()]
    if same:
        return f"with -wan a server is given as name.datacenter (did you mean {same[0]}?)"
    return f"with -wan there are servers alone, as name.datacenter. Known are {told}"


def _near(node: str, names: list[str]) -> str:
    near = get_close_matches(node.lower()[:_SHOWN], names, n=1)
    return f" (did you mean {near[0]}?)" if near else ""
