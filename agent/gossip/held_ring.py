"""This member's ring while it runs: how it answers what is asked of it, and how a change of it is kept.

A ring is changed by whoever holds it: `hold` tells what is in it and gives a ticket, and the change names
that ticket, which is good once. So the ring that is changed is the ring that was looked at, two changes at
once cannot both go on, and a question that is caught and shown again changes nothing: a `hold`, shown to a
member that has restarted since, only holds its ring for nobody. Who holds is waited for no longer than
`HOLD_S`; if it comes back after another took over, its ticket is void.

A change is on the disk before it is in force, and in force before it is answered. One that was begun is
ended, whether anybody waits for it or not.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from gemot.agent.gossip.keyring import Key, Keyring
from gemot.agent.gossip.seal import Seal
from gemot.agent.gossip.stream import AskRing, Refused, Ring
from gemot.server.model.errors import GemotError

log = logging.getLogger("gemot.gossip")

HOLD_S = 60.0
"""So long nobody else may take a ring that is held. A change of all members is over by then."""


class HeldRing:
    """`keep` blocks until the ring is on the disk (it runs on a thread); `seals` are to use it."""

    def __init__(
        self,
        *,
        ring: Keyring,
        keep: Callable[[Keyring], None],
        draw: Callable[[], str],
        now_s: Callable[[], float],
    ) -> None:
        """`draw` makes a ticket that nobody can guess."""
        self.ring = ring
        self.seals: tuple[Seal, ...] = ()
        self._keep = keep
        self._draw = draw
        self._now_s = now_s
        self._one_at_a_time = asyncio.Lock()
        self._ticket = ""
        self._holder = ""
        self._until_s = 0.0
        self._taking: asyncio.Task[Ring | Refused] | None = None

    async def answer(self, ask: AskRing) -> Ring | Refused:
        """What a sealed question gets; who asked it has a key of this ring."""
        async with self._one_at_a_time:
            if self._taking is not None and not self._taking.done():  # its asker gave up waiting, it goes on
                await asyncio.wait({self._taking})
            try:
                return await self._answer(ask)
            except GemotError as error:
                return Refused(error.message)

    async def _answer(self, ask: AskRing) -> Ring | Refused:
        match ask.what:
            case "list":
                return Ring(tuple(key.text for key in self.ring.keys))
            case "hold":
                return self._hold(ask.sender)
            case "release":
                if ask.ticket == self._ticket:
                    self._ticket = ""
                return self._shown()
        if not self._ticket or ask.ticket != self._ticket:
            return Refused("its ring was taken by another change meanwhile: look again, then try again")
        return await self._change(ask)

    def _hold(self, sender: str) -> Ring | Refused:
        if self._ticket and self._now_s() < self._until_s:
            left_s = max(1, round(self._until_s - self._now_s()))
            return Refused(
                f"its ring is being changed by {self._holder}: try again when that is done, "
                f"or after {left_s} s if that agent is gone"
            )
        self._ticket, self._holder = self._draw(), sender
        self._until_s = self._now_s() + HOLD_S
        return self._shown(self._ticket)

    async def _change(self, ask: AskRing) -> Ring | Refused:
        """To its end, though its asker gives up: the thread that writes cannot be called back."""
        key = Key.parse(ask.key, "Key")
        changed: Keyring = getattr(self.ring, ask.what)(key)
        self._ticket = ""
        if changed.keys == self.ring.keys:
            return self._shown()
        self._taking = asyncio.create_task(self._take(ask, key, changed))
        return await asyncio.shield(self._taking)

    async def _take(self, ask: AskRing, key: Key, changed: Keyring) -> Ring | Refused:
        try:
            await asyncio.to_thread(self._keep, changed)
        except GemotError as error:
            log.warning(
                "gossip: keyring not changed: %s=%s by=%s error=%s",
                ask.what,
                key.fingerprint,
                ask.sender,
                error.message,
            )
            return Refused(error.message)
        self.ring = changed
        for seal in self.seals:
            seal.ring = changed
        told = "gossip: keyring changed: %s=%s by=%s primary=%s keys=%s"
        listed = ",".join(changed.fingerprints)
        log.info(told, ask.what, key.fingerprint, ask.sender, changed.primary.fingerprint, listed)
        return self._shown()

    def _shown(self, ticket: str = "") -> Ring:
        """Keys themselves are for `list` alone: who has one learns no other by listening to a change."""
        return Ring(self.ring.fingerprints, ticket)
