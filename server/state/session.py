"""The rules of sessions: who may begin, what ends them, and what happens to what they held.

A session that ends takes its locks with it in the same entry. Deadlines are cluster time, which stands still
without a leader: a lease can end late, never early. A renewal moves a deadline and no index. Source: Consul,
sessions; how long one lives is Gemot's own (`DUE_SHARE`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from gemot.server.model.catalog import Node
from gemot.server.model.errors import RuleFailed
from gemot.server.model.health import Check
from gemot.server.model.session import (
    LEAST_TTL_MS,
    MAX_CHECKS,
    MAX_TTL_MS,
    CreateSession,
    DestroySession,
    EndLeases,
    Lease,
    LivingSession,
    RenewSession,
    Session,
    SessionInfo,
    Sessions,
)
from gemot.server.state import kv, locks
from gemot.server.state.latest import forget_sessions, sessions_index, touch_sessions
from gemot.server.state.names import fold, topic_key
from gemot.server.state.permission import Operation
from gemot.server.state.scope import STEP_BYTES, Reading, Writing
from gemot.server.state.tables import Cursor

DUE_SHARE = 4
"""A lease is due a quarter of its TTL after the holder has to take it for lost: its clock may be slower than
the leader's, and a renewal late on the way."""

MAX_OF_NODE = 4_096
"""Sessions of one node: when it fails, all end in one entry."""

MOST_WORK = 512
"""Sessions and held keys that one `EndLeases` ends, but for its first; fewer where they take more than
STEP_BYTES."""

MAX_ID = 64
MAX_NAME = 1_024
"""Of the session's name; and of a check's id, a namespace and the text of a TTL."""

_SESSION = b"session"
_LEASE = b"lease"
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Session).decode
_decode_lease = msgspec.msgpack.Decoder(Lease).decode
_decode_node = msgspec.msgpack.Decoder(Node).decode
_decode_check = msgspec.msgpack.Decoder(Check).decode
_replace = msgspec.structs.replace


# -- commands --------------------------------------------------------------------------------------


def create(writing: Writing, command: CreateSession) -> bool:
    """CreateSession. Raises RuleFailed, in Consul's words where it has some."""
    given, cursor = command.session, writing.cursor
    _check(given)
    if locks.node_of(cursor, given.id):
        raise RuleFailed(f"Session {given.id} exists already: give each its own id")
    node = fold(given.node)
    if (name := _spelling(cursor, node)) is None:
        raise RuleFailed("Missing node registration")
    for check_id in _checks(given):
        _require_living(cursor, node, check_id)
    full = "select 1 from session where node = ? limit 1 offset ?"
    if cursor.execute(full, (node, MAX_OF_NODE - 1)).get is not None:
        raise RuleFailed(f"Node {name} has {MAX_OF_NODE} sessions, as many as it may: destroy some first")
    session = _replace(given, node=name, create_index=writing.index, modify_index=writing.index)
    row = _encode(session)
    writing.add(_SESSION, row)
    cursor.execute("insert into session values (?, ?, ?)", (session.id, node, row))
    for check_id in _checks(session):
        cursor.execute("insert into session_check values (?, ?, ?)", (node, fold(check_id), session.id))
    if session.ttl_ms:
        _put_lease(writing, session, generation=0)
    writing.record("session", topic_key(session.id), "set", row)
    _touch(writing, session)
    return True


def _check(given: Session) -> None:
    """What a caller may have got wrong without a look at the state."""
    if not 0 < len(given.id) <= MAX_ID:
        raise RuleFailed(f"A session's id has 1 to {MAX_ID} characters, not {len(given.id)}")
    if len(given.name) > MAX_NAME:
        raise RuleFailed(f"The session's name has {len(given.name)} characters, the limit is {MAX_NAME}")
    if given.behavior not in ("release", "delete"):
        raise RuleFailed(f"Invalid Behavior setting '{given.behavior}'")
    if given.ttl_ms and not LEAST_TTL_MS <= given.ttl_ms <= MAX_TTL_MS:
        raise RuleFailed(
            f"Invalid Session TTL '{given.ttl_ms * 1_000_000}', must be between "
            f"[{LEAST_TTL_MS // 1_000}s={MAX_TTL_MS // 3_600_000}h0m0s]"
        )
    if given.lock_delay_ns < 0:
        raise RuleFailed("Invalid LockDelay: it is negative")
    texts = [given.ttl, *_checks(given), *[namespace for _, namespace in given.service_checks or ()]]
    if (longest := max(map(len, texts))) > MAX_NAME:
        raise RuleFailed(f"The session has a text of {longest} characters, the limit is {MAX_NAME}")
    if (checks := len(given.node_checks) + len(given.service_checks or ())) > MAX_CHECKS:
        raise RuleFailed(f"The session names {checks} checks, the limit is {MAX_CHECKS}")


def _checks(session: Session) -> list[str]:
    """Ids of all its checks, each once."""
    ids = [*session.node_checks, *[id for id, _ in session.service_checks or ()]]
    return list({fold(id): id for id in reversed(ids)}.values())[::-1]


def _require_living(cursor: Cursor, node: str, check_id: str) -> None:
    row: bytes | None = cursor.execute(
        "select row from health where node = ? and id = ?", (node, fold(check_id))
    ).get
    if row is None:
        raise RuleFailed(f"Missing check '{check_id}' registration")
    if _decode_check(row).status == "critical":
        raise RuleFailed(f"Check '{check_id}' is in critical state")


def _spelling(cursor: Cursor, node: str) -> str | None:
    """The catalog's own spelling of a node's folded name; None if it has none."""
    row: bytes | None = cursor.execute("select row from node where name = ?", (node,)).get
    return _decode_node(row).node if row is not None else None


def destroy(writing: Writing, command: DestroySession) -> bool:
    """DestroySession: what is not there is ended already."""
    end(writing, command.id)
    return True


def renew(writing: Writing, command: RenewSession) -> bool:
    """RenewSession: the deadline begins anew; nobody who reads sees a difference."""
    session = _session(writing.cursor, command.id)
    if session is None:
        return False
    if session.ttl_ms:
        lease = _take_lease(writing, session.id)
        _put_lease(writing, session, generation=lease.generation + 1 if lease is not None else 0)
    return True


def end_leases(writing: Writing, command: EndLeases) -> int:
    """EndLeases: how many sessions ended. One that was renewed since is of another generation."""
    ended = 0
    for id, generation in command.leases:
        lease = _lease(writing.cursor, id)
        if lease is None or lease.generation != generation:
            continue
        if lease.epoch != writing.meta.epoch:
            renew(writing, RenewSession(id))
        elif lease.deadline_ms <= writing.time_ms:
            end(writing, id)
            ended += 1
    locks.forget_delays(writing)
    return ended


# -- what ends sessions ----------------------------------------------------------------------------


def end(writing: Writing, id: str) -> None:
    """This session ends: its locks are released or their keys deleted, and are not to be had for a while."""
    cursor = writing.cursor
    row: bytes | None = cursor.execute("select row from session where id = ?", (id,)).get
    if row is None:
        return
    session = _decode(row)
    kv.end_locks(writing, session)
    _take_lease(writing, id)
    cursor.execute("delete from session where id = ?", (id,))
    writing.take(_SESSION, row)
    node = fold(session.node)
    for check_id in _checks(session):
        cursor.execute(
            "delete from session_check where node = ? and check_id = ? and session = ?",
            (node, fold(check_id), id),
        )
    writing.record("session", topic_key(id), "delete", None)
    _touch(writing, session)


def end_with_check(writing: Writing, node: str, check_id: str) -> None:
    """A check turned critical, or is gone: so are the sessions that named it."""
    rows = writing.cursor.execute(
        "select session from session_check where node = ? and check_id = ? order by session",
        (fold(node), fold(check_id)),
    ).fetchall()
    for (id,) in rows:
        end(writing, id)


def end_with_node(writing: Writing, node: str) -> None:
    """A node is gone from the catalog."""
    rows = writing.cursor.execute("select id from session where node = ? order by id", (fold(node),))
    for (id,) in rows.fetchall():
        end(writing, id)
    forget_sessions(writing, node)


def _touch(writing: Writing, session: Session) -> None:
    writing.touched.append(("session", topic_key(session.id)))
    touch_sessions(writing, session.node)


# -- leases ----------------------------------------------------------------------------------------


def due(cursor: Cursor, epoch: int, time_ms: int) -> tuple[tuple[str, int], ...]:
    """Leases that are over by that cluster time, or were given in another epoch: (id, generation).

    As many as one entry may end, the oldest first.
    """
    rows: list[tuple[bytes]] = []
    for where, bindings in (("epoch < ?", (epoch,)), ("epoch = ? and deadline_ms <= ?", (epoch, time_ms))):
        statement = f"select row from lease where {where} order by epoch, deadline_ms, id limit ?"
        rows += cursor.execute(statement, (*bindings, MOST_WORK - len(rows))).fetchall()
    found: list[tuple[str, int]] = []
    work = size = 0
    for lease in [_decode_lease(row) for (row,) in rows]:
        held, length = locks.how_many(cursor, lease.session)
        work, size = work + 1 + held, size + length
        if found and (work > MOST_WORK or size > STEP_BYTES):
            break
        found.append((lease.session, lease.generation))
    return tuple(found)


def leases_exist(cursor: Cursor) -> bool:
    return cursor.execute("select 1 from lease limit 1").get is not None


def _lease(cursor: Cursor, id: str) -> Lease | None:
    row: bytes | None = cursor.execute("select row from lease where id = ?", (id,)).get
    return _decode_lease(row) if row is not None else None


def _put_lease(writing: Writing, session: Session, *, generation: int) -> None:
    deadline_ms = writing.time_ms + session.ttl_ms + session.ttl_ms // DUE_SHARE
    row = _encode(Lease(session.id, generation, writing.meta.epoch, deadline_ms))
    writing.cursor.execute(
        "insert into lease values (?, ?, ?, ?)", (session.id, writing.meta.epoch, deadline_ms, row)
    )
    writing.add(_LEASE, row)


def _take_lease(writing: Writing, id: str) -> Lease | None:
    row: bytes | None = writing.cursor.execute("select row from lease where id = ?", (id,)).get
    if row is None:
        return None
    writing.cursor.execute("delete from lease where id = ?", (id,))
    writing.take(_LEASE, row)
    return _decode_lease(row)


# -- queries ---------------------------------------------------------------------------------------


def node_of(cursor: Cursor, id: str) -> str:
    """The node of this session; "" if there is no such session."""
    session = _session(cursor, id)
    return session.node if session is not None else ""


def _session(cursor: Cursor, id: str) -> Session | None:
    row: bytes | None = cursor.execute("select row from session where id = ?", (id,)).get
    return _decode(row) if row is not None else None


def info(reading: Reading, query: SessionInfo) -> tuple[LivingSession | None, int]:
    session = _session(reading.cursor, query.id)
    if session is None:
        return None, sessions_index(reading, "")
    if not _may_see(reading, session):
        return None, session.modify_index
    return LivingSession(session, _remaining_ms(reading, session)), session.modify_index


def _remaining_ms(reading: Reading, session: Session) -> int:
    """Of the TTL, as its holder counts it: what comes after is not promised."""
    lease = _lease(reading.cursor, session.id)
    if lease is None:
        return -1
    if lease.epoch != reading.meta.epoch:
        return session.ttl_ms
    return max(0, min(lease.deadline_ms - reading.meta.time_ms - session.ttl_ms // DUE_SHARE, session.ttl_ms))


def every(reading: Reading, query: Sessions) -> tuple[list[Session], int]:
    if query.node:
        rows = reading.rows("select row from session where node = ? order by id limit ?", (fold(query.node),))
    else:
        rows = reading.rows("select row from session order by id limit ?")
    found = [_decode(row) for (row,) in rows]
    return [each for each in found if _may_see(reading, each)], sessions_index(reading, query.node)


def _may_see(reading: Reading, session: Session) -> bool:
    allowed = reading.allowed
    return allowed is None or allowed(Operation("session", session.node.encode(), "read"))


READERS: dict[type, Callable[[Reading, Any], tuple[Any, int]]] = {SessionInfo: info, Sessions: every}
