"""JSON bodies: names in any case, nulls as absences, bounds, and mistakes named."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemot.agent.http.body import MAX_DEPTH, decode_body
from gemot.agent.http.catalog import RegisterBody
from gemot.server.model.errors import BadRequest


def test_names_are_read_in_any_case() -> None:
    for service in ("Service", "service", "SERVICE"):
        body = json.dumps(
            {"NODE": "n", "address": "a", service: {"id": "w", "TaggedAddresses": {"lan": {"PORT": 1}}}}
        )
        found = decode_body(body.encode(), RegisterBody)
        assert found.node == "n"
        assert found.address == "a"
        assert found.service is not None
        assert found.service.id == "w"
        assert found.service.tagged_addresses["lan"].port == 1


def test_keys_of_maps_keep_their_case() -> None:
    assert decode_body(b'{"NodeMeta":{"Env":"X","env":"x"}}', RegisterBody).node_meta == {
        "Env": "X",
        "env": "x",
    }


def test_null_is_as_if_it_were_absent() -> None:
    found = decode_body(b'{"Node":null,"Service":null,"Checks":null,"TaggedAddresses":null}', RegisterBody)
    assert found == RegisterBody()


def test_fields_that_old_clients_send_are_read_over() -> None:
    body = b'{"Node":"n","WriteRequest":{"Token":"t"},"Namespace":"","Partition":"","CreateIndex":3}'
    assert decode_body(body, RegisterBody).node == "n"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "Request decode failed: EOF"),
        (b"   ", "Request decode failed: EOF"),
        (b"{", "Request decode failed: "),
        (b'{"Node":"n"', "Request decode failed: "),
        (b"nope", "Request decode failed: "),
        (b'{"Node":"n"} x', "Request decode failed: "),
        (b"\xff\xfe", "Request decode failed: "),
        (b'{"Node":"\xff"}', "Request decode failed: "),
        (b"[]", "Request decode failed: json: want an object, found array"),
        (b"null", "Request decode failed: json: want an object, found null"),
        (b'"text"', "Request decode failed: json: want an object, found string"),
        (b"7", "Request decode failed: json: want an object, found number"),
        (b'{"Nope":1}', 'Request decode failed: json: unknown field "Nope"'),
        (b'{"Service":{"Prot":1}}', 'Request decode failed: json: unknown field "Prot"'),
        (b'{"Checks":[{"Nme":1}]}', 'Request decode failed: json: unknown field "Nme"'),
        (b'{"Node":5}', "Request decode failed: json: Node: expected `str`, got `int`"),
        (
            b'{"Service":{"Port":"80"}}',
            "Request decode failed: json: Service.Port: expected `int`, got `str`",
        ),
        (b'{"Service":[]}', "Request decode failed: json: Service: expected `object | null`, got `array`"),
        (b'{"Service":{"Port":' + b"9" * 400 + b"}}", "Request decode failed: json: Service.Port: "),
        (b'{"Service":{"Port":-1}}', "Request decode failed: json: Service.Port: expected `int` >= 0"),
        (b'{"Service":{"Port":65536}}', "Request decode failed: json: Service.Port: expected `int` <= 65535"),
        (b'{"Service":{"Port":' + b"9" * 9000 + b"}}", "Request decode failed: "),
        (
            b'{"Service":{"Tags":"a"}}',
            "Request decode failed: json: Service.Tags: expected `array`, got `str`",
        ),
        (b'{"NodeMeta":{"a":1}}', "Request decode failed: json: NodeMeta[...]: expected `str`, got `int`"),
    ],
)
def test_mistakes_are_named(body: bytes, says: str) -> None:
    with pytest.raises(BadRequest) as caught:
        decode_body(body, RegisterBody)
    assert caught.value.message.startswith(says)
    assert len(caught.value.message) < 400


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_a_body_too_deep_is_refused_however_it_is_built(opening: bytes) -> None:
    for depth in (MAX_DEPTH + 1, 100_000):
        with pytest.raises(BadRequest, match=f"nested deeper than {MAX_DEPTH} levels"):
            decode_body(b'{"Service":' + opening * depth, RegisterBody)


def test_brackets_inside_texts_do_not_count_as_depth() -> None:
    note = "[{" * 1000 + '\\"['
    body = json.dumps({"Node": note, "Checks": [{"Notes": note}]}).encode()
    assert decode_body(body, RegisterBody).node == note


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_never_a_crash(body: bytes) -> None:
    try:
        decode_body(body, RegisterBody)
    except BadRequest:
        pass


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["Node", "service", "Checks", "PORT", "Tags", "x"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)


@given(_json)
def test_any_json_is_read_or_refused_never_a_crash(value: object) -> None:
    try:
        decode_body(msgspec.json.encode(value), RegisterBody)
    except BadRequest:
        pass
