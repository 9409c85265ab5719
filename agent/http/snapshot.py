"""The snapshot family: `/v1/snapshot`, the whole state out and in, as a stream. Source: Consul, snapshot API.

Ours: `?epoch=N` on a restore, and what it came to in headers.
"""

from __future__ import annotations

from gemot.agent import archives
from gemot.agent.http import parse
from gemot.agent.http.message import Request, Response, Route
from gemot.agent.http.render import EPOCH
from gemot.agent.servers import Servers
from gemot.server.model.errors import BadRequest, RuleFailed
from gemot.server.model.restore import MOST_EPOCH

MAX_ARCHIVE_BYTES = 64 << 30
MISSING = "X-Gemot-Not-Staged"
"""Servers that have not the snapshot yet and fetch it once they are back."""

INDEX = "X-Gemot-Index"


def routes(*, servers: Servers, datacenter: str) -> list[Route]:
    family = _Snapshot(servers=servers, datacenter=datacenter)
    return [
        Route(
            path="/v1/snapshot",
            handlers={"GET": family.save, "PUT": family.restore},
            permission={"GET": "operator:read", "PUT": "operator:write"},
            max_body=MAX_ARCHIVE_BYTES,
            streamed=True,
        )
    ]


class _Snapshot:
    def __init__(self, *, servers: Servers, datacenter: str) -> None:
        self._servers = servers
        self._datacenter = datacenter

    async def save(self, request: Request) -> Response:
        parse.check_scope(request, datacenter=self._datacenter)
        stale = parse.flag(request, "stale")
        saved = await archives.save(self._servers.archive, stale=stale, token=request.token)
        headers = {
            "X-Consul-Index": str(saved.index),
            "X-Consul-Knownleader": "true" if saved.known_leader else "false",
            "X-Consul-Lastcontact": str(saved.last_contact_ms),
            EPOCH: str(saved.epoch),
        }
        return Response(body=saved.pieces, content_type="application/x-gzip", headers=headers)

    async def restore(self, request: Request) -> Response:
        parse.check_scope(request, datacenter=self._datacenter)
        if parse.flag(request, "stale"):
            raise RuleFailed("a restore is never stale: leave ?stale out")
        if request.stream is None:
            raise BadRequest("the snapshot is missing: it is the request's body")
        epoch = _epoch(parse.first(request, "epoch"))
        done = await archives.restore(self._servers.archive, request.stream, epoch=epoch, token=request.token)
        headers = {INDEX: str(done.index), EPOCH: str(done.epoch)}
        if done.missing:
            headers[MISSING] = ", ".join(done.missing)
        return Response(headers=headers)


def _epoch(text: str | None) -> int:
    if not text:
        return 0
    if not text.isascii() or not text.isdigit() or len(text) > 10 or not 0 < int(text) <= MOST_EPOCH:
        raise BadRequest(f"epoch must be a whole number from 1 to {MOST_EPOCH}")
    return int(text)
