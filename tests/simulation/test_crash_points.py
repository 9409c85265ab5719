"""Crash points in CI: a part of them that is another one each day; and planted bugs that they must find.

`make crash-points` runs them all.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import msgspec
import pytest
from simulation.crash.host_files import watched
from simulation.crash.run import cases, run
from simulation.crash.scenarios import SCENARIOS
from simulation.crash.server import TrapNode
from simulation.crash.stage import SECOND_US, Stage
from simulation.crash.trap import Trap
from simulation.crash_points import Report
from support.lossy_vfs import LossyVfs, registered

COMMAND = Path(__file__).parent / "crash_points.py"
EVERY = 50
"""Of all cases one in so many each day: about a minute of one core."""

RETURN_POINTS = 30
"""So many calls, about, does a server make until it takes part again."""

LEAST = 60
"""Of each script at least so many, or the claim proves nothing."""


def _run(*arguments: str) -> tuple[int, Report]:
    done = subprocess.run(
        [sys.executable, str(COMMAND), "--json", *arguments],
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.stdout, f"{arguments} broke down:\n{done.stderr}"
    return done.returncode, msgspec.json.decode(done.stdout.splitlines()[-1], type=Report)


@pytest.fixture(scope="module")
def vfs() -> Iterator[LossyVfs]:
    with registered("gemot-crash-test") as vfs:
        yield vfs


def test_whatever_server_falls_at_whatever_point_every_promise_holds() -> None:
    """Today's part; the same points are met in the same order in two processes, else it breaks down."""
    turn = str(date.today().toordinal() % EVERY)
    _, report = _run("--every", str(EVERY), "--turn", turn, "--jobs", "2")
    told = [f"{failure.case.replay}\n  {failure.error}" for failure in report.failures]
    assert not told, "\n".join(told)
    assert {name: line.crashes >= LEAST for name, line in report.scripts.items()} == dict.fromkeys(
        SCENARIOS, True
    )


def test_a_server_that_falls_again_while_it_comes_back_breaks_no_promise_either() -> None:
    """What puts a data directory right may be cut short itself, at the point that is today's."""
    today = date.today().toordinal()
    again = str(1 + today % RETURN_POINTS)
    _, report = _run("--every", str(10 * EVERY), "--turn", str(today), "--again", again)
    told = [f"{failure.case.replay}\n  {failure.error}" for failure in report.failures]
    assert not told, "\n".join(told)
    assert sum(line.crashes for line in report.scripts.values()) >= LEAST // 2


EVERYWHERE = """write log, sync log, sync meta-a, sync meta-b, write state.db-wal, port save, port on_saved,
    port settle, port keep_pledge, port adopt, send Append, answer client"""
ALSO = {
    "election": "send VoteReply, send CampaignNow, delete state.db-wal",
    "snapshot": """port take_snapshot, port checkpoint, port compact, port reset, port replace_state,
        rename snap, sync snap, sync state.db, rename log, remove log, replace state.db""",
    "membership": """send Enlist, rename restore, port prepare, port replace, port repaired, sync restore,
        copy state.db.incoming, send FetchBlob, unlink state.db""",
}


@pytest.mark.parametrize("scenario", sorted(SCENARIOS))
def test_the_points_are_all_calls_that_make_something_durable_or_known(scenario: str, vfs: LossyVfs) -> None:
    """Each script does what it is for (it checks that itself), and nothing of these goes past the trap."""
    listed = run(SCENARIOS[scenario], Trap(), vfs)
    calls = {" ".join(name.split("/")[0].split()[:2]) for names in listed.names.values() for name in names}
    wanted = {" ".join(call.split()) for call in f"{EVERYWHERE}, {ALSO[scenario]}".split(",")}
    assert wanted - calls == set()
    assert {case.victim for case in cases(scenario, listed)} == set(SCENARIOS[scenario].victims)


def test_a_founder_that_fell_in_the_founding_votes_for_who_did_not(vfs: LossyVfs, tmp_path: Path) -> None:
    """It has promised the cluster and lost the first entry; the leader of the others is gone for good."""
    scenario = SCENARIOS["election"]
    stage = scenario.stage(Trap(), tmp_path, vfs)
    first, second, third = stage.nodes
    with watched(stage.nodes):
        for node in stage.nodes:
            node.start()
        _until_its_pledge_is_durable(stage, first)
        first.disk.stalled_until_us = 10 * SECOND_US
        stage.until("the second is told that all have promised", lambda: _last(second.opened) > 0)
        first.disk.mend()
        first.crash()
        stage.until("the others have a leader", stage.leader)
        stage.write(3)
        leader = stage.leader()
        assert leader is not None
        leader.crash()
        first.start()
        assert _last(first.opened) == 0, "else it has nothing to make up for"
        stage.members = [node for node in (first, second, third) if node is not leader]
        stage.until("the two of them have a leader", stage.leader)
        stage.conclude()
    stage.close()


def _until_its_pledge_is_durable(stage: Stage, node: TrapNode) -> None:
    for _ in range(100_000):
        assert node.opened is not None
        if node.opened.durable.meta.meta.promised_cluster:
            return
        stage.world.run(stage.world.now_us + 10)
    raise AssertionError("it promises nothing")


def _last(opened: object) -> int:
    return opened.raft.last_index if opened is not None else 0  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("bug", "arguments"),
    [
        ("log-unsynced", ["--scenario", "election", "--named", "AppendReply"]),
        ("segment-names-unsynced", ["--scenario", "snapshot", "--named", "port save"]),
        ("meta-unsynced", ["--scenario", "election", "--named", "Vote"]),
        ("received-snapshot-unsynced", ["--scenario", "snapshot", "--named", "incoming"]),
        ("checkpoint-unsynced", ["--scenario", "snapshot", "--named", "state.db-journal"]),
    ],
)
def test_a_planted_bug_is_found(bug: str, arguments: list[str]) -> None:
    code, report = _run("--plant", bug, "--stop-at-first", *arguments)
    assert code == 1, f"{bug} survived {sum(line.crashes for line in report.scripts.values())} crashes"
    assert "Violation: " in report.failures[0].error
