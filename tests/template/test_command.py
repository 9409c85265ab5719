"""Running a command: bounded in time and output, and ended with all it started."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from support.template_bench import until

from gemot.agent.template.command import Result, run_command

ENV = {"PATH": os.environ["PATH"], "WORD": "here"}


def shell(line: str, timeout_s: float = 30.0) -> Result:
    return asyncio.run(run_command(("/bin/sh", "-c", line), timeout_s=timeout_s, environ=ENV))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_command_that_succeeds_gives_its_output_of_both_kinds() -> None:
    assert shell("echo $WORD; echo there >&2") == Result("", "here\nthere")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("echo no; exit 3", "it exited with status 3"),
        ("kill -TERM $$", "it was ended by signal 15 (SIGTERM)"),
        ("/no/such/program", "it exited with status 127"),
    ],
)
def test_a_command_that_fails_says_how(line: str, problem: str) -> None:
    assert shell(line).problem == problem


def test_a_program_that_cannot_be_started_is_named() -> None:
    result = asyncio.run(run_command(("/no/such",), timeout_s=1, environ=ENV))
    assert result.problem == "/no/such cannot be started: No such file or directory"
    result = asyncio.run(run_command(("/etc",), timeout_s=1, environ=ENV))
    assert result.problem == "/etc cannot be started: Permission denied"


def test_a_command_reads_nothing_from_the_agents_input() -> None:
    assert shell("cat; echo end") == Result("", "end")


def test_much_output_is_read_to_its_end_and_its_last_part_kept() -> None:
    result = shell("head -c 3000000 /dev/zero | tr '\\0' x; echo last")
    assert result.ok
    assert result.output.startswith("... x")
    assert result.output.endswith("xlast")
    assert len(result.output) < 4200


def test_at_the_timeout_the_whole_process_group_is_killed(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    line = f"trap '' TERM INT HUP; sleep 1000 & echo $! $$ > {pids}; echo begun; wait; sleep 1000"
    result = shell(line, timeout_s=5.0)
    assert result.problem == "it took longer than 5 s and was killed"
    assert result.output == "begun"
    for pid in map(int, pids.read_text().split()):
        asyncio.run(until(lambda pid=pid: not alive(pid), "the end of the group"))  # type: ignore[misc]


def test_what_stays_in_the_background_is_not_waited_for(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    result = shell(f"sleep 1000 & echo $! > {pid_file}; echo done")
    pid = int(pid_file.read_text())
    try:
        assert result == Result("", "done")
        assert alive(pid)
    finally:
        os.kill(pid, 9)


def test_cancelling_kills_the_group(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"

    async def act() -> int:
        command = ("/bin/sh", "-c", f"echo $$ > {pid_file}; sleep 1000")
        task = asyncio.ensure_future(run_command(command, timeout_s=1000, environ=ENV))
        await until(lambda: pid_file.exists() and pid_file.read_text().strip(), "the command's start")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return int(pid_file.read_text())

    pid = asyncio.run(act())
    asyncio.run(until(lambda: not alive(pid), "the end of the command"))


def test_no_descriptor_is_left_open() -> None:
    async def act() -> tuple[int, int]:
        await run_command(("/bin/true",), timeout_s=10, environ=ENV)
        before = len(os.listdir("/proc/self/fd"))
        for command in (("/bin/true",), ("/no/such",), ("/bin/sh", "-c", "echo x; exit 1")) * 3:
            await run_command(command, timeout_s=10, environ=ENV)
        return before, len(os.listdir("/proc/self/fd"))

    before, after = asyncio.run(act())
    assert before == after
