r"""From plain text to man(7): what the manual's pages are put together with.

A page's source (packaging/pages/) is text as one would mail it:

    # SECTION, ## a section below it
    * a term
      what is said of it, indented
        four more spaces: an example, kept as it stands
    `bold` in a line, @(NAME) for a figure of the program, @name alone on a line for what is generated.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

_FIGURE = re.compile(r"@\((\w+)\)")
_BOLD = re.compile(r"`([^`]+)`")


def page(
    text: str,
    *,
    figures: Mapping[str, object] | None = None,
    parts: Mapping[str, Callable[[str], list[str]]] | None = None,
) -> list[str]:
    """The lines of roff for a source. Every figure and every part has to be used."""
    figures, parts = figures or {}, parts or {}
    unused = {*figures, *parts}

    def filled(found: re.Match[str]) -> str:
        unused.discard(found[1])
        return str(figures[found[1]])

    lines: list[str] = []
    for block in _blocks(_FIGURE.sub(filled, text)):
        if block.startswith("@"):
            name, _, rest = block[1:].partition(" ")
            lines += parts[name](rest)
            unused.discard(name)
        else:
            lines += _block(block)
    if unused:
        raise KeyError(f"the page does not use {', '.join(sorted(unused))}")
    return lines


def examples(text: str) -> list[str]:
    """The examples of a source, each as its reader would copy it."""
    return [_dedented(block) for block in _blocks(text) if _indent(block) >= 4]


def item(term: str, text: str) -> list[str]:
    """A term and what is said of it; a line that begins with a piece of a template begins anew."""
    lines = [".TP", rf"\fB{escape(term)}\fR"]
    for each in text.splitlines():
        lines += [".br", line(each)] if each.startswith(("`{{", "`{%")) else [line(each)]
    return lines


def line(text: str) -> str:
    """One line of text, with its `bold`."""
    return _BOLD.sub(lambda found: rf"\fB{found[1]}\fR", escape(text))


def head(name: str, section: int) -> list[str]:
    """The title. Words are not cut and lines not stretched: much of what they hold is typed by readers."""
    return [f'.TH {name.upper()} {section} "" "Gemot" "Gemot"', ".nh", ".ad l"]


def escape(text: str) -> str:
    """Text that roff takes as it is: no line begins with a control character."""
    text = text.replace("\\", r"\e").replace("-", r"\-")
    return rf"\&{text}" if text.startswith((".", "'")) else text


def kept(text: str) -> list[str]:
    """Lines that stay as they are."""
    return [".nf", *map(escape, text.splitlines()), ".fi"]


def _blocks(text: str) -> Iterator[str]:
    """Paragraphs, items, headings and examples. An example may have empty lines within."""
    pieces = [piece for piece in re.split(r"\n{2,}", text.strip("\n")) if piece.strip()]
    gathered = ""
    for piece in pieces:
        if gathered and _indent(piece) >= 4:
            gathered += f"\n\n{piece}"
            continue
        if gathered:
            yield gathered
        gathered = piece if _indent(piece) >= 4 else ""
        if not gathered:
            yield from _items(piece)
    if gathered:
        yield gathered


def _items(piece: str) -> Iterator[str]:
    """A paragraph, or the items of a list that stands together."""
    yield from re.split(r"\n(?=\* )", piece)


def _block(block: str) -> list[str]:
    if block.startswith("## "):
        return [f".SS {escape(block[3:])}"]
    if block.startswith("# "):
        return [f".SH {escape(block[2:])}"]
    if _indent(block) >= 4:
        return [".PP", ".RS 4", *kept(_dedented(block)), ".RE"]
    if block.startswith("* "):
        term, _, rest = block[2:].partition("\n")
        return item(term, "\n".join(map(str.strip, rest.splitlines())))
    return [".PP", *(line(each.strip()) for each in block.splitlines())]


def _indent(block: str) -> int:
    return min(len(each) - len(each.lstrip(" ")) for each in block.splitlines() if each.strip())


def _dedented(block: str) -> str:
    width = _indent(block)
    return "".join(f"{each[width:]}\n" for each in block.splitlines())
