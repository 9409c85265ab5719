"""Bugs planted on purpose, to see that the simulator finds them. Each patches one place for one process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from simulation import run
from simulation.families.kv import KvFamily
from simulation.linearize import Report
from support.lossy_disk import LossyDisk

from gemot.server import machine, space
from gemot.server.confirm import Confirmations
from gemot.server.lists import LongLists
from gemot.server.model.errors import NotLeader
from gemot.server.model.kv import KvGet
from gemot.server.operator import Operator
from gemot.server.reads import Reads
from gemot.server.rpc.message import Enlisted, Member
from gemot.server.state import store
from gemot.server.state.meta import Meta
from gemot.server.state.restore import Placement
from gemot.server.storage.durable import DurableLog
from gemot.server.writes import Writes


def _no_sync() -> None:
    """Every sync returns and does nothing."""
    LossyDisk.sync = lambda self, path, inode: None  # type: ignore[method-assign]


def _ack_before_sync() -> None:
    """The log is acknowledged when it was written, not when it is durable."""
    DurableLog.sync = lambda self: None  # type: ignore[method-assign]


def _vote_twice() -> None:
    """Term and vote are never made durable."""
    DurableLog.keep_vote = lambda self, saves: False  # type: ignore[method-assign]


def _stale_read() -> None:
    """A read is answered without asking anybody whether this server is up to date."""
    Confirmations.confirm = lambda self, done, **_named: done(None)  # type: ignore[method-assign]


def _apply_twice() -> None:
    """A write whose connection broke is sent again as a new one."""
    original = Writes._try

    def forget_the_name(self: Writes, write: Any) -> None:
        write.retry = write.minted = None
        original(self, write)

    Writes._try = forget_the_name  # type: ignore[method-assign]


def _early_list() -> None:
    """Who asks for a long list is answered by a read of it that had begun before."""
    original = Reads._join

    def join(self: Reads, *arguments: Any, **named: Any) -> Any:
        waiter = original(self, *arguments, **named)
        waiter.from_read = 0
        return waiter

    Reads._join = join  # type: ignore[method-assign]


def _early_bookmark() -> None:
    """A subscription is told that it was told all, while its list is being read."""
    LongLists.owes = lambda self, asker: False  # type: ignore[method-assign]


def _amnesia() -> None:
    """A server without data is taken in, even where its id has a vote."""

    def enlist(self: Operator, member: Member, done: Callable[[Any], None]) -> None:
        if not self._replica.leads:
            done(NotLeader(self._replica.raft.leader))
            return
        self.autopilot.forget(member.id)
        self._membership.joined(member, afresh=True)
        done(Enlisted(self._identity.cluster()))

    Operator._enlist = enlist  # type: ignore[method-assign]


def _old_epoch() -> None:
    """A restore does not begin a new epoch."""
    original = machine.restore.placement

    def placement(meta: Meta, *arguments: Any) -> Placement:
        return msgspec.structs.replace(original(meta, *arguments), epoch=meta.epoch)

    machine.restore.placement = placement  # type: ignore[assignment]


def _no_way_out() -> None:
    """On a full disk nothing is accepted, not even what frees room."""
    space.FREES = ()  # type: ignore[assignment]


def _black_box_alone() -> None:
    """No check that believes an index, and none of the watches: what is found, the black-box check finds."""
    run.check_real_time = lambda history: None  # type: ignore[attr-defined]
    KvFamily.check = lambda self: len(self.history)  # type: ignore[method-assign]
    KvFamily.check_watches = lambda self: 0  # type: ignore[method-assign]


def _stale_read_in_a_black_box() -> None:
    _stale_read()
    _black_box_alone()


def _stale_watch() -> None:
    """A stale read, looked for in what watchers were told alone."""
    _stale_read()
    _black_box_alone()
    KvFamily.check_watches = _check_watches  # type: ignore[method-assign]
    KvFamily.check_black_box = lambda self, random: Report()  # type: ignore[method-assign]


_check_watches = KvFamily.check_watches


def _wake_for_nothing() -> None:
    """A key has the index of the newest change to any key, so its watcher is woken by all of them."""
    original = store.READERS[KvGet]

    def get(reading: Any, query: KvGet) -> Any:
        entry, index = original(reading, query)
        return entry, max(index, reading.meta.kv_index)

    store.READERS[KvGet] = get


BUGS: dict[str, Callable[[], None]] = {
    "no-sync": _no_sync,
    "ack-before-sync": _ack_before_sync,
    "vote-twice": _vote_twice,
    "stale-read": _stale_read,
    "apply-twice": _apply_twice,
    "early-list": _early_list,
    "early-bookmark": _early_bookmark,
    "amnesia": _amnesia,
    "old-epoch": _old_epoch,
    "no-way-out": _no_way_out,
    "stale-read-in-a-black-box": _stale_read_in_a_black_box,
    "stale-watch": _stale_watch,
    "wake-for-nothing": _wake_for_nothing,
}
