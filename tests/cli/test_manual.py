"""Man pages and completions: what is committed is what the commands are, and the tools take it."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from support.dev_agent import PATIENCE_S, PROGRAM, Shell
from support.manual_pages import PACKAGING, module

AGAIN = "run `python packaging/manual.py` again"
MANUAL = module("manual")


@pytest.mark.parametrize("name", MANUAL.pages())
def test_the_committed_page_is_what_the_commands_are(name: str) -> None:
    assert (PACKAGING / "man" / name).read_text() == MANUAL.pages()[name], AGAIN


@pytest.mark.parametrize("name", MANUAL.completions())
def test_the_committed_completion_is_what_click_makes(name: str) -> None:
    assert (PACKAGING / "completions" / name).read_text() == MANUAL.completions()[name], AGAIN


def test_nothing_else_is_committed_there() -> None:
    assert {path.name for path in (PACKAGING / "man").iterdir()} == set(MANUAL.pages())
    assert {path.name for path in (PACKAGING / "completions").iterdir()} == set(MANUAL.completions())


@pytest.mark.parametrize("name", MANUAL.pages())
def test_a_page_is_sound_roff(name: str) -> None:
    text = (PACKAGING / "man" / name).read_text()
    assert text.startswith(".TH ")
    for section in ("NAME", "SYNOPSIS", "DESCRIPTION", "EXIT STATUS", "ENVIRONMENT", "FILES", "SEE ALSO"):
        assert f".SH {section}\n" in text
    assert "\b" not in text
    if shutil.which("groff") is not None:
        done = subprocess.run(
            ["groff", "-man", "-Tutf8", "-ww", "-z"], input=text.encode(), capture_output=True, check=True
        )
        assert done.stderr == b""


def test_words_are_completed(gemot: Shell) -> None:
    def complete(line: str) -> list[str]:
        words = line.split(" ")
        done = subprocess.run(
            PROGRAM,
            env=gemot.environ
            | {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1), "_GEMOT_COMPLETE": "bash_complete"},
            capture_output=True,
            timeout=PATIENCE_S,
            check=False,
        )
        return [word.partition(",")[2] for word in done.stdout.decode().splitlines()]

    assert complete("gemot mem") == ["members"]
    assert complete("gemot kv ") == [
        "delete", "diff", "export", "get", "import", "log", "put", "rollback", "show",
    ]  # fmt: skip
    assert "--http-addr" in complete("gemot members --http")
