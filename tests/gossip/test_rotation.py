"""What a step of a change of keys would do to the members: refused before anything is changed."""

from __future__ import annotations

import pytest

from gemot.agent.gossip.keyring import MOST_KEYS, Key
from gemot.agent.gossip.rotation import MOST_NAMED, Asked, Step, harm, named
from gemot.agent.gossip.stream import Ring

OLD, NEW = Key(b"o" * 16), Key(b"n" * 32)


def ring(*keys: Key) -> Ring:
    return Ring(tuple(key.fingerprint for key in keys))


FULL = ring(*(Key(bytes([number]) * 16) for number in range(MOST_KEYS)))


@pytest.mark.parametrize(
    ("step", "rings", "told"),
    [
        ("install", {"a": ring(OLD), "b": ring(OLD)}, ""),
        ("install", {"a": ring(OLD, NEW), "b": ring(OLD)}, ""),
        ("install", {"a": ring(OLD), "b": FULL}, "16 keys, the most there can be, are installed on b"),
        ("use", {"a": ring(OLD, NEW), "b": ring(NEW, OLD)}, ""),
        ("use", {"a": ring(OLD, NEW), "b": ring(OLD)}, "it is not installed on b: install it first"),
        ("use", {"a": ring(OLD), "b": ring(OLD)}, "not installed on a, b"),
        ("remove", {"a": ring(OLD), "b": ring(OLD)}, "no member that was asked has it"),
        ("remove", {"a": ring(OLD, NEW), "b": ring(OLD)}, ""),
        ("remove", {"a": ring(OLD, NEW), "b": ring(NEW, OLD)}, "it is the primary of b: use another one"),
    ],
)
def test_a_step_is_taken_when_it_cuts_off_nobody(step: Step, rings: dict[str, Ring], told: str) -> None:
    found = harm(step, NEW, Asked(rings, {}))
    assert told in found
    assert bool(found) == bool(told)


@pytest.mark.parametrize("step", ["use", "remove"])
def test_who_cannot_be_asked_may_be_cut_off_and_is_named(step: Step) -> None:
    rings = {"a": ring(OLD, NEW)}
    silent = harm(step, NEW, Asked(rings, {"b": "no answer within 5 s"}))
    assert "b (no answer within 5 s) cannot be asked" in silent
    failed = harm(step, NEW, Asked(rings, {}, ["c"]))
    assert "c cannot be asked" in failed
    assert "gemot force-leave" in failed


def test_to_install_a_key_waits_for_nobody() -> None:
    assert harm("install", NEW, Asked({"a": ring(OLD)}, {"b": "refused"}, ["c"])) == ""


def test_a_long_list_of_names_is_cut() -> None:
    names = [f"web{number:02}" for number in range(MOST_NAMED + 5, 0, -1)]
    assert named(names).endswith("web10 and 5 more")


def test_no_key_shows_in_what_is_printed_of_it() -> None:
    assert OLD.text not in repr(Asked({"a": Ring((OLD.text,))}, {})) + repr(Ring((OLD.text,)))
