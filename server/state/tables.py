"""The tables of the state, in the order the formats of the state file brought them.

Each table keeps the columns that a query needs, and beside them `row`: the MessagePack of the word that
leaves the state (`KvEntry`, `Node`, ...). One encoding serves the table, the change row and the state
hash; numbers of 64 unsigned bits survive in it though SQLite's integers are signed; and the columns that
are looked at most stand before `row`, so that a long value's overflow pages are read only when it is asked.

All tables but `meta` and `autopilot`, of one row each, are WITHOUT ROWID: the key is the tree. Names of
nodes, services and checks are folded (`names.fold`) in columns, and as they were written in `row`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

APPLICATION_ID = 0x47454D54
"""`PRAGMA application_id` of a state file: "GEMT"."""


class Cursor(Protocol):
    """What the rules need of a database; apsw's cursor fulfils it.

    Every statement is run to its end (`get`, `fetchall`): one left half-way would hold its read
    transaction open and keep the write-ahead log from starting over.
    """

    def execute(self, statements: str, bindings: Sequence[Any] | Mapping[str, Any] = ..., /) -> Any: ...

    def executemany(self, statements: str, sequenceofbindings: Any, /) -> Any: ...

    def fetchall(self) -> Any: ...

    @property
    def get(self) -> Any:
        """The single value, else the single row, else the list of rows; None when there is none."""

    def get_connection(self) -> Any:
        """The connection it works on."""


_FORMAT_1 = """
create table meta (
    id integer primary key check (id = 1),
    applied_index integer not null,
    applied_term integer not null,
    time_ms integer not null,
    epoch integer not null,
    kv_index integer not null,
    reaped_index integer not null,
    nodes_index integer not null,
    services_index integer not null,
    checks_index integer not null,
    extinction_index integer not null,
    rows_sum blob not null,
    marks blob not null
);
insert into meta values (1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, zeroblob(16), x'90');

create table kv (
    key blob primary key,
    modify_index integer not null,
    row blob not null
) without rowid;

create table mask (
    prefix blob primary key,
    idx integer not null,
    resume blob
) without rowid;

create table tombstone (
    key blob primary key,
    idx integer not null
) without rowid;
create index tombstone_by_index on tombstone (idx);

create table node (
    name text primary key,
    id text not null,
    row blob not null
) without rowid;
create index node_by_id on node (id);

create table service (
    node text not null,
    id text not null,
    name text not null,
    row blob not null,
    primary key (node, id)
) without rowid;
create index service_by_name on service (name, node, id);

create table health (
    node text not null,
    id text not null,
    service_id text not null,
    service text not null,
    status text not null,
    row blob not null,
    primary key (node, id)
) without rowid;
create index health_by_service on health (service, node, id);

create table latest (
    kind text not null,
    name text not null,
    idx integer not null,
    primary key (kind, name)
) without rowid;

create table change (
    idx integer not null,
    seq integer not null,
    topic text not null,
    key blob not null,
    op text not null,
    row blob,
    primary key (idx, seq)
) without rowid;

create table retry_origin (
    origin blob primary key,
    acknowledged integer not null,
    time_ms integer not null
) without rowid;

create table retry (
    origin blob not null,
    block integer not null,
    results blob not null,
    primary key (origin, block)
) without rowid;

create table idempotency (
    accessor text not null,
    key text not null,
    time_ms integer not null,
    row blob not null,
    primary key (accessor, key)
) without rowid;
create index idempotency_by_time on idempotency (time_ms);
"""

_FORMAT_AUTOPILOT = """
create table autopilot (
    id integer primary key check (id = 1),
    row blob not null
);
"""

_FORMAT_RESTORE = """
alter table meta add column shift integer not null default 0;
alter table meta add column restored_index integer not null default 0;
alter table meta add column restores blob not null default x'90';
"""

_FORMAT_COORDINATES = """
create table coordinate (
    node text primary key,
    row blob not null
) without rowid;
"""

_FORMAT_SESSIONS = """
create table session (
    id text primary key,
    node text not null,
    row blob not null
) without rowid;
create index session_by_node on session (node, id);

create table session_check (
    node text not null,
    check_id text not null,
    session text not null,
    primary key (node, check_id, session)
) without rowid;

create table lease (
    id text primary key,
    epoch integer not null,
    deadline_ms integer not null,
    row blob not null
) without rowid;
create index lease_by_deadline on lease (epoch, deadline_ms, id);

create table held (
    session text not null,
    key blob not null,
    node text not null,
    primary key (session, key)
) without rowid;
create index held_by_node on held (node);

create table lock_delay (
    key blob primary key,
    until_ms integer not null
) without rowid;
create index lock_delay_by_time on lock_delay (until_ms, key);
"""

_FORMAT_GUARDS = """
create table guard (
    resource blob primary key,
    fence integer not null
) without rowid;
"""

_FORMAT_HISTORY = """
create table old (
    until integer not null,
    key blob not null,
    idx integer not null,
    after integer not null,
    revision integer not null,
    ended_ms integer not null,
    ended_by text not null,
    sum blob not null,
    row blob not null,
    primary key (until, key)
) without rowid;

create table absent (
    key blob primary key,
    until integer not null,
    revision integer not null
) without rowid;

create table range_end (
    prefix blob not null,
    idx integer not null,
    at_ms integer not null,
    accessor text not null,
    primary key (prefix, idx)
) without rowid;

alter table meta add column history_from integer not null default 0;
alter table meta add column history_revisions integer not null default 0;
alter table meta add column history_bytes integer not null default 0;
alter table meta add column history_rows integer not null default 0;
alter table meta add column history_surplus integer not null default 0;
alter table meta add column history_swept integer not null default 0;

insert into change
    select min(idx) - 1, 0, 'trimmed', x'', 'delete', null from change having min(idx) > 1;
"""
"""Also notes how far changes may have been trimmed, which was not noted before (`changes.trimmed_to`)."""

_FORMAT_EXPIRY = """
create table expiry (
    key blob primary key,
    epoch integer not null,
    deadline_ms integer not null
) without rowid;
create index expiry_by_deadline on expiry (epoch, deadline_ms, key);
"""

MIGRATIONS: tuple[str, ...] = (
    _FORMAT_1,
    _FORMAT_AUTOPILOT,
    _FORMAT_RESTORE,
    _FORMAT_COORDINATES,
    _FORMAT_SESSIONS,
    _FORMAT_GUARDS,
    _FORMAT_HISTORY,
    _FORMAT_EXPIRY,
)
"""What turns a file of format N into one of format N+1, from the empty file (format 0) on. Never edited."""

RESTORE_FORMAT = 3
"""The format that brought restores."""

SINCE: dict[str, int] = {
    "autopilot": 2,
    "coordinate": 4,
    "session": 5,
    "lease": 5,
    "held": 5,
    "lock_delay": 5,
    "guard": 6,
    "old": 7,
    "absent": 7,
    "range_end": 7,
    "expiry": 8,
}
"""The format that brought a table; of those that are not here, the first."""

FORMAT = len(MIGRATIONS)
"""`PRAGMA user_version` of a state file that this release writes."""

APPLIED = "select applied_index, applied_term from meta"
