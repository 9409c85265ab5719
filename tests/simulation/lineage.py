"""Which entries of the log made the state that is there: a restore takes back what came after its archive.

The log goes on, the state does not: a restore at index R of an archive of index I leaves what was done up to
I, by what was then in force, and nothing of what was done from there to R.
"""

from __future__ import annotations


class Lineage:
    """Told of each restore, in the order of the log."""

    def __init__(self) -> None:
        self.restores: list[tuple[int, int]] = []
        """At which index, and of which one the archive was."""

    def restore(self, at: int, of: int) -> None:
        self.restores.append((at, of))

    def lives(self, index: int) -> bool:
        """Is what was done, or read, at this index a part of what made the present state?"""
        newest = None
        for at, of in reversed(self.restores):
            if newest is not None and at > newest:
                continue  # of a branch that was left
            if index >= at:
                break
            newest = of
        return newest is None or index <= newest
