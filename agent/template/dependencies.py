"""What a template depends on: queries of the cluster and files of this host, watched while it needs them.

`Dependencies` belongs to one template. It keeps the last value of everything the template asked for, says
when one changed, and gives up what the template stopped asking for.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec

from gemot.agent.servers import Subscription
from gemot.server.model.catalog import HealthService, NodeInfo, Nodes, Services
from gemot.server.model.kv import KvGet, KvKeys, KvList
from gemot.server.model.query import Answer, Query

MAX_FILE_BYTES = 16 * 1024 * 1024
FILE_POLL_S = 2.0


class FileRead(msgspec.Struct, frozen=True, array_like=True, tag="file"):
    """The content of a file. Value: bytes, or None when there is no regular file to read."""

    path: str


Need = Query | FileRead

_encoder = msgspec.msgpack.Encoder(order="deterministic")


def key_of(need: Need) -> bytes:
    """Names a need; equal needs have equal keys (a query with a map in it has no hash)."""
    if isinstance(need, FileRead):
        return b"file:" + need.path.encode("utf-8", "surrogateescape")
    return _encoder.encode(need)


def describe(need: Need) -> str:
    """A need in the words of a template's author, for messages."""
    match need:
        case FileRead(path=path):
            return f"file {path}"
        case KvGet(key=key):
            return f"key {_show(key)}"
        case KvList(prefix=prefix) | KvKeys(prefix=prefix):
            return f"keys below {_show(prefix) or '/'}"
        case HealthService(service=service, tags=tags):
            return f"service {'.'.join((*tags, service))}"
        case NodeInfo(node=node):
            return f"node {node}"
        case Services():
            return "the list of services"
        case Nodes():
            return "the list of nodes"
    return type(need).__name__


class Views(Protocol):
    """What is needed of the agent's views."""

    def watch(self, query: Query, callback: Callable[[Answer], None]) -> Subscription: ...

    def age_s(self, query: Query) -> float: ...


class Dependencies:
    """The watched needs of one template. For one event loop.

    `on_change` is called for each new or changed value, after it can be seen in `known`.
    """

    def __init__(
        self, *, views: Views, on_change: Callable[[], None], file_poll_s: float = FILE_POLL_S
    ) -> None:
        self.known: dict[bytes, Any] = {}
        self._views = views
        self._on_change = on_change
        self._file_poll_s = file_poll_s
        self._watched: dict[bytes, Subscription] = {}
        self._queries: dict[bytes, Query] = {}

    def __len__(self) -> int:
        return len(self._watched)

    def watch(self, needs: Mapping[bytes, Need], *, only: bool) -> None:
        """Watch these; with `only`, and nothing else any more. Raises what the views refuse with."""
        for key, need in needs.items():
            if key not in self._watched:
                self._start(key, need)
        if only:
            for key in [key for key in self._watched if key not in needs]:
                self._stop(key)

    def stop(self) -> None:
        for key in list(self._watched):
            self._stop(key)

    def age_s(self) -> float:
        """Of what is asked of the cluster, the greatest age; files of this host are as they are."""
        return max((self._views.age_s(query) for query in self._queries.values()), default=0.0)

    def _start(self, key: bytes, need: Need) -> None:
        subscription: Subscription
        if isinstance(need, FileRead):
            subscription = _FileWatch(need.path, self._file_poll_s, lambda data: self._told(key, data))
        else:
            subscription = self._views.watch(need, lambda answer: self._told(key, answer.value))
            self._queries[key] = need
        self._watched[key] = subscription

    def _stop(self, key: bytes) -> None:
        self._watched.pop(key).cancel()
        self.known.pop(key, None)
        self._queries.pop(key, None)

    def _told(self, key: bytes, value: Any) -> None:
        if key in self.known and self.known[key] == value:
            return
        self.known[key] = value
        self._on_change()


class _FileWatch:
    """Reads a file whenever its identity, size or time changes; looked at by polling, off the loop."""

    def __init__(self, path: str, poll_s: float, on_data: Callable[[bytes | None], None]) -> None:
        self._path = path
        self._poll_s = poll_s
        self._on_data = on_data
        self._task = asyncio.get_running_loop().create_task(self._poll())

    def cancel(self) -> None:
        self._task.cancel()

    async def _poll(self) -> None:
        mark: object = ()
        while True:
            seen, data = await asyncio.to_thread(_read_changed, self._path, mark)
            if seen != mark:
                mark = seen
                self._on_data(data)
            await asyncio.sleep(self._poll_s)


def _read_changed(path: str, mark: object) -> tuple[object, bytes | None]:
    """The file's mark, and its content if the mark differs from the one given. Never a pipe or a device."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except (OSError, ValueError):
        return None, None
    with open(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_FILE_BYTES:
            return None, None
        seen = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        if seen == mark:
            return seen, None
        try:
            data = file.read(MAX_FILE_BYTES + 1)
        except OSError:
            return None, None
        return (seen, data) if len(data) <= MAX_FILE_BYTES else (None, None)


def _show(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")
