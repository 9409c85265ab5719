"""What a server takes: memory with keys loaded, time to serve again after a restart; and an idle agent."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import psutil
from load import load_keys
from peers import Gemot, Peer, readable, resident_bytes
from support.cluster import wait_for

MEGABYTE = 1e6
IDLE_CHECKS = 20
CHECK_EVERY = "10s"


class Footprint(msgspec.Struct, frozen=True):
    """One server alone: resident megabytes empty, loaded, restarted; seconds of loading and of restarting."""

    empty_mb: float
    loaded_mb: float
    restarted_mb: float
    load_s: float
    restart_s: float


class Idle(msgspec.Struct, frozen=True):
    """An agent without work but its checks: resident megabytes, and processor use in per cent of one core."""

    resident_mb: float
    processor_percent: float


def measure(make: Callable[[], Peer], keys: int) -> Footprint:
    """Load one server, stop it, start it again until a linearizable read succeeds."""
    peer = make()
    peer.start()
    try:
        empty = resident_bytes(peer.pids()[0])
        began = time.perf_counter()
        load_keys(peer.name, peer.leader, keys)
        load_s = time.perf_counter() - began
        time.sleep(2.0)
        loaded = resident_bytes(peer.pids()[0])
        peer.stop()
        restart_s = _restart(peer)
        restarted = resident_bytes(peer.pids()[0])
        return Footprint(empty / MEGABYTE, loaded / MEGABYTE, restarted / MEGABYTE, load_s, restart_s)
    finally:
        peer.stop()


def _restart(peer: Peer) -> float:
    """Seconds from starting the process to the first linearizable read, asked for from another thread."""
    address, found = peer.leader, [0.0]
    began = time.perf_counter()

    def ask() -> None:
        while not readable(peer.name, address) and time.perf_counter() - began < 60:
            time.sleep(0.005)
        found[0] = time.perf_counter() - began

    asking = threading.Thread(target=ask)
    asking.start()
    peer.start()
    asking.join()
    return found[0]


class _Healthy(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "3")
        self.end_headers()
        self.wfile.write(b"ok\n")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def measure_idle(directory: Path, seconds: float) -> Idle:
    """A client agent of one server with IDLE_CHECKS HTTP checks on a service that is healthy."""
    target = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Healthy)
    threading.Thread(target=target.serve_forever, daemon=True).start()
    gemot = Gemot(directory, servers=1, clients=1)
    gemot.start()
    try:
        agent = gemot.cluster.clients[0]
        url = f"http://127.0.0.1:{target.server_address[1]}/"
        for number in range(IDLE_CHECKS):
            check = {"HTTP": url, "Interval": CHECK_EVERY}
            agent.put("/v1/agent/service/register", {"Name": f"service-{number}", "Check": check})
        wait_for(
            lambda: all(c["Status"] == "passing" for c in agent.get("/v1/agent/checks").values()),
            30,
            "all checks pass",
            [agent],
        )
        process = psutil.Process(agent.pid)
        used = sum(process.cpu_times()[:2])
        time.sleep(seconds)
        percent = (sum(process.cpu_times()[:2]) - used) / seconds * 100
        return Idle(process.memory_info().rss / MEGABYTE, percent)
    finally:
        gemot.stop()
        target.shutdown()
        target.server_close()


def as_json(value: msgspec.Struct) -> str:
    return json.dumps(msgspec.to_builtins(value))
