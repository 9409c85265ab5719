"""`/v1/operator/keyring` where gossip is off: what is asked wrongly is told before anything else is."""

from __future__ import annotations

import json

import pytest
from support.http_agent import run
from support.http_families import api_agent

PATH = "/v1/operator/keyring"
KEY = b'{"Key": "Zm9vYmFyZm9vYmFyZm9vYg=="}'


@pytest.mark.parametrize("factor", ["6", "-1", "x", "10", "1.0", "%C2%B2", "5 "])
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
def test_the_relay_factor_is_0_to_5(method: str, factor: str) -> None:
    async def work() -> None:
        async with api_agent() as (agent, _):
            reply = await agent.ask(method, f"{PATH}?relay-factor={factor}".replace(" ", "%20"), KEY)
            assert reply.status == 400
            assert b"relay-factor must be a number from 0 to 5" in reply.body

    run(work())


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        (b"", 400, b"the body must be"),
        (b"{}", 400, b"Key: must be given"),
        (b'{"Key": 7}', 400, b""),
        (b'{"Key": "c2VjcmV0"', 400, b""),
        (b'["c2VjcmV0"]', 400, b""),
        (b'{"Kee": "c2VjcmV0"}', 400, b""),
        (json.dumps({"Key": "c2VjcmV0" * 1_000}).encode(), 413, b""),
        (KEY, 500, b"there is no gossip here"),
    ],
)
def test_a_body_that_is_no_key_is_refused_and_not_shown(
    method: str, body: bytes, status: int, told: bytes
) -> None:
    async def work() -> None:
        async with api_agent() as (agent, _):
            reply = await agent.ask(method, PATH, body)
            assert reply.status == status, reply.body
            assert told in reply.body
            assert b"c2VjcmV0" not in reply.body

    run(work())


@pytest.mark.parametrize(
    ("query", "status"),
    [("", 500), ("?relay-factor=5", 500), ("?local-only=true", 500), ("?local-only=perhaps", 400)],
)
def test_a_list_is_refused_where_gossip_is_off(query: str, status: int) -> None:
    async def work() -> None:
        async with api_agent() as (agent, _):
            assert (await agent.ask("GET", PATH + query)).status == status

    run(work())
