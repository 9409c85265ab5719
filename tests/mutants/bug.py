"""What a planted bug is: one rule of Gemot left out, by a patch over one process.

A plant goes through `Patch`, which refuses to set what is not there: a plant whose place was renamed or moved
fails, it never becomes one that does nothing. Where the product would stop itself by an assertion, the plant
takes that out too, as far as it can: what is to be shown is that a checker sees the consequence.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import NamedTuple

import pytest

Patch = pytest.MonkeyPatch
Plant = Callable[[Patch], None]


class Bug(NamedTuple):
    """`rows` are those of the list of old bugs (tests/raft/testdata/README.md) that it stands for.

    What is known to see it: the transcript that is about it; a beginning of the model check, with words of
    the law that is broken; test modules; and, but for what it does not do yet (`simulated`), the simulator.
    """

    name: str
    says: str
    rows: tuple[int, ...]
    plant: Plant
    script: str
    scope: str
    law: str
    tests: tuple[str, ...]
    simulated: bool

    @property
    def killers(self) -> tuple[str, ...]:
        """What can meet it at all, by the names in `killers.py`."""
        core = self.script or self.scope or self.plant.__module__.endswith((".core", ".leading"))
        of_core = ("transcripts", "model") if core else ()
        return (*of_core, *(("tests",) if self.tests else ()), *(("simulator",) if self.simulated else ()))


def bug(
    *rows: int,
    script: str = "",
    scope: str = "",
    law: str = "",
    tests: tuple[str, ...] = (),
    simulated: bool = True,
) -> Callable[[Plant], Bug]:
    """Makes a bug of a function: its name, and the first line of what it says of itself."""

    def made(plant: Plant) -> Bug:
        says = (inspect.getdoc(plant) or "").splitlines()[0]
        return Bug(plant.__name__.replace("_", "-"), says, rows, plant, script, scope, law, tests, simulated)

    return made


def found_in(modules: tuple[ModuleType, ...]) -> dict[str, Bug]:
    """The bugs of these modules by name, in the order in which they are written."""
    bugs: dict[str, Bug] = {}
    for module in modules:
        for thing in vars(module).values():
            if isinstance(thing, Bug):
                assert thing.name not in bugs, f"two bugs are called {thing.name}"
                bugs[thing.name] = thing
    return bugs


@contextmanager
def planted(bug: Bug | None) -> Iterator[None]:
    """The bug is there inside; with None nothing is."""
    with pytest.MonkeyPatch.context() as patch:
        if bug is not None:
            bug.plant(patch)
        yield
