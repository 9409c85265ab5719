"""The rules of transactions: operations in their order on one state, all of them or none.

What a verb does is the rule of the single command (`kv.py`, `catalog.py`); here is what is compared before,
what is told afterwards, and the guards of fences. Once one fails the others are still tried, so that all that
is wrong is told at once; then everything is taken back. A failed transaction is an answer, no error.
Source: Consul, Txn endpoint; the guards are Gemot's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from gemot.server.model.catalog import Deregister, Node, Register, Service
from gemot.server.model.errors import BadRequest, Forbidden, GemotError, RuleFailed, StorageFailed, TooLarge
from gemot.server.model.health import Check
from gemot.server.model.kv import KvDelete, KvDeletePrefix, KvEntry, KvSet
from gemot.server.model.txn import (
    MAX_FENCE,
    MAX_OPS,
    MAX_RESOURCE_BYTES,
    MAX_RESULT_BYTES,
    CheckFence,
    CheckOp,
    FenceGuard,
    FoundCheck,
    FoundKey,
    FoundNode,
    FoundService,
    KvOp,
    NodeOp,
    ReadTxn,
    ServiceOp,
    Txn,
    TxnAnswer,
    TxnError,
    TxnOp,
    TxnResult,
    check_id,
    encode,
    holds,
    reads,
    service_id,
    single,
)
from gemot.server.state import catalog, digest, health, kv
from gemot.server.state.latest import note_transaction
from gemot.server.state.permission import NOTHING, Names, Operation, lacks, of_op, readable
from gemot.server.state.scope import MAX_READ_BYTES, Allowed, Reading, Writing

MOST_CHANGES = 10_000
MOST_SCANNED = 100_000
"""Rows changed, and keys looked through, after which a transaction goes no further: one operation can be the
end of a node with all its sessions and locks, and servers do nothing else meanwhile."""

_GUARD = b"guard"
_RULES: dict[type, Callable[[Writing, Any], bool | int]] = {
    KvSet: kv.set_key,
    KvDelete: kv.delete_key,
    KvDeletePrefix: kv.delete_prefix,
    Register: catalog.register,
    Deregister: catalog.deregister,
}
_CatalogOp = NodeOp | ServiceOp | CheckOp


def run(writing: Writing, command: Txn, *, allowed: Allowed | None = None, names: Names = NOTHING) -> bytes:
    """Txn: its answer in MessagePack. `allowed` says what the caller may do, None: everything.

    However many operations it has: MAX_OPS may differ between releases, and what is in the log is carried out
    alike by all. The bounds below count what is done, and are rules.
    """
    kept = writing.kept()
    found = _Found(MAX_RESULT_BYTES)
    look = _Look(writing, found, allowed, lambda prefix: kv.entries_in(writing, prefix, found.left_bytes))
    effects = _Effects(writing, look)
    answer = _try_all(command.ops, found, look, names, effects.of)
    if answer.errors:
        writing.undo(kept)
    else:
        note_transaction(writing)
        writing.keep()
    return encode(answer)


def read(reading: Reading, query: ReadTxn) -> tuple[TxnAnswer, int]:
    """ReadTxn: on one state, in one read transaction, however long."""
    if len(query.ops) > MAX_OPS:
        raise TooLarge(f"Transaction contains too many operations ({len(query.ops)} > {MAX_OPS})")
    if not all(map(reads, query.ops)):
        raise BadRequest("a transaction that is read holds an operation that writes")
    found = _Found(MAX_READ_BYTES)

    def tree(prefix: bytes) -> list[KvEntry] | None:
        try:
            return kv.entries_of_one_state(reading, prefix)
        except TooLarge:
            return None

    look = _Look(reading, found, reading.allowed, tree)
    answer = _try_all(query.ops, found, look, NOTHING, look.at)
    return answer, max(reading.meta.index, 1)


def _try_all(
    ops: tuple[TxnOp, ...], found: _Found, look: _Look, names: Names, act: Callable[[TxnOp], str]
) -> TxnAnswer:
    """`act` answers what is wrong where a single command would answer `false`, "" if nothing is."""
    errors: list[TxnError] = []
    for number, op in enumerate(ops):
        try:
            look.require(op, names)
            what, code = act(op), ""
        except StorageFailed:
            raise
        except GemotError as error:
            what, code = error.message, error.code
        if what:
            errors.append(TxnError(number, what, code))
    return TxnAnswer((), tuple(errors)) if errors else TxnAnswer(tuple(found.results), ())


class _Found:
    """The results so far. Raises TooLarge when they pass their limit."""

    def __init__(self, limit_bytes: int) -> None:
        self.results: list[TxnResult] = []
        self.left_bytes = limit_bytes
        self._limit_bytes = limit_bytes

    def add(self, result: TxnResult) -> None:
        self.left_bytes -= len(encode(result))
        if self.left_bytes < 0:
            raise self.too_large()
        self.results.append(result)

    def too_large(self) -> TooLarge:
        self.left_bytes = -1
        return TooLarge(
            f"the results of this transaction take more than {self._limit_bytes} bytes: read less in it"
            + (", or in one that only reads" if self._limit_bytes == MAX_RESULT_BYTES else "")
        )


# -- what reads ------------------------------------------------------------------------------------


class _Look:
    """The verbs that read, at what is read here or, in the middle of an entry, is being written."""

    def __init__(
        self,
        view: Reading | Writing,
        found: _Found,
        allowed: Allowed | None,
        tree: Callable[[bytes], list[KvEntry] | None],
    ) -> None:
        self._view = view
        self._found = found
        self._allowed = allowed
        self._tree = tree

    def require(self, op: TxnOp, names: Names) -> None:
        """Raise Forbidden for an operation that its caller may not do."""
        if self._allowed is None:
            return
        for needed in of_op(op, names):
            if not self._allowed(needed):
                raise Forbidden(f"Permission denied: {lacks(needed)}")

    def at(self, op: TxnOp) -> str:
        if isinstance(op, CheckFence):
            return self._check_fence(op)
        if isinstance(op, KvOp):
            return self._at_tree(op) if op.verb == "get-tree" else self._at_key(op)
        assert not isinstance(op, FenceGuard), "it writes"
        row = self.row(op)
        if row is None or not self._may_see(op, row):
            return f"{_named(op)} doesn't exist"
        self.tell(row)
        return ""

    def tell(self, row: KvEntry | Node | Service | Check) -> None:
        if isinstance(row, KvEntry):
            self._found.add(FoundKey(row))
        elif isinstance(row, Node):
            self._found.add(FoundNode(row))
        else:
            self._found.add(FoundService(row) if isinstance(row, Service) else FoundCheck(row))

    def tell_key(self, key: bytes) -> None:
        """A key as it is now, but for its value: its caller has that."""
        if (entry := self.entry(key)) is not None:
            self.tell(msgspec.structs.replace(entry, value=b""))

    def entry(self, key: bytes) -> KvEntry | None:
        return kv.entry_in(self._view, key)

    def row(self, op: _CatalogOp) -> Node | Service | Check | None:
        cursor = self._view.cursor
        if isinstance(op, NodeOp):
            by_id = op.verb == "get" and op.node.id
            return catalog.node_of_id(cursor, op.node.id) if by_id else catalog.node_of(cursor, op.node.node)
        if isinstance(op, ServiceOp):
            return catalog.service_of(cursor, op.node, service_id(op))
        return health.check_of(cursor, op.check.node, check_id(op))

    def _at_tree(self, op: KvOp) -> str:
        entries = self._tree(op.key)
        if entries is None:
            raise self._found.too_large()
        for entry in entries:
            if self._allowed is None or self._allowed(Operation("key", entry.key, "read")):
                self.tell(entry)
        return ""

    def _at_key(self, op: KvOp) -> str:
        entry = self.entry(op.key)
        if op.verb == "check-not-exists":
            return f"{_named(op)} exists" if entry is not None else ""
        if entry is None:
            if op.verb != "get-or-empty":
                return f"{_named(op)} doesn't exist"
            entry = KvEntry(op.key, b"", 0, 0, "", 0, 0)
        if op.verb == "check-index" and entry.modify_index != op.index:
            current = f"current modify index {entry.modify_index} != {op.index}"
            return f"failed index check for {_named(op)}, {current}"
        if op.verb == "check-session" and entry.session != op.session:
            return (
                f'failed session check for {_named(op)}, current session "{entry.session}" != "{op.session}"'
            )
        checks = op.verb in ("check-index", "check-session")
        self.tell(msgspec.structs.replace(entry, value=b"") if checks else entry)
        return ""

    def _check_fence(self, op: CheckFence) -> str:
        entry = self.entry(op.key)
        if holds(entry, op):
            return ""
        wanted = f"fence {op.fence}" + (f' of session "{op.session}"' if op.session else "")
        if entry is None or not entry.session:
            return f"failed fence check for {_quoted(op.key)}: nobody holds it, {wanted} is lost"
        return (
            f"failed fence check for {_quoted(op.key)}: it is held with fence {entry.fence} by session "
            f'"{entry.session}", {wanted} is lost'
        )

    def _may_see(self, op: _CatalogOp, row: object) -> bool:
        if (allowed := self._allowed) is None:
            return True
        node = row.node if isinstance(row, Node | Check) else op.node if isinstance(op, ServiceOp) else ""
        service = (
            row.service if isinstance(row, Service) else row.service_name if isinstance(row, Check) else ""
        )
        return allowed(readable("node", node)) and (not service or allowed(readable("service", service)))


# -- what writes -----------------------------------------------------------------------------------


class _Effects:
    """Every verb of a transaction that writes. `_acquired` are keys that it has locked."""

    def __init__(self, writing: Writing, look: _Look) -> None:
        self._writing = writing
        self._look = look
        self._acquired: set[bytes] = set()

    def of(self, op: TxnOp) -> str:
        if self._writing.changed_so_far > MOST_CHANGES or self._writing.scanned > MOST_SCANNED:
            raise TooLarge(
                f"this transaction changes more than {MOST_CHANGES} rows, or looks through more than "
                f"{MOST_SCANNED} keys: split it"
            )
        if isinstance(op, FenceGuard):
            return _guard(self._writing, op)
        if reads(op):
            return self._look.at(op)
        assert not isinstance(op, CheckFence), "it reads"
        if isinstance(op, KvOp):
            return self._key(op)
        return self._catalog(op)

    def _do(self, op: KvOp | _CatalogOp) -> bool:
        command = single(op)
        return bool(_RULES[type(command)](self._writing, command))

    def _key(self, op: KvOp) -> str:
        before = self._look.entry(op.key) if op.verb == "lock" else None
        if (
            op.verb == "lock"
            and op.key in self._acquired
            and (before is None or before.session != op.session)
        ):
            # Both would have the index of this entry for their fence.
            raise RuleFailed(f"failed to lock {_named(op)}: a transaction locks it once, not again")
        if not self._do(op):
            return _refusal(op, before)
        if op.verb == "lock":
            self._acquired.add(op.key)
        if not op.verb.startswith("delete"):
            self._look.tell_key(op.key)
        return ""

    def _catalog(self, op: _CatalogOp) -> str:
        deletes = op.verb.startswith("delete")
        if deletes:
            _require_name(op)
        elif not isinstance(op, NodeOp) and not catalog.has_node(self._writing.cursor, _node_of(op)):
            raise RuleFailed("Missing node registration")
        if op.verb in ("cas", "delete-cas"):
            row = self._look.row(op)
            index = row.modify_index if row is not None else 0
            if index != _given_index(op) or (deletes and row is None):
                return f"failed to {'delete' if deletes else 'set'} {_named(op)}, index is stale"
        self._do(op)
        if not deletes and (row := self._look.row(op)) is not None:
            self._look.tell(row)
        return ""


def _refusal(op: KvOp, before: KvEntry | None) -> str:
    """What the rule's False means."""
    if op.verb == "lock":
        held = before is not None and before.session
        return f"failed to lock {_named(op)}" + (", lock is already held" if held else " due to lock delay")
    if op.verb == "unlock":
        return f"failed to unlock {_named(op)}, lock isn't held, or is held by another session"
    return f"failed to {'delete' if op.verb == 'delete-cas' else 'set'} {_named(op)}, index is stale"


def _require_name(op: _CatalogOp) -> None:
    """Without one, what would be deleted is the whole node."""
    if isinstance(op, ServiceOp) and not service_id(op):
        raise RuleFailed("Must provide service ID or name")
    if isinstance(op, CheckOp) and not check_id(op):
        raise RuleFailed("Must provide check ID or name")


def _guard(writing: Writing, op: FenceGuard) -> str:
    if not 0 < op.fence <= MAX_FENCE:
        raise RuleFailed(f"failed fence guard: a fence is a number from 1 to {MAX_FENCE}, not {op.fence}")
    if not 0 < len(op.resource) <= MAX_RESOURCE_BYTES:
        raise RuleFailed(
            f"failed fence guard: a resource has 1 to {MAX_RESOURCE_BYTES} bytes, not {len(op.resource)}"
        )
    cursor = writing.cursor
    greatest: int | None = cursor.execute("select fence from guard where resource = ?", (op.resource,)).get
    if greatest is not None and op.fence < greatest:
        return (
            f"failed fence guard of resource {_text(op.resource)}: fence {op.fence} is smaller than "
            f"{greatest}, the greatest that was seen"
        )
    if greatest != op.fence:
        if greatest is not None:
            writing.meta.rows_sum -= digest.of_values(_GUARD, op.resource, greatest)
        writing.meta.rows_sum += digest.of_values(_GUARD, op.resource, op.fence)
        cursor.execute("insert or replace into guard values (?, ?)", (op.resource, op.fence))
    return ""


# -- words -----------------------------------------------------------------------------------------


def _named(op: KvOp | _CatalogOp) -> str:
    """What it is on, as Consul names it."""
    if isinstance(op, KvOp):
        return _quoted(op.key)
    if isinstance(op, NodeOp):
        return f'node "{op.node.node or op.node.id}"'
    if isinstance(op, ServiceOp):
        return f'service "{service_id(op)}" on node "{op.node}"'
    return f'check "{check_id(op)}" on node "{op.check.node}"'


def _quoted(key: bytes) -> str:
    return f"key {_text(key)}"


def _text(name: bytes) -> str:
    return f'"{name.decode("utf-8", "replace")}"'


def _node_of(op: ServiceOp | CheckOp) -> str:
    return op.node if isinstance(op, ServiceOp) else op.check.node


def _given_index(op: _CatalogOp) -> int:
    if isinstance(op, NodeOp):
        return op.node.modify_index
    return op.service.modify_index if isinstance(op, ServiceOp) else op.check.modify_index


READERS: dict[type, Callable[[Reading, Any], tuple[Any, int]]] = {ReadTxn: read}
