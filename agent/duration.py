"""Durations as Go writes them ("10s", "1m30s", "0.001s"): read in, and written out in one canonical form.

Consul's API, its configuration files and every client of both use this spelling. A whole number (not a
text) is a count of nanoseconds. Source: the `time` package of Go, ParseDuration and Duration.String.
"""

from __future__ import annotations

from gemot.server.model.errors import BadRequest

_UNIT_NS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_SECOND_NS = 1_000_000_000
_MAX_NS = (1 << 63) - 1
_MAX_TEXT = 64
_MAX_DIGITS = 19
_DIGITS = frozenset("0123456789")


def parse_duration(value: str | int) -> float:
    """Seconds, from a Go duration text or a whole number of nanoseconds. Raises BadRequest."""
    return parse_nanoseconds(value) / _SECOND_NS


def parse_nanoseconds(value: str | int) -> int:
    """As `parse_duration`, exact: nanoseconds that fit a signed 64-bit number."""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise BadRequest(f"time: invalid duration {value!r:.40}: want a text such as 10s, or nanoseconds")
    total = value if isinstance(value, int) else _parse_text(value)
    if not -_MAX_NS - 1 <= total <= _MAX_NS:
        raise BadRequest(f"time: invalid duration {_quote(value)}: more than 292 years")
    return total


def _parse_text(text: str) -> int:
    rest = text[1:] if text[:1] in ("+", "-") else text
    if rest == "0":
        return 0
    if not rest or len(text) > _MAX_TEXT:
        raise BadRequest(f"time: invalid duration {_quote(text)}")
    total, at = 0, 0
    while at < len(rest):
        part, at = _parse_part(text, rest, at)
        total += part
    return -total if text[0] == "-" else total


def _parse_part(text: str, rest: str, at: int) -> tuple[int, int]:
    """One number and its unit from `at`: nanoseconds, and where the next one starts."""
    whole, at = _span(rest, at, digits=True)
    fraction = ""
    if rest[at : at + 1] == ".":
        fraction, at = _span(rest, at + 1, digits=True)
    if not whole and not fraction:
        raise BadRequest(f"time: invalid duration {_quote(text)}")
    unit, at = _span(rest, at, digits=False)
    if not unit:
        raise BadRequest(f"time: missing unit in duration {_quote(text)}")
    if unit not in _UNIT_NS:
        raise BadRequest(f"time: unknown unit {_quote(unit)} in duration {_quote(text)}")
    if len(whole.lstrip("0")) > _MAX_DIGITS:
        raise BadRequest(f"time: invalid duration {_quote(text)}: more than 292 years")
    scale = _UNIT_NS[unit]
    part = int(whole or "0") * scale
    if fraction:
        part += int(fraction) * scale // 10 ** len(fraction)
    return part, at


def _span(text: str, start: int, *, digits: bool) -> tuple[str, int]:
    """The run of digits (or, for a unit, of anything but digits and dots) from `start`, and its end."""
    end = start
    while end < len(text) and (
        (text[end] in _DIGITS) if digits else (text[end] not in _DIGITS and text[end] != ".")
    ):
        end += 1
    return text[start:end], end


def _quote(value: object) -> str:
    return '"' + str(value)[:_MAX_TEXT].replace("\\", "\\\\").replace('"', '\\"') + '"'


def format_duration(seconds: float) -> str:
    """Go's canonical text of so many seconds: 60 is "1m0s", 0.0015 is "1.5ms", 0 is "0s"."""
    return format_nanoseconds(round(seconds * _SECOND_NS))


def format_nanoseconds(nanoseconds: int) -> str:
    """As `format_duration`, exact."""
    sign, left = ("-", -nanoseconds) if nanoseconds < 0 else ("", nanoseconds)
    if left == 0:
        return "0s"
    for unit in ("ns", "µs", "ms"):
        if left < _UNIT_NS[unit] * 1_000:
            return f"{sign}{_decimal(left, _UNIT_NS[unit])}{unit}"
    minutes, left = divmod(left, _UNIT_NS["m"])
    hours, minutes = divmod(minutes, 60)
    head = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{sign}{head}{_decimal(left, _SECOND_NS)}s"


def _decimal(value: int, scale: int) -> str:
    """`value / scale` with every needed digit and no trailing zero; `scale` is a power of ten."""
    whole, fraction = divmod(value, scale)
    if not fraction:
        return str(whole)
    return f"{whole}.{str(fraction).zfill(len(str(scale)) - 1).rstrip('0')}"
