"""`/v1/txn` over real sockets: what each kind answers, its limits, and every mistake told."""

from __future__ import annotations

import contextlib
import json
from base64 import b64encode
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.http_agent import HttpAgent, Reply, run, serving
from support.sessions import made, session_agent

from gemot.agent.http import txn as family
from gemot.server.model import errors
from gemot.server.model.kv import KvList
from gemot.server.model.txn import DEFAULT_OPS, MAX_FENCE, MAX_OPS, KvOp

_LIST = KvList(b"")
NODE_ID = "40e4a748-2192-161a-0510-9bf59fe950b5"


def key(verb: str, of: str = "k", value: bytes = b"", **fields: Any) -> dict[str, Any]:
    shown = {"Value": b64encode(value).decode()} if value else {}
    return {"KV": {"Verb": verb, "Key": of, **shown, **fields}}


def guard(fence: int) -> dict[str, Any]:
    return {"KV": {"Verb": "fence-guard", "Resource": "disk", "Fence": fence}}


async def ask(agent: HttpAgent, *ops: Any, query: str = "", **headers: str) -> Reply:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return await agent.ask("PUT", f"/v1/txn{query}", json.dumps(ops).encode(), headers=given)


def what(reply: Reply) -> list[tuple[int, str]]:
    assert reply.status == 409, reply.text
    assert reply.json["Results"] is None
    return [(error["OpIndex"], error["What"]) for error in reply.json["Errors"]]


# -- answers ---------------------------------------------------------------------------------------


def test_each_operation_that_lacks_its_key_is_told_and_nothing_is_done() -> None:
    async def work() -> None:
        async with session_agent() as (agent, _):
            alone = await agent.ask("PUT", "/v1/txn", b'[{"KV":{"Verb":"get","Key":""}}]')
            assert alone.body == b'{"Results":null,"Errors":[{"OpIndex":0,"What":"Must provide key"}]}'
            fence = key("check-fence", "", Fence=1)
            many = await ask(
                agent, key("set"), key("set", ""), key("delete-tree", ""), fence, key("lock", "")
            )
            assert what(many) == [(number, "Must provide key") for number in (1, 3, 4)]
            assert (await agent.ask("GET", "/v1/kv/k")).status == 404
            assert (await ask(agent, key("get-tree", ""))).status == 200

    run(work())


def test_line_breaks_in_base64_are_read_over() -> None:
    async def work() -> None:
        async with session_agent() as (agent, _):
            wrapped = {"KV": {"Verb": "set", "Key": "k", "Value": "\r\nb25l\nIGxp\r\nbm\rU=\n"}}
            assert (await ask(agent, wrapped)).status == 200
            assert (await agent.ask("GET", "/v1/kv/k?raw")).body == b"one line"

    run(work())


def test_what_was_done_is_told_without_values_and_what_was_read_with_them() -> None:
    async def work() -> None:
        async with session_agent() as (agent, _):
            reply = await ask(
                agent,
                key("set", value=b"1", Flags=7),
                key("get"),
                key("get-or-empty", "none"),
                key("check-not-exists", "none"),
                key("cas", "new", b"2"),
                key("delete", "new"),
            )
            assert reply.status == 200
            assert reply.headers["content-type"] == "application/json"
            at = int(reply.headers["x-gemot-index"])
            entry = {"LockIndex": 0, "Key": "k", "Flags": 7, "CreateIndex": at, "ModifyIndex": at}
            empty = {"LockIndex": 0, "Key": "none", "Flags": 0, "CreateIndex": 0, "ModifyIndex": 0}
            new = {"LockIndex": 0, "Key": "new", "Flags": 0, "CreateIndex": at, "ModifyIndex": at}
            assert reply.json == {
                "Results": [
                    {"KV": {**entry, "Value": None}},
                    {"KV": {**entry, "Value": "MQ=="}},
                    {"KV": {**empty, "Value": None}},
                    {"KV": {**new, "Value": None}},
                ],
                "Errors": None,
            }
            assert list(reply.json["Results"][0]["KV"]) == [
                "LockIndex", "Key", "Flags", "Value", "CreateIndex", "ModifyIndex",
            ]  # fmt: skip

    run(work())


def test_a_lock_shows_its_session_and_fence() -> None:
    async def work() -> None:
        async with session_agent() as (agent, _):
            id = await made(agent)
            reply = await ask(agent, key("lock", value=b"me", Session=id))
            (found,) = reply.json["Results"]
            assert (found["KV"]["Session"], found["KV"]["LockIndex"]) == (id, 1)
            assert found["KV"]["Fence"] == int(reply.headers["x-gemot-index"])
            assert "x-gemot-fence-checked" not in reply.headers
            fence = found["KV"]["Fence"]
            held = key("check-fence", Fence=fence, Session=id)
            reply = await ask(agent, held, key("set", "guarded", b"1"), guard(5))
            assert reply.status == 200
            assert reply.headers["x-gemot-fence-checked"] == str(fence)
            reply = await ask(agent, guard(4), key("check-fence", Fence=1))
            smaller = 'failed fence guard of resource "disk"'
            assert what(reply) == [
                (0, f"{smaller}: fence 4 is smaller than 5, the greatest that was seen"),
                (
                    1,
                    f'failed fence check for key "k": it is held with fence {fence} by session "{id}", '
                    "fence 1 is lost",
                ),
            ]  # fmt: skip
            assert "x-gemot-fence-checked" not in reply.headers

    run(work())


def test_all_that_failed_is_told_and_nothing_is_done() -> None:
    async def work() -> None:
        async with session_agent() as (agent, servers):
            await agent.ask("PUT", "/v1/kv/k", b"v")
            before = servers.state.read(_LIST, "")
            reply = await ask(
                agent,
                key("set", "new", b"1"),
                key("cas", Index=1),
                key("lock", Session="none"),
                {"Service": {"Verb": "set", "Node": "none", "Service": {"Service": "web"}}},
            )
            assert what(reply) == [
                (1, 'failed to set key "k", index is stale'),
                (2, 'invalid session "none"'),
                (3, "Missing node registration"),
            ]
            assert "x-gemot-index" in reply.headers
            assert servers.state.read(_LIST, "") == before
            assert (await ask(agent, key("get", "new"))).status == 409

    run(work())


def test_nodes_services_and_checks_are_written_and_shown_as_elsewhere() -> None:
    async def work() -> None:
        async with session_agent() as (agent, _):
            node = {
                "Node": "ext",
                "ID": NODE_ID,
                "Address": "10.0.0.7",
                "Meta": {"a": "b"},
                "Datacenter": "DC1",
            }
            service = {"ID": "db1", "Service": "db", "Port": 5432, "Tags": ["v1"], "Namespace": "default"}
            check = {"Node": "ext", "CheckID": "up", "Name": "up", "Status": "passing", "ServiceID": "db1"}
            reply = await ask(
                agent,
                {"Node": {"Verb": "set", "Node": node}},
                {"Service": {"Verb": "cas", "Node": "ext", "Service": service}},
                {"Check": {"Verb": "set", "Check": check}},
            )
            assert reply.status == 200, reply.text
            shown = [next(iter(found.items())) for found in reply.json["Results"]]
            assert [kind for kind, _ in shown] == ["Node", "Service", "Check"]
            (row,) = [
                row for row in (await agent.ask("GET", "/v1/catalog/nodes")).json if row["Node"] == "ext"
            ]
            assert shown[0][1] == row
            (instance,) = (await agent.ask("GET", "/v1/health/service/db?passing")).json
            assert (shown[1][1], shown[2][1]) == (instance["Service"], instance["Checks"][0])
            at = shown[1][1]["ModifyIndex"]
            taken = {"Verb": "delete-cas", "Node": "ext", "Service": {"ID": "db1", "ModifyIndex": at - 1}}
            assert what(await ask(agent, {"Service": taken})) == [
                (0, 'failed to delete service "db1" on node "ext", index is stale')
            ]
            taken["Service"] = {"ID": "db1", "ModifyIndex": at}
            assert (await ask(agent, {"Service": taken})).json == {"Results": [], "Errors": None}
            assert (await agent.ask("GET", "/v1/health/service/db")).json == []

    run(work())


def test_names_of_fields_count_in_any_case_and_pretty_is_indented() -> None:
    async def work() -> None:
        async with session_agent() as (agent, _):
            reply = await ask(
                agent, {"kv": {"verb": "set", "KEY": "k", "value": "MQ==", "Namespace": "x"}}, query="?pretty"
            )
            assert reply.status == 200
            assert reply.text.startswith('{\n    "Results": [')
            assert (await agent.ask("GET", "/v1/kv/k?raw")).body == b"1"

    run(work())


def test_only_reads_are_read_off_the_log_with_a_reads_parameters_and_headers() -> None:
    async def work() -> None:
        async with session_agent() as (agent, servers):
            await agent.ask("PUT", "/v1/kv/t/1", b"v")
            written = len(servers.applied)
            for query, consistency in (("", "leader"), ("?stale", "stale"), ("?consistent", "consistent")):
                reply = await ask(agent, key("get-tree", "t/"), key("check-not-exists", "x"), query=query)
                assert reply.status == 200
                (found,) = reply.json["Results"]
                assert (found["KV"]["Key"], found["KV"]["Value"]) == ("t/1", "dg==")
                assert reply.json["Errors"] is None
                assert (reply.json["KnownLeader"], reply.json["LastContact"]) == (True, 0)
                assert reply.headers["x-consul-knownleader"] == "true"
                assert reply.headers["x-consul-lastcontact"] == "0"
                assert reply.headers["x-consul-effective-consistency"] == consistency
                assert "x-consul-index" not in reply.headers
            # It never waits, whatever is asked.
            assert (await ask(agent, key("get", "t/1"), query="?index=99999&wait=10m")).status == 200
            assert what(await ask(agent, key("get", "x"))) == [(0, 'key "x" doesn\'t exist')]
            assert len(servers.applied) == written
            reply = await ask(agent, key("get", "t/1"), query="?stale&consistent")
            assert (reply.status, reply.text[:13]) == (400, "Cannot specif")
            assert (await ask(agent)).json["Results"] == []

    run(work())


def test_a_named_one_is_done_once_and_answered_twice() -> None:
    async def work() -> None:
        async with session_agent() as (agent, _):
            first = await ask(agent, key("cas", value=b"1"), idempotency_key="once")
            await agent.ask("PUT", "/v1/kv/k", b"other")
            again = await ask(agent, key("cas", value=b"1"), idempotency_key="once")
            assert first.headers["x-gemot-idempotency-key"] == "once"
            assert (again.status, again.body) == (first.status, first.body)
            assert again.headers["x-gemot-index"] == first.headers["x-gemot-index"]
            assert (await agent.ask("GET", "/v1/kv/k?raw")).body == b"other"
            other = await ask(agent, key("set"), idempotency_key="once")
            assert other.status == 422

    run(work())


def test_failures_of_the_tier_say_whether_it_was_done() -> None:
    async def work() -> None:
        async with session_agent() as (agent, servers):
            servers.failure = errors.NoLeader()
            for op in (key("get"), key("set")):
                assert ((await ask(agent, op)).status, (await ask(agent, op)).text) == (
                    500,
                    "No cluster leader",
                )
            servers.failure = errors.OutcomeUnknown("the leader was lost")
            assert (await ask(agent, key("set"))).headers["x-gemot-outcome"] == "unknown"

    run(work())


# -- limits and mistakes ---------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _narrow() -> AsyncIterator[HttpAgent]:
    async with session_agent() as (_, servers):
        limits = family.Limits(max_ops=20, max_bytes=2_000, max_value_bytes=1_000)
        routes = family.routes(servers=servers, limits=limits)
        async with serving(routes) as agent:
            yield agent


def test_limits_are_told_and_hold() -> None:
    async def work() -> None:
        async with _narrow() as agent:
            assert (await ask(agent, key("set", value=bytes(1_000)))).status == 200
            reply = await ask(agent, key("set", value=bytes(1_001)))
            assert (reply.status, reply.text) == (
                413,
                'Value for key "k" is too large (1001 > 1000 bytes). The limit is limits.kv_max_value_size.',
            )
            reply = await ask(agent, *[key("set", value=bytes(900))] * 3)
            assert reply.status == 413
            assert "too large, max size: 2000 bytes. The limit is limits.txn_max_req_len." in reply.text
        async with session_agent() as (agent, _):
            reply = await ask(agent, key("set", "x" * 4097))
            assert (reply.status, reply.text[:26]) == (413, "The key is 4097 bytes long")
            reply = await ask(agent, key("lock", Session="x" * 256))
            assert reply.status == 413

    run(work())


@pytest.mark.parametrize("verb", ["get-or-empty", "set"])
@pytest.mark.parametrize("most", [1, DEFAULT_OPS, MAX_OPS])
def test_as_many_operations_are_taken_as_are_configured_for_reads_and_writes_alike(
    verb: str, most: int
) -> None:
    async def work() -> None:
        async with session_agent() as (_, servers):
            routes = family.routes(servers=servers, limits=family.Limits(max_ops=most))
            async with serving(routes) as agent:
                assert (await ask(agent, *[key(verb)] * most)).status == 200
                index = servers.state.index
                reply = await ask(agent, *[key(verb)] * (most + 1))
                assert (reply.status, reply.text) == (
                    413,
                    f"Transaction contains too many operations ({most + 1} > {most}). The limit is "
                    f"limits.txn_max_ops, which goes up to {MAX_OPS}: raise it or split the transaction.",
                )
                assert servers.state.index == index

    run(work())


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "EOF: the body is empty"),
        (b"{}", "want a list"),
        (b"null", "want a list"),
        (b"[1]", "operation 0: json: want an object"),
        (b"[{}]", "operation 0: want exactly one of KV, Node, Service, Check, found 0"),
        (b'[{"KV":null}]', "found 0"),
        (b'[{"KV":{"Verb":"get","Key":"k"},"Node":{"Verb":"get"}}]', "found 2"),
        (b'[{"KV":{"Verb":"get","Key":"k"}},{"Session":{}}]', 'operation 1: json: unknown field "Session"'),
        (b'[{"KV":[]}]', "want an object"),
        (b'[{"KV":{"Verb":"eat","Key":"k"}}]', 'unknown KV verb "eat", want one of set, cas, lock'),
        (b'[{"KV":{"Key":"k"}}]', 'unknown KV verb ""'),
        (b'[{"Node":{"Verb":"lock"}}]', 'unknown Node verb "lock"'),
        (b'[{"KV":{"Verb":"set","Key":"k","Value":"?"}}]', 'Value of key "k" is not base64'),
        (b'[{"KV":{"Verb":"set","Key":"k","Value":"MQ"}}]', "is not base64"),
        (b'[{"KV":{"Verb":"set","Key":"k","Value":"\xc3\xa4"}}]', "is not base64"),
        (b'[{"KV":{"Verb":"set","Key":"k","Value":5}}]', "Value: expected `str`, got `int`"),
        (b'[{"KV":{"Verb":"set","Key":"k","Flags":-1}}]', "Flags must be from 0 to 18446744073709551615"),
        (b'[{"KV":{"Verb":"cas","Key":"k","Index":18446744073709551616}}]', "Index must be from 0"),
        (b'[{"KV":{"Verb":"cas","Key":"k","Index":1e400}}]', "parse body"),
        (b'[{"KV":{"Verb":"set","Key":"k","Fence":3}}]', "Fence and Resource are for check-fence"),
        (b'[{"KV":{"Verb":"check-fence","Key":"k"}}]', f"Fence must be a number from 1 to {MAX_FENCE}"),
        (b'[{"KV":{"Verb":"fence-guard","Fence":1}}]', "a Resource has 1 to 1024 bytes, not 0"),
        (b'[{"KV":{"Verb":"fence-guard","Resource":"r","Fence":9223372036854775808}}]', "Fence must be"),
        (b'[{"KV":{"Verb":"set","Key":"k","Keys":[]}}]', 'unknown field "Keys"'),
        (b'[{"KV":{"Verb":"set","Key":"\\ud800"}}]', "parse body"),
        (b'[{"KV":{"Verb":"set","Key":"\xff"}}]', "parse body"),
        (b'[{"Node":{"Verb":"cas","Node":{"Node":"n","ModifyIndex":-1}}}]', "ModifyIndex must be from 0"),
        (b'[{"Check":{"Verb":"set","Check":{"Node":"n1","Name":"x","Status":"fine"}}}]', 'status is "fine"'),
        (b'[{"Service":{"Verb":"set","Service":{"Service":"x","Port":70000}}}]', "Service.Port"),
        (b"[" * 100 + b"]" * 100, "nested deeper than 32 levels"),
        (b"[" * 100_000, "nested deeper"),
        (b'[{"KV":{"Verb":"set"', "parse body"),
    ],
)  # fmt: skip
def test_a_body_that_cannot_be_read_says_what_is_wrong_with_which_operation(body: bytes, told: str) -> None:
    async def work() -> None:
        async with session_agent() as (agent, servers):
            written = len(servers.applied)
            reply = await agent.ask("PUT", "/v1/txn", body)
            assert reply.status == 400, reply.text
            assert reply.text.startswith("Failed to parse body: ")
            assert told in reply.text
            assert len(reply.text) < 1_000
            assert len(servers.applied) == written

    run(work())


def test_another_datacenter_is_refused_whoever_names_it() -> None:
    async def work() -> None:
        async with session_agent() as (agent, _):
            reply = await ask(agent, key("set"), query="?dc=other")
            assert (reply.status, reply.text) == (500, "No path to datacenter")
            reply = await ask(agent, {"Node": {"Verb": "set", "Node": {"Node": "n", "Datacenter": "other"}}})
            assert (reply.status, reply.text) == (500, "No path to datacenter")

    run(work())


def test_a_large_one_in_brackets_is_read_in_time_that_grows_with_its_length() -> None:
    """Values are full of what looks like structure; none of it is."""
    reader = family.Reader(datacenter="dc1", limits=family.Limits(max_value_bytes=1 << 20))
    hostile = json.dumps([key("set", "[{" * 1_000 + '\\"' * 500)] * 40).encode()
    ops = reader.read(hostile)
    assert ops[0] == KvOp("set", b"[{" * 1_000 + b'\\"' * 500)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["Verb", "Key", "Node", "Check", "Fence", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(st.dictionaries(st.sampled_from(["KV", "Node", "Service", "Check"]), _json, max_size=2)))
def test_whatever_is_sent_is_read_or_refused(raw: Any) -> None:
    reader = family.Reader(datacenter="dc1", limits=family.Limits(max_value_bytes=100))
    with contextlib.suppress(errors.BadRequest, errors.RuleFailed):
        reader.read(json.dumps(raw).encode())
