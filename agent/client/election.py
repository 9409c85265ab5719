"""The recipe of an election: who leads is said at one key, with how to reach it.

It is Consul's recipe of leader election: candidates acquire the key by their sessions, whoever has it leads,
and others are told by a blocking read. What is there are words of ours: `{"Name", "Address", "Host", "Pid"}`.
Those of ours who wait stand in `KEY/.queue/`, as before a lock (`lock.py`), which says as well what a holder
can rely on. The key goes with the leader: where nobody leads there is none. Its fence is the term: it grows
with each leader, and a write under it (`?lock=KEY&fence=N`) is done only while that leader leads.

A leader is asked to resign by its own record: `"Resign": true` is written into it by `cas`, so the request is
of exactly this leader, everybody sees it, and it is gone with the record. The leader sees it as it watches
its key, ends its work, and gives the key back. Nothing forces it; to do that, destroy its session.
Source: Consul, its guide to application leader election; record, queue and resignation are ours.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from typing import Any

import msgspec

from gemot.agent.client import questions
from gemot.agent.client.connection import Connection
from gemot.agent.client.entry import Entry, read_entries
from gemot.agent.client.kv import Kv
from gemot.agent.client.lock import LOCK_FLAGS, Mutex
from gemot.agent.client.path import escape
from gemot.agent.client.recipe import LockConflict
from gemot.agent.client.semaphore import SEMAPHORE_FLAGS
from gemot.agent.client.steps import KeySteps, drive
from gemot.agent.client.watch import Seen, Watch

MAX_WORD = 512
"""Bytes that a name or an address may have."""


class Leader(msgspec.Struct, frozen=True):
    """Who leads. `name` and `address` are "" where the record is not of these words."""

    name: str
    address: str
    session: str
    fence: int
    resigning: bool
    """It was asked to resign."""


class Election(Mutex):
    """`Hold(agents, Election("jobs/leader", address="10.0.0.5:80"))` campaigns and leads; see the module."""

    def __init__(self, key: str, *, name: str = "", address: str = "") -> None:
        """`name` is this host's, if none is given; `address` is for whoever looks for the leader.

        Raises ValueError for what cannot be.
        """
        key = key.strip("/")
        if not key:
            raise ValueError("an election needs a key, such as jobs/leader")
        name = name or socket.gethostname()
        for what, word in (("name", name), ("address", address)):
            if len(word.encode(errors="surrogatepass")) > MAX_WORD:
                raise ValueError(f"the {what} of a candidate has at most {MAX_WORD} bytes")
        record = {"Name": name, "Address": address, "Host": socket.gethostname(), "Pid": os.getpid()}
        value = json.dumps(record).encode()
        super().__init__(key, f"{key}/.queue/", flags=0, value=value)

    def conflict(self, entry: Entry) -> str:
        if entry.flags in (LOCK_FLAGS, SEMAPHORE_FLAGS):
            return f"{self.key} is there and is a lock or a semaphore, not an election"
        if not entry.session and not entry.lock_index and not entry.fence:
            return f"{self.key} is there and nobody was ever elected by it: a leader would overwrite it"
        return ""


def leader_of(rows: Sequence[Entry]) -> Leader | None:
    """By the entries of the key. A record in other words leads as well."""
    entry = next((row for row in rows if row.session), None)
    if entry is None:
        return None
    told = _record(entry) or {}
    return Leader(
        name=str(told.get("Name", "")),
        address=str(told.get("Address", "")),
        session=entry.session,
        fence=entry.fence,
        resigning=told.get("Resign") is True,
    )


def is_asked_to_resign(rows: Sequence[Entry]) -> bool:
    """For a leader that watches its key: Hold(..., seen=...)."""
    leader = leader_of(rows)
    return leader is not None and leader.resigning


def resignation(entry: Entry) -> bytes:
    """The record with the request in it. Raises LockConflict for one that is in other words."""
    told = _record(entry)
    if told is None or "Name" not in told:
        raise LockConflict(
            f"{entry.key} is held by a leader that takes no requests (session {entry.session})"
        )
    return json.dumps(told | {"Resign": True}).encode()


def asking_to_resign(key: str) -> KeySteps[Leader | None]:
    """The steps of `ask_to_resign`."""
    key = key.strip("/")
    while True:
        entry: Entry | None = yield questions.get(key)
        leader = leader_of([entry] if entry is not None else [])
        if entry is None or leader is None:
            return None
        if leader.resigning or (yield questions.put(key, resignation(entry), cas=entry.modify_index)):
            return leader


def ask_to_resign(kv: Kv, key: str) -> Leader | None:
    """Ask whoever leads now; who that is, None if nobody leads. It resigns in its own time.

    The request is of the leader that is told and of no other. Whether it obeys is not known by this: look who
    leads, or have an Observer tell it. Raises LockConflict where the leader takes no requests, and
    ClientError; after ConnectionBroke it was asked or not, and asking again does no harm.
    """
    return drive(kv, asking_to_resign(key))


class Terms:
    """Who leads by the key of an election, as it was told last. Pure: an Observer asks."""

    wait_s = 30
    """For so long at a time: who follows a leader had better know soon that its agent tells nothing more."""

    def __init__(self, key: str) -> None:
        self.path = f"/v1/kv/{escape(key.strip('/'))}"
        self._told: list[Leader | None] = []

    def differ(self, seen: Seen) -> list[Leader | None]:
        """Who leads by this answer; [None]: nobody; [] if that was told last. Raises NotAnAgent."""
        leader = leader_of(read_entries(seen.value or []))
        if self._told == [leader]:
            return []
        self._told = [leader]
        return self._told


class Observer:
    """Who leads, and each change of it. Not for two threads at once.

    What is guaranteed: who leads is told once it does, with its address and fence, and no leader of an older
    term (a smaller fence) after one of a newer. What is not: that a term is told which began and ended
    between two answers; that who is told leads still, for which its fence is asked; and that an agent that
    fell silent is noticed before its answer is due, after a minute.
    """

    def __init__(self, connection: Connection, key: str) -> None:
        self._terms = Terms(key)
        self._watch = Watch(connection, self._terms.path, wait_s=self._terms.wait_s)

    def next(self) -> Leader | None:
        """The present leader at first (None: nobody leads), then each that differs.

        Raises ClientError; asked again, it goes on with whoever leads then, if that was not told last.
        """
        while True:
            for leader in self._terms.differ(self._watch.next()):
                return leader


def _record(entry: Entry) -> dict[str, Any] | None:
    try:
        told = json.loads(entry.value)
    except (ValueError, RecursionError):
        return None
    return told if isinstance(told, dict) else None
