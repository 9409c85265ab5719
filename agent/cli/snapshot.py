"""`gemot snapshot`: save, restore, inspect."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gemot.agent.cli.options import client_options, columns, read_options
from gemot.agent.client.connection import Connection
from gemot.agent.client.snapshot import PIECE_BYTES, Snapshot
from gemot.agent.durable import sync_folder
from gemot.server.model.restore import MOST_EPOCH

if TYPE_CHECKING:  # SQLite is loaded where a snapshot is looked into, and not by `restore`
    from gemot.server.storage.inspection import Inspection


@click.group(name="snapshot")
def command() -> None:
    """Save, restore and inspect the whole state of the cluster.

    A snapshot holds keys, nodes, services, checks and what the servers remember of writes, as of one index.

    \b
    Save, look at it without an agent, and bring it back:
      gemot snapshot save backup.snap
      gemot snapshot inspect -kvdetails backup.snap
      gemot snapshot restore backup.snap

    \b
    Into a new cluster, whose predecessor was never restored more than 6 times:
      gemot snapshot restore -epoch=7 backup.snap
    """


@command.command()
@click.argument("file")
@client_options
@read_options
def save(connection: Connection, read: dict[str, Any], file: str) -> None:
    """Save the state to FILE.

    It is written to FILE.unverified, read again and checked, and then renamed: FILE is whole or not there.
    """
    unverified = Path(f"{file}.unverified")
    try:
        with _private(unverified) as to:
            Snapshot(connection).save(to, **read)
            to.flush()
            os.fsync(to.fileno())
        found = _inspect(str(unverified))
        os.replace(unverified, file)
        sync_folder(Path(file).absolute().parent)
    except OSError as error:
        raise click.ClickException(f"{file}: {error.strerror}") from error
    click.echo(f"Saved and verified snapshot to index {found.head.index}")


@command.command()
@click.argument("file")
@click.option("--epoch", type=click.IntRange(1, MOST_EPOCH), default=None, help="The epoch that begins.")
@client_options
def restore(connection: Connection, file: str, epoch: int | None) -> None:
    """Put the state of FILE in place of the cluster's.

    All servers do so together, and every watcher looks again. An empty cluster needs -epoch: a number greater
    than any epoch of the cluster that was lost, so that no fence is given out twice.
    """
    try:
        with open(file, "rb") as archive:
            done = Snapshot(connection).restore(archive, size=Path(file).stat().st_size, epoch=epoch or 0)
    except OSError as error:
        raise click.ClickException(f"{file}: {error.strerror}") from error
    click.echo(f"Restored snapshot: index {done.index}, epoch {done.epoch}")
    if done.missing:
        click.echo(f"Not there yet, they take it once they are back: {done.missing}", err=True)


@command.command()
@click.argument("file")
@click.option(
    "--format", "form", type=click.Choice(["pretty", "json"]), default="pretty", help="pretty or json."
)
@click.option("--kvdetails", is_flag=True, help="Keys too, counted by how they begin.")
@click.option(
    "--kvdepth", type=click.IntRange(1, 64), default=2, help="Parts of a key that count as how it begins."
)
@click.option("--kvfilter", default="", help="Only keys that begin so.")
def inspect(file: str, form: str, kvdetails: bool, kvdepth: int, kvfilter: str) -> None:
    """Check FILE and show what is in it; needs no agent."""
    found = _inspect(file, depth=kvdepth if kvdetails else 0, prefix=kvfilter)
    if form == "json":
        click.echo(json.dumps(_as_json(found, kvdetails), indent=3))
    else:
        _print(found, kvdetails)


def _inspect(file: str, *, depth: int = 0, prefix: str = "") -> Inspection:
    """All is checked, in a folder of its own beside the file's: there is room for such files there."""
    from gemot.server.model.errors import GemotError
    from gemot.server.storage import inspection
    from gemot.server.storage.realdisk import RealDisk

    if not Path(file).exists():
        raise click.ClickException(f"{file}: there is no such file")
    if not Path(file).is_file():
        raise click.ClickException(f"{file}: it is no file")
    with _scratch(Path(file).absolute().parent) as folder:
        try:
            return inspection.inspect(
                _pieces(file),
                RealDisk(sync=False),
                f"{folder}/state",
                depth=depth,
                prefix=prefix.encode(errors="surrogateescape"),
            )
        except GemotError as error:
            raise click.ClickException(f"{file}: {error.message}") from error
        except OSError as error:
            raise click.ClickException(f"{file}: {error.strerror}") from error


def _pieces(file: str) -> Iterator[bytes]:
    with open(file, "rb") as archive:
        while piece := archive.read(PIECE_BYTES):
            yield piece


@contextlib.contextmanager
def _scratch(beside: Path) -> Iterator[str]:
    place = beside if os.access(beside, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix=".gemot-snapshot-", dir=place) as folder:
        yield folder


@contextlib.contextmanager
def _private(path: Path) -> Iterator[Any]:
    """A new file that its owner alone reads (it has every key), gone again if it does not become whole."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _print(found: Inspection, kvdetails: bool) -> None:
    head = found.head
    about = [
        ["ID", head.id],
        ["Size", str(found.archive_size)],
        ["Index", str(head.index)],
        ["Term", str(head.term)],
        ["Epoch", str(head.epoch)],
        ["Version", str(head.format)],
        ["Cluster", head.cluster],
        ["Made by", f"Gemot {head.created_by}"],
    ]
    click.echo(columns(about))
    _print_counts("Type", [(one.name, one.count, one.size) for one in found.kinds])
    if kvdetails:
        _print_counts("Key Name", [(one.name, one.count, one.size) for one in found.keys])


def _print_counts(title: str, rows: Sequence[tuple[str, int, int]]) -> None:
    line = ["----", "----", "----"]
    shown = [[name, str(count), _size(size)] for name, count, size in rows]
    total = ["Total", str(sum(count for _, count, _ in rows)), _size(sum(size for _, _, size in rows))]
    click.echo("\n" + columns([[title, "Count", "Size"], line, *shown, line, total]))


def _size(size: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1024:
            return f"{size:g}{unit}" if unit == "B" else f"{size:.1f}{unit}"
        size /= 1024
    return f"{size:.1f}TB"


def _as_json(found: Inspection, kvdetails: bool) -> dict[str, Any]:
    head = found.head
    shown: dict[str, Any] = {
        "Meta": {
            "ID": head.id,
            "Size": found.archive_size,
            "Index": head.index,
            "Term": head.term,
            "Epoch": head.epoch,
            "Version": head.format,
            "Cluster": head.cluster,
            "CreatedBy": head.created_by,
            "StateSize": head.size,
            "StateSHA256": head.sha256,
        },
        "Stats": [{"Name": one.name, "Count": one.count, "Sum": one.size} for one in found.kinds],
        "TotalSize": sum(one.size for one in found.kinds),
    }
    if kvdetails:
        shown["StatsKV"] = [{"Name": one.name, "Count": one.count, "Sum": one.size} for one in found.keys]
        shown["TotalSizeKV"] = sum(one.size for one in found.keys)
    return shown
