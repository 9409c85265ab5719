"""Hostile packets at the ports of a live agent, some thousand; `make gossip-fuzz-live` fires two million."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_a_live_agent_takes_hostile_datagrams_and_connections_and_goes_on() -> None:
    """It answers each hundredth, serves HTTP, lists its members, takes in a new one, and is not larger."""
    told = fired("fuzz_live.py", 4_000)
    for why in ("malformed", "sealed", "stranger", "wrong_label", "turned_away"):
        assert why in told


def test_a_live_agent_with_a_key_drops_and_counts_all_that_comes_of_one_who_has_none() -> None:
    """Whatever it is, recorded on the wire or made up: no answer, and no change of its members."""
    told = fired("fuzz_sealed.py", 2_400)
    for why in ("no_key_fits", "replayed", "reflected", "unsealed", "wrong_label", "broken_off"):
        assert why in told


def fired(script: str, datagrams: int) -> str:
    """What the script tells in the end."""
    command = [
        sys.executable,
        str(Path(__file__).parent / script),
        "--datagrams",
        str(datagrams),
        "--no-kill",
    ]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout
