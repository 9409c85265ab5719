"""What a service manager does for a unit, for tests: starts it by hand, hears its notifications, ends it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from queue import Empty, SimpleQueue

from support.as_unit import read_unit

PATIENCE_S = 30.0
"""Bound of every wait: only a hang reaches it."""

WATCHDOG_US = 1_000_000
_AS_UNIT = Path(__file__).with_name("as_unit.py")
_CREDENTIALS = struct.Struct("3i")


class Inbox:
    """$NOTIFY_SOCKET: keeps what was sent and who sent it. Under /run, as systemd's own.

    It is read all the time, by a thread, as systemd does: a socket takes no more than a few unread.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="gemot-test-", dir="/run")
        os.chmod(self._folder.name, 0o755)
        self.path = f"{self._folder.name}/notify"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind(self.path)
        os.chmod(self.path, 0o777)
        self._messages: SimpleQueue[tuple[list[str], set[int]]] = SimpleQueue()
        self._reading = threading.Thread(target=self._read, name="inbox", daemon=True)
        self._reading.start()
        self.heard: list[str] = []
        self.senders: set[int] = set()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RD)
        self._reading.join()
        self._socket.close()
        self._folder.cleanup()

    def clear(self) -> None:
        """Forget all that was sent so far."""
        while self.listen(0):
            pass
        self.heard.clear()
        self.senders.clear()

    def listen(self, timeout_s: float) -> bool:
        """Take one message, if one comes in time."""
        try:
            lines, senders = self._messages.get(timeout=timeout_s)
        except Empty:
            return False
        self.heard += lines
        self.senders |= senders
        return True

    def _read(self) -> None:
        while True:
            data, ancillary, _, _ = self._socket.recvmsg(4096, socket.CMSG_SPACE(_CREDENTIALS.size))
            if not data:
                return
            senders = {_CREDENTIALS.unpack(content)[0] for _, _, content in ancillary}
            self._messages.put((data.decode().splitlines(), senders))


class Service:
    """A unit's process from `start` to `stop`."""

    def __init__(self, unit: Path, log: Path, **environ: str) -> None:
        self._unit = unit
        self._log = log
        self._environ = environ
        self.inbox = Inbox()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Until it is ready."""
        self.launch()
        self.wait_for("READY=1")

    def launch(self) -> None:
        self.inbox.clear()
        notify = {"NOTIFY_SOCKET": self.inbox.path, "WATCHDOG_USEC": str(WATCHDOG_US)}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command("ExecStart", 0, notify | self._environ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def reload(self) -> subprocess.CompletedProcess[str]:
        """As `systemctl reload`: the first command judges; the second, `kill -HUP`, only runs after it."""
        judged = subprocess.run(
            self._command("ExecReload", 0, self._environ),
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        if judged.returncode == 0:
            os.kill(self.pid, signal.SIGHUP)
        return judged

    def wait_for(self, begin: str) -> str:
        """The next notification not yet taken that begins so; what comes before it is passed over."""
        end = time.monotonic() + PATIENCE_S
        while True:
            while self.inbox.heard:
                line = self.inbox.heard.pop(0)
                if line.startswith(begin):
                    return line
            alive = self._process is not None and self._process.poll() is None
            left_s = end - time.monotonic()
            if not self.inbox.listen(min(1.0, max(left_s, 0))) and (left_s <= 0 or not alive):
                raise AssertionError(f"{begin} was not sent; the log:\n{self.log()}")

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)

    def wait(self, timeout_s: float = PATIENCE_S) -> int:
        assert self._process is not None
        return self._process.wait(timeout_s)

    def stop(self) -> None:
        """End it in any case."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(PATIENCE_S)
        self.inbox.close()
        for name in read_unit(self._unit).get("RuntimeDirectory", []):
            shutil.rmtree(Path("/run", name), ignore_errors=True)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def _command(self, key: str, index: int, environ: dict[str, str]) -> list[str]:
        pairs = [f"{name}={value}" for name, value in environ.items()]
        return ["/usr/bin/python3", "-I", str(_AS_UNIT), str(self._unit), key, str(index), *pairs]
