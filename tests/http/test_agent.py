"""The agent's own registrations over real HTTP, with the sync behind them."""

from __future__ import annotations

import asyncio
import json
import urllib.parse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from support.catalog_model import CatalogServers
from support.http_agent import HttpAgent, Reply, run, serving, until
from support.local_bench import Clock, MemoryStore, local_state

from gemot.agent.http import agent
from gemot.agent.local import LocalState
from gemot.agent.registration import Policy
from gemot.agent.sync import Sync
from gemot.server.model.errors import NoLeader


class Api:
    def __init__(
        self, http: HttpAgent, local: LocalState, servers: CatalogServers, store: MemoryStore
    ) -> None:
        self.store = store
        self.http = http
        self.local = local
        self.servers = servers

    async def get(self, path: str, **headers: str) -> Reply:
        return await self.http.ask("GET", "/v1/agent/" + path, headers=headers)

    async def put(self, path: str, body: Any = b"") -> Reply:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.http.ask("PUT", "/v1/agent/" + path, data)

    async def done(self, path: str, body: Any = b"") -> None:
        reply = await self.put(path, body)
        assert (reply.status, reply.body) == (200, b""), reply.text


@asynccontextmanager
async def api() -> AsyncIterator[Api]:
    servers, store, clock = CatalogServers(), MemoryStore(), Clock()
    local = local_state(store, clock)
    sync = Sync(local=local, servers=servers, now=clock, uniform=lambda: 0.5)
    sync.start()
    policy = Policy(scripts=True)
    try:
        async with serving(agent.routes(local=local, sync=sync, registry=store, policy=policy)) as http:
            yield Api(http, local, servers, store)
    finally:
        await sync.stop()


NO_SCRIPTS = "Scripts are disabled on this agent from remote calls"
WEB = {"Name": "web", "ID": "w1", "Tags": ["a"], "Port": 80, "Address": "10.0.0.1", "Meta": {"k": "v"}}


def test_a_registered_service_is_shown_and_in_the_catalog_when_the_answer_comes() -> None:
    async def work() -> None:
        async with api() as our:
            await our.done("service/register", {**WEB, "Check": {"TTL": "10s", "Status": "passing"}})
            assert ("n1", "w1") in our.servers.catalog.services
            assert (await our.get("services")).json == {
                "w1": {
                    "ID": "w1",
                    "Service": "web",
                    "Tags": ["a"],
                    "Meta": {"k": "v"},
                    "Port": 80,
                    "Address": "10.0.0.1",
                    "TaggedAddresses": {
                        "lan_ipv4": {"Address": "10.0.0.1", "Port": 80},
                        "wan_ipv4": {"Address": "10.0.0.1", "Port": 80},
                    },
                    "Weights": {"Passing": 1, "Warning": 1},
                    "EnableTagOverride": False,
                    "Datacenter": "dc1",
                }
            }
            await our.done("service/deregister/w1")
            assert ("n1", "w1") not in our.servers.catalog.services
            assert (await our.get("services")).json == {}

    run(work())


def test_a_service_without_an_address_shows_no_tagged_addresses() -> None:
    async def work() -> None:
        async with api() as our:
            await our.done("service/register", {"Name": "web"})
            assert (await our.get("services")).json == {
                "web": {
                    "ID": "web",
                    "Service": "web",
                    "Tags": [],
                    "Meta": {},
                    "Port": 0,
                    "Address": "",
                    "Weights": {"Passing": 1, "Warning": 1},
                    "EnableTagOverride": False,
                    "Datacenter": "dc1",
                }
            }

    run(work())


def test_the_agents_tokens_cannot_be_set_without_access_control() -> None:
    async def work() -> None:
        async with api() as our:
            reply = await our.put("token/default", {"Token": "x"})
            assert (reply.status, reply.text) == (401, "ACL support disabled")

    run(work())


def test_a_registration_is_answered_once_it_was_told_and_is_on_disk() -> None:
    async def work() -> None:
        async with api() as our:
            for path, body in (
                ("service/register", WEB),
                ("check/register", {"Name": "c", "TTL": "10s"}),
                ("check/pass/c", b""),
                ("maintenance?enable=true", b""),
                ("service/maintenance/w1?enable=true", b""),
                ("check/deregister/c", b""),
                ("service/deregister/w1", b""),
            ):
                our.servers.held = True
                flushed = our.store.flushed
                asked = asyncio.create_task(our.put(path, body))
                await until(lambda: our.servers.held and our.servers.waiting)
                await asyncio.sleep(0.02)
                assert not asked.done(), path
                our.servers.let_go()
                assert (await asked).status == 200
                assert our.store.flushed == flushed + (path != "check/pass/c")

    run(work())


def test_a_service_id_may_hold_any_printable_character() -> None:
    async def work() -> None:
        async with api() as our:
            for service_id in ("batman/pg1", "a b", "ü?&#%"):
                await our.done("service/register", {"Name": "pg", "ID": service_id})
                quoted = urllib.parse.quote(service_id, safe="")
                assert (await our.get("service/" + quoted)).json["ID"] == service_id
                await our.done("service/deregister/" + quoted)
            assert (await our.get("services")).json == {}

    run(work())


def test_checks_are_shown_with_durations_as_go_writes_them() -> None:
    async def work() -> None:
        async with api() as our:
            await our.done("service/register", WEB)
            body = {"Name": "c", "ServiceID": "w1", "HTTP": "http://a/", "Interval": "60s", "Notes": "n"}
            await our.done("check/register", body)
            shown = (await our.get("checks")).json
            assert shown["c"] == {
                "Node": "n1",
                "CheckID": "c",
                "Name": "c",
                "Status": "critical",
                "Notes": "n",
                "Output": "",
                "ServiceID": "w1",
                "ServiceName": "web",
                "ServiceTags": ["a"],
                "Type": "http",
                "Interval": "1m0s",
                "Timeout": "",
                "ExposedPort": 0,
                "Definition": {},
                "CreateIndex": 0,
                "ModifyIndex": 0,
            }
            await our.done("check/deregister/c")
            assert (await our.get("checks")).json == {}

    run(work())


def test_ttl_checks_are_pushed_to_and_the_catalog_knows_at_once() -> None:
    async def work() -> None:
        async with api() as our:
            await our.done("check/register", {"name": "c", "ttl": "10s"})
            for path, status in (("pass", "passing"), ("warn", "warning"), ("fail", "critical")):
                await our.done(f"check/{path}/c?note=all+{path}")
                row = our.servers.catalog.checks["n1", "c"]
                assert (row.status, row.output) == (status, f"all {path}")
            await our.done("check/update/c", {"status": "passing", "output": "x" * 5000})
            row = our.servers.catalog.checks["n1", "c"]
            assert row.status == "passing"
            assert row.output.endswith(" ... (captured 4096 of 5000 bytes)")

    run(work())


@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        ("service/register", b"", 400, "Request decode failed: EOF"),
        (
            "service/register",
            b'{"Meta":' * 40 + b"1" + b"}" * 40,
            400,
            "Request decode failed: json: nested deeper than 32 levels",
        ),
        ("service/register", b"{", 400, "Request decode failed: "),
        ("service/register", {}, 400, "Missing service name"),
        (
            "service/register",
            {"Name": "w", "Nope": 1},
            400,
            'Request decode failed: json: unknown field "Nope"',
        ),
        ("service/register", {"Name": "w", "Address": "0.0.0.0"}, 400, "Invalid service address"),
        ("service/register", {"Name": "w", "Check": {"Interval": "1s"}}, 400, "Invalid check: "),
        ("service/register", {"Name": "w", "Check": {"Args": ["a"], "Interval": "1s"}}, 500, NO_SCRIPTS),
        (
            "service/register?replace-existing-checks=banana",
            {"Name": "w"},
            400,
            "Invalid value for ?replace-existing-checks",
        ),
        ("service/register?ns=other", {"Name": "w"}, 400, "Namespaces"),
        ("service/register?dc=other", {"Name": "w"}, 500, "No path to datacenter"),
        ("service/deregister/", b"", 400, "Missing service ID"),
        (
            "service/deregister/x",
            b"",
            404,
            'Unknown service ID "x". Ensure that the service ID is passed, not the service name.',
        ),
        ("check/register", {"TTL": "1s"}, 400, "Missing check name"),
        ("check/register", {"Name": "c", "TTL": "1s", "Status": "x"}, 400, "Bad check status"),
        ("check/register", {"Name": "c"}, 400, "Invalid check: "),
        ("check/register", {"Name": "c", "TTL": "1s", "ServiceID": "x"}, 404, 'ServiceID "x" does not exist'),
        ("check/register", {"Name": "c", "Args": ["a"], "Interval": "1s"}, 500, NO_SCRIPTS),
        (
            "check/deregister/x",
            b"",
            404,
            'Unknown check ID "x". Ensure that the check ID is passed, not the check name.',
        ),
        ("check/pass/x", b"", 404, 'Unknown check ID "x"'),
        ("check/pass/", b"", 400, "Missing check ID"),
        ("check/pass/http", b"", 500, 'CheckID "http" does not have associated TTL'),
        ("check/update/ttl", {"Status": "fine"}, 400, "Invalid check status: 'fine'"),
        ("check/update/ttl", {"Status": "passing", "Output": 5}, 400, "Request decode failed: "),
        ("check/update/ttl", b"[]", 400, "Request decode failed: "),
        ("maintenance", b"", 400, "Missing value for enable"),
        ("maintenance?enable=", b"", 400, "Missing value for enable"),
        ("maintenance?enable=maybe", b"", 400, 'Invalid value for enable: "maybe"'),
        ("service/maintenance/?enable=true", b"", 400, "Missing service ID"),
        ("service/maintenance/x", b"", 400, "Missing value for enable"),
        ("service/maintenance/x?enable=true", b"", 404, 'Unknown service ID "x"'),
    ],
)
def test_a_mistake_is_answered_with_its_status_and_text(path: str, body: Any, status: int, text: str) -> None:
    async def work() -> None:
        async with api() as our:
            await our.done("check/register", {"Name": "ttl", "TTL": "1s"})
            await our.done("check/register", {"Name": "http", "HTTP": "http://a/", "Interval": "1s"})
            before = (our.local.services(), our.local.checks())
            reply = await our.put(path, body)
            assert reply.status == status
            assert reply.text.startswith(text)
            assert (our.local.services(), our.local.checks()) == before

    run(work())


def test_a_body_over_the_limit_is_refused() -> None:
    async def work() -> None:
        async with api() as our:
            reply = await our.put("service/register", b'{"Name":"' + b"x" * agent.MAX_BODY + b'"}')
            assert reply.status == 413

    run(work())


def test_existing_checks_stay_unless_they_are_to_be_replaced() -> None:
    async def work() -> None:
        async with api() as our:
            await our.done("service/register", {**WEB, "Checks": [{"TTL": "1s"}, {"TTL": "1s"}]})
            await our.done("service/register", {**WEB, "Check": {"TTL": "1s"}})
            assert len((await our.get("checks")).json) == 3
            await our.done("service/register?replace-existing-checks", {**WEB, "Check": {"TTL": "1s"}})
            assert set((await our.get("checks")).json) == {"service:w1"}

    run(work())


def test_local_health_speaks_by_its_status_code() -> None:
    async def work() -> None:
        async with api() as our:
            await our.done("service/register", {**WEB, "Check": {"TTL": "10s"}})
            for path, code, word in (
                ("check/fail/service:w1", 503, "critical"),
                ("check/warn/service:w1", 429, "warning"),
                ("check/pass/service:w1", 200, "passing"),
                ("maintenance?enable=True&reason=r", 503, "maintenance"),
            ):
                await our.done(path)
                reply = await our.get("health/service/id/w1")
                assert (reply.status, reply.headers["x-consul-reason"]) == (code, word)
                assert reply.json["AggregatedStatus"] == word
                assert reply.json["Service"]["ID"] == "w1"
                for text in (
                    await our.get("health/service/id/w1?format=text"),
                    await our.get("health/service/name/web", Accept="text/plain"),
                ):
                    assert (text.status, text.text) == (code, word)
            shown = (await our.get("health/service/id/w1")).json["Checks"]
            assert [check["CheckID"] for check in shown] == ["_node_maintenance", "service:w1"]
            await our.done("maintenance?enable=false")
            assert (await our.get("health/service/id/w1")).status == 200
            assert (await our.get("health/service/id/w2")).status == 404
            assert (await our.get("health/service/name/nope")).status == 404

    run(work())


def test_the_health_of_a_name_is_that_of_its_worst_instance() -> None:
    async def work() -> None:
        async with api() as our:
            for service_id, status in (("a", "passing"), ("b", "warning")):
                check = {"TTL": "10s", "Status": status}
                await our.done("service/register", {"Name": "web", "ID": service_id, "Check": check})
            reply = await our.get("health/service/name/web")
            assert reply.status == 429
            assert [one["AggregatedStatus"] for one in reply.json] == ["passing", "warning"]

    run(work())


def test_maintenance_of_a_service_keeps_its_reason() -> None:
    async def work() -> None:
        async with api() as our:
            await our.done("service/register", WEB)
            await our.done("service/maintenance/w1?enable=true&reason=upgrade")
            row = our.servers.catalog.checks["n1", "_service_maintenance:w1"]
            assert (row.status, row.notes) == ("critical", "upgrade")
            assert (await our.get("health/service/id/w1?format=text")).text == "maintenance"
            await our.done("service/maintenance/w1?enable=false")
            assert ("n1", "_service_maintenance:w1") not in our.servers.catalog.checks

    run(work())


def test_a_service_is_shown_with_a_hash_and_waits_for_another_one() -> None:
    async def work() -> None:
        async with api() as our:
            await our.done("service/register", WEB)
            first = await our.get("service/w1")
            content_hash = first.json["ContentHash"]
            assert first.headers["x-consul-contenthash"] == content_hash
            waiting = asyncio.create_task(our.get(f"service/w1?hash={content_hash}&wait=1m"))
            await our.done("service/register", {"Name": "other"})
            assert not waiting.done()
            await our.done("service/register", {**WEB, "Port": 81})
            second = await waiting
            assert second.json["Port"] == 81
            assert second.json["ContentHash"] != content_hash
            assert (await our.get("service/w1?hash=old&wait=1m")).json["Port"] == 81
            same = await our.get(f"service/w1?hash={second.json['ContentHash']}&wait=10ms")
            assert same.json == second.json

    run(work())


def test_a_service_that_goes_while_it_is_waited_for_is_not_found() -> None:
    async def work() -> None:
        async with api() as our:
            await our.done("service/register", WEB)
            content_hash = (await our.get("service/w1")).json["ContentHash"]
            waiting = asyncio.create_task(our.get(f"service/w1?hash={content_hash}&wait=1m"))
            await asyncio.sleep(0.01)
            await our.done("service/deregister/w1")
            reply = await waiting
            assert (reply.status, reply.text) == (404, "unknown service ID: w1")
            bad = await our.get("service/w1?hash=x&wait=soon")
            assert (bad.status, bad.text) == (400, "Invalid wait time")

    run(work())


def test_with_no_leader_a_registration_holds_here_all_the_same() -> None:
    async def work() -> None:
        async with api() as our:
            our.servers.failure = NoLeader()
            await our.done("service/register", WEB)
            assert "w1" in (await our.get("services")).json
            assert our.local.is_behind()

    run(work())


def test_a_wrong_method_is_refused() -> None:
    async def work() -> None:
        async with api() as our:
            for path in ("service/register", "check/pass/c", "maintenance"):
                assert (await our.get(path)).status == 405
            assert (await our.put("services")).status == 405

    run(work())
