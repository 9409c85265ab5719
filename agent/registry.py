"""Registrations that came over the API, as one JSON file each: the `Store` of the local state.

Below `data_dir`: `services/`, `checks/` and `checks/state/` (TTL states), files named by the hash of the id,
mode 0600. A file is written beside, synced, renamed, and its directory synced, by one worker thread and never
on the loop. A TTL state is not synced: after a power loss the check may be critical until its next push,
which is safe. A file that cannot be read is kept aside with a warning, and the rest loads.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from gemot.agent.durable import BESIDE, replace, sync_folder
from gemot.agent.registration import Registration
from gemot.agent.saved import Saved, TtlState
from gemot.checks.definition import CheckDefinition
from gemot.server.model.catalog import Service
from gemot.server.model.errors import GemotError
from gemot.server.runtime.cause import failure_of

FORMAT = 1
MAX_FILE_BYTES = 4 * 1024 * 1024
DAMAGED_SUFFIX = ".damaged"

_log = logging.getLogger(__name__)
_T = TypeVar("_T", bound="_ServiceFile | _CheckFile | _TtlFile")


class NotSaved(GemotError):
    """A registration holds now, but not across a restart: the disk refused it."""

    code = "not-saved"


class _ServiceFile(msgspec.Struct, frozen=True):
    format: int
    service: dict[str, Any]
    token: str = ""


class _CheckFile(msgspec.Struct, frozen=True):
    format: int
    check: CheckDefinition


class _TtlFile(msgspec.Struct, frozen=True):
    format: int
    check_id: str
    state: TtlState


class Registry:
    """The files. Saving returns at once; `flush` waits until all that was asked for is on disk."""

    def __init__(self, *, data_dir: Path) -> None:
        self._services = data_dir / "services"
        self._checks = data_dir / "checks"
        self._states = data_dir / "checks" / "state"
        self._pending: dict[Path, bytes | None] = {}
        self._failure: OSError | None = None
        self._ttls_failing = False
        self._worker = ThreadPoolExecutor(1, "registry")
        self._draining: asyncio.Future[OSError | None] | None = None

    def load(self) -> Saved:
        """All that is kept. Blocks: call it before the loop has work. Makes the directories."""
        for folder in (self._services, self._checks, self._states):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for left in folder.glob(f"*{BESIDE}"):
                left.unlink()
        checks = [one.check for one in _read_all(self._checks, _CheckFile)]
        return Saved(
            services=tuple(_to_registration(one) for one in _read_all(self._services, _ServiceFile)),
            checks=tuple(msgspec.structs.replace(check, from_config=False) for check in checks),
            ttls={one.check_id: one.state for one in _read_all(self._states, _TtlFile)},
        )

    def save_service(self, registration: Registration) -> None:
        service = registration.service
        named = {name: getattr(service, name) for name in service.__struct_fields__}
        file = _ServiceFile(FORMAT, named, registration.token)
        self._put(_path(self._services, service.id), msgspec.json.encode(file))

    def remove_service(self, service_id: str) -> None:
        self._put(_path(self._services, service_id), None)

    def save_check(self, definition: CheckDefinition) -> None:
        file = _CheckFile(FORMAT, definition)
        self._put(_path(self._checks, definition.check_id), msgspec.json.encode(file))

    def remove_check(self, check_id: str) -> None:
        self._put(_path(self._checks, check_id), None)

    def save_ttl(self, check_id: str, state: TtlState) -> None:
        file = _TtlFile(FORMAT, check_id, state)
        self._put(_path(self._states, check_id), msgspec.json.encode(file))

    def remove_ttl(self, check_id: str) -> None:
        self._put(_path(self._states, check_id), None)

    async def flush(self) -> None:
        """Wait until all that was asked for so far is on disk; what is asked for meanwhile is not waited for.

        Raises NotSaved when the disk refused a registration since the last time.
        """
        failure: BaseException | None = None
        for _ in range(2):  # what is being written now, then what was pending at the call
            draining = self._draining
            if draining is None:
                break
            await asyncio.wait((draining,))
            failure = draining.exception() or failure
            await asyncio.sleep(0)
        failure, self._failure = failure or self._failure, None
        if failure is not None:
            raise NotSaved(
                f"The registration holds, but will not survive a restart: {failure_of(failure)}. Make "
                "room or mend the disk of data_dir, then register again."
            )

    async def close(self) -> None:
        """Write what is pending and end the worker. Nothing may be saved after this."""
        try:
            await self.flush()
        except NotSaved as error:
            _log.error("registry: %s", error)
        self._worker.shutdown()

    def _put(self, path: Path, data: bytes | None) -> None:
        self._pending[path] = data
        if self._draining is None:
            self._drain_next()

    def _drain_next(self) -> None:
        """Hand what is pending to the worker, in one go; more that comes meanwhile waits for its end."""
        batch, self._pending = self._pending, {}
        loop = asyncio.get_running_loop()
        self._draining = loop.run_in_executor(self._worker, self._drain, batch)
        self._draining.add_done_callback(self._on_drained)

    def _on_drained(self, drained: asyncio.Future[OSError | None]) -> None:
        self._draining = None
        error = None if drained.cancelled() else drained.exception()
        if isinstance(error, OSError):
            _log.error("registry: %s: registrations of now will not survive a restart", failure_of(error))
            self._failure = error
        elif error is not None:
            _log.error("registry: registrations could not be written", exc_info=error)
        elif not drained.cancelled():
            self._tell_ttls(drained.result())
        if self._pending:
            self._drain_next()

    def _tell_ttls(self, failure: OSError | None) -> None:
        """Nobody waits for TTL states, and they come all the time: say that it fails once, not each time."""
        if failure is not None and not self._ttls_failing:
            _log.warning(
                "registry: %s: after a restart TTL checks may be critical until their next push", failure
            )
        self._ttls_failing = failure is not None

    def _drain(self, batch: dict[Path, bytes | None]) -> OSError | None:
        """Write all; raises what failed of registrations, returns what failed of TTL states."""
        touched: dict[Path, None] = {}
        failure: OSError | None = None
        ttl_failure: OSError | None = None
        for path, data in batch.items():
            durable = path.parent != self._states
            try:
                changed = _write(path, data, durable=durable)
            except OSError as error:
                failure = error if durable else failure
                ttl_failure = ttl_failure if durable else error
                continue
            if changed and durable:
                touched[path.parent] = None
        for folder in touched:
            sync_folder(folder)
        if failure is not None:
            raise failure
        return ttl_failure


def _path(folder: Path, name: str) -> Path:
    """Ids may hold any character and be long: the file's name is their hash, the content has the id."""
    return folder / (hashlib.sha256(name.encode()).hexdigest()[:40] + ".json")


def _write(path: Path, data: bytes | None, *, durable: bool) -> bool:
    """Replace or remove one file; whether something changed."""
    if data is None:
        try:
            path.unlink()
        except FileNotFoundError:
            return False
        return True
    replace(path, data, sync=durable)
    return True


def _read_all(folder: Path, kind: type[_T]) -> list[_T]:
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise ValueError(f"it is larger than {MAX_FILE_BYTES} bytes")
            one = msgspec.json.decode(path.read_bytes(), type=kind)
            if one.format != FORMAT:
                raise ValueError(f"it has another format than {FORMAT}: a newer release may have written it")
            if isinstance(one, _ServiceFile):
                _to_registration(one)
        except (OSError, ValueError, msgspec.MsgspecError, RecursionError) as error:
            _keep_aside(path, error)
            continue
        found.append(one)
    return found


def _keep_aside(path: Path, error: Exception) -> None:
    aside = path.with_name(path.name + DAMAGED_SUFFIX)
    _log.warning(
        "registry: %s cannot be read (%s): it is kept as %s; what it registered must be registered again",
        path,
        error,
        aside.name,
    )
    try:
        path.rename(aside)
    except OSError as failure:
        _log.warning("registry: %s cannot be renamed: %s", path, failure)


def _to_registration(file: _ServiceFile) -> Registration:
    """The registration in a file. Raises msgspec.ValidationError for a missing or wrong field."""
    missing = {name for name in ("id", "service") if name not in file.service}
    if missing:
        raise msgspec.ValidationError(f"its service has no {', '.join(sorted(missing))}")
    row = {**_DEFAULTS, **{k: v for k, v in file.service.items() if k in Service.__struct_fields__}}
    values = [row[name] for name in Service.__struct_fields__]
    return Registration(msgspec.convert(values, Service), token=file.token)


_EMPTY = Service(id="", service="")
_DEFAULTS = {name: msgspec.to_builtins(getattr(_EMPTY, name)) for name in Service.__struct_fields__}
