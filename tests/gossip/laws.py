"""What must hold of every member's view at every moment, whatever happens: looked at with each event."""

from __future__ import annotations

from gossip.virtual import Member, Network

from gemot.agent.gossip.message import Status
from gemot.agent.gossip.view import Change, Event

AFTER: dict[Change | None, tuple[Change, ...]] = {
    # Whoever was there from the beginning, or was told of in an exchange when it was gone already.
    None: (Change.JOINED, Change.SUSPECTED, Change.UPDATED, Change.FAILED, Change.LEFT, Change.REAPED),
    Change.JOINED: (Change.SUSPECTED, Change.UPDATED, Change.FAILED, Change.LEFT),
    Change.UPDATED: (Change.SUSPECTED, Change.REFUTED, Change.UPDATED, Change.FAILED, Change.LEFT),
    Change.SUSPECTED: (Change.REFUTED, Change.UPDATED, Change.FAILED, Change.LEFT),
    Change.REFUTED: (Change.SUSPECTED, Change.UPDATED, Change.FAILED, Change.LEFT),
    Change.FAILED: (Change.JOINED, Change.LEFT, Change.REAPED),
    Change.LEFT: (Change.JOINED, Change.FAILED, Change.REAPED),
    # It may be listed again without a word, if it was gone anew when that was heard of.
    Change.REAPED: (Change.JOINED, Change.FAILED, Change.LEFT, Change.REAPED),
}
"""What may become of a member next: so each thing happens to it once."""

STATUS = {
    Change.JOINED: (Status.ALIVE,),
    Change.UPDATED: (Status.ALIVE, Status.SUSPECT),
    Change.REFUTED: (Status.ALIVE,),
    Change.SUSPECTED: (Status.SUSPECT,),
    Change.FAILED: (Status.FAILED,),
    Change.LEFT: (Status.LEFT,),
}


class Broken(AssertionError):
    """A law was broken."""


class Laws:
    """Watches every member of a network."""

    def __init__(self, network: Network) -> None:
        self._last: dict[tuple[Member, str], Event] = {}
        """By process: one that begins anew has seen nothing yet."""

        self.events = 0
        network.told.append(self.look)

    def look(self, member: Member, event: Event) -> None:
        self.events += 1
        change, record = event
        key = member, record.facts.id
        before = self._last.get(key)
        if record.facts.id == member.id:
            raise Broken(f"{member.id} is told that it itself {change.value}")
        if change not in AFTER[before.change if before is not None else None]:
            raise Broken(f"{member.id} sees {record} {change.value} after {before}")
        if before is not None and record.incarnation < before.record.incarnation:
            raise Broken(f"{member.id} sees {record} after {before}: incarnations only grow")
        if (
            before is not None
            and before.change is Change.REAPED
            and record.incarnation <= before.record.incarnation
        ):
            raise Broken(f"{member.id} forgot {before.record}, and sees {record} {change.value}")
        if change is not Change.REAPED and record.status not in STATUS[change]:
            raise Broken(f"{member.id} sees {record} {change.value}")
        self._last[key] = event
