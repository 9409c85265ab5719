"""Hostile packets at the ports of a live agent, some thousand; `make gossip-fuzz-live` fires a million."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_a_live_agent_takes_hostile_datagrams_and_connections_and_goes_on() -> None:
    """It answers each hundredth, serves HTTP, lists its members, takes in a new one, and is not larger."""
    command = [
        sys.executable,
        str(Path(__file__).parent / "fuzz_live.py"),
        "--datagrams",
        "4000",
        "--no-kill",
    ]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    for why in ("malformed", "sealed", "stranger", "wrong_label", "turned_away"):
        assert why in ran.stdout
