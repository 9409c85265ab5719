"""Lists as JSON: short ones at once, long ones on a thread, so that the loop goes on meanwhile.

A long list is encoded row by row: one call of the encoder for all of it would hold the interpreter to its
end, on whatever thread it ran.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from gemot.agent.http import render
from gemot.agent.http.message import Request, Response

SHORT_ROWS = 1_000
"""Rows that are encoded on the loop, at most: a few milliseconds."""

SHORT_BYTES = 1 << 20
"""Values of so many bytes are encoded on the loop, at most: about a millisecond."""

T = TypeVar("T")


async def json_rows(
    request: Request, rows: Sequence[T], shown: Callable[[T], Any], *, headers: dict[str, str]
) -> Response:
    """A list of what `shown` makes of each row."""
    if len(rows) <= SHORT_ROWS:
        return render.json_response(request, [shown(row) for row in rows], headers=headers)
    return await asyncio.to_thread(
        _joined, request, b"[%b]", rows, lambda row: render.encode(shown(row)), headers
    )


async def json_entries(
    request: Request, rows: Sequence[Any], *, size: int, headers: dict[str, str]
) -> Response:
    """A list of key-value entries, whose values have `size` bytes."""
    if len(rows) <= SHORT_ROWS and size <= SHORT_BYTES:
        return render.json_bytes(request, render.kv_entries(rows), headers=headers)
    return await asyncio.to_thread(_joined, request, b"[%b]", rows, render.kv_entry, headers)


async def json_pairs(request: Request, pairs: Mapping[str, Any], *, headers: dict[str, str]) -> Response:
    """An object of names and their values."""
    if len(pairs) <= SHORT_ROWS:
        return render.json_response(request, pairs, headers=headers)
    return await asyncio.to_thread(_joined, request, b"{%b}", list(pairs.items()), _pair, headers)


def _pair(pair: tuple[str, Any]) -> bytes:
    return render.encode(pair[0]) + b":" + render.encode(pair[1])


def _joined(
    request: Request,
    around: bytes,
    rows: Sequence[Any],
    encode: Callable[[Any], bytes],
    headers: dict[str, str],
) -> Response:
    # A list first: `join` would make one of an iterator in a single call.
    pieces = [encode(row) for row in rows]
    return render.json_bytes(request, around % b",".join(pieces), headers=headers)
