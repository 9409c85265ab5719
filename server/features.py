"""What the releases of the other servers know: some commands wait until all of them do.

A server of an older release would stop at a command that it does not know. Each says with its reports what it
knows; one that has said nothing yet counts as one that knows nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from gemot.server.model.command import Command
from gemot.server.model.errors import Busy
from gemot.server.model.session import CreateSession
from gemot.server.model.txn import Txn, expires
from gemot.server.rpc.message import EXPIRY, SESSIONS, TXN

_NEEDED: dict[type, str] = {CreateSession: SESSIONS, Txn: TXN}


class Features:
    """`servers` are those that are sent the log, by id; `begun` says of a feature that the log has had it."""

    def __init__(
        self, *, me: str, servers: Callable[[], Iterable[str]], begun: Callable[[str], bool]
    ) -> None:
        self._me = me
        self._servers = servers
        self._begun = begun
        self._of: dict[str, tuple[str, ...]] = {}

    def hear(self, server: str, features: tuple[str, ...]) -> None:
        """What another server knows."""
        self._of[server] = features

    def without(self, feature: str) -> tuple[str, ...]:
        """Servers that have not said that they know this, by id; none once the log has had it.

        One that does not know it has stopped there, whoever is asked now.
        """
        if self._begun(feature):
            return ()
        others = [id for id in dict.fromkeys(self._servers()) if id != self._me]
        return tuple([id for id in others if feature not in self._of.get(id, ())])

    def refuse(self, command: Command, name: Callable[[str], str]) -> Busy | None:
        """Why a command is not proposed yet. Of sessions it is the first one: all others come after it."""
        feature = EXPIRY if expires(command) else _NEEDED.get(type(command))
        if feature is None or not (others := self.without(feature)):
            return None
        return Busy(
            f"{feature} wait until every server has said that its release knows them, and these have not: "
            f"{', '.join(map(name, others))}; upgrade them, or start or remove those that are down"
        )
