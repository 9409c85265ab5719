"""What a server can tell people about its part in the consensus. Time is in ticks."""

from __future__ import annotations

import msgspec

from gemot.server.raft.types import Role


class PeerStatus(msgspec.Struct, frozen=True):
    """What the leader knows of one other server. `mode` is probe, replicate or snapshot."""

    id: str
    voter: bool
    mode: str
    match: int
    next: int
    inflight: int
    heard_ticks_ago: int
    repairing: bool


class Status(msgspec.Struct, frozen=True):
    """`peers` is empty but on the leader. `handing_over_to` is "" unless a handover is under way."""

    id: str
    role: Role
    term: int
    leader: str
    commit: int
    applied: int
    first_index: int
    last_index: int
    durable_index: int
    snapshot_index: int
    voters: tuple[str, ...]
    repairing: bool
    installing: bool
    handing_over_to: str
    quorum_contact_ticks: int
    malformed_messages: int
    peers: tuple[PeerStatus, ...]
