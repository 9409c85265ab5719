"""A state file that nobody has open, looked into: is it whole, is it ours, and of which state is it?

What it is: every check that a file from outside must pass before anything is touched. A file may be
damaged, or made to harm: SQLite runs what stands in a schema (triggers, views), so the schema must be word
for word the one that this release writes. What it is not: it writes nothing.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import apsw
import msgspec

from gemot.server.model.autopilot import AutopilotRow
from gemot.server.model.catalog import Node, Service
from gemot.server.model.coordinate import NodeCoordinate
from gemot.server.model.errors import Corrupt, StorageFailed
from gemot.server.model.health import Check
from gemot.server.model.kv import KvEntry
from gemot.server.model.session import Lease, Session
from gemot.server.state import digest
from gemot.server.state.retries import Retries
from gemot.server.state.tables import APPLICATION_ID, FORMAT, MIGRATIONS, RESTORE_FORMAT, SINCE
from gemot.server.storage.sqlite import CHECKSUM_VFS, explain, load_checksums

_WORDS: dict[str, msgspec.msgpack.Decoder[Any]] = {
    "kv": msgspec.msgpack.Decoder(KvEntry),
    "old": msgspec.msgpack.Decoder(KvEntry),
    "node": msgspec.msgpack.Decoder(Node),
    "service": msgspec.msgpack.Decoder(Service),
    "health": msgspec.msgpack.Decoder(Check),
    "autopilot": msgspec.msgpack.Decoder(AutopilotRow),
    "coordinate": msgspec.msgpack.Decoder(NodeCoordinate),
    "session": msgspec.msgpack.Decoder(Session),
    "lease": msgspec.msgpack.Decoder(Lease),
}
"""Tables whose rows a read decodes: one that cannot be would stop every server."""


class Standing(msgspec.Struct, frozen=True):
    """Of which state a file is. `index` is the one that readers know, `applied_index` Raft's."""

    applied_index: int
    applied_term: int
    index: int
    epoch: int
    time_ms: int


@contextlib.contextmanager
def opened(path: Path, vfs: str = CHECKSUM_VFS) -> Iterator[apsw.Connection]:
    """The main file as it stands, to be read only. Raises Corrupt for what SQLite finds wrong inside."""
    load_checksums()
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    try:
        connection = apsw.Connection(f"file:{quote(str(path))}?immutable=1", flags=flags, vfs=vfs)
        try:
            for setting in ("trusted_schema=0", "cell_size_check=1", "mmap_size=0"):
                connection.execute(f"pragma {setting}").get  # noqa: B018 - run to its end
            yield connection
        finally:
            connection.close()
    except apsw.SQLError as error:
        raise Corrupt(f"{path} is no state file: {error}") from error
    except apsw.Error as error:
        if (ours := explain(error, path)) is not None:
            raise ours from error
        raise Corrupt(f"{path} is no state file: {error}") from error


def examine(path: Path, vfs: str = CHECKSUM_VFS) -> Standing:
    """Every check there is; takes about 3 us a row. Raises Corrupt, StorageFailed (a newer format)."""
    with opened(path, vfs) as connection:
        version = _identify(connection, path)
        _check_schema(connection, path, version)
        if (found := connection.execute("pragma quick_check(1)").get) != "ok":
            raise Corrupt(f"the state file {path} is damaged: {found}")
        cursor = connection.cursor()
        try:
            standing = _standing(cursor, version)
            _check_rows(cursor, path, version)
        except (msgspec.DecodeError, TypeError, ValueError, KeyError) as error:
            raise Corrupt(f"the state file {path} holds rows that cannot be read: {error}") from error
        return standing


def _identify(connection: apsw.Connection, path: Path) -> int:
    name = connection.execute("pragma application_id").get
    version = int(connection.execute("pragma user_version").get)
    if name != APPLICATION_ID:
        raise Corrupt(f"{path} is an SQLite database, but no state file of Gemot (application id {name})")
    if version > FORMAT:
        raise StorageFailed(
            f"{path} has format {version}, this release knows up to {FORMAT}: use the newer release"
        )
    if version < 1 or connection.execute("pragma checksum_verification").get != "1":
        raise Corrupt(f"{path} carries no page checksums: it was not written by Gemot as it is")
    return version


_SCHEMA = "select type, name, tbl_name, sql from sqlite_schema order by type, name"


@functools.cache
def _schema_of(version: int) -> list[Any]:
    model = apsw.Connection(":memory:")
    try:
        for migration in MIGRATIONS[:version]:
            model.execute(migration).get  # noqa: B018 - run to its end
        return model.execute(_SCHEMA).fetchall()
    finally:
        model.close()


def _check_schema(connection: apsw.Connection, path: Path, version: int) -> None:
    if connection.execute(_SCHEMA).fetchall() != _schema_of(version):
        raise Corrupt(f"{path} has other tables than a state file: it was not written by Gemot as it is")


def _standing(cursor: apsw.Cursor, version: int) -> Standing:
    index, term, epoch, time_ms = cursor.execute(
        "select applied_index, applied_term, epoch, time_ms from meta"
    ).get
    shift = cursor.execute("select shift from meta").get if version >= RESTORE_FORMAT else 0
    return Standing(index, term, index + shift, epoch, time_ms)


def _check_rows(cursor: apsw.Cursor, path: Path, version: int) -> None:
    """Each row can be read, and all together are those that the hash was made of."""
    for table, words in _WORDS.items():
        if SINCE.get(table, 1) > version:
            continue
        for (row,) in cursor.execute(f"select row from {table}"):
            words.decode(row)
    retries = Retries()
    retries.load(cursor)
    total = digest.wrap(digest.sum_from_scratch(cursor, version) + retries.rows_sum())
    if total != digest.wrap(digest.unpack(cursor.execute("select rows_sum from meta").get)):
        raise Corrupt(f"the rows of {path} do not fit its own hash: some were lost or altered")
