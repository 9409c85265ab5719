"""Fences at the edge: `?lock=` and `?fence=` of a write, and `/v1/gemot/fence/check`. Gemot's own.

A write that names a lock and its fence is done only while that lock is held with that fence, both in one
entry. Who guards something else, such as a gateway before a store, asks whether it is held.
"""

from __future__ import annotations

from gemot.agent.http import parse, render
from gemot.agent.http.message import Request, Response, Route
from gemot.agent.servers import Servers
from gemot.server.model.errors import BadRequest, RuleFailed, WireError, from_wire
from gemot.server.model.kv import KvEntry, KvGet
from gemot.server.model.query import Options
from gemot.server.model.txn import MAX_FENCE, CheckFence, TxnAnswer, holds

CHECKED = "X-Gemot-Fence-Checked"
"""The fence under which it was done. What knows no fences does it all the same, and does not say this."""


def routes(*, servers: Servers, datacenter: str) -> list[Route]:
    family = _Fence(servers=servers, datacenter=datacenter)
    return [
        Route(
            path="/v1/gemot/fence/check",
            handlers={"GET": family.check, "POST": family.check},
            permission={"GET": "key:read", "POST": "key:read"},
        )
    ]


class _Fence:
    def __init__(self, *, servers: Servers, datacenter: str) -> None:
        self._servers = servers
        self._datacenter = datacenter

    async def check(self, request: Request) -> Response:
        """Never of an older state: 200 if it is held so, else 409, and who holds it."""
        parse.check_scope(request, datacenter=self._datacenter)
        if parse.flag(request, "stale") or parse.flag(request, "max_stale"):
            raise BadRequest("a fence is not checked in a state that may be old: leave ?stale out")
        wanted = read_guard(request)
        if wanted is None:
            raise BadRequest("give the key of the lock as ?lock= and its fence as &fence=")
        answer = await self._servers.query(KvGet(wanted.key), Options(token=request.token))
        entry: KvEntry | None = answer.value
        held = holds(entry, wanted)
        shown = {
            "Held": held,
            "Lock": render.key(wanted.key),
            "Fence": wanted.fence,
            "Session": entry.session if entry is not None else "",
            "HeldFence": entry.fence if entry is not None and entry.session else 0,
        }
        headers = {CHECKED: str(wanted.fence)} if held else {}
        return render.json_response(request, shown, status=200 if held else 409, headers=headers)


def read_guard(request: Request) -> CheckFence | None:
    """What `lock`, `fence` and perhaps `session` ask for; None if neither lock nor fence is there."""
    lock, text = parse.first(request, "lock"), parse.first(request, "fence")
    if lock is None and text is None:
        return None
    if not lock or not text:
        raise BadRequest("?lock= and ?fence= belong together: give the key of the lock, and its fence")
    try:
        fence = checked(parse.uint64(text), "fence")
    except RuleFailed as error:
        raise BadRequest(f"?fence= must be a number from 1 to {MAX_FENCE}, not {text:.64}") from error
    session = parse.session_id(parse.first(request, "session") or "")
    return CheckFence(parse.check_key(lock.encode("utf-8", "surrogateescape")), fence, session)


def checked(fence: int, name: str) -> int:
    """A fence that there can be. Raises BadRequest."""
    if not 0 < fence <= MAX_FENCE:
        raise BadRequest(f"{name} must be a number from 1 to {MAX_FENCE}, not {fence}")
    return fence


def lost(answer: TxnAnswer) -> str:
    """Why nothing was done of a guarded write (the guard, then the write), "" if its lock was held.

    Raises the write's own error where it has one; what is left is done, or its answer is `false`.
    """
    for error in answer.errors:
        if error.code:
            raise from_wire(WireError(error.code, error.what))
        if error.op == 0:
            return error.what
    return ""
