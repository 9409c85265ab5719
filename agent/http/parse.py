"""Query parameters as values: flags, numbers, durations, and how to read (Consul's texts for mistakes)."""

from __future__ import annotations

import hashlib

from gemot.agent.duration import parse_nanoseconds
from gemot.agent.http.message import Request
from gemot.server.model.command import IdempotencyKey
from gemot.server.model.errors import BadRequest, RuleFailed, TooLarge
from gemot.server.model.kv import LEAST_TTL_MS, MAX_KEY_BYTES, MAX_TTL_MS
from gemot.server.model.query import Consistency, Options

MAX_UINT64 = (1 << 64) - 1
MAX_IDEMPOTENCY_KEY = 255
MAX_SESSION_ID = 255
_NO_OPTIONS = Options()
_NS_PER_MS = 1_000_000


def first(request: Request, name: str) -> str | None:
    """The value of the first parameter of that name, or None when there is none."""
    for key, value in request.query:
        if key == name:
            return value
    return None


def flag(request: Request, name: str) -> bool:
    """Whether a parameter is there at all: Consul looks at no value (`?stale=false` is set)."""
    return any(key == name for key, _ in request.query)


def every(request: Request, name: str) -> tuple[str, ...]:
    return tuple(value for key, value in request.query if key == name)


_TRUE = frozenset(("1", "t", "T", "true", "TRUE", "True"))
_FALSE = frozenset(("0", "f", "F", "false", "FALSE", "False"))


def boolean(request: Request, name: str) -> bool:
    """A flag whose value counts: absent is false, bare is true, else what Go reads as a bool."""
    value = first(request, name)
    if value is None or value in _FALSE:
        return False
    if value == "" or value in _TRUE:
        return True
    raise BadRequest(f"Invalid value for ?{name}")


def uint64(text: str) -> int:
    """An unsigned 64-bit number as Go parses it; a mistake is RuleFailed, since Consul answers 500."""
    if not text or not text.isascii() or not text.isdigit():
        raise RuleFailed(f"strconv.ParseUint: parsing {_quote(text)}: invalid syntax")
    if len(text.lstrip("0")) > 20 or int(text) > MAX_UINT64:
        raise RuleFailed(f"strconv.ParseUint: parsing {_quote(text)}: value out of range")
    return int(text)


def _quote(text: str) -> str:
    shown = text if len(text) <= 64 else text[:64] + "..."
    return '"' + shown.encode("unicode_escape").decode().replace('"', '\\"') + '"'


def read_options(request: Request, *, datacenter: str) -> Options:
    """How to read, from `index wait stale consistent max_stale leader cached` and their like."""
    if not request.query:
        _check_cache_control(request)
        return Options(token=request.token) if request.token else _NO_OPTIONS
    check_scope(request, datacenter=datacenter)
    _check_cache_control(request)
    given = dict(reversed(request.query))
    if given.get("filter"):
        raise BadRequest("filter is not supported yet: leave it out and choose among the results")
    index, wait_ms = _read_wait(given)
    consistency, max_stale_ms = _read_consistency(given)
    return Options(
        index=index, wait_ms=wait_ms, consistency=consistency, max_stale_ms=max_stale_ms, token=request.token
    )


def _read_wait(given: dict[str, str]) -> tuple[int, int]:
    index_text, wait_text = given.get("index", ""), given.get("wait", "")
    index = 0
    if index_text:
        try:
            index = uint64(index_text)
        except RuleFailed as error:
            raise BadRequest("Invalid index") from error
    if not wait_text:
        return index, 0
    try:
        wait_ns = parse_nanoseconds(wait_text)
    except BadRequest as error:
        raise BadRequest("Invalid wait time") from error
    return index, max(1, wait_ns // _NS_PER_MS) if wait_ns > 0 else 0


def _read_consistency(given: dict[str, str]) -> tuple[Consistency, int]:
    stale, consistent = "stale" in given, "consistent" in given
    max_stale_ms = 0
    if given.get("max_stale"):
        text = given["max_stale"]
        try:
            max_stale_ms = max(1, parse_nanoseconds(text) // _NS_PER_MS)
        except BadRequest as error:
            raise BadRequest(f"Invalid max_stale value {_quote(text)}") from error
        stale = True
    if stale and consistent:
        raise BadRequest("Cannot specify ?stale with ?consistent, conflicting semantics.")
    if "cached" in given and consistent:
        raise BadRequest("Cannot specify ?cached with ?consistent, conflicting semantics.")
    if consistent:
        return "consistent", 0
    if stale and "leader" not in given:
        return "stale", max_stale_ms
    return "default", 0


def check_scope(request: Request, *, datacenter: str) -> None:
    """Refuse another datacenter (Consul's text, status 500), namespace or partition than our only one."""
    wanted = first(request, "datacenter") or first(request, "dc")
    if wanted and wanted.lower() != datacenter.lower():
        raise RuleFailed("No path to datacenter")
    for name, what in (("ns", "Namespaces"), ("partition", "Partitions"), ("peer", "Cluster peers")):
        value = first(request, name)
        if value and (value.lower() != "default" or name == "peer"):
            raise BadRequest(f'{what} are not supported: leave the parameter "{name}" out')


def _check_cache_control(request: Request) -> None:
    header = request.headers.get("cache-control")
    if header is None:
        return
    for part in header.split(","):
        name, mark, value = part.strip().partition("=")
        if name in ("max-age", "stale-if-error") and not (mark and value.isascii() and value.isdigit()):
            raise BadRequest("Invalid Cache-Control header.")


MAX_PAIRS = 64


def node_meta(request: Request) -> dict[str, str]:
    """The pairs of every `node-meta=key:value`; all must hold."""
    pairs: dict[str, str] = {}
    for text in every(request, "node-meta"):
        key, _, value = text.partition(":")
        if len(pairs) >= MAX_PAIRS and key not in pairs:
            raise BadRequest(f"node-meta is given more than {MAX_PAIRS} times")
        pairs[key] = value
    return pairs


def near(request: Request, node: str) -> str:
    """The node to which the nearest come first, "" for none: `near`, where `_agent` means `node`."""
    wanted = first(request, "near") or ""
    return node if wanted == "_agent" else wanted


def idempotency_key(request: Request) -> IdempotencyKey | None:
    """The caller's own name for this write (header `Idempotency-Key`), bound to all that it asks for."""
    key = request.headers.get("idempotency-key")
    if key is None:
        return None
    if not 0 < len(key) <= MAX_IDEMPOTENCY_KEY or not key.isascii():
        raise BadRequest(f"Idempotency-Key must be 1 to {MAX_IDEMPOTENCY_KEY} ASCII characters")
    asked = hashlib.sha256()
    # In their order: of two with one name the first counts.
    query = [pair for pair in request.query if pair[0] not in ("token", "pretty")]
    whole = request.route.encode() + request.path
    for piece in (request.method.encode(), whole, repr(query).encode(), request.body):
        asked.update(len(piece).to_bytes(8, "big"))
        asked.update(piece)
    return IdempotencyKey(key, asked.digest())


def ttl_ms(text: str) -> int:
    """How long a key is to live. Raises BadRequest."""
    try:
        found = -(-parse_nanoseconds(text) // _NS_PER_MS)
    except BadRequest:
        found = 0
    if not LEAST_TTL_MS <= found <= MAX_TTL_MS:
        raise BadRequest(
            f"Invalid TTL {_quote(text)}: want a duration such as 30s, from {LEAST_TTL_MS // 1_000}s to "
            f"{MAX_TTL_MS // 3_600_000}h (ten years); leave it out for a key that stays"
        )
    return found


def session_id(text: str) -> str:
    """The id of a session as a caller names it. Raises TooLarge for what none can be."""
    if len(text) > MAX_SESSION_ID:
        raise TooLarge(
            f"The session's id has {len(text)} characters, the limit is {MAX_SESSION_ID}: "
            "give the one that its creation answered"
        )
    return text


def check_key(key: bytes) -> bytes:
    """A key that is not too long. Raises TooLarge."""
    if len(key) > MAX_KEY_BYTES:
        raise TooLarge(
            f"The key is {len(key)} bytes long, the limit is {MAX_KEY_BYTES} bytes: use a shorter one"
        )
    return key


def name_in(request: Request, missing: str) -> str:
    """The name that stands in the path behind the route. Raises BadRequest with the text `missing`."""
    if not request.path:
        raise BadRequest(missing)
    try:
        return request.path.decode()
    except UnicodeDecodeError as error:
        raise BadRequest("the name in the path is not valid UTF-8") from error
