"""`force-leave`, asked of any agent: the servers do their part first, and then all members are told.

Where a vote cannot be taken, or nobody leads, nothing is changed and the member stays failed. What fails
after a vote was taken leaves that taken; a second try does what the first one did not come to.
"""

from __future__ import annotations

from gemot.agent.gossip.members import HERE
from gemot.agent.gossip.message import Record, Status
from gemot.agent.lan import Lan
from gemot.agent.servers import Servers
from gemot.server.force_leave import alive
from gemot.server.model.errors import RuleFailed
from gemot.server.rpc.message import Operate


class ForceLeave:
    """`lan` is None where gossip is off: then the catalog alone says who there is."""

    def __init__(self, *, servers: Servers, lan: Lan | None) -> None:
        self._servers = servers
        self._lan = lan

    async def ask(self, name: str, *, prune: bool) -> str:
        """What was done, in words. With `prune` it is erased from every list, one that left by itself too.

        Raises RuleFailed for nobody, for one that is alive, and for what the servers refuse.
        """
        known = self._known(name)
        if any(record.status in HERE for record in known):
            raise RuleFailed(alive(name, "it gossips"))
        gone = [record for record in known if record.status is Status.LEFT]
        failed = [record for record in known if record.status is Status.FAILED]
        if not known:
            told = [f"{name}: {await self._servers.operate(Operate('force-leave', node=name))}"]
        else:
            told = [await self._take_out(record, prune=prune) for record in failed]
        for record in gone if prune else ():
            self._tell(record, prune=True)
        if gone and not failed:
            told.append(f"{name} had left already{', and is erased from every list' if prune else ''}")
        return "; ".join(told)

    async def _take_out(self, record: Record, *, prune: bool) -> str:
        facts = record.facts
        done = await self._servers.operate(Operate("force-leave", facts.id, node=facts.name))
        self._tell(record, prune=prune)
        became = "is erased from every list" if prune else "has left"
        return f"{facts.name} {became}: {done}"

    def _known(self, name: str) -> list[Record]:
        if self._lan is None:
            return []
        return [record for record in self._lan.gossip.swim.members if record.facts.name == name]

    def _tell(self, record: Record, *, prune: bool) -> None:
        assert self._lan is not None, "it was known by gossip"
        self._lan.expect_no_more(record.facts.id, prune=prune)
