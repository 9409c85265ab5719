"""Filters of our own: reading and writing JSON, YAML and base64, and shaping what the functions return.

Small on purpose; no regular expressions (one bad pattern holds the whole process) and nothing that differs
from one rendering to the next (a file would never come to rest).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import yaml

from gemot.agent.template.errors import TemplateFailed
from gemot.agent.template.sandbox import check_nested, to_text

MAX_PARSED = 4 * 1024 * 1024


def to_json(value: object, indent: int | None = None) -> str:
    """Compact unless `indent` is given; keys in the order of the map."""
    if indent is not None and not 0 <= indent <= 16:
        raise TemplateFailed("to_json: indent must be a number from 0 to 16")
    plain = _plain(value)
    separators = (",", ":") if indent is None else None
    try:
        return json.dumps(plain, indent=indent, separators=separators, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise TemplateFailed(f"to_json: {error}") from None


def parse_json(text: str) -> Any:
    _check_parsed("parse_json", text)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TemplateFailed(f"parse_json: {error}, in {text[:60]!r}") from None


def to_yaml(value: object) -> str:
    """Block style, keys in the order of the map, without the document's end mark."""
    try:
        text: str = yaml.safe_dump(
            _plain(value), sort_keys=False, default_flow_style=False, allow_unicode=True
        )
    except (yaml.YAMLError, RecursionError) as error:
        raise TemplateFailed(f"to_yaml: {error}") from None
    return text.removesuffix("...\n")


def parse_yaml(text: str) -> Any:
    _check_parsed("parse_yaml", text)
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise TemplateFailed(f"parse_yaml: {' '.join(str(error).split())}") from None


def base64_encode(text: str) -> str:
    return base64.b64encode(_octets(text)).decode("ascii")


def base64_decode(text: str) -> str:
    try:
        return base64.b64decode(_octets(text), validate=True).decode("utf-8", "surrogateescape")
    except binascii.Error as error:
        raise TemplateFailed(f"base64_decode: {error}, in {text[:60]!r}") from None


def sha256(text: str) -> str:
    return hashlib.sha256(_octets(text)).hexdigest()


def split(text: str, separator: str | None = None) -> list[str]:
    """Without a separator, at any run of white space."""
    return [part for part in to_text(text).split(separator) if part]


def lines(text: str) -> list[str]:
    return to_text(text).splitlines()


def explode(rows: Iterable[Any]) -> dict[str, Any]:
    """The nested map that the keys of `tree` or `ls` spell: `a/b` = x becomes {"a": {"b": "x"}}."""
    root: dict[str, Any] = {}
    for row in rows:
        *folders, name = row.key.split("/")
        place = root
        for folder in folders:
            below = place.setdefault(folder, {})
            if not isinstance(below, dict):
                raise TemplateFailed(f"explode: {folder!r} is both a key and a folder (at {row.path!r})")
            place = below
        if isinstance(place.get(name), dict):
            raise TemplateFailed(f"explode: {name!r} is both a key and a folder (at {row.path!r})")
        place[name] = row.value
    return root


def _octets(text: object) -> bytes:
    return to_text(text).encode("utf-8", "surrogateescape")


def _plain(value: object) -> Any:
    """Maps, lists and plain values alone, at a bounded size."""
    check_nested(value)
    try:
        return msgspec.to_builtins(value)
    except (TypeError, RecursionError) as error:
        raise TemplateFailed(f"a value cannot be written out: {error}") from None


def _check_parsed(name: str, text: object) -> None:
    if not isinstance(text, str):
        raise TemplateFailed(f"{name}: works on text, got {type(text).__name__}")
    if len(text) > MAX_PARSED:
        raise TemplateFailed(f"{name}: a text of {len(text)} characters, the limit is {MAX_PARSED}")


FILTERS: dict[str, Callable[..., Any]] = {
    "base64_decode": base64_decode,
    "base64_encode": base64_encode,
    "explode": explode,
    "lines": lines,
    "parse_json": parse_json,
    "parse_yaml": parse_yaml,
    "sha256": sha256,
    "split": split,
    "to_json": to_json,
    "to_yaml": to_yaml,
    "tojson": to_json,
}
