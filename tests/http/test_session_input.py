"""What is asked of `/v1/session/`: read as Consul reads it, every mistake told, nothing half done."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.http_agent import run
from support.sessions import made, session_agent, sessions

from gemot.agent.http import session as family
from gemot.server.model.session import Session

NONE = "11111111-2222-3333-4444-555555555555"
DAY_NS = 86_400_000_000_000


def read(**body: Any) -> Session:
    return family.read_session(json.dumps(body).encode(), node="n1", least_ttl_ns=10_000_000_000)


@pytest.mark.parametrize(
    ("given", "checks"),
    [
        ({}, ("serfHealth",)),
        ({"NodeChecks": None, "Checks": None}, ("serfHealth",)),
        ({"NodeChecks": []}, ()),
        ({"Checks": []}, ()),
        ({"Checks": ["disk"]}, ("disk",)),
        ({"NodeChecks": ["disk", "disk"]}, ("disk",)),
        ({"NodeChecks": ["disk"], "Checks": []}, ("disk",)),
        ({"NodeChecks": ["disk"], "Checks": ["serfHealth", "disk"]}, ("disk", "serfHealth")),
        ({"node_checks": ["disk"]}, ("disk",)),
    ],
)
def test_an_empty_list_of_checks_is_none_and_the_older_field_counts_too(
    given: dict[str, Any], checks: tuple[str, ...]
) -> None:
    assert read(**given).node_checks == checks


@pytest.mark.parametrize(
    ("given", "checks"),
    [
        (None, None),
        ([], ()),
        ([{"ID": "a"}, {"id": "b", "Namespace": "default"}], (("a", ""), ("b", "default"))),
        ([{"ID": "a", "Namespace": None, "Other": 1}], (("a", ""),)),
    ],
)
def test_checks_of_services_are_none_or_a_list(
    given: Any, checks: tuple[tuple[str, str], ...] | None
) -> None:
    assert read(ServiceChecks=given).service_checks == checks


@pytest.mark.parametrize(
    ("given", "delay_ns"),
    [
        (None, 15_000_000_000),
        ("0s", 0),
        ("0", 0),
        (0, 0),
        ("15s", 15_000_000_000),
        ("1m30s", 90_000_000_000),
        ("500ns", 500),
        (1, 1_000_000_000),
        (15, 15_000_000_000),
        (999, 999_000_000_000),
        (1000, 1000),
        (15_000_000_000, 15_000_000_000),
        (1.5e10, 15_000_000_000),
    ],
)
def test_a_small_number_of_a_lock_delay_counts_seconds(given: Any, delay_ns: int) -> None:
    assert read(LockDelay=given).lock_delay_ns == delay_ns


@pytest.mark.parametrize(
    ("ttl", "ttl_ms"),
    [
        ("", 0), ("0", 0), ("0s", 0), ("-0s", 0), ("10s", 10_000), ("10000ms", 10_000), ("1m30s", 90_000),
        ("24h", 86_400_000), ("1440m", 86_400_000), ("10.0000001s", 10_001),
    ],
)  # fmt: skip
def test_a_ttl_is_kept_as_given_and_never_shortened(ttl: str, ttl_ms: int) -> None:
    found = read(TTL=ttl)
    assert (found.ttl, found.ttl_ms) == (ttl, ttl_ms)


REFUSED: list[tuple[str, bytes, int, str]] = [
    ("not json", b"{", 400, "Request decode failed: "),
    ("not utf-8", b'{"Name":"\xff"}', 400, "Request decode failed: "),
    ("lone surrogate", b'{"Name":"\\ud800"}', 400, "Request decode failed: "),
    ("half a number", b'{"LockDelay":1e', 400, "Request decode failed: "),
    ("two objects", b"{}{}", 400, "Request decode failed: "),
    ("spaces", b"   ", 400, "Request decode failed: EOF"),
    ("list", b"[]", 400, "Request decode failed: want an object, not a list"),
    ("null", b"null", 400, "Request decode failed: want an object, not null"),
    ("deep", b'{"x":' * 40, 400, "nested deeper than 32 levels"),
    ("name a number", b'{"Name":7}', 400, "field Name wants a text, not a number"),
    ("name a list", b'{"Name":["a"]}', 400, "field Name wants a text, not a list"),
    ("name huge", b'{"Name":"%b"}' % (b"n" * 2000), 400, "field Name is 2000 bytes long, the limit is 1024"),
    ("node an object", b'{"Node":{}}', 400, "field Node wants a text, not an object"),
    ("node huge", b'{"Node":"%b"}' % (b"n" * 2000), 400, "field Node is 2000 bytes long, the limit is 512"),
    ("node unknown", b'{"Node":"n9"}', 500, "Missing node registration"),
    ("behavior", b'{"Behavior":"x"}', 500, "Invalid Behavior setting 'x'"),
    ("behavior in capitals", b'{"Behavior":"DELETE"}', 500, "Invalid Behavior setting 'DELETE'"),
    ("behavior huge", b'{"Behavior":"%b"}' % (b"b" * 3000), 500, "Invalid Behavior setting 'bbb"),
    ("behavior a flag", b'{"Behavior":true}', 400, "field Behavior wants a text, not true or false"),
    ("ttl a number", b'{"TTL":10}', 400, "field TTL wants a text, not a number"),
    ("ttl no duration", b'{"TTL":"soon"}', 500, "Session TTL 'soon' invalid: time: invalid duration"),
    ("ttl without unit", b'{"TTL":"10"}', 500, "Session TTL '10' invalid: time: missing unit"),
    ("ttl huge", b'{"TTL":"%bs"}' % (b"9" * 3000), 500, "Session TTL '999"),
    ("ttl of ages", b'{"TTL":"9999999h"}', 500, "Session TTL '9999999h' invalid: time: invalid duration"),
    (
        "ttl too short",
        b'{"TTL":"9.999s"}',
        500,
        "Invalid Session TTL '9999000000', must be between [10s=24h0m0s]",
    ),
    (
        "ttl too long",
        b'{"TTL":"24h1ns"}',
        500,
        f"Invalid Session TTL '{DAY_NS + 1}', must be between [10s=24h0m0s]",
    ),
    ("ttl negative", b'{"TTL":"-30s"}', 500, "Invalid Session TTL '-30000000000', must be between"),
    ("ttl of a nanosecond", b'{"TTL":"1ns"}', 500, "Invalid Session TTL '1', must be between"),
    ("delay negative", b'{"LockDelay":"-1s"}', 400, "field LockDelay must not be negative"),
    ("delay a negative number", b'{"LockDelay":-5}', 400, "field LockDelay must not be negative"),
    ("delay a flag", b'{"LockDelay":true}', 400, "field LockDelay wants a duration such as 15s"),
    ("delay a list", b'{"LockDelay":[]}', 400, "field LockDelay wants a duration such as 15s"),
    ("delay a part", b'{"LockDelay":1.5}', 400, "field LockDelay wants a duration such as 15s"),
    ("delay empty", b'{"LockDelay":""}', 400, "field LockDelay: time: invalid duration"),
    ("delay no duration", b'{"LockDelay":"x"}', 400, "field LockDelay: time: invalid duration"),
    ("delay of ages", b'{"LockDelay":1e300}', 400, "field LockDelay: time: invalid duration"),
    ("delay of many digits", b'{"LockDelay":%b}' % (b"9" * 3000), 400, "LockDelay"),
    ("checks a text", b'{"Checks":"serfHealth"}', 400, "field Checks wants a list, not a text"),
    ("checks of numbers", b'{"NodeChecks":[1]}', 400, "field NodeChecks wants a text, not a number"),
    ("checks of null", b'{"NodeChecks":[null]}', 400, "field NodeChecks wants a text, not null"),
    (
        "too many checks",
        b'{"NodeChecks":[%b"x"]}' % (b'"a",' * 9999),
        400,
        "field NodeChecks has 10000 entries, the limit is 64",
    ),
    (
        "too many checks together",
        json.dumps({"NodeChecks": [f"a{n}" for n in range(64)], "Checks": ["b"]}).encode(),
        500,
        "The session names 65 checks, the limit is 64",
    ),
    (
        "check huge",
        b'{"NodeChecks":["%b"]}' % (b"c" * 3000),
        400,
        "field NodeChecks is 3000 bytes long, the limit is",
    ),
    ("check unknown", b'{"NodeChecks":["nope"]}', 500, "Missing check 'nope' registration"),
    ("check critical", b'{"NodeChecks":["sick"]}', 500, "Check 'sick' is in critical state"),
    ("service checks an object", b'{"ServiceChecks":{}}', 400, "ServiceChecks wants a list, not an object"),
    ("service checks of texts", b'{"ServiceChecks":["a"]}', 400, "ServiceChecks: want an object, not a text"),
    (
        "service check a number",
        b'{"ServiceChecks":[{"ID":7}]}',
        400,
        "ServiceChecks: field ID wants a text, not a number",
    ),
    (
        "service check elsewhere",
        b'{"ServiceChecks":[{"ID":"web-check","Namespace":"team"}]}',
        400,
        "ServiceChecks: field Namespace: only the default one exists",
    ),
    ("service check unknown", b'{"ServiceChecks":[{"ID":"x"}]}', 500, "Missing check 'x' registration"),
    ("namespace", b'{"Namespace":"team"}', 400, "field Namespace: only the default one exists"),
    ("body huge", b'{"Name":"%b"}' % (b"n" * 70_000), 413, "max size: 65536 bytes"),
]


@pytest.mark.parametrize(
    ("body", "status", "text"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_a_mistaken_wish_is_refused_in_words_and_no_session_begins(
    body: bytes, status: int, text: str
) -> None:
    async def work() -> None:
        async with session_agent() as (agent, servers):
            before = servers.content
            reply = await agent.ask("PUT", "/v1/session/create", body)
            assert (reply.status, text in reply.text) == (status, True), reply.text
            assert reply.headers["content-type"] == "text/plain; charset=utf-8"
            assert len(reply.body) < 400
            assert servers.content == before
            assert sessions(servers) == []

    run(work())


WRONG = [
    ("PUT", "destroy/", 400, "Missing session"),
    ("PUT", "renew/", 400, "Missing session"),
    ("GET", "info/", 400, "Missing session"),
    ("GET", "node/", 400, "Missing node name"),
    ("PUT", f"renew/{NONE}", 404, f"Session id '{NONE}' not found"),
    ("PUT", "renew/%22%3E'", 404, "Session id '\">'' not found"),
    ("PUT", "destroy/%ff", 400, "the name in the path is not valid UTF-8"),
    ("GET", "info/%ff", 400, "the name in the path is not valid UTF-8"),
    ("GET", "node/%ff", 400, "the name in the path is not valid UTF-8"),
    ("GET", "info/%00", 400, "the URL path holds characters that cannot be printed"),
    *[
        (
            method,
            f"{verb}/{'x' * 5000}",
            413,
            "The session's id has 5000 characters, the limit is 255: give the one that its creation answered",
        )
        for method, verb in (("PUT", "destroy"), ("PUT", "renew"), ("GET", "info"))
    ],
    *[
        (method, f"{path}?dc=elsewhere", 500, "No path to datacenter")
        for method, path in (("PUT", "create"), ("PUT", "destroy/a"), ("PUT", "renew/a"), ("GET", "info/a"),
                             ("GET", "node/a"), ("GET", "list"))
    ],
    ("PUT", "create?ns=team", 400, 'Namespaces are not supported: leave the parameter "ns" out'),
    ("GET", "list?index=x", 400, "Invalid index"),
    ("GET", "list?index=1&wait=10", 400, "Invalid wait time"),
    ("GET", "info/a?stale&consistent", 400,
     "Cannot specify ?stale with ?consistent, conflicting semantics."),
    ("GET", "create", 405, "method GET not allowed"),
    ("POST", "create", 405, "method POST not allowed"),
    ("DELETE", "destroy/a", 405, "method DELETE not allowed"),
    ("GET", "renew/a", 405, "method GET not allowed"),
    ("PUT", "info/a", 405, "method PUT not allowed"),
    ("PUT", "list", 405, "method PUT not allowed"),
    ("PUT", "node/n1", 405, "method PUT not allowed"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "rest", "status", "text"), WRONG)
def test_a_mistaken_path_or_method_is_told_and_ends_no_session(
    method: str, rest: str, status: int, text: str
) -> None:
    async def work() -> None:
        async with session_agent() as (agent, servers):
            await made(agent, TTL="20s")
            before = servers.content
            reply = await agent.ask(method, f"/v1/session/{rest}")
            assert (reply.status, reply.text) == (status, text)
            assert servers.content == before

    run(work())


def test_random_bodies_are_answered_and_leave_no_session_half_begun() -> None:
    pieces = ("null", "true", "-1", "1e999", '""', '"0s"', "[]", "[[]]", "{}", '[{"ID":[]}]', '"\\u0000"')
    fields = ("Name", "Node", "LockDelay", "Behavior", "TTL", "Checks", "NodeChecks", "ServiceChecks")

    async def work() -> None:
        async with session_agent() as (agent, servers):
            begun = 0
            for field in fields:
                for piece in pieces:
                    reply = await agent.ask("PUT", "/v1/session/create", f'{{"{field}":{piece}}}'.encode())
                    assert reply.status in (200, 400, 500), (field, piece)
                    assert 0 < len(reply.body) < 200, (field, piece)
                    begun += reply.status == 200
            assert len(sessions(servers)) == begun

    run(work())
