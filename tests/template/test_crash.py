"""SIGKILL before every single step: the file is never torn, and its command is never lost."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.template_bench import mark

CHILD = Path(__file__).parents[1] / "support" / "template_child.py"
MUTE = ""
MOST_STEPS = 60


def run(root: Path, value: str, step: int = 0) -> int:
    """Steps taken; -1 if the process was killed at `step`."""
    done = subprocess.run(
        [sys.executable, str(CHILD), str(root), value, str(step)], capture_output=True, text=True, timeout=120
    )
    if done.returncode == -signal.SIGKILL:
        return -1
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def told(root: Path) -> list[str]:
    """The content of the file each time that the command ran."""
    log = root / "log"
    return log.read_text().splitlines() if log.exists() else []


def content(root: Path) -> str:
    return (root / "out" / "file").read_text().strip()


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> int:
    root = tmp_path_factory.mktemp("count")
    run(root, "old")
    found = run(root, "new")
    assert 5 <= found <= MOST_STEPS, "the fuse sees the steps"
    return found


def test_a_run_without_a_crash_runs_the_command_once_for_each_change(tmp_path: Path) -> None:
    for value in ("old", "old", "new", "new"):
        run(tmp_path, value)
    assert told(tmp_path) == ["old", "new"]
    assert list((tmp_path / "data" / "templates" / "owed").iterdir()) == []


def test_after_a_crash_before_any_step_the_file_and_its_command_follow(tmp_path: Path, steps: int) -> None:
    for step in range(1, steps + 1):
        root = tmp_path / str(step)
        root.mkdir()
        run(root, "old")
        assert run(root, "new", step) == -1, f"step {step}"
        assert content(root) in ("old", "new"), f"step {step}: a torn file"
        run(root, "new")
        assert content(root) == "new", f"step {step}"
        assert told(root)[-1] == "new", f"step {step}: the command was lost"
        assert sorted(path.name for path in (root / "out").iterdir()) == ["file", "file.bak"], f"step {step}"


def test_after_a_crash_the_command_is_run_though_no_server_answers(tmp_path: Path, steps: int) -> None:
    renamed = 0
    for step in range(1, steps + 1):
        root = tmp_path / str(step)
        root.mkdir()
        run(root, "old")
        assert run(root, "new", step) == -1, f"step {step}"
        run(root, MUTE)
        assert told(root)[-1] == content(root), f"step {step}: the command was lost"
        renamed += content(root) == "new"
    assert 0 < renamed < steps, "there are crashes before the rename and after it"


def test_with_all_servers_down_at_the_start_the_old_file_stays(tmp_path: Path) -> None:
    run(tmp_path, "old")
    before = mark(tmp_path / "out" / "file")
    run(tmp_path, MUTE)
    assert mark(tmp_path / "out" / "file") == before
    assert told(tmp_path) == ["old"]
