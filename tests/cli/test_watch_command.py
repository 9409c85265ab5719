"""The command of `gemot watch`: run to its end, or ended with the watch, whatever else happens then."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
from support.dev_agent import PATIENCE_S, Shell, until

from gemot.agent.cli import watch_command
from gemot.agent.cli.held import Interrupted
from gemot.agent.cli.watch_command import run_command


def test_it_gets_what_is_sent_and_its_exit_code_is_told(tmp_path: Path) -> None:
    """More than a pipe holds, and nothing where it does not read."""
    sent = b"x" * 300_000
    assert run_command(["sh", "-c", f"cat > {tmp_path}/got; exit 3"], sent, os.environ) == 3
    assert (tmp_path / "got").read_bytes() == sent
    assert run_command(["true"], sent, os.environ) == 0
    assert run_command(["sh", "-c", "kill -9 $$"], sent, os.environ) == -9


def test_it_has_a_session_of_its_own() -> None:
    """In a mere group of the watch's, what asks at the terminal would be stopped, and waited for for ever."""
    assert run_command(["sh", "-c", 'test "$(cut -d" " -f6 /proc/$$/stat)" = $$'], b"", os.environ) == 0


def test_a_command_that_ends_by_the_same_signal_keeps_no_watch_from_its_end(
    gemot: Shell, tmp_path: Path
) -> None:
    """As where a unit is stopped: both are sent it."""
    for number in range(10):
        file = tmp_path / f"pid{number}"
        with gemot.running("watch", "-type=nodes", "sh", "-c", f"echo $$ > {file}; exec sleep 600") as watch:
            until(lambda file=file: file.exists() and file.read_text(), "the command")
            os.kill(int(file.read_text()), signal.SIGTERM)
            watch.terminate()
            assert watch.wait(PATIENCE_S) == -signal.SIGTERM
    assert "cannot run" not in gemot.told
    assert "Traceback" not in gemot.told


@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
def test_one_that_may_not_be_ended_is_told_of_and_holds_nothing_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(watch_command, "send", lambda group, number: None)
    monkeypatch.setattr(watch_command, "GRACE_S", 0.1)
    monkeypatch.setattr(watch_command, "KILLED_S", 0.1)
    file = tmp_path / "pid"

    def interrupt() -> None:
        until(lambda: file.exists() and file.read_text(), "the command")
        os.kill(os.getpid(), signal.SIGTERM)

    asking = threading.Thread(target=interrupt)
    asking.start()
    with pytest.raises(Interrupted):
        run_command(["sh", "-c", f"echo $$ > {file}; exec sleep 600"], b"", os.environ)
    asking.join()
    os.kill(pid := int(file.read_text()), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert f"sh is still running, as pid {pid}: it may not be ended" in capsys.readouterr().err
