"""The bytes of one file -> plain values, bounded. Knows JSON and YAML, and nothing of our keys.

YAML is read from libyaml's events, not through a constructor: no tags, no aliases (a few lines of them
unfold to gigabytes), one document, no key twice. Plain scalars follow YAML 1.2: only true, false, null and
numbers are not text, so `no`, `12:30` and `2026-01-01` mean what they look like.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from math import isfinite
from typing import Any, Literal

import yaml

from gemot.agent.config.fault import MAX_FAULTS

Form = Literal["json", "yaml"]

MAX_BYTES = 4 * 2**20
MAX_DEPTH = 32
MAX_VALUES = 200_000

_INT = re.compile(r"[-+]?(0|[1-9][0-9]{0,39})\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]{1,40}|(0|[1-9][0-9]{0,39})(\.[0-9]{0,40})?)([eE][-+]?[0-9]{1,3})?\Z")
_WORDS: dict[str, object] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip


class Unreadable(Exception):
    """The text is not a document we take; each message says where and why."""

    def __init__(self, *messages: str) -> None:
        super().__init__("\n".join(messages))
        self.messages = messages


def parse(data: bytes, form: Form) -> dict[str, Any]:
    """The document's map. Raises Unreadable; an empty document is an empty map."""
    if len(data) > MAX_BYTES:
        raise Unreadable(f"the file has more than {MAX_BYTES} bytes, the most that is read: split it")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unreadable(f"not UTF-8 text: byte {error.start} is 0x{data[error.start]:02x}") from None
    if not text.strip():
        return {}
    value = _json(text) if form == "json" else _yaml(text)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Unreadable("the file must hold a map of keys to values")
    _check_bounds(value)
    return value


def _json(text: str) -> object:
    doubled: list[_Doubled] = []

    def build(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) == len(pairs):
            return found
        doubled.append(_Doubled(pairs))
        return doubled[-1]

    try:
        value: object = json.loads(text, object_pairs_hook=build, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise Unreadable(f"not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise Unreadable(f"nested deeper than {MAX_DEPTH} levels") from None
    except ValueError:  # a number with thousands of digits
        raise Unreadable("not JSON: a number is too long") from None
    if doubled:
        raise Unreadable(*_first_of(_told_of_doubled(value, "", 1)))
    return value


class _Doubled(dict[str, object]):
    """A map with keys that stand in it more than once. Where it is itself is not known while it is read."""

    def __init__(self, pairs: list[tuple[str, object]]) -> None:
        super().__init__(pairs)
        self.pairs = pairs


def _told_of_doubled(value: object, place: str, depth: int) -> Iterator[str]:
    """Each doubled key with the map that holds it, those within the value of another one, too."""
    if depth > MAX_DEPTH:
        return
    if isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _told_of_doubled(inner, f"{place}[{number}]", depth + 1)
    elif isinstance(value, dict):
        pairs = value.pairs if isinstance(value, _Doubled) else list(value.items())
        counts = Counter(key for key, _ in pairs)
        yield from (_doubled(place, key, count) for key, count in counts.items() if count > 1)
        for key, inner in pairs:
            yield from _told_of_doubled(inner, f"{place}.{key[:80]}" if place else key[:80], depth + 1)


def _doubled(place: str, key: str, count: int = 2) -> str:
    often = "twice" if count == 2 else f"{count} times"
    return (f"{place}: " if place else "") + f"the key {json.dumps(key[:80])} stands {often} in one map"


def _first_of(messages: Iterable[str]) -> list[str]:
    found = list(islice(messages, MAX_FAULTS + 1))
    if len(found) > MAX_FAULTS:
        found[-1] = f"these are the first {MAX_FAULTS} mistakes; more follow"
    return found


def _no_constant(name: str) -> object:
    raise Unreadable(f"not JSON: {name} is not a number here")


def _yaml(text: str) -> object:
    builder = _Builder(yaml.parse(text, Loader=yaml.CSafeLoader))
    try:
        value = _yaml_value(text, builder)
    except Unreadable as error:
        raise Unreadable(*_first_of([*builder.doubled, *error.messages])) from None
    if builder.doubled:
        raise Unreadable(*_first_of(builder.doubled))
    return value


def _yaml_value(text: str, builder: _Builder) -> object:
    try:
        return builder.document()
    except yaml.MarkedYAMLError as error:
        if "maximum nesting depth" in str(error.problem):  # libyaml's own limit, met while it looks ahead
            raise Unreadable(f"nested deeper than {MAX_DEPTH} levels") from None
        raise Unreadable(f"not YAML: {_explain(text, error)}") from None
    except (yaml.YAMLError, UnicodeEncodeError, ValueError):
        raise Unreadable("not YAML: it holds characters that YAML does not allow") from None


def _explain(text: str, error: yaml.MarkedYAMLError) -> str:
    """What libyaml says and where; and what it began with, when that is elsewhere."""
    mark, start = error.problem_mark, error.context_mark
    if mark is None:
        return str(error.problem or error.context)
    where = f"at line {mark.line + 1}, column {mark.column + 1}"
    line = text.split("\n")[mark.line] if mark.line <= text.count("\n") else ""
    indentation = line[: len(line) - len(line.lstrip())]
    if "\t" in indentation or line[mark.column : mark.column + 1] == "\t":
        return f"a tab stands {where}: indent with spaces"
    begun = (
        f", {error.context} that begins at line {start.line + 1}" if start and start.line != mark.line else ""
    )
    return f"{error.problem or error.context} {where}{begun}"


class _Builder:
    """Values from events. Depth and count are looked at before anything is built."""

    def __init__(self, events: Iterator[yaml.Event]) -> None:
        self._events = events
        self._values = 0
        self.doubled: list[str] = []
        """What is to be told of keys that stand twice in one map, found so far."""

    def document(self) -> object:
        value: object = None
        documents = 0
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise Unreadable(f"a second document starts at line {_line(event)}: one is taken")
                value = self._value(next(self._events), 1)
        return value

    def _value(self, event: yaml.Event, depth: int) -> object:
        self._admit(event, depth)
        if isinstance(event, yaml.ScalarEvent):
            return _scalar(event.value) if event.implicit[0] else event.value
        if isinstance(event, yaml.SequenceStartEvent):
            return self._list(depth)
        return self._map(depth)

    def _admit(self, event: yaml.Event, depth: int) -> None:
        self._values += 1
        if self._values > MAX_VALUES:
            raise Unreadable(f"more than {MAX_VALUES} values")
        if depth > MAX_DEPTH:
            raise Unreadable(f"line {_line(event)}: nested deeper than {MAX_DEPTH} levels")
        if isinstance(event, yaml.AliasEvent):
            name = str(event.anchor)[:40]
            raise Unreadable(f"line {_line(event)}: aliases (*{name}) are not taken: write it out")
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise Unreadable(f"line {_line(event)}: tags ({tag[:60]}) are not taken")

    def _list(self, depth: int) -> list[object]:
        found: list[object] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            found.append(self._value(event, depth + 1))
        return found

    def _map(self, depth: int) -> dict[str, object]:
        found: dict[str, object] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            self._admit(event, depth)
            if not isinstance(event, yaml.ScalarEvent):
                raise Unreadable(f"line {_line(event)}: a key must be text")
            key = event.value
            if key in found and len(self.doubled) <= MAX_FAULTS:
                self.doubled.append(_doubled(f"line {_line(event)}", key))
            found[key] = self._value(next(self._events), depth + 1)
        return found


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 0


def _scalar(text: str) -> object:
    """A plain scalar by YAML 1.2's core rules; 0644 stays text, since readers differ on what it is."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.match(text):
        return int(text)
    if _FLOAT.match(text):
        return float(text)
    return text


def _check_bounds(root: dict[str, Any]) -> None:
    """Both forms: depth, count, finite numbers, and text that can be stored (no NUL, no half surrogates)."""
    level: list[object] = [root]
    count = 0
    for _ in range(MAX_DEPTH):
        count += len(level)
        if count > MAX_VALUES:
            raise Unreadable(f"more than {MAX_VALUES} values")
        level = [inner for value in level for inner in _inside(value)]
        if not level:
            return
    raise Unreadable(f"nested deeper than {MAX_DEPTH} levels")


def _inside(value: object) -> Iterator[object]:
    if isinstance(value, dict):
        for key, inner in value.items():
            _check_text(key)
            yield inner
    elif isinstance(value, list):
        yield from value
    elif isinstance(value, str):
        _check_text(value)
    elif isinstance(value, float) and not isfinite(value):
        raise Unreadable("a number is too large")


def _check_text(text: str) -> None:
    if text.isascii():
        bad = "\0" in text
    else:
        bad = "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text)
    if bad:
        raise Unreadable(f"the text {json.dumps(text[:60])} holds a character that cannot be stored")
