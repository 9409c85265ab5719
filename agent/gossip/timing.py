"""How fast gossip goes. Three presets; each but the first is written as what differs from it.

Every value trades speed of detection for traffic or for false alarms; the defaults are Consul's for one
data centre, so that an operator's sense of them carries over.
"""

from __future__ import annotations

import math

import msgspec


class Timing(msgspec.Struct, frozen=True):
    """Intervals in milliseconds."""

    probe_interval_ms: int = 1_000
    """Between two probes. Shorter finds failures sooner, at two datagrams a probe."""

    probe_timeout_ms: int = 500
    """How long a direct answer may take before others are asked to try: above the slowest usual way."""

    indirect_probes: int = 3
    """How many others are asked. More see through a lossier network."""

    suspicion_mult: int = 4
    """Least time to refute, in probe intervals times log10 of the members. Longer lets slow members live."""

    suspicion_max_mult: int = 6
    """Most time to refute, in least times: for as long as nobody else confirms the suspicion."""

    gossip_interval_ms: int = 200
    gossip_nodes: int = 3
    """Every so often news goes to so many members."""

    retransmit_mult: int = 4
    """How often each member passes on one piece of news, times log10 of the members."""

    push_pull_interval_ms: int = 30_000
    """Between two exchanges of everything with one other member, in clusters of up to 32; more, longer."""

    gossip_to_failed_ms: int = 30_000
    """So long a failed member is still told the news: it may be alive and want to refute."""

    reconnect_interval_ms: int = 30_000
    """Between two tries to reach one of the failed members again."""

    reconnect_timeout_ms: int = 72 * 3_600_000
    """How long a failed member is remembered, unless it said otherwise itself."""

    tombstone_timeout_ms: int = 24 * 3_600_000
    """How long one that left is remembered."""

    awareness_max: int = 8
    """How much slower a member at most takes itself to be (Lifeguard, local health); 1 turns that off."""

    dynamic_suspicion: bool = True
    """Start with the most time and shorten it with each confirmation (Lifeguard); else the least at once."""

    buddy: bool = True
    """Tell a suspected member with the very ping that it is suspected (Lifeguard, buddy system)."""

    deaf_probes: int = 2
    """A member that heard nobody for so many of its probe intervals, as long as they were when it heard the
    last, takes itself for cut off; 0 turns that off."""

    def suspicion_min_ms(self, members: int) -> int:
        """As Consul's: 4 s for up to ten members, 8 s for a hundred, 12 s for a thousand."""
        return round(self.suspicion_mult * max(1.0, math.log10(max(1, members))) * self.probe_interval_ms)

    def suspicion_max_ms(self, members: int) -> int:
        return self.suspicion_max_mult * self.suspicion_min_ms(members)

    def retransmits(self, members: int) -> int:
        return self.retransmit_mult * math.ceil(math.log10(members + 1))

    def push_pull_ms(self, members: int) -> int:
        """Longer beyond 32 members, for it costs as much as there are of them: 30 s each doubling."""
        if members <= 32:
            return self.push_pull_interval_ms
        return self.push_pull_interval_ms * (math.ceil(math.log2(members) - 5) + 1)


LAN = Timing()

LOCAL = msgspec.structs.replace(
    LAN,
    probe_interval_ms=200,
    probe_timeout_ms=100,
    suspicion_mult=3,
    gossip_interval_ms=50,
    push_pull_interval_ms=5_000,
    indirect_probes=1,
    retransmit_mult=2,
)
"""One machine, for development and tests: no packet is lost there, and nobody wants to wait."""
