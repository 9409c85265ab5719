"""Scripts over real cores, with the exact log that must follow: one for each old bug that concerns the core.

`REWRITE=1 pytest tests/raft/test_transcripts.py` writes the logs anew; the diff is then read by eye, and a
line that cannot be explained is a bug. tests/raft/testdata/README.md has the words and the list of bugs.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from support import raft_plants
from support.raft_script import run

FOLDER = Path(__file__).parent / "testdata"
CORE_ROWS = (*range(1, 18), 21, 22, 23, 24, 30, 31, 32, 33, 39)
ROWS = 40
PLANTS = {
    "older_term_counts": "01-older-term-by-counting",
    "votes_twice": "03-vote-before-it-is-durable",
    "votes_for_a_shorter_log": "33-wiped-disk-has-no-vote",
    "truncates_what_agrees": "17-old-append-truncates-nothing",
    "tells_before_the_save": "04-ack-before-sync-crash",
    "counts_its_own_unsaved_log": "23-log-cut-before-it-is-durable",
    "an_old_save_vouches_for_new_entries": "04-ack-before-sync-aba",
    "changes_before_an_own_commit": "12-change-before-an-own-commit",
    "reads_before_an_own_commit": "02-new-leader-knows-no-commit",
    "reads_join_an_older_round": "06-read-answered-by-an-older-round",
    "a_truncated_change_stays": "14-truncated-change",
    "learners_count": "08-learners-make-no-quorum",
    "a_pre_vote_raises_the_term": "09-pre-vote-changes-nothing",
    "candidates_are_heard_beside_a_leader": "11-removed-server-disturbs-nobody",
    "a_leader_stays_without_a_quorum": "10-one-way-links",
    "a_removed_leader_leaves_at_once": "13-one-change-at-a-time",
    "whoever_is_behind_is_promoted": "15-learner-behind-is-not-promoted",
    "only_known_voters_vote": "15-promoted-without-knowing",
    "a_handover_is_never_called_off": "16-handover-called-off",
    "a_handover_to_one_that_is_behind": "16-handover-called-off",
    "an_old_snapshot_is_fetched": "21-old-offer-after-a-newer-state",
    "what_is_committed_is_applied_unsaved": "23-log-cut-before-it-is-durable",
    "a_damaged_server_votes": "24-damaged-tail-is-refilled",
    "old_words_of_a_damaged_server_count": "24-damaged-tail-is-refilled",
    "nothing_bounds_the_uncommitted": "31-bounded-without-a-quorum",
}


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


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_bug_breaks_the_script_that_is_about_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    getattr(raft_plants, name)(monkeypatch)
    script = (FOLDER / f"{PLANTS[name]}.txt").read_text()
    try:
        now = run(script)
    except AssertionError:
        return
    assert now != script


def test_every_bug_that_can_be_planted_is_planted() -> None:
    found = [name for name, thing in vars(raft_plants).items() if _plants(thing) and not name.startswith("_")]
    assert found == list(PLANTS)


def _plants(thing: object) -> bool:
    return callable(thing) and getattr(thing, "__module__", "") == raft_plants.__name__
