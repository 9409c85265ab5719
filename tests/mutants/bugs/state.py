"""Bugs of the replicated state: applying, retries, indexes, cluster time, what is kept for whom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import apsw
import msgspec
from mutants.bug import Patch, bug

from gemot.server import clock, leader, machine, recovery
from gemot.server.machine import Machine, Outcome
from gemot.server.model.command import IdempotencyKey, RetryId, decode
from gemot.server.model.errors import GemotError
from gemot.server.model.query import Applied
from gemot.server.raft.types import Entry, EntryKind
from gemot.server.state import changes, retries, tombstones
from gemot.server.state.meta import Meta
from gemot.server.state.retries import Retries
from gemot.server.state.scope import Writing
from gemot.server.state.store import State
from gemot.server.storage.statefile import StateFile

MACHINE = "tests/test_machine.py"
RETRIES = "tests/state/test_retries.py"
KV = "tests/state/test_kv.py"
PAGES = "tests/state/test_pages.py"


@bug(18, tests=(MACHINE,))
def the_applied_index_follows_its_effects(patch: Patch) -> None:
    """The applied index is committed with the batch after the one that it tells of."""
    save = Meta.save
    behind: dict[int, tuple[Any, ...]] = {}

    def save_the_one_before(self: Meta, cursor: Any) -> None:
        now = self.kept()
        index, term = behind.get(id(self), now)[:2]
        behind[id(self)] = now
        self.restore((min(index, now[0]), min(term, now[1]), *now[2:]))
        save(self, cursor)
        self.restore(now)

    patch.setattr(Meta, "save", save_the_one_before)


@bug(18, 26, tests=("tests/server/test_recovery.py", "tests/storage/test_every_fault.py"))
def the_rows_are_not_verified_at_a_start(patch: Patch) -> None:
    """A state that may have lost commits with its write-ahead log is taken as it is."""
    open_verified = recovery._open_verified

    def open_as_whole(*arguments: Any) -> Any:
        verify = State.verify
        patch.setattr(State, "verify", lambda self: None)
        try:
            return open_verified(*arguments)
        finally:
            patch.setattr(State, "verify", verify)

    patch.setattr(recovery, "_open_verified", open_as_whole)


@bug(20)
def rows_have_the_index_of_their_slice(patch: Patch) -> None:
    """What an entry writes has the index of the first entry that was applied together with it."""
    enter = Writing.enter

    def enter_first(self: Writing, index: int, accessor: str = "", at_ms: int = 0) -> None:
        enter(self, self.index or index, accessor, at_ms)

    patch.setattr(Writing, "enter", enter_first)


@bug(20, tests=("tests/state/test_catalog.py",))
def a_refusal_leaves_its_effects(patch: Patch) -> None:
    """What a rule wrote before it refused stays."""

    def run(rule: Any, writing: Writing, command: Any) -> Any:
        return rule(writing, command)

    patch.setattr(machine, "_undoing", run)


@bug(
    20,
    tests=("tests/cluster/test_restart.py", "tests/state/test_hash.py", "tests/state/test_against_model.py"),
    simulated=False,
)
def a_drift_is_not_noticed(patch: Patch) -> None:
    """A server whose state hash is not the leader's goes on."""
    from gemot.server.state import store

    patch.setattr(store, "compare_hash", lambda writing, command: True)
    patch.setattr(machine, "compare_hash", lambda writing, command: True)


@bug(34, tests=(MACHINE,), simulated=False)
def an_unknown_entry_is_skipped(patch: Patch) -> None:
    """A command of a newer release is passed over on a server that does not know it."""
    apply = Machine._apply_entry

    def apply_or_skip(self: Machine, writing: Writing, entry: Entry) -> Outcome | None:
        try:
            return apply(self, writing, entry)
        except (GemotError, msgspec.MsgspecError, KeyError):
            writing.meta.advance(entry.index, entry.term)
            return Outcome(entry.index, Applied(entry.index, True), ())

    patch.setattr(Machine, "_apply_entry", apply_or_skip)


# -- time --------------------------------------------------------------------------------------------------


@bug(7, 37, tests=(MACHINE,))
def cluster_time_goes_back(patch: Patch) -> None:
    """Cluster time is what the leader's own clock says: a new leader's may say less."""
    apply = Machine._apply_entry

    def apply_at(self: Machine, writing: Writing, entry: Entry) -> Outcome | None:
        if entry.kind == EntryKind.COMMAND:
            writing.meta.time_ms = decode(entry.data).time_ms
        return apply(self, writing, entry)

    def cluster_time_ms(self: Any) -> int:
        return int(self._timer.now_ms())

    from gemot.server.consensus import Replica

    patch.setattr(Machine, "_apply_entry", apply_at)
    patch.setattr(Replica, "cluster_time_ms", cluster_time_ms)


@bug(7, 37, tests=("tests/server/test_clock.py",))
def a_leap_of_the_clock_is_time_that_passed(patch: Patch) -> None:
    """An hour that the leader's host slept through ends what others still wait for."""
    patch.setattr(clock, "LEAP_MS", 1 << 60)


# -- retries -----------------------------------------------------------------------------------------------


@bug(19, tests=(RETRIES,))
def a_snapshot_forgets_the_retries(patch: Patch) -> None:
    """A snapshot has every row but the names of the writes that were answered."""
    copy = StateFile.snapshot_to

    def copy_without(self: StateFile, path: Path) -> tuple[int, int]:
        found = copy(self, path)
        connection = apsw.Connection(str(path), vfs=self.vfs)
        for table in ("retry", "retry_origin", "idempotency"):
            connection.execute(f"delete from {table}")
        connection.close()
        return found

    patch.setattr(StateFile, "snapshot_to", copy_without)


@bug(19, tests=("tests/server/test_leader.py",))
def retries_are_forgotten_at_once(patch: Patch) -> None:
    """The leader has the names of answered writes forgotten while they may still be tried again."""
    patch.setattr(leader, "RETRY_KEEP_MS", 0)
    patch.setattr(leader, "RETRY_STEP_MS", 200)
    put = retries._put_key

    def put_answered(writing: Writing, keyed: Any, time_ms: int) -> None:
        if keyed.result is not None:
            put(writing, keyed, time_ms)

    patch.setattr(retries, "_put_key", put_answered)


@bug(19, tests=(RETRIES,))
def only_successes_are_remembered(patch: Patch) -> None:
    """A write that was refused is carried out when it is tried again."""
    store = Retries.store

    def store_success(
        self: Retries, writing: Writing, accessor: str, name: RetryId | IdempotencyKey, result: Any
    ) -> None:
        if isinstance(result, Applied):
            store(self, writing, accessor, name, result)

    patch.setattr(Retries, "store", store_success)


@bug(19, tests=(RETRIES,), simulated=False)
def a_key_names_any_request(patch: Patch) -> None:
    """An Idempotency-Key that was used for one request answers for another one."""
    find = retries._earlier_of_key

    def earlier(writing: Writing, accessor: str, name: IdempotencyKey) -> Any:
        row = writing.cursor.execute("select row from idempotency where key = ?", (name.key,)).get
        known = retries._decode_keyed(row).body_hash if row is not None else name.body_hash
        return find(writing, accessor, msgspec.structs.replace(name, body_hash=known))

    patch.setattr(retries, "_earlier_of_key", earlier)


# -- indexes and history -----------------------------------------------------------------------------------


@bug(38, tests=(KV,))
def deletes_leave_no_trace(patch: Patch) -> None:
    """A deleted key leaves nothing behind by which the index of its prefix would go on."""
    patch.setattr(tombstones, "bury", lambda writing, key: None)


@bug(38, tests=(KV,))
def reaping_takes_the_index_back(patch: Patch) -> None:
    """When old tombstones go, nobody remembers up to which index they were."""
    reap = tombstones._remove

    def reap_and_forget(writing: Writing, through: int, limit: int) -> None:
        kept = writing.meta.reaped_index
        reap(writing, through, limit)
        writing.meta.reaped_index = kept

    patch.setattr(tombstones, "_remove", reap_and_forget)


@bug(38, tests=("tests/server/test_leader.py",), simulated=False)
def changes_are_trimmed_at_once(patch: Patch) -> None:
    """The change table keeps nothing for those who come back."""
    patch.setattr(changes, "KEEP_INDEXES", 0)
    patch.setattr(changes, "STEP_INDEXES", 0)


@bug(38, tests=(PAGES,), simulated=False)
def trimmed_changes_are_not_missed(patch: Patch) -> None:
    """The change table is trimmed under who still needs it, and a list that was put right by it is told."""
    patch.setattr(changes, "trimmed_to", lambda cursor: 0)


@bug(38, tests=(PAGES,), simulated=False)
def a_list_in_two_transactions_is_not_put_right(patch: Patch) -> None:
    """What changed while a long list was read is told as it was when its page was read."""
    from gemot.server.state import pages

    patch.setattr(pages, "_put_right", lambda reading, found, prefix, began_at: found)
