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
    """Also while running: a reload may change it."""
    logging.getLogger("gemot").setLevel(LEVELS[level])
    logging.getLogger().setLevel(max(LEVELS[level], logging.INFO))


class PlainLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
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
        return json.dumps(line, ensure_ascii=False)


class Followers(logging.Handler):
    """Hands each line to whoever follows the log (`/v1/agent/monitor`)."""

    def __init__(self) -> None:
        super().__init__(TRACE)
        self._following: dict[Callable[[logging.LogRecord], None], None] = {}

    def follow(self, told: Callable[[logging.LogRecord], None]) -> Callable[[], None]:
        """Call `told` for every record from now on; returns what ends it."""
        self._following[told] = None
        return lambda: self._following.pop(told, None) and None

    def emit(self, record: logging.LogRecord) -> None:
        for told in list(self._following):
            told(record)


def _stamp(record: logging.LogRecord) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{whole}.{int(record.msecs):03d}Z"


def _level(record: logging.LogRecord) -> str:
    return _NAMES.get(record.levelno, record.levelname)


def _part(record: logging.LogRecord) -> str:
    """`agent: ` and the like, unless the message names its part itself."""
    part = record.name.removeprefix("gemot.")
    return "" if record.getMessage().startswith(f"{part}:") else f"{part}: "
