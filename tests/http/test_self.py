"""The agent about itself, and the status of the tier."""

from __future__ import annotations

import json
import re

from support.http_agent import HttpAgent, run
from support.http_families import FACTS, api_agent

from gemot.server.model.errors import NoLeader


async def node(
    agent: HttpAgent, name: str, status: str, *, server: bool = False, member: bool = True, release: str = ""
) -> None:
    body = {
        "Node": name,
        "Address": "10.0.0.2",
        "Service": {"Service": "consul", "Port": 8300, "Meta": {"version": release}} if server else None,
        "Check": {"CheckID": "serfHealth", "Name": "s", "Status": status} if member else None,
    }
    assert (await agent.ask("PUT", "/v1/catalog/register", json.dumps(body).encode())).body == b"true"


def test_self_has_exactly_the_keys_that_clients_compare() -> None:
    async def work() -> None:
        async with api_agent() as (agent, _):
            reply = await agent.ask("GET", "/v1/agent/self")
            found = reply.json
            assert set(found) == {"Member", "xDS", "Stats", "Config", "Coord", "DebugConfig", "Meta"}
            assert re.fullmatch(r"\d+\.\d+\.\d+", found["Config"]["Version"])
            assert found["Config"]["GemotVersion"] == FACTS.version
            assert reply.headers["x-gemot-version"] == FACTS.version
            assert found["Config"]["Datacenter"] == "dc1"
            assert found["Config"]["NodeName"] == "n1"
            assert found["Config"]["NodeID"] == FACTS.node_id
            assert found["Config"]["Server"] is True
            assert found["Member"]["Addr"] == "10.0.0.1"
            assert found["Member"]["Status"] == 1
            assert found["Member"]["Tags"]["role"] == "consul"
            assert found["Member"]["Tags"]["expect"] == "3"
            assert found["Stats"]["consul"]["server"] == "true"
            assert found["Stats"]["agent"] == {"checks": "0"}
            assert found["Meta"] == {"rack": "7"}
            assert found["DebugConfig"] == {"Server": True}

    run(work())


def test_members_are_the_nodes_with_serf_health() -> None:
    async def work() -> None:
        async with api_agent() as (agent, _):
            await node(agent, "srv1", "passing", server=True)
            await node(agent, "web1", "passing")
            await node(agent, "web2", "critical")
            await node(agent, "external", "passing", member=False)
            members = (await agent.ask("GET", "/v1/agent/members")).json
            assert [(m["Name"], m["Status"], m["Tags"]["role"]) for m in members] == [
                ("srv1", 1, "consul"),
                ("web1", 1, "node"),
                ("web2", 4, "node"),
            ]
            assert members[0]["Tags"]["port"] == "8300"
            assert members[0]["Port"] == 8301
            wan = (await agent.ask("GET", "/v1/agent/members?wan=1")).json
            assert [m["Name"] for m in wan] == ["srv1.dc1"]

    run(work())


def test_a_member_tells_gemots_own_release_behind_what_it_speaks() -> None:
    """Before the colon stands what clients compare; behind it, where Consul has a revision, what runs."""

    async def work() -> None:
        async with api_agent() as (agent, _):
            await node(agent, "srv1", "passing", server=True, release="0.9.7")
            await node(agent, "web1", "passing")
            members = (await agent.ask("GET", "/v1/agent/members")).json
            assert [m["Tags"]["build"] for m in members] == ["1.20.0:gemot-0.9.7", "1.20.0:gemot"]
            own = (await agent.ask("GET", "/v1/agent/self")).json["Member"]
            assert own["Tags"]["build"] == f"1.20.0:gemot-{FACTS.version}"

    run(work())


def test_version_and_host_have_consuls_shapes() -> None:
    async def work() -> None:
        async with api_agent() as (agent, _):
            version = (await agent.ask("GET", "/v1/agent/version")).json
            assert {"SHA", "BuildDate", "HumanVersion", "FIPS", "GemotVersion"} == set(version)
            host = (await agent.ask("GET", "/v1/agent/host")).json
            assert set(host) == {"Memory", "CPU", "Host", "Disk", "CollectionTime", "Errors"}
            assert host["Memory"]["total"] > 0

    run(work())


def test_metrics_come_as_json_and_as_prometheus_text() -> None:
    async def work() -> None:
        async with api_agent() as (agent, _):
            shown = await agent.ask("GET", "/v1/agent/metrics")
            assert list(shown.json) == ["Timestamp", "Gauges", "Points", "Counters", "Samples"]
            scrape = {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"}
            for reply in (
                await agent.ask("GET", "/v1/agent/metrics?format=prometheus"),
                await agent.ask("GET", "/v1/agent/metrics", headers=scrape),
                await agent.ask("GET", "/metrics"),
            ):
                assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
                assert "# TYPE gemot_http_requests_total counter" in reply.text

    run(work())


def test_status_tells_leader_and_voters_as_json_texts() -> None:
    async def work() -> None:
        async with api_agent() as (agent, servers):
            leader = await agent.ask("GET", "/v1/status/leader")
            assert (leader.body, leader.headers["content-type"]) == (b'"127.0.0.1:8300"', "application/json")
            assert (await agent.ask("GET", "/v1/status/peers")).body == b'["127.0.0.1:8300"]'
            servers.leads = False
            none = await agent.ask("GET", "/v1/status/leader")
            assert (none.status, none.body) == (200, b'""')
            assert (await agent.ask("GET", "/v1/status/leader?dc=x")).text == "No path to datacenter"

    run(work())


def test_without_a_leader_the_agent_still_tells_about_itself() -> None:
    async def work() -> None:
        async with api_agent() as (agent, servers):
            servers.failure = NoLeader()
            assert (await agent.ask("GET", "/v1/agent/self")).status == 200
            assert (await agent.ask("GET", "/v1/agent/version")).status == 200
            assert (await agent.ask("GET", "/v1/catalog/nodes")).text == "No cluster leader"
            servers.failure = None
            servers.leads = False
            assert (await agent.ask("GET", "/v1/agent/members")).status == 200
            nodes = await agent.ask("GET", "/v1/catalog/nodes?stale")
            assert nodes.headers["x-consul-knownleader"] == "false"

    run(work())
