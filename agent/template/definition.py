"""One template as its owner defines it, and the reading of that definition.

Keys are those of consul-template's `template` block, so that a configuration carries over; the language of
the template itself is Jinja2, and `error_on_missing_key` is true unless it is turned off.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from gemot.agent.duration import parse_duration
from gemot.agent.fields import LEAST_NS, Mistakes
from gemot.server.model.errors import BadRequest

MAX_PATH_BYTES = 4096
MAX_ARGS = 256
MAX_ARG_BYTES = 131_072  # Linux: MAX_ARG_STRLEN, the longest single argument that exec takes
MAX_CONTENTS_BYTES = 1024 * 1024
MAX_DELIMITER = 16
MAX_SECONDS = 3600.0
DEFAULT_TIMEOUT_S = 30.0

_READ_MODES = (0o400, 0o440, 0o444, 0o600, 0o640, 0o644, 0o660, 0o664, 0o666)
_RUN_MODES = (0o500, 0o550, 0o555, 0o700, 0o710, 0o711, 0o750, 0o751, 0o755, 0o770, 0o771, 0o775, 0o777)
COMMON_MODES = frozenset((*_READ_MODES, *_RUN_MODES))
"""Modes believed when they come as a number: no decimal spelling of one of them is another of them, so a
`644` that lost its leading zero is refused and not taken for 01204."""


class Wait(msgspec.Struct, frozen=True):
    """How long changes must have been quiet before a template renders again, and the longest delay."""

    min_s: float = 0.0
    max_s: float = 0.0


class TemplateDefinition(msgspec.Struct, frozen=True, kw_only=True):
    """What to render, where to, and what to run when the file changed.

    Exactly one of `source` (a file) and `contents` is set. `perms` None keeps the mode of the existing file,
    0644 for a new one; `user` and `group` "" keep the owner. `command` is an argument list, empty for none.
    """

    destination: str
    source: str = ""
    contents: str = ""
    create_dest_dirs: bool = True
    perms: int | None = None
    user: str = ""
    group: str = ""
    command: tuple[str, ...] = ()
    command_timeout_s: float = DEFAULT_TIMEOUT_S
    wait: Wait = Wait()
    left_delimiter: str = "{{"
    right_delimiter: str = "}}"
    error_on_missing_key: bool = True
    backup: bool = False

    @property
    def name(self) -> str:
        """What messages call it: the source file, or the destination of a template given in place."""
        return self.source or f"contents of {self.destination}"

    @property
    def id(self) -> str:
        """Names the destination in file names."""
        return hashlib.sha256(self.destination.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def parse_template(raw: object) -> TemplateDefinition:
    """The definition in a decoded configuration value. Raises Mistakes with every fault."""
    if not isinstance(raw, dict):
        raise BadRequest(f"a template is a map with source, destination, ...; got {_kind(raw)}")
    faults: list[tuple[str, str]] = []
    found: dict[str, Any] = {}
    for key, value in raw.items():
        reader = READERS.get(key) if isinstance(key, str) else None
        if reader is None:
            faults.append((str(key)[:80], _unknown(str(key)[:80])))
            continue
        if value is None:
            continue
        name, read = reader
        try:
            found[name] = read(value)
        except BadRequest as error:
            faults.append((key, error.message))
    faults += _check_whole(raw, found)
    if faults:
        raise Mistakes.of(faults)
    return TemplateDefinition(**found)


def check_together(definitions: Sequence[TemplateDefinition]) -> None:
    """Raise BadRequest if two of them write one file, or one writes what another reads as its source."""
    writers: dict[str, str] = {}
    for definition in definitions:
        if definition.destination in writers:
            raise BadRequest(
                f"templates: {writers[definition.destination]} and {definition.name} have the same "
                f"destination {definition.destination}: give each its own"
            )
        writers[definition.destination] = definition.name
    for definition in definitions:
        if definition.source in writers:
            raise BadRequest(
                f"templates: {definition.source} is the source of one template and the destination of "
                f"{writers[definition.source]}: rendering would overwrite a template"
            )


def _check_whole(raw: dict[Any, Any], found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    given = [key for key in ("source", "contents") if raw.get(key) is not None]
    if not given:
        yield "source", "is missing: name the template's file, or give its text as contents"
    if len(given) == 2:
        yield "", "source and contents are both set: keep one of them"
    if raw.get("destination") is None:
        yield "destination", "is missing: name the file to write"
    if found.get("left_delimiter", "{{") == found.get("right_delimiter", "}}"):
        yield "", "left_delimiter and right_delimiter are the same: they must differ"
    if "command_timeout_s" in found and not found.get("command") and raw.get("command") is None:
        yield "command_timeout", "is set without a command"


def _unknown(key: str) -> str:
    near = difflib.get_close_matches(key, READERS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(READERS)}"
    return f"is not a key of a template; {hint}"


def _kind(value: object) -> str:
    names = {
        bool: "true/false",
        str: "text",
        int: "a number",
        float: "a number",
        list: "a list",
        dict: "a map",
    }
    return names.get(type(value), type(value).__name__)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise BadRequest(f"must be text, got {_kind(value)}")
    if "\0" in value:
        raise BadRequest("must not hold a NUL character")
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise BadRequest(f"must be true or false, got {_kind(value)}")
    return value


def _path(value: object) -> str:
    path = _text(value)
    if not path.startswith("/"):
        raise BadRequest(f"must be an absolute path, got {path[:200]!r}")
    if len(path.encode("utf-8", "surrogateescape")) > MAX_PATH_BYTES:
        raise BadRequest(f"is longer than {MAX_PATH_BYTES} bytes")
    return re.sub("/{2,}", "/", path)


def _destination(value: object) -> str:
    path = _path(value)
    if path.endswith(("/", "/.", "/..")):
        raise BadRequest(f"names a directory, not a file: {path[:200]!r}")
    return path


def _contents(value: object) -> str:
    text = _text(value)
    if len(text.encode("utf-8", "surrogateescape")) > MAX_CONTENTS_BYTES:
        raise BadRequest(f"is larger than {MAX_CONTENTS_BYTES} bytes, the limit of a template")
    return text


def _perms(value: object) -> int:
    if isinstance(value, str):
        text = value.removeprefix("0o")
        if re.fullmatch("0?[0-7]{3}", text):
            return int(text, 8)
        raise BadRequest(f'must be an octal mode from "0000" to "0777", got {value[:40]!r}')
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadRequest(f'must be an octal mode as text, such as "0644", got {_kind(value)}')
    if value not in COMMON_MODES:
        raise BadRequest(
            f'{value} read as a number is mode {value:04o}: write the mode as text, such as "0644"'
        )
    return value


def _account(value: object) -> str:
    """A user or group: a name, or a number (kept as its digits)."""
    if isinstance(value, int) and not isinstance(value, bool):
        if not 0 <= value < 2**32 - 1:
            raise BadRequest(f"id {value} is out of range (0 to {2**32 - 2})")
        return str(value)
    text = _text(value)
    if len(text) > 256:
        raise BadRequest("is longer than 256 characters")
    return text


def _command(value: object) -> tuple[str, ...]:
    """Empty text is consul-template's own word for none, and carries over; an empty list is a slip."""
    if isinstance(value, str):
        line = _argument(value)
        return ("/bin/sh", "-c", line) if line.strip() else ()
    if not isinstance(value, (list, tuple)):
        raise BadRequest(f"must be a list of arguments, or one line of shell as text; got {_kind(value)}")
    if len(value) > MAX_ARGS:
        raise BadRequest(f"has {len(value)} arguments, the limit is {MAX_ARGS}")
    command = tuple(_argument(argument) for argument in value)
    if not command:
        raise BadRequest(
            "is an empty list: name the program and its arguments, or leave it out to run nothing"
        )
    if not command[0]:
        raise BadRequest("the first argument, the program, is empty")
    return command


def _argument(value: object) -> str:
    text = _text(value)
    if len(text.encode("utf-8", "surrogateescape")) >= MAX_ARG_BYTES:
        raise BadRequest(f"an argument is longer than {MAX_ARG_BYTES - 1} bytes")
    return text


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise BadRequest(f"must be a duration such as 10s, got {_kind(value)}")
    if isinstance(value, int) and 0 < value < LEAST_NS:
        raise BadRequest(f"must be a duration such as 10s: the number {value} counts nanoseconds")
    seconds = parse_duration(value)
    if not 0 <= seconds <= MAX_SECONDS:
        raise BadRequest(f"{value} is out of range (0s to {int(MAX_SECONDS)}s)")
    return seconds


def _timeout(value: object) -> float:
    seconds = _seconds(value)
    if seconds < 0.001:
        raise BadRequest(f"{value} is too short: at least 1ms")
    return seconds


def _wait(value: object) -> Wait:
    """A map of min and max, or "min:max", or "min"; max is 4 x min when it is not given."""
    if isinstance(value, (list, tuple)) and len(value) == 1:
        value = value[0]  # HCL gives a block as a list of one map
    if isinstance(value, str):
        least, colon, most = value.partition(":")
        value = {"min": least, "max": most} if colon else {"min": least}
    if not isinstance(value, dict):
        raise BadRequest(f'must be a map of min and max, or text "min:max", got {_kind(value)}')
    unknown = sorted(str(key)[:80] for key in value if key not in ("min", "max"))
    if unknown:
        raise BadRequest(f"{', '.join(unknown)}: unknown; a wait has min and max")
    if value.get("min") is None:
        raise BadRequest("min is missing")
    min_s = _seconds(value["min"])
    max_s = _seconds(value["max"]) if value.get("max") is not None else 4 * min_s
    if max_s < min_s:
        raise BadRequest(f"max ({max_s:g}s) is less than min ({min_s:g}s)")
    return Wait(min_s, max_s)


def _delimiter(value: object) -> str:
    text = _text(value)
    if not 1 <= len(text) <= MAX_DELIMITER or text != text.strip():
        raise BadRequest(f"must be 1 to {MAX_DELIMITER} characters without space around, got {text[:40]!r}")
    if text in ("{%", "%}", "{#", "#}"):
        raise BadRequest(f"{text!r} already marks statements or comments: take another")
    return text


READERS: dict[str, tuple[str, Callable[[object], object]]] = {
    "source": ("source", _path),
    "contents": ("contents", _contents),
    "destination": ("destination", _destination),
    "create_dest_dirs": ("create_dest_dirs", _flag),
    "perms": ("perms", _perms),
    "user": ("user", _account),
    "group": ("group", _account),
    "command": ("command", _command),
    "command_timeout": ("command_timeout_s", _timeout),
    "wait": ("wait", _wait),
    "left_delimiter": ("left_delimiter", _delimiter),
    "right_delimiter": ("right_delimiter", _delimiter),
    "error_on_missing_key": ("error_on_missing_key", _flag),
    "backup": ("backup", _flag),
}
"""For each key of the configuration: the field it fills, and what reads it."""
