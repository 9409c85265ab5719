"""A planted bug is named on the command line, among a hundred that are not in the help."""

from __future__ import annotations

import argparse

import pytest
from simulation.planting import add_plant

BUGS = {"no-sync": 1, "apply-twice": 2, "stale-read": 3}


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_plant(parser, BUGS)
    return parser.parse_args(words)


def test_a_known_bug_is_taken_and_none_is_none() -> None:
    assert parsed("--plant", "no-sync").plant == "no-sync"
    assert parsed().plant == ""


def test_list_prints_the_names_one_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        parsed("--plant", "list")
    assert capsys.readouterr().out == "apply-twice\nno-sync\nstale-read\n"


@pytest.mark.parametrize(("name", "near"), [("no-snyc", " (did you mean no-sync?)"), ("x" * 500, "")])
def test_an_unknown_one_is_refused_shortly_with_the_way_to_the_names(
    name: str, near: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match=r"^2$"):
        parsed("--plant", name)
    told = capsys.readouterr().err
    assert f"no bug is named '{name[:60]}'{near}; --plant list prints the names" in told
    assert len(told) < 300


def test_the_help_names_no_bug(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        parsed("--help")
    told = capsys.readouterr().out
    assert "--plant BUG" in told
    assert not any(name in told for name in BUGS)
