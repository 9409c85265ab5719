"""Reads one JSON or configuration object field by field, by any spelling of its names.

Consul's API writes `ServiceID`, its configuration files `service_id`, and many clients `serviceid`: a name
counts without its case and underscores. Every value is checked and bounded as it is taken; a mistake is a
BadRequest that names the field. Not a schema: what the values mean is the caller's.

Over HTTP the first mistake is raised, in Consul's words, which clients match. Whoever wrote a file wants to
hear of all of them: there a value that cannot be used is noted and read as if it were absent, and `end`
raises what was noted, each with its path inside the object.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import TypeVar

from gemot.agent.duration import parse_duration
from gemot.server.model.errors import BadRequest, GemotError

MAX_TEXT_BYTES = 4096
MAX_ITEMS = 1024
LEAST_NS = 1_000_000
"""A number below that is not believed in a file: whoever writes `interval: 10` does not mean 10 ns."""

_MAX_INT = (1 << 63) - 1
_NONE: Mapping[str, str] = {}

T = TypeVar("T")


class Mistakes(BadRequest):
    """What is wrong with one object of a file: for each mistake its path inside the object, and why."""

    code = "mistakes"

    def __init__(self, message: str, found: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(message)
        self.found = found

    @classmethod
    def of(cls, found: Iterable[tuple[str, str]]) -> Mistakes:
        told = tuple(dict.fromkeys(found))
        return cls("; ".join(f"{path}: {why}" if path else why for path, why in told), told)


def plain(name: str) -> str:
    """The name without its case and underscores."""
    return name.replace("_", "").lower()


def names(*words: str) -> dict[str, str]:
    """The names in these texts, separated by spaces and spelled as files spell them, by their plain form."""
    return {plain(name): name for text in words for name in text.split()}


class Fields:
    """One object, of a file or of a request. `what` leads the messages over HTTP."""

    def __init__(
        self,
        raw: object,
        *,
        known: Mapping[str, str],
        ignored: Mapping[str, str] = _NONE,
        what: str = "Request decode failed",
        in_file: bool = False,
    ) -> None:
        self.in_file = in_file
        self._object = "a map" if in_file else "an object"
        self._what = what
        self._known = known
        self._mistakes: list[tuple[str, str]] = []
        self._values: dict[str, object] = {}
        self.ignored: tuple[str, ...] = ()
        if not isinstance(raw, dict):
            self._refuse("", f"want {self._object}, not {self._kind(raw)}")
            self.end()
            return
        for name, value in raw.items():
            key = plain(str(name))
            if key in known:
                self._values[key] = value
            elif key not in ignored:
                self._refuse_unknown(str(name)[:64])
            elif value not in (None, "", [], {}, False):
                self.ignored += (str(name),)

    def refuse(self, name: str, why: str, *, error: type[GemotError] = BadRequest) -> None:
        """This value of a field cannot be used: an `error` at once, or noted, the first of each path."""
        if not self.in_file:
            raise error(why)
        if not self.refused(name):
            self._mistakes.append((self._path(name), why))

    def refused(self, *names: str) -> bool:
        """Whether one of these fields was refused, so that what follows from its value says nothing."""
        paths = set(map(self._path, names))
        return any(path in paths for path, _ in self._mistakes)

    def mistake(self, name: str, text: str, *, mark: str = "", path: str = "") -> None:
        """As `refuse`, where Consul's decoder would: `mark` stands between the field's name and the text."""
        self.refuse(path or name, text if self.in_file else f"{self._what}: field {name}{mark} {text}")

    def inside(self, path: str, read: Callable[[], T]) -> T | None:
        """What `read` gives of an object inside this one, or None with its mistakes noted."""
        try:
            return read()
        except Mistakes as error:
            self._mistakes += ((f"{path}.{below}" if below else path, why) for below, why in error.found)
            return None

    def end(self) -> None:
        """Raise Mistakes if any were noted."""
        if self._mistakes:
            raise Mistakes.of(self._mistakes)

    def _kind(self, value: object) -> str:
        if value is None:
            return "null"
        if isinstance(value, bool):
            return "true or false"
        if isinstance(value, str):
            return "a text"
        if isinstance(value, int | float):
            return "a number"
        return "a list" if isinstance(value, list | tuple) else self._object

    def _path(self, name: str) -> str:
        return self._known.get(plain(name), name)

    def _refuse(self, path: str, text: str) -> None:
        self.refuse(path, text if self.in_file else f"{self._what}: {text}")

    def _refuse_unknown(self, name: str) -> None:
        if not self.in_file:
            self._refuse("", f'json: unknown field "{name}"')
        near = get_close_matches(plain(name), self._known, n=1)
        self.refuse(name, "unknown field" + (f"; did you mean {self._known[near[0]]}?" if near else ""))

    def raw(self, name: str) -> object:
        return self._values.get(plain(name))

    def text(self, name: str, *, limit: int = MAX_TEXT_BYTES) -> str:
        value = self.raw(name)
        return "" if value is None else self._text(name, value, limit)

    def _text(self, name: str, value: object, limit: int) -> str:
        if not isinstance(value, str):
            self.mistake(name, f"wants a text, not {self._kind(value)}")
            return ""
        size = len(value.encode("utf-8", "surrogatepass"))
        if size > limit:
            self.mistake(name, f"is {size} bytes long, the limit is {limit}: use a shorter text")
        elif not _is_unicode(value):
            self.mistake(name, "holds half of a surrogate pair: write valid Unicode")
        else:
            return value
        return ""

    def number(self, name: str, default: int = 0) -> int:
        value = self.raw(name)
        if value is None:
            return default
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            self.mistake(name, f"wants a whole number, not {self._kind(value)}")
        elif not -_MAX_INT <= value <= _MAX_INT:
            self.mistake(name, "does not fit 64 bits")
        else:
            return value
        return default

    def flag(self, name: str) -> bool:
        value = self.raw(name)
        if value is not None and not isinstance(value, bool):
            self.mistake(name, f"wants true or false, not {self._kind(value)}")
        return value is True

    def duration_s(self, name: str) -> float:
        """Seconds, 0 or more, from a Go duration text or a number of nanoseconds."""
        value = self.raw(name)
        if value is None or value == "":
            return 0.0
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            self.mistake(name, f"wants a duration such as 10s, not {self._kind(value)}")
            return 0.0
        if self.in_file and isinstance(value, int) and 0 < value < LEAST_NS:
            self.mistake(name, f"wants a duration such as 10s: the number {value} counts nanoseconds")
            return 0.0
        try:
            seconds = parse_duration(value)
        except BadRequest as error:
            self.mistake(name, error.message, mark=":")
            return 0.0
        if seconds < 0:
            self.mistake(name, "must not be negative")
        return max(0.0, seconds)

    def items(self, name: str, *, limit: int = MAX_ITEMS) -> tuple[object, ...]:
        value = self.raw(name)
        if value is None:
            return ()
        if not isinstance(value, list | tuple):
            self.mistake(name, f"wants a list, not {self._kind(value)}")
        elif len(value) > limit:
            self.mistake(name, f"has {len(value)} entries, the limit is {limit}")
        else:
            return tuple(value)
        return ()

    def texts(self, name: str, *, limit: int = MAX_ITEMS, each: int = MAX_TEXT_BYTES) -> tuple[str, ...]:
        return tuple(self._text(name, item, each) for item in self.items(name, limit=limit))

    def table(self, name: str, *, limit: int = MAX_ITEMS) -> dict[str, object]:
        value = self.raw(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.mistake(name, f"wants {self._object}, not {self._kind(value)}")
        elif len(value) > limit:
            self.mistake(name, f"has {len(value)} entries, the limit is {limit}")
        else:
            return {self._text(name, key, MAX_TEXT_BYTES): entry for key, entry in value.items()}
        return {}

    def default_only(self, *names: str) -> None:
        """Refuse another namespace or partition than our only one: ignoring it would mix them up."""
        for name in names:
            value = self.text(name)
            if value.lower() not in ("", "default"):
                self.mistake(name, "only the default one exists, leave the field out", mark=":")


def _is_unicode(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= mark <= "\udfff" for mark in text)
