"""The keys of gossip: `/v1/operator/keyring`. Source: Consul, operator API.

There is one pool, so one row. What the keys are is shown here, as Consul shows it, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol

import msgspec

from gemot.agent.gossip.rotation import Step
from gemot.agent.http import parse, render
from gemot.agent.http.body import decode_body
from gemot.agent.http.message import Request, Response, Route
from gemot.server.model.errors import BadRequest, RuleFailed

MAX_BODY_BYTES = 4 << 10
MOST_RELAYS = 5
DONE = "X-Gemot-Done"
"""Ours: what was done, where Consul's body is empty."""

STEPS: dict[str, Step] = {"POST": "install", "PUT": "use", "DELETE": "remove"}


class Listed(Protocol):
    """Counts by key, of `members` that are here; `messages` by name, of those whose ring is not known."""

    @property
    def keys(self) -> dict[str, int]: ...

    @property
    def primaries(self) -> dict[str, int]: ...

    @property
    def members(self) -> int: ...

    @property
    def messages(self) -> dict[str, str]: ...


class Keyrings(Protocol):
    def show(self) -> Awaitable[Listed]: ...

    def change(self, step: Step, text: str) -> Awaitable[str]: ...


class KeyBody(msgspec.Struct, rename="pascal"):
    key: str = ""


def routes(*, keyrings: Keyrings, datacenter: str) -> list[Route]:
    family = _Keyring(keyrings=keyrings, datacenter=datacenter)
    return [
        Route(
            "/v1/operator/keyring",
            {"GET": family.show, **{method: family.change for method in STEPS}},
            {"GET": "keyring:read", **{method: "keyring:write" for method in STEPS}},
            max_body=MAX_BODY_BYTES,
        )
    ]


class _Keyring:
    def __init__(self, *, keyrings: Keyrings, datacenter: str) -> None:
        self._keyrings = keyrings
        self._datacenter = datacenter

    async def show(self, request: Request) -> Response:
        self._check(request)
        parse.boolean(request, "local-only")  # it keeps Consul from asking over the WAN, where nobody is here
        found = await self._keyrings.show()
        row = {
            "WAN": False,
            "Datacenter": self._datacenter,
            "Segment": "",
            "Keys": found.keys,
            "PrimaryKeys": found.primaries,
            "NumNodes": found.members,
        }
        if found.messages:
            row["Messages"] = found.messages
        return render.json_response(request, [row])

    async def change(self, request: Request) -> Response:
        self._check(request)
        if not request.body:
            raise BadRequest('the body must be {"Key": "..."}, the key in base64')
        given = decode_body(request.body, KeyBody)
        if not given.key:
            raise BadRequest("Key: must be given, in base64")
        try:
            told = await self._keyrings.change(STEPS[request.method], given.key)
        except BadRequest as error:  # Consul finds it out on the servers, and answers 500
            raise RuleFailed(error.message) from error
        return Response(headers={DONE: render.header_text(told)} if told else {})

    def _check(self, request: Request) -> None:
        """Consul relays answers through so many others; here each member is asked itself, over TCP."""
        parse.check_scope(request, datacenter=self._datacenter)
        text = parse.first(request, "relay-factor")
        if text and not (text.isascii() and text.isdigit() and len(text) == 1 and int(text) <= MOST_RELAYS):
            raise BadRequest(f"relay-factor must be a number from 0 to {MOST_RELAYS}, got {text[:20]!r}")
