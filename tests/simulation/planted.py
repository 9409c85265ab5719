"""The planted bugs (`tests/mutants/`) for one process that runs with one of them to its end.

Two of them once more with most checkers switched off, to see that those which are left find it alone.
"""

from __future__ import annotations

from collections.abc import Callable

from mutants.bug import Bug, Patch
from mutants.bugs.every import BUGS as PLANTS
from simulation import run
from simulation.families.kv import KvFamily
from simulation.families.push import PushFamily
from simulation.linearize import Report


def _for_good(bug: Bug) -> Callable[[], None]:
    return lambda: bug.plant(Patch())


def _black_box_alone() -> None:
    """No check that believes an index, and none of the watches: what is found, the black-box check finds."""
    run.check_real_time = lambda history: None  # type: ignore[attr-defined]
    KvFamily.check = lambda self: len(self.history)  # type: ignore[method-assign]
    KvFamily.check_watches = lambda self: 0  # type: ignore[method-assign]
    PushFamily.check = lambda self: len(self.history)  # type: ignore[method-assign]


def _stale_read_in_a_black_box() -> None:
    PLANTS["stale-read"].plant(Patch())
    _black_box_alone()


_check_watches = KvFamily.check_watches


def _stale_watch() -> None:
    """A stale read, looked for in what watchers were told alone."""
    PLANTS["stale-read"].plant(Patch())
    _black_box_alone()
    KvFamily.check_watches = _check_watches  # type: ignore[method-assign]
    KvFamily.check_black_box = lambda self, random, restores: Report()  # type: ignore[method-assign]


BUGS: dict[str, Callable[[], None]] = {
    **{name: _for_good(bug) for name, bug in PLANTS.items()},
    "stale-read-in-a-black-box": _stale_read_in_a_black_box,
    "stale-watch": _stale_watch,
}
