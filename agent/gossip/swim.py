"""Who is here, agreed on by everyone, at a cost that does not grow with their number: SWIM with Lifeguard.

Pure: words come in with the time (`on_words`, `on_tick`, `merge`), and `take` hands out what is to be sent
and what has become known. Call `on_tick` at `next_ms`, or whenever; nothing here reads a clock or draws a
number that was not handed in.

Sources: Das, Gupta, Motivala, "SWIM" (2002); Dadgar, Phillips, Currey, "Lifeguard" (2018); Consul's timings.
What is ours: members are told apart by id and not by name, an exchange hands on failed members too (every
list shows the same), and whoever is pinged by one that it takes for failed tells it so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import NamedTuple

from gemot.agent.gossip.awareness import Awareness
from gemot.agent.gossip.members import HERE, Members, Random, Rounds
from gemot.agent.gossip.message import (
    Ack,
    Alive,
    Dead,
    Facts,
    Nack,
    News,
    Ping,
    Record,
    Relay,
    Status,
    Suspect,
    Word,
)
from gemot.agent.gossip.packet import PART_BYTES, ROOM, pack, word_bytes
from gemot.agent.gossip.probing import Probe, Probing
from gemot.agent.gossip.queue import Broadcasts
from gemot.agent.gossip.suspicion import Suspicion
from gemot.agent.gossip.timing import Timing

NEVER_MS = 1 << 62

MOST_AHEAD = 1 << 20
"""A word whose incarnation is so far beyond what is known of a member is none of that member's, which raises
it by one at a time: if it were believed, nobody could ever say better."""


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


class Output(NamedTuple):
    """What is to be done, in this order."""

    datagrams: list[tuple[Place, bytes]]
    streams: list[tuple[Place, Ping]]
    """Ask this over TCP as well; an answer goes to `on_stream_ack`."""

    exchanges: list[Facts]
    """Exchange everything with these over TCP: tell them `records()`, `merge` what they tell."""

    events: list[Event]
    news: list[News]
    acks: list[tuple[str, int, bytes]]
    """Answers to own probes: of whom, after how many milliseconds, with which payload."""


class Swim:
    """One member. `on_...` and `leave`, `update`, `expect_no_more` are what happens to it."""

    def __init__(
        self,
        *,
        me: Facts,
        timing: Timing,
        random: Random,
        now_ms: int,
        members: Members | None = None,
        payload: Callable[[], bytes] = bytes,
    ) -> None:
        self.me = me
        self.timing = timing
        self.members = members or Members()
        self.awareness = Awareness(timing.awareness_max)
        self.incarnation = 0
        self.leaving = False
        self._random = random
        self._payload = payload
        self._now = now_ms
        self._rounds = Rounds(random)
        self._probing = Probing(timing=timing, awareness=self.awareness, first_seq=random.randrange(1 << 32))
        self._suspicions: dict[str, Suspicion] = {}
        self._doom_ms = NEVER_MS
        """No suspicion ends before; the first may have been refuted since."""

        self._gone: dict[str, tuple[int, int]] = {}
        self._queue = Broadcasts()
        self._probe_ms = now_ms + random.randrange(timing.probe_interval_ms)
        self._gossip_ms = now_ms + random.randrange(timing.gossip_interval_ms)
        self._exchange_ms = now_ms + random.randrange(timing.push_pull_interval_ms)
        self._reconnect_ms = now_ms + random.randrange(timing.reconnect_interval_ms)
        self._out = Output([], [], [], [], [], [])
        self.members.put(Record(me), now_ms)

    # -- what is asked of it -----------------------------------------------------------------------

    def take(self) -> Output:
        out, self._out = self._out, Output([], [], [], [], [], [])
        return out

    def records(self, to: Facts | None = None) -> tuple[Record, ...]:
        """All it knows, for an exchange. Whom it goes `to` is told that it was forgotten, to refute it."""
        records = tuple(self.members)
        if to is not None and (forgotten := self._gone.get(to.id)) is not None:
            records += (Record(to, forgotten[0], Status.FAILED),)
        return records

    @property
    def next_ms(self) -> int:
        """When `on_tick` has something to do, at the latest."""
        due = [self._probe_ms, self._exchange_ms, self._reconnect_ms, self._doom_ms]
        if len(self._queue):
            due.append(self._gossip_ms)
        if (probing_ms := self._probing.next_ms) is not None:
            due.append(probing_ms)
        return min(due)

    def update(self, me: Facts, now_ms: int) -> None:
        """Tell everyone new facts of this member itself."""
        assert me.id == self.me.id, "an id is for life"
        self._wake(now_ms)
        self.me = me
        self._speak_for_itself(self.incarnation + 1)

    def leave(self, now_ms: int) -> None:
        """Say good-bye. It is under way until `said_goodbye`; then this member may end."""
        self._wake(now_ms)
        self.leaving = True
        self._probing.call_off()
        word = Dead(self.me.id, self.incarnation, self.me.id, left=True)
        self.members.put(Record(self.me, self.incarnation, Status.LEFT), now_ms)
        self._pass_on(self.me.id, word)

    @property
    def said_goodbye(self) -> bool:
        return self.leaving and (not self._queue.waits(self.me.id) or self.members.here == 0)

    def expect_no_more(self, id: str, now_ms: int, *, prune: bool = False) -> bool:
        """An operator says that this member will not come back. False if it is not known, or alive.

        One that is alive after all says so, and is a member again.
        """
        self._wake(now_ms)
        record = self.members.get(id)
        if record is None or id == self.me.id or record.status in HERE:
            return False
        self._on_dead(Dead(id, record.incarnation, self.me.id, left=True, prune=prune))
        return True

    def tell(self, subject: str, news: News) -> None:
        """Pass this on to everybody, in place of what `subject` told before."""
        self._pass_on(subject, news)

    # -- time --------------------------------------------------------------------------------------

    def on_tick(self, now_ms: int) -> None:
        self._wake(now_ms)
        for relayed in self._probing.silent(now_ms):
            self._send(Place(relayed.host, relayed.port), Nack(relayed.seq))
        self._go_on_probing()
        if now_ms >= self._doom_ms:
            self._end_suspicions()
        if now_ms >= self._exchange_ms:
            self._exchange_ms = now_ms + self.timing.push_pull_ms(self.members.here)
            self._out.exchanges.extend(each.facts for each in self._others(1, HERE))
        if now_ms >= self._reconnect_ms:
            self._reconnect_ms = now_ms + self.timing.reconnect_interval_ms
            self._reconnect()
            self._reap()
        if now_ms >= self._gossip_ms:
            self._gossip_ms = now_ms + self.timing.gossip_interval_ms
            self._gossip()

    def _end_suspicions(self) -> None:
        for id in [id for id, each in self._suspicions.items() if each.deadline_ms <= self._now]:
            record = self.members.get(id)
            assert record is not None, "who is suspected is known"
            self._on_dead(Dead(id, record.incarnation, self.me.id))
        self._doom_ms = min((each.deadline_ms for each in self._suspicions.values()), default=NEVER_MS)

    def _wake(self, now_ms: int) -> None:
        """Take the time. Whoever was not running heard nobody: that is nothing against the others."""
        late_ms = now_ms - max(self._now, self.next_ms)
        if late_ms >= self.timing.probe_timeout_ms:
            self._probing.call_off()
            for suspicion in self._suspicions.values():
                suspicion.put_off(late_ms)
        self._now = max(now_ms, self._now)

    # -- probing -----------------------------------------------------------------------------------

    def _go_on_probing(self) -> None:
        probe, now = self._probing.probe, self._now
        if probe is not None and probe.alone and probe.help_ms <= now:
            self._ask_for_help(probe)
        if probe is not None and probe.ends_ms <= now:
            self._suspect(self._probing.failed().id)
        if now >= self._probe_ms and self._probing.probe is None:
            self._probe_ms = now + self.awareness.scaled(self.timing.probe_interval_ms)
            if not self.leaving and (target := self._whose_turn()) is not None:
                self._ping(target)

    def _whose_turn(self) -> Record | None:
        for _ in range(self.members.places):
            record = self.members.at(self._rounds.next(self.members.places))
            if record is not None and record.status in HERE and record.facts.id != self.me.id:
                return record
        return None

    def _ping(self, target: Record) -> None:
        facts = target.facts
        probe = self._probing.begin(facts, self._now)
        first = []
        if target.status is Status.SUSPECT and self.timing.buddy:
            first = [Suspect(facts.id, target.incarnation, self.me.id)]
        self._send(Place(facts.host, facts.port), Ping(probe.seq, facts.id, self.me.id), *first)

    def _ask_for_help(self, probe: Probe) -> None:
        facts = probe.target
        helpers = self._others(self.timing.indirect_probes, (Status.ALIVE,), but=facts.id)
        probe.helpers = len(helpers)
        relay = Relay(probe.seq, facts.id, facts.host, facts.port, self.me.id)
        for helper in helpers:
            self._send(Place(helper.facts.host, helper.facts.port), relay)
        self._out.streams.append((Place(facts.host, facts.port), Ping(probe.seq, facts.id, self.me.id)))

    def on_stream_ack(self, seq: int, now_ms: int) -> None:
        self._wake(now_ms)
        self._on_ack(Ack(seq))

    # -- words -------------------------------------------------------------------------------------

    def on_words(self, words: Sequence[Word], source: Place, now_ms: int) -> None:
        """What one datagram from there held."""
        self._wake(now_ms)
        for word in words:
            match word:
                case Ping():
                    self._on_ping(word, source)
                case Ack():
                    self._on_ack(word)
                case Alive():
                    self._on_alive(word)
                case Suspect():
                    self._on_suspect(word)
                case Dead():
                    self._on_dead(word)
                case Relay():
                    self._on_relay(word, source)
                case Nack():
                    self._probing.on_nack(word.seq)
                case News():
                    self._out.news.append(word)

    def _on_ping(self, ping: Ping, source: Place) -> None:
        if ping.to != self.me.id:
            return
        record = self.members.get(ping.sender)
        first: list[Word] = []
        if record is not None and record.status not in HERE:
            # It does not know what it is taken for: now it can refute that.
            first = [Dead(ping.sender, record.incarnation, self.me.id)]
        self._send(source, Ack(ping.seq, self._payload()), *first)

    def _on_relay(self, relay: Relay, source: Place) -> None:
        number = self._probing.relay(host=source.host, port=source.port, seq=relay.seq, now_ms=self._now)
        if number is not None:
            self._send(Place(relay.host, relay.port), Ping(number, relay.to, self.me.id))

    def _on_ack(self, ack: Ack) -> None:
        if (relayed := self._probing.relayed(ack.seq)) is not None:
            self._send(Place(relayed.host, relayed.port), Ack(relayed.seq))
        elif (probe := self._probing.answered(ack.seq)) is not None and probe.alone:
            self._out.acks.append((probe.target.id, self._now - probe.began_ms, ack.payload))

    # -- news about members ------------------------------------------------------------------------

    def _on_alive(self, word: Alive) -> None:
        facts, incarnation = word.facts, word.incarnation
        if not self._believable(facts.id, incarnation):
            return
        if facts.id == self.me.id:
            if incarnation > self.incarnation or (incarnation == self.incarnation and facts != self.me):
                self._refute(incarnation)
            return
        before = self.members.get(facts.id)
        if before is None:
            if incarnation <= self._gone.get(facts.id, (-1, 0))[0]:
                return
            self._gone.pop(facts.id, None)
        elif incarnation <= before.incarnation:
            return
        self._suspicions.pop(facts.id, None)
        self._hold(Record(facts, incarnation), word)
        if before is None or before.status not in HERE:
            self._happened(Change.JOINED, facts.id)
        elif before.facts != facts:
            self._happened(Change.UPDATED, facts.id)
        elif before.status is Status.SUSPECT:
            self._happened(Change.REFUTED, facts.id)

    def _on_suspect(self, word: Suspect) -> None:
        if not self._believable(word.id, word.incarnation):
            return
        if word.id == self.me.id:
            if word.incarnation >= self.incarnation:
                self._refute(word.incarnation)
            return
        record = self.members.get(word.id)
        if record is None or word.incarnation < record.incarnation or record.status not in HERE:
            return
        if (suspicion := self._suspicions.get(word.id)) is not None and record.status is Status.SUSPECT:
            if suspicion.confirm(word.by):
                self._doom_ms = min(self._doom_ms, suspicion.deadline_ms)
                self._pass_on(word.id, word)
            return
        self._begin_suspicion(word)
        self._hold(Record(record.facts, word.incarnation, Status.SUSPECT), word)
        self._happened(Change.SUSPECTED, word.id)

    def _suspect(self, id: str) -> None:
        """It did not answer this member's own probe."""
        record = self.members.get(id)
        if record is not None and record.status in HERE:
            self._on_suspect(Suspect(id, record.incarnation, self.me.id))

    def _begin_suspicion(self, word: Suspect) -> None:
        timing, here = self.timing, self.members.here
        expected = timing.suspicion_mult - 2 if timing.dynamic_suspicion else 0
        if here - 2 < expected:
            expected = 0  # there are not enough others to confirm it
        suspicion = self._suspicions[word.id] = Suspicion(
            by=word.by,
            now_ms=self._now,
            expected=expected,
            least_ms=timing.suspicion_min_ms(here),
            most_ms=timing.suspicion_max_ms(here),
        )
        self._doom_ms = min(self._doom_ms, suspicion.deadline_ms)

    def _on_dead(self, word: Dead) -> None:
        if not self._believable(word.id, word.incarnation):
            return
        if word.id == self.me.id:
            if word.incarnation >= self.incarnation:
                self._refute(word.incarnation)
            return
        record = self.members.get(word.id)
        if record is None or word.incarnation < record.incarnation:
            return
        status = Status.LEFT if word.left else Status.FAILED
        if status > record.status:
            self._suspicions.pop(word.id, None)
            self._hold(Record(record.facts, word.incarnation, status), word)
            self._happened(Change.LEFT if word.left else Change.FAILED, word.id)
        elif word.prune:
            self._pass_on(word.id, word)
        if word.prune:
            self._forget(word.id)

    def _believable(self, id: str, incarnation: int) -> bool:
        record = self.members.get(id)
        return record is None or incarnation <= record.incarnation + MOST_AHEAD

    def _refute(self, incarnation: int) -> None:
        """Somebody is mistaken about this member: a newer incarnation says better."""
        if not self.leaving:
            self.awareness.note(1)
            self._speak_for_itself(max(incarnation, self.incarnation) + 1)

    def _speak_for_itself(self, incarnation: int) -> None:
        assert incarnation > self.incarnation, "incarnations only grow"
        self.incarnation = incarnation
        self._hold(Record(self.me, incarnation), Alive(incarnation, self.me))

    def _hold(self, record: Record, word: Word) -> None:
        self.members.put(record, self._now)
        self._pass_on(record.facts.id, word)

    def _happened(self, change: Change, id: str) -> None:
        record = self.members.get(id)
        assert record is not None, "what happens, happens to somebody known"
        self._out.events.append(Event(change, record))

    # -- exchanges ---------------------------------------------------------------------------------

    def merge(self, records: Sequence[Record], sender: Facts, now_ms: int) -> None:
        """All that `sender` knows. Whom it takes for failed may refute that here first, if it is here."""
        self._wake(now_ms)
        for record in records:
            mine = self.members.get(record.facts.id)
            if mine is not record:
                self._merge_one(record, mine, sender)

    def _merge_one(self, record: Record, mine: Record | None, sender: Facts) -> None:
        facts, incarnation = record.facts, record.incarnation
        if record.status not in HERE and (mine is None or mine.status not in HERE):
            self._merge_gone(record, mine)
        elif record.status is Status.LEFT:
            self._on_dead(Dead(facts.id, incarnation, facts.id, left=True))
        else:
            self._on_alive(Alive(incarnation, facts))
            if record.status is not Status.ALIVE:
                self._on_suspect(Suspect(facts.id, incarnation, sender.id))

    def _merge_gone(self, record: Record, mine: Record | None) -> None:
        """Gone there, and here gone too or not known: then it is listed, and nothing has happened."""
        if mine is None:
            if record.facts.id not in self._gone:
                self.members.put(record, self._now)
        elif (record.incarnation, record.status) > (mine.incarnation, mine.status):
            self.members.put(record, self._now)
            if record.status != mine.status:
                self._happened(
                    Change.LEFT if record.status is Status.LEFT else Change.FAILED, record.facts.id
                )

    # -- spreading ---------------------------------------------------------------------------------

    def _pass_on(self, subject: str, word: Word) -> None:
        if not len(self._queue):
            self._gossip_ms = max(self._gossip_ms, self._now)
        self._queue.put(subject, word_bytes(word))

    def _gossip(self) -> None:
        if not len(self._queue):
            return
        for each in self._others(self.timing.gossip_nodes, HERE, lately_failed=True):
            self._send(Place(each.facts.host, each.facts.port))

    def _send(self, to: Place, *words: Word) -> None:
        """These words, and as much of the news as fits beside them."""
        parts = [word_bytes(word) for word in words]
        room = ROOM - sum(len(part) + PART_BYTES for part in parts)
        parts += self._queue.take(room, PART_BYTES, self.timing.retransmits(self.members.here))
        if parts:
            self._out.datagrams.append((to, pack(parts)))

    def _others(
        self, count: int, of: tuple[Status, ...], *, but: str = "", lately_failed: bool = False
    ) -> list[Record]:
        since = self._now - self.timing.gossip_to_failed_ms

        def fits(record: Record) -> bool:
            id = record.facts.id
            if id in (self.me.id, but):
                return False
            if record.status in of:
                return True
            return lately_failed and record.status is Status.FAILED and self.members.changed_ms(id) > since

        return self.members.some(count, self._random, fits)

    # -- those that are gone -----------------------------------------------------------------------

    def _reconnect(self) -> None:
        """Try one that failed, all members together each of them about once an interval."""
        failed = list(self.members.gone[Status.FAILED])
        if failed and self._random.random() * max(1, self.members.here) < len(failed):
            record = self.members.get(failed[self._random.randrange(len(failed))])
            assert record is not None, "who failed is known until it is reaped"
            self._out.exchanges.append(record.facts)

    def _reap(self) -> None:
        """Forget those that are gone for long enough."""
        for status, ids in self.members.gone.items():
            for id in [id for id in ids if id != self.me.id]:
                if self._now - self.members.changed_ms(id) >= self._kept_ms(id, status):
                    self._forget(id)
        for id in [id for id, (_, until_ms) in self._gone.items() if until_ms <= self._now]:
            del self._gone[id]

    def _kept_ms(self, id: str, status: Status) -> int:
        record = self.members.get(id)
        assert record is not None, "who is gone is known until it is forgotten"
        if status is Status.LEFT:
            return self.timing.tombstone_timeout_ms
        return record.facts.reconnect_timeout_ms or self.timing.reconnect_timeout_ms

    def _forget(self, id: str) -> None:
        """Off the list. What those who have not forgotten it yet say of it is old news."""
        record = self.members.get(id)
        assert record is not None, "only who is known is forgotten"
        self._out.events.append(Event(Change.REAPED, record))
        self._gone[id] = record.incarnation, self._now + self.timing.tombstone_timeout_ms
        self.members.drop(id)
