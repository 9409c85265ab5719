"""One mistake in the configuration, and the error that carries all of them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from gemot.server.model.errors import BadRequest

EXIT_CODE = 78
"""What a program exits with on `ConfigFaults` (EX_CONFIG of sysexits.h)."""

MAX_FAULTS = 100
"""The most that are told of one source: whoever has more has the wrong file."""


class Fault(msgspec.Struct, frozen=True):
    """`source` is a file, or "command line"; `path` the key ("ports.http") or flag ("-http-port"), or ""."""

    source: str
    path: str
    message: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.source, self.path, self.message) if part)


class ConfigFaults(BadRequest):
    """The configuration cannot be used. `faults` has every mistake found; the message, a line for each.

    `warnings` are what would have been told without them, and may explain them.
    """

    code = "bad-configuration"

    def __init__(self, message: str, faults: tuple[Fault, ...] = (), warnings: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.faults = faults
        self.warnings = warnings


def refuse(faults: list[Fault], warnings: Sequence[str] = ()) -> None:
    """Raise ConfigFaults if there are any faults."""
    if faults:
        raise ConfigFaults("\n".join(str(fault) for fault in faults), tuple(faults), tuple(warnings))
