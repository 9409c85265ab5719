"""A demo that cannot start leaves alone what another one made."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

DEMO = Path(__file__).parent.parent / "support" / "demo_cluster.py"


def test_a_second_demo_touches_nothing_of_the_first(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    pids.mkdir()
    (pids / "srv1").write_text("1\n")
    with socket.create_server(("127.0.93.1", 8500)):
        second = subprocess.run(
            [sys.executable, str(DEMO), "--folder", str(tmp_path), "--network", "127.0.93"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert second.returncode == 1
    assert "in use already: 127.0.93.1:8500" in second.stderr
    assert (pids / "srv1").exists()
