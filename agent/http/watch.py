"""Push watches: `/v1/gemot/watch`, what happens to one thing as Server-Sent Events. Ours; Consul has none.

A stream begins with a `snapshot`, or goes on behind the place that `Last-Event-ID` (or `?after=`) names, on
whichever agent. Then come `change` events, each with all that one index brought, and `bookmark`s. Of keys
every change is told; of all else how it is, changes that follow each other at once perhaps as one. What is
gone is never passed over: `compacted` says why, and a snapshot follows.
"""

from __future__ import annotations

import secrets
from collections.abc import Hashable
from functools import partial
from typing import Any

from gemot.agent.feeds.feed import Feed, Source
from gemot.agent.feeds.feeds import Feeds, SourceOf
from gemot.agent.feeds.fired import OTHER_AGENT, Events, FiredEvents
from gemot.agent.feeds.keys import Keys
from gemot.agent.feeds.rows import Items, Rows, Views
from gemot.agent.feeds.wire import Place, key_on, read_place
from gemot.agent.gossip.events import Fired
from gemot.agent.http import event, parse, render
from gemot.agent.http.message import Request, Response, Route
from gemot.agent.servers import Servers
from gemot.server.model.catalog import HealthService, Instance, Node, NodeDetail, NodeInfo, Nodes, Services
from gemot.server.model.errors import BadRequest
from gemot.server.model.health import Check, HealthChecks, HealthState
from gemot.server.model.query import Query
from gemot.server.model.session import LivingSession, SessionInfo

KINDS = ("key", "prefix", "service", "checks", "node", "session", "nodes", "services", "event")
STATES = ("any", "passing", "warning", "critical")
_TAKEN = frozenset((*KINDS, "after", "token", "dc", "datacenter", "ns", "partition", "peer", "pretty"))
_OF_SERVICES = frozenset(("passing", "tag"))
_INSTEAD = {
    "filter": "leave it out and choose among the events",
    "near": "leave it out: events come in the order of what happens",
    "index": "go on from a place by Last-Event-ID, or ?after=",
    "wait": "leave it out: a watch lasts until its reader goes",
}
"""What to do where a parameter of blocking queries is given."""

_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


def routes(*, feeds: Feeds, servers: Servers, views: Views, events: Events, datacenter: str) -> list[Route]:
    family = _Watch(feeds=feeds, servers=servers, views=views, events=events, datacenter=datacenter)
    # Not yet true of all: it is what `key` and `prefix` need. The other kinds need what their endpoints do
    # (service:read, node:read, session:read, event:read), and views are watched without the caller's token.
    # Access control has to ask by kind, and of each follower.
    return [Route("/v1/gemot/watch", {"GET": family.watch}, {"GET": "key:read"})]


class _Watch:
    def __init__(
        self, *, feeds: Feeds, servers: Servers, views: Views, events: Events, datacenter: str
    ) -> None:
        self._feeds = feeds
        self._servers = servers
        self._views = views
        self._events = events
        self._datacenter = datacenter

    async def watch(self, request: Request) -> Response:
        parse.check_scope(request, datacenter=self._datacenter)
        kind, name = _what(request)
        _check_taken(request, kind)
        place = _place(request)
        if kind in ("key", "prefix"):
            key = parse.check_key(name.encode("utf-8", "surrogateescape"))
            # The servers are asked with the token, and what one may read another may not: each has a feed of
            # its own. Made-up tokens make copies, then; what all feeds may hold together bounds them.
            what: Hashable = (kind, key, request.token)
            make: SourceOf = partial(
                Keys, servers=self._servers, key=key, prefix=kind == "prefix", token=request.token
            )
            pieces = await self._feeds.follow(what, make, place)
        elif kind == "event":
            make = partial(FiredEvents, events=self._events, name=name, epoch=_THIS_START, shown=_fired)
            pieces = await self._feeds.follow((kind, name), make, place, other_epoch=OTHER_AGENT)
        else:
            query, items = _rows(request, kind, name)
            make = partial(_rows_of, views=self._views, query=query, items=items)
            what = (kind, render.encode(query), request.token)
            pieces = await self._feeds.follow(what, make, place)
        return Response(body=pieces, content_type="text/event-stream", headers=_HEADERS)


_THIS_START = 1 + secrets.randbits(40)
"""The epoch of places among user events: no two starts of agents have the same."""


def _rows_of(feed: Feed, *, views: Views, query: Query, items: Items) -> Source:
    return Rows(feed, views=views, query=query, items=items)


def _what(request: Request) -> tuple[str, str]:
    """The one thing that is to be watched. Raises BadRequest for none, or several."""
    asked = [(kind, value) for kind, value in request.query if kind in KINDS]
    if len(asked) != 1:
        raise BadRequest(f"give exactly one of {', '.join(KINDS)} to be watched")
    kind, name = asked[0]
    if not name and kind not in ("prefix", "nodes", "services", "event", "checks"):
        raise BadRequest(f"{kind}: name what is to be watched, as in ?{kind}=web")
    if name and kind in ("nodes", "services"):
        raise BadRequest(
            f"{kind}: takes no value, all are watched: give ?{kind}, or name one by ?{kind[:-1]}="
        )
    return kind, name


def _check_taken(request: Request, kind: str) -> None:
    """Refuse what would have no effect: a reader that asked for less must not take it for granted."""
    for name, _ in request.query:
        if name in _OF_SERVICES and kind != "service":
            raise BadRequest(f"{name}: goes with ?service= alone: leave it out of a watch of {kind}")
        if name not in _TAKEN and name not in _OF_SERVICES:
            instead = _INSTEAD.get(name, "leave it out")
            raise BadRequest(f'the parameter "{name[:64]}" has no meaning for a watch: {instead}')


def _place(request: Request) -> Place | None:
    text = request.headers.get("last-event-id") or parse.first(request, "after") or ""
    if not text:
        return None
    if (place := read_place(text.strip())) is None:
        raise BadRequest(f'Last-Event-ID: "{text[:64]}" is not the id of an event, like 0-1234')
    return place


def _rows(request: Request, kind: str, name: str) -> tuple[Query, Items]:
    if kind == "service":
        passing, tags = parse.boolean(request, "passing"), parse.every(request, "tag")
        return HealthService(name, tags, passing=passing), _instances
    if kind == "checks":
        if name in ("", *STATES):
            return HealthState(name or "any"), _checks
        return HealthChecks(name), _checks
    if kind == "node":
        return NodeInfo(name), _node
    if kind == "session":
        return SessionInfo(parse.session_id(name)), _session
    return (Nodes(), _nodes) if kind == "nodes" else (Services(), _services)


# -- answers as items ------------------------------------------------------------------------------


def _instances(value: list[Instance]) -> dict[bytes, bytes]:
    return {key_on(each.node.node, each.service.id).encode(): _json(render.instance(each)) for each in value}


def _checks(value: list[Check]) -> dict[bytes, bytes]:
    return {key_on(each.node, each.check_id).encode(): _json(render.check(each)) for each in value}


def _node(value: NodeDetail | None) -> dict[bytes, bytes]:
    if value is None:
        return {}
    services = {b"service/" + each.id.encode(): _json(render.service(each)) for each in value.services}
    checks = {b"check/" + each.check_id.encode(): _json(render.check(each)) for each in value.checks}
    return {b"node": _json(render.node(value.node)), **services, **checks}


def _session(value: LivingSession | None) -> dict[bytes, bytes]:
    return {} if value is None else {value.session.id.encode(): _json(render.session(value.session))}


def _nodes(value: list[Node]) -> dict[bytes, bytes]:
    return {each.node.encode(): _json(render.node(each)) for each in value}


def _services(value: dict[str, list[str]]) -> dict[bytes, bytes]:
    return {name.encode(): _json(tags) for name, tags in value.items()}


def _fired(fired: Fired) -> bytes:
    return _json(event.shown(fired.event, fired.time))


def _json(value: Any) -> bytes:
    return render.encode(value)
