"""Restoring a snapshot: taken in here, staged on the voters, logged, put in place where its entry is applied.

The order (design: Restore):
1. An archive comes in piece by piece, and is verified as a whole before anything else is done.
2. Every voter fetches the blob and says when it has it durably. Those that cannot be reached are gone
without, if a majority has it: they fetch it when they come to the entry. So no loss that the log survives
loses it. 3. `Restore` is logged. From then on it is decided by the log, like any write: what was before it is
gone, what is after it stays.
4. Where it is the next entry, nothing is applied and nobody reads until the blob is the state.

A blob is kept until no log that is kept here holds its entry, and every voter has passed it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

from gemot.server.consensus import Replica
from gemot.server.machine import RestoreDue
from gemot.server.model.errors import (
    Busy,
    GemotError,
    NotFound,
    OutcomeUnknown,
    Unavailable,
)
from gemot.server.model.restore import Blob, Restore, Restored
from gemot.server.ports import Archives, Log, Random, Timer
from gemot.server.raft.types import SnapshotMeta
from gemot.server.rpc.message import BlobPiece, Call, FetchBlob, Passed, Stage, Upload
from gemot.server.state.store import State

log = logging.getLogger("gemot.server")

MAX_UPLOADS = 2
IDLE_MS = 60_000
REACH_MS = 3_000
"""A voter that cannot be reached for so long is gone without."""

STAGE_MS = 600_000
OUTCOME_MS = 600_000
"""How long a restore that was logged is waited for: large states take their time."""

AGAIN_MS = 250
BUSY_MS = 20
TIDY_MS = 60_000
UNUSED_MS = 3_600_000
"""A blob of which no entry was ever seen is kept for so long."""

Reply = Callable[[Any], None]


class Peers(Protocol):
    """What of the other servers is needed here; `Server` fulfils it."""

    def voters(self) -> tuple[str, ...]: ...

    def servers(self) -> tuple[str, ...]:
        """All that are known, this one among them, whether they vote or not."""

    def voters_at(self, index: int) -> tuple[str, ...]: ...

    def ask(self, id: str, call: Call, done: Callable[[Any], None]) -> None: ...

    def name(self, id: str) -> str: ...


class _Upload:
    """One archive on its way in. `moving` says that a piece of it is being unpacked."""

    __slots__ = ("id", "moving", "reached", "seen_ms", "who")

    def __init__(self, id: int, who: str, seen_ms: int) -> None:
        self.id = id
        self.who = who
        self.seen_ms = seen_ms
        self.reached = 0
        self.moving = False


class _Staging:
    """One blob that the voters are asked to have. `open` are those that have not answered yet."""

    __slots__ = ("blob", "done", "epoch", "have", "moved_ms", "open", "until_ms")

    def __init__(
        self, blob: Blob, epoch: int, voters: tuple[str, ...], now_ms: int, done: Callable[[_Staging], None]
    ) -> None:
        self.blob = blob
        self.epoch = epoch
        self.open = dict.fromkeys(voters)
        self.have: dict[str, None] = {}
        self.moved_ms = dict.fromkeys(voters, now_ms)
        self.until_ms = now_ms + STAGE_MS
        self.done = done


class _Awaited:
    """A restore that was logged, or perhaps was."""

    __slots__ = ("id", "missing", "reply", "until_ms")

    def __init__(self, id: bytes, missing: tuple[str, ...], reply: Reply, until_ms: int) -> None:
        self.id = id
        self.missing = missing
        self.reply = reply
        self.until_ms = until_ms


class Restoring:
    """`busy`: something else works on the state file or its snapshots. `hold_reads` is called
    before it is replaced.

    `taken` is told the snapshot that every restore leaves; `apply` logs a command, wherever the leader is.
    """

    def __init__(
        self,
        *,
        me: str,
        archives: Archives,
        replica: Replica,
        state: State,
        log: Log,
        peers: Peers,
        apply: Callable[[Restore, str, Callable[[Any], None]], None],
        busy: Callable[[], bool],
        hold_reads: Callable[[], None],
        taken: Callable[[SnapshotMeta], None],
        timer: Timer,
        random: Random,
    ) -> None:
        self._me = me
        self._archives = archives
        self._replica = replica
        self._state = state
        self._log = log
        self._peers = peers
        self._apply = apply
        self._busy = busy
        self._hold_reads = hold_reads
        self._taken = taken
        self._timer = timer
        self._random = random
        self._uploads: dict[tuple[str, int], _Upload] = {}
        self._staging: dict[str, _Staging] = {}
        self._fetching: dict[str, list[Callable[[GemotError | None], None]]] = {}
        self._awaited: list[_Awaited] = []
        self._due: RestoreDue | None = None
        self._turn = 0
        self._seen_ms: dict[str, int] = {}
        self._tidied_ms = timer.now_ms()
        self.replacing = False
        """The blob is being put in place: nobody else works on the state file or its snapshots."""

        self.restored = 0

    @property
    def waiting_for(self) -> str:
        """What a restore that is due waits for, for people; "" if none is."""
        if self._due is None:
            return ""
        if self.replacing:
            return "Restoring: a snapshot is being put in place of the state"
        sha256 = self._due.command.sha256
        return f"Restoring: waiting for the snapshot {sha256[:16]} from the other servers"

    # -- an archive comes in -----------------------------------------------------------------------

    def on_upload(self, who: str, call: Upload, reply: Reply) -> None:
        upload = self._uploads.get((who, call.id))
        if upload is None and call.offset == 0:
            if len(self._uploads) + len(self._staging) >= MAX_UPLOADS:
                reply(Busy(f"{MAX_UPLOADS} snapshots are being restored through this server"))
                return
            upload = _Upload(self._random.randrange(1 << 62), who, self._timer.now_ms())
            self._uploads[who, call.id] = upload
        if upload is None or upload.moving or upload.reached != call.offset:
            reply(NotFound("this server does not have what came before of this snapshot: send it again"))
            return
        upload.moving = True

        def taken_in(error: GemotError | None) -> None:
            upload.moving = False
            upload.reached += len(call.data)
            upload.seen_ms = self._timer.now_ms()
            if isinstance(error, GemotError):
                self._uploads.pop((who, call.id), None)
                reply(error)
            elif not call.last:
                reply(True)
            else:
                self._uploads.pop((who, call.id), None)
                self._archives.finish(upload.id, lambda made: self._verified(made, call, reply))

        self._archives.take_in(upload.id, call.data, taken_in)

    def _verified(self, made: Blob | GemotError, call: Upload, reply: Reply) -> None:
        if isinstance(made, GemotError):
            reply(made)
        elif made.sha256 in self._staging:
            reply(Busy("the same snapshot is being restored already"))
        else:
            log.info("server: snapshot received: index=%d size=%d sha256=%.16s", *_told(made))
            others = tuple(id for id in self._peers.voters() if id != self._me)
            staging = _Staging(
                made,
                call.epoch,
                others,
                self._timer.now_ms(),
                lambda staging: self._staged(staging, call.token, reply),
            )
            self._staging[made.sha256] = staging
            for id in others:
                self._stage_on(staging, id)
            self._look_at(staging)

    # -- staged on the voters ----------------------------------------------------------------------

    def _stage_on(self, staging: _Staging, id: str) -> None:
        if id not in staging.open:
            return

        def answered(result: Any) -> None:
            if id not in staging.open:
                return
            if result is True:
                staging.have[id] = staging.open.pop(id)
                self._look_at(staging)
                return
            if self._timer.now_ms() - staging.moved_ms[id] >= REACH_MS:
                log.warning(
                    "server: snapshot not staged: event=restore-not-staged server=%s error=%s",
                    self._peers.name(id),
                    result,
                )
                del staging.open[id]
                self._look_at(staging)
                return
            self._timer.call_after(AGAIN_MS, lambda: self._stage_on(staging, id))

        self._peers.ask(id, Stage(staging.blob), answered)

    def _look_at(self, staging: _Staging) -> None:
        if not staging.open and self._staging.pop(staging.blob.sha256, None) is not None:
            staging.done(staging)

    def _staged(self, staging: _Staging, token: str, reply: Reply) -> None:
        voters = self._peers.voters()
        missing = tuple(self._peers.name(id) for id in voters if id != self._me and id not in staging.have)
        have = len(voters) - len(missing)
        if have * 2 <= len(voters):
            reply(
                Unavailable(
                    f"only {have} of {len(voters)} servers could take the snapshot "
                    f"(not {', '.join(missing)}): nothing was restored"
                )
            )
            return
        blob, id = staging.blob, self._random.randbytes(16)
        command = Restore(id, blob.sha256, blob.size, blob.index, blob.epoch, staging.epoch)
        awaited = _Awaited(id, missing, reply, self._timer.now_ms() + OUTCOME_MS)

        def logged(result: Any) -> None:
            # What may have been logged is waited for here, where it will be seen.
            if isinstance(result, GemotError) and not isinstance(result, OutcomeUnknown):
                reply(result)
            else:
                self._awaited.append(awaited)
                self._look_for_outcomes()

        self._apply(command, token, logged)

    def _look_for_outcomes(self) -> None:
        marks = {mark.id: mark for mark in self._state.restores}
        now = self._timer.now_ms()
        for awaited in list(self._awaited):
            if (mark := marks.get(awaited.id)) is not None:
                self._awaited.remove(awaited)
                awaited.reply(Restored(mark.index, mark.epoch, awaited.missing))
            elif now >= awaited.until_ms:
                self._awaited.remove(awaited)
                awaited.reply(OutcomeUnknown("the restore was logged, or perhaps was, and is not done yet"))

    # -- what the other servers ask ----------------------------------------------------------------

    def on_stage(self, who: str, call: Stage, reply: Reply) -> None:
        def fetched(error: GemotError | None) -> None:
            reply(True if error is None else error)

        self._fetch(call.blob, who, fetched)

    def on_fetch(self, who: str, call: FetchBlob) -> BlobPiece:
        """Raises NotFound."""
        piece = BlobPiece(call.offset, self._archives.read_blob(call.sha256, call.offset))
        if (staging := self._staging.get(call.sha256)) is not None and who in staging.moved_ms:
            staging.moved_ms[who] = self._timer.now_ms()
        return piece

    def on_passed(self, call: Passed) -> bool:
        return self._state.applied_index >= call.index

    # -- fetching a blob ---------------------------------------------------------------------------

    def _has(self, sha256: str) -> bool:
        return any(blob.sha256 == sha256 for blob in self._archives.blobs())

    def _fetch(self, blob: Blob, source: str, done: Callable[[GemotError | None], None]) -> None:
        if self._has(blob.sha256):
            done(None)
            return
        if (others := self._fetching.get(blob.sha256)) is not None:
            others.append(done)
            return
        try:
            inbox = self._archives.blob_inbox(blob)
        except GemotError as error:
            done(error)
            return
        self._fetching[blob.sha256] = [done]

        def ended(error: GemotError | None) -> None:
            for told in self._fetching.pop(blob.sha256, ()):
                told(error)

        def ask(offset: int) -> None:
            self._peers.ask(source, FetchBlob(blob.sha256, offset), lambda piece: came(offset, piece))

        def came(offset: int, piece: BlobPiece | GemotError) -> None:
            if isinstance(piece, GemotError):
                ended(piece)
                return
            try:
                inbox.write(piece.offset if piece.offset == offset else -1, piece.data)
            except GemotError as error:
                ended(error)
                return
            reached = offset + len(piece.data)
            if reached < blob.size and piece.data:
                ask(reached)
            else:
                inbox.finish(ended)

        ask(0)

    # -- in place of the state ---------------------------------------------------------------------

    def on_restore(self, due: RestoreDue) -> None:
        """The replica holds before this entry. It is told when the state is the blob's."""
        self._due = due
        self._advance(due)

    def _advance(self, due: RestoreDue) -> None:
        if due is not self._due or self.replacing:
            return
        command = due.command
        if not self._has(command.sha256):
            self._fetch_due(due)
        elif self._busy():
            self._timer.call_after(BUSY_MS, lambda: self._advance(due))
        else:
            self.replacing = True
            voters = self._peers.voters_at(due.placement.applied_index)
            self._archives.prepare(
                command.sha256, due.placement, voters, lambda result: self._prepared(due, result)
            )

    def _fetch_due(self, due: RestoreDue) -> None:
        """From one server after the other, until one has it: who gave its vote back may be the only one."""
        others = [id for id in self._peers.servers() if id != self._me]
        command = due.command
        blob = Blob(command.sha256, command.size, command.index, 0, command.blob_epoch, "")

        def fetched(error: GemotError | None) -> None:
            if error is None:
                self._advance(due)
            else:
                self._timer.call_after(AGAIN_MS, lambda: self._advance(due))

        if not others:
            self._timer.call_after(AGAIN_MS, lambda: self._advance(due))
            return
        self._turn += 1
        self._fetch(blob, others[self._turn % len(others)], fetched)

    def _prepared(self, due: RestoreDue, made: SnapshotMeta | GemotError) -> None:
        if isinstance(made, GemotError):
            log.warning("server: snapshot damaged: event=restore-blob-damaged error=%s", made)
            self.replacing = False
            self._advance(due)
            return
        self._hold_reads()
        self._replace(due, made)

    def _replace(self, due: RestoreDue, made: SnapshotMeta) -> None:
        """A long read, or a copy for someone, that had begun before has the file open: it is waited for."""
        if self._busy():
            self._timer.call_after(BUSY_MS, lambda: self._replace(due, made))
        else:
            self._archives.replace(made, lambda: self._replaced(due, made))

    def _replaced(self, due: RestoreDue, made: SnapshotMeta) -> None:
        self.replacing = False
        self._due = None
        self.restored += 1
        place = due.placement
        log.info("server: snapshot restored: index=%d epoch=%d", place.restored_index, place.epoch)
        self._replica.on_restored(due)
        self._taken(made)
        self._look_for_outcomes()

    def on_installed(self) -> None:
        """A snapshot of a later index became the state: what was due is in it."""
        if self._due is not None and self._state.applied_index >= self._due.placement.applied_index:
            self._due = None

    # -- from time to time -------------------------------------------------------------------------

    def on_tick(self) -> None:
        now = self._timer.now_ms()
        if self._awaited:
            self._look_for_outcomes()
        for key, upload in list(self._uploads.items()):
            if not upload.moving and now - upload.seen_ms >= IDLE_MS:
                del self._uploads[key]
                self._archives.abandon(upload.id)
        for staging in list(self._staging.values()):
            if now >= staging.until_ms:
                staging.open = {}
                self._look_at(staging)
        if now - self._tidied_ms >= TIDY_MS and self._due is None:
            self._tidied_ms = now
            self._tidy(now)

    def _tidy(self, now: int) -> None:
        """Forget the blobs that nobody needs any more."""
        marks = {mark.sha256: mark for mark in self._state.restores}
        for blob in self._archives.blobs():
            if blob.sha256 in self._staging or blob.sha256 in self._fetching:
                continue
            first_seen = self._seen_ms.setdefault(blob.sha256, now)
            mark = marks.get(blob.sha256)
            if mark is not None:
                if self._log.term(mark.raft_index) is None:
                    self._forget_once_passed(blob.sha256, mark.raft_index)
            elif now - first_seen >= UNUSED_MS and self._all_is_applied():
                self._archives.forget(blob.sha256)

    def _all_is_applied(self) -> bool:
        raft = self._replica.raft
        return bool(raft.leader) and self._state.applied_index == raft.commit == raft.last_index

    def _forget_once_passed(self, sha256: str, index: int) -> None:
        others = [id for id in self._peers.voters() if id != self._me]
        left = len(others)

        def answered(result: Any) -> None:
            nonlocal left
            left -= result is True
            if left == 0:
                self._archives.forget(sha256)

        for id in others:
            self._peers.ask(id, Passed(index), answered)
        if not others:
            self._archives.forget(sha256)


def _told(blob: Blob) -> tuple[int, int, str]:
    return blob.index, blob.size, blob.sha256
