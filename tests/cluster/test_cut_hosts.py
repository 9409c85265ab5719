"""Hosts whose cables are pulled, few of them; `make gossip-hosts` does it with thirty and keeps the times."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from support.hosts import as_root

TESTS = Path(__file__).parent.parent
PROBE = "from support.hosts import why_none; why = why_none(); print(why); raise SystemExit(bool(why))"


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, which has the right to make hosts if anyone may have it."""
    command = as_root([sys.executable, *arguments])
    return subprocess.run(command, cwd=TESTS, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def hosts_can_be_made() -> None:
    tried = python("-c", PROBE)
    if tried.returncode != 0:
        pytest.skip((tried.stdout + tried.stderr).strip().splitlines()[-1])


@pytest.mark.usefixtures("hosts_can_be_made")
def test_a_cut_host_is_missed_by_all_and_comes_back_and_pauses_and_rain_are_no_failures() -> None:
    """A client agent's host, and the leader's, with their locks; a leader that is cut off in gossip alone
    keeps its own. Then all begin anew from a loss of power."""
    program = str(TESTS / "cluster" / "cut_hosts.py")
    small = (
        "--clients 2 --cuts 2 --roles client leader --long 0 --mutes 1 --mute 10 --stops 2 "
        "--weather 8 --outages 1 --pause 0"
    )
    ran = python(program, *shlex.split(small))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "failed in every list" in ran.stdout
    assert "During the cuts 0 times" in ran.stdout
    assert "its lock is free" in ran.stdout
    assert "it lost its lock or its health 0 times" in ran.stdout
