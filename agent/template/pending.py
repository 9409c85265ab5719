"""What stands in a template for an answer that is not here yet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jinja2 import StrictUndefined


class Unresolved(Exception):
    """The evaluation cannot go on before an answer comes. Not a failure."""


class Pending(StrictUndefined):
    """In place of an answer that is not here yet. Inherits because Jinja2 knows its undefined by type."""

    def __init__(self) -> None:
        super().__init__(exc=Unresolved)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        return iter(())

    def __getattr__(self, name: str) -> Pending:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __getitem__(self, name: object) -> Pending:  # type: ignore[override]
        return self
