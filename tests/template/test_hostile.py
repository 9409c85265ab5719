"""Hostile templates: none reaches Python, none takes the process's memory or holds its event loop."""

from __future__ import annotations

import asyncio
import resource
import threading
from collections.abc import Iterator

import pytest
from support.template_bench import until

from gemot.agent.template.definition import TemplateDefinition
from gemot.agent.template.errors import TemplateFailed
from gemot.agent.template.render import compile_template

ROOM_BYTES = 1024 * 1024 * 1024


@pytest.fixture(autouse=True)
def _bounded_memory() -> Iterator[None]:
    """A template that gets past a limit ends in MemoryError here, not in the machine's memory."""
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM_BYTES, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


async def evaluate(text: str, deadline_s: float = 60.0) -> bytes | None:
    definition = TemplateDefinition(destination="/d", contents=text)
    program = await compile_template(definition)
    return (await program.evaluate({}, environ={}, deadline_s=deadline_s)).content


def refusal(text: str) -> str:
    with pytest.raises(TemplateFailed) as caught:
        asyncio.run(evaluate(text))
    assert "MemoryError" not in caught.value.message
    assert "took longer" not in caught.value.message
    return caught.value.message


@pytest.mark.parametrize(
    "expression",
    [
        "''.__class__.__mro__",
        "''['__class__']",
        "''|attr('__class__')",
        "''|attr('\\x5f\\x5fclass\\x5f\\x5f')",
        "[''.__class__]|map(attribute='__base__')|list",
        "['']|map(attribute='__class__')|list",
        "['']|map('attr', '__class__')|list",
        "['']|selectattr('__class__')|list",
        "['']|sum(attribute='__class__')",
        "['']|join(attribute='__class__')",
        "['a']|groupby('__class__')",
        "key.__globals__",
        "key.__self__",
        "key.__func__.__globals__",
        "key.__self__._known",
        "env.__self__._environ",
        "namespace.__init__.__globals__",
        "cycler.__init__.__globals__",
        "joiner.__init__.__globals__",
        "self.__init__",
        "self._TemplateReference__context",
        "range.__self__",
        "dict.mro()",
        "dict.__subclasses__()",
        "(1).to_bytes(10, 'big')",
        "(1).real",
        "[].append(1)",
        "{}.update({})",
        "'{0.__class__}'.format(1)",
        "'{:>99999999999}'.format(1)",
        "'{a}'.format_map({})",
        "'a'.center(99999999999)",
        "'a'.ljust(99999999999)",
        "'a'.zfill(99999999999)",
        "'a'.expandtabs(99999999999)",
        "'a'.encode()",
        "'a'.translate({})",
        "('{}'|attr('format'))(1)",
        "'%99999999999d' % 1",
        "'a' % 1",
        "loop",
        "lipsum()",
        "context",
        "environment",
        "config",
        "request",
        "'a'|center(99999999999)",
        "'%99999999999d'|format(1)",
        "'a'|pprint",
        "'a'|wordwrap(1)",
        "[1]|random",
        "'a'|safe",
    ],
)
def test_what_leads_out_of_the_sandbox_is_refused(expression: str) -> None:
    refusal("{{ " + expression + " }}")


def test_a_macro_and_a_loop_give_no_way_out_either() -> None:
    refusal("{% macro m() %}{% endmacro %}{{ m.__globals__ }}")
    refusal("{% macro m() %}{% endmacro %}{{ m._func }}")
    refusal("{% macro m() %}{{ caller.__globals__ }}{% endmacro %}{% call m() %}{% endcall %}")
    refusal("{% for x in [1] %}{{ loop.__init__.__globals__ }}{% endfor %}")
    refusal("{% for x in [1] %}{{ loop._iterable }}{% endfor %}")


DOUBLE = "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(64) %}%s{% endfor %}"


@pytest.mark.parametrize(
    "text",
    [
        "{{ 'x' * 99999999999 }}",
        "{{ 99999999999 * 'x' }}",
        "{{ [1] * 99999999999 }}",
        "{{ 2 ** 99999999999 }}",
        "{{ 10 ** (10 ** 10) }}",
        DOUBLE.replace("%s", "{% set ns.x = ns.x ~ ns.x %}"),
        DOUBLE.replace("%s", "{% set ns.x = ns.x + ns.x %}"),
        DOUBLE.replace("%s", "{% set ns.x = ns.x * 2 %}"),
        DOUBLE.replace("%s", "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}"),
        DOUBLE.replace("%s", "{% set ns.x = [ns.x, ns.x]|join %}"),
        DOUBLE.replace("%s", "{% set ns.x = ns.x.join(['', '', '']) %}"),
        DOUBLE.replace("%s", "{% set ns.x = ns.x|replace('a', 'aa') %}"),
        DOUBLE.replace("%s", "{% set ns.x = ns.x.replace('', 'a') %}"),
        DOUBLE.replace("%s", "{% set ns.x = [ns.x, ns.x]|to_json %}"),
        DOUBLE.replace("%s", "{% set ns.x = [ns.x, ns.x]|string %}"),
        DOUBLE.replace("%s", "{% set ns.x = [ns.x, ns.x] %}") + "{{ ns.x }}",
        DOUBLE.replace("%s", "{% set ns.x = [ns.x, ns.x] %}") + "{{ 'a' ~ ns.x }}",
        DOUBLE.replace("%s", "{% set ns.x = [ns.x, ns.x] %}") + "{{ ns.x|to_yaml }}",
        DOUBLE.replace("%s", "{% set ns.x = {'a': ns.x, 'b': ns.x} %}") + "{{ ns.x|string }}",
        DOUBLE.replace("%s", "{% macro m(t) %}{{ t }}{{ t }}{% endmacro %}{% set ns.x = m(ns.x) %}"),
        "{% set ns = namespace(x=[1]) %}{% for i in range(64) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{% set ns = namespace(x=9) %}{% for i in range(64) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
        "{% set big = 'x' * 16000000 %}{{ [big] * 100000 }}",
        "{% set big = 'x' * 16000000 %}{{ ([big] * 100000)|join }}",
        "{% set big = 'x' * 16000000 %}{{ big|indent(4000000) }}{{ big }}",
        "{% set big = '\n' * 16000000 %}{{ big|indent(4, first=true, blank=true) }}",
        "{% set big = 'x' * 16000000 %}{{ big }}{{ big }}",
        "{{ [1]|batch(99999999999, 'x') }}",
        "{{ [1]|batch(0) }}",
        "{{ 1.5|round(99999999999, 'ceil') }}",
        "{{ ['a', 'b']|sum(start='') }}",
        "{{ [[1]]|sum(start=[]) }}",
        "{{ range(99999999999) }}{{ range(99999999999)|list }}",
        "{{ ('[' * 100000)|parse_json }}",
        "{{ ('[' * 100000)|parse_yaml }}",
        "{{ ('9' * 100000)|parse_json }}",
        "{{ ('x' * 5000000)|parse_json }}",
    ],
)
def test_what_would_grow_without_bound_is_refused_before_it_is_made(text: str) -> None:
    refusal(text)


def test_a_yaml_bomb_is_refused_when_it_would_be_written_out() -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    bomb = "\\n".join(levels)
    for end in ("to_json", "to_yaml", "string", "join"):
        refusal("{{ ('" + bomb + "'|parse_yaml).values()|list|" + end + " }}")


def test_a_list_that_holds_itself_is_refused() -> None:
    refusal("{{ ('&a [*a]'|parse_yaml)|to_json }}")
    refusal("{{ ('&a [*a]'|parse_yaml)|string }}")


@pytest.mark.parametrize(
    "text",
    [
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
        "{{ " + "-" * 20000 + "1 }}",
        "{{ " + "[" * 500 + "]" * 500 + " }}",
        "{{ 1" + " + 1" * 20000 + " }}",
        "{% if 1 %}" * 500 + "{% endif %}" * 500,
        "{% for x in [1] %}" * 60 + "{% endfor %}" * 60,
        "{{ x" + ".a" * 20000 + " }}",
    ],
)
def test_what_is_nested_too_deeply_is_refused_with_a_message(text: str) -> None:
    assert refusal(text)


FOREVER = "{% for a in range(99999) %}{% for b in range(99999) %}{% set x = a + b %}{% endfor %}{% endfor %}"


def test_an_endless_loop_is_ended_at_the_deadline_and_its_thread_with_it() -> None:
    async def act() -> None:
        before = set(threading.enumerate())
        with pytest.raises(TemplateFailed, match=r"longer than 0\.2 s to evaluate"):
            await evaluate(FOREVER, deadline_s=0.2)
        await until(lambda: not set(threading.enumerate()) - before, "the end of the thread")

    asyncio.run(act())


def test_the_event_loop_turns_while_a_template_loops() -> None:
    async def act() -> None:
        before = set(threading.enumerate())
        task = asyncio.ensure_future(evaluate(FOREVER))
        await until(lambda: set(threading.enumerate()) - before, "the start of a thread")
        for _ in range(6):
            await asyncio.sleep(0.001)
        assert not task.done()
        task.cancel()
        await asyncio.wait((task,))

    asyncio.run(act())


def test_cancelling_an_evaluation_ends_its_thread() -> None:
    async def act() -> None:
        before = set(threading.enumerate())
        task = asyncio.ensure_future(evaluate(FOREVER))
        await until(lambda: set(threading.enumerate()) - before, "the start of a thread")
        task.cancel()
        await asyncio.wait((task,))
        await until(lambda: not set(threading.enumerate()) - before, "the end of the thread")

    asyncio.run(act())


def test_too_much_output_is_refused() -> None:
    text = "{% for a in range(99999) %}" + "x" * 1000 + "{% endfor %}"
    assert "larger than 16777216 bytes" in refusal(text)


def test_too_many_questions_are_refused() -> None:
    message = refusal("{% for a in range(99999) %}{{ key_exists('k' ~ a) }}{% endfor %}")
    assert "more than 4096 different things" in message


def test_a_template_that_is_too_large_is_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    source = tmp_path_factory.mktemp("t") / "big.tpl"
    source.write_bytes(b"x" * (1024 * 1024 + 1))
    with pytest.raises(TemplateFailed, match="larger than 1048576 bytes"):
        asyncio.run(compile_template(TemplateDefinition(source=str(source), destination="/d")))


@pytest.mark.parametrize("source", ["/dev/zero", "/proc", "/nonexistent/x.tpl"])
def test_a_source_that_is_no_file_is_refused(source: str) -> None:
    with pytest.raises(TemplateFailed, match=source):
        asyncio.run(compile_template(TemplateDefinition(source=source, destination="/d")))
