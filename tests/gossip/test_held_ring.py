"""A member's ring: changed by who holds it, once, and on the disk before it is in force."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from itertools import count

import pytest

from gemot.agent.gossip.held_ring import HOLD_S, HeldRing
from gemot.agent.gossip.keyring import Key, Keyring
from gemot.agent.gossip.stream import AskRing, OfRing, Refused, Ring, word_bytes
from gemot.server.model.errors import DiskFailed

OLD, NEW = Key(b"o" * 16), Key(b"n" * 32)


class Member:
    """`kept` is what the disk has."""

    def __init__(self) -> None:
        numbers = count(1)
        self.now_s = 0.0
        self.fails = False
        self.kept = Keyring((OLD,))
        self.held = HeldRing(
            ring=self.kept, keep=self._keep, draw=lambda: f"t{next(numbers)}", now_s=lambda: self.now_s
        )

    def _keep(self, ring: Keyring) -> None:
        assert self.held.ring == self.kept, "what is in force is on the disk"
        if self.fails:
            raise DiskFailed("local.keyring: No space left on device")
        self.kept = ring

    def ask(self, what: OfRing, ticket: str = "", key: Key = NEW, sender: str = "a") -> Ring | Refused:
        return asyncio.run(self.held.answer(AskRing(what, "me", sender, key.text, ticket)))

    def hold(self, sender: str = "a") -> str:
        shown = self.ask("hold", sender=sender)
        assert isinstance(shown, Ring)
        return shown.ticket


def test_a_ring_goes_through_the_three_steps_each_on_disk_when_it_is_answered() -> None:
    member = Member()
    steps: list[tuple[OfRing, Key, tuple[Key, ...]]] = [
        ("install", NEW, (OLD, NEW)),
        ("use", NEW, (NEW, OLD)),
        ("remove", OLD, (NEW,)),
    ]
    for step, key, after in steps:
        shown = member.ask(step, member.hold(), key)
        assert shown == Ring(tuple(each.fingerprint for each in after))
        assert member.kept.keys == member.held.ring.keys == after


def test_a_change_overheard_by_who_has_a_leaked_key_tells_no_key() -> None:
    """But to `list` no answer carries one: each is sealed with the primary of the moment."""
    member = Member()
    told = [member.ask("install", member.hold()), member.ask("hold")]
    ticket = told[-1].ticket if isinstance(told[-1], Ring) else ""
    told += [member.ask("use", ticket), member.ask("remove", member.hold(), OLD), member.ask("release")]
    assert all(isinstance(each, Ring) for each in told)
    assert not any(key.text.encode() in word_bytes(each) for each in told for key in (OLD, NEW))
    assert member.ask("list") == Ring((NEW.text,))


@pytest.mark.parametrize("ticket", ["", "t9"])
def test_without_its_ticket_nothing_is_changed(ticket: str) -> None:
    member = Member()
    member.hold()
    assert isinstance(member.ask("install", ticket), Refused)
    assert member.held.ring.keys == (OLD,)


def test_a_ticket_is_good_once_so_a_question_shown_again_changes_nothing() -> None:
    member = Member()
    ticket = member.hold()
    member.ask("install", ticket)
    member.ask("remove", member.hold())
    assert isinstance(member.ask("install", ticket), Refused)
    assert member.kept.keys == (OLD,)


def test_one_holds_a_ring_at_a_time_until_it_lets_go() -> None:
    member = Member()
    ticket = member.hold("a")
    refused = member.ask("hold", sender="b")
    assert isinstance(refused, Refused)
    assert "is being changed by a" in refused.reason
    member.ask("release", "another's")
    assert isinstance(member.ask("hold", sender="b"), Refused)
    member.ask("release", ticket)
    assert isinstance(member.ask("hold", sender="b"), Ring)


def test_a_holder_that_is_gone_is_not_waited_for_and_comes_too_late() -> None:
    member = Member()
    late = member.hold("a")
    member.now_s = HOLD_S
    ticket = member.hold("b")
    assert isinstance(member.ask("install", late), Refused)
    assert isinstance(member.ask("install", ticket), Ring)


def test_a_hold_shown_again_to_a_member_that_has_restarted_changes_nothing_and_ends() -> None:
    """What it remembered of sealed questions is gone: the caught one is taken for a new one."""
    member = Member()
    member.hold("a")
    assert isinstance(member.ask("hold", sender="b"), Refused)
    assert member.held.ring.keys == (OLD,)
    member.now_s = HOLD_S
    assert isinstance(member.ask("hold", sender="b"), Ring)


@pytest.mark.parametrize(
    ("step", "key", "told"),
    [
        ("use", NEW, "not installed here"),
        ("remove", OLD, "it is the primary"),
    ],
)
def test_what_the_ring_cannot_do_is_refused(step: OfRing, key: Key, told: str) -> None:
    member = Member()
    refused = member.ask(step, member.hold(), key)
    assert isinstance(refused, Refused)
    assert told in refused.reason
    assert key.text not in refused.reason


def test_what_the_disk_does_not_take_is_not_in_force() -> None:
    member = Member()
    member.fails = True
    refused = member.ask("install", member.hold())
    assert isinstance(refused, Refused)
    assert "No space left" in refused.reason
    assert member.held.ring.keys == (OLD,)
    member.fails = False
    assert isinstance(member.ask("install", member.hold()), Ring)


def test_what_comes_while_the_disk_is_written_sees_the_ring_after_it() -> None:
    async def main() -> None:
        member = Member()
        shown = await member.held.answer(AskRing("hold", "me", "a"))
        assert isinstance(shown, Ring)
        wait = asyncio.Event()
        loop = asyncio.get_running_loop()
        keep: Callable[[Keyring], None] = member.held._keep

        def slowly(ring: Keyring) -> None:
            loop.call_soon_threadsafe(wait.set)
            keep(ring)

        member.held._keep = slowly
        change = asyncio.create_task(
            member.held.answer(AskRing("install", "me", "a", NEW.text, shown.ticket))
        )
        await wait.wait()
        held = await member.held.answer(AskRing("hold", "me", "b"))
        assert isinstance(held, Ring)
        assert held.keys == (OLD.fingerprint, NEW.fingerprint)
        assert isinstance(await change, Ring)

    asyncio.run(main())


@pytest.mark.parametrize("fails", [False, True])
def test_an_asker_that_gives_up_leaves_the_ring_in_force_that_is_on_the_disk(fails: bool) -> None:
    """The thread that writes goes on: nobody else is answered before it has ended."""

    async def main() -> None:
        member = Member()
        member.fails = fails
        shown = await member.held.answer(AskRing("hold", "me", "a"))
        assert isinstance(shown, Ring)
        writing, go_on = threading.Event(), threading.Event()
        keep: Callable[[Keyring], None] = member.held._keep

        def slowly(ring: Keyring) -> None:
            writing.set()
            assert go_on.wait(60)
            keep(ring)

        member.held._keep = slowly
        change = asyncio.create_task(
            member.held.answer(AskRing("install", "me", "a", NEW.text, shown.ticket))
        )
        await asyncio.to_thread(writing.wait, 60)
        change.cancel()
        with pytest.raises(asyncio.CancelledError):
            await change
        following = asyncio.create_task(member.held.answer(AskRing("hold", "me", "b")))
        for _ in range(10):
            await asyncio.sleep(0)
        early = following.done()
        go_on.set()
        assert not early, "the ring may not be taken while it is written"
        assert isinstance(await following, Ring)
        assert member.held.ring.keys == member.kept.keys == ((OLD,) if fails else (OLD, NEW))

    asyncio.run(main())


def test_a_key_that_is_none_is_refused_without_being_shown() -> None:
    member = Member()
    ticket = member.hold()
    refused = asyncio.run(member.held.answer(AskRing("install", "me", "a", "c2VjcmV0", ticket)))
    assert isinstance(refused, Refused)
    assert "c2VjcmV0" not in refused.reason
