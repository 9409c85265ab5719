"""The keys that seal gossip: the primary seals, every one of the ring opens. Pure; a ring is a value.

A key is 16, 24 or 32 random bytes (AES-128, -192, -256), in base64 wherever a person or a file has it, as
Consul's `encrypt`. Keys are changed in three steps, each on all members before the next: install the new
one, use it, remove the old one. A ring lasts in Consul's file, `serf/local.keyring`: a JSON list, the
primary first.

No key shows itself by accident: not in a repr, a message, a pickle or a word. People tell keys by their
fingerprint. `Key.text` is for the file, and for who may read keys.
"""

from __future__ import annotations

import hmac
from base64 import b64decode, b64encode
from collections.abc import Sequence
from hashlib import sha256
from typing import NoReturn

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gemot.agent.gossip.limits import RING_KEYS
from gemot.server.model.errors import BadRequest, NotFound

KEY_SIZES = (16, 24, 32)
NEW_KEY_BYTES = 32
MOST_KEYS = RING_KEYS
"""A sealed datagram of strangers costs one try for each."""

MOST_SENDERS = 4_096
"""Senders whose own keys are kept; to make one anew takes some microseconds."""

FINGERPRINT_DIGITS = 16
"""64 bits: changes of rings are decided by fingerprints, not by keys (`rotation.py`)."""

FILE_BYTES = 16 << 10
FILE = "serf/local.keyring"

_WAY_OUT = "give one that `gemot keygen` has made"


class Key:
    """One key. What has it can seal and open with it; nothing gives it away but `text`."""

    __slots__ = ("_ciphers", "_secret", "fingerprint")

    def __init__(self, secret: bytes) -> None:
        assert len(secret) in KEY_SIZES, f"a key has {KEY_SIZES} bytes"
        self._secret = secret
        self._ciphers: dict[bytes, AESGCM] = {}
        self.fingerprint = sha256(b"gemot gossip key\0" + secret).hexdigest()[:FINGERPRINT_DIGITS]

    @classmethod
    def parse(cls, text: str, field: str = "encrypt") -> Key:
        """Raises BadRequest, which names the field and says nothing of what was in it."""
        secret = _decoded(text)
        if secret is None:
            raise BadRequest(f"{field}: the key is not base64: {_WAY_OUT}")
        if len(secret) not in KEY_SIZES:
            raise BadRequest(f"{field}: the key has {len(secret)} bytes, and not 16, 24 or 32: {_WAY_OUT}")
        return cls(secret)

    @property
    def text(self) -> str:
        return b64encode(self._secret).decode()

    def encrypt(self, sender: bytes, nonce: bytes, body: bytes, associated: bytes) -> bytes:
        cipher = self._cipher(sender)
        self._keep(sender, cipher)
        return cipher.encrypt(nonce, body, associated)

    def decrypt(self, sender: bytes, nonce: bytes, body: bytes, associated: bytes) -> bytes | None:
        """None if this sender did not seal it with this key, or it is not what was sealed."""
        cipher = self._cipher(sender)
        try:
            opened = cipher.decrypt(nonce, body, associated)
        except InvalidTag:
            return None
        self._keep(sender, cipher)
        return opened

    def _cipher(self, sender: bytes) -> AESGCM:
        """Each sender seals under a key of its own, made of this one: nonces are counted by sender."""
        if (known := self._ciphers.get(sender)) is not None:
            return known
        derived = hmac.digest(self._secret, b"gemot gossip sender\0" + sender, "sha256")
        return AESGCM(derived[: len(self._secret)])

    def _keep(self, sender: bytes, cipher: AESGCM) -> None:
        """Only of a sender that has the key: strangers take no room."""
        if sender not in self._ciphers:
            if len(self._ciphers) == MOST_SENDERS:
                del self._ciphers[next(iter(self._ciphers))]
            self._ciphers[sender] = cipher

    def __repr__(self) -> str:
        return f"Key({self.fingerprint})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and hmac.compare_digest(self._secret, other._secret)

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key is not copied or pickled")


class Keyring:
    """One to `MOST_KEYS` keys, the primary first. Never changed: each step gives another ring."""

    __slots__ = ("keys",)

    def __init__(self, keys: Sequence[Key]) -> None:
        self.keys = tuple(dict.fromkeys(keys))
        assert 0 < len(self.keys) <= MOST_KEYS, f"a ring has 1 to {MOST_KEYS} keys"

    @property
    def primary(self) -> Key:
        return self.keys[0]

    @property
    def fingerprints(self) -> tuple[str, ...]:
        return tuple(key.fingerprint for key in self.keys)

    def install(self, key: Key) -> Keyring:
        """It opens from now on. Installed already is done. Raises BadRequest if the ring is full."""
        if key not in self.keys and len(self.keys) == MOST_KEYS:
            raise BadRequest(
                f"Key {key.fingerprint} cannot be installed: {MOST_KEYS} keys are, the most there can be: "
                f"remove those not in use"
            )
        return Keyring((*self.keys, key))

    def use(self, key: Key) -> Keyring:
        """It seals from now on. Raises NotFound if it was not installed before."""
        if key not in self.keys:
            raise NotFound(
                f"Key {key.fingerprint} cannot be used: it is not installed here ({self._listed}): "
                f"install it on all members first"
            )
        return Keyring((key, *self.keys))

    def remove(self, key: Key) -> Keyring:
        """It opens no more. Not there is done. Raises BadRequest for the primary."""
        if key == self.primary:
            raise BadRequest(
                f"Key {key.fingerprint} cannot be removed: it is the primary: use another one first"
            )
        return Keyring([each for each in self.keys if each != key])

    @property
    def _listed(self) -> str:
        return ", ".join(self.fingerprints)

    def __repr__(self) -> str:
        return f"Keyring({self._listed})"

    def __eq__(self, other: object) -> bool:
        """The same keys with the same primary; in what order the others stand means nothing."""
        return (
            isinstance(other, Keyring)
            and self.primary == other.primary
            and frozenset(self.keys) == frozenset(other.keys)
        )

    def __hash__(self) -> int:
        return hash(frozenset(self.keys))


def keygen(random: bytes) -> str:
    """A new key in base64, of so many bytes from the system's source of randomness."""
    assert len(random) == NEW_KEY_BYTES, f"a new key is made of {NEW_KEY_BYTES} random bytes"
    return b64encode(random).decode()


def ring_text(ring: Keyring) -> str:
    """What the file holds."""
    listed = msgspec.json.encode([key.text for key in ring.keys])
    return msgspec.json.format(listed, indent=2).decode() + "\n"


def ring_of(text: str, where: str = FILE) -> Keyring:
    """The ring in a file's text. Raises BadRequest, which names the file as `where`."""
    if len(text) > FILE_BYTES:
        raise BadRequest(f"{where}: {len(text)} characters, the limit is {FILE_BYTES}: this is no keyring")
    listed = _list_of(text)
    if listed is None:
        raise BadRequest(
            f"{where}: this is no JSON list of keys in base64: mend it, or take it away for `encrypt`"
        )
    keys = dict.fromkeys(Key.parse(each, f"{where}, key {number}") for number, each in enumerate(listed, 1))
    if not keys:
        raise BadRequest(f"{where}: there is no key in it: put one in, or take it away for `encrypt`")
    if len(keys) > MOST_KEYS:
        raise BadRequest(f"{where}: {len(keys)} keys, the limit is {MOST_KEYS}: take out those not in use")
    return Keyring(list(keys))


def _decoded(text: str) -> bytes | None:
    """The error of base64 would carry the text: it ends here."""
    try:
        return b64decode(text, validate=True)
    except ValueError:
        return None


def _list_of(text: str) -> list[str] | None:
    try:
        return msgspec.json.decode(text, type=list[str])
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
