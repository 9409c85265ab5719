"""The rule of a restore: may it be done, and what stands beside the rows afterwards; and of a recovery.

The rows come from a blob that every server has; putting them in place is no matter of this module. What
follows is told from the state and the command alone, so that it is the same on every server. Design: next
index above all that were ever told, epoch one above the cluster's and the blob's.
"""

from __future__ import annotations

import msgspec

from gemot.server.model.errors import RuleFailed
from gemot.server.model.restore import Restore
from gemot.server.state.meta import RESTORES_KEPT, Meta, RestoreMark
from gemot.server.state.tables import Cursor

MAX_EPOCH = 1 << 31
OWN_SERVICE = "consul"
"""The servers register themselves under this name: a cluster with nothing else in it is empty."""


class Placement(msgspec.Struct, frozen=True):
    """What the state stands at once the restore is done; `meta` has the words."""

    applied_index: int
    applied_term: int
    shift: int
    restored_index: int
    epoch: int
    time_ms: int
    restores: tuple[RestoreMark, ...]


def check(cursor: Cursor, meta: Meta, command: Restore) -> None:
    """Raises RuleFailed if it must not be done."""
    least = max(meta.epoch, command.blob_epoch) + 1
    if command.epoch and not least <= command.epoch < MAX_EPOCH:
        raise RuleFailed(
            f"the epoch {command.epoch} cannot begin: the cluster is in {meta.epoch}, the snapshot of "
            f"{command.blob_epoch}; give {least} or more, or leave it out"
        )
    if not command.epoch and _is_empty(cursor, meta):
        raise RuleFailed(
            "this cluster is empty, so it cannot know which epochs the one that was lost had begun: say "
            f"-epoch=N (?epoch=N), greater than any of them; the snapshot is of epoch {command.blob_epoch}, "
            f"so {least} if nothing was restored after it was saved"
        )


def _is_empty(cursor: Cursor, meta: Meta) -> bool:
    """Nothing was ever written here, but what servers and agents say of themselves."""
    if meta.epoch or meta.kv_index:
        return False
    return cursor.execute("select 1 from service where name <> ? limit 1", (OWN_SERVICE,)).get is None


def placement(meta: Meta, command: Restore, index: int, term: int, time_ms: int) -> Placement:
    """After the entry at `index`; `time_ms` is its cluster time."""
    shift = max(meta.shift, command.index + 1 - index)
    epoch = command.epoch or max(meta.epoch, command.blob_epoch) + 1
    mark = RestoreMark(index + shift, index, epoch, command.id, command.sha256)
    return Placement(
        applied_index=index,
        applied_term=term,
        shift=shift,
        restored_index=index + shift,
        epoch=epoch,
        time_ms=max(meta.time_ms, time_ms),
        restores=(*meta.restores, mark)[-RESTORES_KEPT:],
    )


RECOVERED_SHIFT = 1_000_000_000
"""By how much the indexes that readers know jump: more than a day of writes as fast as they come."""


def recovered(meta: Meta, index: int) -> None:
    """The entry at `index` set the voters by hand: what only the lost servers had is gone.

    Some of it may have been acknowledged, and told with indexes that this log has yet to give out: as fences
    of locks, and to watchers, who would wait until the state had grown as far again. So an epoch begins, and
    indexes go on above all that the lost servers can have told.
    """
    meta.epoch += 1
    meta.shift += RECOVERED_SHIFT
    meta.restored_index = index + meta.shift
    if meta.history_revisions:  # what the lost servers told of the indexes between is not known
        meta.history_from = meta.restored_index
