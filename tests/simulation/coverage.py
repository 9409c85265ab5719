"""What was really tried: how often each fault struck, and how many operations of each kind met it.

A run proves nothing about what it never did. So faults are counted when they happen, not when they are
planned, and the table says of each pair of operation and fault how many were under way when it struck, or
began while it lasted.
"""

from __future__ import annotations

import msgspec

Table = dict[str, dict[str, int]]


class Coverage:
    """The counts of one run."""

    def __init__(self) -> None:
        self.fired: dict[str, int] = {}
        self.table: Table = {}
        self.begun: dict[str, int] = {}
        self._lasting: dict[str, int] = {}
        self._open: dict[int, str] = {}
        self._next = 0

    # -- operations --------------------------------------------------------------------------------

    def begin(self, operation: str) -> int:
        self._next += 1
        self._open[self._next] = operation
        self.begun[operation] = self.begun.get(operation, 0) + 1
        for fault in self._lasting:
            self._met(operation, fault)
        return self._next

    def end(self, number: int) -> None:
        self._open.pop(number, None)

    # -- faults ------------------------------------------------------------------------------------

    def strike(self, fault: str) -> None:
        """It happened, now."""
        self.fired[fault] = self.fired.get(fault, 0) + 1
        if fault not in self._lasting:
            for operation in self._open.values():
                self._met(operation, fault)

    def last(self, fault: str) -> None:
        """It lasts from now on: what is under way meets it, and all that begins until `over`."""
        self._lasting[fault] = self._lasting.get(fault, 0) + 1
        if self._lasting[fault] == 1:
            for operation in self._open.values():
                self._met(operation, fault)

    def over(self, fault: str) -> None:
        if self._lasting.get(fault, 0) <= 1:
            self._lasting.pop(fault, None)
        else:
            self._lasting[fault] -= 1

    def _met(self, operation: str, fault: str) -> None:
        row = self.table.setdefault(operation, {})
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
