"""Readiness, status and life signs to systemd: datagrams to $NOTIFY_SOCKET (sd_notify(3)), no library."""

from __future__ import annotations

import os
import socket
import time


class Notifier:
    """Tells the service manager how the agent is. Without one, every call does nothing.

    No call waits: a manager that does not read, so that its queue is full, must not stop the agent. What it
    did not take is told with a later call, the newest of each kind.
    """

    def __init__(self, path: str, watchdog_us: int = 0) -> None:
        # A name that begins with "@" is in the abstract namespace, spelled with a leading NUL.
        self._path = "\0" + path[1:] if path.startswith("@") else path
        self.watchdog_s = watchdog_us / 2_000_000
        """How often `alive` is to be called: twice within the manager's patience; 0 for never."""
        self._status = ""
        self._untold: dict[str, str] = {}
        """By the name of the variable, in the order in which they are to be told."""

    @classmethod
    def from_environment(cls) -> Notifier:
        """As the service manager asked; the watchdog only if it is meant for this very process."""
        path = os.environ.get("NOTIFY_SOCKET", "")
        mine = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        watchdog = os.environ.get("WATCHDOG_USEC", "0")
        return cls(path, int(watchdog) if mine and watchdog.isdecimal() else 0)

    def ready(self) -> None:
        self._tell("READY=1")

    def reloading(self) -> None:
        """A reload begins; `ready` ends it. The time lets the manager tell this one from earlier ones."""
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        self._tell("STOPPING=1")

    def status(self, text: str) -> None:
        """A line for `systemctl status`; told only when it changes."""
        if text != self._status:
            self._status = text
            self._tell(f"STATUS={text}".replace("\n", " "))
        else:
            self._tell_rest()

    def alive(self) -> None:
        self._tell("WATCHDOG=1")

    def _tell(self, text: str) -> None:
        if self._path:
            kind = text.partition("=")[0]
            self._untold.pop(kind, None)
            self._untold[kind] = text
            self._tell_rest()

    def _tell_rest(self) -> None:
        while self._untold:
            kind, text = next(iter(self._untold.items()))
            try:
                with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                    sock.setblocking(False)
                    sock.connect(self._path)
                    sock.send(text.encode())
            except BlockingIOError:
                return
            except OSError:
                pass  # there is nobody who could listen
            del self._untold[kind]
