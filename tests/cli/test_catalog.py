"""`gemot members`, `catalog`, `services`, `why` against a real agent."""

from __future__ import annotations

import json

from support.dev_agent import Shell, until

from gemot import __version__


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_members_are_told_in_columns(gemot: Shell) -> None:
    told = gemot("members")
    head, member = rows(told.out)
    assert head == ["Node", "Address", "Status", "Type", "Build", "Protocol", "DC"]
    assert (member[0], member[2], member[3], member[6]) == ("n1", "alive", "server", "dc1")
    assert member[4] == f"1.20.0+gemot.{__version__}", "what is spoken, and what runs"
    assert told.code == 0
    assert "role=consul" in gemot("members", "-detailed").out


def test_members_are_chosen_by_status_and_no_match_is_exit_code_2(gemot: Shell) -> None:
    assert gemot("members", "-status=alive").code == 0
    none = gemot("members", "-status", "failed|left")
    assert (none.code, none.out, none.err) == (2, "", "")


def test_the_catalog_is_listed(gemot: Shell) -> None:
    assert gemot("catalog", "datacenters").out == "dc1\n"
    (head, node) = rows(gemot("catalog", "nodes").out)
    assert head == ["Node", "ID", "Address", "DC"]
    assert node[0] == "n1"
    assert "TaggedAddresses" in gemot("catalog", "nodes", "-detailed").out
    assert "consul" in gemot("catalog", "services").out.split()


def test_services_of_flags_are_registered_listed_and_deregistered(gemot: Shell) -> None:
    flags = ["-name=flagged", "-id=f1", "-port", "80", "-tag=b", "-tag", "a", "-meta=team=shop"]
    assert gemot("services", "register", *flags).out == "Registered service: flagged\n"
    assert ["flagged", "a,b"] in rows(gemot("catalog", "services", "-tags").out)
    assert "flagged" in gemot("catalog", "services", "-node=n1").out.split()
    assert rows(gemot("catalog", "nodes", "-service=flagged").out)[1][0] == "n1"
    assert gemot("services", "deregister", "-id=f1").out == "Deregistered service: f1\n"
    assert "flagged" not in gemot("catalog", "services").out.split()
    gone = gemot("services", "deregister", "-id=f1")
    assert gone.code == 1
    assert 'Unknown service ID "f1"' in gone.err


def test_services_of_files_are_registered_all_or_none(gemot: Shell) -> None:
    (gemot.folder / "a.json").write_text('{"service": {"name": "filed-a", "port": 1}}')
    (gemot.folder / "b.yaml").write_text("services:\n- {name: filed-b, id: b1}\n- name: filed-c\n")
    (gemot.folder / "bad.yaml").write_text("service: {name: filed-d, port: 70000}\n")
    mixed = gemot("services", "register", "a.json", "bad.yaml")
    assert mixed.code == 1
    assert "Invalid service port: 70000" in mixed.err
    assert "filed-a" not in gemot("catalog", "services").out
    done = gemot("services", "register", "a.json", "b.yaml")
    assert done.out == "".join(f"Registered service: filed-{name}\n" for name in "abc")
    assert gemot("services", "deregister", "a.json", "b.yaml").code == 0
    assert "filed" not in gemot("catalog", "services").out


def test_a_service_comes_from_standard_input(gemot: Shell) -> None:
    assert gemot("services", "register", "-", stdin=b'{"Service": {"Name": "piped"}}').code == 0
    assert gemot("services", "deregister", "-", stdin=b"service: {name: piped}").code == 0


def test_lists_that_match_nothing_say_so_on_standard_error(gemot: Shell) -> None:
    for words in (
        ["nodes", "-service=nowhere"],
        ["nodes", "-node-meta=rack=9"],
        ["services", "-node-meta=a=b"],
    ):
        none = gemot("catalog", *words)
        assert (none.code, none.out) == (0, "")
        assert "match" in none.err
    unknown = gemot("catalog", "services", "-node=n9")
    assert unknown.code == 1
    assert 'no node is called "n9"' in unknown.err


def test_why_tells_what_keeps_an_instance_out(gemot: Shell) -> None:
    check = {"name": "why", "port": 80, "address": "10.0.0.4", "check": {"ttl": "1h", "status": "critical"}}
    gemot("services", "register", "-", stdin=json.dumps({"service": check}).encode())
    told = gemot("why", "service", "why")
    assert told.code == 0
    assert 'why on n1 (10.0.0.4:80) is left out: check "service:why" is critical' in told.out
    assert "DNS: why.service.consul has no healthy instance (NXDOMAIN)" in told.out
    as_json = json.loads(gemot("why", "service", "-json", "why").out)
    assert as_json["Instances"][0]["Failing"][0]["CheckID"] == "service:why"
    near = gemot("why", "service", "whyy")
    assert near.code == 1
    assert "near it: why" in near.out
    gemot("services", "deregister", "-id=why")


def test_why_tells_of_templates_the_agent_does_not_have(gemot: Shell) -> None:
    assert gemot("why", "template").code == 0
    assert gemot("why", "template", "/nowhere").code == 1


def test_info_status_and_version_tell_of_the_agent(gemot: Shell) -> None:
    until(lambda: "Leader   127.0.0.1" in gemot("status").out, "a leader in gemot status")
    assert "n1 (server) in dc1" in gemot("status").out
    assert "raft:" in gemot("info").out
    assert gemot("version").out.startswith("Gemot v")
