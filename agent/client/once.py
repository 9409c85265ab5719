"""Something that is done once in the whole cluster: a record at a key says that it was, by whom, and how.

Whoever does it holds the lock of the key (`KEY/.lock`) meanwhile, and writes the record under the lock's
fence and only where there is none: so one record at most is ever written for one run, and never by somebody
who was late. What is promised is that nobody begins while it is held, and nobody once the record is there.
What is not: one that did the work and failed before it wrote the record will be followed by another who does
it again. The work has to bear that, or to write under the fence itself. To have it done anew, delete the key.

    once = Once(Kv(connection), "jobs/migrate-7")
    with Hold(agents, Lock(once.key)) as hold:
        if once.done() is None:
            migrate()
            once.record(hold, 0)

Whether it is done is asked under the lock: an answer from before may be old.
"""

from __future__ import annotations

import datetime
import json
import os
import socket
from typing import Any

import msgspec

from gemot.agent.client import questions
from gemot.agent.client.agents import passes
from gemot.agent.client.connection import CannotConnect, ClientError, NotAnAgent, Refused
from gemot.agent.client.entry import Entry
from gemot.agent.client.held import Held
from gemot.agent.client.hold import Hold
from gemot.agent.client.kv import Kv
from gemot.agent.client.recipe import AGAIN_S, LockConflict, LockLost, Pause
from gemot.agent.client.steps import KeySteps, drive

FIND_S = 5.0
"""How long it is looked for a record once the lock is lost: somebody waits to be told."""


class Done(msgspec.Struct, frozen=True, rename="pascal"):
    """The record. `time` is the host's wall clock, UTC, for people."""

    host: str
    pid: int
    time: str
    exit_code: int
    fence: int


class Once:
    """The record at a key, and how it is written. Raises ClientError."""

    def __init__(self, kv: Kv, key: str) -> None:
        """Raises ValueError where there is no key."""
        self.key = key_of(key)
        self._kv = kv

    def done(self) -> Done | None:
        """What the record says; None if there is none. Raises LockConflict for what is no record."""
        return drive(self._kv, finding(self.key))

    def record(self, hold: Hold, exit_code: int) -> Done:
        """Write it under the fence of the key's lock; tried for as long as that is held.

        Raises LockLost where it is not held any more and this record is not found; the message says whether
        it is known that there is none. Another may do it again then.
        """
        return drive(self._kv, recording(self.key, hold, exit_code))


def key_of(key: str) -> str:
    """Raises ValueError where there is none."""
    if not (key := key.strip("/")):
        raise ValueError("give a key for the record, such as jobs/migrate-7")
    return key


def finding(key: str, within_s: float | None = None) -> KeySteps[Done | None]:
    """The steps of `Once.done`."""
    entry: Entry | None = yield questions.get(key).within(within_s)
    if entry is None:
        return None
    try:
        return msgspec.json.decode(entry.value, type=Done)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise LockConflict(
            f"{key} is there and is no record of what was done ({error!s:.100}): give another key"
        ) from error


def recording(key: str, hold: Held[Any], exit_code: int) -> KeySteps[Done]:
    """The steps of `Once.record`: over soon after the lock is lost, also where an agent hangs."""
    done = Done(socket.gethostname(), os.getpid(), _now(), exit_code, hold.fence)
    value = json.dumps(msgspec.to_builtins(done)).encode()
    unsure = False
    while not (why := hold.lost):
        try:
            put = questions.put(key, value, cas=0, lock=hold.guard, fence=hold.fence)
            written = yield put.within(hold.patience_s)
            if (
                written or (yield from finding(key, hold.patience_s)) == done
            ):  # by a write whose answer did not arrive
                return done
            raise LockConflict(f"{key} was written meanwhile, by somebody who does not hold its lock")
        except ClientError as error:
            if isinstance(error, Refused) and error.status == 409:
                # The servers end the lock before they refuse: no earlier write can be done after this.
                return (yield from _found(key, done, f"{hold.key}: {error}", unsure=False))
            if isinstance(error, NotAnAgent) or not passes(error):
                raise
            unsure = unsure or not isinstance(error, CannotConnect)
        yield Pause(AGAIN_S)
    return (yield from _found(key, done, f"{hold.key}: {why}", unsure=unsure))


def _found(key: str, done: Done, why: str, *, unsure: bool) -> KeySteps[Done]:
    """Once the lock is lost: this record if it is there. Raises LockLost.

    `unsure`: a write was sent of which nobody knows whether it was done, or will be.
    """
    try:
        there = yield from finding(key, FIND_S)
    except ClientError as error:
        told = f"whether there is a record is not known ({error}): look at {key} before a new run"
        raise LockLost(f"{why}; {told}") from error
    if there == done:
        return done
    if there is not None:
        raise LockLost(f"{why}; the record is of another run, by {there.host} at {there.time}")
    if unsure:
        told = f"whether there will be a record is not known: look at {key} before a new run"
        raise LockLost(f"{why}; {told}")
    raise LockLost(f"{why}; there is no record: it may be run again")


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
