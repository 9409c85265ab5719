"""What keeps services, checks and templates from being used is told all at once, each with file and path."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from support.config_files import faults_of, loaded, write

from gemot.agent.config.fault import ConfigFaults
from gemot.agent.config.flags import parse
from gemot.agent.config.load import load_templates


def test_every_fault_of_every_stanza_has_its_file_and_path(tmp_path: Path) -> None:
    (tmp_path / "bad.j2").write_text("ok\n{{ servce('web') }}\n{{ 1 | to_jsn }}\n")
    (tmp_path / "torn.j2").write_text("ok\n{% for %}")
    write(
        tmp_path,
        a_yaml=f"""
services:
  - name: web
    port: 70000
    checks:
      - {{http: "http://localhost/", interval: 10}}
      - {{tcp: "nowhere", interval: 5s, timout: 1s}}
  - {{name: db, tag: x}}
checks:
  - {{name: disk, args: [/bin/true], interval: 10s}}
templates:
  - {{source: {tmp_path}/bad.j2, destination: /a, perms: 0999}}
  - {{source: {tmp_path}/torn.j2, destination: /b}}
  - {{source: {tmp_path}/gone.j2, destination: /c, user: nobody-of-that-name}}
  - {{contents: "{{{{ nope }}", destination: /d}}
  - {{contents: x, destination: /e, command: []}}
""",
    )
    assert faults_of(tmp_path, "-dev") == [
        'a.yaml: services[0] "web": port: Invalid service port: 70000 is not from 0 to 65535',
        'a.yaml: services[0] "web": checks[0].interval: wants a duration such as 10s: '
        "the number 10 counts nanoseconds",
        'a.yaml: services[0] "web": checks[1].timout: unknown field; did you mean timeout?',
        "a.yaml: services[0] \"web\": checks[1].tcp: Invalid check: TCP 'nowhere' wants a host and a port, "
        "such as 127.0.0.1:80",
        'a.yaml: services[1] "db": tag: unknown field; did you mean tags?',
        'a.yaml: checks[0] "disk": args: Scripts are disabled on this agent; set enable_local_script_checks '
        "(or enable_script_checks) to true",
        'a.yaml: templates[0] "/a": perms: must be an octal mode from "0000" to "0777", got \'0999\'',
        'a.yaml: templates[0] "/a": source: bad.j2:2: there is no function servce; did you mean service?',
        'a.yaml: templates[0] "/a": source: bad.j2:3: there is no filter to_jsn; did you mean to_json?',
        'a.yaml: templates[1] "/b": source: torn.j2:2: Expected an expression, '
        "got 'end of statement block'",
        "a.yaml: templates[2] \"/c\": user: there is no user 'nobody-of-that-name' on this host",
        'a.yaml: templates[2] "/c": source: gone.j2: the template cannot be read: No such file or directory',
        "a.yaml: templates[3] \"/d\": contents: contents of /d:1: unexpected '}'",
        'a.yaml: templates[4] "/e": command: is an empty list: name the program and its arguments, '
        "or leave it out to run nothing",
    ]


@pytest.mark.parametrize("kind", ["directory", "pipe", "large"])
def test_a_source_that_is_no_readable_file_is_told(tmp_path: Path, kind: str) -> None:
    source = tmp_path / "source.j2"
    if kind == "directory":
        source.mkdir()
    elif kind == "pipe":
        os.mkfifo(source)
    else:
        source.write_bytes(b"x" * (1024 * 1024 + 1))
    write(tmp_path, a_json={"template": {"source": str(source), "destination": "/a"}})
    (told,) = faults_of(tmp_path, "-dev")
    assert told.startswith('a.json: template "/a": source: source.j2: ')
    why = {"large": "the limit of a template", "pipe": "not a regular file", "directory": "Is a directory"}
    assert why[kind] in told


def test_a_template_that_writes_the_source_of_another_is_told(tmp_path: Path) -> None:
    (tmp_path / "b.j2").write_text("x")
    write(
        tmp_path,
        a_json={"template": {"contents": "x", "destination": f"{tmp_path}/b.j2"}},
        b_json={"template": {"source": f"{tmp_path}/b.j2", "destination": "/c"}},
    )
    (told,) = faults_of(tmp_path, "-dev")
    assert told.startswith('b.json: template "/c": source: b.j2 is the destination of template of a.json: ')


def test_templates_beside_an_agent_are_read_by_the_same_rules(tmp_path: Path) -> None:
    write(tmp_path, a_json={"templates": [{"contents": "{{ kye('a') }}", "destination": "/a"}]})
    with pytest.raises(ConfigFaults, match=r'templates\[0\] "/a": contents: .*did you mean key\?'):
        load_templates(parse(["-config-dir", str(tmp_path)]))


def test_names_that_a_template_makes_itself_are_no_fault(tmp_path: Path) -> None:
    text = """{% macro line(x) %}{{ caller() if caller else x }}{% endmacro %}{{ line(1) }}
{% set get = key_or_default %}{{ get("a", "b") }}{% call line(1) %}x{% endcall %}
{% for a in [[1]] recursive %}{{ loop(a) if a else "" }}{% endfor %}{% block b %}{{ self.b }}{% endblock %}
{{ namespace(a=1).a }}{{ undefined_name is defined }}{{ "A".lower() }}{{ cycler(1, 2).next() }}"""
    write(tmp_path, a_json={"template": {"contents": text, "destination": "/a"}})
    assert loaded(tmp_path, "-dev").config.templates


def test_reading_needs_no_loop_and_disturbs_none(tmp_path: Path) -> None:
    """A reload reads on a worker thread while the agent's loop runs; a start, before there is one."""
    write(tmp_path, a_json={"template": {"contents": "{{ key('a') }}", "destination": "/a"}})

    async def act() -> int:
        found = await asyncio.to_thread(loaded, tmp_path, "-dev")
        return len(found.config.templates)

    assert asyncio.run(act()) == 1


def test_a_directory_without_files_is_told_with_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "agent.yml.dpkg-old").write_text("data_dir: /x")
    with pytest.raises(ConfigFaults) as caught:
        loaded(tmp_path)
    assert [fault.path for fault in caught.value.faults] == ["data_dir"]
    assert f"{tmp_path}: holds no file that ends in .json, .yaml or .yml" in caught.value.warnings


def test_a_check_of_a_service_that_no_file_has_is_warned_of(tmp_path: Path) -> None:
    check = {"name": "c", "ttl": "10s", "service_id": "web"}
    write(tmp_path, a_json={"check": check})
    (told,) = (each for each in loaded(tmp_path, "-dev").warnings if "service_id" in each)
    assert told.startswith(
        f'{tmp_path}/a.json: check "c": service_id: no service of these files has the id "web"'
    )
    write(tmp_path, b_json={"service": {"name": "web"}})
    assert not [each for each in loaded(tmp_path, "-dev").warnings if "service_id" in each]


def test_an_alias_of_no_service_and_a_name_that_dns_cannot_have_are_told(tmp_path: Path) -> None:
    web = {"name": "web app", "id": "web", "checks": [{"alias_service": "db"}, {"alias_service": "web"}]}
    write(tmp_path, a_json={"service": web, "check": {"name": "c", "alias_service": "WEB"}})
    told = [each.removeprefix(f"{tmp_path}/a.json: ") for each in loaded(tmp_path, "-dev").warnings]
    nobody = 'alias_service: no service of these files has the id "{}": the check is critical unless'
    assert [each for each in told if each.startswith(('service "', 'check "'))] == [
        f'service "web app": {nobody.format("db")} the API registered one',
        f'check "c": {nobody.format("WEB")} the API registered one',
        'service "web app": name: cannot be looked up by DNS: only letters, digits, dashes and underscores '
        "can, 63 at most",
    ]
