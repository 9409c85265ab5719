"""A careless holder as a process: it reads a set and writes it back under a lock, in one of three ways.

`lock_set_holder.py NAME PREFIX AGENT...` holds PREFIX again and again, and adds elements meanwhile, without
asking whether the lock is still its own. What it does it says on its standard output, a line each, written
before or after it is done: `enter FENCE`, `try WAY ELEMENT PARENT`, `told WAY ELEMENT`, `refused WAY`,
`unknown WAY`, `leave FENCE`; NAME and PREFIX stand before them. The ways, and how a set is kept, are those of
`simulation/families/lock_set.py`.
"""

from __future__ import annotations

import base64
import json
import os
import random
import sys
import time

from gemot.agent.client.agents import Agents
from gemot.agent.client.connection import ClientError, Refused
from gemot.agent.client.entry import entries
from gemot.agent.client.hold import Hold
from gemot.agent.client.lock import Lock

TTL_S = 1.0
MOST_WRITES = 400
THINKS_S = 0.02
"""The longest it has the set in its hands: where a stop does harm."""

UNFENCED, CHECKED, GUARDED = WAYS = ("unfenced", "check-fence", "fence-guard")
CONFLICT = 409


class Holder:
    def __init__(self, name: str, prefix: str, addresses: list[str]) -> None:
        self._name = name
        self._prefix = prefix
        self._addresses = addresses
        self._agents = Agents(addresses)
        self._chance = random.Random(name)
        self._written = 0

    def run(self) -> None:
        while True:
            lock = Hold(Agents(self._addresses), Lock(self._prefix), ttl_s=TTL_S, lock_delay_s=0.0)
            try:
                lock.acquire()
            except ClientError:
                continue
            self._say(f"enter {lock.fence}")
            for _ in range(self._chance.randrange(1, MOST_WRITES)):
                if not self._add(lock.fence, self._chance.choice(WAYS)):
                    # Refused, or of unknown outcome: what may come late has this fence.
                    break
            self._say(f"leave {lock.fence}")
            lock.release()

    def _say(self, words: str) -> None:
        os.write(1, f"{self._name} {self._prefix} {words}\n".encode())

    def _add(self, fence: int, way: str) -> bool:
        try:
            parent = self._read(fence, way).split(" ")[0]
            self._written += 1
            element = f"{self._name}-{self._written}"
            self._say(f"try {way} {element} {parent or '-'}")
            time.sleep(self._chance.random() * THINKS_S)
            self._write(fence, way, f"{element} {parent}")
        except Refused as error:
            self._say(f"{'refused' if error.status == CONFLICT else 'unknown'} {way}")
            return False
        except ClientError:
            self._say(f"unknown {way}")
            return False
        self._say(f"told {way} {element}")
        return True

    def _read(self, fence: int, way: str) -> str:
        key = f"{self._prefix}/{way}"
        if way != GUARDED:
            rows = entries(self._agents.request("GET", f"/v1/kv/{key}", ok=(200, 404)))
            return rows[0].value.decode() if rows else ""
        (found,) = self._transact(fence, {"Verb": "get-or-empty", "Key": key})
        return base64.b64decode(found["KV"]["Value"] or "").decode()

    def _write(self, fence: int, way: str, value: str) -> None:
        key = f"{self._prefix}/{way}"
        if way == GUARDED:
            encoded = base64.b64encode(value.encode()).decode()
            self._transact(fence, {"Verb": "set", "Key": key, "Value": encoded})
            return
        guard = {"lock": f"{self._prefix}/.lock", "fence": fence} if way == CHECKED else {}
        self._agents.request("PUT", f"/v1/kv/{key}", params=guard, body=value.encode())

    def _transact(self, fence: int, operation: dict[str, str]) -> list[dict[str, dict[str, str]]]:
        guard = {"Verb": "fence-guard", "Resource": self._prefix, "Fence": fence}
        body = json.dumps([{"KV": guard}, {"KV": operation}]).encode()
        found: list[dict[str, dict[str, str]]] = self._agents.request("PUT", "/v1/txn", body=body).json()[
            "Results"
        ]
        return found


if __name__ == "__main__":
    Holder(sys.argv[1], sys.argv[2], sys.argv[3:]).run()
