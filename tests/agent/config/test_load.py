"""What is loaded from files and flags that are right."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.config_files import faults_of, loaded, one_file, write

from gemot.agent.config.document import MAX_BYTES
from gemot.agent.config.flags import parse
from gemot.agent.config.load import MAX_FILES, load
from gemot.agent.config.schema import Config, Ports


def test_without_anything_given_dev_is_one_server_on_loopback() -> None:
    config = load(parse(["-dev"])).config
    assert config.server
    assert config.bootstrap
    assert config.unsafe_no_fsync
    assert (config.bind_addr, config.client_addr) == ("127.0.0.1", "127.0.0.1")
    assert config.raft_log_segment_bytes == 2**20


def test_dev_differs_from_the_defaults_and_files_and_flags_differ_from_dev(tmp_path: Path) -> None:
    config = one_file(tmp_path, {"bind_addr": "10.0.0.1"}, "-dev", "-bootstrap=false").config
    assert config.bind_addr == "10.0.0.1"
    assert not config.bootstrap
    assert config.server


def test_an_empty_file_leaves_every_default(tmp_path: Path) -> None:
    write(tmp_path, a_json="", b_yaml="# nothing\n", c_yml="---\n", d_json="{}")
    assert loaded(tmp_path, "-data-dir=/d").config == Config(data_dir="/d")


def test_the_defaults_satisfy_their_own_rules(tmp_path: Path) -> None:
    assert one_file(tmp_path, {}).config == Config(data_dir="/var/lib/gemot")


def test_later_scalars_override_lists_append_and_maps_merge(tmp_path: Path) -> None:
    write(
        tmp_path,
        a_json={
            "log_level": "warn",
            "retry_join": ["a"],
            "ports": {"http": 1, "dns": 2},
            "node_meta": {"x": "1"},
        },
        b_yaml="log_level: error\nretry_join: [b]\nports: {http: 3}\nnode_meta: {y: '2', x: '3'}\n",
    )
    config = loaded(
        tmp_path, "-data-dir", "/d", "-retry-join=c", "-http-port=4", "-node-meta", "z:a:b"
    ).config
    assert config.log_level == "ERROR"
    assert config.retry_join == ("a", "b", "c")
    assert config.ports == Ports(http=4, dns=2)
    assert config.node_meta == {"x": "3", "y": "2", "z": "a:b"}


def test_files_of_a_directory_are_read_in_name_order_whatever_their_form(tmp_path: Path) -> None:
    write(tmp_path, b_json={"node_name": "b"}, c_yml="node_name: c", a_yaml="node_name: a")
    found = loaded(tmp_path, "-dev")
    assert found.config.node_name == "c"
    assert found.files == tuple(str(tmp_path / name) for name in ("a.yaml", "b.json", "c.yml"))


def test_files_and_directories_are_read_in_the_order_of_their_flags(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    write(one, z_json={"node_name": "first"})
    write(two, a_json={"node_name": "second"})
    forth = ["-config-dir", str(one), "-config-file", str(two / "a.json")]
    back = ["-config-file", str(two / "a.json"), "-config-dir", str(one)]
    assert load(parse(["-dev", *forth])).config.node_name == "second"
    assert load(parse(["-dev", *back])).config.node_name == "first"


def test_what_lies_below_a_directory_and_other_kinds_of_files_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    write(tmp_path / "below", a_json="{broken")
    write(tmp_path, notes_txt="{broken", a_json={"node_name": "a"})
    assert loaded(tmp_path, "-dev").files == (str(tmp_path / "a.json"),)


def test_hidden_files_of_a_directory_are_passed_over_with_a_warning(tmp_path: Path) -> None:
    write(tmp_path, **{".#web_json": "{broken"})
    found = loaded(tmp_path, "-dev")
    assert found.warnings == (f"{tmp_path}/.#web.json: hidden files are not read",)
    assert found.files == ()


def test_a_file_named_outright_is_read_though_its_name_starts_with_a_dot(tmp_path: Path) -> None:
    write(tmp_path, **{".agent_json": {"node_name": "n"}})
    assert load(parse(["-dev", "-config-file", str(tmp_path / ".agent.json")])).config.node_name == "n"


def test_config_format_tells_the_form_of_a_file_without_a_known_ending(tmp_path: Path) -> None:
    write(tmp_path, agent_conf="node_name: n")
    place = str(tmp_path / "agent.conf")
    assert load(parse(["-dev", "-config-file", place, "-config-format=yaml"])).config.node_name == "n"


def test_py_consuls_configuration_loads(tmp_path: Path) -> None:
    raw = {
        "performance": {"raft_multiplier": 1},
        "enable_script_checks": True,
        "ports": {
            "http": 18500, "server": 18300, "grpc": 18502, "serf_lan": 18301, "serf_wan": 18302,
            "https": -1, "dns": -1, "grpc_tls": -1,
        },
        "primary_datacenter": "dc1",
    }  # fmt: skip
    config = loaded(write(tmp_path, config_json=raw), "-dev", "-client=127.0.0.1").config
    assert config.ports == Ports(http=18500, server=18300, serf_lan=18301, dns=-1)
    assert config.enable_script_checks


def test_py_consuls_configuration_with_access_control_names_what_is_missing(tmp_path: Path) -> None:
    raw = {"acl": {"enabled": True, "tokens": {"initial_management": "secret"}}}
    assert faults_of(write(tmp_path, config_json=raw), "-dev") == [
        "config.json: acl.enabled: refused: access control is not there yet, so every caller would be let in"
    ]


def test_patronis_configuration_loads(tmp_path: Path) -> None:
    raw = {"session_ttl_min": "5s", "server": True, "bootstrap": True, "advertise_addr": "127.0.0.1"}
    write(tmp_path, dcs_json=raw)
    found = load(parse(["-config-file", str(tmp_path / "dcs.json"), "-data-dir", str(tmp_path / "data")]))
    assert found.warnings == ()
    assert found.config.session_ttl_min_s == 5.0
    assert found.config.advertise_addr == "127.0.0.1"


def test_a_file_that_spells_out_consuls_defaults_says_nothing(tmp_path: Path) -> None:
    raw = {
        "acl": {"enabled": False, "default_policy": "allow", "down_policy": "extend-cache", "tokens": {}},
        "encrypt": "",
        "verify_incoming": False,
        "tls": {"defaults": {"verify_incoming": False, "ca_file": ""}},
        "segments": None,
        "ports": {"https": -1, "grpc": -1},
        "raft_protocol": 3,
        "disable_update_check": True,
        "ui_config": {"enabled": False},
        "connect": {"enabled": False},
        "server": True,
    }
    assert one_file(tmp_path, raw).warnings == ()


def test_keys_may_be_in_any_letters_and_maps_in_a_list_of_one(tmp_path: Path) -> None:
    config = one_file(
        tmp_path, {"Node_Name": "n", "PORTS": [{"HTTP": 80}], "DNS_Config": {"Soa": {"Retry": 5}}}
    ).config
    assert (config.node_name, config.ports.http, config.dns_config.soa.retry_s) == ("n", 80, 5)


def test_keys_of_maps_keep_their_letters(tmp_path: Path) -> None:
    assert one_file(tmp_path, {"node_meta": {"Rack": "A1"}}).config.node_meta == {"Rack": "A1"}


@pytest.mark.parametrize(
    ("written", "level"),
    [("trace", "TRACE"), ("Info", "INFO"), ("ERR", "ERROR"), ("warning", "WARN"), ("DEBUG", "DEBUG")],
)
def test_log_levels_are_taken_in_any_letters(tmp_path: Path, written: str, level: str) -> None:
    assert one_file(tmp_path, {"log_level": written}).config.log_level == level


def test_services_checks_and_templates_come_singly_and_in_lists(tmp_path: Path) -> None:
    (tmp_path / "t.j2").write_text("x")
    write(
        tmp_path,
        a_json={
            "service": {"name": "web", "port": 80, "check": {"ttl": "10s"}},
            "check": {"name": "c", "ttl": "5s"},
        },
        b_yaml=(
            f"services:\n- {{name: db, tags: [a]}}\n- {{name: mq}}\nchecks: [{{id: d, name: d, ttl: 1m}}]\n"
            f"templates: [{{source: {tmp_path}/t.j2, destination: /t.conf}}]\n"
        ),
    )
    config = loaded(tmp_path, "-dev").config
    assert [service.service.id for service in config.services] == ["web", "db", "mq"]
    assert [check.check_id for check in config.checks] == ["c", "d"]
    assert [template.destination for template in config.templates] == ["/t.conf"]
    assert config.services[0].checks[0].ttl_s == 10.0


def test_a_setting_in_a_later_file_counts_for_the_checks_of_an_earlier_one(tmp_path: Path) -> None:
    check = {"name": "disk", "args": ["/bin/true"], "interval": "10s"}
    write(tmp_path, a_json={"check": check}, b_json={"enable_local_script_checks": True})
    assert loaded(tmp_path, "-dev").config.checks[0].args == ("/bin/true",)


def test_fields_of_a_service_without_effect_are_told(tmp_path: Path) -> None:
    found = one_file(tmp_path, {"server": True, "service": {"name": "web", "connect": {"native": True}}})
    assert found.warnings == (f'{tmp_path}/agent.json: service "web": without effect here: connect',)


def test_every_mistake_of_every_source_is_told_at_once(tmp_path: Path) -> None:
    write(
        tmp_path,
        a_json={
            "prots": {},
            "ports": {"http": 70000},
            "services": [{"name": "w", "port": -4}, {"nmae": "x"}],
        },
        b_yaml="retry_interval: 10\nca_file: Zm9v\n",
        c_json='{"a": 1, "a": 2, "b": {"c": 1, "c": 2}}',
        d_hcl="node_name = 1",
    )
    told = faults_of(tmp_path, "-dev", "-htp-port=1", "-bind", "here")
    starts = [
        "command line: -htp-port: unknown flag; did you mean -http-port?",
        "a.json: prots: unknown key; did you mean ports?",
        "a.json: ports.http: must be from -1 to 65535 (-1 turns it off), got 70000",
        'b.yaml: retry_interval: expected a duration such as "10s", got the number 10',
        "b.yaml: ca_file: refused: TLS",
        'c.json: the key "a" stands twice',
        'c.json: b: the key "c" stands twice',
        "d.hcl: HCL comes in a later release",
        'a.json: services[0] "w": port: ',
        "a.json: services[1]: nmae: unknown field; did you mean name?",
        "a.json: services[1]: name: Missing service name",
    ]
    assert len(told) == len(starts)
    for line, start in zip(told, starts, strict=True):
        assert line.startswith(start), line


def test_a_mistake_of_several_sources_names_them_all(tmp_path: Path) -> None:
    write(tmp_path, a_json={"enable_script_checks": True}, b_json={"client_addr": "10.0.0.1"})
    assert faults_of(tmp_path, "-dev")[0].startswith("a.json, b.json: enable_script_checks, client_addr: ")


def test_a_mistake_in_a_list_names_every_file_that_added_to_it(tmp_path: Path) -> None:
    write(tmp_path, a_json={"retry_join": ["a b"]}, b_json={"retry_join": ["c"]})
    assert faults_of(tmp_path, "-dev")[0].startswith("a.json, b.json: retry_join[0]: ")


def test_a_value_that_could_not_be_read_is_not_also_missed(tmp_path: Path) -> None:
    assert len(faults_of(write(tmp_path, a_json={"data_dir": 5}))) == 1


def test_with_a_file_unread_nothing_is_said_of_what_lacks_in_the_others(tmp_path: Path) -> None:
    assert len(faults_of(write(tmp_path, a_json="{", b_json={"node_name": "n"}))) == 1


def test_a_place_that_is_not_there_is_a_fault(tmp_path: Path) -> None:
    assert faults_of(tmp_path / "none", "-dev") == [
        f"{tmp_path}/none: cannot be read: No such file or directory"
    ]


def test_more_files_than_the_limit_are_refused(tmp_path: Path) -> None:
    for number in range(MAX_FILES + 1):
        (tmp_path / f"{number}.json").touch()
    assert "1000 at most" in faults_of(tmp_path, "-dev")[0]


def test_devices_and_pipes_are_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "zero.json").symlink_to("/dev/zero")
    assert faults_of(tmp_path, "-dev") == [
        "pipe.json: is not a regular file",
        "zero.json: is not a regular file",
    ]


def test_of_the_wrong_file_only_the_first_hundred_mistakes_are_told(tmp_path: Path) -> None:
    write(tmp_path, a_json={f"kez_{n}": n for n in range(60_000)}, b_json={"services": [{}] * 5_000})
    told = faults_of(tmp_path, "-dev")
    assert told[100] == "a.json: these are the first 100 mistakes; more follow"
    assert told[201] == "b.json: services[100]: not read any more, after so many mistakes"
    assert len(told) == 202


def test_a_wrong_value_behind_a_hundred_mistakes_is_still_not_taken(tmp_path: Path) -> None:
    write(
        tmp_path,
        a_json={f"kez_{n}": n for n in range(200)} | {"node_meta": 5, "retry_join": [{}], "domain": []},
    )
    assert len(faults_of(tmp_path)) == 102


def test_a_file_beyond_the_limit_of_bytes_is_refused(tmp_path: Path) -> None:
    write(tmp_path, big_json=b" " * (MAX_BYTES + 1))
    assert "4194304 bytes" in faults_of(tmp_path, "-dev")[0]


@pytest.mark.parametrize(
    "stanza",
    [
        {"check": {"name": "c", "args": ["/bin/true"], "interval": "10s"}},
        {"service": {"name": "s", "check": {"args": ["/bin/true"], "interval": "10s"}}},
        {"template": {"contents": "a", "destination": "/b"}},
    ],
)
def test_a_file_that_anyone_may_write_cannot_make_the_agent_run_commands(
    tmp_path: Path, stanza: dict[str, object]
) -> None:
    write(tmp_path, a_json=stanza)
    (tmp_path / "a.json").chmod(0o646)
    assert "chmod o-w" in faults_of(tmp_path, "-dev", "-enable-local-script-checks")[0]
    (tmp_path / "a.json").chmod(0o640)
    assert loaded(tmp_path, "-dev", "-enable-local-script-checks")


def test_a_file_that_anyone_may_write_is_read_while_it_commands_nothing(tmp_path: Path) -> None:
    write(tmp_path, a_json={"service": {"name": "web"}})
    (tmp_path / "a.json").chmod(0o666)
    assert loaded(tmp_path, "-dev", "-enable-local-script-checks").config.services


KEY = "a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s="


@pytest.mark.parametrize(
    ("mode", "warned"), [(0o644, True), (0o604, True), (0o640, False), (0o600, False), (0o660, False)]
)
def test_a_key_in_a_file_that_every_user_can_read_is_warned_of(
    tmp_path: Path, mode: int, warned: bool
) -> None:
    path = tmp_path / "a key.json"
    path.write_text(f'{{"encrypt": "{KEY}", "data_dir": "/d", "retry_join": ["a"]}}')
    path.chmod(mode)
    told = f"{path}: encrypt: every user of this host can read the key (mode {mode:04o}): chmod o-r '{path}'"
    warnings = load(parse([f"-config-file={path}"])).warnings
    assert warnings == ((told,) if warned else ())
    assert KEY not in "".join(warnings)


def test_nothing_is_warned_of_where_the_key_is_not_in_the_file(tmp_path: Path) -> None:
    write(tmp_path, a_json={"data_dir": "/d", "retry_join": ["a"]}, b_json={"encrypt": KEY})
    (tmp_path / "a.json").chmod(0o644)
    (tmp_path / "b.json").chmod(0o600)
    assert loaded(tmp_path).warnings == ()
    (tmp_path / "b.json").unlink()
    assert loaded(tmp_path, f"-encrypt={KEY}").warnings == ()
