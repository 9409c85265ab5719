"""Words of transactions: several operations in one entry, all of them or none. Source: Consul, Txn endpoint.

An operation is a verb on one key, node, service or check, as Consul has them, or one of two guards of ours
that know fences: `CheckFence` and `FenceGuard`. What a verb that writes does is what the single command does
(`single`); what it needs besides is told by its fields.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from gemot.server.model.catalog import Deregister, Node, Register, Service
from gemot.server.model.health import Check
from gemot.server.model.kv import KvDelete, KvDeletePrefix, KvEntry, KvSet

MAX_OPS = 1024
"""Operations of one transaction, whatever an agent's limits.txn_max_ops says: so many hold up a server for
less than some 100 ms, whatever they do. It is looked at before the log and never at apply, so that servers of
releases with another limit do the same with what is in the log."""

DEFAULT_OPS = 128
"""What an agent takes where nothing else is configured (Consul)."""

MAX_RESULT_BYTES = 1 << 20
"""What a transaction that writes may read: its answer is kept for whoever asks again. One that only reads may
read any amount, as a list may."""

MAX_FENCE = (1 << 63) - 1
MAX_RESOURCE_BYTES = 1024

KvVerb = Literal[
    "set",
    "cas",
    "lock",
    "unlock",
    "get",
    "get-or-empty",
    "get-tree",
    "check-index",
    "check-session",
    "check-not-exists",
    "delete",
    "delete-cas",
    "delete-tree",
]
Verb = Literal["get", "set", "cas", "delete", "delete-cas"]


class KvOp(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=1):
    """On one key, or with `get-tree` and `delete-tree` on all that start with it.

    `index` is what `cas`, `delete-cas` and `check-index` compare with the modify index; `session` who locks,
    unlocks, or must hold the key. `ttl_ms` is that of the key which a verb writes, as of `KvSet`.
    """

    verb: KvVerb
    key: bytes
    value: bytes = b""
    flags: int = 0
    index: int = 0
    session: str = ""
    ttl_ms: int = 0


class NodeOp(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """On one node, found by its name, or its id for `get`. `modify_index` is what cas compares."""

    verb: Verb
    node: Node


class ServiceOp(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """On one service of a node that is there already. `modify_index` is what cas compares."""

    verb: Verb
    node: str
    service: Service


class CheckOp(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """On one check of a node that is there already. `modify_index` is what cas compares."""

    verb: Verb
    check: Check


class CheckFence(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=5):
    """The key is held now, with exactly this fence, and by this session where one is given. No result."""

    key: bytes
    fence: int
    session: str = ""


class FenceGuard(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=6):
    """Of a resource by that name no smaller fence was seen; this one is remembered. No result.

    A name, not a key: the greatest fence of each has a table of its own.
    """

    resource: bytes
    fence: int


TxnOp = KvOp | NodeOp | ServiceOp | CheckOp | CheckFence | FenceGuard
Single = KvSet | KvDelete | KvDeletePrefix | Register | Deregister

_READS = frozenset(("get", "get-or-empty", "get-tree", "check-index", "check-session", "check-not-exists"))
_DELETES = frozenset(("delete", "delete-cas", "delete-tree"))


class Txn(msgspec.Struct, frozen=True, array_like=True, tag=60):
    """All of these in their order, or, if one fails, none. Result: a TxnAnswer in MessagePack (`decode`)."""

    ops: tuple[TxnOp, ...]


class ReadTxn(msgspec.Struct, frozen=True, array_like=True, tag=60):
    """Operations that all read (`reads`), on one state. Value: TxnAnswer."""

    ops: tuple[TxnOp, ...]


class FoundKey(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=1):
    """Without its value where the verb only tells that it was done."""

    row: KvEntry


class FoundNode(msgspec.Struct, frozen=True, array_like=True, tag=2):
    row: Node


class FoundService(msgspec.Struct, frozen=True, array_like=True, tag=3):
    row: Service


class FoundCheck(msgspec.Struct, frozen=True, array_like=True, tag=4):
    row: Check


TxnResult = FoundKey | FoundNode | FoundService | FoundCheck


class TxnError(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Why the operation of that number failed. `code` is that of the error it would be by itself; "" where
    its answer would be `false`."""

    op: int
    what: str
    code: str = ""


class TxnAnswer(msgspec.Struct, frozen=True, array_like=True):
    """What was found, in the operations' order; nothing if there are errors."""

    results: tuple[TxnResult, ...]
    errors: tuple[TxnError, ...]


encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(TxnAnswer).decode


def decode(value: bool | int | bytes) -> TxnAnswer:
    """The answer in the value of an applied Txn."""
    assert isinstance(value, bytes), "the value of a Txn"
    return _decode(value)


def reads(op: TxnOp) -> bool:
    """Does it leave everything as it is?"""
    if isinstance(op, CheckFence):
        return True
    return not isinstance(op, FenceGuard) and op.verb in _READS


def frees(txn: Txn) -> bool:
    """Does it leave no more than there was?"""
    return all(isinstance(op, CheckFence) or _frees(op) for op in txn.ops)


def _frees(op: TxnOp) -> bool:
    return not isinstance(op, FenceGuard | CheckFence) and (op.verb in _READS or op.verb in _DELETES)


def expires(command: object) -> bool:
    """Does it write a key that expires? Releases before these would keep it."""
    if isinstance(command, KvSet):
        return command.ttl_ms != 0
    return isinstance(command, Txn) and any(isinstance(op, KvOp) and op.ttl_ms for op in command.ops)


def single(op: KvOp | NodeOp | ServiceOp | CheckOp) -> Single | None:
    """The command that does the same by itself; None for one that reads.

    That of a cas on the catalog compares nothing, and `Register` and `Deregister` mean a whole node where
    they name nothing on it: that is looked at before.
    """
    if op.verb in _READS:
        return None
    if isinstance(op, KvOp):
        return _of_key(op)
    if isinstance(op, NodeOp):
        return Deregister(op.node.node) if op.verb in _DELETES else Register(op.node)
    if isinstance(op, ServiceOp):
        if op.verb in _DELETES:
            return Deregister(op.node, service_id=service_id(op))
        return Register(Node(op.node, ""), services=(op.service,), skip_node_update=True)
    if op.verb in _DELETES:
        return Deregister(op.check.node, check_id=check_id(op))
    return Register(Node(op.check.node, ""), checks=(op.check,), skip_node_update=True)


def as_op(command: KvSet | KvDelete | KvDeletePrefix) -> KvOp:
    """The operation that does the same as this command: `single` the other way."""
    match command:
        case KvDeletePrefix(prefix=prefix):
            return KvOp("delete-tree", prefix)
        case KvDelete(key=key, cas=None):
            return KvOp("delete", key)
        case KvDelete(key=key, cas=int(index)):
            return KvOp("delete-cas", key, index=index)
        case KvSet(key=key, value=value, flags=flags, cas=int(index), ttl_ms=ttl):
            return KvOp("cas", key, value, flags, index, ttl_ms=ttl)
        case KvSet(key=key, value=value, flags=flags, acquire=str(session), ttl_ms=ttl):
            return KvOp("lock", key, value, flags, session=session, ttl_ms=ttl)
        case KvSet(key=key, value=value, flags=flags, release=str(session), ttl_ms=ttl):
            return KvOp("unlock", key, value, flags, session=session, ttl_ms=ttl)
    assert isinstance(command, KvSet)
    return KvOp("set", command.key, command.value, command.flags, ttl_ms=command.ttl_ms)


def service_id(op: ServiceOp) -> str:
    return op.service.id or op.service.service


def check_id(op: CheckOp) -> str:
    return op.check.check_id or op.check.name


def _of_key(op: KvOp) -> Single:
    match op.verb:
        case "delete":
            return KvDelete(op.key)
        case "delete-cas":
            return KvDelete(op.key, op.index)
        case "delete-tree":
            return KvDeletePrefix(op.key)
        case "cas":
            return KvSet(op.key, op.value, op.flags, cas=op.index, ttl_ms=op.ttl_ms)
        case "lock":
            return KvSet(op.key, op.value, op.flags, acquire=op.session, ttl_ms=op.ttl_ms)
        case "unlock":
            return KvSet(op.key, op.value, op.flags, release=op.session, ttl_ms=op.ttl_ms)
    return KvSet(op.key, op.value, op.flags, ttl_ms=op.ttl_ms)


def holds(entry: KvEntry | None, check: CheckFence) -> bool:
    """Is this key held now, as the check wants it? (A fence stays with its key when that is released.)"""
    if entry is None or not entry.session or entry.fence != check.fence:
        return False
    return check.session in ("", entry.session)
