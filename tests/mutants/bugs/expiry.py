"""Bugs of keys that expire: too early, never, or after they were written again."""

from __future__ import annotations

from mutants.bug import Patch, bug

from gemot.server.model.kv import ExpireKeys, KvDelete, KvSet
from gemot.server.state import expiry, kv
from gemot.server.state.scope import Writing

EXPIRY = "tests/state/test_expiry.py"


@bug(35, tests=(EXPIRY,), simulated=False)
def what_was_due_when_it_was_proposed_expires(patch: Patch) -> None:
    """A key that was written again after its expiry was proposed is deleted all the same."""

    def expire_all(writing: Writing, command: ExpireKeys) -> int:
        for key, _ in command.keys:
            kv.delete_key(writing, KvDelete(key))
        return len(command.keys)

    patch.setattr(kv, "expire_keys", expire_all)


@bug(35, tests=(EXPIRY,), simulated=False)
def a_key_is_due_at_half_its_ttl(patch: Patch) -> None:
    """Whoever writes it in time finds that it was gone for a while."""
    begin = expiry.begin
    patch.setattr(expiry, "begin", lambda writing, key, ttl_ms: begin(writing, key, ttl_ms // 2))


@bug(35, tests=(EXPIRY,), simulated=False)
def the_same_value_again_is_no_heartbeat(patch: Patch) -> None:
    """A write that leaves the key as it is leaves its deadline, too."""
    set_key = kv.set_key

    def set_once(writing: Writing, command: KvSet) -> bool | int:
        old = kv.entry_in(writing, command.key)
        if old is not None and (old.value, old.ttl_ms) == (command.value, command.ttl_ms):
            return True
        return set_key(writing, command)

    patch.setattr(kv, "set_key", set_once)


@bug(36, tests=(EXPIRY,), simulated=False)
def a_key_goes_by_the_deadline_of_another_epoch(patch: Patch) -> None:
    """A restored state loses what was near its end when the snapshot was made."""

    def expire(writing: Writing, command: ExpireKeys) -> int:
        found = [(key, expiry.deadline(writing.cursor, key)) for key, _ in command.keys]
        over = [key for key, at in found if at is not None and at[1] <= writing.time_ms]
        for key in over:
            kv.delete_key(writing, KvDelete(key))
        return len(over)

    patch.setattr(kv, "expire_keys", expire)


@bug(35, tests=(EXPIRY,), simulated=False)
def a_write_without_a_ttl_leaves_the_deadline(patch: Patch) -> None:
    """The row of the old deadline stays, whoever has the key now."""
    patch.setattr(expiry, "forget", lambda writing, key: None)
