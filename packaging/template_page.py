"""gemot-template(5): pages/gemot-template.txt with the figures of the program.

The page is written by hand: what a function is for, a program cannot say. tests/cli/test_template_page.py
holds that it names every key, function, field and filter there is and no other, and renders its examples.
"""

from __future__ import annotations

from pathlib import Path

from roff import head, page

from gemot.agent.duration import format_duration
from gemot.agent.template import definition, dependencies, functions, job, render, runner, sandbox
from gemot.agent.template.filters import FILTERS

SOURCE = Path(__file__).parent / "pages/gemot-template.txt"
SEE_ALSO = "gemot(1), gemot-template(1), gemot-config(5)"
FILTERS_OF_OURS = frozenset((*FILTERS, "basename"))


def template_page() -> str:
    figures = {
        "MAX_CONTENTS_BYTES": definition.MAX_CONTENTS_BYTES,
        "MAX_DELIMITER": definition.MAX_DELIMITER,
        "DEFAULT_TIMEOUT": format_duration(definition.DEFAULT_TIMEOUT_S),
        "MAX_FILE_BYTES": dependencies.MAX_FILE_BYTES,
        "FILE_POLL": format_duration(dependencies.FILE_POLL_S),
        "MAX_NEEDS": functions.MAX_NEEDS,
        "MAX_ROUNDS": job.MAX_ROUNDS,
        "DEADLINE": f"{render.DEADLINE_S:g}",
        "MAX_OUTPUT_BYTES": sandbox.MAX_OUTPUT_BYTES,
        "MAX_TEXT": sandbox.MAX_TEXT,
        "MAX_ITEMS": sandbox.MAX_ITEMS,
        "RETRY_MAX": f"{runner.RETRY_MAX_S:g}",
        "SPACING": f"{runner.SPACING_S:g}",
        "TEXT_METHODS": ", ".join(sorted(sandbox.TEXT_METHODS | sandbox.BOUNDED_TEXT_METHODS)),
        "MAP_METHODS": ", ".join(sorted(sandbox.MAP_METHODS)),
        "LIST_METHODS": ", ".join(sorted(sandbox.LIST_METHODS)),
        "JINJA_FILTERS": ", ".join(
            sorted(set(sandbox.make_environment(filters=FILTERS).filters) - FILTERS_OF_OURS)
        ),
    }
    lines = [
        *head("gemot-template", 5),
        ".SH NAME",
        r"gemot\-template \- the templates: their definition, functions, filters and examples",
        ".SH SYNOPSIS",
        r"\fBtemplates\fR: in /etc/gemot.d/*.yaml or /etc/gemot\-template.d/*.yaml",
    ]
    return "\n".join([*lines, *page(SOURCE.read_text(), figures=figures), ".SH SEE ALSO", SEE_ALSO]) + "\n"
