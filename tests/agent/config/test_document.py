"""Files that are broken, huge, deep, or meant to hurt: each ends in one clear sentence, soon."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemot.agent.config.document import MAX_BYTES, MAX_DEPTH, MAX_VALUES, Form, Unreadable, parse
from gemot.agent.config.fault import MAX_FAULTS

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)

BAD: list[tuple[str, Form, bytes, str]] = [
    ("an alias bomb", "yaml", BOMB.encode(), "aliases (*a0) are not taken"),
    ("an alias to itself", "yaml", b"a: &a [*a]", "aliases"),
    ("a merge key", "yaml", b"a: &a {x: 1}\nb:\n  <<: *a\n", "aliases"),
    ("a key that is an alias", "yaml", b"? &a b\n: 1\n? *a\n: 2\n", "aliases"),
    ("a Python object", "yaml", b"a: !!python/object/apply:os.system [id]", "tags (tag:yaml.org,2002:python"),
    ("a Python name", "yaml", b"a: !!python/name:os.system", "tags"),
    ("a tag of its own", "yaml", b"a: !secret x", "tags (!secret)"),
    ("a binary tag", "yaml", b"a: !!binary aGk=", "tags"),
    ("deep lists", "yaml", b"a: " + b"[" * 100_000, "nested deeper than 32"),
    ("deep maps", "yaml", b"{a: " * 100_000, "nested deeper than 32"),
    ("deep blocks", "yaml", "".join(" " * n + "a:\n" for n in range(200)).encode(), "nested deeper than 32"),
    ("deep keys", "yaml", b"? " * 10_000 + b"a", "line 1"),
    ("a list as a key", "yaml", b"? [a]\n: 1", "a key must be text"),
    ("a doubled key", "yaml", b"a: 1\nb: {c: 1, c: 2}", 'line 2: the key "c" stands twice'),
    ("two documents", "yaml", b"a: 1\n---\nb: 2\n", "a second document starts at line 2"),
    ("a list", "yaml", b"- a\n- b\n", "must hold a map"),
    ("a word", "yaml", b"hello", "must hold a map"),
    ("a colon too many, a tab elsewhere", "yaml", b"name: web\tport: 80", "mapping values are not allowed"),
    ("a tab as indentation", "yaml", b"a:\n\tb: 1", "a tab stands at line 2, column 1: indent with spaces"),
    ("an open quote", "yaml", b'a: 1\nb: "b\nc: 1\n', "a quoted scalar that begins at line 2"),
    ("an unknown directive", "yaml", b"%FOO\n%YAML 9.9\n---\na: 1", "not YAML"),
    ("an undefined alias", "yaml", b"a: *nothing", "aliases"),
    ("a control character", "yaml", b"a: \x07", "characters that YAML does not allow"),
    ("an escaped NUL", "yaml", b'a: "\\0"', "cannot be stored"),
    ("too many values", "yaml", b"a: [" + b"1," * (MAX_VALUES + 1) + b"]", "more than 200000 values"),
    ("deep lists", "json", b'{"a": ' + b"[" * 100_000, "nested deeper than 32"),
    ("lists somewhat too deep", "json", b'{"a": ' + b"[" * 40 + b"]" * 40 + b"}", "nested deeper than 32"),
    ("a doubled key", "json", b'{"a": {"b": 1, "b": 2}}', 'the key "b" stands twice'),
    ("not a number", "json", b'{"a": NaN}', "NaN is not a number"),
    ("infinity", "json", b'{"a": -Infinity}', "-Infinity is not a number"),
    ("a number too large", "json", b'{"a": 1e999}', "a number is too large"),
    ("a number of many digits", "json", b'{"a": ' + b"9" * 5000 + b"}", "a number is too long"),
    ("a list", "json", b"[]", "must hold a map"),
    ("a comma too many", "json", b'{"a": 1,}', "not JSON: "),
    ("a comment", "json", b'{\n// hello\n"a": 1}', "at line 2, column 1"),
    ("more behind it", "json", b"{} {}", "not JSON: Extra data"),
    ("NUL", "json", b'{"a": "\\u0000"}', "cannot be stored"),
    ("NUL in a key", "json", b'{"a\\u0000": 1}', "cannot be stored"),
    ("half a surrogate", "json", b'{"a": "\\ud800"}', "cannot be stored"),
    ("too many values", "json", b'{"a": [' + b"1," * MAX_VALUES + b"1]}", "more than 200000 values"),
    ("UTF-16", "json", '{"a": 1}'.encode("utf-16"), "not UTF-8 text: byte 0 is 0xff"),
    ("UTF-16", "yaml", "a: 1".encode("utf-16"), "not UTF-8 text"),
    ("Latin-1", "yaml", "a: é".encode("latin-1"), "not UTF-8 text: byte 3 is 0xe9"),
    ("an ELF program", "json", b"\x7fELF\x02\x01\x01\x00", "not JSON"),
    ("an ELF program", "yaml", b"\x7fELF\x02\x01\x01\x00", "characters that YAML does not allow"),
    ("gzip", "yaml", b"\x1f\x8b\x08\x00\x00", "not UTF-8"),
    ("NUL bytes", "json", bytes(1000), "not JSON"),
    ("too many bytes", "json", b" " * (MAX_BYTES + 1), "more than 4194304 bytes"),
]


@pytest.mark.parametrize(
    ("form", "data", "message"), [row[1:] for row in BAD], ids=[f"{r[1]}: {r[0]}" for r in BAD]
)
def test_what_cannot_be_taken_is_refused_in_a_sentence(form: Form, data: bytes, message: str) -> None:
    with pytest.raises(Unreadable) as caught:
        parse(data, form)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 300


def told(data: str, form: Form) -> tuple[str, ...]:
    with pytest.raises(Unreadable) as caught:
        parse(data.encode(), form)
    return caught.value.messages


def test_every_doubled_key_is_told_where_it_stands() -> None:
    text = """
{"node_name": "a", "node_name": "b", "ports": {"http": 1, "dns": 2, "http": 3, "http": 4},
 "services": [{"name": "web"}, {"name": "db", "name": "db2", "meta": {"x": "1", "x": "2"}}],
 "checks": [{"id": "c", "id": "d"}], "checks": [{"name": "e", "name": "f"}]}
"""
    assert told(text, "json") == (
        'the key "node_name" stands twice in one map',
        'the key "checks" stands twice in one map',
        'ports: the key "http" stands 3 times in one map',
        'services[1]: the key "name" stands twice in one map',
        'services[1].meta: the key "x" stands twice in one map',
        'checks[0]: the key "id" stands twice in one map',
        'checks[0]: the key "name" stands twice in one map',
    )
    assert told("a: 1\nb: {c: 1, c: 2}\na: 2\nd:\n- e: 1\n  e: 2\na: 3\n", "yaml") == (
        'line 2: the key "c" stands twice in one map',
        'line 3: the key "a" stands twice in one map',
        'line 6: the key "e" stands twice in one map',
        'line 7: the key "a" stands twice in one map',
    )


def test_doubled_keys_before_another_mistake_are_told_with_it() -> None:
    assert told("a: 1\na: 2\nb: *c\n", "yaml") == (
        'line 2: the key "a" stands twice in one map',
        "line 3: aliases (*c) are not taken: write it out",
    )
    doubled, torn = told('a: 1\na: 2\nb: "c\n', "yaml")
    assert doubled == 'line 2: the key "a" stands twice in one map'
    assert torn.startswith("not YAML: ")


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_of_very_many_doubled_keys_the_first_are_told(form: Form) -> None:
    found = told("{" + ", ".join(f'"k{n // 2}":\n{n}' for n in range(1_000)) + "}", form)
    assert len(found) == MAX_FAULTS + 1
    assert found[-1] == "these are the first 100 mistakes; more follow"


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("no", "no"), ("on", "on"), ("yes", "yes"), ("true", True), ("False", False), ("~", None), ("", None),
        ("null", None), ("12:30:45", "12:30:45"), ("2026-01-01", "2026-01-01"), ("0644", "0644"),
        ("0x1f", "0x1f"), ("1_000", "1_000"), ("-7", -7), ("0", 0), ("1.5", 1.5), ("1e3", 1000.0),
        (".inf", ".inf"), ("1.2.3", "1.2.3"), ("'5'", "5"), ('"true"', "true"), ("'~'", "~"),
        ("9" * 50, "9" * 50),        ("10.0.0.1", "10.0.0.1"), ("a#b", "a#b"), ("=", "="),
    ],
)  # fmt: skip
def test_a_yaml_word_means_what_it_looks_like(written: str, value: object) -> None:
    assert parse(f"k: {written}\n".encode(), "yaml") == {"k": value}


def test_keys_of_yaml_are_always_text() -> None:
    assert parse(b"{1: a, true: b, ~: c}", "yaml") == {"1": "a", "true": "b", "~": "c"}


def test_a_byte_order_mark_is_passed_over() -> None:
    assert parse(b"\xef\xbb\xbf{}", "json") == {}
    assert parse(b"\xef\xbb\xbfa: 1", "yaml") == {"a": 1}


def test_the_deepest_allowed_is_taken() -> None:
    inside = MAX_DEPTH - 2
    data = b'{"a": ' + b"[" * inside + b"1" + b"]" * inside + b"}"
    assert parse(data, "json") == parse(data, "yaml")


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**18), 10**18)
    | st.text(st.characters(exclude_categories=["C", "Zl", "Zp"])),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text("abc_", max_size=5), inner, max_size=4)
    ),
    max_leaves=20,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.text("abcdef", max_size=4), _JSON, max_size=5))
def test_json_reads_alike_as_json_and_as_yaml(root: dict[str, object]) -> None:
    data = json.dumps(root, ensure_ascii=False).encode()
    assert parse(data, "json") == root
    assert parse(data, "yaml") == root


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200) | st.text("{}[]&*!:- \n\"'ab?|>%@#,1\t\\", max_size=80).map(str.encode))
def test_no_bytes_do_anything_but_read_or_be_refused(data: bytes) -> None:
    for form in ("json", "yaml"):
        try:
            found: object = parse(data, form)
        except Unreadable:
            continue
        assert isinstance(found, dict)
