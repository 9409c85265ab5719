"""What a reload takes up, and what it says needs a restart."""

from __future__ import annotations

from pathlib import Path

import msgspec
from support.config_files import loaded, one_file, write

from gemot.agent.config.reload import RELOADABLE, difference
from gemot.agent.config.schema import Config, DnsConfig, Limits, Ports, Soa


def test_the_same_configuration_changes_nothing() -> None:
    found = difference(Config(), Config())
    assert (found.applied, found.needs_restart) == ((), ())
    assert found.config == Config()


def test_changes_are_told_apart_and_only_those_that_can_be_are_in_force() -> None:
    old = Config()
    new = Config(
        log_level="DEBUG",
        data_dir="/elsewhere",
        ports=Ports(http=1),
        limits=Limits(kv_max_value_size=5, txn_max_ops=5, rpc_max_conns_per_client=5),
        dns_config=DnsConfig(only_passing=True, soa=Soa(retry_s=1)),
    )
    found = difference(old, new)
    assert found.applied == (
        "dns_config.only_passing", "dns_config.soa.retry", "limits.kv_max_value_size", "limits.txn_max_ops",
        "log_level",
    )  # fmt: skip
    assert found.needs_restart == ("data_dir", "ports.http", "limits.rpc_max_conns_per_client")
    assert found.config == msgspec.structs.replace(
        old,
        log_level="DEBUG",
        limits=Limits(kv_max_value_size=5, txn_max_ops=5),
        dns_config=new.dns_config,
    )


def test_taking_up_what_was_taken_up_leaves_what_needs_a_restart() -> None:
    new = Config(log_level="WARN", server=True)
    again = difference(difference(Config(), new).config, new)
    assert (again.applied, again.needs_restart) == ((), ("server",))


def test_services_checks_and_templates_are_taken_up(tmp_path: Path) -> None:
    old = one_file(tmp_path, {"server": True}).config
    write(
        tmp_path,
        more_json={
            "service": {"name": "web"},
            "check": {"name": "c", "ttl": "10s"},
            "template": {"contents": "a", "destination": "/b"},
        },
    )
    found = difference(old, loaded(tmp_path).config)
    assert found.applied == ("services", "checks", "templates")
    assert found.needs_restart == ()
    assert found.config.services[0].service.service == "web"


def test_every_reloadable_path_is_in_the_schema() -> None:
    for path in RELOADABLE:
        tree: object = Config()
        for name in path.split("."):
            assert isinstance(tree, msgspec.Struct)
            fields = {field.encode_name: field.name for field in msgspec.structs.fields(tree)}
            tree = getattr(tree, fields[name])
