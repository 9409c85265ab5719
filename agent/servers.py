"""What the agent needs of the server tier, as one Protocol.

Two things fulfil it: on a server the tier in the same process, on a client agent an RPC to one of the
servers (with retries on another). Nothing above this line knows which.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from gemot.server.model.command import Command, IdempotencyKey
from gemot.server.model.coordinate import NodeCoordinate
from gemot.server.model.errors import GemotError
from gemot.server.model.query import Answer, Applied, Options, Query
from gemot.server.rpc.message import Call, Operate, Survey


class Subscription(Protocol):
    def cancel(self) -> None:
        """No call comes after this one. Cancelling twice is harmless."""


class Servers(Protocol):
    def apply(
        self, command: Command, *, token: str = "", key: IdempotencyKey | None = None
    ) -> asyncio.Future[Applied]:
        """Write. Done means durable on a majority and applied.

        Held while there is no leader, up to the RPC hold time (7 s). Fails with RuleFailed, Forbidden,
        BadRequest or Conflict (refused), Unavailable (surely not done), OutcomeUnknown (perhaps done).
        """

    def query(self, query: Query, options: Options) -> asyncio.Future[Answer]:
        """Read; a blocking read when `options.index` > 0. Cancelling the future takes the waiter away."""

    def subscribe(
        self,
        query: Query,
        on_answer: Callable[[Answer], None],
        on_bookmark: Callable[[Answer], None] | None = None,
        on_refusal: Callable[[GemotError], None] | None = None,
    ) -> Subscription:
        """Call `on_answer` with the present answer, then once for each change of it, until cancelled.

        Rapid changes may be folded into one; the last state is always told. It survives the loss of
        servers and leaders, and never tells an older index after a newer one, unless the servers turn out
        to be another cluster (see `Tier.on_new_cluster`). `on_bookmark` is called
        about once a second while a server with a leader is connected: an Answer with value None, the
        index up to which all was told, and the age of the leader's last contact. `on_refusal` is called with
        what a server refused the subscription with; it is asked again all the same.
        """

    def operate(self, call: Operate | Survey) -> asyncio.Future[Any]:
        """What only the servers themselves can do or tell: True, or Surveyed. Held as a write is.

        What an operator wants done bears no name: once sent and not answered it is OutcomeUnknown.
        """

    def locate(self, row: NodeCoordinate, *, token: str = "") -> asyncio.Future[bool]:
        """A node stands there. True once a server knows; the leader writes it within seconds, all being well.

        Fails with Unavailable at once without a server, OlderRelease where that knows no places.
        """

    def archive(self, call: Call) -> asyncio.Future[Any]:
        """One step of saving or restoring a snapshot (`archives.py`), asked of one server.

        The first step is held like a write while there is no server; the others belong to the server that
        answered it, and fail when the way to it breaks.
        """

    def leader(self) -> asyncio.Future[str]:
        """The leader's RPC address "ip:port", or "" when there is none."""

    def peers(self) -> asyncio.Future[list[str]]:
        """The RPC addresses of the voters, sorted."""

    def stats(self) -> dict[str, dict[str, str]]:
        """Figures for people, by part ("raft", "consul", ...): the `Stats` of `/v1/agent/self`."""
