"""Targets: decoded exactly once, cleaned like Go's mux, refused with words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemot.agent.http.target import clean_path, decode_percent, is_printable, read_query, read_target
from gemot.server.model.errors import BadRequest


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        ("/v1/kv/a/b", b"/v1/kv/a/b"),
        ("/v1/kv/n%2Fa", b"/v1/kv/n/a"),
        ("/v1/kv/n%2fa", b"/v1/kv/n/a"),
        ("/v1/kv/a%252Fb", b"/v1/kv/a%2Fb"),
        ("/v1/kv/a%2520b", b"/v1/kv/a%20b"),
        ("/v1/kv/a+b", b"/v1/kv/a+b"),
        ("/v1/kv/a%20b", b"/v1/kv/a b"),
        ("/v1/kv/%00", b"/v1/kv/\x00"),
        ("/v1/kv/%c0%af", b"/v1/kv/\xc0\xaf"),
        ("/v1/kv/e%CC%81", "/v1/kv/e\u0301".encode()),
        ("/v1/kv/%C3%A9", "/v1/kv/\u00e9".encode()),
        ("/v1/kv/\udcff", b"/v1/kv/\xff"),
        ("/v1/kv/é", "/v1/kv/é".encode()),
        ("/v1/kv/%2e%2e/x", b"/v1/kv/../x"),
        ("/v1/kv/%2Fx", b"/v1/kv//x"),
        ("/v1/kv/a/", b"/v1/kv/a/"),
        ("/v1/kv/", b"/v1/kv/"),
        ("/v1/kv/.hidden", b"/v1/kv/.hidden"),
        ("/v1/kv/...", b"/v1/kv/..."),
        ("/", b"/"),
        ("http://host:8500/v1/kv/a", b"/v1/kv/a"),
        ("http://host", b"/"),
    ],
)
def test_a_path_is_decoded_exactly_once(raw: str, path: bytes) -> None:
    assert read_target(raw) == read_target(raw)
    assert read_target(raw).path == path
    assert read_target(raw).moved == ""


@pytest.mark.parametrize(
    ("raw", "moved"),
    [
        ("/v1/kv//a", "/v1/kv/a"),
        ("/v1/kv/a//b", "/v1/kv/a/b"),
        ("/v1/kv/a//", "/v1/kv/a/"),
        ("/v1/kv/./a", "/v1/kv/a"),
        ("/v1/kv/a/.", "/v1/kv/a/"),
        ("/v1/kv/../agent/self", "/v1/agent/self"),
        ("/v1/kv/a/..", "/v1/kv/"),
        ("//evil.example/x", "/evil.example/x"),
        ("/../../etc/passwd", "/etc/passwd"),
        ("/v1/kv//a?cas=1&x=%2F", "/v1/kv/a?cas=1&x=%2F"),
        ("/v1/kv//é", "/v1/kv/%C3%A9"),
    ],
)
def test_a_path_that_is_not_clean_is_moved_to_its_clean_form(raw: str, moved: str) -> None:
    assert read_target(raw).moved == moved


@given(st.text(alphabet="/.ab%2eé", max_size=30))
def test_a_cleaned_path_stays_as_it_is_and_never_leads_elsewhere(rest: str) -> None:
    cleaned = clean_path("/" + rest)
    assert clean_path(cleaned) == cleaned
    assert cleaned.startswith("/")
    assert not cleaned.startswith("//")
    assert ".." not in cleaned.split("/")


@pytest.mark.parametrize("raw", ["/v1/kv/%", "/v1/kv/%a", "/v1/kv/%zz", "/v1/kv/a%2", "/v1/kv/%%20", "/%-1"])
def test_a_bad_escape_is_refused_and_shown(raw: str) -> None:
    with pytest.raises(BadRequest, match='invalid URL escape "%'):
        read_target(raw)


@pytest.mark.parametrize("raw", ["", "v1/kv/a", "*", "ftp://host/a", "host:443"])
def test_a_target_that_is_no_path_is_refused(raw: str) -> None:
    with pytest.raises(BadRequest, match="must start with /"):
        read_target(raw)


@pytest.mark.parametrize(
    ("query", "pairs"),
    [
        ("recurse", (("recurse", ""),)),
        ("recurse=", (("recurse", ""),)),
        ("a=1&b=2&a=3", (("a", "1"), ("b", "2"), ("a", "3"))),
        ("separator=%2F", (("separator", "/"),)),
        ("node-meta=env%3At", (("node-meta", "env:t"),)),
        ("q=a+b%20c", (("q", "a b c"),)),
        ("q=a%2Bb", (("q", "a+b"),)),
        ("a==b", (("a", "=b"),)),
        ("&&a=1&", (("a", "1"),)),
        ("t=%C3%A9", (("t", "é"),)),
        ("key=%ff&prefix=a%c0&after=%fe", (("key", "\udcff"), ("prefix", "a\udcc0"), ("after", "\udcfe"))),
    ],
)
def test_a_query_is_pairs_in_their_order(query: str, pairs: tuple[tuple[str, str], ...]) -> None:
    assert read_query(query) == pairs


@pytest.mark.parametrize("query", ["a=%", "key=%f", "%zz=1", "a=%ff", "a=%c0%af", "&".join(["a"] * 600)])
def test_a_bad_query_is_refused(query: str) -> None:
    with pytest.raises(BadRequest):
        read_query(query)


@given(st.binary(max_size=40))
def test_decoding_undoes_encoding_once_for_any_bytes(raw: bytes) -> None:
    encoded = "".join(f"%{byte:02x}" for byte in raw).encode()
    assert decode_percent(encoded) == raw


def test_control_characters_do_not_count_as_printable() -> None:
    assert is_printable("/v1/kv/naïve key".encode())
    assert is_printable(b"/v1/kv/\xff")
    assert not is_printable(b"/v1/kv/\x00")
    assert not is_printable(b"/v1/kv/\x7f")
    assert not is_printable("/v1/kv/\u202e".encode())
