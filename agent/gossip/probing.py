"""One probe after the other, and the probes made for others: who answered, and by when.

A probe is a ping; without an answer in time some others are asked to try, and the same question goes over
TCP; without any by the end of the interval it has failed (SWIM, section 3.1). Who was asked and heard nothing
either says so, `Nack`: whose requests for help are not even answered doubts itself, not the silent member.
"""

from __future__ import annotations

import msgspec

from gemot.agent.gossip.awareness import Awareness
from gemot.agent.gossip.message import Facts
from gemot.agent.gossip.timing import Timing

NACK_SHARE = 0.8
"""Of the probe timeout: whoever asked hears the Nack before its own time is over."""

MOST_RELAYED = 1_024
"""Probes for others under way; more are not begun, as if they were lost."""


class Probe(msgspec.Struct):
    """The one under way. `helpers` were asked to try as well, and `nacks` of them heard nothing."""

    seq: int
    target: Facts
    began_ms: int
    help_ms: int
    """When others are asked to try."""

    ends_ms: int
    helpers: int = -1
    nacks: int = 0

    @property
    def alone(self) -> bool:
        """Nobody was asked to help yet."""
        return self.helpers < 0


class Relayed(msgspec.Struct):
    """A probe for somebody else: where its answer goes."""

    host: str
    port: int
    seq: int
    nack_ms: int
    nacked: bool = False
    ends_ms: int = 0


class Probing:
    """The numbers of what was sent, and what each stands for."""

    def __init__(self, *, timing: Timing, awareness: Awareness, first_seq: int) -> None:
        self._timing = timing
        self._awareness = awareness
        self._seq = first_seq
        self.probe: Probe | None = None
        self._relayed: dict[int, Relayed] = {}

    def _number(self) -> int:
        self._seq = (self._seq + 1) & 0xFFFF_FFFF
        return self._seq

    # -- own ---------------------------------------------------------------------------------------

    def begin(self, target: Facts, now_ms: int) -> Probe:
        timing, awareness = self._timing, self._awareness
        self.probe = Probe(
            seq=self._number(),
            target=target,
            began_ms=now_ms,
            help_ms=now_ms + awareness.scaled(timing.probe_timeout_ms),
            ends_ms=now_ms + awareness.scaled(timing.probe_interval_ms),
        )
        return self.probe

    def answered(self, seq: int) -> Probe | None:
        """The probe that this number ends, if it is under way."""
        probe = self.probe
        if probe is None or probe.seq != seq:
            return None
        self.probe = None
        self._awareness.note(-1)
        return probe

    def on_nack(self, seq: int) -> None:
        if self.probe is not None and self.probe.seq == seq and self.probe.nacks < self.probe.helpers:
            self.probe.nacks += 1

    def failed(self) -> Facts:
        """Its time is over. Helpers that did not even say that they heard nothing count against ourselves."""
        probe, self.probe = self.probe, None
        assert probe is not None, "one is under way"
        self._awareness.note(probe.helpers - probe.nacks if probe.helpers > 0 else 1)
        return probe.target

    def call_off(self) -> None:
        """This member was not there to hear an answer: the probe proves nothing."""
        self.probe = None

    # -- for others --------------------------------------------------------------------------------

    def relay(self, *, host: str, port: int, seq: int, now_ms: int) -> int | None:
        """The number under which to ping for this one; None when too many are under way."""
        if len(self._relayed) >= MOST_RELAYED:
            return None
        number = self._number()
        nack_ms = now_ms + round(NACK_SHARE * self._timing.probe_timeout_ms)
        ends_ms = now_ms + self._timing.probe_interval_ms
        self._relayed[number] = Relayed(host, port, seq, nack_ms, ends_ms=ends_ms)
        return number

    def relayed(self, seq: int) -> Relayed | None:
        """Whom this answer is for, if it was asked for somebody else; late ones count as well."""
        return self._relayed.pop(seq, None)

    def silent(self, now_ms: int) -> list[Relayed]:
        """Those whose asker is to be told now that nothing was heard."""
        late = [each for each in self._relayed.values() if each.nack_ms <= now_ms and not each.nacked]
        for each in late:
            each.nacked = True
        for number in [n for n, each in self._relayed.items() if each.ends_ms <= now_ms]:
            del self._relayed[number]
        return late

    @property
    def next_ms(self) -> int | None:
        """When something of this is due next."""
        due = [each.ends_ms if each.nacked else each.nack_ms for each in self._relayed.values()]
        if self.probe is not None:
            due.append(self.probe.help_ms if self.probe.alone else self.probe.ends_ms)
        return min(due, default=None)
