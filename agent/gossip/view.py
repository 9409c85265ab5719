"""What one member holds of all the others, and what news makes of it: the rules of SWIM, and ours. Pure.

A word about a member counts if its incarnation is not older than what is known of it: then a suspicion goes
before life, a failure before both, and a good-bye before everything; a newer incarnation is life again.
Nothing here sends or probes: what is to be passed on goes to `pass_on`, what has happened stands in `events`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from itertools import islice
from typing import NamedTuple

from gemot.agent.gossip.awareness import Awareness
from gemot.agent.gossip.limits import EXCHANGE_BYTES, FRAME_BYTES, RECORD_BYTES, SEAL_BYTES
from gemot.agent.gossip.members import HERE, Members
from gemot.agent.gossip.message import Alive, Dead, Facts, Record, Status, Suspect, Word
from gemot.agent.gossip.suspicion import Suspicion
from gemot.agent.gossip.timing import Timing

NEVER_MS = 1 << 62

MOST_AHEAD = 1 << 20
"""Hearsay about a member further beyond what is known of it is not believed: it is asked itself.

It raises its incarnation by one at a time, unless it follows a lie; and a lie that all believe, and that is
as far as numbers go, could never be refuted."""

CEILING = 1 << 62
"""No member follows any claim about itself further."""

MOST_MEMBERS = 40_000
"""Known and forgotten ones: all of them fit into one exchange, whatever they tell of themselves. Whoever
comes then takes the place of one that is gone and was known by hearsay alone; if there is none it is not let
in, and counted."""

assert MOST_MEMBERS * RECORD_BYTES + EXCHANGE_BYTES + SEAL_BYTES <= FRAME_BYTES, "any table can be exchanged"

RESERVED = 1_000
"""Of these places: for whoever tells of itself in an exchange. Hearsay, easily invented, has the rest."""

LOOKED_AT = 8
"""Of those that are gone, the longest first, when one is to make room."""


class Place(NamedTuple):
    host: str
    port: int


class Change(Enum):
    """What became of a member, in the eyes of this one."""

    JOINED = "joined"
    UPDATED = "updated"
    SUSPECTED = "suspected"
    REFUTED = "refuted"
    FAILED = "failed"
    LEFT = "left"
    REAPED = "reaped"


class Event(NamedTuple):
    change: Change
    record: Record


class View:
    """One member's. `now_ms` is set before anything is asked of it."""

    def __init__(
        self,
        *,
        me: Facts,
        timing: Timing,
        now_ms: int,
        members: Members,
        awareness: Awareness,
        admits: Callable[[Facts], bool],
        is_real: Callable[[str], bool],
        pass_on: Callable[[str, Word], None],
        meet: Callable[[Facts], None],
    ) -> None:
        """`meet` is given those that are to be asked themselves; `is_real` says who has answered once."""
        self.me = me
        self.timing = timing
        self.now_ms = now_ms
        self.members = members
        self.awareness = awareness
        self.incarnation = 0
        self.leaving = False
        self.events: list[Event] = []
        self._admits = admits
        self._is_real = is_real
        self._pass_on = pass_on
        self._meet = meet
        self.turned_away = 0
        """Strangers that were not admitted, or for whom there was no room."""

        self.suspicions: dict[str, Suspicion] = {}
        self.doom_ms = NEVER_MS
        """No suspicion ends before; the first may have been refuted since."""

        self.forgotten: dict[str, tuple[int, int]] = {}
        """Of which incarnation they were, and until when that is remembered."""

        self.unheard: Alive | None = None
        """What whoever spoke last has not heard, by what it said."""

        self._behind: dict[str, int] = {}
        """Whose facts are of an older incarnation than what is known of them, and of which."""

        self.members.put(Record(me), now_ms)

    def say_goodbye(self) -> None:
        self.leaving = True
        word = Dead(self.me.id, self.incarnation, self.me.id, left=True)
        self._hold(Record(self.me, self.incarnation, Status.LEFT), word)

    def tell(self, me: Facts) -> None:
        """New facts of this member itself."""
        self.me = me
        if not self.leaving:
            self.speak_for_itself(self.incarnation + 1)

    def expect_no_more(self, id: str, *, prune: bool) -> bool:
        record = self.members.get(id)
        if record is None or id == self.me.id or record.status in HERE:
            return False
        self.on_dead(Dead(id, record.incarnation, self.me.id, left=True, prune=prune))
        return True

    def put_off(self, ms: int) -> None:
        """This member was not there for so long: it could have heard no refutation."""
        for suspicion in self.suspicions.values():
            suspicion.put_off(ms)

    def records(self, to: Facts | None = None) -> tuple[Record, ...]:
        """All it knows, for an exchange. Whom it goes `to` is told that it was forgotten, to refute it."""
        records = tuple(self.members)
        if to is not None and (forgotten := self.forgotten.get(to.id)) is not None:
            records += (Record(to, forgotten[0], Status.FAILED),)
        return records

    # -- news -----------------------------------------------------------------------------------------

    def on_alive(self, word: Alive, *, first_hand: bool = False, itself: bool = False) -> None:
        """`first_hand`: any incarnation is believed. `itself`: this member tells it in an exchange."""
        facts, incarnation = word.facts, word.incarnation
        if not (first_hand or self._believable(facts.id, incarnation)):
            if (known := self.members.get(facts.id)) is not None:
                self._meet(known.facts)
            return
        if facts.id == self.me.id:
            if incarnation > self.incarnation or (incarnation == self.incarnation and facts != self.me):
                self._refute(incarnation)
            return
        before = self.members.get(facts.id)
        if before is None:
            old_news = incarnation <= self.forgotten.get(facts.id, (-1, 0))[0]
            if old_news or not self._may_come(facts, itself=itself):
                return
            self.forgotten.pop(facts.id, None)
        elif incarnation <= before.incarnation:
            self._catch_up(before, incarnation, facts)
            return
        self.suspicions.pop(facts.id, None)
        self._behind.pop(facts.id, None)
        self._hold(Record(facts, incarnation), word)
        if before is None or before.status not in HERE:
            self._happened(Change.JOINED, facts.id)
            self._replace_namesakes(facts)
        elif before.facts != facts:
            self._happened(Change.UPDATED, facts.id)
        elif before.status is Status.SUSPECT:
            self._happened(Change.REFUTED, facts.id)

    def _may_come(self, facts: Facts, *, itself: bool = False, gone: bool = False) -> bool:
        """May this stranger be a member? `itself` told of it; one that is `gone` gets no other's place."""
        most = MOST_MEMBERS if itself else MOST_MEMBERS - RESERVED
        if self._admits(facts) and (self._known < most or (not gone and self._make_room())):
            return True
        self.turned_away += 1
        return False

    @property
    def _known(self) -> int:
        return len(self.members) + len(self.forgotten)

    def _make_room(self) -> bool:
        """One that was told of and is gone, or is remembered for having been, makes room for another."""
        if self.forgotten:
            del self.forgotten[next(iter(self.forgotten))]
            return True
        for ids in self.members.gone.values():
            for id in islice(ids, LOOKED_AT):
                if not self._is_real(id):
                    self._forget(id, remember=False)
                    return True
        return False

    def _catch_up(self, before: Record, incarnation: int, facts: Facts) -> None:
        """Of this incarnation something was heard before, and its facts only now."""
        if incarnation == before.incarnation and self._behind.get(facts.id, incarnation) < incarnation:
            del self._behind[facts.id]
            self.members.put(Record(facts, incarnation, before.status), self.now_ms)
            if facts != before.facts and before.status in HERE:
                self._happened(Change.UPDATED, facts.id)

    def on_suspect(self, word: Suspect) -> None:
        if not self._believable(word.id, word.incarnation):
            return
        if word.id == self.me.id:
            self._answer_for_itself(word.incarnation, failed=False)
            return
        record = self.members.get(word.id)
        if record is None or self._is_outdated(word, record) or record.status not in HERE:
            return
        suspicion = self.suspicions.get(word.id)
        if suspicion is not None and word.incarnation == record.incarnation:
            if suspicion.confirm(word.by):
                self.doom_ms = min(self.doom_ms, suspicion.deadline_ms)
                self._pass_on(word.id, word)
            return
        # Of a newer incarnation than is known here: an older suspicion was refuted, and this is another one.
        self._begin_suspicion(word)
        self._hold(self._newer(record, word.incarnation, Status.SUSPECT), word)
        if record.status is not Status.SUSPECT:
            self._happened(Change.SUSPECTED, word.id)

    def suspect(self, id: str) -> None:
        """It did not answer this member's own probe."""
        record = self.members.get(id)
        if record is not None and record.status in HERE:
            self.on_suspect(Suspect(id, record.incarnation, self.me.id))

    def _begin_suspicion(self, word: Suspect) -> None:
        timing, here = self.timing, self.members.here
        expected = timing.suspicion_mult - 2 if timing.dynamic_suspicion else 0
        if here - 2 < expected:
            expected = 0  # there are not enough others to confirm it
        suspicion = self.suspicions[word.id] = Suspicion(
            by=word.by,
            now_ms=self.now_ms,
            expected=expected,
            least_ms=timing.suspicion_min_ms(here),
            most_ms=timing.suspicion_max_ms(here),
        )
        self.doom_ms = min(self.doom_ms, suspicion.deadline_ms)

    def suspect_again(self, *, anew: bool) -> None:
        """This member was not heard; nor were its suspicions, and nobody can refute what nobody has heard.

        They are told again, and if this member was cut off for long they begin `anew`, once each. Else a host
        whose cable is plugged in again would take those for failed that it missed meanwhile, and all would
        believe it.
        """
        for id, suspicion in self.suspicions.items():
            record = self.members.get(id)
            assert record is not None, "who is suspected is known"
            if anew:
                suspicion.begin_anew(self.now_ms)
            self._pass_on(id, Suspect(id, record.incarnation, suspicion.by))

    def end_suspicions(self, *, aloud: bool = True) -> None:
        """Take those for failed whose time is over; not `aloud`: and tell nobody."""
        for id in [id for id, each in self.suspicions.items() if each.deadline_ms <= self.now_ms]:
            record = self.members.get(id)
            assert record is not None, "who is suspected is known"
            word = Dead(id, record.incarnation, self.me.id)
            if aloud:
                self.on_dead(word)
            else:
                del self.suspicions[id]
                self.members.put(self._newer(record, record.incarnation, Status.FAILED), self.now_ms)
                self._happened(Change.FAILED, id)
        self.doom_ms = min((each.deadline_ms for each in self.suspicions.values()), default=NEVER_MS)

    def on_dead(self, word: Dead) -> None:
        if not self._believable(word.id, word.incarnation):
            return
        if word.id == self.me.id:
            self._answer_for_itself(word.incarnation, failed=True)
            return
        record = self.members.get(word.id)
        if record is None or self._is_outdated(word, record):
            return
        status = Status.LEFT if word.left else Status.FAILED
        if status > record.status:
            self.suspicions.pop(word.id, None)
            self._hold(self._newer(record, word.incarnation, status), word)
            self._happened(Change.LEFT if word.left else Change.FAILED, word.id)
        elif word.prune:
            self._pass_on(word.id, word)
        if word.prune and record.status not in HERE:
            # One that is here may refute it first; it is forgotten in its time, or by the next word.
            self._forget(word.id)

    def _is_outdated(self, word: Suspect | Dead, record: Record) -> bool:
        """Who says so has missed that the member refuted it, and may miss it for long: it is told."""
        if word.incarnation >= record.incarnation:
            return False
        if record.status in HERE and record.facts.id not in self._behind:
            self.unheard = Alive(record.incarnation, record.facts)
        return True

    def _newer(self, record: Record, incarnation: int, status: Status) -> Record:
        """What is known of it now; its facts may be of a later incarnation than those that are known."""
        if incarnation > record.incarnation:
            self._behind.setdefault(record.facts.id, record.incarnation)
        return Record(record.facts, incarnation, status)

    def _believable(self, id: str, incarnation: int) -> bool:
        record = self.members.get(id)
        if record is None or id == self.me.id:
            return incarnation <= max(CEILING, self.incarnation + MOST_AHEAD if record is not None else 0)
        return incarnation <= record.incarnation + MOST_AHEAD

    # -- about itself ---------------------------------------------------------------------------------

    def _answer_for_itself(self, incarnation: int, *, failed: bool) -> None:
        """Somebody doubts this member: of its present incarnation, or not having heard of that yet."""
        if incarnation >= self.incarnation:
            self._refute(incarnation)
            self.suspect_again(anew=failed)
        elif not self.leaving:
            self.unheard = Alive(self.incarnation, self.me)
            self._pass_on(self.me.id, self.unheard)

    def _refute(self, incarnation: int) -> None:
        """Somebody is mistaken about this member: a newer incarnation says better."""
        if not self.leaving:
            self.awareness.note(1)
            self.speak_for_itself(max(incarnation, self.incarnation) + 1)

    def speak_for_itself(self, incarnation: int) -> None:
        assert incarnation > self.incarnation, "incarnations only grow"
        self.incarnation = incarnation
        self._hold(Record(self.me, incarnation), Alive(incarnation, self.me))

    # -- exchanges ------------------------------------------------------------------------------------

    def merge(self, records: Sequence[Record], sender: Facts, dialled: Place | None) -> None:
        """All that `sender` knows. Whom it takes for failed may refute that here first, if it is here.

        `dialled`: where it answered. If that is the place that this member knows of it, it is believed
        anything of itself.
        """
        for record in records:
            mine = self.members.get(record.facts.id)
            if mine == record:
                continue
            itself = record.facts.id == sender.id and record.status in HERE
            if itself and mine is not None and _place(mine) == dialled:
                self.on_alive(Alive(record.incarnation, record.facts), first_hand=True)
            elif self._believable(record.facts.id, record.incarnation):
                self._merge_one(record, mine, sender)

    def _merge_one(self, record: Record, mine: Record | None, sender: Facts) -> None:
        facts, incarnation = record.facts, record.incarnation
        if facts.id == self.me.id and self.leaving:
            return
        if mine is not None:
            self._catch_up(mine, incarnation, facts)
        if record.status not in HERE and (mine is None or mine.status not in HERE):
            self._merge_gone(record, mine)
        elif record.status is Status.LEFT:
            self.on_dead(Dead(facts.id, incarnation, facts.id, left=True))
        else:
            self.on_alive(Alive(incarnation, facts), itself=facts.id == sender.id)
            doubted = mine is not None and (mine.status, mine.incarnation) == (Status.SUSPECT, incarnation)
            if record.status is not Status.ALIVE and not doubted:
                # It begins a suspicion; it confirms none: the sender may have it from hearsay as well.
                self.on_suspect(Suspect(facts.id, incarnation, sender.id))

    def _merge_gone(self, record: Record, mine: Record | None) -> None:
        """Gone there, and here gone too or not known: then it is listed, and nothing has happened."""
        id, incarnation = record.facts.id, record.incarnation
        if mine is None and incarnation <= self.forgotten.get(id, (-1, 0))[0]:
            # Whoever told has not heard that it is to be forgotten: it would come back by and by.
            self._pass_on(id, Dead(id, incarnation, self.me.id, left=True, prune=True))
        elif mine is None:
            if self._may_come(record.facts, gone=True):
                self.forgotten.pop(id, None)
                self.members.put(record, self.now_ms)
        elif (record.incarnation, record.status) > (mine.incarnation, mine.status):
            self.members.put(record, self.now_ms)
            if record.status != mine.status:
                self._happened(
                    Change.LEFT if record.status is Status.LEFT else Change.FAILED, record.facts.id
                )

    # -- those that are gone --------------------------------------------------------------------------

    def reap(self) -> None:
        """Forget those that are gone for long enough."""
        for status, ids in self.members.gone.items():
            for id in [id for id in ids if id != self.me.id]:
                if self.now_ms - self.members.changed_ms(id) >= self._kept_ms(id, status):
                    self._forget(id)
        for id in [id for id, (_, until_ms) in self.forgotten.items() if until_ms <= self.now_ms]:
            del self.forgotten[id]

    def _kept_ms(self, id: str, status: Status) -> int:
        record = self.members.get(id)
        assert record is not None, "who is gone is known until it is forgotten"
        if status is Status.LEFT:
            return self.timing.tombstone_timeout_ms
        return record.facts.reconnect_timeout_ms or self.timing.reconnect_timeout_ms

    def _replace_namesakes(self, facts: Facts) -> None:
        """A host that was wiped comes under its name and another id: its former self is no more."""
        for ids in self.members.gone.values():
            for id in [id for id in ids if id not in (facts.id, self.me.id)]:
                record = self.members.get(id)
                if record is not None and record.facts.name == facts.name:
                    self._forget(id)

    def _forget(self, id: str, *, remember: bool = True) -> None:
        """Off the list. What those who have not forgotten it yet say of it is old news."""
        record = self.members.get(id)
        assert record is not None, "only who is known is forgotten"
        self.events.append(Event(Change.REAPED, record))
        if remember:
            remembered_ms = self.timing.reconnect_timeout_ms + self.timing.tombstone_timeout_ms
            self.forgotten[id] = record.incarnation, self.now_ms + remembered_ms
        self._behind.pop(id, None)
        self.members.drop(id)

    # -- inside ---------------------------------------------------------------------------------------

    def _hold(self, record: Record, word: Word) -> None:
        self.members.put(record, self.now_ms)
        self._pass_on(record.facts.id, word)

    def _happened(self, change: Change, id: str) -> None:
        record = self.members.get(id)
        assert record is not None, "what happens, happens to somebody known"
        self.events.append(Event(change, record))


def _place(record: Record) -> Place:
    return Place(record.facts.host, record.facts.port)
