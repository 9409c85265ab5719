"""What a watch has told, kept in a file of its own: so that a start tells nothing twice.

It is written after the command has ended well, so that what a crash or a failure cut off is told once more.
The file is of one watch, and of one cluster.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from gemot.agent import durable

FORMAT = 1
MAX_BYTES = 256 << 20


class Kept(msgspec.Struct, frozen=True, rename="pascal"):
    """`told` is the hash of what was told last, "" for nothing yet. `items` are kept where the next start
    has to know what was there: they are all that there was at `place`."""

    format: int
    watch: dict[str, Any]
    told: str = ""
    place: str = ""
    items: dict[str, Any] | None = None


class WatchState:
    """A file, or none: then nothing is kept. `watch` says which watch it is of."""

    def __init__(self, path: Path | None, watch: dict[str, Any]) -> None:
        self._path = path
        self._watch = watch

    def read(self) -> Kept:
        """Raises ClickException for a file that is of something else, or cannot be read or written."""
        nothing = Kept(FORMAT, self._watch)
        if self._path is None:
            return nothing
        try:
            if self._path.exists():
                return self._decode(self._path)
            self._write(self._path, nothing)
        except OSError as error:
            raise click.ClickException(f"-state-file: {self._path}: {error.strerror or error}") from error
        return nothing

    def write(self, *, told: str, place: str, items: dict[str, Any] | None) -> None:
        """A file that cannot be written is said, and the watch goes on: the next start tells it again."""
        if self._path is None:
            return
        try:
            self._write(self._path, Kept(FORMAT, self._watch, told, place, items))
        except OSError as error:
            why = error.strerror or error
            click.echo(f"gemot watch: -state-file: {self._path}: {why}: a restart tells it again", err=True)

    def _decode(self, path: Path) -> Kept:
        if path.stat().st_size > MAX_BYTES:
            raise self._stranger(f"longer than {MAX_BYTES >> 20} MiB")
        try:
            kept = msgspec.json.decode(path.read_bytes(), type=Kept)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise self._stranger(str(error)) from error
        if kept.format != FORMAT:
            raise self._stranger(f"of format {kept.format}, this release writes {FORMAT}")
        if kept.watch != self._watch:
            raise self._stranger(f"of another watch, {msgspec.json.encode(kept.watch)[:200].decode()}")
        return kept

    def _stranger(self, why: str) -> click.ClickException:
        return click.ClickException(
            f"-state-file: {self._path}: not the state of this watch ({why}): give another file, or remove it"
        )

    @staticmethod
    def _write(path: Path, kept: Kept) -> None:
        durable.replace(path, msgspec.json.encode(kept) + b"\n")
        durable.sync_folder(path.parent)
