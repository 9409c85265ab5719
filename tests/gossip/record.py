"""Keeps what was measured of gossip in RESULTS.md: when, of which commit, how, and on what machine."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

RESULTS = Path(__file__).parent / "RESULTS.md"
ROOT = RESULTS.parent.parent.parent


def keep(name: str, text: str, rows: list[list[str]], took_s: float) -> None:
    """A section at the end: `rows` as a table, the first being its head."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    script = Path(sys.argv[0]).resolve()
    command = " ".join([str(script.relative_to(ROOT)), *sys.argv[1:]])
    machine = f"{os.cpu_count()} cores {platform.machine()}, Python {platform.python_version()}"
    table = "\n".join("| " + " | ".join(row) + " |" for row in (rows[0], ["---"] * len(rows[0]), *rows[1:]))
    head = f"## {name}, {datetime.now(UTC):%Y-%m-%d}, {described.stdout.strip()}\n\n{text}"
    head += f" `{command}`; {machine}, {took_s:.0f} s.\n"
    before = RESULTS.read_text() if RESULTS.exists() else "# Gossip, measured\n"
    RESULTS.write_text(f"{before}\n{head}\n{table}\n")
