"""Bugs of sessions, locks and transactions: leases that end early or never, fences that stand still, locks
that stay, and parts of what was to be done as a whole."""

from __future__ import annotations

from typing import Any

import msgspec
from mutants.bug import Patch, bug

from gemot.server.leader import Leader
from gemot.server.model.kv import KvSet
from gemot.server.model.session import EndLeases, Lease, RenewSession, Session
from gemot.server.state import kv, locks, session
from gemot.server.state import txn as transactions
from gemot.server.state.scope import Writing
from gemot.server.state.store import State

SESSIONS = "tests/state/test_session.py"
LOCKS = "tests/state/test_kv.py"
TRANSACTIONS = "tests/state/test_txn.py"
FAILED_ONES = "tests/state/test_failed_txn.py"


@bug(35, tests=(SESSIONS,))
def what_was_due_when_it_was_proposed_ends(patch: Patch) -> None:
    """A session that was renewed after its end was proposed ends all the same."""

    def end_all(writing: Writing, command: EndLeases) -> int:
        living = [id for id, _ in command.leases if locks.node_of(writing.cursor, id)]
        for id in living:
            session.end(writing, id)
        locks.forget_delays(writing)
        return len(living)

    patch.setattr(session, "end_leases", end_all)


@bug(35, tests=(SESSIONS,))
def a_renewal_keeps_its_generation(patch: Patch) -> None:
    """A renewal moves the deadline alone, so nobody can tell what was due before it from what is due now."""
    put = session._put_lease

    def put_same(writing: Writing, of: Session, *, generation: int) -> None:
        put(writing, of, generation=0)

    patch.setattr(session, "_put_lease", put_same)


@bug(35, tests=(SESSIONS,))
def a_lease_is_due_at_half_its_ttl(patch: Patch) -> None:
    """Who renews in time finds its session gone."""

    def put(writing: Writing, of: Session, *, generation: int) -> None:
        deadline_ms = writing.time_ms + of.ttl_ms // 2
        row = msgspec.msgpack.encode(Lease(of.id, generation, writing.meta.epoch, deadline_ms))
        values = (of.id, writing.meta.epoch, deadline_ms, row)
        writing.cursor.execute("insert into lease values (?, ?, ?, ?)", values)
        writing.add(b"lease", row)

    patch.setattr(session, "_put_lease", put)


@bug(36, tests=(SESSIONS,))
def a_renewal_is_said_and_not_done(patch: Patch) -> None:
    """The holder is told that its session lives on, and the deadline stays."""

    def renew(writing: Writing, command: RenewSession) -> bool:
        return locks.node_of(writing.cursor, command.id) != ""

    patch.setattr(session, "renew", renew)


@bug(37, tests=("tests/server/test_leader.py",))
def leases_are_never_ended(patch: Patch) -> None:
    """The locks of a holder that vanished are never to be had again."""
    patch.setattr(Leader, "_end_leases", lambda self: None)


@bug(37, tests=("tests/server/test_leader.py",))
def leases_end_late(patch: Patch) -> None:
    """The locks of a holder that vanished are to be had seconds after their time: the leader looks late."""
    due = State.leases_due
    patch.setattr(State, "leases_due", lambda self, now_ms: due(self, now_ms - 4_000))


@bug(37, tests=(SESSIONS,))
def a_lock_delay_is_forgotten(patch: Patch) -> None:
    """The lock of a session that just ended is given away while its holder may still write."""
    patch.setattr(locks, "is_delayed", lambda writing, key: False)


@bug(37, tests=(SESSIONS,))
def a_lock_delay_never_ends(patch: Patch) -> None:
    """Once a session ended its locks are refused to everybody for ever."""

    def is_delayed(writing: Writing, key: bytes) -> bool:
        return writing.cursor.execute("select 1 from lock_delay where key = ?", (key,)).get is not None

    patch.setattr(locks, "is_delayed", is_delayed)
    patch.setattr(locks, "forget_delays", lambda writing: None)


@bug(37, tests=(SESSIONS,))
def a_session_that_is_to_delete_only_releases(patch: Patch) -> None:
    """The keys of an ephemeral holder stay when it is gone."""
    end = kv.end_locks

    def release(writing: Writing, of: Session) -> None:
        end(writing, msgspec.structs.replace(of, behavior="release"))

    patch.setattr(kv, "end_locks", release)


@bug(37, 40, tests=(SESSIONS,))
def a_deadline_of_another_epoch_counts(patch: Patch) -> None:
    """After a restore leases end by the time of the cluster that the snapshot is of."""

    def end_leases(writing: Writing, command: EndLeases) -> int:
        due = [session._lease(writing.cursor, id) for id, _ in command.leases]
        ended = [lease.session for lease in due if lease and lease.deadline_ms <= writing.time_ms]
        for id in ended:
            session.end(writing, id)
        return len(ended)

    patch.setattr(session, "end_leases", end_leases)


@bug(40, tests=(SESSIONS,))
def a_fence_is_the_lock_index(patch: Patch) -> None:
    """It counts acquisitions of the key as it stands, and begins anew when the key was deleted."""
    acquired = kv._acquired

    def counted(writing: Writing, key: bytes, of: str, lock: Any) -> Any:
        found = acquired(writing, key, of, lock)
        return found if found is None else msgspec.structs.replace(found, fence=found.index)

    patch.setattr(kv, "_acquired", counted)


@bug(40, tests=(SESSIONS,))
def a_fence_knows_no_epoch(patch: Patch) -> None:
    """It is the index alone."""
    patch.setattr(locks, "fence", lambda epoch, index: index)


@bug(37, tests=(SESSIONS, LOCKS))
def any_session_may_hold_a_lock(patch: Patch) -> None:
    """One that has ended takes a lock, and nothing ever takes it from it."""
    patch.setattr(locks, "node_of", lambda cursor, id: "n1")


@bug(37, tests=(SESSIONS,))
def a_session_ends_and_its_locks_stay(patch: Patch) -> None:
    """What it held is held for ever."""
    patch.setattr(kv, "end_locks", lambda writing, of: None)


@bug(35, tests=(SESSIONS,))
def a_node_goes_and_its_sessions_stay(patch: Patch) -> None:
    """Deregistering a node ends nothing."""
    patch.setattr(session, "end_with_node", lambda writing, node: None)


@bug(35, tests=(SESSIONS,), simulated=False)
def a_critical_check_ends_no_session(patch: Patch) -> None:
    """A dead host keeps its locks until somebody deregisters it."""
    patch.setattr(session, "end_with_check", lambda writing, node, check_id: None)


@bug(39, tests=(LOCKS,))
def who_acquires_again_gets_a_new_fence(patch: Patch) -> None:
    """The holder's own second acquisition makes its first fence worthless."""
    acquired = kv._acquired

    def anew(writing: Writing, key: bytes, of: str, lock: Any) -> Any:
        found = acquired(writing, key, of, lock)
        fence = locks.fence(writing.meta.epoch, writing.index)
        return found if found is None else msgspec.structs.replace(found, fence=fence)

    patch.setattr(kv, "_acquired", anew)


@bug(37, tests=(LOCKS,))
def whoever_asks_releases_a_lock(patch: Patch) -> None:
    """A release does not look at who holds the key."""
    lock = kv._lock

    def lock_of_all(writing: Writing, command: KvSet, old: Any) -> Any:
        if command.release and old is not None and old.session:
            return kv._Lock("", old.lock_index, old.fence)
        return lock(writing, command, old)

    patch.setattr(kv, "_lock", lock_of_all)


@bug(18, tests=(FAILED_ONES,))
def a_failed_transaction_hides_what_it_was_to_delete(patch: Patch) -> None:
    """Rows come back when it is undone, and the range that it deleted stays masked in memory."""
    undo = Writing.undo

    def without_masks(self: Writing, kept: Any) -> None:
        undo(self, kept._replace(masks=self.masks.changes))

    patch.setattr(Writing, "undo", without_masks)


@bug(18, tests=(TRANSACTIONS,))
def a_deleted_range_spares_what_its_transaction_wrote(patch: Patch) -> None:
    """What was written in the entry that deletes the range has its index, and is not older."""
    patch.setattr(Writing, "changed", lambda self, topic, prefix: [])


@bug(40, tests=(TRANSACTIONS,))
def a_fence_is_never_looked_at(patch: Patch) -> None:
    """A transaction takes any fence for that of the holder."""
    patch.setattr(transactions._Look, "_check_fence", lambda self, op: "")


@bug(40, tests=(TRANSACTIONS,))
def a_guard_forgets_its_greatest_fence(patch: Patch) -> None:
    """It takes every fence, a smaller one too."""
    patch.setattr(transactions, "_guard", lambda writing, op: "")


@bug(40, tests=(TRANSACTIONS,))
def a_released_fence_still_guards(patch: Patch) -> None:
    """The key keeps the fence of its last holder, and nobody asks whether it is held."""
    patch.setattr(
        transactions, "holds", lambda entry, check: entry is not None and entry.fence == check.fence
    )


@bug(18, tests=(FAILED_ONES,))
def a_failed_transaction_stays_half_done(patch: Patch) -> None:
    """What stood before the operation that failed is kept, though the answer says that nothing is."""
    patch.setattr(Writing, "undo", lambda self, kept: self.keep())


@bug(18, tests=(TRANSACTIONS,))
def a_key_is_locked_twice_in_one_transaction(patch: Patch) -> None:
    """Delete and lock again: two holders have the fence of one entry."""

    class Forgetful(set[bytes]):
        def add(self, key: bytes) -> None:
            """No key is remembered."""

    init = transactions._Effects.__init__

    def forgetting(self: Any, writing: Writing, look: Any) -> None:
        init(self, writing, look)
        self._acquired = Forgetful()

    patch.setattr(transactions._Effects, "__init__", forgetting)


@bug(35, tests=(SESSIONS,))
def a_lease_has_no_slack(patch: Patch) -> None:
    """The servers end a session at its TTL sharp, while a holder whose clock is slower still believes."""
    patch.setattr(session, "DUE_SHARE", 1 << 62)
