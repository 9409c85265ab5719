"""The rings of all members, looked at and changed from one agent: what `gemot keyring` asks for.

A change goes in two rounds. In the first every living member holds its ring for this change and shows it
(`gossip/held_ring.py`); if the change would cut anybody off (`gossip/rotation.py`), or somebody else holds a
ring, all are released and nothing was changed. In the second it is carried out. Each question is sealed, for
one member, and bounded in time; a bounded number of them is under way. So is the whole: where many do not
answer, it is refused before anything is changed, or ends before the rings are free for others (`HOLD_S`).
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable

import msgspec

from gemot.agent.gossip.held_ring import HOLD_S, HeldRing
from gemot.agent.gossip.keyring import Key
from gemot.agent.gossip.members import HERE
from gemot.agent.gossip.message import Facts, Status
from gemot.agent.gossip.rotation import Asked, Step, harm, named
from gemot.agent.gossip.seal import NOT_SEALED
from gemot.agent.gossip.stream import AskRing, OfRing, Refused, Ring
from gemot.agent.lan import Lan
from gemot.server.model.errors import GemotError, RuleFailed

log = logging.getLogger("gemot.gossip")

ASK_S = 5.0
"""What one member may take to answer, a sync of its disk among it."""

AT_ONCE = 32
"""Questions under way from this agent, of all that is asked of it together."""

ROUNDS = 5
"""So often those that joined meanwhile are asked as well, before it is given up."""

NO_GOSSIP = "there is no gossip here (ports.serf_lan is -1): ask an agent that has"


class Listed(msgspec.Struct, frozen=True):
    """How often each key is installed and is the primary, among `members` that are here, by its text.

    `messages` says by name why a ring is not among them.
    """

    keys: dict[str, int]
    primaries: dict[str, int]
    members: int
    messages: dict[str, str]


class Keyrings:
    """`lan` is None where gossip is off. A change takes no longer than `within_s`, half of it to ask all."""

    def __init__(
        self,
        lan: Lan | None,
        *,
        failed: Callable[[], Awaitable[dict[str, str]]] | None = None,
        within_s: float = HOLD_S,
    ) -> None:
        """`failed` are members that failed by the catalog, name by id; gossip may have forgotten them."""
        self._lan = lan
        self._catalog = failed
        self._within_s = within_s
        self._room = asyncio.Semaphore(AT_ONCE)
        self._changes: set[asyncio.Task[str]] = set()

    async def show(self) -> Listed:
        """Raises RuleFailed where gossip is not encrypted."""
        lan, ring = self._sealed()
        living = _living(lan)
        asked = await _Round(lan, ring, self._room, "list").ask(living)
        return Listed(
            dict(Counter(key for shown in asked.rings.values() for key in shown.keys)),
            dict(Counter(shown.keys[0] for shown in asked.rings.values() if shown.keys)),
            len(living),
            dict(asked.silent) | {name: "it has failed, and was not asked" for name in asked.failed},
        )

    async def change(self, step: Step, text: str) -> str:
        """Done on all members; "" or who was not asked, in words. It goes on though nobody waits any more.

        Raises BadRequest for what is no key, and RuleFailed with whom it failed on, and whether it was
        carried out by others.
        """
        lan, ring = self._sealed()
        change = asyncio.create_task(self._change(lan, ring, step, Key.parse(text, "Key")))
        self._changes.add(change)
        change.add_done_callback(self._ended)
        await asyncio.wait({change})  # which leaves it alone when it is cancelled itself
        return change.result()

    def _ended(self, change: asyncio.Task[str]) -> None:
        """Perhaps nobody waits for it any more: then the log alone has what became of it."""
        self._changes.discard(change)
        if not change.cancelled() and (error := change.exception()) is not None:
            log.warning("gossip: keyring: change failed: %s", error)

    async def _change(self, lan: Lan, ring: HeldRing, step: Step, key: Key) -> str:
        began_s = asyncio.get_running_loop().time()
        holding = _Round(lan, ring, self._room, "hold", until_s=began_s + self._within_s / 2)
        try:
            asked = await _hold(lan, holding)
            asked = msgspec.structs.replace(
                asked, failed=[*asked.failed, *await self._failed_in_catalog(lan)]
            )
        except GemotError:
            await holding.release()
            raise
        if holding.refused:
            await holding.release()
            raise RuleFailed(
                f"Key {key.fingerprint}: nothing was changed, another change is under way: "
                f"{named(_told(holding.refused))}"
            )
        if why := harm(step, key, asked):
            await holding.release()
            raise RuleFailed(f"Key {key.fingerprint}: {step} refused, nothing was changed: {why}")
        await self._carry_out(step, key, holding, began_s + self._within_s - ASK_S)
        return f"not asked, having failed: {named(asked.failed)}" if asked.failed else ""

    async def _failed_in_catalog(self, lan: Lan) -> list[str]:
        """Those of whom gossip knows nothing: where no server can be asked, its word must do."""
        if self._catalog is None:
            return []
        known = {record.facts.id for record in lan.gossip.swim.members}
        try:
            async with asyncio.timeout(ASK_S):
                failed = await self._catalog()
        except (GemotError, TimeoutError):
            return []
        return [name for id, name in failed.items() if id not in known]

    async def _carry_out(self, step: Step, key: Key, holding: _Round, until_s: float) -> None:
        changing = _Round(
            holding.lan, holding.own, self._room, step, key.text, holding.tickets, until_s=until_s
        )
        changed = await changing.ask([facts for facts in holding.asked if facts.id in holding.tickets])
        missing = dict(holding.silent) | dict(changed.silent)
        missing |= {
            facts.name: "it joined meanwhile and was not asked"
            for facts in _living(holding.lan)
            if facts.id not in holding.seen
        }
        log.info(
            "gossip: keyring: %s=%s done=%d failed=%d",
            step,
            key.fingerprint,
            len(changed.rings),
            len(missing),
        )
        if missing:
            raise RuleFailed(
                f"Key {key.fingerprint}: {step} done on {len(changed.rings)} of "
                f"{len(changed.rings) + len(missing)} members, not on {named(_told(missing))}: "
                "try again, it is harmless where it is done"
            )

    def _sealed(self) -> tuple[Lan, HeldRing]:
        if self._lan is None:
            raise RuleFailed(NO_GOSSIP)
        ring = self._lan.sealing.ring
        if ring is None:
            raise RuleFailed(NOT_SEALED)
        return self._lan, ring


async def _hold(lan: Lan, holding: _Round) -> Asked:
    """All that are here hold their rings, those among them that joined while the others were asked."""
    asked = Asked({}, {})
    for _ in range(ROUNDS):
        coming = [facts for facts in _living(lan) if facts.id not in holding.seen]
        if not coming:
            return asked
        more = await holding.ask(coming)
        if holding.late:
            raise RuleFailed(
                "nothing was changed: too many members do not answer for all to be asked in time: "
                f"{named(_told({**asked.silent, **more.silent}))}: wait until they are back, or have failed"
            )
        asked = Asked({**asked.rings, **more.rings}, {**asked.silent, **more.silent}, more.failed)
    raise RuleFailed("nothing was changed: members join faster than they can be asked, try again")


class _Round:
    """One question to many members. What it learns it keeps: who was asked, who gave which ticket."""

    def __init__(
        self,
        lan: Lan,
        own: HeldRing,
        room: asyncio.Semaphore,
        what: OfRing,
        key: str = "",
        tickets: dict[str, str] | None = None,
        *,
        until_s: float | None = None,
    ) -> None:
        """After `until_s` (of the loop's clock) nobody is asked any more."""
        self.lan = lan
        self.own = own
        self._what = what
        self._key = key
        self._given = tickets or {}
        self.room = room
        self._until_s = until_s
        self.late = False
        """It was over before all could be asked."""

        self.asked: list[Facts] = []
        self.tickets: dict[str, str] = {}
        self.silent: dict[str, str] = {}
        self.refused: dict[str, str] = {}

    @property
    def seen(self) -> frozenset[str]:
        return frozenset(facts.id for facts in self.asked)

    async def ask(self, members: list[Facts]) -> Asked:
        self.asked += members
        answers = await asyncio.gather(*(self._ask(facts) for facts in members))
        rings: dict[str, Ring] = {}
        for facts, answer in zip(members, answers, strict=True):
            if isinstance(answer, Ring):
                rings[_name(facts, rings)] = answer
                self.tickets[facts.id] = answer.ticket
            else:
                self.silent[_name(facts, self.silent)] = answer
        return Asked(rings, self.silent, _failed(self.lan))

    async def _ask(self, facts: Facts) -> Ring | str:
        """Its ring, or why there is none."""
        if not await self._got_room():
            self.late = True
            return "not asked, the time was over"
        try:
            async with asyncio.timeout(ASK_S):
                return await self._answer(facts)
        except RuleFailed as error:
            self.refused[facts.name] = error.message
            return error.message
        except TimeoutError:
            return f"no answer within {ASK_S:g} s"
        except GemotError as error:
            return error.message
        finally:
            self.room.release()

    async def _got_room(self) -> bool:
        """Whether in time."""
        try:
            async with asyncio.timeout_at(self._until_s):
                await self.room.acquire()
        except TimeoutError:
            return False
        if self._until_s is None or asyncio.get_running_loop().time() < self._until_s:
            return True
        self.room.release()
        return False

    async def _answer(self, facts: Facts) -> Ring:
        me = self.lan.gossip.swim.me
        question = AskRing(self._what, facts.id, me.name, self._key, self._given.get(facts.id, ""))
        if facts.id != me.id:
            return await self.lan.gossip.ask_ring(facts.host, facts.port, question)
        answer = await self.own.answer(question)
        if isinstance(answer, Refused):
            raise RuleFailed(answer.reason)
        return answer

    async def release(self) -> None:
        """Let go of what is held. Where that fails, it is over by itself (`HOLD_S`)."""
        letting = _Round(self.lan, self.own, self.room, "release", tickets=self.tickets)
        await letting.ask([facts for facts in self.asked if facts.id in self.tickets])


def _living(lan: Lan) -> list[Facts]:
    return [record.facts for record in lan.gossip.swim.members if record.status in HERE]


def _failed(lan: Lan) -> list[str]:
    return sorted(record.facts.name for record in lan.gossip.swim.members if record.status is Status.FAILED)


def _name(facts: Facts, taken: dict[str, Ring] | dict[str, str]) -> str:
    return facts.name if facts.name not in taken else f"{facts.name} ({facts.id})"


def _told(why: dict[str, str]) -> list[str]:
    return [f"{name} ({each})" for name, each in why.items()]
