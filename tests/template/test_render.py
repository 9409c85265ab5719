"""Evaluating a template against known answers: what functions give, what is missing, and where it failed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.template_bench import entry, instance

from gemot.agent.template.definition import TemplateDefinition
from gemot.agent.template.dependencies import FileRead, Need, describe, key_of
from gemot.agent.template.errors import TemplateFailed
from gemot.agent.template.render import Evaluation, compile_template
from gemot.server.model.catalog import HealthService, Node, NodeDetail, NodeInfo, Nodes, Services
from gemot.server.model.health import NODE_MAINTENANCE
from gemot.server.model.kv import KvGet, KvList

Known = Sequence[tuple[Need, object]]


def evaluate(text: str, known: Known = (), *, strict: bool = True) -> Evaluation:
    async def act() -> Evaluation:
        definition = TemplateDefinition(destination="/d", contents=text, error_on_missing_key=strict)
        program = await compile_template(definition)
        answers = {key_of(need): value for need, value in known}
        return await program.evaluate(answers, environ={"HOME": "/root"}, node="here")

    return asyncio.run(act())


def render(text: str, known: Known = (), *, strict: bool = True) -> str:
    evaluation = evaluate(text, known, strict=strict)
    assert evaluation.content is not None, (evaluation.unanswered, evaluation.absent)
    return evaluation.content.decode("utf-8", "surrogateescape")


def failure(text: str, known: Known = ()) -> str:
    with pytest.raises(TemplateFailed) as caught:
        evaluate(text, known)
    return caught.value.message


A = KvGet(b"a")


def test_key_gives_the_value_and_a_leading_slash_makes_no_difference() -> None:
    assert render("[{{ key('a') }}|{{ key('/a') }}]", [(A, entry("a", "x"))]) == "[x|x]"


def test_the_last_newline_of_a_template_is_kept() -> None:
    assert render("x\n") == "x\n"
    assert render("x") == "x"


def test_values_that_are_not_utf8_come_out_byte_for_byte() -> None:
    content = evaluate("{{ key('a') }}", [(A, entry("a", b"\xff\x00\x80"))]).content
    assert content == b"\xff\x00\x80"


def test_values_are_not_escaped() -> None:
    assert render("{{ key('a') }}", [(A, entry("a", "<&\"'>{{ 1 }}"))]) == "<&\"'>{{ 1 }}"


def test_a_key_that_does_not_exist_keeps_the_template_from_rendering() -> None:
    evaluation = evaluate("x{{ key('a') }}", [(A, None)])
    assert evaluation.content is None
    assert evaluation.absent == (A,)
    assert evaluation.unanswered == ()


def test_one_evaluation_finds_all_questions_that_do_not_hang_on_an_answer() -> None:
    text = "{{ key('a') }}{% for s in service('web') %}{{ s.address }}{% endfor %}{{ key('b') }}{{ nodes() }}"
    evaluation = evaluate(text)
    assert evaluation.content is None
    wanted = (A, HealthService("web", passing=True), KvGet(b"b"), Nodes())
    assert evaluation.unanswered == wanted


@pytest.mark.parametrize(
    "text",
    [
        "{{ key(key('a')) }}{{ key('never') }}",
        "{{ tree(key('a')) }}{{ key('never') }}",
        "{{ key('x/' ~ key('a')) }}{{ key('never') }}",
        "{{ key('a')|upper }}{{ key('never') }}",
        "{% if key('a') == 'x' %}{{ key('never') }}{% endif %}",
        "{% if key('a') %}{{ key('never') }}{% endif %}",
        "{{ (key('a')|parse_json).x }}{{ key('never') }}",
        "{{ service('web')|length }}{{ key('never') }}",
    ],
)
def test_a_missing_value_never_decides_what_else_is_asked(text: str) -> None:
    evaluation = evaluate(text)
    assert evaluation.content is None
    assert KvGet(b"never") not in evaluation.needs.values()
    assert len(evaluation.needs) == 1


def test_an_answer_can_lead_to_further_questions() -> None:
    evaluation = evaluate("{{ key('x/' ~ key('a')) }}", [(A, entry("a", "b"))])
    assert evaluation.unanswered == (KvGet(b"x/b"),)


@pytest.mark.parametrize("value", [None, entry("a", "")])
def test_key_or_default_gives_the_default_for_a_missing_or_empty_key(value: object) -> None:
    assert render("{{ key_or_default('a', 'z') }}", [(A, value)]) == "z"


def test_key_or_default_waits_for_the_first_answer() -> None:
    assert evaluate("{{ key_or_default('a', 'z') }}").unanswered == (A,)
    assert render("{{ key_or_default('a', 'z') }}", [(A, entry("a", "v"))]) == "v"


def test_key_exists_tells_without_waiting_for_the_key() -> None:
    assert render("{{ key_exists('a') }}", [(A, None)]) == "False"
    assert render("{{ key_exists('a') }}", [(A, entry("a", ""))]) == "True"


FOLDER = [entry(f"web/{name}", name.upper()) for name in ("", "a", "b/", "b/c", "b/d/e", "f")]


@pytest.mark.parametrize("prefix", ["web", "web/", "/web"])
def test_ls_gives_the_keys_right_below_and_tree_all_of_them(prefix: str) -> None:
    known: Known = [(KvList(b"web/"), FOLDER)]
    loop = "{% for row in rows %}{{ row.key }}={{ row.value }}@{{ row.path }} {% endfor %}"
    assert render(f"{{% set rows = ls('{prefix}') %}}{loop}", known) == "a=A@web/a f=F@web/f "
    found = render(f"{{% set rows = tree('{prefix}') %}}{loop}", known)
    assert found == "a=A@web/a b/c=B/C@web/b/c b/d/e=B/D/E@web/b/d/e f=F@web/f "


def test_tree_of_everything_asks_for_the_empty_prefix() -> None:
    assert render("{{ tree('')|length }}", [(KvList(b""), FOLDER)]) == "4"


def test_explode_makes_a_nested_map_of_a_tree() -> None:
    text = "{{ tree('web')|explode|to_json }}"
    found = json.loads(render(text, [(KvList(b"web/"), FOLDER)]))
    assert found == {"a": "A", "b": {"c": "B/C", "d": {"e": "B/D/E"}}, "f": "F"}


def test_explode_says_which_key_is_a_folder_too() -> None:
    rows = [entry("web/a", "1"), entry("web/a/b", "2")]
    assert "'a' is both a key and a folder" in failure("{{ tree('web')|explode }}", [(KvList(b"web/"), rows)])


def test_a_service_instance_has_the_documented_fields() -> None:
    found = [instance("web", "n1", "1.2.3.4", 8080, tags=("blue",)), instance("web", "n22")]
    text = (
        "{% for s in service('web') %}{{ s.id }} {{ s.name }} {{ s.node }} {{ s.address }} {{ s.port }} "
        "{{ s.tags|join(',') }} {{ s.meta.v }} {{ s.status }} {{ s.weight }}\n{% endfor %}"
    )
    assert render(text, [(HealthService("web", passing=True), found)]) == (
        "web-8080 web n1 1.2.3.4 8080 blue 1 passing 10\nweb-80 web n22 10.0.0.3 80  1 passing 10\n"
    )


def test_a_service_without_instances_renders_as_an_empty_list() -> None:
    assert render("[{{ service('web')|length }}]", [(HealthService("web", passing=True), [])]) == "[0]"


@pytest.mark.parametrize(
    ("call", "query"),
    [
        ("service('web')", HealthService("web", passing=True)),
        ("service('blue.web')", HealthService("web", ("blue",), passing=True)),
        ("service('a.b.web')", HealthService("web", ("a.b",), passing=True)),
        ("service('a.b', tag='c')", HealthService("a.b", ("c",), passing=True)),
        ("service('web|any')", HealthService("web")),
        ("service('web', 'passing', 'warning')", HealthService("web")),
    ],
)
def test_service_asks_for_the_tag_and_only_for_passing_ones_if_that_is_all(call: str, query: Need) -> None:
    assert list(evaluate(f"{{{{ {call} }}}}").needs.values()) == [query]


@pytest.mark.parametrize(
    ("call", "ports"),
    [
        ("service('web|any')", "1 2 3 4"),
        ("service('web|passing,warning')", "1 2"),
        ("service('web', 'critical')", "3"),
        ("service('web', 'maintenance, critical')", "3 4"),
    ],
)
def test_service_keeps_the_statuses_asked_for(call: str, ports: str) -> None:
    found = [
        instance("web", "n", port=1),
        instance("web", "n", port=2, status="warning"),
        instance("web", "n", port=3, status="critical"),
        instance("web", "n", port=4, status="critical", check_id=NODE_MAINTENANCE),
    ]
    text = f"{{{{ {call}|map(attribute='port')|join(' ') }}}}"
    assert render(text, [(HealthService("web"), found)]) == ports


def test_service_refuses_what_it_cannot_answer() -> None:
    assert "'blue' is not a status" in failure("{{ service('web', 'blue') }}")
    assert "other datacenters cannot be asked" in failure("{{ service('web@dc2') }}")
    assert "is not the name of a service" in failure("{{ service('') }}")
    assert "works on text, got int" in failure("{{ service(3) }}")


def test_services_nodes_and_node_give_their_rows() -> None:
    node = Node("n1", "10.0.0.1", "id1", meta={"rack": "r1"})
    found = instance("web", "n1", "1.1.1.1")
    known: Known = [
        (Services(), {"web": ["a", "b"], "db": []}),
        (Nodes(), [node]),
        (NodeInfo("n1"), NodeDetail(node, (found.service,), found.checks)),
        (NodeInfo("here"), NodeDetail(node, (), ())),
        (NodeInfo("gone"), None),
    ]
    text = "{% for s in services() %}{{ s.name }}:{{ s.tags|join('+') }} {% endfor %}"
    assert render(text, known) == "db: web:a+b "
    assert render("{% for n in nodes() %}{{ n.name }} {{ n.address }}{% endfor %}", known) == "n1 10.0.0.1"
    text = "{% set n = node('n1') %}{{ n.node.name }} {{ n.node.meta.rack }} {{ n.services[0].address }}"
    assert render(text, known) == "n1 r1 1.1.1.1"
    assert render("{{ node().node.id }}", known) == "id1"
    assert render("{{ node('gone') is none }}", known) == "True"


def test_env_gives_the_variable_or_the_default() -> None:
    assert render("{{ env('HOME') }} {{ env('NOPE', 'x') }} [{{ env('NOPE') }}]") == "/root x []"


def test_file_is_a_dependency_that_must_exist() -> None:
    need = FileRead("/etc/x")
    assert evaluate("{{ file('/etc/x') }}").unanswered == (need,)
    assert evaluate("{{ file('/etc/x') }}", [(need, None)]).absent == (need,)
    assert render("{{ file('/etc/x') }}", [(need, b"data")]) == "data"
    assert "not an absolute path" in failure("{{ file('x') }}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{ ({'b': [1, none], 'a': 'é'})|to_json }}", '{"b":[1,null],"a":"é"}'),
        ("{{ [1]|to_json(indent=2) }}", "[\n  1\n]"),
        ('{{ (\'{"a": {"copy": 2}}\'|parse_json).a.copy }}', "2"),
        ("{{ {'a': [1, 'x']}|to_yaml }}", "a:\n- 1\n- x\n"),
        ("{{ 'x'|to_yaml }}", "x\n"),
        ("{{ ('a: [1, 2]'|parse_yaml).a[1] }}", "2"),
        ("{{ 'hé'|base64_encode }}", "aMOp"),
        ("{{ 'aMOp'|base64_decode }}", "hé"),
        ("{{ 'a,b,,c'|split(',')|join('-') }}", "a-b-c"),
        ("{{ ' a  b '|split|join('-') }}", "a-b"),
        ("{{ 'a\nb'|indent(2) }}", "a\n  b"),
        ("{{ 'a\n\nb'|indent(2, first=true) }}", "  a\n\n  b"),
        ("{{ 'aXbX'|replace('X', '-', 1) }}", "a-bX"),
        ("{{ 'aXb'.replace('X', '-') }}{{ ','.join(['a', 'b']) }}", "a-ba,b"),
        ("{{ [1, 2, 3]|sum }} {{ 2.345|round(1) }} {{ 7 // 2 }} {{ 2 ** 10 }} {{ 7 % 4 }}", "6 2.3 3 1024 3"),
        ("{% for row in [1, 2, 3]|batch(2, 0) %}{{ row|join(',') }};{% endfor %}", "1,2;3,0;"),
        ("{{ none }}|{{ true }}|{{ 'a' ~ 1 }}", "|True|a1"),
        ("{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m('a') ~ m('b') }}", "<a><b>"),
        (
            "{% set n = namespace(x=0) %}{% for i in range(3) %}{% set n.x = n.x + i %}{% endfor %}{{ n.x }}",
            "3",
        ),
        ("{{ 'a b'|urlencode }}", "a%20b"),
        ("{{ ''|sha256 }}", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        ("{{ '/a/b.c'|basename }}", "b.c"),
    ],
)
def test_filters_and_the_language_give_what_is_expected(text: str, expected: str) -> None:
    assert render(text) == expected


def test_an_unknown_field_is_an_error_unless_that_is_turned_off() -> None:
    known: Known = [(HealthService("web", passing=True), [instance("web", "n1")])]
    text = "x\n{% for s in service('web') %}{{ s.adress }}{% endfor %}"
    message = failure(text, known)
    assert message.startswith("contents of /d:2: ")
    assert "adress" in message
    assert render(text, known, strict=False) == "x\n"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a\n{% if %}", 2, "Expected an expression"),
        ("a\nb\n{{ x", 3, "unexpected end of template"),
        ("a\rb\rc\rd\r{{ key( }}", 5, "unexpected '}'"),
        ("{% for x in [] %}\n\n{% endfr %}", 3, "Encountered unknown tag 'endfr'"),
        ("\n\n{{ 'x'|to_jsn }}", 3, "there is no filter to_jsn; did you mean to_json?"),
        ("\n{{ 1 is evn }}", 2, "there is no test evn; did you mean even?"),
        ("\n{{ servce('x') }}", 2, "there is no function servce; did you mean service?"),
        ("\n{{ to_json('x') }}", 2, "there is no function to_json; it is a filter: write VALUE | to_json"),
        ("{% if false %}\n{{ qqqq() }}{% endif %}", 2, "there is no function qqqq; gemot-template(5) lists"),
        ('\n{{ key "a/b" }}', 2, 'this looks like consul-template, here it is Jinja2: key("a")'),
        ('\n{{ range service "web" }}', 2, "this looks like consul-template"),
        ("\n{{ nosuch }}", 2, "'nosuch' is undefined"),
        ("\n{{ 1 // 0 }}", 2, "ZeroDivisionError"),
        ("\n\n{{ '{'|parse_json }}", 3, "parse_json: "),
        ("\n{{ 'x: [' | parse_yaml }}", 2, "parse_yaml: "),
        ("\n{{ '*'|base64_decode }}", 2, "base64_decode: "),
        ("\n{% include '/etc/passwd' %}", 2, "include, import and extends are not available"),
        ("\n{% from 'x' import y %}", 2, "include, import and extends are not available"),
        ("\n{{ key('') }}", 2, "key: the key is empty"),
        ("\n{{ key('x' * 5000) }}", 2, "key: a name"),
    ],
)
def test_a_fault_is_told_with_file_and_line(tmp_path: Path, text: str, line: int, words: str) -> None:
    source = tmp_path / "web.tpl"
    source.write_bytes(text.encode())

    async def act() -> None:
        program = await compile_template(TemplateDefinition(source=str(source), destination="/d"))
        await program.evaluate({}, environ={})

    with pytest.raises(TemplateFailed) as caught:
        asyncio.run(act())
    assert caught.value.message.startswith(f"{source}:{line}: ")
    assert words in caught.value.message


def test_other_delimiters_leave_the_usual_ones_alone() -> None:
    definition = TemplateDefinition(
        destination="/d", contents="{{ x }} [[ 1 + 1 ]]", left_delimiter="[[", right_delimiter="]]"
    )

    async def act() -> bytes | None:
        return (await (await compile_template(definition)).evaluate({}, environ={})).content

    assert asyncio.run(act()) == b"{{ x }} 2"


def test_needs_are_described_in_the_words_of_the_template() -> None:
    assert describe(KvGet(b"a/\xff")) == "key a/\\xff"
    assert describe(KvList(b"web/")) == "keys below web/"
    assert describe(HealthService("web", ("blue",))) == "service blue.web"
    assert describe(FileRead("/x")) == "file /x"
