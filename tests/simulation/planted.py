"""The planted bugs (`tests/mutants/`) for one process that runs with one of them to its end."""

from __future__ import annotations

from collections.abc import Callable

from mutants.bug import Bug, Patch
from mutants.bugs.every import BUGS as PLANTS


def _for_good(bug: Bug) -> Callable[[], None]:
    return lambda: bug.plant(Patch())


BUGS: dict[str, Callable[[], None]] = {name: _for_good(bug) for name, bug in PLANTS.items()}
