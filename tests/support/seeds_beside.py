"""The seeds of the simulator in CI, run beside all other tests from the first moment on.

They are a third of the suite's work, and what comes before them mostly waits for processes. They have the
lowest priority: who is waited for with patience is not slower for them.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO

RUN = Path(__file__).parent.parent / "simulation" / "run.py"
SEEDS = 110
WITHIN_S = 3600
"""No seed begins later: an end for what hangs, and no measure of the machine. Two free cores need minutes."""

END_S = 120
"""What the seeds that have begun by then may take."""

LAST_PRIORITY = 19


class SeedsBeside:
    """All of them, in processes of their own; `finish` waits for the end."""

    def __init__(self) -> None:
        self._output: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by `stop`
        command = [str(RUN), "--seeds", str(SEEDS), "--within", str(WITHIN_S), "--json"]
        self._process = subprocess.Popen(
            [sys.executable, *command],
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONHASHSEED": "0"},
            process_group=0,
            preexec_fn=lambda: os.nice(LAST_PRIORITY),
        )

    def finish(self) -> str:
        """The last line that was printed."""
        self._process.wait(timeout=WITHIN_S + END_S)
        self._output.seek(0)
        return self._output.read().splitlines()[-1]

    def stop(self) -> None:
        """End it, and the processes it shares the seeds out to."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._output.close()
