"""The end of a client that takes nothing at all of its answer: it would hold that for ever."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import sys
import termios
from typing import Any

log = logging.getLogger(__name__)


class Stalled:
    """Looks at a full connection each `patience_s`, and aborts it where nothing was taken since the last
    look. One that takes little is left alone. `stop` it when there is room again."""

    def __init__(self, transport: Any, patience_s: float) -> None:
        self._transport = transport
        self._patience_s = patience_s
        self._arm()

    def stop(self) -> None:
        self._timer.cancel()

    def _arm(self) -> None:
        self._before = _untaken(self._transport)
        self._timer = asyncio.get_running_loop().call_later(self._patience_s, self._look)

    def _look(self) -> None:
        if _untaken(self._transport) < self._before:
            self._arm()
        else:
            log.debug("Connection cut: nothing of an answer was taken for %g s", self._patience_s)
            self._transport.abort()


def _untaken(transport: Any) -> int:
    """Bytes here and in the socket: that asks for more only once a good part of what it has is taken."""
    size: int = transport.get_write_buffer_size()
    with contextlib.suppress(OSError, ValueError):
        queued = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
        size += int.from_bytes(queued, sys.byteorder)
    return size
