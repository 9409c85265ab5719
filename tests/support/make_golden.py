"""Write the data directory of this release to `tests/golden/v<n>`: run once, when what is written changes.

    PYTHONPATH=tests .venv/bin/python -m support.make_golden tests/golden/v3

What is there already is never written again: later releases must read it as it is.
"""

from __future__ import annotations

import sys
from pathlib import Path

from support.log_model import batch

from gemot.server.raft.types import SnapshotMeta
from gemot.server.storage.log import SegmentLog
from gemot.server.storage.meta import Meta, MetaFile
from gemot.server.storage.realdisk import RealDisk
from gemot.server.storage.snapshot import Snapshots

SNAPSHOT = SnapshotMeta(4, 1, ("n1", "n2", "n3"))
SNAPSHOT_BYTES = b"a state file stands here\n" * 40


def write(folder: Path) -> None:
    """A log of three segments with a replaced suffix and two terms in a batch, a vote, a snapshot."""
    disk, root = RealDisk(), str(folder)
    meta = MetaFile.open(disk, root)
    meta.save(Meta(node_id="n1", cluster_id="c1", promised_cluster="c1", term=1, vote="n1"))
    log = SegmentLog.open(disk=disk, directory=f"{root}/log", segment_bytes=4096).log
    for new in (
        batch(1, [1, 1, 1]),
        batch(4, [1], 700),
        batch(5, [1, 1], 900),
        batch(7, [1], 300),
        batch(6, [2, 3], 60),
        batch(8, [3], 2000),
        batch(9, [3]),
    ):
        log.append(new)
        log.sync()
    snapshots = Snapshots.open(disk, f"{root}/snap")
    file = disk.open(snapshots.stage(SNAPSHOT), create=True)
    file.pwrite(SNAPSHOT_BYTES, 0)
    snapshots.commit(SNAPSHOT, epoch=1)
    meta.save(
        Meta(
            node_id="n1", cluster_id="c1", promised_cluster="c1", term=3, vote="n2",
            durable_index=log.durable_index, durable_hash=log.durable_hash, base=SNAPSHOT,
        )
    )  # fmt: skip


if __name__ == "__main__":
    target = Path(sys.argv[1])
    if target.exists():
        sys.exit(f"{target} exists: what a release wrote is not written again")
    write(target)
