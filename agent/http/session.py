"""The session family: `/v1/session/`. Source: Consul, session API.

What is asked is read here and bounded; who may begin a session, and what ends it, are the state's rules. Its
id is minted here. Ours is the header REMAINING: how much of the TTL is left.
"""

from __future__ import annotations

import hashlib
from uuid import UUID, uuid4

import msgspec

from gemot.agent.check_registration import MAX_ID_BYTES
from gemot.agent.duration import format_nanoseconds, parse_nanoseconds
from gemot.agent.fields import Fields, names, plain
from gemot.agent.http import listing, parse, render
from gemot.agent.http.body import read_json
from gemot.agent.http.facts import Facts
from gemot.agent.http.message import Handler, Permission, Request, Response, Route
from gemot.agent.http.reading import Reads
from gemot.agent.servers import Servers
from gemot.server.model.catalog import SERF_HEALTH
from gemot.server.model.command import IdempotencyKey
from gemot.server.model.errors import BadRequest, GemotError, NotFound, RuleFailed
from gemot.server.model.query import Options
from gemot.server.model.session import (
    DEFAULT_LOCK_DELAY_MS,
    MAX_CHECKS,
    MAX_TTL_MS,
    CreateSession,
    DestroySession,
    LivingSession,
    RenewSession,
    Session,
    SessionInfo,
    Sessions,
)

REMAINING = "X-Gemot-Session-Remaining"
"""What is left of the TTL (times `session_ttl_multiplier`), as a duration, when the answer was given; of a
lease that this very request began, from when the request was sent. Absent without a TTL."""

MAX_NAME_BYTES = 1024
MAX_NODE_BYTES = 512
BELOW_IT_COUNTS_SECONDS = 1000
"""A LockDelay given as a smaller number counts seconds, any other nanoseconds (Consul)."""

_MAX_BODY = 64 << 10
_MISSING = "Missing session"
_NS_PER_MS = 1_000_000
_FIELDS = names("name node lock_delay behavior ttl checks node_checks service_checks namespace partition")
_SERVICE_CHECK = names("id namespace")


def routes(*, servers: Servers, facts: Facts) -> list[Route]:
    """`facts` has this agent's node, whose session one is unless it says another, and the least TTL."""
    reads = Reads(servers=servers, datacenter=facts.datacenter)
    family = _Session(servers=servers, reads=reads, facts=facts)
    table: list[tuple[str, str, Handler, Permission]] = [
        ("PUT", "/v1/session/create", family.create, "session:write"),
        ("PUT", "/v1/session/destroy/", family.destroy, "session:write"),
        ("PUT", "/v1/session/renew/", family.renew, "session:write"),
        ("GET", "/v1/session/info/", family.info, "session:read"),
        ("GET", "/v1/session/node/", family.of_node, "session:read"),
        ("GET", "/v1/session/list", family.list, "session:read"),
    ]
    return [
        Route(path, {method: handler}, {method: needs}, max_body=_MAX_BODY if method == "PUT" else 0)
        for method, path, handler, needs in table
    ]


class _Session:
    def __init__(self, *, servers: Servers, reads: Reads, facts: Facts) -> None:
        self._servers = servers
        self._reads = reads
        self._facts = facts

    async def create(self, request: Request) -> Response:
        parse.check_scope(request, datacenter=self._facts.datacenter)
        wanted = read_session(
            request.body,
            node=self._facts.node,
            least_ttl_ns=self._facts.session_ttl_min_ns,
            ttl_multiplier=self._facts.session_ttl_multiplier,
        )
        named = parse.idempotency_key(request)
        session = msgspec.structs.replace(wanted, id=_mint(request.token, named))
        applied = await self._servers.apply(CreateSession(session), token=request.token, key=named)
        headers = render.write_headers(applied, named)
        if session.ttl_ms:
            # Under a caller's own name this may be the answer to an earlier request: its TTL has begun.
            left_ms = session.ttl_ms if named is None else await self._left_ms(session.id, request.token)
            headers[REMAINING] = _shown_ms(left_ms)
        return render.json_response(request, {"ID": session.id}, headers=headers)

    async def _left_ms(self, session_id: str, token: str) -> int:
        """What is surely left of a TTL: 0 as well where it cannot be learned."""
        try:
            answer = await self._servers.query(SessionInfo(session_id), Options(token=token))
        except GemotError:
            return 0
        living: LivingSession | None = answer.value
        return max(0, living.remaining_ms) if living is not None else 0

    async def destroy(self, request: Request) -> Response:
        parse.check_scope(request, datacenter=self._facts.datacenter)
        command = DestroySession(parse.session_id(parse.name_in(request, _MISSING)))
        named = parse.idempotency_key(request)
        applied = await self._servers.apply(command, token=request.token, key=named)
        return render.json_response(
            request, bool(applied.value), headers=render.write_headers(applied, named)
        )

    async def renew(self, request: Request) -> Response:
        """No name of the caller's is taken: the answer to an earlier renewal would promise a TTL anew."""
        parse.check_scope(request, datacenter=self._facts.datacenter)
        session_id = parse.session_id(parse.name_in(request, _MISSING))
        applied = await self._servers.apply(RenewSession(session_id), token=request.token)
        session = await self._renewed(session_id, request.token) if applied.value else None
        if session is None:
            raise NotFound(f"Session id '{session_id}' not found")
        headers = render.write_headers(applied)
        if session.ttl_ms:
            headers[REMAINING] = _shown_ms(session.ttl_ms)
        return render.json_response(request, [render.session(session)], headers=headers)

    async def _renewed(self, session_id: str, token: str) -> Session | None:
        try:
            answer = await self._servers.query(SessionInfo(session_id), Options(token=token))
        except GemotError as error:
            # As itself it would say of the renewal that it was not done.
            raise GemotError(f"The session was renewed, but it cannot be shown: {error.message}") from error
        living: LivingSession | None = answer.value
        return living.session if living is not None else None

    async def info(self, request: Request) -> Response:
        """A list of one; of a session that is not there, an empty one."""
        query = SessionInfo(parse.session_id(parse.name_in(request, _MISSING)))
        answer, headers = await self._reads.read(request, query)
        living: LivingSession | None = answer.value
        if living is None:
            return render.json_response(request, [], headers=headers)
        if living.remaining_ms >= 0:
            headers[REMAINING] = _shown_ms(living.remaining_ms)
        return render.json_response(request, [render.session(living.session)], headers=headers)

    async def of_node(self, request: Request) -> Response:
        return await self._list(request, Sessions(parse.name_in(request, "Missing node name")))

    async def list(self, request: Request) -> Response:
        return await self._list(request, Sessions())

    async def _list(self, request: Request, query: Sessions) -> Response:
        answer, headers = await self._reads.read(request, query)
        return await listing.json_rows(request, answer.value, render.session, headers=headers)


def _mint(token: str, named: IdempotencyKey | None) -> str:
    """A new id; under a caller's own name the same at each try, since the answer has to name it."""
    if named is None:
        return str(uuid4())
    # Names are each accessor's own, and so is what follows from them.
    whole = hashlib.sha256(repr((token, named.key, named.body_hash)).encode())
    return str(UUID(bytes=whole.digest()[:16], version=5))


def _shown_ms(left_ms: int) -> str:
    return format_nanoseconds(left_ms * _NS_PER_MS)


def read_session(body: bytes, *, node: str, least_ttl_ns: int, ttl_multiplier: int = 1) -> Session:
    """The session that is asked for, still without an id. No body at all asks for all defaults.

    It has the TTL that is asked for times the multiplier, a day at most; what is shown is what was asked for.

    Raises BadRequest, or RuleFailed where Consul's servers are the ones to refuse. Fields that are not known
    are read over, as Consul does here and hardly anywhere else.
    """
    raw = read_json(body) if body else {}
    unknown = {plain(name): name for name in raw} if isinstance(raw, dict) else {}
    fields = Fields(raw, known=_FIELDS, ignored=unknown)
    fields.default_only("Namespace", "Partition")
    behavior = fields.text("Behavior") or "release"
    if behavior not in ("release", "delete"):
        raise RuleFailed(f"Invalid Behavior setting '{behavior:.64}'")
    ttl = fields.text("TTL")
    return Session(
        id="",
        node=fields.text("Node", limit=MAX_NODE_BYTES) or node,
        name=fields.text("Name", limit=MAX_NAME_BYTES),
        lock_delay_ns=_lock_delay_ns(fields),
        behavior=behavior,
        ttl=ttl,
        ttl_ms=min(_ttl_ms(ttl, least_ttl_ns) * ttl_multiplier, MAX_TTL_MS),
        node_checks=_node_checks(fields),
        service_checks=_service_checks(fields),
    )


def _ttl_ms(text: str, least_ns: int) -> int:
    """Never shorter than what the text says; 0 for no TTL."""
    if not text:
        return 0
    try:
        ttl_ns = parse_nanoseconds(text)
    except BadRequest as error:
        raise RuleFailed(f"Session TTL '{text:.64}' invalid: {error.message}") from error
    most_ns = MAX_TTL_MS * _NS_PER_MS
    if ttl_ns and not least_ns <= ttl_ns <= most_ns:
        bounds = f"[{format_nanoseconds(least_ns)}={format_nanoseconds(most_ns)}]"
        raise RuleFailed(f"Invalid Session TTL '{ttl_ns}', must be between {bounds}")
    return -(-ttl_ns // _NS_PER_MS)


def _lock_delay_ns(fields: Fields) -> int:
    """As it was given: what is more than a minute counts as one where it is applied."""
    given = fields.raw("LockDelay")
    if given is None:
        return DEFAULT_LOCK_DELAY_MS * _NS_PER_MS
    if isinstance(given, float) and given.is_integer():
        given = int(given)
    if isinstance(given, bool) or not isinstance(given, str | int):
        raise BadRequest(
            "Request decode failed: field LockDelay wants a duration such as 15s, or a whole number: "
            f"of seconds below {BELOW_IT_COUNTS_SECONDS}, else of nanoseconds"
        )
    try:
        delay_ns = parse_nanoseconds(given)
    except BadRequest as error:
        raise BadRequest(f"Request decode failed: field LockDelay: {error.message}") from error
    if delay_ns < 0:
        raise BadRequest("Request decode failed: field LockDelay must not be negative")
    if isinstance(given, int) and given < BELOW_IT_COUNTS_SECONDS:
        return given * 1_000 * _NS_PER_MS
    return delay_ns


def _node_checks(fields: Fields) -> tuple[str, ...]:
    """Those of both fields, the older one's too; serfHealth if neither is there: an empty list is."""
    given = [name for name in ("NodeChecks", "Checks") if fields.raw(name) is not None]
    if not given:
        return (SERF_HEALTH,)
    found = [each for name in given for each in fields.texts(name, limit=MAX_CHECKS, each=MAX_ID_BYTES)]
    return tuple(dict.fromkeys(found))


def _service_checks(fields: Fields) -> tuple[tuple[str, str], ...] | None:
    if fields.raw("ServiceChecks") is None:
        return None
    return tuple(map(_service_check, fields.items("ServiceChecks", limit=MAX_CHECKS)))


def _service_check(raw: object) -> tuple[str, str]:
    what = "Request decode failed: ServiceChecks"
    unknown = {plain(name): name for name in raw} if isinstance(raw, dict) else {}
    fields = Fields(raw, known=_SERVICE_CHECK, ignored=unknown, what=what)
    fields.default_only("Namespace")
    return fields.text("ID", limit=MAX_ID_BYTES), fields.text("Namespace")
