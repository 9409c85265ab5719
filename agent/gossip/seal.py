"""The envelope around each datagram and each frame: whose cluster, and if there is a key, sealed. Pure.

    clear     `0xA0 + version: u8 | label length: u8 | label | body`
    sealed    `0xE0 + version: u8 | label length: u8 | label | sender: 8 | nonce: 12 | sealed | tag: 16`
              sender: the beginning of its id's SHA-256; sealed, by AES-GCM: `counter: u64 big-endian | body`

The label tells clusters apart that share a network, whether there is a key or not: it stands in front in
clear, so packets of another cluster are told from those under a wrong key. All in front, what the envelope is
for, and a context are associated data: none of it can be exchanged under the seal.

Nonces are handed in, and must come from the system's source of randomness. By NIST SP 800-38D a key is good
for 2**32 of them. Each sender seals under a key of its own, made of the ring's (`keyring.Key`), so what one
member sends counts: nine years at fifteen datagrams a second, however many members there are.

Replays: see `replay.py` for what is held and what is not. An answer on a stream takes its question as context
(`context_of`): so it is the answer to this very question, whatever the receiver remembers.

Gossip of a running cluster is sealed in Consul's three steps: a key with both `verify` off (opens what is
sealed), then `verify_outgoing` (seals), then `verify_incoming` (takes nothing else). Before the third step
anyone can speak in clear.
"""

from __future__ import annotations

from enum import Enum
from hashlib import sha256

from gemot.agent.gossip.keyring import Keyring
from gemot.agent.gossip.limits import LABEL_BYTES, SEAL_BYTES
from gemot.agent.gossip.replay import COUNTER_BITS, Windows, first_counter
from gemot.server.model.errors import BadRequest, PeerBroke

VERSION = 1
OLDEST = 1
NOT_SEALED = "gossip is not encrypted here: set `encrypt` on all members (`gemot keygen` makes a key)"
NONCE_BYTES = 12
TAG_BYTES = 16
SENDER_BYTES = 8
COUNTER_BYTES = COUNTER_BITS // 8
_CLEAR = 0xA0
_SEALED = 0xE0
_FRONT_BYTES = SENDER_BYTES + NONCE_BYTES
assert SEAL_BYTES == 2 + LABEL_BYTES + _FRONT_BYTES + COUNTER_BYTES + TAG_BYTES, "limits.py counts the same"


class Purpose(Enum):
    """What an envelope is around. One of the other kind does not open."""

    DATAGRAM = b"datagram"
    FRAME = b"frame"


class Why(Enum):
    """Why an envelope was not opened: the words are for counting."""

    STRANGER = "stranger"
    TOO_OLD = "too_old"
    TOO_NEW = "too_new"
    TRUNCATED = "truncated"
    WRONG_LABEL = "wrong_label"
    UNSEALED = "unsealed"
    SEALED = "sealed"
    NO_KEY_FITS = "no_key_fits"
    REFLECTED = "reflected"
    REPLAYED = "replayed"


class Unopened(PeerBroke):
    """What came is not taken. `why` says it in a word, the message in a sentence."""

    code = "gossip-unopened"

    def __init__(self, message: str, why: Why = Why.STRANGER) -> None:
        super().__init__(message)
        self.why = why


class Seal:
    """One member's envelopes of one purpose. `ring` and the two flags may be changed at any time.

    Datagrams and frames have a seal each, for a slow frame would fall out of the window of quick datagrams.
    """

    def __init__(
        self,
        *,
        purpose: Purpose,
        label: str,
        sender: str,
        wall_ms: int,
        ring: Keyring | None = None,
        verify_incoming: bool = True,
        verify_outgoing: bool = True,
    ) -> None:
        """`sender` is this member's id, `wall_ms` the wall clock's time now, in milliseconds since 1970."""
        self.ring = ring
        self.verify_incoming = verify_incoming
        self.verify_outgoing = verify_outgoing
        self._purpose = purpose
        self._label = label.encode()
        assert len(self._label) <= LABEL_BYTES, f"a label has at most {LABEL_BYTES} bytes"
        self._sender = sender_hash(sender)
        self._counter = first_counter(wall_ms)
        self._windows = Windows()

    def seal(self, body: bytes, nonce: bytes, context: bytes = b"", *, always: bool = False) -> bytes:
        """The envelope around `body`. `nonce` is random, and used for nothing else.

        `always`: not in clear, whatever `verify_outgoing` says; then it raises BadRequest without a key.
        """
        assert len(nonce) == NONCE_BYTES, f"a nonce has {NONCE_BYTES} bytes"
        if always and self.ring is None:
            raise BadRequest(NOT_SEALED)
        if self.ring is None or not (self.verify_outgoing or always):
            return self._front(_CLEAR) + body
        self._counter += 1
        inside = self._counter.to_bytes(COUNTER_BYTES, "big") + body
        front = self._front(_SEALED) + self._sender
        sealed = self.ring.primary.encrypt(self._sender, nonce, inside, self._associated(front, context))
        return front + nonce + sealed

    def open_(self, envelope: bytes, context: bytes = b"") -> bytes:
        """What is in it. Raises Unopened."""
        kind = _kind(envelope)
        at = self._after_label(envelope)
        if kind == _CLEAR:
            if self.ring is not None and self.verify_incoming:
                raise Unopened("gossip came in clear, and `encrypt_verify_incoming` is on", Why.UNSEALED)
            return envelope[at:]
        if self.ring is None:
            raise Unopened("gossip came sealed, and there is no key here: set `encrypt`", Why.SEALED)
        if len(envelope) < at + _FRONT_BYTES + COUNTER_BYTES + TAG_BYTES:
            raise Unopened("sealed gossip breaks off", Why.TRUNCATED)
        sender, nonce = envelope[at : at + SENDER_BYTES], envelope[at + SENDER_BYTES : at + _FRONT_BYTES]
        associated = self._associated(envelope[: at + SENDER_BYTES], context)
        inside = _inside(self.ring, sender, nonce, envelope[at + _FRONT_BYTES :], associated)
        self._admit(sender, int.from_bytes(inside[:COUNTER_BYTES], "big"))
        return inside[COUNTER_BYTES:]

    def forget(self, id: str) -> None:
        """This member is pruned or reaped: under its id may come one whose clock is behind."""
        self._windows.forget(sender_hash(id))

    def _front(self, kind: int) -> bytes:
        return bytes((kind | VERSION, len(self._label))) + self._label

    def _associated(self, front: bytes, context: bytes) -> bytes:
        """The label's length is in front of it and the context ends it: no two read alike."""
        return front + self._purpose.value + b"\0" + context

    def _after_label(self, envelope: bytes) -> int:
        """Where the label ends, which is ours."""
        size = envelope[1] if len(envelope) > 1 else 0
        if size > LABEL_BYTES:
            raise Unopened(f"gossip with a label of {size} bytes, the limit is {LABEL_BYTES}", Why.STRANGER)
        if len(envelope) <= 2 + size:
            raise Unopened("gossip breaks off in front", Why.TRUNCATED)
        label = envelope[2 : 2 + size]
        if label != self._label:
            raise Unopened(
                f"gossip of cluster {_shown(label)}, this is {_shown(self._label)}", Why.WRONG_LABEL
            )
        return 2 + size

    def _admit(self, sender: bytes, counter: int) -> None:
        if sender == self._sender:
            raise Unopened("gossip of this very member, or of another one under its id", Why.REFLECTED)
        if not self._windows.admit(sender, counter):
            raise Unopened(
                "sealed gossip was seen before, is far too late, or its sender started with a clock set back",
                Why.REPLAYED,
            )


def context_of(question: bytes) -> bytes:
    """What binds an answer to the envelope of its question: of a sealed one all up to the nonce and more."""
    return question[:SEAL_BYTES]


def is_sealed(envelope: bytes) -> bool:
    """Whether what was opened had been sealed: while `verify_incoming` is off both are taken."""
    return bool(envelope) and envelope[0] & 0xF0 == _SEALED


def sender_hash(id: str) -> bytes:
    return sha256(id.encode()).digest()[:SENDER_BYTES]


def _kind(envelope: bytes) -> int:
    """Clear or sealed, in a format that is read here."""
    if not envelope:
        raise Unopened("gossip of no bytes", Why.TRUNCATED)
    kind, version = envelope[0] & 0xF0, envelope[0] & 0x0F
    if kind not in (_CLEAR, _SEALED):
        raise Unopened(f"byte {envelope[0]:#04x} begins no gossip of ours", Why.STRANGER)
    if version < OLDEST:
        raise Unopened(f"gossip in format {version}, the oldest read here is {OLDEST}", Why.TOO_OLD)
    if version > VERSION:
        raise Unopened(f"gossip in format {version}, the newest read here is {VERSION}", Why.TOO_NEW)
    return kind


def _inside(ring: Keyring, sender: bytes, nonce: bytes, sealed: bytes, associated: bytes) -> bytes:
    for key in ring.keys:
        if (inside := key.decrypt(sender, nonce, sealed, associated)) is not None:
            return inside
    raise Unopened(
        f"gossip sealed with none of the keys here ({', '.join(ring.fingerprints)}), or damaged",
        Why.NO_KEY_FITS,
    )


def _shown(label: bytes) -> str:
    return repr(label.decode("utf-8", "replace"))
