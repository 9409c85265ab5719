"""Who belongs to the cluster: `/v1/agent/join/` and `/v1/agent/force-leave/`. Source: Consul, agent API."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol

from gemot.agent.http import parse, render
from gemot.agent.http.message import Request, Response, Route
from gemot.server.model.errors import BadRequest, RuleFailed

NO_WAN = "there is no WAN pool here, one datacenter alone: leave ?wan out"
DONE = "X-Gemot-Done"


class Join(Protocol):
    def __call__(self, address: str) -> Awaitable[int]:
        """To how many addresses that led. Raises BadRequest for what is no address, Unavailable for none."""


class ForceLeave(Protocol):
    def __call__(self, name: str, *, prune: bool) -> Awaitable[str]:
        """What was done."""


def routes(*, join: Join, force_leave: ForceLeave) -> list[Route]:
    family = _Joining(join=join, force_leave=force_leave)
    return [
        Route("/v1/agent/join/", {"PUT": family.join}, {"PUT": "agent:write"}),
        Route("/v1/agent/force-leave/", {"PUT": family.force_leave}, {"PUT": "operator:write"}),
    ]


class _Joining:
    def __init__(self, *, join: Join, force_leave: ForceLeave) -> None:
        self._join = join
        self._force_leave = force_leave

    async def join(self, request: Request) -> Response:
        """Nothing in the body, as Consul has it; to how many addresses it led in a header of ours."""
        _refuse_wan(request)
        address = parse.name_in(request, "Missing address to join")
        try:
            count = await self._join(address)
        except BadRequest as error:  # Consul finds that out by trying, and answers 500
            raise RuleFailed(error.message) from error
        return Response(headers={DONE: f"contacted {count}"})

    async def force_leave(self, request: Request) -> Response:
        _refuse_wan(request)
        name = parse.name_in(request, "Missing node name")
        told = await self._force_leave(name, prune=parse.flag(request, "prune"))
        return Response(headers={DONE: render.header_text(told)})


def _refuse_wan(request: Request) -> None:
    if parse.boolean(request, "wan"):
        raise RuleFailed(NO_WAN)
