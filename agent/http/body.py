"""JSON request bodies, read as Go's decoder reads them: names in any case, null as if it were absent.

A name that is not known is refused (Consul: `json: unknown field`), but for those that clients send out of
habit and that mean nothing here. Size is bounded by the route, depth and items here. Pure.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any, TypeVar

import msgspec
import msgspec.inspect as shapes

from gemot.server.model.errors import BadRequest

MAX_DEPTH = 32
FAILED = "Request decode failed: "
_HABITS = frozenset(
    (
        "writerequest",
        "namespace",
        "partition",
        "enterprisemeta",
        "peername",
        "locality",
        "contenthash",
        "createindex",
        "modifyindex",
        "raftindex",
    )
)
"""Fields of other editions, of answers sent back, and of old clients: read over wherever they stand."""

_STRINGS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
"""Quoted texts, whose brackets are none; one that does not end goes to the end."""

_MARKS = re.compile(rb"[\[\]{}]")

T = TypeVar("T")
_decode = msgspec.json.Decoder().decode


def decode_body(body: bytes, kind: type[T]) -> T:
    """The body as a `kind` (a Struct with `rename="pascal"`). Raises BadRequest naming what is wrong.

    A Struct may have other names for its fields in a ClassVar `aliases`: lower-case name to field's name.
    """
    return convert(read_json(body), kind)


def convert(found: object, kind: type[T]) -> T:
    """The same, of a value that was read."""
    if not isinstance(found, dict):
        raise BadRequest(f"{FAILED}json: want an object, found {_go_kind(found)}")
    try:
        return msgspec.convert(_fold(found, kind), kind)
    except msgspec.ValidationError as error:
        raise BadRequest(f"{FAILED}{_explain(str(error))}") from error


def read_json(body: bytes) -> Any:
    """The value in these bytes, not deeper than MAX_DEPTH."""
    if not body.strip():
        raise BadRequest(f"{FAILED}EOF: the body is empty, want a JSON object")
    _check_depth(body)
    try:
        return _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise BadRequest(f"{FAILED}{str(error)[:200]}") from error


def _check_depth(body: bytes) -> None:
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return
    depth = 0
    for mark in _MARKS.findall(_STRINGS.sub(b"", body)):
        if mark in b"[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise BadRequest(f"{FAILED}json: nested deeper than {MAX_DEPTH} levels")
        else:
            depth -= 1


@cache
def _names(kind: type) -> dict[str, tuple[str, Any]]:
    """Lower-case name to (name in JSON, what stands inside) for each field of a Struct."""
    info = shapes.type_info(kind)
    assert isinstance(info, shapes.StructType)
    by_field = {field.name: (field.encode_name, _inside(field.type)) for field in info.fields}
    names = {encoded.lower(): (encoded, inside) for encoded, inside in by_field.values()}
    for alias, field in getattr(kind, "aliases", {}).items():
        names[alias] = by_field[field]
    return names


def _inside(found: shapes.Type) -> tuple[str, type] | None:
    """("one" | "list" | "map", Struct) when Structs stand in a field of this type."""
    if isinstance(found, shapes.UnionType):
        return next((inside for one in found.types if (inside := _inside(one))), None)
    if isinstance(found, shapes.StructType):
        return "one", found.cls
    if isinstance(found, (shapes.VarTupleType, shapes.ListType)):
        inside = _inside(found.item_type)
        return ("list", inside[1]) if inside else None
    if isinstance(found, shapes.DictType):
        inside = _inside(found.value_type)
        return ("map", inside[1]) if inside else None
    return None


def _fold(found: dict[str, Any], kind: type) -> dict[str, Any]:
    """The same object with its fields named as `kind` names them, without nulls."""
    names = _names(kind)
    folded: dict[str, Any] = {}
    for name, value in found.items():
        known = names.get(name.lower())
        if known is None:
            if name.lower() in _HABITS:
                continue
            raise BadRequest(f'{FAILED}json: unknown field "{name[:100]}"')
        if value is not None:
            folded[known[0]] = _fold_inside(value, known[1])
    return folded


def _fold_inside(value: Any, inside: tuple[str, type] | None) -> Any:
    if inside is None:
        return value
    form, kind = inside
    if form == "one" and isinstance(value, dict):
        return _fold(value, kind)
    if form == "list" and isinstance(value, list):
        return [_fold(one, kind) if isinstance(one, dict) else one for one in value]
    if form == "map" and isinstance(value, dict):
        return {name: _fold(one, kind) if isinstance(one, dict) else one for name, one in value.items()}
    return value


def _go_kind(value: Any) -> str:
    kinds = {list: "array", str: "string", bool: "bool", int: "number", float: "number", type(None): "null"}
    return kinds.get(type(value), type(value).__name__)


def _explain(text: str) -> str:
    """msgspec's sentence with the field in front: "Service.Port: expected `int`, got `str`"."""
    what, mark, where = text.rpartition(" - at `$")
    if not mark:
        return text
    field = where.rstrip("`").lstrip(".")
    return f"json: {field or 'the body'}: {what[:1].lower()}{what[1:]}"
