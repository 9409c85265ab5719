"""Words of the session family: the row, its commands, its queries. Source: Consul, Session HTTP endpoint.

A session is a lease on a node's life: while it lives it may hold locks on keys (`KvSet.acquire`), and when it
ends they are released, all in one entry. It ends when it is destroyed, when its TTL passes without a renewal,
when its node leaves the catalog, or when one of its checks turns critical or goes.
"""

from __future__ import annotations

import msgspec

MAX_TTL_MS = 86_400_000
LEAST_TTL_MS = 1_000
"""What a cluster takes at all; an agent asks for more (`session_ttl_min`)."""

MAX_LOCK_DELAY_MS = 60_000
DEFAULT_LOCK_DELAY_MS = 15_000

MAX_CHECKS = 64
"""That one session names."""


class Session(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One session as stored. `ttl` is the caller's text, `ttl_ms` what it means, 0 for none.

    `node_checks` are check ids of its node; `service_checks` (check id, namespace) of services there, None
    where the caller gave none. All are equal to the rules: each must live.
    """

    id: str
    node: str
    name: str = ""
    lock_delay_ns: int = DEFAULT_LOCK_DELAY_MS * 1_000_000
    behavior: str = "release"
    ttl: str = ""
    ttl_ms: int = 0
    node_checks: tuple[str, ...] = ()
    service_checks: tuple[tuple[str, str], ...] | None = None
    create_index: int = 0
    modify_index: int = 0


class Lease(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """How long a session with a TTL lives, in cluster time.

    `generation` counts renewals. A deadline that was set in another `epoch` says nothing of this one: the
    lease then begins anew.
    """

    session: str
    generation: int
    epoch: int
    deadline_ms: int


class CreateSession(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=50):
    """Begin a session; its id is the caller's to mint. Result: True."""

    session: Session


class DestroySession(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=51):
    """End a session. Result: True, whether there was one or not."""

    id: str


class RenewSession(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=52):
    """Its TTL begins anew. Result: bool, False if there is no such session. Moves no index."""

    id: str


class EndLeases(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=53):
    """End those of these sessions (id, generation) that are due, and forget lock delays that are over.

    The leader proposes it; whether one is due is decided where it is applied. Result: how many ended.
    """

    leases: tuple[tuple[str, int], ...]


class SessionInfo(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=50):
    """One session. Value: LivingSession or None."""

    id: str


class Sessions(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=51):
    """Every session, by id; of one node where it is given. Value: list of Session."""

    node: str = ""


class LivingSession(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A session, and what is left of its TTL by the answering server's cluster time; -1 without a TTL.

    It can be up to a second too much: cluster time moves with the log.
    """

    session: Session
    remaining_ms: int
