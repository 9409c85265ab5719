"""Whatever stands in a file or on the command line, it loads or is refused; nothing else happens."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gemot.agent.config import known
from gemot.agent.config.address import HostFacts
from gemot.agent.config.fault import ConfigFaults
from gemot.agent.config.flags import _ALL, parse
from gemot.agent.config.load import load
from gemot.agent.config.resolve import dns_settings, listening, resolve
from gemot.agent.config.schema import Config
from gemot.agent.config.stanzas import KEYS

_WORDS = st.sampled_from(
    [
        "",
        "10s",
        "-1s",
        "127.0.0.1",
        "::",
        "{{ GetPrivateIP }}",
        "{{ x }}",
        "a b",
        "consul",
        "a:1",
        "unix://x",
        "é",
    ]
)
_LEAF = (
    st.none()
    | st.booleans()
    | st.integers(-2, 70_000)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _WORDS
)
_TOP = sorted(
    {field.encode_name for field in msgspec.structs.fields(Config)} | set(KEYS) | set(known.names_under(""))
)
_BELOW = sorted(
    {name for top in known.names_under("") for name in known.names_under(top)}
    | {
        "http",
        "dns",
        "soa",
        "refresh",
        "name",
        "id",
        "check",
        "args",
        "interval",
        "ttl",
        "port",
        "destination",
        "*",
    }
)
_VALUE = st.recursive(
    _LEAF,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_BELOW), inner, max_size=4),
    max_leaves=8,
)
_KINDS: list[object] = [[], {}, [[]], [{}], [{}, {}], "", " ", 0, -1, 1.5, True, {"": ""}, ["\n"], "\n"]
_HOST = HostFacts("h", (("lo", "127.0.0.1"), ("eth0", "10.0.0.5")))
_QUICK = settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def _take(argv: list[str]) -> None:
    try:
        config = resolve(load(parse(argv)).config, _HOST)
    except ConfigFaults:
        return
    assert config.advertise_addr
    assert listening(config, "http") or config.ports.http == -1
    dns_settings(config)


@_QUICK
@given(raw=st.dictionaries(st.sampled_from(_TOP), _VALUE, max_size=6))
def test_any_map_of_known_keys_loads_or_is_refused(tmp_path: Path, raw: dict[str, object]) -> None:
    (tmp_path / "a.json").write_text(json.dumps(raw))
    _take(["-dev", "-config-file", str(tmp_path / "a.json")])


@_QUICK
@given(
    argv=st.lists(
        st.sampled_from(sorted(set(_ALL) - {"config-file", "config-dir"})).map("-{}".format) | _WORDS,
        max_size=8,
    )
)
def test_any_arguments_load_or_are_refused(argv: list[str]) -> None:
    _take(["-dev", *argv])


@pytest.mark.parametrize("key", _TOP)
def test_any_key_with_any_kind_of_value_loads_or_is_refused(tmp_path: Path, key: str) -> None:
    for value in _KINDS:
        (tmp_path / "a.json").write_text(json.dumps({key: value}))
        _take(["-dev", "-config-file", str(tmp_path / "a.json")])
