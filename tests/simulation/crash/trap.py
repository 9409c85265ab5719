"""Every call that a server makes to its disk and its ports, numbered; and the trap that ends it at one.

The calls are *points*. A run without a trap lists them; a run with one, which is the same to the event up to
there, ends that server at the point of that number: before the call has done anything, or after it has done
all of it and before the server knows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from simulation.disk import DiskFaults, PowerLost

HOWS = ("power-before", "power-after", "torn-before", "torn-after", "kill-before", "kill-after")
"""Power: all that is not synced is lost. Torn: each part of it is lost, kept or torn by chance. Kill: the
process ends and the host does not, so that nothing that was written is lost."""


class Victim(Protocol):
    name: str
    disk: DiskFaults


class Trap:
    """`names` are the points of each server, in order, for as long as it has not fallen.

    Where the next point comes in the same event, nothing else happens between the end of a call and it: to
    end the server after the one and before the other is the same. `lasts` are the numbers of those after
    which it is not.

    With `again` the server falls a second time, before the call of that number after the first: while it
    comes back.
    """

    def __init__(self, victim: str = "", at: int = 0, how: str = "", again: int = 0) -> None:
        assert not victim or how in HOWS
        self.victim = victim
        self.at = at
        self.how = how
        self.again = again
        self.names: dict[str, list[str]] = {}
        self.lasts: dict[str, list[int]] = {}
        self._open: dict[str, int] = {}
        self.over = False
        """The script has ended: what is done afterwards is no point."""

        self.sprung = ""
        """The point that it struck at."""

    @property
    def torn(self) -> bool:
        return self.how.startswith("torn")

    @property
    def kills(self) -> bool:
        return self.how.startswith("kill")

    def enter(self, server: Victim, name: str) -> int:
        """Before a call; its number. Raises PowerLost if it never comes about."""
        if server.disk.power_lost:
            raise PowerLost("there is no power")
        if self.over:
            return 0
        names = self.names.setdefault(server.name, [])
        names.append(name)
        if self.sprung and self.again and server.name == self.victim:
            self.again -= 1
            if not self.again:
                self._fall(server, name)
        if self._is_due(server, len(names), "-before"):
            self._spring(server, name)
        return len(names)

    def event_ended(self) -> None:
        for name, number in self._open.items():
            self.lasts.setdefault(name, []).append(number)
        self._open.clear()

    def leave(self, server: Victim, number: int) -> None:
        """After that call. Raises PowerLost if its return is never seen."""
        if self.over:
            return
        self._open[server.name] = len(self.names[server.name])
        if self._is_due(server, number, "-after"):
            self._spring(server, self.names[server.name][number - 1])

    @contextmanager
    def around(self, server: Victim, name: str) -> Iterator[None]:
        number = self.enter(server, name)
        yield
        self.leave(server, number)

    def _is_due(self, server: Victim, number: int, when: str) -> bool:
        return (
            not self.sprung
            and number == self.at
            and server.name == self.victim
            and self.how.endswith(when)
        )  # fmt: skip

    def _spring(self, server: Victim, name: str) -> None:
        self.sprung = name
        self._fall(server, name)

    def _fall(self, server: Victim, name: str) -> None:
        server.disk.power_lost = True
        raise PowerLost(f"{self.how}: {name}")


def kind_of(name: str) -> str:
    """`write wal` for `write state.db-wal`, `write log` for `write log/0000000001-00000001.seg`."""
    action, _, rest = name.partition(" ")
    if action in ("send", "port", "answer"):
        return " ".join(name.split(" ")[:2])
    folder, _, file = rest.rpartition("/")
    if folder:
        return f"{action} {folder.split('/')[0]}"
    if file.startswith("meta-"):
        return f"{action} meta"
    if file.startswith("state.db"):
        return f"{action} {'wal' if file.endswith('-wal') else 'state'}"
    return f"{action} folder"
