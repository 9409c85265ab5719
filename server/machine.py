"""The one switch: committed log entries in, rows and results out. The same on every server.

A batch is one transaction: the effects of its entries, the applied index and term, and everything the state
remembers of them are committed together or not at all. A command that a rule refuses has no effect, and
its refusal is its result. A failure of the disk, a damaged or drifted state, and an entry that this
release does not know all leave `apply`: the node stops, it never skips.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from gemot.server.model.autopilot import SetAutopilot
from gemot.server.model.catalog import Deregister, Register
from gemot.server.model.command import Command, Envelope, IdempotencyKey, decode
from gemot.server.model.coordinate import SetCoordinates
from gemot.server.model.errors import Corrupt, Forbidden, GemotError, StorageFailed
from gemot.server.model.kv import ExpireKeys, KvDelete, KvDeletePrefix, KvPurge, KvSet
from gemot.server.model.query import Applied
from gemot.server.model.restore import Restore
from gemot.server.model.session import CreateSession, DestroySession, EndLeases, RenewSession
from gemot.server.model.txn import Txn
from gemot.server.model.upkeep import (
    PruneRetries,
    ReapTombstones,
    Tick,
    TrimChanges,
    TrimHistory,
    VerifyState,
)
from gemot.server.raft.types import Entry, EntryKind
from gemot.server.raft.voters import by_hand
from gemot.server.state import (
    autopilot,
    catalog,
    changes,
    coordinate,
    history,
    kv,
    restore,
    session,
    tombstones,
    txn,
)
from gemot.server.state.permission import ALLOW_ALL, Authorizer, operations, require
from gemot.server.state.scope import Writing
from gemot.server.state.store import State, compare_hash
from gemot.server.state.watch import Topic


class Outcome(msgspec.Struct, frozen=True):
    """What became of one entry. `touched` names each topic once; empty where nothing changed.

    The collector must see it: a refusal that carries its traceback leads back to the outcomes of its batch.
    """

    index: int
    result: Applied | GemotError
    touched: tuple[Topic, ...]


class RestoreDue(msgspec.Struct, frozen=True):
    """The next entry is a restore that is to be done, from a blob that the machine does not have."""

    command: Restore
    placement: restore.Placement


class Machine:
    """Applies entries to the state, in their order, each exactly once."""

    def __init__(self, *, state: State, authorizer: Authorizer = ALLOW_ALL) -> None:
        self._state = state
        self._authorizer = authorizer
        self.restore_due: RestoreDue | None = None
        """Set where the last slice ended before an entry that replaces the state; see `apply_ahead`."""

        self._rules: dict[type, Callable[[Writing, Any], bool | int | bytes]] = {
            KvSet: kv.set_key,
            KvDelete: kv.delete_key,
            KvDeletePrefix: kv.delete_prefix,
            KvPurge: kv.purge,
            Register: catalog.register,
            Deregister: catalog.deregister,
            Tick: _tick,
            TrimChanges: changes.trim,
            ReapTombstones: tombstones.reap,
            PruneRetries: state.retries.prune,
            VerifyState: compare_hash,
            SetAutopilot: autopilot.set_config,
            Restore: _repeat_restore,
            SetCoordinates: coordinate.set_all,
            CreateSession: session.create,
            DestroySession: session.destroy,
            RenewSession: session.renew,
            EndLeases: session.end_leases,
            Txn: txn.run,
            TrimHistory: history.trim,
            ExpireKeys: kv.expire_keys,
        }

    def apply(self, entries: Sequence[Entry]) -> list[Outcome]:
        """Apply entries that follow the applied index, in one transaction; an outcome for each."""
        outcomes = self.apply_ahead(entries)
        self._state.settle()
        return outcomes

    def apply_ahead(self, entries: Sequence[Entry]) -> list[Outcome]:
        """`apply`, with the commit left to `State.settle`.

        It ends before a restore that is to be done, with fewer outcomes than entries: the caller then sees
        to `restore_due`, and the entries after it follow once the state was replaced.
        """
        self.restore_due = None
        outcomes: list[Outcome] = []
        with self._state.batch() as writing:
            for entry in entries:
                outcome = self._apply_entry(writing, entry)
                if outcome is None:
                    break
                outcomes.append(outcome)
        return outcomes

    def _apply_entry(self, writing: Writing, entry: Entry) -> Outcome | None:
        """None for a restore that is to be done: nothing of it is."""
        meta, index = writing.meta, entry.index
        if index != meta.applied_index + 1:
            raise Corrupt(f"entry {index} cannot follow the applied index {meta.applied_index}")
        result: Applied | GemotError
        if entry.kind == EntryKind.COMMAND:
            envelope = decode(entry.data)
            if type(envelope.command) is Restore and self._falls_due(writing, entry, envelope):
                return None
            if envelope.time_ms > meta.time_ms:
                meta.time_ms = envelope.time_ms
            writing.enter(index + meta.shift, envelope.accessor, envelope.at_ms)
            result = self._answer(writing, envelope)
        else:
            recovered = by_hand(entry)
            if recovered:
                restore.recovered(meta, index)
            writing.enter(index + meta.shift)
            if recovered:
                writing.touched.append(("all", b""))
            result = Applied(index + meta.shift, True)
        meta.advance(index, entry.term)
        touched = writing.touched
        return Outcome(index, result, tuple(touched if len(touched) < 2 else dict.fromkeys(touched)))

    def _falls_due(self, writing: Writing, entry: Entry, envelope: Envelope) -> bool:
        """Is it neither refused nor done? A refusal and a repetition are ordinary entries."""
        command = envelope.command
        assert isinstance(command, Restore)
        if self._done(writing, command):
            return False
        try:
            require(self._authorizer, envelope.accessor, operations(command, self._state))
            restore.check(writing.cursor, writing.meta, command)
        except StorageFailed:
            raise
        except GemotError:
            return False
        place = restore.placement(writing.meta, command, entry.index, entry.term, envelope.time_ms)
        self.restore_due = RestoreDue(command, place)
        return True

    @staticmethod
    def _done(writing: Writing, command: Restore) -> bool:
        return any(mark.id == command.id for mark in writing.meta.restores)

    def _answer(self, writing: Writing, envelope: Envelope) -> Applied | GemotError:
        """Apply a command unless an earlier try of it was applied."""
        name = envelope.retry
        if name is None:
            return self._carry_out(writing, envelope)
        retries = self._state.retries
        try:
            earlier = retries.earlier(writing, envelope.accessor, name)
        except GemotError as error:
            return error.with_traceback(None)
        if earlier is not None:
            return earlier
        result = self._carry_out(writing, envelope)
        if not (isinstance(result, Forbidden) and isinstance(name, IdempotencyKey)):
            retries.store(writing, envelope.accessor, name, result)
        return result

    def _carry_out(self, writing: Writing, envelope: Envelope) -> Applied | GemotError:
        command = envelope.command
        try:
            if self._authorizer is not ALLOW_ALL:
                if type(command) is Txn:
                    return Applied(writing.index, self._permitted(writing, command, envelope.accessor))
                needed = operations(command, self._state)
                require(self._authorizer, envelope.accessor, needed)
            rule = self._rules[type(command)]
            if type(command) is Register:
                return Applied(writing.index, _undoing(rule, writing, command))
            return Applied(writing.index, rule(writing, command))
        except StorageFailed:
            raise
        except GemotError as error:
            return error.with_traceback(None)

    def _permitted(self, writing: Writing, command: Txn, accessor: str) -> bytes:
        """What of a transaction is denied is among its errors, as what a rule refuses."""
        return txn.run(writing, command, allowed=self._state.allowed_to(accessor), names=self._state)


def _undoing(
    rule: Callable[[Writing, Any], bool | int | bytes], writing: Writing, command: Command
) -> bool | int | bytes:
    """Run a rule that may refuse after it has written: then its effects, and only its, are taken back."""
    kept = writing.kept()
    try:
        value = rule(writing, command)
    except GemotError:
        writing.undo(kept)
        raise
    writing.keep()
    return value


def _repeat_restore(writing: Writing, command: Restore) -> bool:
    """A restore that is not due: it was done, or it is refused."""
    if not Machine._done(writing, command):
        restore.check(writing.cursor, writing.meta, command)
    return True


def _tick(_writing: Writing, _command: Tick) -> bool:
    """The envelope's cluster time is all of it."""
    return True
