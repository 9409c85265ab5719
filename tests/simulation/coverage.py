"""What was really tried: how often each fault struck, and how many operations of each kind met it.

A run proves nothing about what it never did. So faults are counted when they happen, not when they are
planned, and operations when they are really asked for. The table says of each pair how many operations were
under way when the fault struck, or began while it lasted or in its aftermath, in which servers come back,
vote, catch up and repair. Each operation meets a fault once, however often that strikes.
"""

from __future__ import annotations

import msgspec
from simulation.world import World

Table = dict[str, dict[str, int]]

AFTERMATH_US = 2_000_000
"""As long as a server that stopped takes to come back at most, or a few elections."""


class _Open(msgspec.Struct):
    """An operation under way, and what it met."""

    kind: str
    met: dict[str, None] = {}


class Coverage:
    """The counts of one run."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.fired: dict[str, int] = {}
        self.table: Table = {}
        self.begun: dict[str, int] = {}
        self._lasting: dict[str, int] = {}
        self._fading: dict[str, int] = {}
        """Faults that are over, and until when their aftermath goes."""

        self._open: dict[int, _Open] = {}
        self._next = 0

    # -- operations --------------------------------------------------------------------------------

    def begin(self, kind: str) -> int:
        self._next += 1
        operation = self._open[self._next] = _Open(kind)
        self.begun[kind] = self.begun.get(kind, 0) + 1
        for fault in self._lasting:
            self._met(operation, fault)
        for fault in [name for name, until_us in self._fading.items() if until_us < self._world.now_us]:
            del self._fading[fault]
        for fault in self._fading:
            self._met(operation, fault)
        return self._next

    def end(self, number: int) -> None:
        self._open.pop(number, None)

    # -- faults ------------------------------------------------------------------------------------

    def strike(self, fault: str) -> None:
        """It happened, now."""
        self.fired[fault] = self.fired.get(fault, 0) + 1
        self._meet_all(fault)
        self._fade(fault)

    def last(self, fault: str) -> None:
        """It lasts from now on, until `over`."""
        self._lasting[fault] = self._lasting.get(fault, 0) + 1
        self._meet_all(fault)

    def over(self, fault: str) -> None:
        if self._lasting.get(fault, 0) <= 1:
            self._lasting.pop(fault, None)
        else:
            self._lasting[fault] -= 1
        self._fade(fault)

    def _fade(self, fault: str) -> None:
        self._fading[fault] = self._world.now_us + AFTERMATH_US

    def _meet_all(self, fault: str) -> None:
        for operation in self._open.values():
            self._met(operation, fault)

    def _met(self, operation: _Open, fault: str) -> None:
        if fault not in operation.met:
            operation.met[fault] = None
            row = self.table.setdefault(operation.kind, {})
            row[fault] = row.get(fault, 0) + 1


class Totals(msgspec.Struct):
    """The sums over many runs."""

    fired: dict[str, int] = {}
    begun: dict[str, int] = {}
    table: Table = {}

    def add(self, fired: dict[str, int], begun: dict[str, int], table: Table) -> None:
        _add(self.fired, fired)
        _add(self.begun, begun)
        for operation, row in table.items():
            _add(self.table.setdefault(operation, {}), row)

    def rarest(self, known: list[str], count: int) -> list[tuple[int, str, str]]:
        """The cells that were hit least: how often, operation, fault."""
        cells = [
            (self.table.get(operation, {}).get(fault, 0), operation, fault)
            for operation in self.begun
            for fault in known
        ]
        return sorted(cells)[:count]

    def text(self, known: list[str]) -> str:
        """Faults down, operations across; `known` faults have a line even if they never struck."""
        operations = sorted(self.begun)
        faults = sorted({*known, *self.fired})
        head = ["fault", "fired", *operations]
        rows = [
            [fault, str(self.fired.get(fault, 0))]
            + [str(self.table.get(operation, {}).get(fault, 0)) for operation in operations]
            for fault in faults
        ]
        begun = ["all", "", *(str(self.begun[operation]) for operation in operations)]
        lines = [head, *rows, begun]
        widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if column == 0 else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
            for line in lines
        )


def _add(to: dict[str, int], counts: dict[str, int]) -> None:
    for name, count in counts.items():
        to[name] = to.get(name, 0) + count
