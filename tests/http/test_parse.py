"""Query parameters: every spelling clients use, and Consul's text for each mistake."""

from __future__ import annotations

import pytest

from gemot.agent.http import parse
from gemot.agent.http.message import Request
from gemot.agent.http.target import read_query
from gemot.server.model.errors import BadRequest, GemotError, RuleFailed
from gemot.server.model.query import Options


def ask(
    query: str = "", headers: dict[str, str] | None = None, token: str = "", body: bytes = b""
) -> Request:
    return Request("GET", b"k", read_query(query) if query else (), headers or {}, body, token, "127.0.0.1")


def options(query: str, **headers: str) -> Options:
    renamed = {name.replace("_", "-"): value for name, value in headers.items()}
    return parse.read_options(ask(query, renamed), datacenter="dc1")


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("", Options()),
        ("index=5&wait=10s&stale=1", Options(index=5, wait_ms=10_000, consistency="stale")),
        ("index=5&wait=120000ms", Options(index=5, wait_ms=120_000)),
        ("index=5&wait=9.9s", Options(index=5, wait_ms=9_900)),
        ("index=0&wait=", Options()),
        ("wait=0s", Options()),
        ("wait=-5s", Options()),
        ("wait=1us", Options(wait_ms=1)),
        ("index=18446744073709551615", Options(index=(1 << 64) - 1)),
        ("stale", Options(consistency="stale")),
        ("stale=false", Options(consistency="stale")),
        ("stale=True", Options(consistency="stale")),
        ("consistent", Options(consistency="consistent")),
        ("consistent=1", Options(consistency="consistent")),
        ("max_stale=10s", Options(consistency="stale", max_stale_ms=10_000)),
        ("stale&leader", Options()),
        ("cached", Options()),
        ("dc=dc1", Options()),
        ("dc=", Options()),
        ("dc=DC1", Options()),
        ("dc=dc9&datacenter=dc1", Options()),
        ("ns=default&partition=default", Options()),
        ("near=_agent&pretty&filter=", Options()),
        ("index=7&index=9", Options(index=7)),
    ],
)
def test_the_ways_to_say_how_to_read(query: str, wanted: Options) -> None:
    assert options(query) == wanted


@pytest.mark.parametrize(
    ("query", "error", "text"),
    [
        ("index=x", BadRequest, "Invalid index"),
        ("index=-1", BadRequest, "Invalid index"),
        ("index=1.5", BadRequest, "Invalid index"),
        ("index=18446744073709551616", BadRequest, "Invalid index"),
        ("index=%D9%A1", BadRequest, "Invalid index"),
        ("wait=10", BadRequest, "Invalid wait time"),
        ("wait=soon", BadRequest, "Invalid wait time"),
        ("max_stale=x", BadRequest, 'Invalid max_stale value "x"'),
        ("stale&consistent", BadRequest, "Cannot specify ?stale with ?consistent, conflicting semantics."),
        (
            "max_stale=1s&consistent",
            BadRequest,
            "Cannot specify ?stale with ?consistent, conflicting semantics.",
        ),
        ("cached&consistent", BadRequest, "Cannot specify ?cached with ?consistent, conflicting semantics."),
        ("dc=dc9", RuleFailed, "No path to datacenter"),
        ("dc=dc1&datacenter=dc9", RuleFailed, "No path to datacenter"),
        ("ns=team", BadRequest, 'Namespaces are not supported: leave the parameter "ns" out'),
        ("partition=p", BadRequest, 'Partitions are not supported: leave the parameter "partition" out'),
        ("peer=p", BadRequest, 'Cluster peers are not supported: leave the parameter "peer" out'),
        ("filter=Service.Port+%3D%3D+1", BadRequest, "filter is not supported yet"),
    ],
)
def test_mistakes_get_consuls_text(query: str, error: type[GemotError], text: str) -> None:
    with pytest.raises(error) as caught:
        options(query)
    assert caught.value.message.startswith(text)


@pytest.mark.parametrize("header", ["max-age=x", "max-age", "stale-if-error=-1", "must-revalidate, max-age="])
def test_a_bad_cache_control_is_refused(header: str) -> None:
    with pytest.raises(BadRequest, match=r"Invalid Cache-Control header\."):
        options("cached", cache_control=header)


@pytest.mark.parametrize("header", ["max-age=0", "no-cache", "max-age=5, must-revalidate, stale-if-error=60"])
def test_a_good_cache_control_is_taken(header: str) -> None:
    assert options("cached", cache_control=header) == Options()


def test_the_token_goes_with_the_read() -> None:
    assert parse.read_options(ask(token="secret"), datacenter="dc1").token == "secret"
    assert parse.read_options(ask("stale", token="secret"), datacenter="dc1").token == "secret"


@pytest.mark.parametrize("query", ["x", "x=", "x=1", "x=t", "x=true", "x=True", "x=TRUE"])
def test_spellings_of_true(query: str) -> None:
    assert parse.boolean(ask(query), "x")


@pytest.mark.parametrize("query", ["", "y", "x=0", "x=f", "x=false", "x=False"])
def test_spellings_of_false(query: str) -> None:
    assert not parse.boolean(ask(query), "x")


@pytest.mark.parametrize("query", ["x=2", "x=yes", "x=tRUE", "x=%20"])
def test_other_spellings_are_refused(query: str) -> None:
    with pytest.raises(BadRequest, match=r"Invalid value for \?x"):
        parse.boolean(ask(query), "x")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", 'strconv.ParseUint: parsing "": invalid syntax'),
        ("abc", 'strconv.ParseUint: parsing "abc": invalid syntax'),
        ("-1", 'strconv.ParseUint: parsing "-1": invalid syntax'),
        ("1_000", 'strconv.ParseUint: parsing "1_000": invalid syntax'),
        (" 1", 'strconv.ParseUint: parsing " 1": invalid syntax'),
        ("18446744073709551616", 'strconv.ParseUint: parsing "18446744073709551616": value out of range'),
        ("9" * 5000, "value out of range"),
    ],
)
def test_numbers_that_go_refuses_get_gos_words(text: str, says: str) -> None:
    with pytest.raises(RuleFailed) as caught:
        parse.uint64(text)
    assert says in caught.value.message
    assert len(caught.value.message) < 200


def test_the_greatest_number_and_leading_zeros_are_read() -> None:
    assert parse.uint64("18446744073709551615") == (1 << 64) - 1
    assert parse.uint64("0" * 100 + "7") == 7


def test_node_meta_pairs_are_gathered() -> None:
    assert parse.node_meta(ask("node-meta=env%3At&node-meta=rack:1:2&node-meta=bare")) == {
        "env": "t",
        "rack": "1:2",
        "bare": "",
    }
    with pytest.raises(BadRequest, match="more than 64"):
        parse.node_meta(ask("&".join(f"node-meta=k{i}:v" for i in range(65))))


def test_an_idempotency_key_is_bound_to_all_that_is_asked() -> None:
    header = {"idempotency-key": "once"}
    one = parse.idempotency_key(ask("cas=1", header, body=b"v"))
    same = parse.idempotency_key(ask("cas=1&pretty&token=t", header, token="t", body=b"v"))
    assert one == same
    for other in (
        ask("cas=2", header, body=b"v"),
        ask("cas=1", header, body=b"w"),
        ask("", header, body=b"v"),
    ):
        changed = parse.idempotency_key(other)
        assert changed is not None
        assert one is not None
        assert changed.body_hash != one.body_hash
    assert parse.idempotency_key(ask()) is None


def test_an_idempotency_key_is_bound_to_method_path_route_and_the_order_of_the_query() -> None:
    def body_hash(method: str = "PUT", route: str = "/v1/kv/", path: bytes = b"k", query: str = "") -> bytes:
        pairs = read_query(query) if query else ()
        asked = Request(method, path, pairs, {"idempotency-key": "once"}, b"", "", "127.0.0.1", route=route)
        named = parse.idempotency_key(asked)
        assert named is not None
        return named.body_hash

    assert body_hash() == body_hash()
    hashes = [
        body_hash(),
        body_hash(method="DELETE"),
        body_hash(path=b"l"),
        body_hash(route="/v1/session/destroy/"),
        body_hash(query="flags=1&flags=2"),
        body_hash(query="flags=2&flags=1"),
    ]
    assert len(set(hashes)) == len(hashes)


@pytest.mark.parametrize("key", ["", "k" * 256, "schlüssel"])
def test_a_bad_idempotency_key_is_refused(key: str) -> None:
    with pytest.raises(BadRequest, match="1 to 255 ASCII"):
        parse.idempotency_key(ask(headers={"idempotency-key": key}))
