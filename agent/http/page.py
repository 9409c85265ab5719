"""Lists of keys in pages: `?limit=` and `?after=` of `/v1/kv/` with `recurse` or `keys`. Gemot's own.

Each page is a read of its own: the list may change between two. What is there all the time is in exactly one
page, since a page begins behind a key and not at a number.
"""

from __future__ import annotations

from urllib.parse import quote

from gemot.agent.http import parse
from gemot.agent.http.message import Request
from gemot.server.model.errors import BadRequest
from gemot.server.model.kv import MAX_PAGE

NEXT = "X-Gemot-After"
"""What to give as `after` for the next page, percent-encoded; not there where the list ends."""


def read(request: Request) -> tuple[bytes, int] | None:
    """Behind which key, and how many; None where the whole list is asked for. Raises BadRequest, TooLarge."""
    limit, after = parse.first(request, "limit"), parse.first(request, "after")
    if limit is None and after is None:
        return None
    if limit is None:
        raise BadRequest(f"?after= is for pages: give ?limit=, the entries of one, from 1 to {MAX_PAGE}")
    if not limit.isascii() or not limit.isdigit() or len(limit) > 20 or not 1 <= int(limit) <= MAX_PAGE:
        raise BadRequest(f"?limit= must be a number from 1 to {MAX_PAGE}, not {limit:.64}")
    return parse.check_key((after or "").encode("utf-8", "surrogateescape")), int(limit)


def refuse(request: Request) -> None:
    """A single key has no pages."""
    if parse.flag(request, "limit") or parse.flag(request, "after"):
        raise BadRequest("?limit= and ?after= are for lists: give ?recurse or ?keys with them")


def headers(following: bytes) -> dict[str, str]:
    return {NEXT: quote(following, safe="/")} if following else {}
