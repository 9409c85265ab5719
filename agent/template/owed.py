"""The commands still owed: one small synced file per destination, from before its rename until success.

Node-local, under `data_dir/templates/owed/`. What is recorded is the destination; the command itself is
always taken from the configuration, so that this folder can never make anything run. A crash at any point
leads to the command being run at least once after the rename, and perhaps once more. Blocking.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from gemot.agent.durable import sync_folder
from gemot.agent.template.definition import TemplateDefinition
from gemot.agent.template.errors import TemplateFailed

FORMAT = 1
SUFFIX = ".json"


class Record(msgspec.Struct, frozen=True):
    """That the command for this destination has not succeeded since the destination was last replaced."""

    format: int
    destination: str


class OwedCommands:
    """The records of one data directory."""

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir / "templates" / "owed"

    def record(self, definition: TemplateDefinition) -> bool:
        """Note, durably, that the command will be owed; False if it was already. Raises TemplateFailed."""
        path = self._path(definition)
        try:
            if path.exists():
                return False  # synced when it was made
            self._make_folder()
            staged = path.with_suffix(".new")
            data = msgspec.json.encode(Record(FORMAT, definition.destination))
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            with open(os.open(staged, flags, 0o600), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.rename(staged, path)
            sync_folder(self._folder)
            return True
        except OSError as error:
            raise TemplateFailed(
                f"{definition.destination}: its pending command cannot be recorded in {self._folder} "
                f"({error.strerror}); the old file is kept"
            ) from error

    def clear(self, definitions: Iterable[TemplateDefinition]) -> None:
        """Forget them: the command has succeeded, or there is none any more."""
        gone = False
        for definition in definitions:
            gone |= self._unlink(self._path(definition))
        if gone:
            self._sync()

    def load(self, definitions: Iterable[TemplateDefinition]) -> list[TemplateDefinition]:
        """Those of the definitions whose command is owed. Records of others are forgotten.

        A record alone counts: a file that is there but cannot be read is one too (nothing else is in it).
        """
        known = {definition.id: definition for definition in definitions}
        owed = []
        try:
            names = sorted(os.listdir(self._folder))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise TemplateFailed(f"{self._folder}: cannot be read: {error.strerror}") from error
        for name in names:
            definition = known.get(name.removesuffix(SUFFIX)) if name.endswith(SUFFIX) else None
            if definition is not None and definition.command and os.path.exists(definition.destination):
                owed.append(definition)
            else:
                self._unlink(self._folder / name)
        return owed

    def _path(self, definition: TemplateDefinition) -> Path:
        return self._folder / (definition.id + SUFFIX)

    def _make_folder(self) -> None:
        """Each level synced in the one above: a record in a folder that a crash undoes is none."""
        for folder in (self._folder.parent, self._folder):
            if not folder.is_dir():
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                sync_folder(folder.parent)

    def _unlink(self, path: Path) -> bool:
        try:
            path.unlink()
        except OSError:
            return False  # it stays: the command is run once more after the next start
        return True

    def _sync(self) -> None:
        try:
            sync_folder(self._folder)
        except OSError:
            pass  # as above
