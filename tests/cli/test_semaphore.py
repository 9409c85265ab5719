"""`gemot semaphore`, and `gemot lock -n`: what is theirs alone. The rest is as `gemot lock`."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.dev_agent import PATIENCE_S, Shell, dev_agent, until


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("agent")
    (folder / "ttl.json").write_text('{"session_ttl_min": "1s"}')
    with dev_agent(folder, f"-config-file={folder / 'ttl.json'}") as address:
        shell = Shell(address, folder)
        until(lambda: shell("lock", "warm", "true").code == 0, "a session")
        yield address


def test_the_command_knows_its_slot_and_its_fence(gemot: Shell) -> None:
    script = 'echo "$GEMOT_LOCK_KEY $GEMOT_LOCK_SESSION $GEMOT_LOCK_FENCE $CONSUL_LOCK_HELD"'
    done = gemot("semaphore", "-n=2", "jobs/slots", "--", "sh", "-c", script)
    key, session, fence, held = done.out.split()
    assert (done.code, done.err) == (0, "")
    assert (key, held) == (f"jobs/slots/{session}", "true")
    assert int(fence) > 0
    assert gemot("kv", "get", "-keys", "jobs/slots").out == ""


def test_a_lock_with_n_is_a_semaphore_and_one_more_waits(gemot: Shell, tmp_path: Path) -> None:
    other = Shell(gemot.address, tmp_path / "other")
    other.folder.mkdir()
    with (
        gemot.running("lock", "-n=2", "jobs/n", "sh", "-c", "echo > up; exec sleep 600"),
        other.running("semaphore", "-n", "2", "jobs/n", "sh", "-c", "echo > up; exec sleep 600") as second,
    ):
        until(lambda: (tmp_path / "up").exists() and (other.folder / "up").exists(), "both")
        third = Shell(gemot.address, tmp_path / "third")
        third.folder.mkdir()
        done = third("lock", "-n=2", "-try=300ms", "jobs/n", "true")
        assert done.code == 1
        assert "jobs/n/.lock: not had within 0.3 s" in done.err
        with third.running("lock", "-verbose", "-n=2", "jobs/n", "touch", "inside") as waiting:
            until(lambda: "waiting: all 2 slots of jobs/n/.lock are taken" in third.told, "the wait")
            waiting.terminate()
            assert waiting.wait(PATIENCE_S) == 128 + signal.SIGTERM
        assert not (third.folder / "inside").exists()
        refused = third("semaphore", "-n=3", "jobs/n", "true")
        assert refused.code == 1
        assert "jobs/n/.lock has 2 slots, not 3: all who use it give the same number" in refused.err
        assert "is not a lock" in third("lock", "jobs/n", "true").err
        second.terminate()
        second.wait(PATIENCE_S)
        assert third("lock", "-n=2", "-child-exit-code", "jobs/n", "false").code == 2


def test_a_slot_that_is_lost_stops_the_command(gemot: Shell, tmp_path: Path) -> None:
    script = "echo $GEMOT_LOCK_SESSION > up; exec sleep 600"
    with gemot.running("semaphore", "-n=2", "jobs/lost", "sh", "-c", script) as holder:
        until(lambda: (tmp_path / "up").exists() and (tmp_path / "up").read_text(), "the command")
        gemot("kv", "delete", "jobs/lost/.lock")
        assert holder.wait(PATIENCE_S) == 75
    assert "its slot of jobs/lost/.lock was taken from it or deleted; the command was stopped" in gemot.told


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["semaphore", "jobs/x", "true"], "Missing option '--n'"),
        (["semaphore", "-n=two", "jobs/x", "true"], "'two' is not a valid integer"),
        (["semaphore", "-n=0", "jobs/x", "true"], "-n: 0 slots: must be from 1 to 4096"),
        (["semaphore", "-n=5000", "jobs/x", "true"], "-n: 5000 slots: must be from 1 to 4096"),
        (["semaphore", "-n=2", "jobs/x"], "give a prefix and a command: gemot semaphore -n 3"),
        (["lock", "-n=-1", "jobs/x", "true"], "-n: -1 holders: must be from 1 to 4096"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_is_told(gemot: Shell, arguments: list[str], told: str) -> None:
    done = gemot(*arguments)
    assert done.code != 0
    assert told in done.err
    assert "Traceback" not in done.err
