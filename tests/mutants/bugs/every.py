"""Every planted bug, by name."""

from __future__ import annotations

from mutants.bug import found_in
from mutants.bugs import (
    core,
    durable,
    expiry,
    gray,
    holders,
    leading,
    locks,
    members,
    reads,
    snapshots,
    state,
    streams,
    writes,
)

BUGS = found_in(
    (core, leading, durable, state, snapshots, writes, reads, members, gray, locks, holders, streams, expiry)
)
