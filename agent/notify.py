"""Readiness, status and life signs to systemd: datagrams to $NOTIFY_SOCKET (sd_notify(3)), no library."""

from __future__ import annotations

import os
import socket
import time


class Notifier:
    """Tells the service manager how the agent is. Without one, every call does nothing."""

    def __init__(self, path: str, watchdog_us: int = 0) -> None:
        # A name that begins with "@" is in the abstract namespace, spelled with a leading NUL.
        self._path = "\0" + path[1:] if path.startswith("@") else path
        self.watchdog_s = watchdog_us / 2_000_000
        """How often `alive` is to be called: twice within the manager's patience; 0 for never."""
        self._status = ""

    @classmethod
    def from_environment(cls) -> Notifier:
        """As the service manager asked; the watchdog only if it is meant for this very process."""
        path = os.environ.get("NOTIFY_SOCKET", "")
        mine = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        watchdog = os.environ.get("WATCHDOG_USEC", "0")
        return cls(path, int(watchdog) if mine and watchdog.isdecimal() else 0)

    def ready(self) -> None:
        self._send("READY=1")

    def reloading(self) -> None:
        """A reload begins; `ready` ends it. The time lets the manager tell this one from earlier ones."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """A line for `systemctl status`; sent only when it changes."""
        if text != self._status:
            self._status = text
            self._send(f"STATUS={text}".replace("\n", " "))

    def alive(self) -> None:
        self._send("WATCHDOG=1")

    def _send(self, text: str) -> None:
        if not self._path:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.connect(self._path)
                sock.sendall(text.encode())
        except OSError:
            # A manager that does not listen must not stop the agent.
            return
