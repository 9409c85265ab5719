"""The operator family: Consul's shapes and statuses, and the refusals that its clients match."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from support.http_agent import HttpAgent, run
from support.http_families import api_agent
from support.local_servers import LocalServers

from gemot.agent.age import NEVER_MS
from gemot.server.model.autopilot import AutopilotConfig, SetAutopilot
from gemot.server.model.errors import NoLeader, RuleFailed
from gemot.server.rpc.message import UNKNOWN_MS, Operate, ServerSeen, Survey, Surveyed

LEADER = ServerSeen(
    id="id-1", name="srv1", address="10.0.0.1:8300", status="alive", build="0.1.0", voter=True, leader=True,
    last_contact_ms=0, last_term=3, last_index=40, healthy=True, stable_ms=20_000, meta={"rack": "7"},
)  # fmt: skip
GONE = ServerSeen(
    id="id-2", name="id-2", address="", status="failed", build="", voter=True, leader=False,
    last_contact_ms=61_500, last_term=0, last_index=0, healthy=False, stable_ms=60_000,
)  # fmt: skip
LEARNER = msgspec.structs.replace(LEADER, id="id-3", name="srv3", voter=False, leader=False, last_index=39)
ALL_WELL = Surveyed((LEADER, LEARNER), 12, True, 0, "srv1", "")
NOT_WELL = Surveyed((LEADER, GONE), 12, False, 0, "srv1", "")
CONFIG = "/v1/operator/autopilot/configuration"


@asynccontextmanager
async def seeing(surveyed: Surveyed) -> AsyncIterator[tuple[HttpAgent, LocalServers]]:
    async with api_agent() as (agent, servers):
        servers.surveyed = surveyed
        yield agent, servers


def test_the_raft_configuration_names_voters_learners_and_the_unknown() -> None:
    async def work() -> None:
        async with seeing(Surveyed((LEADER, GONE, LEARNER), 12, False, 0, "srv1", "")) as (agent, servers):
            found = json.loads((await agent.ask("GET", "/v1/operator/raft/configuration")).body)
            assert found["Index"] == 12
            assert found["Servers"][0] == {
                "ID": "id-1",
                "Node": "srv1",
                "Address": "10.0.0.1:8300",
                "Leader": True,
                "ProtocolVersion": "3",
                "Voter": True,
                "LastIndex": 40,
            }
            assert [one["Node"] for one in found["Servers"]] == ["srv1", "(unknown)", "srv3"]
            assert [one["Voter"] for one in found["Servers"]] == [True, True, False]
            await agent.ask("GET", "/v1/operator/raft/configuration?stale")
            assert servers.operated == [Survey(), Survey(here=True)]

    run(work())


def test_a_peer_is_removed_by_id_or_by_address_and_by_exactly_one() -> None:
    async def work() -> None:
        async with api_agent() as (agent, servers):
            path = "/v1/operator/raft/peer"
            for query in ("?id=id-2", "?address=10.0.0.2:8300"):
                reply = await agent.ask("DELETE", path + query)
                assert (reply.status, reply.body) == (200, b"")
            assert servers.operated == [
                Operate("remove-peer", "id-2"),
                Operate("remove-peer", "", "10.0.0.2:8300"),
            ]
            neither = await agent.ask("DELETE", path)
            assert (neither.status, neither.body[:32]) == (400, b"Must specify either ?id with the")
            both = await agent.ask("DELETE", path + "?id=a&address=b")
            assert (both.status, both.body) == (400, b"Must specify only one of ?id or ?address")
            servers.failure = RuleFailed('address "x" was not found in the Raft configuration')
            reply = await agent.ask("DELETE", path + "?address=x")
            assert (reply.status, reply.body) == (
                500,
                b'address "x" was not found in the Raft configuration',
            )

    run(work())


def test_the_leadership_is_transferred_to_anyone_or_to_one() -> None:
    async def work() -> None:
        async with api_agent() as (agent, servers):
            path = "/v1/operator/raft/transfer-leader"
            for method, query in (("POST", ""), ("PUT", "?id=id-2")):
                reply = await agent.ask(method, path + query)
                assert (reply.status, json.loads(reply.body)) == (200, {"Success": True})
            assert servers.operated == [Operate("transfer"), Operate("transfer", "id-2")]

    run(work())


def test_the_health_is_429_as_soon_as_one_server_is_not_healthy() -> None:
    async def work() -> None:
        async with seeing(ALL_WELL) as (agent, servers):
            reply = await agent.ask("GET", "/v1/operator/autopilot/health")
            assert reply.status == 200
            assert json.loads(reply.body)["Servers"][0] == {
                "ID": "id-1",
                "Name": "srv1",
                "Address": "10.0.0.1:8300",
                "SerfStatus": "alive",
                "Version": "0.1.0",
                "Leader": True,
                "LastContact": "0s",
                "LastTerm": 3,
                "LastIndex": 40,
                "Healthy": True,
                "Voter": True,
                "StableSince": "2023-11-14T22:13:00Z",
            }
            servers.surveyed = NOT_WELL
            reply = await agent.ask("GET", "/v1/operator/autopilot/health")
            found = json.loads(reply.body)
            assert (reply.status, found["Healthy"], found["FailureTolerance"]) == (429, False, 0)
            assert found["Servers"][1]["LastContact"] == "1m1.5s"

    run(work())


def test_what_one_server_sees_is_told_without_a_leader() -> None:
    async def work() -> None:
        blind = Surveyed(
            tuple(
                msgspec.structs.replace(LEADER, leader=False, last_contact_ms=ms)
                for ms in (NEVER_MS + 5, UNKNOWN_MS, 70)
            ),
            12, False, 0, "srv1", "Waiting for",
        )  # fmt: skip
        async with seeing(blind) as (agent, servers):
            reply = await agent.ask("GET", "/v1/gemot/raft/health")
            found = json.loads(reply.body)
            assert reply.status == 429
            assert (found["SeenBy"], found["Leader"], found["Waiting"]) == ("srv1", "", "Waiting for")
            assert [one["LastContact"] for one in found["Servers"]] == ["never", "", "70ms"]
            assert servers.operated == [Survey(here=True)]
            servers.failure = NoLeader.because("Waiting for quorum")
            reply = await agent.ask("GET", "/v1/operator/autopilot/health")
            assert (reply.status, reply.body) == (500, b"No cluster leader: waiting for quorum")

    run(work())


def test_the_state_has_the_servers_by_id_with_their_part() -> None:
    async def work() -> None:
        async with seeing(ALL_WELL) as (agent, _):
            found = json.loads((await agent.ask("GET", "/v1/operator/autopilot/state")).body)
            assert (found["Leader"], found["Voters"]) == ("id-1", ["id-1"])
            assert {id: one["Status"] for id, one in found["Servers"].items()} == {
                "id-1": "leader",
                "id-3": "non-voter",
            }
            assert found["Servers"]["id-1"]["Meta"] == {"rack": "7"}

    run(work())


def test_the_configuration_is_the_default_until_it_is_set_and_cas_holds() -> None:
    async def work() -> None:
        async with api_agent() as (agent, servers):
            found = json.loads((await agent.ask("GET", CONFIG)).body)
            assert found == {
                "CleanupDeadServers": True,
                "LastContactThreshold": "200ms",
                "MaxTrailingLogs": 250,
                "MinQuorum": 0,
                "ServerStabilizationTime": "10s",
                "RedundancyZoneTag": "",
                "DisableUpgradeMigration": False,
                "UpgradeVersionTag": "",
                "CreateIndex": 0,
                "ModifyIndex": 0,
            }
            body = json.dumps(found | {"MinQuorum": 3, "LastContactThreshold": "1.5s"}).encode()
            assert (await agent.ask("PUT", f"{CONFIG}?cas=5", body)).body == b"false"
            assert (await agent.ask("PUT", f"{CONFIG}?cas=0", body)).body == b"true"
            now = json.loads((await agent.ask("GET", CONFIG)).body)
            assert (now["MinQuorum"], now["LastContactThreshold"]) == (3, "1.5s")
            assert now["CreateIndex"] == now["ModifyIndex"] > 0
            # What is not named stays; a number is nanoseconds, and a part of a millisecond a whole one.
            assert (
                await agent.ask("PUT", CONFIG, b'{"ServerStabilizationTime": 1500000001}')
            ).body == b"true"
            wanted = AutopilotConfig(
                min_quorum=3, last_contact_threshold_ms=1_500, server_stabilization_time_ms=1_501
            )
            assert servers.applied[-1] == SetAutopilot(wanted)
            stale = f"{CONFIG}?cas={now['ModifyIndex']}"
            assert (await agent.ask("PUT", stale, body)).body == b"false"

    run(work())


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"MinQuorum": -1}, "min_quorum is -1"),
        ({"LastContactThreshold": "-1s"}, "may not be negative"),
        ({"LastContactThreshold": "soon"}, "invalid duration"),
        ({"RedundancyZoneTag": "zone"}, "not supported"),
        ({"MinQuorom": 1}, "unknown field"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(body: dict[str, Any], text: str) -> None:
    async def work() -> None:
        async with api_agent() as (agent, servers):
            reply = await agent.ask("PUT", CONFIG, json.dumps(body).encode())
            assert reply.status == 400
            assert text in reply.body.decode()
            assert servers.applied == []

    run(work())
