"""Log lines: Consul's format or one JSON object a line; to standard error, a file, and whoever follows.

A line is `2026-01-31T12:00:00.000Z [INFO]  agent: message: key=value`; the message's first words are the
event's stable name.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable

TRACE = 5
LEVELS = {
    "TRACE": TRACE,
    "DEBUG": logging.DEBUG,
    "INFO": logging.INFO,
    "WARN": logging.WARNING,
    "ERROR": logging.ERROR,
}
_NOBODY = logging.CRITICAL + 1
_NAMES = {TRACE: "TRACE", logging.WARNING: "WARN", logging.CRITICAL: "ERROR"}


def setup(*, level: str, as_json: bool, file: str) -> None:
    """Send this process's log where the configuration says. Raises OSError if the file cannot be opened."""
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if file:
        handlers.append(logging.FileHandler(file))
    for handler in handlers:
        handler.setFormatter(JsonLines() if as_json else PlainLines())
    root = logging.getLogger()
    root.handlers = handlers
    set_level(level)


def set_level(level: str) -> None:
    """Also while running: a reload may change it. Who follows the log at a finer level still does."""
    root = logging.getLogger()
    for handler in root.handlers:
        if isinstance(handler.formatter, PlainLines | JsonLines):
            handler.setLevel(LEVELS[level])
    root.setLevel(max(LEVELS[level], logging.INFO))
    _open()


def _open() -> None:
    """Let pass what any handler wants: each refuses by its own level what it does not."""
    levels = [
        handler.level
        for handler in logging.getLogger().handlers
        if isinstance(handler, Followers) or isinstance(handler.formatter, PlainLines | JsonLines)
    ]
    logging.getLogger("gemot").setLevel(min(levels, default=logging.INFO))


class PlainLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = _one_line(record.getMessage())
        if record.exc_info:
            text = f"{text}\n{self.formatException(record.exc_info)}"
        return f"{_stamp(record)} {'[' + _level(record) + ']':<7} {_part(record)}{text}"


class JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "@timestamp": _stamp(record),
            "@level": _level(record).lower(),
            "@module": record.name.removeprefix("gemot."),
            "@message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def _one_line(text: str) -> str:
    """What others sent (a check's output, a name) begins no line of its own, and colours no terminal."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


class Followers(logging.Handler):
    """Hands each line to whoever follows the log (`/v1/agent/monitor`), at any level they ask for."""

    def __init__(self) -> None:
        super().__init__(_NOBODY)
        self._following: dict[Callable[[logging.LogRecord], None], int] = {}

    def follow(self, told: Callable[[logging.LogRecord], None], level: int = TRACE) -> Callable[[], None]:
        """Call `told` for every record of `level` and above from now on; returns what ends it."""
        self._following[told] = level
        self._adjust()

        def end() -> None:
            self._following.pop(told, None)
            self._adjust()

        return end

    def emit(self, record: logging.LogRecord) -> None:
        for told, level in list(self._following.items()):
            if record.levelno >= level:
                told(record)

    def _adjust(self) -> None:
        self.setLevel(min(self._following.values(), default=_NOBODY))
        _open()


def _stamp(record: logging.LogRecord) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{whole}.{int(record.msecs):03d}Z"


def _level(record: logging.LogRecord) -> str:
    return _NAMES.get(record.levelno, record.levelname)


def _part(record: logging.LogRecord) -> str:
    """`agent: `, `agent.` before `sync: ...` and the like: the part, unless the message names it itself."""
    parts = record.name.removeprefix("gemot.").split(".")
    named = record.getMessage().partition(":")[0]
    if named not in parts:
        return f"{'.'.join(parts)}: "
    return "".join(f"{part}." for part in parts[: parts.index(named)])
