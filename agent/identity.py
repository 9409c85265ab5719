"""What makes this agent this agent: its data directory, locked, and the node id kept in it."""

from __future__ import annotations

import errno
import os
import re
import socket
import tempfile
import uuid
from ipaddress import ip_address
from pathlib import Path

import psutil

from gemot.agent.config.address import HostFacts
from gemot.agent.durable import replace, sync_folder
from gemot.server.model.errors import BadRequest, DiskFailed, StorageFailed
from gemot.server.storage.disk import Disk, Lock

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
ID_FILE = "node-id"

_NOT_OURS = (
    errno.EACCES,
    errno.EPERM,
    errno.ENOENT,
    errno.EEXIST,
    errno.ENOTDIR,
    errno.ENAMETOOLONG,
    errno.ELOOP,
)
"""What is no fault of the disk, but a wrong path or somebody else's directory."""


class DataDir:
    """A locked data directory. Close it last."""

    def __init__(self, *, path: Path, lock: Lock, temporary: tempfile.TemporaryDirectory[str] | None) -> None:
        self.path = path
        self._lock = lock
        self._temporary = temporary

    @classmethod
    def open(cls, path: str, disk: Disk) -> DataDir:
        """Make it if need be, and lock it; "" is a private directory that goes with this process.

        Raises StorageFailed if another process holds it, BadRequest if it is a place that cannot be used.
        """
        temporary = None
        if not path:
            temporary = tempfile.TemporaryDirectory(prefix="gemot-dev-")
            path = temporary.name
        try:
            disk.makedirs(path)
            lock = disk.lock(f"{path}/lock")
        except DiskFailed as error:
            if not isinstance(error.__cause__, OSError) or error.__cause__.errno not in _NOT_OURS:
                raise
            if found := in_the_way(path):
                raise BadRequest(f"data_dir: {found}") from error
            if error.__cause__.errno in (errno.EACCES, errno.EPERM):
                what = "let the agent's user write there, or name another directory"
            else:
                what = "name another directory"
            raise BadRequest(f"data_dir: {error.message}: {what}") from error
        return cls(path=Path(path), lock=lock, temporary=temporary)

    def close(self) -> None:
        self._lock.release()
        if self._temporary is not None:
            self._temporary.cleanup()

    def node_id(self, wanted: str) -> str:
        """The id kept here, made at the first start. Raises BadRequest if `wanted` is another one."""
        file = self.path / ID_FILE
        try:
            kept = file.read_text().strip().lower()
        except FileNotFoundError:
            kept = ""
        except OSError as error:
            raise StorageFailed(f"{file}: {error.strerror}") from error
        if kept and not _UUID.fullmatch(kept):
            raise StorageFailed(f"{file} holds no UUID: restore it, or remove it to become a new node")
        if wanted and kept and wanted != kept:
            raise BadRequest(
                f"node_id is {wanted}, but {self.path} belongs to node {kept}: "
                "leave node_id out, or use another data_dir"
            )
        if not kept:
            kept = wanted or str(uuid.uuid4())
            replace(file, f"{kept}\n".encode())
            sync_folder(file.parent)
        return kept


def in_the_way(path: str) -> str:
    """What keeps this path from being a directory, and what to do; "" when nothing that is seen does."""
    place = Path(path).absolute()
    there = next((each for each in (place, *place.parents) if os.path.lexists(each)), place)
    if os.path.isdir(there) or not os.path.lexists(there):
        return ""
    whole = "" if there == place else f"{path} cannot be made: "
    return f"{whole}{there} is not a directory: move it away, or name another directory"


def host_facts() -> HostFacts:
    """The name and the addresses of this host, as configuration wants them."""
    families = (socket.AF_INET, socket.AF_INET6)
    found = [
        (interface, address.address.partition("%")[0])
        for interface, addresses in psutil.net_if_addrs().items()
        for address in addresses
        if address.family in families
    ]
    return HostFacts(hostname=socket.gethostname().partition(".")[0], addresses=tuple(found))


def has_address(address: str) -> bool:
    """Whether this host can listen there; True for one that only a name server could tell of."""
    try:
        family = socket.AF_INET6 if ip_address(address).version == 6 else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((address, 0))
    except ValueError:
        return True
    except OSError as error:
        return error.errno != errno.EADDRNOTAVAIL
    return True
