"""That the checkers see bugs: ten planted ones in each CI run, by what is known to kill them.

Which ten follows from the commit, so a failing run can be repeated, and in time all of them have had their
turn. `make mutants` holds every bug against every killer; what it found is in RESULTS.md.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from mutants.bug import Bug, Patch, bug, planted
from mutants.bugs.every import BUGS
from mutants.killers import KILLERS, Limits, Verdict, held_against, is_verdict
from mutants.results import CONTROL, known
from mutants.run import hold
from support.raft_script import run as run_script

from gemot.server.raft import log
from gemot.server.raft.core import Core

HERE = Path(__file__).parent
TEN = 10
SEEDS = 40
"""From the one that killed it, at most: after a change of the simulator a seed is another run."""

LAST_ROW = 40


def _turn() -> list[str]:
    """Each n-th bug, from one that the commit says."""
    command = ["git", "rev-parse", "HEAD"]
    head = subprocess.run(command, capture_output=True, text=True, cwd=HERE, check=False).stdout.strip()
    step = len(BUGS) // TEN
    return list(BUGS)[int(head or "0", 16) % step :: step][:TEN]


@pytest.mark.parametrize("name", _turn())
def test_a_planted_bug_is_killed(name: str) -> None:
    quickest = known()[name].quickest
    assert quickest is not None, f"nothing is known to kill {name}"
    limits = Limits(quickest.seed or 1, SEEDS, known_only=True)
    verdict = hold(name, quickest.killer, limits)
    assert verdict.outcome == "killed", (
        f"{name} ({BUGS[name].says}) was seen by {quickest.killer} as {quickest.by}, and now: {verdict}\n"
        f"repeat: python tests/mutants/run.py --only {name} --every"
    )


@pytest.mark.parametrize("killer", ["transcripts", "simulator"])
def test_without_a_bug_nothing_is_killed(killer: str) -> None:
    verdict = hold(CONTROL, killer, Limits(1, 2))
    assert verdict.outcome == "survived", verdict
    assert verdict.tried > 1


def test_every_bug_has_a_known_killer() -> None:
    assert [name for name in BUGS if name not in known() or known()[name].quickest is None] == []
    assert [name for name in known() if name not in BUGS and name != CONTROL] == []
    assert known()[CONTROL].as_it_should


def test_there_are_as_many_as_were_promised_and_each_says_what_it_stands_for() -> None:
    assert len(BUGS) >= 60
    for each in BUGS.values():
        assert each.rows, f"{each.name} stands for no row of the list"
        assert all(0 < row <= LAST_ROW for row in each.rows)
        assert each.says.endswith("."), f"{each.name} says in one line what it does"
        assert set(each.killers) <= set(KILLERS)


@pytest.mark.parametrize("each", BUGS.values(), ids=lambda each: each.name)
def test_a_plant_finds_its_place_and_leaves_nothing_behind(each: Bug) -> None:
    before = Core.send_after_save, log.RaftLog._truncate
    with planted(each):
        pass
    assert (Core.send_after_save, log.RaftLog._truncate) == before


# -- what is not a kill ------------------------------------------------------------------------------------


@bug(1)
def a_place_that_is_gone(patch: Patch) -> None:
    """Patches what nobody has."""
    patch.setattr(Core, "sends_after_the_save", lambda self: None)


@bug(1)
def a_plant_with_a_mistake(patch: Patch) -> None:
    """Takes fewer arguments than it is called with."""
    patch.setattr(Core, "send_after_save", lambda self: None)


def test_a_plant_whose_place_is_gone_fails() -> None:
    with pytest.raises(AttributeError, match="sends_after_the_save"), planted(a_place_that_is_gone):
        pass


def test_a_mistake_of_the_plant_kills_nothing() -> None:
    with planted(a_plant_with_a_mistake):
        verdict = held_against("transcripts", a_plant_with_a_mistake, Limits())
    assert verdict.outcome == "broken"
    assert "TypeError" in verdict.told


def test_only_what_a_checker_says_is_a_verdict() -> None:
    assert is_verdict(AssertionError())
    assert is_verdict(pytest.fail.Exception())
    assert is_verdict(ExceptionGroup("several", [TypeError(), AssertionError()]))
    assert not is_verdict(TypeError())
    assert not is_verdict(LookupError()), "unless a test missed an answer"
    assert not is_verdict(ExceptionGroup("several", [TypeError(), NameError()]))


def test_what_dies_without_a_word_is_told_as_broken() -> None:
    assert hold("no-such-bug", "transcripts", Limits()).outcome == "broken"


def test_a_script_runs_as_before_when_no_bug_is_there_any_more() -> None:
    script = (HERE.parent / "raft/testdata/01-older-term-by-counting.txt").read_text()
    with planted(BUGS["older-term-counts"]), pytest.raises(AssertionError):
        run_script(script)
    assert run_script(script) == script


def test_a_seed_is_the_last_resort_and_else_the_quickest_killer_is_taken() -> None:
    from mutants.results import Line

    seed = Verdict("simulator", "killed", "seed 30", "", 30, 1.0)
    slow, quick = Verdict("model", "killed", "a", "", 1, 9.0), Verdict("tests", "killed", "a", "", 1, 3.0)
    assert Line("x", [seed, slow, quick]).quickest is quick
    assert Line("x", [seed]).quickest is seed
    assert Line("x", [Verdict("model")]).quickest is None
