"""The modules of packaging/ that write the manual, for tests: they are scripts, and in no package."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from types import ModuleType

PACKAGING = Path(__file__).parent.parent.parent / "packaging"


def module(name: str) -> ModuleType:
    if str(PACKAGING) not in sys.path:
        sys.path.insert(0, str(PACKAGING))
    return importlib.import_module(name)


def committed(name: str) -> str:
    """A page as it is installed, without what roff needs alone."""
    text = (PACKAGING / "man" / name).read_text()
    return text.replace(r"\-", "-").replace(r"\&", "").replace(r"\e", "\\")


def section(text: str, title: str) -> str:
    """What stands below a heading, up to the next."""
    return re.split(r"^\.SH ", text.split(f".SH {title}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def terms(text: str) -> list[str]:
    """What the items of a section are about."""
    return re.findall(r"^\.TP\n\\fB(.*)\\fR$", text, re.MULTILINE)
