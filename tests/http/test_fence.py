"""Guarded writes and the check for gateways: done under a held fence alone, and answered as without."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from support.http_agent import HttpAgent, run
from support.local_servers import LocalServers
from support.sessions import made, session_agent

from gemot.server.model.kv import KvDelete, KvDeletePrefix, KvList, KvSet
from gemot.server.model.txn import MAX_FENCE, KvOp, as_op, single

CHECKED = "x-gemot-fence-checked"


@contextlib.asynccontextmanager
async def _held() -> AsyncIterator[tuple[HttpAgent, LocalServers, str, int]]:
    """The lock `jobs/lock` is held: agent, servers, session and fence."""
    async with session_agent() as (agent, servers):
        id = await made(agent, LockDelay="0s")
        taken = await agent.ask("PUT", f"/v1/kv/jobs/lock?acquire={id}", b"me")
        for key in ("k", "t/1", "t/2"):
            await agent.ask("PUT", f"/v1/kv/{key}", b"old")
        yield agent, servers, id, int(taken.headers["x-gemot-fence"])


def _state(servers: LocalServers) -> Any:
    return servers.state.read(KvList(b""), "")[0]


WRITES = [
    ("PUT", "new?", b"true"),
    ("PUT", "k?flags=7&", b"true"),
    ("PUT", "new?cas=0&", b"true"),
    ("PUT", "k?cas=0&", b"false"),
    ("PUT", "k?acquire=SESSION&", b"true"),
    ("PUT", "k?acquire=OTHER&", b"true"),
    ("PUT", "jobs/lock?acquire=OTHER&", b"false"),
    ("PUT", "jobs/lock?release=SESSION&", b"true"),
    ("PUT", "jobs/lock?release=OTHER&", b"false"),
    ("DELETE", "k?", b"true"),
    ("DELETE", "none?", b"true"),
    ("DELETE", "k?cas=1&", b"false"),
    ("DELETE", "t/?recurse&", b"true"),
]


@pytest.mark.parametrize(("method", "path", "answer"), WRITES)
def test_every_write_under_a_held_fence_does_and_answers_what_it_does_alone(
    method: str, path: str, answer: bytes
) -> None:
    async def work() -> None:
        results = []
        for guard in ("", "lock=jobs/lock&fence=FENCE"):
            async with _held() as (agent, servers, id, fence):
                other = await made(agent)
                asked = path.replace("SESSION", id).replace("OTHER", other)
                guard = guard.replace("FENCE", str(fence))
                reply = await agent.ask(method, f"/v1/kv/{asked}{guard}", b"new")
                assert (reply.status, reply.body) == (200, answer)
                assert reply.headers.get(CHECKED) == (str(fence) if guard else None)
                shown = [
                    (row.key, row.value, row.flags, row.session == id, row.fence) for row in _state(servers)
                ]
                results.append((shown, reply.headers.get("x-gemot-fence")))
        assert results[0] == results[1]

    run(work())


@pytest.mark.parametrize(("method", "path", "answer"), WRITES)
def test_no_write_is_done_under_a_fence_that_is_lost(method: str, path: str, answer: bytes) -> None:
    async def work() -> None:
        async with _held() as (agent, servers, id, fence):
            asked = path.replace("SESSION", id).replace("OTHER", id)
            before = _state(servers)
            held = f'it is held with fence {fence} by session "{id}"'
            for guard, why in (
                (f"lock=jobs/lock&fence={fence - 1}", f'key "jobs/lock": {held}, fence {fence - 1} is lost'),
                (f"lock=k&fence={fence}", f'key "k": nobody holds it, fence {fence} is lost'),
                (f"lock=none&fence={fence}", f'key "none": nobody holds it, fence {fence} is lost'),
                (
                    f"lock=jobs/lock&fence={fence}&session=other",
                    f'key "jobs/lock": {held}, fence {fence} of session "other" is lost',
                ),
            ):
                reply = await agent.ask(method, f"/v1/kv/{asked}{guard}", b"new")
                assert (reply.status, reply.text) == (409, f"failed fence check for {why}")
                assert CHECKED not in reply.headers
            assert _state(servers) == before

    run(work())


def test_a_fence_is_lost_with_its_session_and_another_holder_has_another() -> None:
    async def work() -> None:
        async with _held() as (agent, _, id, fence):
            guarded = f"/v1/kv/k?lock=jobs/lock&fence={fence}"
            assert (await agent.ask("PUT", guarded, b"1")).status == 200
            await agent.ask("PUT", f"/v1/session/destroy/{id}")
            assert (await agent.ask("PUT", guarded, b"2")).status == 409
            other = await made(agent)
            await agent.ask("PUT", f"/v1/kv/jobs/lock?acquire={other}", b"")
            assert (await agent.ask("PUT", guarded, b"3")).status == 409
            assert (await agent.ask("GET", "/v1/kv/k?raw")).body == b"1"

    run(work())


def test_what_the_write_itself_gets_wrong_is_told_as_without_a_guard() -> None:
    async def work() -> None:
        async with _held() as (agent, _, _id, fence):
            guard = f"lock=jobs/lock&fence={fence}"
            for asked in ("acquire=none", "acquire="):
                alone = await agent.ask("PUT", f"/v1/kv/k?{asked}", b"")
                guarded = await agent.ask("PUT", f"/v1/kv/k?{asked}&{guard}", b"")
                assert (guarded.status, guarded.body) == (alone.status, alone.body)
                assert alone.status == 500

    run(work())


def test_a_lock_may_be_on_a_key_of_any_bytes() -> None:
    async def work() -> None:
        async with session_agent() as (agent, _):
            id = await made(agent, LockDelay="0s")
            taken = await agent.ask("PUT", f"/v1/kv/a%ff?acquire={id}", b"")
            fence = int(taken.headers["x-gemot-fence"])
            asked = f"lock=a%ff&fence={fence}"
            assert (await agent.ask("PUT", f"/v1/kv/k?{asked}", b"1")).headers[CHECKED] == str(fence)
            assert (await agent.ask("GET", f"/v1/gemot/fence/check?{asked}")).status == 200
            lost = await agent.ask("PUT", f"/v1/kv/k?lock=a%fe&fence={fence}", b"2")
            assert (lost.status, lost.text) == (
                409,
                f'failed fence check for key "a\ufffd": nobody holds it, fence {fence} is lost',
            )
            assert (await agent.ask("GET", "/v1/kv/k?raw")).body == b"1"

    run(work())


def test_a_named_one_is_answered_as_before_though_its_lock_is_lost_by_then() -> None:
    async def work() -> None:
        async with _held() as (agent, _, id, fence):
            for _ in range(2):
                reply = await agent.ask(
                    "PUT",
                    f"/v1/kv/k?lock=jobs/lock&fence={fence}",
                    b"1",
                    headers={"Idempotency-Key": "once"},
                )
                assert (reply.status, reply.body, reply.headers[CHECKED]) == (200, b"true", str(fence))
                await agent.ask("PUT", f"/v1/session/destroy/{id}")

    run(work())


@pytest.mark.parametrize(
    ("query", "status", "told"),
    [
        ("fence=3", 400, "belong together"),
        ("lock=a", 400, "belong together"),
        ("lock=&fence=3", 400, "belong together"),
        ("lock=a&fence=", 400, "belong together"),
        ("lock=a&fence=0", 400, f"fence must be a number from 1 to {MAX_FENCE}, not 0"),
        ("lock=a&fence=-1", 400, f"?fence= must be a number from 1 to {MAX_FENCE}, not -1"),
        ("lock=a&fence=x", 400, "?fence= must be a number"),
        ("lock=a&fence=9223372036854775808", 400, "fence must be a number"),
        ("lock=a&fence=" + "9" * 5_000, 400, "?fence= must be a number"),
        ("lock=a&fence=3&session=%ff", 400, "not valid UTF-8"),
        ("lock=" + "a" * 4097 + "&fence=3", 413, "The key is 4097 bytes long"),
        ("lock=a&fence=3&session=" + "a" * 256, 413, "The session's id has 256 characters"),
    ],
)
def test_a_guard_that_cannot_be_meant_is_refused_and_nothing_is_written(
    query: str, status: int, told: str
) -> None:
    async def work() -> None:
        async with _held() as (agent, servers, _, _fence):
            before = _state(servers)
            for method, path in (
                ("PUT", "/v1/kv/k"), ("DELETE", "/v1/kv/k"), ("GET", "/v1/gemot/fence/check"),
            ):  # fmt: skip
                reply = await agent.ask(method, f"{path}?{query}", b"new" * (method == "PUT"))
                assert (reply.status, told in reply.text) == (status, True), reply.text
                assert len(reply.text) < 500
            assert _state(servers) == before

    run(work())


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_gateway_asks_whether_a_fence_is_held_and_who_holds_it_else(method: str) -> None:
    async def work() -> None:
        async with _held() as (agent, _, id, fence):
            url = "/v1/gemot/fence/check?lock=jobs/lock"
            reply = await agent.ask(method, f"{url}&fence={fence}")
            shown = {"Held": True, "Lock": "jobs/lock", "Fence": fence, "Session": id, "HeldFence": fence}
            assert (reply.status, reply.json, reply.headers[CHECKED]) == (200, shown, str(fence))
            assert (await agent.ask(method, f"{url}&fence={fence}&session={id}")).status == 200
            assert (await agent.ask(method, f"{url}&fence={fence}&session=other")).status == 409
            reply = await agent.ask(method, f"{url}&fence={fence - 1}")
            assert (reply.status, reply.json) == (409, {**shown, "Held": False, "Fence": fence - 1})
            assert CHECKED not in reply.headers
            await agent.ask("PUT", f"/v1/kv/jobs/lock?release={id}", b"")
            reply = await agent.ask(method, f"{url}&fence={fence}")
            nobody = {"Held": False, "Session": "", "HeldFence": 0}
            assert (reply.status, reply.json) == (409, {**shown, **nobody})
            assert (await agent.ask(method, "/v1/gemot/fence/check?lock=none&fence=1")).status == 409
            assert (await agent.ask(method, f"{url}&fence=1&stale")).status == 400
            assert (await agent.ask(method, "/v1/gemot/fence/check")).status == 400

    run(work())


@pytest.mark.parametrize(
    "command",
    [
        KvSet(b"k", b"v", 3),
        KvSet(b"k", b"v", 3, cas=0),
        KvSet(b"k", b"v", 3, acquire="s"),
        KvSet(b"k", b"v", 3, acquire=""),
        KvSet(b"k", b"v", 3, release="s"),
        KvDelete(b"k"),
        KvDelete(b"k", cas=0),
        KvDeletePrefix(b"k"),
    ],
    ids=str,
)
def test_a_command_and_its_operation_are_each_others(command: KvSet | KvDelete | KvDeletePrefix) -> None:
    assert isinstance(as_op(command), KvOp)
    assert single(as_op(command)) == command
