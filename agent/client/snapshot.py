"""Snapshots through an agent, to and from files, piece by piece."""

from __future__ import annotations

import http.client
from typing import IO

import msgspec

from gemot.agent.client.connection import Connection, ConnectionBroke, NotAnAgent, why

PIECE_BYTES = 1 << 20
RESTORE_S = 1_800.0
"""Until a restore is answered: the state is sent to every server, checked, and put in place."""


class Restored(msgspec.Struct, frozen=True):
    """What the agent tells of a restore. `missing` are servers that fetch the snapshot once they are back."""

    index: int
    epoch: int
    missing: str


class Snapshot:
    """Raises ClientError."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def save(self, to: IO[bytes], *, stale: bool = False) -> int:
        """Write the archive to a file, and tell its size."""
        response = self._connection.stream("/v1/snapshot", {"stale": stale})
        size = 0
        with response:
            try:
                while piece := response.read(PIECE_BYTES):
                    to.write(piece)
                    size += len(piece)
            except (http.client.HTTPException, OSError) as error:
                raise ConnectionBroke(f"the snapshot broke off after {size} bytes: {why(error)}") from error
        if not size:
            raise NotAnAgent("the agent sent an empty snapshot")
        return size

    def restore(self, archive: IO[bytes], *, size: int, epoch: int = 0) -> Restored:
        """Send the archive, and wait until it is the state."""
        reply = self._connection.request(
            "PUT",
            "/v1/snapshot",
            params={"epoch": epoch or None},
            body=archive,
            headers={"Content-Length": str(size), "Content-Type": "application/x-gzip"},
            timeout_s=RESTORE_S,
        )
        index, told = reply.headers.get("x-gemot-index", "0"), reply.headers.get("x-gemot-epoch", "0")
        return Restored(int(index), int(told), reply.headers.get("x-gemot-not-staged", ""))
