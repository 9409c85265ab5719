"""A real web service to coordinate: web servers behind HTTP checks, and an nginx before them.

The upstream file of nginx is rendered by an agent's template, whose command reloads nginx. Programs are the
real ones; nginx is Debian's, from `.tools` (see fetch_tools.sh).
"""

from __future__ import annotations

import os
import pwd
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

SUPPORT = Path(__file__).parent
TOOLS = SUPPORT.parent.parent / ".tools" / "bin"

UPSTREAM = """\
# Written by gemot from the healthy instances of "web". Do not edit.
upstream web {
{% for each in service("web") -%}
{{"    "}}server {{ each.address }}:{{ each.port }};  # {{ each.node }}
{% else -%}
{{"    "}}server 127.0.0.1:1 down;  # nobody is healthy
{% endfor -%}
}
"""

NGINX = """\
daemon off;
{user}worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log notice;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/tmp;
    proxy_temp_path {folder}/tmp;
    fastcgi_temp_path {folder}/tmp;
    uwsgi_temp_path {folder}/tmp;
    scgi_temp_path {folder}/tmp;
    include {folder}/upstream.conf;
    server {{
        listen {address};
        location / {{ proxy_pass http://web; proxy_connect_timeout 1s; }}
    }}
}}
"""


def tool(name: str) -> str:
    """The program's path. A tool that is missing is an error, never a reason to skip."""
    path = TOOLS / name
    assert path.exists(), f"{path} is missing: make tools"
    return str(path)


class Child:
    """A process of its own session, so that Ctrl-C in a terminal reaches only whoever started it."""

    def __init__(self, command: list[str]) -> None:
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        assert not self.running, f"{self._command} runs already"
        self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, start_new_session=True)

    def stop(self) -> None:
        """SIGTERM, and wait until it is gone."""
        if self.running:
            self.signal(signal.SIGTERM)
            self.wait()

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def wait(self, timeout_s: float = 10.0) -> int:
        assert self._process is not None
        return self._process.wait(timeout_s)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid


class WebServer:
    """One instance of the service, on the host of its agent."""

    def __init__(self, *, name: str, host: str, port: int) -> None:
        self.name = name
        self.host = host
        self.port = port
        self.process = Child([sys.executable, str(SUPPORT / "demo_web.py"), name, host, str(port)])

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    def registration(self, **changes: Any) -> dict[str, Any]:
        """The service as its agent's configuration file has it."""
        check = {
            "id": "web-http",
            "name": "web answers",
            "http": f"http://{self.address}/health",
            "interval": "1s",
            "timeout": "10s",
        }
        return {"name": "web", "port": self.port, "checks": [check]} | changes


class Nginx:
    """nginx with its files below `folder`, passing on to what `upstream.conf` there says."""

    def __init__(self, *, folder: Path, host: str, port: int) -> None:
        self.folder = folder.resolve()
        self.address = f"{host}:{port}"
        self.upstream = self.folder / "upstream.conf"
        self.process = Child(self._command())

    def template(self, **changes: Any) -> dict[str, Any]:
        """What an agent needs to keep the upstream file rendered and nginx following it."""
        return {
            "source": str(self.folder / "upstream.conf.j2"),
            "destination": str(self.upstream),
            "command": [*self._command(), "-s", "reload"],
            "command_timeout": "10s",
        } | changes

    def write_files(self) -> None:
        """Its configuration, the template, and an upstream to begin with: nobody."""
        (self.folder / "tmp").mkdir(parents=True, exist_ok=True)
        owner = pwd.getpwuid(os.geteuid()).pw_name
        user = f"user {owner};\n" if os.geteuid() == 0 else ""
        text = NGINX.format(user=user, folder=self.folder, address=self.address)
        (self.folder / "nginx.conf").write_text(text)
        (self.folder / "upstream.conf.j2").write_text(UPSTREAM)
        if not self.upstream.exists():
            self.upstream.write_text("upstream web { server 127.0.0.1:1 down; }\n")

    def start(self) -> None:
        """Start it, and wait until it listens and can be told to reload."""
        self.process.start()
        deadline = time.monotonic() + 10
        while not (self.folder / "nginx.pid").exists() or not self._listens():
            assert self.process.running, f"nginx ended: {self.log()}"
            assert time.monotonic() < deadline, f"nginx does not listen: {self.log()}"
            time.sleep(0.02)

    @property
    def reloads(self) -> int:
        """How often it was told to read its files again, by its own log."""
        return self.log().count("signal 1 (SIGHUP) received")

    def log(self) -> str:
        path = self.folder / "error.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def page(self) -> str:
        """What a visitor gets."""
        with urllib.request.urlopen(f"http://{self.address}/", timeout=5) as reply:
            return str(reply.read().decode())

    def backends(self) -> list[str]:
        """The servers of the upstream file, host:port, those marked down left out."""
        lines = self.upstream.read_text().splitlines()
        words = [line.split() for line in lines if line.strip().startswith("server ")]
        return [each[1].rstrip(";") for each in words if "down;" not in each]

    def _listens(self) -> bool:
        host, _, port = self.address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), 1).close()
        except OSError:
            return False
        return True

    def _command(self) -> list[str]:
        return [tool("nginx"), "-p", str(self.folder), "-c", str(self.folder / "nginx.conf")]
