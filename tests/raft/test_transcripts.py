"""Scripts over real cores, with the exact log that must follow: one for each old bug that concerns the core.

`REWRITE=1 pytest tests/raft/test_transcripts.py` writes the logs anew; the diff is then read by eye, and a
line that cannot be explained is a bug. tests/raft/testdata/README.md has the words and the list of bugs.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from mutants.bug import Bug, planted
from mutants.bugs.every import BUGS
from support.raft_script import run

FOLDER = Path(__file__).parent / "testdata"
CORE_ROWS = (*range(1, 18), 21, 22, 23, 24, 30, 31, 32, 33, 39)
ROWS = 40
PLANTED = [bug for bug in BUGS.values() if bug.script]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.txt")), ids=lambda path: path.stem)
def test_the_log_is_exactly_what_follows_from_the_script(path: Path) -> None:
    written = path.read_text()
    now = run(written)
    if os.environ.get("REWRITE"):
        path.write_text(now)
    else:
        assert now.splitlines() == written.splitlines()


@pytest.mark.parametrize("row", CORE_ROWS)
def test_every_bug_of_the_list_that_concerns_the_core_has_a_script(row: int) -> None:
    scripts = list(FOLDER.glob(f"{row:02d}-*.txt"))
    assert scripts, f"bug {row} has no script"
    for path in scripts:
        head = path.read_text().split("\n\n")[0]
        assert head.startswith(f"# Bug {row}:"), f"{path.name} says first which bug it is about"
        assert "With the bug" in head, f"{path.name} says what would go wrong"


def test_the_readme_names_every_bug_and_every_script() -> None:
    readme = (FOLDER / "README.md").read_text()
    rows = [int(row) for row in re.findall(r"^\| (\d+) \|", readme, re.MULTILINE)]
    assert rows == list(range(1, ROWS + 1))
    for path in FOLDER.glob("*.txt"):
        assert path.name in readme, f"{path.name} is not in the list"


def test_a_changed_behaviour_shows_as_a_changed_line() -> None:
    """The comparison can fail: a line that never happened does not survive."""
    script = "group 3\n    servers 123, voters 123, all at 7\n"
    assert run(script) == "group 3\n    servers 123, voters 123, all at 1\n"


@pytest.mark.parametrize("bug", PLANTED, ids=lambda bug: bug.name)
def test_a_planted_bug_breaks_the_script_that_is_about_it(bug: Bug) -> None:
    script = (FOLDER / f"{bug.script}.txt").read_text()
    with planted(bug):
        try:
            now = run(script)
        except AssertionError:
            return
    assert now != script


def test_most_scripts_have_a_bug_that_breaks_them() -> None:
    """Those without one are about what a planted bug of the core cannot do alone."""
    scripts = {path.stem for path in FOLDER.glob("*.txt")}
    assert len(scripts & {bug.script for bug in PLANTED}) >= 20
