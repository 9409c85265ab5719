"""One line at the terminal when an answer takes longer than a second: what is waited for, how long at most.

Where standard error is no terminal nothing is said: what a script or a cron job collects is the answer alone.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

from gemot.agent.client.connection import ClientError, Connection

ASK_S = 1.0
"""What the second question may take: an agent that is well knows at once what it waits for."""

_OWN = ("/v1/agent/", "/v1/event/", "/v1/operator/keyring")
_OF_SERVERS = ("/v1/agent/force-leave/",)
"""Of what an agent does by itself, where no leader is waited for; and what is the servers' there."""


class Waiting:
    """Says it once: a command may make many requests."""

    def __init__(self, address: str, token: str) -> None:
        self._address = address
        self._token = token
        self._told = False

    def __call__(self, path: str, within_s: float, answered: threading.Event) -> None:
        """Called in a thread of its own, a second after the question."""
        if self._told:
            return
        self._told = True
        line = self._line(path, within_s)
        if not answered.is_set():
            # Past Python's own buffer: this thread may be here while the program ends.
            os.write(sys.stderr.fileno(), f"{line}\n".encode())

    def _line(self, path: str, within_s: float) -> str:
        connection = Connection(self._address, token=self._token, timeout_s=ASK_S)
        why, seconds = f"the agent at {connection.address} is at work on it", within_s
        try:
            about = connection.request("GET", "/v1/agent/self").json()
            waiting, hold_s = _waiting_of(about)
            if waiting and (path.startswith(_OF_SERVERS) or not path.startswith(_OWN)):
                why, seconds = waiting, min(within_s, hold_s)
        except ClientError:
            why = f"the agent at {connection.address} does not answer other questions either"
        finally:
            connection.close()
        return f"No answer yet, for {seconds:g} s at most: {why}"


def what_agent_waits_for(address: str, token: str) -> str:
    """What keeps it from the servers, in its words; "" if nothing does, or it does not say."""
    connection = Connection(address, token=token, timeout_s=ASK_S)
    try:
        return _waiting_of(connection.request("GET", "/v1/agent/self").json())[0]
    except ClientError:
        return ""
    finally:
        connection.close()


def on_terminal(address: str, token: str) -> Waiting | None:
    """None where nobody looks."""
    return Waiting(address, token) if sys.stderr is not None and sys.stderr.isatty() else None


def _waiting_of(about: Any) -> tuple[str, float]:
    """What keeps the agent from the servers, "" if nothing does; for how long it holds a question then."""
    try:
        waiting = str(about["Stats"]["tier"]["waiting"])
        return waiting[:1].lower() + waiting[1:], float(
            about["DebugConfig"]["performance"]["rpc_hold_timeout"]
        )
    except (KeyError, TypeError, ValueError):
        return "", 0.0
