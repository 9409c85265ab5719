"""The ring of this agent: where it comes from at a start, and how a change of it lasts.

The file is `serf/local.keyring` below `data_dir` (0600, in a directory of 0700), written beside, synced and
renamed. It is made of `encrypt` when there is none; from then on it holds, and `encrypt` is not looked at:
the ring is changed by `gemot keyring` on all members, and not by the files of one.
"""

from __future__ import annotations

import logging
import os
import shlex
import stat
from pathlib import Path

from gemot.agent.durable import replace, sync_folder
from gemot.agent.gossip.keyring import FILE, FILE_BYTES, Key, Keyring, ring_of, ring_text
from gemot.server.model.errors import BadRequest, DiskFailed

log = logging.getLogger("gemot.gossip")


class RingFile:
    """One file. What raises OSError in here is told as DiskFailed, which names it."""

    def __init__(self, data_dir: Path) -> None:
        self.path = data_dir / FILE

    def read(self) -> Keyring | None:
        """None if there is none. Raises BadRequest for one that is damaged, and names the file.

        One that others can read is told in the log: it was not written here that way.
        """
        try:
            with self.path.open("rb") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                data = file.read(FILE_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise BadRequest(f"{self.path}: cannot be read: {error.strerror}") from error
        if mode & stat.S_IROTH:
            told = "gossip: every user of this host can read the keys: chmod 600 %s: file=%s mode=%04o"
            log.warning(told, shlex.quote(str(self.path)), self.path, mode)
        return ring_of(data.decode("utf-8", "replace"), str(self.path))

    def write(self, ring: Keyring) -> None:
        """It is on the disk when this returns. Blocks for a sync."""
        try:
            self.path.parent.mkdir(mode=0o700, exist_ok=True)
            replace(self.path, ring_text(ring).encode())
            for folder in (self.path.parent, self.path.parent.parent):
                sync_folder(folder)
        except OSError as error:
            raise DiskFailed(f"{self.path}: {error.strerror}") from error


def open_ring(encrypt: str, file: RingFile | None) -> Keyring | None:
    """The ring to begin with; None: gossip is not sealed. Raises BadRequest, DiskFailed.

    Without a file (`disable_keyring_file`) it is `encrypt`, at every start.
    """
    key = Key.parse(encrypt) if encrypt else None
    ring = file.read() if file is not None else None
    if ring is None:
        if key is None:
            return None
        ring = Keyring((key,))
        if file is not None:
            file.write(ring)
    elif key is not None and key != ring.primary:
        told = (
            "gossip: the keyring holds, and `encrypt` is not its primary key: `gemot keyring` changes it, or "
            "take the file away while the agent is stopped: file=%s primary=%s encrypt=%s"
        )
        assert file is not None, "the ring was read from it"
        log.warning(told, file.path, ring.primary.fingerprint, key.fingerprint)
    log.info("gossip: sealed: primary=%s keys=%s", ring.primary.fingerprint, ",".join(ring.fingerprints))
    return ring
