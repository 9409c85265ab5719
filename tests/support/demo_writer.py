"""Writes a counter ten times a second and tells each write that had to wait: `python demo_writer.py`.

The agent is the one of GEMOT_HTTP_ADDR. An agent holds a write while there is no leader, so a killed leader
shows as one slow write, not as an error. Ctrl-C ends it.
"""

from __future__ import annotations

import os
import sys
import time

from gemot.agent.client.connection import ClientError, Connection
from gemot.agent.client.kv import Kv

KEY = "demo/counter"
EVERY_S = 0.1
SLOW_S = 0.5


def leader_name(connection: Connection) -> str:
    """The leader's node name; its address where the name is not known."""
    address = str(connection.request("GET", "/v1/status/leader").json())
    for row in connection.request("GET", "/v1/catalog/service/consul").json():
        if f"{row['Address']}:{row['ServicePort']}" == address:
            return str(row["Node"])
    return address or "nobody"


def write_on(connection: Connection) -> None:
    kv = Kv(connection)
    print(f"writing {KEY} through {connection.address}, {leader_name(connection)} leads", flush=True)
    number = 0
    while True:
        number += 1
        began = time.monotonic()
        try:
            kv.put(KEY, str(number).encode())
            took_s = time.monotonic() - began
            if took_s >= SLOW_S:
                print(f"held {took_s:.1f} s: new leader {leader_name(connection)}", flush=True)
        except ClientError as error:
            print(f"write {number} failed after {time.monotonic() - began:.1f} s: {error}", flush=True)
        if number % 50 == 0:
            print(f"{number} writes", flush=True)
        time.sleep(EVERY_S)


def main() -> int:
    connection = Connection(os.environ.get("GEMOT_HTTP_ADDR", "127.0.0.4:8500"), timeout_s=30)
    try:
        write_on(connection)
    except KeyboardInterrupt:
        print()
    except ClientError as error:
        print(f"demo_writer: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
