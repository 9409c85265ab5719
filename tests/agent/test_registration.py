"""Registrations as clients and files write them: every spelling that counts, and every mistake named."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemot.agent.fields import Mistakes
from gemot.agent.http.body import read_json
from gemot.agent.registration import Policy, Registration, parse_check, parse_service
from gemot.server.model.catalog import Service, ServiceAddress, Weights
from gemot.server.model.errors import BadRequest, RuleFailed


def read(raw: dict[str, Any]) -> Registration:
    return parse_service(raw, from_config=False)


def test_the_least_service_is_a_name() -> None:
    assert read({"Name": "web"}) == Registration(Service("web", "web"))


@pytest.mark.parametrize(
    "raw",
    [
        {"Name": "web", "ID": "w1", "EnableTagOverride": True, "TaggedAddresses": {"lan": {"Address": "a"}}},
        {
            "name": "web",
            "id": "w1",
            "enable_tag_override": True,
            "tagged_addresses": {"lan": {"address": "a"}},
        },
        {"name": "web", "id": "w1", "enabletagoverride": True, "taggedaddresses": {"lan": {"ADDRESS": "a"}}},
    ],
)
def test_names_count_without_case_and_underscores(raw: dict[str, Any]) -> None:
    assert read(raw).service == Service(
        "w1", "web", enable_tag_override=True, tagged_addresses={"lan": ServiceAddress("a", 0)}
    )


def test_a_whole_service_is_read() -> None:
    registration = read(
        {
            "Name": "web",
            "ID": "w1",
            "Tags": ["a", "b"],
            "Port": 80,
            "Address": "web.example",
            "Meta": {"v": "1"},
            "Weights": {"Passing": 10, "Warning": 2},
            "Token": "secret",
            "SocketPath": "/run/web",
            "Kind": "",
            "Connect": None,
            "Proxy": {"Mode": "direct"},
        }
    )
    assert registration.service == Service(
        "w1",
        "web",
        ("a", "b"),
        "web.example",
        80,
        {"v": "1"},
        weights=Weights(10, 2),
        socket_path="/run/web",
    )
    assert registration.token == "secret"
    assert registration.ignored == ("Proxy",)


def test_an_ip_address_fills_the_tagged_addresses_of_its_kind() -> None:
    at = ServiceAddress("10.0.0.1", 80)
    assert read({"Name": "w", "Address": "10.0.0.1", "Port": 80}).service.tagged_addresses == {
        "lan_ipv4": at,
        "wan_ipv4": at,
    }
    assert set(read({"Name": "w", "Address": "::1"}).service.tagged_addresses) == {"lan_ipv6", "wan_ipv6"}
    assert read({"Name": "w", "Address": "name"}).service.tagged_addresses == {}
    given_one = {"lan_ipv4": {"Address": "1.2.3.4", "Port": 9}}
    own = read({"Name": "w", "Address": "10.0.0.1", "TaggedAddresses": given_one}).service.tagged_addresses
    assert own["lan_ipv4"] == ServiceAddress("1.2.3.4", 9)


def test_one_check_is_named_by_its_service_and_several_are_numbered() -> None:
    (one,) = read({"Name": "web", "ID": "w1", "Check": {"TTL": "10s"}}).checks
    assert (one.check_id, one.name, one.service_id, one.ttl_s) == (
        "service:w1",
        "Service 'web' check",
        "w1",
        10,
    )
    two = read(
        {"Name": "web", "Checks": [{"TTL": "10s"}, {"TCP": "a:1", "Interval": "5s", "CheckID": "mine"}]}
    )
    assert [check.check_id for check in two.checks] == ["service:web:1", "mine"]


def test_an_empty_check_is_no_check() -> None:
    assert read({"Name": "web", "Check": {}, "Checks": None}).checks == ()


def test_durations_are_texts_or_nanoseconds_and_intervals_at_least_a_second() -> None:
    check = parse_check(
        {"Name": "c", "HTTP": "http://a/", "Interval": "20ms", "Timeout": 500_000_000}, from_config=False
    )
    assert (check.interval_s, check.timeout_s) == (1.0, 0.5)


def test_a_short_ttl_stays_short() -> None:
    assert parse_check({"Name": "c", "TTL": "100ms"}, from_config=False).ttl_s == 0.1


def test_services_are_not_taken_out_sooner_than_after_a_minute() -> None:
    raw = {"Name": "c", "TTL": "1s", "DeregisterCriticalServiceAfter": "5s"}
    assert parse_check(raw, from_config=False).deregister_after_s == 60.0


def test_an_http_check_is_read_whole() -> None:
    check = parse_check(
        {
            "id": "c1",
            "name": "c",
            "http": "https://127.0.0.1:8443/health",
            "method": "put",
            "header": {"X-A": ["1", "2"], "X-B": "3"},
            "body": "{}",
            "interval": "10s",
            "tls_skip_verify": True,
            "tls_server_name": "web",
            "disable_redirects": True,
            "success_before_passing": 3,
            "failures_before_warning": 1,
            "failures_before_critical": 2,
            "output_max_size": 100,
            "service_id": "web",
            "notes": "n",
            "status": "passing",
            "token": "t",
        },
        from_config=False,
    )
    assert (check.type, check.check_id, check.method, check.body) == ("http", "c1", "PUT", "{}")
    assert check.header == {"X-A": ("1", "2"), "X-B": ("3",)}
    assert (check.success_before_passing, check.failures_before_warning, check.failures_before_critical) == (
        3,
        1,
        2,
    )
    assert (check.status, check.service_id, check.token, check.output_max_bytes) == (
        "passing",
        "web",
        "t",
        100,
    )


def test_the_agents_limit_of_output_can_be_lowered_but_not_raised() -> None:
    raw = {"Name": "c", "TTL": "1s", "OutputMaxSize": 10_000}
    assert parse_check(raw, from_config=False).output_max_bytes == 4096
    assert parse_check(raw, from_config=False, policy=Policy(output_max_bytes=50)).output_max_bytes == 50


SCRIPT = {"Name": "c", "Args": ["/bin/true"], "Interval": "10s"}


def test_a_script_over_the_api_is_always_refused() -> None:
    for policy in (Policy(), Policy(scripts=True)):
        for raw in (SCRIPT, {"Name": "c", "ScriptArgs": ["/bin/true"], "Interval": "10s"}):
            with pytest.raises(RuleFailed, match=r"^Scripts are disabled on this agent from remote calls"):
                parse_check(raw, from_config=False, policy=policy)
            with pytest.raises(RuleFailed, match=r"^Scripts are disabled on this agent from remote calls"):
                parse_service({"Name": "web", "Check": raw}, from_config=False, policy=policy)


def test_a_script_of_a_file_needs_the_setting() -> None:
    with pytest.raises(Mistakes, match="enable_local_script_checks"):
        parse_check(SCRIPT, from_config=True)
    check = parse_check(SCRIPT, from_config=True, policy=Policy(scripts=True))
    assert (check.type, check.args, check.from_config) == ("script", ("/bin/true",), True)


HTTP = {"HTTP": "http://127.0.0.1/", "Interval": "10s"}
LONG = "x" * 5000
BAD_SERVICES: list[tuple[Any, str]] = [
    (None, "Request decode failed: want an object, not null"),
    ([], "want an object, not a list"),
    ("web", "want an object, not a text"),
    (7, "want an object, not a number"),
    ({}, "Missing service name"),
    ({"Name": ""}, "Missing service name"),
    ({"ID": "w"}, "Missing service name"),
    ({"Name": 7}, "field Name wants a text, not a number"),
    ({"Name": ["web"]}, "field Name wants a text, not a list"),
    ({"Name": True}, "field Name wants a text, not true or false"),
    ({"Name": "web", "Nope": 1}, 'Request decode failed: json: unknown field "Nope"'),
    ({"Name": "web", "Nope" * 100: 1}, "unknown field"),
    ({"Name": "a\nb"}, "Invalid service name"),
    ({"Name": "web", "ID": "a\0b"}, "Invalid service ID"),
    ({"Name": "web", "ID": "\u202e"}, "Invalid service ID"),
    ({"Name": "x" * 513}, "field Name is 513 bytes long, the limit is 512"),
    ({"Name": "ä" * 300}, "field Name is 600 bytes long"),
    ({"Name": "\ud800"}, "surrogate"),
    ({"Name": "consul"}, "Invalid service ID"),
    ({"Name": "web", "ID": "consul"}, "Invalid service ID"),
    ({"Name": "Consul"}, "Invalid service ID"),
    ({"Name": "web", "Port": "80"}, "field Port wants a whole number, not a text"),
    ({"Name": "web", "Port": 1.5}, "field Port wants a whole number"),
    ({"Name": "web", "Port": True}, "field Port wants a whole number"),
    ({"Name": "web", "Port": -1}, "Invalid service port"),
    ({"Name": "web", "Port": 65536}, "Invalid service port"),
    ({"Name": "web", "Port": 1 << 70}, "64 bits"),
    ({"Name": "web", "Address": "0.0.0.0"}, "Invalid service address"),
    ({"Name": "web", "Address": "::"}, "Invalid service address"),
    ({"Name": "web", "Address": "[::]"}, "Invalid service address"),
    ({"Name": "web", "Address": "a b"}, "Invalid service address"),
    ({"Name": "web", "Address": "a\r\nb"}, "Invalid service address"),
    ({"Name": "web", "Address": "a" * 256}, "field Address is 256 bytes long"),
    ({"Name": "web", "Tags": "a"}, "field Tags wants a list, not a text"),
    ({"Name": "web", "Tags": [1]}, "field Tags wants a text, not a number"),
    ({"Name": "web", "Tags": [None]}, "field Tags wants a text, not null"),
    ({"Name": "web", "Tags": ["t"] * 1025}, "field Tags has 1025 entries, the limit is 1024"),
    ({"Name": "web", "Tags": [LONG]}, "field Tags is 5000 bytes long"),
    ({"Name": "web", "Meta": []}, "field Meta wants an object"),
    ({"Name": "web", "Meta": {"a": 1}}, "field Meta"),
    ({"Name": "web", "Meta": {"": "x"}}, "Invalid Service Meta: Key cannot be blank"),
    ({"Name": "web", "Meta": {"a b": "x"}}, "Invalid Service Meta: Key 'a b' contains invalid characters"),
    ({"Name": "web", "Meta": {"ä": "x"}}, "Invalid Service Meta"),
    ({"Name": "web", "Meta": {"a\n": "x"}}, "Invalid Service Meta"),
    (
        {"Name": "web", "Meta": {"k" * 129: "x"}},
        "Invalid Service Meta: Key is too long (limit: 128 characters)",
    ),
    ({"Name": "web", "Meta": {"k": "v" * 513}}, "is too long (limit: 512 characters)"),
    ({"Name": "web", "Meta": {"consul-x": "v"}}, "Key prefix 'consul-' is reserved"),
    ({"Name": "web", "Meta": {f"k{n}": "v" for n in range(65)}}, "more than 64 key/value pairs"),
    ({"Name": "web", "Weights": 3}, "want an object, not a number"),
    ({"Name": "web", "Weights": {"Passing": 0}}, "Invalid Weights: Passing must be from 1 to 65535, not 0"),
    ({"Name": "web", "Weights": {"Passing": 65536}}, "Invalid Weights"),
    ({"Name": "web", "Weights": {"Warning": -1}}, "Invalid Weights"),
    ({"Name": "web", "Weights": {"Critical": 1}}, 'unknown field "Critical"'),
    ({"Name": "web", "EnableTagOverride": "true"}, "field EnableTagOverride wants true or false"),
    ({"Name": "web", "EnableTagOverride": 1}, "field EnableTagOverride wants true or false"),
    ({"Name": "web", "TaggedAddresses": []}, "field TaggedAddresses wants an object"),
    ({"Name": "web", "TaggedAddresses": {"lan": 5}}, "TaggedAddresses lan: want an object"),
    ({"Name": "web", "TaggedAddresses": {"lan": {"Address": "0.0.0.0"}}}, "Invalid service address"),
    ({"Name": "web", "TaggedAddresses": {"lan": {"Port": 99999}}}, "Invalid service port"),
    (
        {"Name": "web", "TaggedAddresses": {str(n): {} for n in range(65)}},
        "field TaggedAddresses has 65 entries",
    ),
    ({"Name": "web", "Kind": "banana"}, "Invalid service kind"),
    ({"Name": "web", "Namespace": "other"}, "field namespace"),
    ({"Name": "web", "Partition": "other"}, "field partition"),
    ({"Name": "web", "Checks": {}}, "field Checks wants a list"),
    ({"Name": "web", "Checks": [HTTP] * 129}, "field Checks has 129 entries"),
    ({"Name": "web", "Checks": [{}]}, "Invalid check: TTL must be > 0 for TTL checks"),
    ({"Name": "web", "Checks": [5]}, "want an object, not a number"),
    ({"Name": "web", "Check": "ttl"}, "want an object, not a text"),
    ({"Name": "web", "Check": {"Banana": 1}}, 'json: unknown field "Banana"'),
    ({"Name": "web", "Checks": [{**HTTP, "CheckID": "a"}] * 2}, 'the check ID "a" is given twice'),
]
BAD_CHECKS: list[tuple[dict[str, Any], str]] = [
    ({"TTL": "0s"}, "TTL must be > 0 for TTL checks"),
    ({"TTL": "-1s"}, "field TTL must not be negative"),
    ({"TTL": "10"}, "missing unit in duration"),
    ({"TTL": "ten"}, "invalid duration"),
    ({"TTL": True}, "field TTL wants a duration"),
    ({"TTL": {}}, "field TTL wants a duration"),
    ({"TTL": "9" * 70 + "s"}, "invalid duration"),
    ({"TTL": "10s", "Interval": "10s"}, "Interval and TTL cannot both be specified"),
    ({"HTTP": "http://a/"}, "Interval must be > 0"),
    ({"HTTP": "http://a/", "Interval": "0s"}, "Interval must be > 0"),
    ({"HTTP": 5, "Interval": "1s"}, "field HTTP wants a text"),
    ({"HTTP": "ftp://a/", "Interval": "1s"}, "HTTP wants a URL"),
    ({"HTTP": "file:///etc/passwd", "Interval": "1s"}, "HTTP wants a URL"),
    ({"HTTP": "http://", "Interval": "1s"}, "HTTP wants a URL"),
    ({"HTTP": "http://a:99999/", "Interval": "1s"}, "HTTP wants a URL"),
    ({"HTTP": "http://[::1/", "Interval": "1s"}, "HTTP wants a URL"),
    ({"HTTP": "http://a/\r\nX: y", "Interval": "1s"}, "HTTP wants a URL"),
    ({"HTTP": "http://a/ b", "Interval": "1s"}, "HTTP wants a URL"),
    ({"HTTP": "http://a/" + LONG, "Interval": "1s"}, "field HTTP is 5009 bytes long"),
    ({**HTTP, "Method": "GET / HTTP/1.1"}, "is not an HTTP method"),
    ({**HTTP, "Header": []}, "field Header wants an object"),
    ({**HTTP, "Header": {"A B": ["x"]}}, "is not a header's name"),
    ({**HTTP, "Header": {"A": ["x\r\nB: y"]}}, "Header A wants"),
    ({**HTTP, "Header": {"A": [1]}}, "Header A wants"),
    ({**HTTP, "Header": {"A": ["x"] * 65}}, "Header A wants"),
    ({**HTTP, "Header": {str(n): ["x"] for n in range(65)}}, "field Header has 65 entries"),
    ({**HTTP, "Body": LONG}, "field Body is 5000 bytes long"),
    ({**HTTP, "Status": "fine"}, "Status for checks must 'passing', 'warning', 'critical'"),
    ({**HTTP, "Status": 1}, "field Status wants a text"),
    ({**HTTP, "SuccessBeforePassing": -1}, "SuccessBeforePassing must be >= 0"),
    (
        {**HTTP, "FailuresBeforeWarning": 3, "FailuresBeforeCritical": 2},
        "FailuresBeforeWarning can't be higher",
    ),
    ({**HTTP, "OutputMaxSize": -1}, "OutputMaxSize must be >= 0"),
    ({**HTTP, "TLSSkipVerify": "yes"}, "field TLSSkipVerify wants true or false"),
    ({**HTTP, "Timeout": "-3s"}, "field Timeout must not be negative"),
    ({**HTTP, "DeregisterCriticalServiceAfter": "soon"}, "field DeregisterCriticalServiceAfter"),
    ({**HTTP, "CheckID": "serfHealth"}, "is reserved"),
    ({**HTTP, "CheckID": "SERFHEALTH"}, "is reserved"),
    ({**HTTP, "CheckID": "_node_maintenance"}, "is reserved"),
    ({**HTTP, "CheckID": "_service_maintenance:web"}, "is reserved"),
    ({**HTTP, "CheckID": "a\tb"}, "Invalid check ID"),
    ({"TCP": "nowhere", "Interval": "1s"}, "TCP 'nowhere' wants a host and a port"),
    ({"TCP": "a:0", "Interval": "1s"}, "is not a port"),
    ({"GRPC": "a:1", "Interval": "1s"}, "gRPC checks are not supported"),
    ({"UDP": "a:1", "Interval": "1s"}, "UDP checks are not supported"),
    ({"H2PING": "a:1", "Interval": "1s"}, "H2PING checks are not supported"),
    ({"DockerContainerID": "a", "Args": ["x"], "Interval": "1s"}, "Docker checks are not supported"),
    ({"OSService": "a", "Interval": "1s"}, "OSService checks are not supported"),
    ({"Script": "rm -rf /", "Interval": "1s"}, "the field script is no longer used"),
    ({"AliasNode": "other", "AliasService": "a"}, "alias_node is not supported"),
    ({"AliasService": "a", "Interval": "1s"}, "Interval and TTL cannot be set for Alias checks"),
    ({"Args": "true", "Interval": "1s"}, "field Args wants a list"),
    ({"Args": ["a"] * 257, "Interval": "1s"}, "field Args has 257 entries"),
]


@pytest.mark.parametrize(("raw", "text"), BAD_SERVICES, ids=range(len(BAD_SERVICES)))
def test_a_bad_service_is_refused_and_the_mistake_named(raw: Any, text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_service(raw, from_config=False)
    assert text in caught.value.message
    assert len(caught.value.message) < 500


@pytest.mark.parametrize(("raw", "text"), BAD_CHECKS, ids=range(len(BAD_CHECKS)))
def test_a_bad_check_is_refused_and_the_mistake_named(raw: dict[str, Any], text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_service({"Name": "web", "Check": raw}, from_config=False)
    assert text in caught.value.message
    assert len(caught.value.message) < 500


def test_a_check_by_itself_wants_a_name_and_a_good_status() -> None:
    with pytest.raises(BadRequest, match=r"^Missing check name$"):
        parse_check({"TTL": "10s"}, from_config=False)
    with pytest.raises(BadRequest, match=r"^Bad check status$"):
        parse_check({"Name": "c", "TTL": "10s", "Status": "x"}, from_config=False)


@pytest.mark.parametrize("args", [[""], ["a\0b"]])
def test_arguments_that_no_program_can_be_given_are_refused(args: list[str]) -> None:
    with pytest.raises(BadRequest, match="Args"):
        parse_check({**SCRIPT, "Args": args}, from_config=True, policy=Policy(scripts=True))


def test_every_mistake_of_a_service_in_a_file_is_told_with_its_path() -> None:
    raw = {
        "name": "web",
        "prot": 80,
        "port": "x",
        "tags": ["a", 1],
        "meta": {"a b": "", "c": 2},
        "weights": {"passing": 0, "warn": 1},
        "tagged_addresses": {"lan": {"address": "0.0.0.0", "port": -1}},
        "checks": [
            {"http": "localhost", "method": "GE T", "header": {"a b": "c"}},
            "ping",
            {"ttl": "10", "status": "fine"},
            {"id": "mine", "tcp": "a:1", "interval": "5s"},
            {"id": "mine", "args": ["/bin/true"], "interval": "5s"},
            {"notes": "how?"},
        ],
    }
    with pytest.raises(Mistakes) as caught:
        parse_service(raw, from_config=True)
    assert [path for path, _ in caught.value.found] == [
        "prot",
        "port",
        "tags",
        "meta.a b",
        "meta.c",
        "tagged_addresses.lan.address",
        "tagged_addresses.lan.port",
        "weights.warn",
        "weights.passing",
        "checks[0].interval",
        "checks[0].http",
        "checks[0].method",
        "checks[0].header.a b",
        "checks[1]",
        "checks[2].ttl",
        "checks[2].status",
        "checks[4].args",
        "checks[5]",
    ]
    told = dict(caught.value.found)
    assert told["prot"] == "unknown field; did you mean port?"
    assert told["port"] == "wants a whole number, not a text"
    assert told["checks[5]"].startswith("says not how to check: give one of http, tcp, args")


def test_two_checks_of_a_service_cannot_have_one_id() -> None:
    twice = {"id": "mine", "ttl": "5s"}
    with pytest.raises(Mistakes) as caught:
        parse_service({"name": "web", "checks": [twice, twice]}, from_config=True)
    assert caught.value.found == (("checks[1]", 'Invalid check: the check ID "mine" is given twice'),)


def test_what_follows_from_a_mistake_is_not_told_as_another() -> None:
    with pytest.raises(Mistakes) as caught:
        parse_service({"name": 7, "check": {"http": "http://a/", "interval": 10.5}}, from_config=True)
    assert [path for path, _ in caught.value.found] == ["name", "check.interval"]


@pytest.mark.parametrize("seed", range(200))
def test_a_file_and_a_request_agree_on_what_is_right(seed: int) -> None:
    """Gathering mistakes is another way to tell them, not another rule."""
    fields, values = ["name", "id", "port", "tags", "meta", "ttl", "http", "interval", "weights", "check"], [
        None, "", "a", 0, 7 * 10**9, 1.5, True, [], ["a"], {}, {"a": "b"}, {"ttl": "1s"}, "10s", "http://a/",
        1 << 70,
    ]  # fmt: skip
    chance = random.Random(seed)
    raw = {"name": "n"} | {chance.choice(fields): chance.choice(values) for _ in range(3)}
    for parse in (parse_service, parse_check):
        verdicts = []
        for from_config in (False, True):
            try:
                verdicts.append(parse(dict(raw), from_config=from_config) is not None)
            except (BadRequest, RuleFailed):
                verdicts.append(False)
        assert verdicts[0] == verdicts[1], raw


@pytest.mark.parametrize(
    "body", [b"", b" ", b"{", b"[1,", b'{"Name":}', b"\xff\xfe", b'{"Name":"\xff"}', b"[" * 100_000, b"nul"]
)
def test_a_body_that_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest, match=r"^Request decode failed: "):
        read_json(body)


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
_NAMES = [
    "Name",
    "ID",
    "Tags",
    "Port",
    "Meta",
    "Check",
    "Checks",
    "Weights",
    "TaggedAddresses",
    "TTL",
    "HTTP",
    "Args",
]


@given(st.dictionaries(st.sampled_from(_NAMES), _JSON))
def test_whatever_comes_is_a_registration_or_a_clear_refusal(raw: dict[str, Any]) -> None:
    for parse in (parse_service, parse_check):
        try:
            parse(read_json(json.dumps(raw).encode()), from_config=False)
        except (BadRequest, RuleFailed):
            pass


def test_a_body_nested_too_deep_is_refused_like_any_other_familys() -> None:
    deep = b'{"Meta":' + b'{"a":' * 40 + b"1" + b"}" * 41
    with pytest.raises(BadRequest, match="nested deeper than 32 levels"):
        read_json(deep)
