"""Bugs planted on purpose, to see that the simulator finds them. Each patches one place for one process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from support.lossy_disk import LossyDisk

from gemot.server import machine, space
from gemot.server.confirm import Confirmations
from gemot.server.lists import LongLists
from gemot.server.model.errors import NotLeader
from gemot.server.operator import Operator
from gemot.server.reads import Reads
from gemot.server.rpc.message import Enlisted, Member
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
}
