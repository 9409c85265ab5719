"""Clients of a cluster in trouble: each does one thing at a time and writes down what it was told.

Keys are a few at a time and change every few seconds, so that each has a history of hundreds of operations
and not of thousands. No value is written twice. What a compare compares with is the value that came with the
index it sent: see `simulation/linearize.py`.
"""

from __future__ import annotations

import base64
import json
import random
import threading
import time
from collections.abc import Callable
from contextlib import closing

import msgspec
from simulation.register import NEVER, Kind, Op, Outcome
from support.chaos_locks import LockUser
from support.cluster import Agent

from gemot.agent.client.connection import CannotConnect, ClientError, Connection, Refused, Reply
from gemot.agent.client.entry import Entry
from gemot.agent.client.kv import Kv

PREFIX = "chaos/"
KEYS = 3
KEYS_LAST_S = 3.0
TIMEOUTS_S = (10.0, 3.0)
"""One client in two hears what its agent has to say in the end; the other does not sit out every fault."""

CONFLICT = 409
THINK_S = 0.02
LONG_RUN_S = 600.0


def think_s(run_s: float) -> float:
    """How long a client thinks, on the average.

    In a long run longer: the log is kept whole, and a server that loses its disk late is sent all of it.
    """
    return THINK_S * max(1.0, run_s / LONG_RUN_S)


def spell_now() -> str:
    """What all keys that are in use now begin with."""
    return f"{PREFIX}{int(time.monotonic() / KEYS_LAST_S)}/"


def spell_of(key: bytes) -> bytes:
    """The spell that a key, or a spell itself, is of."""
    return key[: key.rfind(b"/") + 1]


class Client(threading.Thread):
    """`operations` grows until `over` is set; `error` tells a bug of ours, never a fault of the cluster."""

    def __init__(
        self,
        *,
        name: str,
        agent: Agent,
        seed: int,
        timeout_s: float,
        over: threading.Event,
        think_s: float = THINK_S,
        locks: bool = False,
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._agent = agent
        self._timeout_s = timeout_s
        self._chance = random.Random(f"{seed} {name}")
        self._over = over
        self._think_s = think_s
        self._written = 0
        self._seen: dict[str, Entry | None] = {}
        self.locks = LockUser(name, self._chance) if locks else None
        self.operations: list[Op] = []
        self.error = ""

    def run(self) -> None:
        try:
            while not self._over.is_set():
                with closing(Connection(self._agent.http, timeout_s=self._timeout_s)) as connection:
                    well = True
                    while well and not self._over.is_set():
                        well = self._act(connection)
                        self._over.wait(self._chance.random() * 2 * self._think_s if well else 0.2)
        except Exception as error:
            self.error = f"{self.name}: {error!r}"

    def _act(self, connection: Connection) -> bool:
        """One operation. False if it went wrong."""
        spell, draw = spell_now(), self._chance.random()
        if draw < 0.1:
            return self._transact(connection, spell)
        if self.locks is not None and draw < 0.35:
            return self._write_fenced(connection, spell) if draw < 0.2 else self.locks.act(connection)
        return self._act_on_key(Kv(connection), spell)

    def _act_on_key(self, kv: Kv, spell: str) -> bool:
        key = f"{spell}{self._chance.randrange(KEYS)}"
        draw = self._chance.random()
        if draw < 0.35:
            return self._get(kv, key)
        if draw < 0.45:
            return self._list(kv, spell)
        if draw < 0.65:
            return self._write(kv, self._op(Kind.PUT, key), None)
        known = self._seen.get(key)
        if draw < 0.9:
            op = self._op(Kind.CAS, key, known.value if known is not None else None)
            return self._write(kv, op, known.modify_index if known is not None else 0)
        if draw < 0.95 and known is not None:
            return self._write(kv, self._op(Kind.DELETE_CAS, key, known.value), known.modify_index)
        return self._write(kv, self._op(Kind.DELETE, key), None)

    def _transact(self, connection: Connection, spell: str) -> bool:
        """Several keys at once, some compared with what was seen: each of them is written, or none is."""
        ops, asked = [], []
        for number in self._chance.sample(range(KEYS), 2):
            key = f"{spell}{number}"
            known = self._seen.get(key)
            kind = Kind.CAS if self._chance.random() < 0.4 else Kind.PUT
            op = self._op(kind, key, known.value if known is not None and kind is Kind.CAS else None)
            index = known.modify_index if known is not None and kind is Kind.CAS else 0
            verb = "cas" if kind is Kind.CAS else "set"
            value = base64.b64encode(op.value or b"").decode()
            ops.append(op)
            asked.append({"KV": {"Verb": verb, "Key": key, "Value": value, "Index": index}})
        fence = 0
        if self.locks is not None and self.locks.fence:
            lock, fence = self.locks.shown()
            guard = {"Verb": "check-fence", "Key": lock, "Fence": fence}
            asked.insert(self._chance.randrange(len(asked) + 1), {"KV": guard})
        body = json.dumps(asked).encode()
        return self._note_all(ops, fence, lambda: connection.request("PUT", "/v1/txn", body=body))

    def _write_fenced(self, connection: Connection, spell: str) -> bool:
        """A write that is refused unless the lock is held with this fence."""
        assert self.locks is not None
        if not self.locks.fence:
            return self.locks.act(connection)
        op = self._op(Kind.PUT, f"{spell}{self._chance.randrange(KEYS)}")
        path = f"/v1/kv/{op.key.decode()}"
        lock, fence = self.locks.shown()
        guard = {"lock": lock, "fence": fence}
        return self._note_all(
            [op], fence, lambda: connection.request("PUT", path, params=guard, body=op.value)
        )

    def _note_all(self, ops: list[Op], fence: int, ask: Callable[[], Reply]) -> bool:
        """What was told of all of them is true of each; 409 tells that nothing was done."""
        outcome, well = Outcome.DONE, True
        try:
            ask()
        except Refused as error:
            well = error.status == CONFLICT
            outcome = Outcome.REFUSED if error.undone or well else Outcome.UNKNOWN
            if well and self.locks is not None and fence:
                self.locks.refused(fence)
        except CannotConnect:
            outcome, well = Outcome.REFUSED, False
        except ClientError:
            outcome, well = Outcome.UNKNOWN, False
        for op in ops:
            self._note(op, outcome=outcome)
        return well

    def _op(self, kind: Kind, key: str, expected: bytes | None = None) -> Op:
        value = None
        if kind in (Kind.PUT, Kind.CAS):
            self._written += 1
            value = f"{self.name}-{self._written}".encode()
        return Op(kind, key.encode(), time.monotonic_ns(), NEVER, value, expected, client=self.name)

    def _get(self, kv: Kv, key: str) -> bool:
        op = self._op(Kind.GET, key)
        try:
            entry = kv.get(key)
        except ClientError:
            return False
        self._seen[key] = entry
        self._note(op, value=entry.value if entry is not None else None)
        return True

    def _list(self, kv: Kv, spell: str) -> bool:
        """Each key of a list is a read of it, the missing ones too."""
        op = self._op(Kind.GET, spell)
        try:
            found = {entry.key: entry for entry in kv.tree(spell)}
        except ClientError:
            return False
        for key in (f"{spell}{n}" for n in range(KEYS)):
            entry = self._seen[key] = found.get(key)
            self._note(op, key=key.encode(), value=entry.value if entry is not None else None)
        return True

    def _write(self, kv: Kv, op: Op, cas: int | None) -> bool:
        key = op.key.decode()
        try:
            if op.kind in (Kind.PUT, Kind.CAS):
                assert op.value is not None
                answer = kv.put(key, op.value, cas=cas)
            else:
                answer = kv.delete(key, cas=cas)
        except CannotConnect:
            self._note(op, outcome=Outcome.REFUSED)
        except Refused as error:
            # The agent says so itself, and the checker holds it to its word.
            self._note(op, outcome=Outcome.REFUSED if error.undone else Outcome.UNKNOWN)
        except ClientError:
            self._note(op, outcome=Outcome.UNKNOWN)
        else:
            self._note(op, answer=answer)
            return True
        return False

    def _note(self, op: Op, **told: object) -> None:
        ended = NEVER if told.get("outcome") is Outcome.UNKNOWN else time.monotonic_ns()
        self.operations.append(msgspec.structs.replace(op, ended=ended, **told))
