"""Reads one JSON or configuration object field by field, by any spelling of its names.

Consul's API writes `ServiceID`, its configuration files `service_id`, and many clients `serviceid`: a name
counts without its case and underscores. Every value is checked and bounded as it is taken; a mistake is a
BadRequest that names the field. Not a schema: what the values mean is the caller's.
"""

from __future__ import annotations

from gemot.agent.duration import parse_duration
from gemot.server.model.errors import BadRequest

MAX_TEXT_BYTES = 4096
MAX_ITEMS = 1024
_MAX_INT = (1 << 63) - 1


def plain(name: str) -> str:
    """The name without its case and underscores."""
    return name.replace("_", "").lower()


def names(*words: str) -> frozenset[str]:
    """The names in these texts, separated by spaces and already plain."""
    return frozenset(name for text in words for name in text.split())


class Fields:
    """One object. `what` leads every message ("Request decode failed", or where in the configuration)."""

    def __init__(self, raw: object, *, what: str, known: frozenset[str], ignored: frozenset[str]) -> None:
        self._what = what
        if not isinstance(raw, dict):
            raise self.mistake(f"want an object, not {_kind(raw)}")
        self._values: dict[str, object] = {}
        self.ignored: tuple[str, ...] = ()
        for name, value in raw.items():
            key = plain(str(name))
            if key in known:
                self._values[key] = value
            elif key not in ignored:
                raise self.mistake(f'json: unknown field "{str(name)[:64]}"')
            elif value not in (None, "", [], {}, False):
                self.ignored += (str(name),)

    def mistake(self, text: str) -> BadRequest:
        return BadRequest(f"{self._what}: {text}")

    def raw(self, name: str) -> object:
        return self._values.get(plain(name))

    def text(self, name: str, *, limit: int = MAX_TEXT_BYTES) -> str:
        value = self.raw(name)
        return "" if value is None else self._text(name, value, limit)

    def _text(self, name: str, value: object, limit: int) -> str:
        if not isinstance(value, str):
            raise self.mistake(f"field {name} wants a text, not {_kind(value)}")
        size = len(value.encode("utf-8", "surrogatepass"))
        if size > limit:
            raise self.mistake(f"field {name} is {size} bytes long, the limit is {limit}: use a shorter text")
        if not _is_unicode(value):
            raise self.mistake(f"field {name} holds half of a surrogate pair: write valid Unicode")
        return value

    def number(self, name: str, default: int = 0) -> int:
        value = self.raw(name)
        if value is None:
            return default
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.mistake(f"field {name} wants a whole number, not {_kind(value)}")
        if not -_MAX_INT <= value <= _MAX_INT:
            raise self.mistake(f"field {name} does not fit 64 bits")
        return value

    def flag(self, name: str) -> bool:
        value = self.raw(name)
        if value is None:
            return False
        if not isinstance(value, bool):
            raise self.mistake(f"field {name} wants true or false, not {_kind(value)}")
        return value

    def duration_s(self, name: str) -> float:
        """Seconds, 0 or more, from a Go duration text or a number of nanoseconds."""
        value = self.raw(name)
        if value is None or value == "":
            return 0.0
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            raise self.mistake(f"field {name} wants a duration such as 10s, not {_kind(value)}")
        try:
            seconds = parse_duration(value)
        except BadRequest as error:
            raise self.mistake(f"field {name}: {error.message}") from error
        if seconds < 0:
            raise self.mistake(f"field {name} must not be negative")
        return seconds

    def items(self, name: str, *, limit: int = MAX_ITEMS) -> tuple[object, ...]:
        value = self.raw(name)
        if value is None:
            return ()
        if not isinstance(value, list | tuple):
            raise self.mistake(f"field {name} wants a list, not {_kind(value)}")
        if len(value) > limit:
            raise self.mistake(f"field {name} has {len(value)} entries, the limit is {limit}")
        return tuple(value)

    def texts(self, name: str, *, limit: int = MAX_ITEMS, each: int = MAX_TEXT_BYTES) -> tuple[str, ...]:
        return tuple(self._text(name, item, each) for item in self.items(name, limit=limit))

    def table(self, name: str, *, limit: int = MAX_ITEMS) -> dict[str, object]:
        value = self.raw(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.mistake(f"field {name} wants an object, not {_kind(value)}")
        if len(value) > limit:
            raise self.mistake(f"field {name} has {len(value)} entries, the limit is {limit}")
        return {self._text(name, key, MAX_TEXT_BYTES): entry for key, entry in value.items()}

    def default_only(self, *names: str) -> None:
        """Refuse another namespace or partition than our only one: ignoring it would mix them up."""
        for name in names:
            value = self.text(name)
            if value.lower() not in ("", "default"):
                raise self.mistake(f"field {name}: only the default one exists, leave the field out")


def _is_unicode(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= mark <= "\udfff" for mark in text)


def _kind(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, str):
        return "a text"
    if isinstance(value, int | float):
        return "a number"
    return "a list" if isinstance(value, list | tuple) else "an object"
