"""Room on the disks: whether a new write may be accepted, or only what frees and repairs (bug list 28).

A full disk under the log ends the process, and the writes that filled it would end every server at once. So
each server keeps a reserve: two log segments, one more copy of the state (a snapshot), its write-ahead log,
and on a disk that is large enough 256 MiB at least. The leader knows every voter's room by its reports. Once
it, or so many voters that a quorum could not store, would have to go into the reserve, it refuses new writes
before they are proposed. Deletes, leaves and its own chores go on out of the reserve, and so does everything
else once there is room again.

What is accepted is counted against a server, at `SPREAD` times its size (log, row, history, a snapshot of
both), until it tells of room that it measured after it had applied that: however slow it or its disk may be.
Words of a server of an older release, or of one not heard yet, count as room: silence is Raft's affair.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import msgspec

from gemot.server.model.catalog import Deregister
from gemot.server.model.command import Command, weight
from gemot.server.model.errors import Busy
from gemot.server.model.kv import KvDelete, KvDeletePrefix
from gemot.server.model.session import DestroySession, RenewSession
from gemot.server.model.txn import Txn, frees
from gemot.server.ports import DiskSpace
from gemot.server.raft import quorum
from gemot.server.raft.node import Raft
from gemot.server.rpc.message import Member

FREES = (KvDelete, KvDeletePrefix, Deregister, DestroySession, RenewSession)
"""What callers may still ask for: it leaves less than there was, or, a renewal, no more, and without it every
lock would be lost. The leader's chores are never refused."""

MIB = 1 << 20
LEAST_BYTES = 256 * MIB
LEAST_SHARE = 8
"""The least reserve, and the share of a small disk that it takes at most."""

SPREAD = 8
LOOKS = 3
"""Looks for which it is counted against a server of a release that does not say what it had applied."""

LOOKS_KEPT = 60
"""For so many at most against any: who is further behind takes a snapshot, and Raft sees to its pace."""

ENOUGH = 1 << 62
AGAIN_SHARE = 16
"""Once refused, writes go on when there is so much of the reserve more: or it would flicker."""

WORTH_TELLING = MIB // 20
"""What is being written is told of from here on: below, it would read 0.0 MiB."""


class Room(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What one server has: bytes free on its disk, and how many it keeps. `free` -1: not known.

    `applied`: the last entry it had applied when that was measured; -1: not told, by an older release.
    """

    free: int = -1
    reserve: int = 0
    applied: int = -1

    @property
    def margin(self) -> int:
        """What may be written before the reserve is touched; negative inside it."""
        return self.free - self.reserve if self.free >= 0 and self.reserve else ENOUGH


class Sizes(msgspec.Struct, frozen=True):
    """What the reserve is made of, in bytes. `disk` and `free` of the disk; `state` and how much of it is
    unused pages; by how much its files grow without anything new; one log segment."""

    free: int
    disk: int
    state: int
    unused: int
    growth: int
    segment: int


def room(sizes: Sizes, wanted: int) -> Room:
    """`wanted` is the configured reserve; -1 works it out, 0 keeps none.

    Pages that deletes left unused are room for rows, though the file does not shrink: they stand for what
    is not needed as files.
    """
    if wanted >= 0:
        return Room(sizes.free, wanted)
    files = 2 * sizes.segment + sizes.state + sizes.growth
    return Room(sizes.free, max(files, min(LEAST_BYTES, sizes.disk // LEAST_SHARE) - sizes.unused))


class _Charge(msgspec.Struct, gc=False):
    """What was accepted between two looks, times `SPREAD`; `index` of its last entry, -1 while not known."""

    size: int = 0
    index: int = -1


class _Shortage(msgspec.Struct, frozen=True):
    """Whose room decides, as it was weighed; `unseen` is what was accepted and not in what it measured."""

    name: str
    room: Room
    unseen: int


class SpaceConfig(msgspec.Struct, frozen=True):
    """Bytes: the reserve wanted (-1: worked out, 0: none), and of a log segment."""

    reserve: int = -1
    segment: int = 64 << 20


class Space:
    """What the leader makes of everyone's room. Drive it by `hear` and, once a second, `look`.

    `file_bytes` gives state, unused and growth of `Sizes`.
    """

    def __init__(
        self,
        *,
        me: Member,
        config: SpaceConfig,
        disk: DiskSpace | None,
        raft: Raft,
        file_bytes: Callable[[], tuple[int, int, int]],
    ) -> None:
        self._me = me
        self._config = config
        self._disk = disk
        self._raft = raft
        self._file_bytes = file_bytes
        self._snapshot = 0
        self._rooms: dict[str, tuple[str, Room]] = {}
        self._margin = ENOUGH
        self._charges: deque[_Charge] = deque([_Charge()], maxlen=LOOKS_KEPT)
        self._short = _Shortage(me.name, Room(), 0)
        self._refusing = False
        self.refused = 0

    @property
    def own(self) -> Room:
        return self._rooms.get(self._me.id, ("", Room()))[1]

    def hear(self, member: Member, room: Room) -> None:
        self._rooms[member.id] = (member.name, room)

    def look(self, *, replacing: bool = False) -> None:
        """Measure, then weigh everyone's last word anew. Nobody reads the state file while it is replaced."""
        if self._disk is None or (measured := self._disk.measured()) is None:
            return
        if not replacing:
            free, whole, applied = measured
            sizes = Sizes(free, whole, *self._file_bytes(), self._config.segment)
            self._snapshot = sizes.state + sizes.growth + sizes.segment
            kept = room(sizes, self._config.reserve)
            self.hear(self._me, msgspec.structs.replace(kept, applied=applied))
        # A follower only tells of itself; a voter that Raft does not hear can store nothing.
        leads = self._raft.leader == self._me.id
        self._weigh(self._raft.voters if leads else (self._me.id,), self._raft.silent)

    def _weigh(self, voters: tuple[str, ...], away: tuple[str, ...]) -> None:
        self._rooms = {id: kept for id, kept in self._rooms.items() if id in voters or id == self._me.id}
        self._close_charge()
        margins = [-ENOUGH if id in away else self._margin_of(id) for id in voters]
        reached = quorum.reached(margins) if margins else ENOUGH
        # A quorum that is not there at all is no matter of space.
        own = self._margin_of(self._me.id)
        self._margin = min(own, reached if reached > -ENOUGH else ENOUGH)
        # A full follower that the others do without is not what has to be mended.
        known = [self._me.id] if own == self._margin else [id for id in voters if id not in away]
        tightest = min(known, key=self._margin_of)
        name, room = self._room(tightest)
        self._short = _Shortage(name, room, self._unseen(room))
        self._refusing = self._margin < (room.reserve // AGAIN_SHARE if self._refusing else 0)

    def _close_charge(self) -> None:
        # A write accepted just before this look may not be in the log yet: by the next one it is.
        if len(self._charges) > 1 and self._charges[-2].index < 0:
            self._charges[-2].index = self._raft.last_index
        self._charges.append(_Charge())

    def _margin_of(self, id: str) -> int:
        """What may still be accepted before this server's reserve is touched."""
        room = self._room(id)[1]
        return room.margin - self._unseen(room) if room.margin < ENOUGH else ENOUGH

    def _unseen(self, room: Room) -> int:
        """What was accepted and is not in what this server measured."""
        if room.applied < 0:
            return sum(charge.size for charge in list(self._charges)[-LOOKS:])
        return sum(c.size for c in self._charges if c.index < 0 or c.index > room.applied)

    def _room(self, id: str) -> tuple[str, Room]:
        return self._rooms.get(id) or (self._me.name if id == self._me.id else id, Room())

    def refuse(self, command: Command) -> Busy | None:
        """Why this command of a caller is not proposed, or None: then it counts as accepted."""
        if self._margin == ENOUGH or isinstance(command, FREES):
            return None
        if isinstance(command, Txn) and frees(command):
            return None
        size = SPREAD * weight(command)
        if not self._refusing and self._charges[-1].size + size <= self._margin:
            self._charges[-1].size += size
            return None
        self._refusing = True
        self.refused += 1
        return Busy(self._words(size))

    @property
    def fits_snapshot(self) -> bool:
        """Is there room for one more copy of the state? Without it the copy would end the process."""
        free = self.own.free
        return free < 0 or free >= self._snapshot

    @property
    def told(self) -> str:
        """What is wrong and what helps, for people; "" while writes are taken."""
        return self._words(0) if self._refusing else ""

    def _words(self, size: int) -> str:
        """`size` is what the write that is refused may take. The figures are those that were weighed."""
        short = self._short
        writing = short.unseen + self._charges[-1].size + size
        also = f", {_mib(writing)} more may be needed for what is being written" * (writing >= WORTH_TELLING)
        return (
            f"No space: {short.name} has {_mib(short.room.free)} left on its disk and keeps "
            f"{_mib(short.room.reserve)} in reserve{also} (limits.disk_reserve_bytes) for deletes, leaves "
            "and repair: only these are accepted. Make room where its data_dir is: writes go on by "
            "themselves then"
        )


def _mib(size: int) -> str:
    return f"{max(size, 0) / MIB:.1f} MiB"
