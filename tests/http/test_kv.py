"""`/v1/kv/` over real sockets: every status, body and header of Consul's key-value family."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator

import pytest
from support.http_agent import HttpAgent, run, serving, until
from support.local_servers import LocalServers, local_servers

from gemot.agent.http import kv, render
from gemot.server.model import errors
from gemot.server.model.catalog import Node, Register
from gemot.server.model.kv import KvEntry, KvSet
from gemot.server.model.session import CreateSession, DestroySession, Session

SESSION = "11111111-2222-3333-4444-555555555555"
OTHER = "66666666-7777-8888-9999-aaaaaaaaaaaa"
FENCE = "x-gemot-fence"


@contextlib.asynccontextmanager
async def kv_agent() -> AsyncIterator[tuple[HttpAgent, LocalServers]]:
    with local_servers() as servers:
        async with serving(kv.routes(servers=servers), allow_unprintable=True) as agent:
            yield agent, servers


def test_a_value_written_is_read_back_as_a_list_of_one_entry() -> None:
    async def work() -> None:
        async with kv_agent() as (agent, _):
            put = await agent.ask("PUT", "/v1/kv/web/port?flags=42", b"8080")
            assert (put.status, put.body) == (200, b"true")
            assert put.headers["content-type"] == "application/json"
            assert int(put.headers["x-gemot-index"]) > 0
            got = await agent.ask("GET", "/v1/kv/web/port")
            assert got.status == 200
            (entry,) = got.json
            assert list(entry) == ["LockIndex", "Key", "Flags", "Value", "CreateIndex", "ModifyIndex"]
            assert entry["Key"] == "web/port"
            assert entry["Flags"] == 42
            assert base64.b64decode(entry["Value"]) == b"8080"
            assert got.headers["content-type"] == "application/json"
            assert got.headers["x-consul-index"] == str(entry["ModifyIndex"])
            assert got.headers["x-consul-knownleader"] == "true"
            assert got.headers["x-consul-lastcontact"] == "0"
            assert got.headers["x-consul-effective-consistency"] == "leader"

    run(work())


def test_the_json_is_compact_and_pretty_is_indented_by_four() -> None:
    async def work() -> None:
        async with kv_agent() as (agent, _):
            await agent.ask("PUT", "/v1/kv/a", b"v")
            compact = (await agent.ask("GET", "/v1/kv/a")).body
            assert b" " not in compact
            assert not compact.endswith(b"\n")
            for query in ("pretty", "pretty=", "pretty=1"):
                pretty = (await agent.ask("GET", f"/v1/kv/a?{query}")).text
                assert pretty.startswith('[\n    {\n        "LockIndex": 0,\n')
                assert pretty.endswith("\n]\n")

    run(work())


def test_an_entry_shows_its_session_when_one_holds_it() -> None:
    held = KvEntry(b"k", b"v", 0, 1, SESSION, 5, 6)
    assert json.loads(render.kv_entry(held))["Session"] == SESSION
    assert list(json.loads(render.kv_entry(held))).index("Session") == 4


def test_an_empty_value_is_null_and_a_session_is_shown_only_when_held() -> None:
    async def work() -> None:
        async with kv_agent() as (agent, _):
            await agent.ask("PUT", "/v1/kv/a")
            (entry,) = (await agent.ask("GET", "/v1/kv/a")).json
            assert entry["Value"] is None
            assert "Session" not in entry

    run(work())


@pytest.mark.parametrize("query", ["", "?raw", "?recurse", "?keys", "?stale", "?consistent"])
def test_a_missing_key_is_404_with_an_empty_body_and_the_index(query: str) -> None:
    async def work() -> None:
        async with kv_agent() as (agent, _):
            missing = await agent.ask("GET", f"/v1/kv/none{query}")
            assert (missing.status, missing.body) == (404, b"")
            assert int(missing.headers["x-consul-index"]) >= 1
            assert missing.headers["x-consul-knownleader"] == "true"
            assert missing.headers["x-consul-lastcontact"] == "0"

    run(work())


def test_raw_gives_the_bytes_and_keeps_browsers_from_running_them() -> None:
    async def work() -> None:
        async with kv_agent() as (agent, _):
            page = b"<script>alert(1)</script>\x00\xff"
            await agent.ask("PUT", "/v1/kv/page", page)
            for query in ("raw", "raw=true", "raw&pretty"):
                raw = await agent.ask("GET", f"/v1/kv/page?{query}")
                assert (raw.status, raw.body) == (200, page)
                assert raw.headers["content-type"] == "text/plain"
                assert raw.headers["x-content-type-options"] == "nosniff"
                assert raw.headers["content-security-policy"] == "sandbox"
                assert int(raw.headers["x-consul-index"]) > 0

    run(work())


def test_recurse_lists_by_key_bytes_and_ignores_raw() -> None:
    async def work() -> None:
        async with kv_agent() as (agent, _):
            for key in ("p/b", "p/a", "p", "p-x", "q"):
                await agent.ask("PUT", f"/v1/kv/{key}", b"v")
            listed = await agent.ask("GET", "/v1/kv/p?recurse&raw")
            assert [entry["Key"] for entry in listed.json] == ["p", "p-x", "p/a", "p/b"]
            assert [entry["Key"] for entry in (await agent.ask("GET", "/v1/kv/p/?recurse=1")).json] == [
                "p/a",
                "p/b",
            ]
            assert len((await agent.ask("GET", "/v1/kv/?recurse")).json) == 5

    run(work())


@pytest.mark.parametrize(
    ("target", "keys"),
    [
        ("a/?keys", ["a/b/c", "a/b/d", "a/e"]),
        ("a/?keys=True&separator=%2F", ["a/b/", "a/e"]),
        ("a/?keys&separator=/", ["a/b/", "a/e"]),
        ("a/?keys&seperator=/", ["a/b/", "a/e"]),
        ("?keys&separator=/", ["a/", "z"]),
        ("a/?keys&separator=", ["a/b/c", "a/b/d", "a/e"]),
        ("a?keys&separator=b%2F", ["a/b/", "a/e"]),
    ],
)
def test_keys_are_cut_at_the_separator(target: str, keys: list[str]) -> None:
    async def work() -> None:
        async with kv_agent() as (agent, _):
            for key in ("a/b/c", "a/b/d", "a/e", "z"):
                await agent.ask("PUT", f"/v1/kv/{key}", b"v")
            assert (await agent.ask("GET", f"/v1/kv/{target}")).json == keys

    run(work())


def test_keys_of_an_empty_store_are_an_empty_list() -> None:
    async def work() -> None:
        async with kv_agent() as (agent, _):
            empty = await agent.ask("GET", "/v1/kv/?keys")
            assert (empty.status, empty.body) == (200, b"[]")
            assert (await agent.ask("GET", "/v1/kv/?recurse")).status == 404

    run(work())


def test_cas_and_delete_answer_as_consul_does() -> None:
    async def work() -> None:
        async with kv_agent() as (agent, servers):
            assert (await agent.ask("PUT", "/v1/kv/c?cas=0", b"1")).body == b"true"
            assert (await agent.ask("PUT", "/v1/kv/c?cas=0", b"2")).body == b"false"
            index = servers.rows[b"c"].modify_index
            assert (await agent.ask("PUT", f"/v1/kv/c?cas={index}", b"2")).body == b"true"
            failed = await agent.ask("PUT", f"/v1/kv/c?cas={index}", b"3")
            assert (failed.status, failed.body) == (200, b"false")
            assert (await agent.ask("PUT", "/v1/kv/none?cas=5", b"3")).body == b"false"
            assert (await agent.ask("DELETE", "/v1/kv/c?cas=1")).body == b"false"
            assert (await agent.ask("DELETE", "/v1/kv/none?cas=1")).body == b"true"
            assert (await agent.ask("DELETE", "/v1/kv/none")).body == b"true"
            assert (await agent.ask("DELETE", "/v1/kv/?recurse")).body == b"true"
            assert servers.rows == {}

    run(work())


REFUSED = [
    ("GET", "", 400, "Missing key name"),
    ("PUT", "", 400, "Missing key name"),
    ("DELETE", "", 400, "Missing key name"),
    ("GET", "?raw", 400, "Missing key name"),
    ("DELETE", "?cas=1", 400, "Missing key name"),
    ("PUT", "k?cas=1&acquire=s", 400, "Conflicting flags: acquire=s&cas=1\n"),
    ("PUT", "k?cas=1&release=s", 400, "Conflicting flags: cas=1&release=s\n"),
    ("PUT", "k?release=a%2Fb&acquire=s", 400, "Conflicting flags: acquire=s&release=a%2Fb\n"),
    ("DELETE", "k?recurse&cas=1", 400, "Conflicting flags: cas=1&recurse=\n"),
    ("PUT", "k?flags=abc", 500, 'strconv.ParseUint: parsing "abc": invalid syntax'),
    ("PUT", "k?flags=-1", 500, 'strconv.ParseUint: parsing "-1": invalid syntax'),
    ("PUT", "k?flags=", 500, 'strconv.ParseUint: parsing "": invalid syntax'),
    (
        "PUT",
        "k?flags=18446744073709551616",
        500,
        'strconv.ParseUint: parsing "18446744073709551616": value out of range',
    ),
    ("PUT", "k?cas=x", 500, 'strconv.ParseUint: parsing "x": invalid syntax'),
    ("PUT", "k?cas", 500, 'strconv.ParseUint: parsing "": invalid syntax'),
    ("DELETE", "k?cas=1.0", 500, 'strconv.ParseUint: parsing "1.0": invalid syntax'),
    ("PUT", "k?acquire=", 500, "missing session"),
    ("PUT", "k?release", 500, "missing session"),
    ("PUT", f"k?acquire={SESSION}", 500, f'invalid session "{SESSION}"'),
    ("PUT", "k?acquire=%22", 500, 'invalid session """'),
    *[
        (
            "PUT",
            f"k?{how}={'s' * 5000}",
            413,
            "The session's id has 5000 characters, the limit is 255: give the one that its creation answered",
        )
        for how in ("acquire", "release")
    ],
    ("GET", "k?index=x", 400, "Invalid index"),
    ("GET", "k?index=1&wait=10", 400, "Invalid wait time"),
    ("GET", "k?recurse&max_stale=x", 400, 'Invalid max_stale value "x"'),
    ("GET", "k?keys&stale&consistent", 400, "Cannot specify ?stale with ?consistent, conflicting semantics."),
    ("GET", "k?dc=elsewhere", 500, "No path to datacenter"),
    ("PUT", "k?dc=elsewhere", 500, "No path to datacenter"),
    ("DELETE", "k?dc=elsewhere", 500, "No path to datacenter"),
    ("PUT", "k?ns=team", 400, 'Namespaces are not supported: leave the parameter "ns" out'),
    ("POST", "k", 405, "method POST not allowed"),
    ("PUT", "k" * 4097, 413, "The key is 4097 bytes long, the limit is 4096 bytes: use a shorter one"),
    ("GET", "%zz", 400, 'invalid URL escape "%zz"'),
    ("GET", "k?x=%", 400, 'invalid URL escape "%"'),
    ("GET", "k?separator=%ff", 400, "the query is not valid UTF-8"),
]


@pytest.mark.parametrize(("method", "rest", "status", "text"), REFUSED)
def test_mistakes_are_refused_in_consuls_words_and_change_nothing(
    method: str, rest: str, status: int, text: str
) -> None:
    async def work() -> None:
        async with kv_agent() as (agent, servers):
            await agent.ask("PUT", "/v1/kv/k", b"before")
            before = dict(servers.rows)
            reply = await agent.ask(method, f"/v1/kv/{rest}", b"after" if method == "PUT" else b"")
            assert (reply.status, reply.text) == (status, text)
            assert reply.headers["content-type"] == "text/plain; charset=utf-8"
            assert servers.rows == before

    run(work())


def test_the_greatest_flags_pass_whole() -> None:
    async def work() -> None:
        async with kv_agent() as (agent, _):
            await agent.ask("PUT", "/v1/kv/k?flags=18446744073709551615", b"v")
            assert b'"Flags":18446744073709551615,' in (await agent.ask("GET", "/v1/kv/k")).body

    run(work())


def test_a_value_over_512_kib_is_413_naming_limit_and_setting() -> None:
    async def work() -> None:
        async with kv_agent() as (agent, servers):
            assert (await agent.ask("PUT", "/v1/kv/big", b"x" * 524288)).body == b"true"
            over = await agent.ask("PUT", "/v1/kv/over", b"x" * 524289)
            assert over.status == 413
            assert over.text == (
                "Request body(524289 bytes) too large, max size: 524288 bytes. "
                "The limit is limits.kv_max_value_size."
            )
            assert list(servers.rows) == [b"big"]

    run(work())


@pytest.mark.parametrize(
    ("raw", "key"),
    [
        ("n%2Fa", b"n/a"),
        ("a%252Fb", b"a%2Fb"),
        ("%2Flead", b"/lead"),
        ("a%2F%2Fb", b"a//b"),
        ("%2e%2e%2fetc%2fpasswd", b"../etc/passwd"),
        ("sp%20ace", b"sp ace"),
        ("pl+us", b"pl+us"),
        ("nul%00byte", b"nul\x00byte"),
        ("%c0%af", b"\xc0\xaf"),
        ("%ff", b"\xff"),
        ("%C3%A9", "é".encode()),
        ("e%CC%81", "e\u0301".encode()),
        ("folder/", b"folder/"),
        ("a:b@c;d,e=f!g*h'(i)", b"a:b@c;d,e=f!g*h'(i)"),
        ("x.json", b"x.json"),
        ("%F0%9F%98%80", "😀".encode()),
        ("%22%5C", b'"\\'),
        ("keys", b"keys"),
        ("%3Fraw", b"?raw"),
        ("%25", b"%"),
        ("k" * 4096, b"k" * 4096),
    ],
)
def test_a_key_is_the_bytes_of_its_path_decoded_once(raw: str, key: bytes) -> None:
    async def work() -> None:
        async with kv_agent() as (agent, servers):
            assert (await agent.ask("PUT", f"/v1/kv/{raw}", b"v")).body == b"true"
            assert list(servers.rows) == [key]
            (entry,) = (await agent.ask("GET", f"/v1/kv/{raw}")).json
            assert entry["Key"] == key.decode("utf-8", "replace")
            assert (await agent.ask("GET", f"/v1/kv/{raw}?raw")).body == b"v"
            await agent.ask("DELETE", f"/v1/kv/{raw}")
            assert servers.rows == {}

    run(work())


@pytest.mark.parametrize(
    ("target", "moved"),
    [
        ("/v1/kv//a", "/v1/kv/a"),
        ("/v1/kv/a/../b?raw", "/v1/kv/b?raw"),
        ("/v1/kv/./a", "/v1/kv/a"),
        ("/v1/kv", "/v1/kv/"),
        ("/v1/kv?keys", "/v1/kv/?keys"),
    ],
)
def test_a_path_that_is_not_clean_is_answered_by_301(target: str, moved: str) -> None:
    async def work() -> None:
        async with kv_agent() as (agent, servers):
            for method in ("GET", "PUT"):
                reply = await agent.ask(method, target)
                assert (reply.status, reply.headers["location"]) == (301, moved)
            assert servers.rows == {}

    run(work())


def test_a_body_is_never_taken_for_a_form() -> None:
    async def work() -> None:
        async with kv_agent() as (agent, servers):
            kind = {"Content-Type": "application/x-www-form-urlencoded"}
            await agent.ask("PUT", "/v1/kv/k", b"cas=0&flags=7", kind)
            assert servers.rows[b"k"].value == b"cas=0&flags=7"
            assert servers.rows[b"k"].flags == 0

    run(work())


def test_the_idempotency_key_and_the_token_go_with_the_write() -> None:
    async def work() -> None:
        async with kv_agent() as (agent, servers):
            named = await agent.ask(
                "PUT", "/v1/kv/k", b"v", {"Idempotency-Key": "once", "X-Consul-Token": "t"}
            )
            assert named.headers["x-gemot-idempotency-key"] == "once"
            token, key = servers.asked[-1]
            assert token == "t"
            assert key is not None
            assert key.key == "once"
            plain = await agent.ask("PUT", "/v1/kv/k", b"v")
            assert "x-gemot-idempotency-key" not in plain.headers
            assert servers.asked[-1] == ("", None)

    run(work())


def test_a_blocking_read_ends_when_the_key_changes() -> None:
    async def work() -> None:
        async with kv_agent() as (agent, servers):
            waiting = await agent.connect()
            waiting.send(b"GET /v1/kv/k?index=10&wait=60s HTTP/1.1\r\nHost: x\r\n\r\n")
            await until(lambda: servers.waiting)
            await agent.ask("PUT", "/v1/kv/k", b"v")
            reply = await waiting.reply()
            assert reply.status == 200
            assert int(reply.headers["x-consul-index"]) > 10
            await waiting.close()

    run(work())


def test_a_blocking_read_is_given_up_when_its_client_goes() -> None:
    async def work() -> None:
        async with kv_agent() as (agent, servers):
            waiting = await agent.connect()
            waiting.send(b"GET /v1/kv/k?index=10 HTTP/1.1\r\nHost: x\r\n\r\n")
            await until(lambda: servers.waiting)
            await waiting.close()
            await until(lambda: not servers.waiting)

    run(work())


def test_without_a_leader_reads_and_writes_say_so_with_500() -> None:
    async def work() -> None:
        async with kv_agent() as (agent, servers):
            servers.failure = errors.NoLeader()
            for method in ("GET", "PUT", "DELETE"):
                reply = await agent.ask(method, "/v1/kv/k")
                assert (reply.status, reply.text) == (500, "No cluster leader")
            servers.failure = errors.OutcomeUnknown("the leader was lost while the write was under way")
            reply = await agent.ask("PUT", "/v1/kv/k", b"v")
            assert reply.status == 500
            assert reply.headers["x-gemot-outcome"] == "unknown"
            assert reply.text.startswith("Outcome unknown: ")

    run(work())


def test_the_write_asked_is_the_write_applied() -> None:
    async def work() -> None:
        async with kv_agent() as (agent, servers):
            await agent.ask("PUT", f"/v1/kv/k?acquire={SESSION}&flags=3", b"v")
            await agent.ask("PUT", f"/v1/kv/k?release={SESSION}", b"")
            await agent.ask("PUT", "/v1/kv/k?cas=7&flags=0", b"w")
            assert servers.applied == [
                KvSet(b"k", b"v", 3, acquire=SESSION),
                KvSet(b"k", b"", 0, release=SESSION),
                KvSet(b"k", b"w", 0, cas=7),
            ]

    run(work())


async def _begin(servers: LocalServers, id: str) -> None:
    await servers.apply(Register(Node("n1", "10.0.0.1")))
    await servers.apply(CreateSession(Session(id, "n1", lock_delay_ns=0)))


def test_an_acquired_lock_tells_its_fence_and_the_key_shows_it_from_then_on() -> None:
    async def work() -> None:
        async with kv_agent() as (agent, servers):
            await _begin(servers, SESSION)
            await _begin(servers, OTHER)
            await agent.ask("PUT", "/v1/kv/k", b"v")
            (entry,) = (await agent.ask("GET", "/v1/kv/k")).json
            assert "Fence" not in entry
            taken = await agent.ask("PUT", f"/v1/kv/k?acquire={SESSION}", b"mine")
            assert (taken.status, taken.body) == (200, b"true")
            fence = int(taken.headers[FENCE])
            assert fence == int(taken.headers["x-gemot-index"])
            (entry,) = (await agent.ask("GET", "/v1/kv/k")).json
            assert list(entry)[:3] == ["LockIndex", "Fence", "Key"]
            assert (entry["LockIndex"], entry["Fence"], entry["Session"]) == (1, fence, SESSION)
            again = await agent.ask("PUT", f"/v1/kv/k?acquire={SESSION}", b"still mine")
            assert (again.body, again.headers[FENCE]) == (b"true", str(fence))
            refused = await agent.ask("PUT", f"/v1/kv/k?acquire={OTHER}", b"yours")
            assert (refused.status, refused.body) == (200, b"false")
            assert FENCE not in refused.headers
            assert (await agent.ask("GET", "/v1/kv/k?raw")).body == b"still mine"
            released = await agent.ask("PUT", f"/v1/kv/k?release={SESSION}", b"")
            assert (released.body, FENCE in released.headers) == (b"true", False)
            (entry,) = (await agent.ask("GET", "/v1/kv/?recurse")).json
            assert (entry["LockIndex"], entry["Fence"], "Session" in entry) == (1, fence, False)
            next_one = await agent.ask("PUT", f"/v1/kv/k?acquire={OTHER}", b"yours")
            assert int(next_one.headers[FENCE]) > fence

    run(work())


def test_no_other_write_tells_a_fence() -> None:
    async def work() -> None:
        async with kv_agent() as (agent, servers):
            await _begin(servers, SESSION)
            for method, query in (("PUT", ""), ("PUT", "?flags=1"), ("PUT", "?cas=0"), ("DELETE", "")):
                assert FENCE not in (await agent.ask(method, f"/v1/kv/k{query}", b"v")).headers
            await agent.ask("PUT", f"/v1/kv/k?acquire={SESSION}", b"v")
            assert FENCE not in (await agent.ask("PUT", "/v1/kv/k", b"v")).headers

    run(work())


def test_an_acquisition_under_a_name_is_answered_as_of_now() -> None:
    """The answer to an earlier try may tell of a lock that is lost since."""

    async def work() -> None:
        async with kv_agent() as (agent, servers):
            await _begin(servers, SESSION)
            ask = ("PUT", f"/v1/kv/k?acquire={SESSION}", b"v", {"Idempotency-Key": "once"})
            first, same = await agent.ask(*ask), await agent.ask(*ask)
            assert (same.body, same.headers[FENCE]) == (b"true", first.headers[FENCE])
            assert "X-Gemot-Idempotency-Key" not in same.headers
            await agent.ask("DELETE", "/v1/kv/k")
            again = await agent.ask(*ask)
            assert again.body == b"true"
            assert int(again.headers[FENCE]) > int(first.headers[FENCE])
            await servers.apply(DestroySession(SESSION))
            gone = await agent.ask(*ask)
            assert (gone.status, gone.body) == (500, f'invalid session "{SESSION}"'.encode())

    run(work())


def test_many_clients_at_once_get_their_own_answers() -> None:
    async def work() -> None:
        async with kv_agent() as (agent, _):
            await asyncio.gather(*(agent.ask("PUT", f"/v1/kv/k{n}", b"%d" % n) for n in range(50)))
            replies = await asyncio.gather(*(agent.ask("GET", f"/v1/kv/k{n}?raw") for n in range(50)))
            assert [reply.body for reply in replies] == [b"%d" % n for n in range(50)]

    run(work())
