"""The command line: Go's spellings, and every mistake told."""

from __future__ import annotations

from pathlib import Path

import pytest

from gemot.agent.config.decode import decode
from gemot.agent.config.fault import EXIT_CODE, ConfigFaults
from gemot.agent.config.flags import _ALL, parse, usage
from gemot.agent.config.load import load

CONSUL = [
    "server", "dev", "bootstrap", "bootstrap-expect", "data-dir", "node", "node-id", "node-meta",
    "datacenter", "bind", "advertise", "advertise-wan", "client", "retry-join", "retry-interval",
    "retry-max", "retry-join-wan", "retry-interval-wan", "retry-max-wan", "join", "encrypt", "config-file",
    "config-dir", "config-format", "hcl", "domain", "alt-domain", "recursor", "http-port", "https-port",
    "dns-port", "grpc-port", "grpc-tls-port", "server-port", "serf-lan-port", "serf-wan-port", "log-level",
    "log-json", "log-file", "log-rotate-bytes", "log-rotate-duration", "log-rotate-max-files", "ui",
    "ui-dir", "ui-content-path", "enable-script-checks", "enable-local-script-checks", "rejoin",
    "pid-file", "syslog", "raft-protocol", "auto-reload-config", "allow-write-http-from",
    "default-query-time", "max-query-time", "disable-host-node-id",
]  # fmt: skip


@pytest.mark.parametrize("name", CONSUL)
def test_a_flag_of_consul_is_known(name: str) -> None:
    flags = parse([f"-{name}=1"])
    assert not any("unknown" in fault.message for fault in flags.faults)


@pytest.mark.parametrize("flag", _ALL.values(), ids=_ALL)
def test_every_flag_leads_to_a_key_that_is_known(flag: object) -> None:
    path = getattr(flag, "path", "")
    raw: object = "x"
    for key in reversed(path.split(".")):
        raw = {key: raw}
    assert path == "" or not any("unknown" in f.message for f in decode(raw, "f").faults)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "argv",
    [["-node", "a"], ["-node=a"], ["--node", "a"], ["--node=a"], ["-node", "b", "-node", "a"]],
)
def test_values_follow_behind_a_space_or_an_equals_sign(argv: list[str]) -> None:
    assert parse(argv).overrides == {"node_name": "a"}


@pytest.mark.parametrize(
    ("argv", "value"),
    [
        (["-server"], True),
        (["-server=true"], True),
        (["--server=1"], True),
        (["-server=false"], False),
        (["-server=F"], False),
    ],
)
def test_a_switch_stands_bare_or_with_a_value(argv: list[str], value: bool) -> None:
    assert parse(argv).overrides == {"server": value}


def test_a_value_may_hold_equals_signs_and_start_with_a_dash() -> None:
    assert parse(["-node-meta=a:b=c", "-http-port", "-1"]).overrides == {
        "node_meta": {"a": "b=c"},
        "ports": {"http": -1},
    }


def test_lists_gather_and_join_is_retry_join() -> None:
    assert parse(["-retry-join=a", "-join", "b", "-retry-join", "c"]).overrides == {
        "retry_join": ["a", "b", "c"]
    }


def test_files_and_directories_keep_their_order() -> None:
    assert parse(["-config-dir=b", "-config-file", "a", "-config-dir", "c"]).files == ("b", "a", "c")


def test_a_test_harness_as_they_start_agents_is_understood() -> None:
    argv = "-node n1 -datacenter dc1 -bind 10.0.0.1 -client 127.0.0.1 -bootstrap -server -data-dir /d"
    config = load(parse([*argv.split(), "-pid-file", "/p"])).config
    assert (config.node_name, config.bind_addr, config.pid_file) == ("n1", "10.0.0.1", "/p")
    assert config.bootstrap
    assert config.server


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["-nod", "a"], "command line: -nod: unknown flag; did you mean -node?"),
        (["-data_dir=/d"], "command line: -data_dir: unknown flag; did you mean -data-dir?"),
        (["server"], "command line: server: is not a flag"),
        (["-server", "true"], "command line: true: is not a flag"),
        (["-"], "command line: -: is not a flag"),
        (["--"], "command line: --: is not a flag"),
        (["-=x"], "command line: -=x: is not a flag"),
        ([""], "command line: is not a flag"),
        (["-node"], "command line: -node: needs a value"),
        (["-server=maybe"], 'command line: -server: must be true or false, got "maybe"'),
        (["-server="], "command line: -server: must be true or false"),
        (["-http-port=x"], 'command line: -http-port: expected a whole number, got the text "x"'),
        (["-http-port=70000"], "command line: -http-port: must be from -1 to 65535"),
        (["-http-port=8600"], "command line: ports.dns, -http-port: both use port 8600"),
        (["-node-meta=a"], 'command line: -node-meta: must be key:value, got "a"'),
        (["-node-meta=:a"], "command line: -node-meta: must be key:value"),
        (["-retry-interval=5"], "command line: -retry-interval: expected a duration"),
        (["-log-level=loud"], "command line: -log-level: expected one of"),
        (["-config-format=toml"], 'command line: -config-format: must be json or yaml, got "toml"'),
        (["-config-format=hcl"], "command line: -config-format: must be json or yaml"),
        (["-hcl=server = true"], "command line: -hcl: HCL comes in a later release"),
        (["-encrypt=a2V5"], "command line: -encrypt: the key has 3 bytes"),
        (["-allow-write-http-from=10.0.0.0/8"], "command line: -allow-write-http-from: refused: "),
        (["-node=a\0b"], "command line: -node: holds a character that cannot be stored"),
        (["-node=\udcff"], "command line: -node: holds a character that cannot be stored"),
        (
            ["-client=0.0.0.0", "-enable-script-checks"],
            "command line: -enable-script-checks, -client: checks may run",
        ),
        (
            ["-bootstrap-expect=3"],
            "command line: bootstrap, -bootstrap-expect: exclude each other (-dev sets",
        ),
    ],
)
def test_a_mistake_names_the_flag(argv: list[str], told: str) -> None:
    with pytest.raises(ConfigFaults) as caught:
        load(parse(["-dev", *argv]))
    (fault,) = caught.value.faults
    assert str(fault).startswith(told)


def test_several_mistakes_are_told_together_and_lead_to_the_exit_code_for_configuration() -> None:
    with pytest.raises(ConfigFaults) as caught:
        load(parse(["-dev", "-x", "-http-port=x", "-encrypt=k", "-node"]))
    assert [fault.path for fault in caught.value.faults] == ["-x", "-node", "-http-port", "-encrypt"]
    assert EXIT_CODE == 78


@pytest.mark.parametrize(
    "argv", [["-ui"], ["-recursor=8.8.8.8"], ["-grpc-port=8502"], ["-syslog"], ["-advertise-wan=a"]]
)
def test_a_flag_without_effect_warns_by_its_name(argv: list[str]) -> None:
    (warning,) = load(parse(["-dev", *argv])).warnings
    assert warning.startswith(f"command line: {argv[0].partition('=')[0]}: ignored: ")


def test_a_flag_wins_over_every_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"node_name": "file"}')
    assert load(parse(["-dev", "-node=flag", "-config-dir", str(tmp_path)])).config.node_name == "flag"


@pytest.mark.parametrize("argv", [["-h"], ["-help"], ["--help"]])
def test_help_is_asked_for_in_three_ways(argv: list[str]) -> None:
    assert parse(argv).help


def test_the_list_of_flags_tells_each_that_has_an_effect_on_one_line() -> None:
    lines = usage().splitlines()
    assert any(line.startswith("  -retry-join ") for line in lines)
    assert not any("-recursor" in line or "-hint" in line for line in lines)
    assert all(len(line) <= 110 for line in lines)


def test_hint_is_a_switch_of_the_program_and_sets_nothing() -> None:
    flags = parse(["-dev", "-hint"])
    assert flags.hint
    assert flags.overrides == {}
