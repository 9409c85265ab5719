"""The words of gossip: what members tell each other by datagram, and what an exchange over TCP carries.

One datagram holds several words, see `packet.py`. A word about a member always names the incarnation that it
speaks of: a number that only this member itself raises, so that newer news about it is known from older
(SWIM, Das et al. 2002, section 4.2).
"""

from __future__ import annotations

from enum import IntEnum

import msgspec

PROTOCOL_MIN = 1
PROTOCOL_MAX = 1

ID_BYTES = 64
NAME_BYTES = 128
META_BYTES = 512
"""What a member may tell of itself, as Consul has it; this and more is held at every entrance."""


class Status(IntEnum):
    """What one member holds of another. FAILED: it fell silent. LEFT: it, or an operator, said so."""

    ALIVE = 0
    SUSPECT = 1
    FAILED = 2
    LEFT = 3


class Facts(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a member tells of itself. `meta` is opaque here: whoever runs the gossip gives it a meaning."""

    id: str
    name: str
    host: str
    port: int
    meta: bytes = b""
    protocol_min: int = PROTOCOL_MIN
    protocol_max: int = PROTOCOL_MAX
    reconnect_timeout_ms: int = 0
    """How long it wishes to be remembered once it has failed; 0: as long as all others."""


class Record(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One member as another sees it; what an exchange carries. Never changed, so many may share it."""

    facts: Facts
    incarnation: int = 0
    status: Status = Status.ALIVE


class Ping(msgspec.Struct, frozen=True, array_like=True, tag=1, gc=False):
    """Are you there? Only `to` answers: another may have taken its address."""

    seq: int
    to: str
    sender: str


class Relay(msgspec.Struct, frozen=True, array_like=True, tag=2, gc=False):
    """Ping that member for me, and pass its answer on: the way between us two may be what is broken."""

    seq: int
    to: str
    host: str
    port: int
    sender: str


class Ack(msgspec.Struct, frozen=True, array_like=True, tag=3, gc=False):
    """I am there. `payload` is opaque here: where the answerer stands in the network."""

    seq: int
    payload: bytes = b""


class Nack(msgspec.Struct, frozen=True, array_like=True, tag=4, gc=False):
    """I have pinged for you and heard nothing: so it is not you who is deaf (Lifeguard, section IV.A)."""

    seq: int


class Suspect(msgspec.Struct, frozen=True, array_like=True, tag=5, gc=False):
    """`by` got no answer of this member; it may refute that until its suspicion times out."""

    id: str
    incarnation: int
    by: str


class Alive(msgspec.Struct, frozen=True, array_like=True, tag=6, gc=False):
    """This member is here, with these facts, as of this incarnation."""

    incarnation: int
    facts: Facts


class Dead(msgspec.Struct, frozen=True, array_like=True, tag=7, gc=False):
    """`by` takes this member for failed; or with `left` it is to be expected no more.

    `prune`: it is to be forgotten at once, and no list shows it any more.
    """

    id: str
    incarnation: int
    by: str
    left: bool = False
    prune: bool = False


class News(msgspec.Struct, frozen=True, array_like=True, tag=8, gc=False):
    """Something for every member that is not about members; `topic` says whose (`events.py`)."""

    topic: int
    body: bytes


Word = Ping | Relay | Ack | Nack | Suspect | Alive | Dead | News
