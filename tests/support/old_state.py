"""State files as earlier releases left them: the tables of that format, and the rows that it had.

    PYTHONPATH=tests .venv/bin/python -m support.old_state

writes `tests/golden/state-<n>.db.gz` for each format before the present one: the state that `one_server`
has after so many entries. What is there already is not written again: later releases must read it as it is.
The tables are made by the statements that made them then (`MIGRATIONS`, which are never edited).
"""

from __future__ import annotations

import contextlib
import gzip
import tempfile
from collections.abc import Iterator
from pathlib import Path

from support import one_server

from gemot.server.state.tables import FORMAT, Cursor
from gemot.server.storage import statefile
from gemot.server.storage.realdisk import RealDisk
from gemot.server.storage.statefile import StateFile

GOLDEN = Path(__file__).parents[1] / "golden"
ENTRIES = 10
OLD_FORMATS = tuple(range(1, FORMAT))


def golden(number: int) -> Path:
    return GOLDEN / f"state-{number}.db.gz"


@contextlib.contextmanager
def release_of(number: int) -> Iterator[None]:
    """State files are made in this format meanwhile."""
    present = statefile.FORMAT
    statefile.FORMAT = number  # type: ignore[misc]
    try:
        yield
    finally:
        statefile.FORMAT = present  # type: ignore[misc]


def make_old(state: Path, old: Path, number: int) -> None:
    """Write the rows of a state file that nobody has open to a new one of that format."""
    with release_of(number):
        file = StateFile(old, sync=False)
    with contextlib.closing(file):
        cursor = file.cursor
        cursor.execute("attach ? as newer", (str(state),))
        tables, newer = _tables(cursor, "main"), _tables(cursor, "newer")
        gone = [name for name in newer if name not in tables]
        gone = [name for name in gone if cursor.execute(f"select count(*) from newer.{name}").get]
        assert not gone, f"format {number} has no place for what is in {gone}"
        cursor.execute("begin")
        for table in tables:
            names = ", ".join(row[1] for row in cursor.execute(f"pragma main.table_info({table})"))
            cursor.execute(f"delete from main.{table}")
            cursor.execute(f"insert into main.{table} ({names}) select {names} from newer.{table}")
        cursor.execute("commit")
        cursor.execute("detach newer")


def _tables(cursor: Cursor, schema: str) -> list[str]:
    found = cursor.execute(f"select name from {schema}.sqlite_schema where type = 'table'").fetchall()
    return [name for (name,) in found]


def write_golden() -> None:
    with tempfile.TemporaryDirectory() as folder:
        data, disk = Path(folder) / "data", RealDisk(sync=False)
        opened = one_server.open_server(data, disk, sync=False)
        one_server.write_through(opened, disk, one_server.Truth(), ENTRIES)
        one_server.close(opened)
        for number in OLD_FORMATS:
            if golden(number).exists():
                continue
            old = Path(folder) / f"{number}.db"
            make_old(data / "state.db", old, number)
            golden(number).write_bytes(gzip.compress(old.read_bytes(), mtime=0))


if __name__ == "__main__":
    write_golden()
