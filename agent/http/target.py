"""A request target, taken apart: the path cleaned and decoded exactly once, the query as pairs.

Everything behind this file (dispatch, permissions, storage) sees the same decoded bytes. Pure.
"""

from __future__ import annotations

import msgspec

from gemot.server.model.errors import BadRequest

MAX_QUERY_PAIRS = 512


class Target(msgspec.Struct, frozen=True, gc=False):
    """`path` is decoded; `moved` is where to go instead of a path that is not clean, else ""."""

    path: bytes
    query: tuple[tuple[str, str], ...]
    moved: str = ""


def read_target(target: str) -> Target:
    """Take a request target apart. It is the raw one, bytes over 127 as surrogate escapes."""
    if target[:1] != "/":
        target = _origin_form(target)
    raw, mark, query = target.partition("?")
    pairs = read_query(query) if query else ()
    # Only the raw path is cleaned: an encoded slash or dot is part of a name, so every key can be reached.
    if "//" in raw or "/." in raw:
        cleaned = clean_path(raw)
        if cleaned != raw:
            return Target(b"", pairs, as_ascii(cleaned + mark + query))
    path = raw.encode("utf-8", "surrogateescape")
    if b"%" in path:
        path = decode_percent(path)
    return Target(path, pairs)


def _origin_form(target: str) -> str:
    """The path of an absolute target (`GET http://host/path`)."""
    scheme, mark, rest = target.partition("://")
    if not mark or scheme.lower() not in ("http", "https"):
        raise BadRequest("the request target must start with /")
    slash = rest.find("/")
    return rest[slash:] if slash >= 0 else "/"


def clean_path(raw: str) -> str:
    """Without empty, `.` and `..` parts; a final slash stays. Never starts with two slashes."""
    kept: list[str] = []
    parts = raw.split("/")
    for part in parts:
        if part == "..":
            if kept:
                kept.pop()
        elif part not in ("", "."):
            kept.append(part)
    tail = "/" if kept and parts[-1] in ("", ".", "..") else ""
    return "/" + "/".join(kept) + tail


def as_ascii(target: str) -> str:
    """A target fit for a header: bytes over 127 become percent escapes."""
    if target.isascii():
        return target
    raw = target.encode("utf-8", "surrogateescape")
    return "".join(chr(byte) if byte < 0x80 else f"%{byte:02X}" for byte in raw)


_HEX = frozenset(b"0123456789abcdefABCDEF")


def decode_percent(raw: bytes) -> bytes:
    """Replace each `%XX` once. Raises BadRequest at one that is not two hexadecimal digits."""
    head, *rest = raw.split(b"%")
    pieces = [head]
    for part in rest:
        code = part[:2]
        if len(code) != 2 or code[0] not in _HEX or code[1] not in _HEX:
            raise BadRequest(f'invalid URL escape "%{code.decode("latin-1")}"')
        pieces.append(bytes((int(code, 16),)))
        pieces.append(part[2:])
    return b"".join(pieces)


def read_query(query: str) -> tuple[tuple[str, str], ...]:
    """The pairs of a query in their order, decoded once; a name without `=` has the value ""."""
    if query.count("&") >= MAX_QUERY_PAIRS:
        raise BadRequest(f"the query has more than {MAX_QUERY_PAIRS} parameters")
    pairs = []
    for part in query.split("&"):
        if part:
            name, _, value = part.partition("=")
            name = _decode_text(name)
            pairs.append((name, _decode_text(value, any_bytes=name in _KEYS)))
    return tuple(pairs)


_KEYS = frozenset(("after", "key", "lock", "prefix"))
"""Parameters that are keys, which may be any bytes: those that are not UTF-8 as surrogate escapes."""


def _decode_text(text: str, *, any_bytes: bool = False) -> str:
    if text.isascii() and "%" not in text:
        return text.replace("+", " ") if "+" in text else text
    raw = decode_percent(text.replace("+", " ").encode("utf-8", "surrogateescape"))
    try:
        return raw.decode(errors="surrogateescape" if any_bytes else "strict")
    except UnicodeDecodeError as error:
        raise BadRequest("the query is not valid UTF-8") from error


def is_printable(path: bytes) -> bool:
    """Whether a path has only printable characters; bytes that are not UTF-8 count as printable."""
    return path.decode("utf-8", "replace").isprintable()
