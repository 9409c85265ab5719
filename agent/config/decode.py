"""Plain values of one source -> values of the schema's types, with every fault and warning on the way.

A source is a file or the command line. What comes out is still a plain nested dict, by the schema's field
names, holding only what the source said: `merge.py` puts sources together. Null and "not there" are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from math import isfinite
from typing import Any, cast

import msgspec
from msgspec import inspect

from gemot.agent.config import known
from gemot.agent.config.fault import MAX_FAULTS, Fault
from gemot.agent.config.schema import Config
from gemot.agent.config.stanzas import KEYS, Kind, Stanza
from gemot.agent.duration import format_duration, parse_duration
from gemot.server.model.errors import BadRequest

_OTHER_SPELLINGS = {"ERR": "ERROR", "WARNING": "WARN"}
_SWITCHES = dict.fromkeys(("true", "yes", "on", "1"), "true") | dict.fromkeys(
    ("false", "no", "off", "0"), "false"
)
_MAX_SHOWN = 60
_EMPTY: tuple[object, ...] = (None, "", [], {})

_CONFIG = cast(inspect.StructType, inspect.type_info(Config))

Values = dict[str, Any]


class Decoded(msgspec.Struct, frozen=True):
    """`given` has the path of every value the source set, and whether sources add up there (lists, maps).

    `wrong` has the paths of the faults, as the schema and not as their writer spells them.
    """

    values: Values
    given: dict[str, bool]
    wrong: tuple[str, ...]
    stanzas: tuple[Stanza, ...]
    faults: tuple[Fault, ...]
    warnings: tuple[str, ...]


def decode(raw: dict[str, Any], source: str, spelling: dict[str, str] | None = None) -> Decoded:
    """Read one source. `spelling` says how its writer spelled a path (flags), for messages."""
    walk = _Walk(source, spelling or {})
    values = walk.root(raw)
    return Decoded(
        values, walk.given, tuple(walk.wrong), tuple(walk.stanzas), tuple(walk.faults), tuple(walk.warnings)
    )


class _Walk:
    """Goes through one source, keeping what it finds."""

    def __init__(self, source: str, spelling: dict[str, str]) -> None:
        self._source = source
        self._spelling = spelling
        self.given: dict[str, bool] = {}
        self.wrong: list[str] = []
        self.stanzas: list[Stanza] = []
        self.faults: list[Fault] = []
        self.warnings: list[str] = []

    def root(self, raw: dict[str, Any]) -> Values:
        rest: dict[str, Any] = {}
        for key, value in raw.items():
            kind = KEYS.get(key.lower())
            if kind is None:
                rest[key] = value
            elif value is not None:
                self._gather(kind, key, value)
        return self._struct(_CONFIG, rest, "")

    def _gather(self, kind: Kind, key: str, value: object) -> None:
        if isinstance(value, dict) and value and all(isinstance(inner, dict) for inner in value.values()):
            # A map of names to maps, as others write it.
            name = str(next(iter(value)))[:_MAX_SHOWN]
            self._fault(key, f'expected a list of maps ("- name: {name}"), got a map of maps')
            return
        for number, stanza in enumerate(value if isinstance(value, list) else [value]):
            path = f"{key}[{number}]" if isinstance(value, list) else key
            if isinstance(stanza, dict):
                self.stanzas.append(Stanza(kind, self._source, path, stanza))
            else:
                self._wrong(path, "a map", stanza)

    def _struct(self, kind: inspect.StructType, raw: dict[str, Any], at: str) -> Values:
        fields = {field.encode_name: field for field in kind.fields}
        siblings = (*fields, *known.names_under(at))
        values: Values = {}
        for written, value in raw.items():
            key = written if written in fields else written.lower()
            path = f"{at}.{key}" if at else key
            if key not in fields:
                self._unschemed(path, written, value, siblings)
            elif value is not None:
                self._field(values, fields[key], value, path)
        return values

    def _field(self, values: Values, field: inspect.Field, value: object, path: str) -> None:
        if field.name in values:
            self._fault(path, "is set twice in one map, once in other letters")
            return
        before = len(self.wrong)
        found = self._value(field.type, value, path)
        if isinstance(field.type, inspect.StructType):
            values[field.name] = found or {}
        elif len(self.wrong) == before:
            values[field.name] = found
            self.given[path] = isinstance(found, tuple | dict)

    def _value(self, kind: inspect.Type, value: object, path: str) -> object:
        match kind:
            case inspect.StructType():
                inner = _only_one(value)
                return (
                    self._struct(kind, inner, path)
                    if isinstance(inner, dict)
                    else self._wrong(path, "a map", value)
                )
            case inspect.VarTupleType(item_type=item):
                return self._list(item, value, path)
            case inspect.DictType(value_type=item):
                return self._map(item, value, path)
            case inspect.LiteralType(values=allowed):
                return self._one_of([str(word) for word in allowed], value, path)
            case inspect.BoolType():
                return value if isinstance(value, bool) else self._no_switch(value, path)
            case inspect.IntType():
                return self._whole(kind, value, path)
            case inspect.FloatType():
                return self._duration(kind, value, path)
            case inspect.StrType():
                return value if isinstance(value, str) else self._wrong(path, "text", value)
        raise AssertionError(f"{path}: the schema has a type that is not read here")

    def _no_switch(self, value: object, path: str) -> object:
        meant = _SWITCHES.get(value.lower()) if isinstance(value, str) else None
        hint = f": write {meant}, without quotes" if meant else ""
        self._fault(path, f"expected true or false, got {describe(value)}{hint}")
        return None

    def _list(self, item: inspect.Type, value: object, path: str) -> tuple[object, ...]:
        if not isinstance(value, list):
            hint = f": write [{value[:_MAX_SHOWN]}]" if isinstance(value, str) and value else ""
            self._fault(path, f"expected a list, got {describe(value)}{hint}")
            return ()
        return tuple(self._value(item, inner, f"{path}[{number}]") for number, inner in enumerate(value))

    def _map(self, item: inspect.Type, value: object, path: str) -> dict[str, object]:
        inner = _only_one(value)
        if not isinstance(inner, dict):
            self._wrong(path, "a map", value)
            return {}
        return {key: self._value(item, got, f"{path}.{key[:_MAX_SHOWN]}") for key, got in inner.items()}

    def _one_of(self, allowed: list[str], value: object, path: str) -> object:
        if isinstance(value, str):
            word = _OTHER_SPELLINGS.get(value.upper(), value.upper())
            if word in allowed:
                return word
        return self._wrong(path, "one of " + ", ".join(allowed), value)

    def _whole(self, kind: inspect.IntType, value: object, path: str) -> object:
        if not isinstance(value, int) or isinstance(value, bool):
            is_digits = isinstance(value, str) and value.removeprefix("-").isdecimal()
            hint = f": write {str(value)[:_MAX_SHOWN]}, without quotes" if is_digits else ""
            self._fault(path, f"expected a whole number, got {describe(value)}{hint}")
            return None
        return self._within(value, kind.ge, kind.le, str, path)

    def _duration(self, kind: inspect.FloatType, value: object, path: str) -> object:
        if not isinstance(value, str):
            return self._wrong(path, 'a duration such as "10s"', value)
        try:
            seconds = parse_duration(value)
        except BadRequest:
            return self._wrong(path, 'a duration such as "10s", "1m30s" or "250ms"', value)
        return self._within(seconds, kind.ge, kind.le, format_duration, path)

    def _within(
        self, value: float, low: float | None, high: float | None, spell: Callable[[Any], str], path: str
    ) -> float:
        if (low is not None and value < low) or (high is not None and value > high):
            off = " (-1 turns it off)" if path.startswith("ports.") else ""
            self._fault(path, f"must be from {spell(low)} to {spell(high)}{off}, got {spell(value)}")
        return value

    def _unschemed(self, path: str, written: str, value: object, siblings: tuple[str, ...]) -> None:
        """A key the schema lacks: known from Consul, or a mistake."""
        inside = _only_one(value)
        if known.has_under(path) and (isinstance(inside, dict) or known.verdict(path) is None):
            if isinstance(inside, dict):
                for key, inner in inside.items():
                    self._unschemed(f"{path}.{key.lower()}", key, inner, known.names_under(path))
            elif value not in _EMPTY:
                self._wrong(path, "a map", value)
            return
        word = known.verdict(path)
        if word is None:
            many = len(self.faults) >= MAX_FAULTS
            near = [] if many else get_close_matches(written.lower()[:_MAX_SHOWN], siblings, n=1)
            self._fault(path, "unknown key" + (f"; did you mean {near[0]}?" if near else ""))
        elif value in _EMPTY or any(value is fine or value == fine for fine in word.fine):
            return
        elif word.verdict == "refused":
            self._fault(path, f"refused: {word.why}")
        else:
            self.warnings.append(str(Fault(self._source, self._spell(path), f"ignored: {word.why}")))

    def _wrong(self, path: str, expected: str, value: object) -> object:
        self._fault(path, f"expected {expected}, got {describe(value)}")
        return None

    def _fault(self, path: str, message: str) -> None:
        self.wrong.append(path)
        if len(self.faults) == MAX_FAULTS:
            path, message = "", f"these are the first {MAX_FAULTS} mistakes; more follow"
        if len(self.faults) > MAX_FAULTS:
            return
        self.faults.append(Fault(self._source, self._spell(path), message))

    def _spell(self, path: str) -> str:
        return self._spelling.get(path, path)


def describe(value: object) -> str:
    """A wrong value in words, shortened."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return f"the number {str(value)[:_MAX_SHOWN]}" if isfinite(value) else "a number without end"
        case str():
            return f'the text "{value[:_MAX_SHOWN]}"'
        case dict():
            return "a map"
    return "a list"


def _only_one(value: object) -> object:
    """Consul's own files may wrap a map in a list of one (as its first file format did)."""
    return value[0] if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict) else value
