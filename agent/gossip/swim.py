"""Who is here, agreed on by everyone, at a cost that does not grow with their number: SWIM with Lifeguard.

What is held of others is in `view.py`; here is when to probe whom, and how news spreads. Pure: words come in
with the time (`on_words`, `on_tick`, `merge`), and `take` hands out what is to be sent and what has become
known. Call `on_tick` at `next_ms`, or whenever; nothing here reads a clock or draws a number that was not
handed in.

Sources: Das, Gupta, Motivala, "SWIM" (2002); Dadgar, Phillips, Currey, "Lifeguard" (2018); Consul's timings.
What is ours: members are told apart by id and not by name, an exchange hands on failed members too (every
list shows the same), whoever is pinged by one that it doubts tells it so, and whoever hears nobody takes
itself for cut off: it tells nothing until it hears somebody, and then its suspicions begin anew, once each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from gemot.agent.gossip.awareness import Awareness
from gemot.agent.gossip.members import HERE, Members, Random
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
from gemot.agent.gossip.timing import Timing
from gemot.agent.gossip.turns import Turns
from gemot.agent.gossip.view import Change, Event, Place, View


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
        admits: Callable[[Facts], bool] = lambda _facts: True,
    ) -> None:
        """`admits` says whether one that is not known yet may be a member at all."""
        self.timing = timing
        self.members = members or Members()
        self.awareness = Awareness(timing.awareness_max)
        self._turns = Turns(me=me.id, members=self.members, random=random)
        self.view = View(
            me=me,
            timing=timing,
            now_ms=now_ms,
            members=self.members,
            awareness=self.awareness,
            admits=admits,
            is_real=self._turns.is_real,
            pass_on=self._pass_on,
            meet=self._meet,
        )
        self._random = random
        self._payload = payload
        self._probing = Probing(timing=timing, awareness=self.awareness, first_seq=random.randrange(1 << 32))
        self._queue = Broadcasts(me.id)
        self._news = Broadcasts()
        """What is not about members: told in the room that is left, so no flood of it hides a failure."""

        self._probe_ms = now_ms + random.randrange(timing.probe_interval_ms)
        self._gossip_ms = now_ms + random.randrange(timing.gossip_interval_ms)
        self._exchange_ms = now_ms + random.randrange(timing.push_pull_interval_ms)
        self._reconnect_ms = now_ms + random.randrange(timing.reconnect_interval_ms)
        self._meet_ms = now_ms
        self._heard_ms = now_ms
        self._silence_ms = self._usual_silence_ms
        self._out = Output([], [], [], [], [], [])

    # -- what is asked of it -----------------------------------------------------------------------

    def take(self) -> Output:
        out, self._out = self._out, Output([], [], [], [], [], [])
        events, self.view.events = self.view.events, []
        for event in events:
            if event.change is Change.REAPED:
                self._turns.forget(event.record.facts.id)
        return out._replace(events=events)

    @property
    def me(self) -> Facts:
        return self.view.me

    @property
    def asks(self) -> int | None:
        """The number of the own probe under way."""
        return self._probing.probe.seq if self._probing.probe is not None else None

    @property
    def incarnation(self) -> int:
        return self.view.incarnation

    def records(self, to: Facts | None = None) -> tuple[Record, ...]:
        """All it knows, for an exchange. Whom it goes `to` is told that it was forgotten, to refute it."""
        return self.view.records(to)

    def merge(
        self,
        records: Sequence[Record],
        sender: Facts,
        now_ms: int,
        *,
        dialled: Place | None = None,
        source: str = "",
    ) -> None:
        """All that `sender` knows, who was asked at the place `dialled`, or came by itself from this host."""
        self._wake(now_ms)
        self._hears()
        self.view.merge(records, sender, dialled)
        if sender.host == (dialled.host if dialled is not None else source) and self.members.get(sender.id):
            self._turns.answered(sender.id)

    @property
    def next_ms(self) -> int:
        """When `on_tick` has something to do, at the latest."""
        due = [self._probe_ms, self._exchange_ms, self._reconnect_ms, self.view.doom_ms]
        if (len(self._queue) or len(self._news)) and not self.deaf:
            due.append(self._gossip_ms)
        if (probing_ms := self._probing.next_ms) is not None:
            due.append(probing_ms)
        return min(due)

    def update(self, me: Facts, now_ms: int) -> None:
        """Tell everyone new facts of this member itself."""
        assert me.id == self.me.id, "an id is for life"
        self._wake(now_ms)
        self.view.tell(me)

    def leave(self, now_ms: int) -> None:
        """Say good-bye. It is under way until `said_goodbye`; then this member may end."""
        self._wake(now_ms)
        self._probing.call_off()
        self.view.say_goodbye()

    @property
    def said_goodbye(self) -> bool:
        return self.view.leaving and (not self._queue.waits(self.me.id) or self.members.here == 0)

    def expect_no_more(self, id: str, now_ms: int, *, prune: bool = False) -> bool:
        """An operator says that this member will not come back. False if it is not known, or alive.

        One that is alive after all says so, and is a member again.
        """
        self._wake(now_ms)
        return self.view.expect_no_more(id, prune=prune)

    def tell(self, subject: str, news: News) -> None:
        """Pass this on to everybody, in place of what `subject` told before."""
        self._gossip_soon()
        self._news.put(subject, word_bytes(news))

    # -- time --------------------------------------------------------------------------------------

    def on_tick(self, now_ms: int) -> None:
        self._wake(now_ms)
        for relayed in self._probing.silent(now_ms):
            self._send(Place(relayed.host, relayed.port), Nack(relayed.seq))
        self._go_on_probing()
        if now_ms >= self.view.doom_ms:
            self.view.end_suspicions(aloud=not self.deaf)
        if now_ms >= self._exchange_ms:
            self._exchange_ms = now_ms + self.timing.push_pull_ms(self.members.here)
            self._out.exchanges.extend(each.facts for each in self._others(1, HERE))
        if now_ms >= self._reconnect_ms:
            self._reconnect_ms = now_ms + self.timing.reconnect_interval_ms
            self._reconnect()
            self.view.reap()
        if now_ms >= self._gossip_ms:
            self._gossip_ms = now_ms + self.timing.gossip_interval_ms
            self._gossip()

    def _wake(self, now_ms: int) -> None:
        """Take the time. Whoever was not running heard nobody: that is nothing against the others."""
        late_ms = now_ms - max(self.view.now_ms, self.next_ms)
        if late_ms >= self.timing.probe_timeout_ms:
            self._probing.call_off()
            self.view.put_off(late_ms)
        self.view.now_ms = max(now_ms, self.view.now_ms)

    @property
    def deaf(self) -> bool:
        """Nobody was heard for so long that it is more likely this member that is cut off than all others.

        Its news waits for somebody who hears it, and what it makes of the others' silence it keeps to itself.
        Who asks others seldom hears from them as seldom: so long is in intervals between its probes, as they
        were when it heard somebody last. What failed since is the very silence that is judged here.
        """
        if self.timing.deaf_probes == 0 or self.view.leaving:
            return False
        return self.view.now_ms - self._heard_ms > self._silence_ms

    def _hears(self) -> None:
        if self.deaf:
            self.view.suspect_again(anew=True)
        self._heard_ms = self.view.now_ms
        self._silence_ms = self._usual_silence_ms

    @property
    def _usual_silence_ms(self) -> int:
        return self.timing.deaf_probes * self.awareness.scaled(self.timing.probe_interval_ms)

    # -- probing -----------------------------------------------------------------------------------

    def _go_on_probing(self) -> None:
        probe, now = self._probing.probe, self.view.now_ms
        if probe is not None and probe.alone and probe.help_ms <= now:
            self._ask_for_help(probe)
        if probe is not None and probe.ends_ms <= now:
            self.view.suspect(self._probing.failed().id)
        if now >= self._probe_ms and self._probing.probe is None:
            self._probe_ms = now + self.awareness.scaled(self.timing.probe_interval_ms)
            if not self.view.leaving and (target := self._turns.next()) is not None:
                self._ping(target)

    def _ping(self, target: Record) -> None:
        facts = target.facts
        probe = self._probing.begin(facts, self.view.now_ms)
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
        self._hears()
        self._on_ack(Ack(seq))

    # -- words -------------------------------------------------------------------------------------

    def on_words(self, words: Sequence[Word], source: Place, now_ms: int) -> None:
        """What one datagram from there held."""
        self._wake(now_ms)
        self.view.unheard = None
        self._hears()
        for word in words:
            match word:
                case Ping():
                    self._on_ping(word, source)
                case Ack():
                    self._on_ack(word)
                case Alive():
                    self.view.on_alive(word)
                case Suspect():
                    self.view.on_suspect(word)
                case Dead():
                    self.view.on_dead(word)
                case Relay():
                    self._on_relay(word, source)
                case Nack():
                    self._probing.on_nack(word.seq)
                case News():
                    self._out.news.append(word)
        if self.view.unheard is not None:
            self._send(source, self.view.unheard)

    def _on_ping(self, ping: Ping, source: Place) -> None:
        if ping.to != self.me.id:
            return
        record, forgotten = self.members.get(ping.sender), self.view.forgotten.get(ping.sender)
        first: list[Word] = []
        if record is not None and record.status not in HERE:
            # It does not know what it is taken for: now it can refute that.
            first = [Dead(ping.sender, record.incarnation, self.me.id)]
        elif record is not None and record.status is Status.SUSPECT and self.timing.buddy:
            first = [Suspect(ping.sender, record.incarnation, self.me.id)]
        elif record is None and forgotten is not None:
            first = [Dead(ping.sender, forgotten[0], self.me.id)]
        elif record is None:
            # It knows this member, which does not know it, having begun anew: it can tell who there is.
            self._meet(Facts(ping.sender, ping.sender, source.host, source.port))
        self._send(source, Ack(ping.seq, self._payload()), *first)

    def _meet(self, facts: Facts) -> None:
        """Ask this one itself; one in each interval, whatever is said to make this member ask."""
        if self.view.now_ms >= self._meet_ms and not self.view.leaving:
            self._meet_ms = self.view.now_ms + self.timing.probe_interval_ms
            self._out.exchanges.append(facts)

    def _on_relay(self, relay: Relay, source: Place) -> None:
        number = self._probing.relay(
            host=source.host, port=source.port, seq=relay.seq, now_ms=self.view.now_ms
        )
        if number is not None:
            self._send(Place(relay.host, relay.port), Ping(number, relay.to, self.me.id))

    def _on_ack(self, ack: Ack) -> None:
        if (relayed := self._probing.relayed(ack.seq)) is not None:
            self._send(Place(relayed.host, relayed.port), Ack(relayed.seq))
            return
        if (probe := self._probing.answered(ack.seq)) is None:
            return
        if self.members.get(probe.target.id) is None:
            return  # forgotten since it was asked: what is noted of it now nobody would ever forget
        self._turns.answered(probe.target.id)
        if probe.alone:
            self._out.acks.append((probe.target.id, self.view.now_ms - probe.began_ms, ack.payload))

    # -- spreading ---------------------------------------------------------------------------------

    def _pass_on(self, subject: str, word: Word) -> None:
        self._gossip_soon()
        self._queue.put(subject, word_bytes(word))

    def _gossip_soon(self) -> None:
        """Where nothing waited to be told, its time has long come: it is now."""
        if not len(self._queue) and not len(self._news):
            self._gossip_ms = max(self._gossip_ms, self.view.now_ms)

    def _gossip(self) -> None:
        if self.deaf or not (len(self._queue) or len(self._news)):
            return
        for each in self._others(self.timing.gossip_nodes, HERE, lately_failed=True, anyone=1):
            self._send(Place(each.facts.host, each.facts.port))

    def _send(self, to: Place, *words: Word) -> None:
        """These words, and as much of the news as fits beside them."""
        parts = [word_bytes(word) for word in words]
        room = 0 if self.deaf else ROOM - sum(len(part) + PART_BYTES for part in parts)
        limit = self.timing.retransmits(self.members.here)
        about_members = self._queue.take(room, PART_BYTES, limit)
        room -= sum(len(part) + PART_BYTES for part in about_members)
        parts += about_members
        parts += self._news.take(room, PART_BYTES, limit)
        if parts:
            self._out.datagrams.append((to, pack(parts)))

    def _others(
        self,
        count: int,
        of: tuple[Status, ...],
        *,
        but: str = "",
        lately_failed: bool = False,
        anyone: int = 0,
    ) -> list[Record]:
        since = self.view.now_ms - self.timing.gossip_to_failed_ms

        def fits(record: Record) -> bool:
            id = record.facts.id
            if id in (self.me.id, but):
                return False
            if record.status in of:
                return True
            return lately_failed and record.status is Status.FAILED and self.members.changed_ms(id) > since

        return self._turns.some(count, fits, anyone=anyone)

    # -- those that are gone -----------------------------------------------------------------------

    def _reconnect(self) -> None:
        """Try one that failed, all members together each of them about once an interval."""
        failed = list(self.members.gone[Status.FAILED])
        if failed and self._random.random() * max(1, self.members.here) < len(failed):
            record = self.members.get(failed[self._random.randrange(len(failed))])
            assert record is not None, "who failed is known until it is reaped"
            self._out.exchanges.append(record.facts)
