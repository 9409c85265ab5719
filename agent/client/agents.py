"""Several agents as one: each request goes to the one that answered last, else to the next."""

from __future__ import annotations

import http.client
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from gemot.agent.client.connection import (
    CannotConnect,
    ClientError,
    Connection,
    ConnectionBroke,
    Refused,
    Reply,
    Slow,
)

_Answer = TypeVar("_Answer")


class Agents:
    """Like a Connection, to whichever of these agents answers. Not for two threads at once: see `again`."""

    def __init__(
        self, addresses: str | Sequence[str] = "", *, token: str = "", slow: Slow | None = None
    ) -> None:
        """With no address, the agent on this host. `slow` is as of a Connection, and so is what is raised."""
        self.addresses = (addresses,) if isinstance(addresses, str) else tuple(addresses) or ("",)
        self._token = token
        self._slow = slow
        self._at = 0
        self._connection = Connection(self.addresses[0], token=token, slow=slow)

    def again(self) -> Agents:
        """The same agents, for another thread."""
        return Agents(self.addresses, token=self._token, slow=self._slow)

    def close(self) -> None:
        self._connection.close()

    def request(self, method: str, path: str, **asked: Any) -> Reply:
        """As Connection.request; where nobody listens, the next agent is asked at once.

        After a connection that broke the next *request* goes to the next agent: the broken one may be done.
        """
        return self._asked(lambda: self._connection.request(method, path, **asked))

    def stream(self, path: str, params: dict[str, Any], **asked: Any) -> http.client.HTTPResponse:
        """As Connection.stream; where nobody listens, the next agent is asked at once."""
        return self._asked(lambda: self._connection.stream(path, params, **asked))

    def turn(self) -> None:
        """The next request goes to the next agent."""
        if len(self.addresses) > 1:
            self.close()
            self._at = (self._at + 1) % len(self.addresses)
            self._connection = Connection(self.addresses[self._at], token=self._token, slow=self._slow)

    def _asked(self, ask: Callable[[], _Answer]) -> _Answer:
        for left in range(len(self.addresses) - 1, -1, -1):
            try:
                return ask()
            except CannotConnect:
                self.turn()
                if not left:
                    raise
            except ConnectionBroke:
                self.turn()
                raise
        raise AssertionError("there is at least one address")


def passes(error: ClientError) -> bool:
    """May the same request do better in a moment?"""
    if isinstance(error, Refused):
        return error.status >= 500 or error.status == 429
    return isinstance(error, CannotConnect | ConnectionBroke)
