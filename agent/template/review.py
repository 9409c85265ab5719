"""What can be told of a template before it runs: names that nothing has, and what Jinja2 lacks here.

Jinja2 itself finds a name that does not exist when it comes by it, perhaps weeks later in a branch seldom
taken. Nothing is evaluated here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches

from jinja2 import Environment, nodes

from gemot.agent.template.functions import FUNCTIONS
from gemot.agent.template.sandbox import NO_LOADING

_GO = re.compile(r'\{\{-?\s*((range|with|if|end|else)\b|\w+\s+["`$.\w])')
"""Go's templates: words without brackets, blocks in the marks of values."""

_LOADING = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)
_GIVEN = frozenset(("caller", "varargs", "kwargs", "self", "super", "loop"))
"""Names that Jinja2 gives a macro, a block or a loop."""


def review(template: nodes.Template, environment: Environment) -> list[tuple[int, str]]:
    """Each fault with its line, in the order of the lines."""
    filters, tests = environment.filters, environment.tests
    faults = [
        (node.lineno, f"there is no filter {node.name}{_near(node.name, filters)}")
        for node in template.find_all(nodes.Filter)
        if node.name not in filters
    ]
    faults += (
        (node.lineno, f"there is no test {node.name}{_near(node.name, tests)}")
        for node in template.find_all(nodes.Test)
        if node.name not in tests
    )
    faults += ((node.lineno, NO_LOADING) for node in template.find_all(_LOADING))
    faults += _unknown_calls(template, environment)
    return sorted(dict.fromkeys(faults))


def _unknown_calls(template: nodes.Template, environment: Environment) -> Iterator[tuple[int, str]]:
    """Calls of what is no function, and is not made anywhere in the template either."""
    made = {node.name for node in template.find_all(nodes.Name) if node.ctx != "load"}
    made |= {node.name for node in template.find_all(nodes.Macro)}
    made |= {node.target for node in template.find_all(nodes.Import)}
    known = (*FUNCTIONS, *environment.globals)
    for call in template.find_all(nodes.Call):
        if not isinstance(call.node, nodes.Name) or call.node.name in (*known, *made, *_GIVEN):
            continue
        name = call.node.name
        filter_too = f"; it is a filter: write VALUE | {name}" if name in environment.filters else ""
        yield call.lineno, f"there is no function {name}{filter_too or _near(name, known)}"


def _near(name: str, known: Iterable[str]) -> str:
    near = get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else "; gemot-template(5) lists what there is"


def other_language(line: str) -> str:
    """What to add to a syntax error in a line that is written for consul-template, or ""."""
    if not _GO.search(line):
        return ""
    return '; this looks like consul-template, here it is Jinja2: key("a"), {% for each in service("web") %}'
