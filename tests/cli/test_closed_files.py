"""Commands whose standard files are closed (`>&-`): what they run has files, which lead nowhere."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from support.dev_agent import PATIENCE_S, PROGRAM, Shell, until

OPEN = "readlink /proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2 > open; echo shown; echo told >&2"


def closed(gemot: Shell, files: str, *arguments: str) -> subprocess.Popen[bytes]:
    words = ["sh", "-c", f'exec "$@" {files}', "sh", *PROGRAM, *arguments]
    return subprocess.Popen(words, cwd=gemot.folder, env=gemot.environ)


@pytest.mark.parametrize("files", [">&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("how", [["lock"], ["once"], ["election", "run", "-once"]], ids=lambda each: each[0])
def test_a_command_is_run_and_has_files_of_its_own(
    gemot: Shell, tmp_path: Path, how: list[str], files: str
) -> None:
    until(lambda: gemot("lock", "closed/warm", "true").code == 0, "a session")
    key = f"closed/{how[0]}-{len(files)}"
    runs = closed(gemot, files, *how, "-verbose", key, "sh", "-c", f"{OPEN}; echo $? > ended")
    assert runs.wait(PATIENCE_S) == 0
    assert (tmp_path / "ended").read_text() == "0\n"
    opened = (tmp_path / "open").read_text().splitlines()
    assert opened[0] == "/dev/null"
    assert not [each for each in opened if each.startswith(("pipe:", "socket:"))]


def test_what_is_watched_is_told(gemot: Shell, tmp_path: Path) -> None:
    gemot("kv", "put", "closed/watched", "1")
    watch = closed(
        gemot, ">&-", "watch", "-type=key", "-key=closed/watched", "sh", "-c", f"{OPEN}; touch ran"
    )
    try:
        until((tmp_path / "ran").exists, "the command")
    finally:
        watch.kill()
        watch.wait(PATIENCE_S)
