"""gemot-template(5) names every key, function, field and filter, and what it says is rendered is rendered."""

from __future__ import annotations

import asyncio
import inspect
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from support.config_files import loaded, write
from support.manual_pages import committed, module, section, terms
from support.template_bench import entry

from gemot.agent.template import functions
from gemot.agent.template.definition import READERS, TemplateDefinition, parse_template
from gemot.agent.template.dependencies import FileRead, Need, key_of
from gemot.agent.template.errors import TemplateFailed
from gemot.agent.template.filters import FILTERS
from gemot.agent.template.functions import FUNCTIONS, Reads
from gemot.agent.template.render import compile_template
from gemot.agent.template.sandbox import make_environment
from gemot.server.model.catalog import (
    HealthService,
    Instance,
    Node,
    NodeDetail,
    NodeInfo,
    Nodes,
    Service,
    Services,
)
from gemot.server.model.health import Check
from gemot.server.model.kv import KvGet, KvList

SOURCE = module("template_page").SOURCE.read_text()
PAGE = committed("gemot-template.5")
CLAIMS = re.findall(r"`([^`]*\{[{%][^`]*)` gives\s+`([^`]*)`", SOURCE)
EXAMPLES = module("roff").examples(SOURCE.split("\n# EXAMPLES\n")[1].split("\n# ")[0])

KEYS = {"shop/db/host": "db1", "shop/db/port": "5432", "shop/greeting": "hello", "shop/workers": "4"}
HOSTS = [Node(f"web{number}", f"10.0.0.{number + 3}") for number in (1, 2, 3)]
WEB = [
    Instance(
        node,
        Service("web", "web", ("v2",) if node.node != "web3" else (), "", 8000),
        (Check(node.node, "c", "c", "critical" if node.node == "web3" else "passing", service_id="web"),),
    )
    for node in HOSTS
]


def answer(need: Need) -> Any:
    """What the servers would say in the world that the page describes."""
    match need:
        case KvGet(key=key):
            value = KEYS.get(key.decode())
            return None if value is None else entry(key.decode(), value)
        case KvList(prefix=prefix):
            return [entry(key, value) for key, value in KEYS.items() if key.startswith(prefix.decode())]
        case HealthService(service="web", tags=tags, passing=passing):
            found = [each for each in WEB if set(tags) <= set(each.service.tags)]
            return [each for each in found if not passing or each.checks[0].status == "passing"]
        case HealthService():
            return []
        case Services():
            return {"web": ["v2"]}
        case Nodes():
            return HOSTS
        case NodeInfo(node=name):
            return next(
                (
                    NodeDetail(each.node, (each.service,), each.checks)
                    for each in WEB
                    if each.node.node == name
                ),
                None,
            )
        case FileRead():
            return None
    raise AssertionError(need)


def render(definition: TemplateDefinition) -> str | None:
    """Evaluated until nothing is asked that was not answered; None if it waits."""

    async def act() -> bytes | None:
        program = await compile_template(definition)
        known: dict[bytes, Any] = {}
        for _ in range(10):
            found = await program.evaluate(known, environ={"HOME": "/root"}, node="web1")
            if not found.unanswered:
                return found.content
            known |= {key_of(need): answer(need) for need in found.unanswered}
        raise AssertionError("it asks on and on")

    content = asyncio.run(act())
    return None if content is None else content.decode()


def text(contents: str) -> TemplateDefinition:
    return TemplateDefinition(destination="/d", contents=contents)


def test_the_page_names_every_field_of_a_definition_with_its_default() -> None:
    told = section(PAGE, "DEFINITION")
    assert terms(told) == list(READERS)
    bare = parse_template({"contents": "x", "destination": "/d"})
    for key, (name, _) in READERS.items():
        words = " ".join(told.split(f"\\fB{key}\\fR\n")[1].split(".TP\n")[0].split())
        default = getattr(bare, name)
        if isinstance(default, bool):
            assert f"default {'true' if default else 'false'}." in words
        elif "delimiter" in key:
            assert f"default {default}." in words
    assert bare.command_timeout_s == 30.0
    assert "default 30s." in told


def test_the_page_names_every_function_as_it_is_called() -> None:
    def shown(name: str) -> str:
        signature = inspect.signature(getattr(Reads, name))
        bare = [
            one.replace(annotation=inspect.Parameter.empty, kind=_plain(one))
            for one in list(signature.parameters.values())[1:]
        ]
        return name + ", ".join(map(_spelled, bare)).join("()")

    assert terms(section(PAGE, "FUNCTIONS")) == [shown(name) for name in FUNCTIONS]


def _plain(one: inspect.Parameter) -> Any:
    return (
        one.kind if one.kind is inspect.Parameter.VAR_POSITIONAL else inspect.Parameter.POSITIONAL_OR_KEYWORD
    )


def _spelled(one: inspect.Parameter) -> str:
    return str(one).replace(" = ", "=")


@pytest.mark.parametrize(
    ("term", "row"),
    [
        ("KEYS", functions.KeyRow),
        ("INSTANCES", functions.InstanceRow),
        ("SERVICES", functions.ServiceRow),
        ("HOSTS", functions.NodeRow),
        ("A HOST WITH ITS SERVICES", functions.NodeView),
    ],
)
def test_the_page_names_every_field_of_what_functions_give(term: str, row: type[msgspec.Struct]) -> None:
    words = section(PAGE, "WHAT THE FUNCTIONS GIVE").split(f"\\fB{term}\\fR\n")[1].split(".TP\n")[0]
    named = re.findall(r"\\fB(\w+)\\fR", words.split(".PP")[0])
    assert sorted(named) == sorted(row.__struct_fields__)


def test_the_page_names_every_filter() -> None:
    told = section(PAGE, "FILTERS AND WHAT ELSE THERE IS")
    own = {name for term in terms(told) for name in term.split(", ")}
    of_jinja = set(re.split(r", ", told.split("Of Jinja2: ")[1].split(".")[0].replace("\n", " ")))
    environment = make_environment(filters=FILTERS)
    assert (own | {"tojson"}) | of_jinja == set(environment.filters)
    for name in environment.globals:
        assert f"\\fB{name}\\fR" in told


@pytest.mark.parametrize(("template", "gives"), CLAIMS, ids=[template[:60] for template, _ in CLAIMS])
def test_what_the_page_says_a_template_gives_it_gives(template: str, gives: str) -> None:
    assert render(text(" ".join(template.split()))) == gives


def test_every_function_but_file_is_shown_with_what_it_gives() -> None:
    shown = " ".join(template for template, _ in CLAIMS)
    assert [name for name in FUNCTIONS if f"{name}(" not in shown] == ["file"]


@pytest.mark.parametrize("at", range(0, len(EXAMPLES), 3))
def test_an_example_of_the_page_is_rendered_to_what_it_shows(at: int, tmp_path: Path) -> None:
    definition, template, written = EXAMPLES[at : at + 3]
    (raw,) = yaml.safe_load(definition)["templates"]
    (tmp_path / "source.j2").write_text(template)
    keys = {key: value for key, value in raw.items() if key not in ("user", "group")}  # not this host's
    write(tmp_path, a_json={"template": keys | {"source": str(tmp_path / "source.j2")}})
    (found,) = loaded(tmp_path, "-dev").config.templates
    assert parse_template(raw).destination == found.destination
    assert (render(found) or "").rstrip() == written.rstrip()


def test_what_is_missing_does_what_the_page_says() -> None:
    assert render(text("{{ key('gone') }}")) is None
    assert render(text("{{ file('/gone') }}")) is None
    nobody = "{% for each in service('web', 'warning') %}x{% else %}nobody{% endfor %}"
    assert render(text(nobody)) == "nobody"


def test_there_are_examples_and_claims() -> None:
    assert len(EXAMPLES) == 9
    assert len(CLAIMS) > 20


def test_what_the_page_gives_for_consul_template_is_sound() -> None:
    told = SOURCE.split("# FROM CONSUL-TEMPLATE\n")[1].split("\n# ")[0]
    pairs = re.findall(r"^\* (.*)\n  `(.*)`$", told, re.MULTILINE)
    assert len(pairs) == 8
    for theirs, ours in pairs:
        asyncio.run(compile_template(text(ours)))
        with pytest.raises(TemplateFailed, match="this looks like consul-template"):
            asyncio.run(compile_template(text(theirs)))
