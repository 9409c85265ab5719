"""Envelopes: whose cluster, sealed or not, seen before or not; and each refusal says which it was."""

from __future__ import annotations

import contextlib
import random
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gemot.agent.gossip.keyring import Key, Keyring
from gemot.agent.gossip.limits import DATAGRAM_BYTES, LABEL_BYTES, SEAL_BYTES
from gemot.agent.gossip.packet import PLAIN_BYTES
from gemot.agent.gossip.replay import WIDTH, Window, Windows, first_counter
from gemot.agent.gossip.seal import NONCE_BYTES, Purpose, Seal, Unopened, Why, context_of
from gemot.agent.gossip.stream import GREETING
from gemot.server.model.errors import PeerBroke, from_wire, to_wire

A, B = Key(bytes([1]) * 32), Key(bytes([2]) * 16)
NOW = 1_795_000_000_000
_nonces = random.Random(1)


def seal_of(sender: str = "web1", ring: Keyring | None = None, **options: Any) -> Seal:
    chosen: dict[str, Any] = {"purpose": Purpose.DATAGRAM, "label": "dc1", "wall_ms": NOW} | options
    return Seal(sender=sender, ring=ring, **chosen)


def nonce() -> bytes:
    return _nonces.randbytes(NONCE_BYTES)


def why(seal: Seal, envelope: bytes, context: bytes = b"") -> Why:
    """Why it does not open."""
    with pytest.raises(Unopened) as caught:
        seal.open_(envelope, context)
    assert caught.value.message
    return caught.value.why


# -- what is closed opens ------------------------------------------------------------------------------


@given(st.binary(min_size=1, max_size=2_000), st.sampled_from([None, Keyring([A]), Keyring([B, A])]))
def test_what_one_member_closes_another_one_opens(body: bytes, ring: Keyring | None) -> None:
    assert seal_of("web2", ring).open_(seal_of("web1", ring).seal(body, nonce())) == body


def test_sealed_is_not_to_be_read() -> None:
    body = b"the body of a datagram"
    assert body in seal_of().seal(body, nonce())
    assert body not in seal_of(ring=Keyring([A])).seal(body, nonce())


@pytest.mark.parametrize("label", ["", "dc1", "x" * LABEL_BYTES, "ä" * (LABEL_BYTES // 2)])
def test_a_sealed_datagram_is_never_larger_than_what_passes_every_network(label: str) -> None:
    envelope = seal_of(ring=Keyring([A]), label=label).seal(bytes(PLAIN_BYTES), nonce())
    assert len(envelope) <= DATAGRAM_BYTES
    assert len(envelope) - PLAIN_BYTES == SEAL_BYTES - LABEL_BYTES + len(label.encode())
    assert seal_of("web2", Keyring([A]), label=label).open_(envelope) == bytes(PLAIN_BYTES)


def test_the_primary_seals_and_every_key_opens() -> None:
    sealed = seal_of(ring=Keyring([B, A])).seal(b"x", nonce())
    assert seal_of("web2", Keyring([B])).open_(sealed) == b"x"
    assert seal_of("web2", Keyring([A, B])).open_(sealed) == b"x"
    assert why(seal_of("web2", Keyring([A])), sealed) is Why.NO_KEY_FITS


def test_keys_are_exchanged_while_gossip_goes_on() -> None:
    """Whatever order members take each step in, any two of them understand each other."""
    steps = [Keyring([A]), Keyring([A]).install(B), Keyring([A, B]).use(B), Keyring([B, A]).remove(A)]
    one, two = seal_of("web1", steps[0]), seal_of("web2", steps[0])
    for before, after in pairwise(steps):
        for first, second in ((one, two), (two, one)):
            first.ring, second.ring = after, before
            assert second.open_(first.seal(b"x", nonce())) == b"x"
            assert first.open_(second.seal(b"y", nonce())) == b"y"


def test_gossip_of_a_running_cluster_is_sealed_in_three_steps() -> None:
    """Consul's way; at each step the members of this step and of the one before understand each other."""
    ring = Keyring([A])
    steps: list[dict[str, Any]] = [
        {"ring": None},
        {"ring": ring, "verify_incoming": False, "verify_outgoing": False},
        {"ring": ring, "verify_incoming": False},
        {"ring": ring},
    ]
    for before, after in pairwise(steps):
        one, two = seal_of("web1", **before), seal_of("web2", **after)
        assert two.open_(one.seal(b"x", nonce())) == b"x"
        assert one.open_(two.seal(b"y", nonce())) == b"y"
    assert seal_of(**steps[1]).seal(b"clear", nonce()).endswith(b"clear")
    assert not seal_of(**steps[2]).seal(b"clear", nonce()).endswith(b"clear")


def test_even_while_clear_is_taken_what_is_sealed_must_fit() -> None:
    seal = seal_of("web2", Keyring([A]), verify_incoming=False)
    assert why(seal, seal_of(ring=Keyring([B])).seal(b"x", nonce())) is Why.NO_KEY_FITS


# -- and each refusal says why -------------------------------------------------------------------------


def test_another_cluster_is_told_from_a_wrong_key() -> None:
    for ring in (None, Keyring([A])):
        for theirs in (None, Keyring([A]), Keyring([B])):
            envelope = seal_of(ring=theirs, label="dc2").seal(b"x", nonce())
            assert why(seal_of("web2", ring), envelope) is Why.WRONG_LABEL


def test_a_wrong_label_is_named_with_ours() -> None:
    with pytest.raises(Unopened, match="gossip of cluster 'dc2', this is 'dc1'"):
        seal_of().open_(seal_of(label="dc2").seal(b"x", nonce()))


def test_a_label_cannot_be_exchanged_under_the_seal() -> None:
    """Two clusters that were given the same key: what one says is not to be shown to the other."""
    sealed = seal_of(ring=Keyring([A]), label="dc2").seal(b"x", nonce())
    assert why(seal_of("web2", Keyring([A])), sealed.replace(b"dc2", b"dc1")) is Why.NO_KEY_FITS


@pytest.mark.parametrize("label", ["", "dc", "dc1x", "Dc1"])
def test_labels_are_compared_whole(label: str) -> None:
    assert why(seal_of(), seal_of(label=label).seal(b"x", nonce())) is Why.WRONG_LABEL


def test_clear_is_refused_where_there_is_a_key_and_sealed_where_there_is_none() -> None:
    assert why(seal_of("web2", Keyring([A])), seal_of().seal(b"x", nonce())) is Why.UNSEALED
    assert why(seal_of("web2"), seal_of(ring=Keyring([A])).seal(b"x", nonce())) is Why.SEALED


@pytest.mark.parametrize(("version", "reason"), [(0, Why.TOO_OLD), (2, Why.TOO_NEW), (15, Why.TOO_NEW)])
def test_another_format_is_told_by_its_age(version: int, reason: Why) -> None:
    for ring in (None, Keyring([A])):
        envelope = bytearray(seal_of(ring=ring).seal(b"x", nonce()))
        envelope[0] = envelope[0] & 0xF0 | version
        assert why(seal_of("web2", ring), bytes(envelope)) is reason


@pytest.mark.parametrize("first", [0x00, 0x01, 0x0C, 0x16, 0x67, GREETING[0], 0xF4, 0xFF])
def test_what_is_not_ours_is_a_stranger(first: int) -> None:
    """memberlist's types (0 to 13, 244 in front of a label), TLS, and the greetings of our streams."""
    assert why(seal_of(), bytes([first]) + bytes(50)) is Why.STRANGER


@pytest.mark.parametrize("kind", [0xA1, 0xE1])
@pytest.mark.parametrize("size", [LABEL_BYTES + 1, 255])
def test_a_label_longer_than_any_is_refused(kind: int, size: int) -> None:
    assert why(seal_of(ring=Keyring([A])), bytes([kind, size]) + bytes(300)) is Why.STRANGER


def test_an_envelope_cut_anywhere_is_refused() -> None:
    ring = Keyring([A])
    sealed = seal_of(ring=ring).seal(b"body", nonce())
    least = len(sealed) - 4
    for at in range(len(sealed)):
        assert why(seal_of("web2", ring), sealed[:at]) is (Why.TRUNCATED if at < least else Why.NO_KEY_FITS)
    clear = seal_of().seal(b"b", nonce())
    for at in range(len(clear)):
        assert why(seal_of("web2"), clear[:at]) is Why.TRUNCATED


def test_any_flipped_bit_of_a_sealed_envelope_is_seen() -> None:
    ring = Keyring([A])
    sealed = seal_of(ring=ring).seal(b"body", nonce())
    for at in range(len(sealed)):
        for bit in range(8):
            flipped = bytearray(sealed)
            flipped[at] ^= 1 << bit
            assert why(seal_of("web2", ring, verify_incoming=True), bytes(flipped))


def test_a_sealed_envelope_is_not_opened_as_a_clear_one() -> None:
    """Its first byte changed: even a member that still takes clear gossip gets no words out of it."""
    seal = seal_of("web2", Keyring([A]), verify_incoming=False)
    sealed = seal_of(ring=Keyring([A])).seal(b"body", nonce())
    assert b"body" not in seal.open_(bytes([0xA1]) + sealed[1:])


@given(st.binary(max_size=200), st.booleans(), st.booleans())
def test_any_bytes_are_an_envelope_or_the_one_error(data: bytes, keyed: bool, ours: bool) -> None:
    seal = seal_of(ring=Keyring([A, B]) if keyed else None)
    with contextlib.suppress(PeerBroke):
        assert data.endswith(seal.open_(b"\xa1\x03dc1" + data if ours else data))


def test_a_refusal_crosses_the_wire_as_any_error() -> None:
    """Its class must not stand in for the plain PeerBroke there."""
    assert type(from_wire(to_wire(PeerBroke("x")))) is PeerBroke
    assert isinstance(from_wire(to_wire(Unopened("x", Why.SEALED))), Unopened)


# -- what an envelope is for ---------------------------------------------------------------------------


def test_a_frame_does_not_open_as_a_datagram() -> None:
    ring = Keyring([A])
    frame = seal_of(ring=ring, purpose=Purpose.FRAME).seal(b"x", nonce())
    assert why(seal_of("web2", ring), frame) is Why.NO_KEY_FITS
    assert seal_of("web2", ring, purpose=Purpose.FRAME).open_(frame) == b"x"


def test_an_answer_opens_only_to_the_question_that_it_answers() -> None:
    ring = Keyring([A])
    asker = seal_of("web1", ring, purpose=Purpose.FRAME)
    answerer = seal_of("web2", ring, purpose=Purpose.FRAME)
    first, second = (asker.seal(b"all I know", nonce()) for _ in range(2))
    answer = answerer.seal(b"all I know, too", nonce(), context_of(first))
    assert why(asker, answer, context_of(second)) is Why.NO_KEY_FITS
    assert why(asker, answer) is Why.NO_KEY_FITS
    assert asker.open_(answer, context_of(first)) == b"all I know, too"


def test_answers_between_members_that_seal_and_that_do_not_yet_understand_each_other() -> None:
    asker = seal_of("web1", Keyring([A]), verify_incoming=False, verify_outgoing=False)
    answerer = seal_of("web2", Keyring([A]), verify_incoming=False)
    question = asker.seal(b"all I know", nonce())
    assert answerer.open_(question) == b"all I know"
    answer = answerer.seal(b"all I know, too", nonce(), context_of(question))
    assert asker.open_(answer, context_of(question)) == b"all I know, too"


# -- seen before ---------------------------------------------------------------------------------------


def test_a_sealed_datagram_is_taken_once() -> None:
    ring = Keyring([A])
    sealed = seal_of(ring=ring).seal(b"x", nonce())
    seal = seal_of("web2", ring)
    assert seal.open_(sealed) == b"x"
    assert why(seal, sealed) is Why.REPLAYED


def test_datagrams_in_any_order_are_taken_if_they_are_not_too_late() -> None:
    ring = Keyring([A])
    sender, receiver = seal_of(ring=ring), seal_of("web2", ring)
    late, *sent = (sender.seal(str(number).encode(), nonce()) for number in range(WIDTH + 1))
    random.Random(7).shuffle(sent)
    assert sorted(int(receiver.open_(each)) for each in sent) == list(range(1, WIDTH + 1))
    assert why(receiver, late) is Why.REPLAYED


def test_a_sender_that_starts_again_is_ahead_of_its_former_self() -> None:
    ring = Keyring([A])
    before, receiver = seal_of(ring=ring), seal_of("web2", ring)
    last = [before.seal(b"x", nonce()) for _ in range(5_000)][-1]
    assert receiver.open_(last) == b"x"
    after = seal_of(ring=ring, wall_ms=NOW + 1)
    assert receiver.open_(after.seal(b"y", nonce())) == b"y"
    assert why(receiver, before.seal(b"x", nonce())) is Why.REPLAYED


def test_a_sender_whose_clock_was_set_back_is_refused_until_it_is_forgotten() -> None:
    ring = Keyring([A])
    receiver = seal_of("web2", ring)
    assert receiver.open_(seal_of(ring=ring).seal(b"x", nonce())) == b"x"
    after = seal_of(ring=ring, wall_ms=NOW - 3_600_000)
    with pytest.raises(Unopened, match="clock set back"):
        receiver.open_(after.seal(b"y", nonce()))
    receiver.forget("web1")
    assert receiver.open_(after.seal(b"y", nonce())) == b"y"


def test_what_a_member_sealed_itself_is_not_taken_from_it() -> None:
    ring = Keyring([A])
    seal = seal_of("web1", ring)
    assert why(seal, seal.seal(b"x", nonce())) is Why.REFLECTED


def test_nobody_without_a_key_moves_a_window() -> None:
    ring = Keyring([A])
    sender, receiver = seal_of(ring=ring), seal_of("web2", ring)
    sealed = sender.seal(b"x", nonce())
    assert why(receiver, sealed[:-1] + bytes([sealed[-1] ^ 1])) is Why.NO_KEY_FITS
    assert receiver.open_(sealed) == b"x"


_near = st.builds(lambda wide, more: max(0, wide * WIDTH + more), st.integers(0, 3), st.integers(-4, 4))


@given(st.lists(_near | st.integers(0, 3 * WIDTH) | st.integers(0, (1 << 64) - 1), min_size=1, max_size=80))
@example([0, 1, 2, WIDTH + 2, WIDTH + 1, WIDTH, 2 * WIDTH, WIDTH, WIDTH + 1])
def test_a_window_takes_each_number_once_and_none_behind_it(counters: list[int]) -> None:
    """Against the plain meaning: a set of all that was seen, and the highest of it."""
    window, seen = Window(counters[0]), {counters[0]}
    for counter in counters[1:]:
        fresh = counter not in seen and counter > max(seen) - WIDTH
        assert window.admit(counter) is fresh
        if fresh:
            seen.add(counter)


def test_no_number_costs_memory() -> None:
    """Neither the highest there is nor many in a row."""
    window = Window(0)
    for counter in (*range(1, 3 * WIDTH), (1 << 64) - 2, (1 << 64) - 1):
        assert window.admit(counter)
        assert window._seen.bit_length() <= WIDTH
    assert not window.admit(0)


def test_as_many_senders_are_remembered_as_there_is_room_for_the_most_silent_forgotten_first() -> None:
    windows = Windows(most=3)
    for sender in (b"a", b"b", b"c"):
        assert windows.admit(sender, 10)
    assert windows.admit(b"a", 11)
    assert not windows.admit(b"b", 10), "what is refused is not heard"
    assert windows.admit(b"d", 10)
    assert len(windows) == 3
    assert not windows.admit(b"a", 11)
    assert not windows.admit(b"c", 10)
    assert windows.admit(b"b", 10), "b was silent for longest"


def test_a_counter_lasts_for_centuries() -> None:
    assert first_counter(NOW) < first_counter(NOW + 1)
    assert first_counter(10_000 * 1_000 * 31_557_600 // 20) < 1 << 64
    with pytest.raises(AssertionError):
        first_counter(1 << 44)
