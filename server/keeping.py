"""The snapshots that people keep, as one part of the server: saving and restoring, and who asks which."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gemot.server.confirm import Confirmations
from gemot.server.consensus import Replica
from gemot.server.directory import Directory
from gemot.server.machine import RestoreDue
from gemot.server.model.errors import GemotError, Unavailable
from gemot.server.model.restore import Restore
from gemot.server.ports import Archives, Log, Random, Timer
from gemot.server.raft.node import Raft
from gemot.server.raft.types import SnapshotMeta
from gemot.server.restoring import Restoring
from gemot.server.rpc.message import Call, FetchBlob, Passed, ReadArchive, Stage, Upload
from gemot.server.saving import Contact, Saving
from gemot.server.state.store import State

Reply = Callable[[Any], None]


class _Peers:
    """The other servers, as `Restoring` sees them."""

    def __init__(
        self, raft: Raft, directory: Directory, call: Callable[[str, Call, Callable[[Any], None]], None]
    ) -> None:
        self._raft = raft
        self._directory = directory
        self.ask = call
        self.name = directory.name
        self.voters_at = raft.voters_at

    def voters(self) -> tuple[str, ...]:
        return self._raft.voters

    def servers(self) -> tuple[str, ...]:
        return tuple(server.id for server in self._directory.servers())


class Keeping:
    """`archives` None: this server neither saves nor restores (and may never come to a restore in its
    log)."""

    def __init__(
        self,
        *,
        me: str,
        archives: Archives | None,
        raft: Raft,
        replica: Replica,
        state: State,
        log: Log,
        confirmations: Confirmations,
        contact: Contact,
        directory: Directory,
        cluster: Callable[[], str],
        call: Callable[[str, Call, Callable[[Any], None]], None],
        apply: Callable[[Restore, str, Callable[[Any], None]], None],
        busy: Callable[[], bool],
        hold_reads: Callable[[], None],
        taken: Callable[[SnapshotMeta], None],
        timer: Timer,
        random: Random,
    ) -> None:
        self.saving: Saving | None = None
        self.restoring: Restoring | None = None
        if archives is None:
            return
        saving = self.saving = Saving(
            archives=archives,
            confirmations=confirmations,
            replica=replica,
            contact=contact,
            origin=lambda: (raft.voters, cluster()),
            timer=timer,
            random=random,
        )
        self.restoring = Restoring(
            me=me,
            archives=archives,
            replica=replica,
            state=state,
            log=log,
            peers=_Peers(raft, directory, call),
            apply=apply,
            busy=lambda: busy() or saving.copying,
            hold_reads=hold_reads,
            taken=taken,
            timer=timer,
            random=random,
        )

    @property
    def busy(self) -> bool:
        """Is the state file being copied, or being replaced by a blob?"""
        copying = self.saving is not None and self.saving.copying
        return copying or (self.restoring is not None and self.restoring.replacing)

    @property
    def waiting_for(self) -> str:
        return self.restoring.waiting_for if self.restoring is not None else ""

    def on_tick(self) -> None:
        if self.saving is not None and self.restoring is not None:
            self.saving.on_tick()
            self.restoring.on_tick()

    def on_replaced(self) -> None:
        if self.restoring is not None:
            self.restoring.on_installed()

    def on_restore(self, due: RestoreDue) -> None:
        assert self.restoring is not None, "a server whose log may hold a restore has archives"
        self.restoring.on_restore(due)

    def on_call(self, who: str, call: Call, reply: Reply) -> Callable[[], None]:
        saving, restoring = self.saving, self.restoring
        if saving is None or restoring is None:
            reply(Unavailable("this server keeps no snapshots for people"))
            return _nothing
        match call:
            case ReadArchive():
                return saving.on_call(who, call, reply)
            case Upload():
                restoring.on_upload(who, call, reply)
            case Stage():
                restoring.on_stage(who, call, reply)
            case FetchBlob():
                try:
                    reply(restoring.on_fetch(who, call))
                except GemotError as error:
                    reply(error)
            case Passed():
                reply(restoring.on_passed(call))
        return _nothing


def _nothing() -> None:
    """Cancels a call that needs no cancelling."""
