"""Keys and rings: Consul's keys and its file, exchanged step by step, and never shown by accident."""

from __future__ import annotations

import copy
import json
import pickle
from base64 import b64encode

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemot.agent.gossip.keyring import FILE_BYTES, MOST_KEYS, Key, Keyring, keygen, ring_of, ring_text
from gemot.server.model.errors import BadRequest, GemotError, NotFound

A, B, C = (Key(bytes([number]) * 32) for number in (1, 2, 3))
SENDER = b"sender 1"
NONCE = bytes(12)


def text(secret: bytes) -> str:
    return b64encode(secret).decode()


# -- one key -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [16, 24, 32])
def test_a_key_of_any_size_of_aes_is_taken_in_base64(size: int) -> None:
    key = Key.parse(text(bytes(size)))
    assert key.text == text(bytes(size))
    sealed = key.encrypt(SENDER, NONCE, b"body", b"front")
    assert key.decrypt(SENDER, NONCE, sealed, b"front") == b"body"


@pytest.mark.parametrize("size", [0, 1, 15, 17, 31, 33, 64, 9_000])
def test_a_key_of_another_size_is_refused_with_its_size_and_the_way_out(size: int) -> None:
    with pytest.raises(BadRequest, match=f"^encrypt: the key has {size} bytes.*gemot keygen"):
        Key.parse(text(bytes(size)))


@pytest.mark.parametrize(
    "wrong", ["secret", "%%%%", "AAAAA", text(bytes(16)) + "\n", " " + text(bytes(16)), "ä"]
)
def test_what_is_not_base64_is_refused_without_being_shown(wrong: str) -> None:
    with pytest.raises(BadRequest, match=r"^encrypt: the key is not base64") as caught:
        Key.parse(wrong)
    assert wrong not in caught.value.message
    assert caught.value.__context__ is None, "a chained error would carry the text"


def test_the_error_names_the_field_it_is_about() -> None:
    with pytest.raises(BadRequest, match=r"^Key: "):
        Key.parse("short", "Key")


def test_a_key_opens_only_what_was_sealed_with_it_and_is_unchanged() -> None:
    sealed = A.encrypt(SENDER, NONCE, b"body", b"front")
    assert B.decrypt(SENDER, NONCE, sealed, b"front") is None
    assert A.decrypt(SENDER, NONCE, sealed, b"back") is None
    assert A.decrypt(SENDER, bytes([1]) * 12, sealed, b"front") is None
    assert A.decrypt(SENDER, NONCE, sealed[:-1] + bytes([sealed[-1] ^ 1]), b"front") is None
    assert A.decrypt(SENDER, NONCE, b"short", b"front") is None
    assert A.decrypt(b"another.", NONCE, sealed, b"front") is None
    assert A.decrypt(SENDER, NONCE, sealed, b"front") == b"body"


def test_of_senders_only_those_that_have_the_key_take_room_and_only_so_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gemot.agent.gossip.keyring.MOST_SENDERS", 3)
    key = Key(bytes(32))
    for number in range(50):
        key.decrypt(number.to_bytes(8, "big"), NONCE, bytes(40), b"")
    assert key._ciphers == {}
    sealed = [(each, key.encrypt(each, NONCE, b"body", b"")) for each in (b"%8d" % n for n in range(9))]
    assert len(key._ciphers) == 3
    assert all(key.decrypt(each, NONCE, body, b"") == b"body" for each, body in sealed)


def test_no_key_shows_itself_by_accident() -> None:
    shown = f"{A!r} {A} {Keyring([A, B])!r} {A.fingerprint}"
    assert A.text not in shown
    assert (b"\1" * 8).hex() not in shown
    for copied in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="not copied or pickled"):
            copied(A)
    for encode in (json.dumps, msgspec.json.encode, msgspec.msgpack.encode):
        with pytest.raises(TypeError):
            encode(A)


def test_keys_are_told_apart_by_a_fingerprint_long_enough_to_decide_by() -> None:
    assert A.fingerprint == Key(bytes([1]) * 32).fingerprint
    assert len({key.fingerprint for key in (A, B, C)}) == 3
    assert len(A.fingerprint) * 4 >= 64


def test_a_new_key_is_32_bytes_as_consuls() -> None:
    assert Key.parse(keygen(bytes(range(32)))).text == text(bytes(range(32)))
    with pytest.raises(AssertionError):
        keygen(bytes(16))


# -- a ring --------------------------------------------------------------------------------------------


def test_a_key_is_exchanged_in_three_steps_and_the_ring_before_is_unchanged() -> None:
    old = Keyring([A])
    both = old.install(B)
    used = both.use(B)
    new = used.remove(A)
    assert (old.keys, both.keys, used.keys, new.keys) == ((A,), (A, B), (B, A), (B,))
    assert [ring.primary for ring in (old, both, used, new)] == [A, A, B, B]


def test_each_step_may_be_repeated() -> None:
    both = Keyring([A, B])
    assert both.install(B) == both
    assert both.install(A) == both, "and the primary stays the primary"
    assert both.use(B).use(B) == both.use(B)
    assert both.remove(C) == both


def test_a_key_is_used_only_after_it_was_installed() -> None:
    with pytest.raises(NotFound, match=f"{B.fingerprint} cannot be used: .*install it on all members first"):
        Keyring([A]).use(B)


def test_the_primary_cannot_be_removed() -> None:
    with pytest.raises(BadRequest, match=f"{A.fingerprint} cannot be removed: .*use another one first"):
        Keyring([A, B]).remove(A)


def test_a_ring_has_a_bound() -> None:
    full = Keyring([Key(bytes([number]) * 16) for number in range(MOST_KEYS)])
    assert full.install(full.keys[3]) == full
    with pytest.raises(BadRequest, match=f"{MOST_KEYS} keys are, the most.*remove those not in use"):
        full.install(A)


def test_no_message_of_a_step_has_a_key() -> None:
    for step, key in ((Keyring([A]).use, B), (Keyring([A]).remove, A)):
        with pytest.raises(GemotError) as caught:
            step(key)
        assert A.text not in caught.value.message
        assert B.text not in caught.value.message


def test_rings_are_equal_if_they_seal_and_open_alike() -> None:
    assert Keyring([A, B, C]) == Keyring([A, C, B])
    assert len({Keyring([A, B, C]), Keyring([A, C, B])}) == 1
    assert Keyring([A, B]) != Keyring([B, A])
    assert Keyring([A, B]) != Keyring([A])
    assert Keyring([A]) != A


# -- the file ------------------------------------------------------------------------------------------


def test_the_file_is_consuls() -> None:
    """A JSON list of base64, the primary first, as Serf writes it."""
    assert ring_text(Keyring([A, B])) == f'[\n  "{A.text}",\n  "{B.text}"\n]\n'
    assert ring_of(f'["{A.text}","{B.text}"]').keys == (A, B)


@given(st.lists(st.binary(min_size=16, max_size=16), min_size=1, max_size=MOST_KEYS))
def test_a_ring_comes_back_from_its_file(secrets: list[bytes]) -> None:
    ring = Keyring([Key(secret) for secret in secrets])
    assert ring_of(ring_text(ring)).keys == ring.keys


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "no JSON list of keys"),
        ("{}", "no JSON list of keys"),
        ("null", "no JSON list of keys"),
        ("[1]", "no JSON list of keys"),
        ('["\ud800"]', "no JSON list of keys"),
        ("[" * 10_000, "no JSON list of keys"),
        ("[]", "there is no key in it"),
        (f'["{A.text}", "AAAA"]', "key 2: the key has 3 bytes"),
        (f'["{A.text}", "%"]', "key 2: the key is not base64"),
        (f'["{A.text}"', "no JSON list of keys"),
        (" " * (FILE_BYTES + 1), f"the limit is {FILE_BYTES}"),
        (
            json.dumps([text(bytes([number]) * 16) for number in range(MOST_KEYS + 1)]),
            "17 keys, the limit is 16",
        ),
    ],
)
def test_a_damaged_file_is_refused_by_name_and_shows_no_key(content: str, says: str) -> None:
    with pytest.raises(BadRequest, match=says) as caught:
        ring_of(content, "/var/lib/gemot/serf/local.keyring")
    assert caught.value.message.startswith("/var/lib/gemot/serf/local.keyring")
    assert A.text not in caught.value.message


@given(st.text(max_size=60))
def test_any_text_is_a_ring_or_the_one_error(content: str) -> None:
    with pytest.raises(BadRequest):
        ring_of(content)
