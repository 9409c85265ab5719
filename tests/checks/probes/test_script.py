"""Real programs: their exits, their output, and that nothing of them is left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest
from support.http_agent import until

from gemot.checks.definition import CheckDefinition
from gemot.checks.probes import script
from gemot.checks.probes.script import probe
from gemot.checks.status import Outcome

SOON_S = 3.0
"""A timeout that is waited for. Within it the program has to be up, and to have written."""


def define(*args: str, timeout_s: float = 20.0, limit: int = 4096, local: bool = True) -> CheckDefinition:
    return CheckDefinition(
        check_id="c",
        name="c",
        type="script",
        args=args,
        timeout_s=timeout_s,
        output_max_bytes=limit,
        from_config=local,
    )


def run(definition: CheckDefinition) -> Outcome:
    return asyncio.run(probe(definition))


@pytest.mark.parametrize(
    ("code", "status"),
    [(0, "passing"), (1, "warning"), (2, "critical"), (127, "critical"), (255, "critical")],
)
def test_the_exit_code_is_the_status(code: int, status: str) -> None:
    assert run(define("sh", "-c", f"echo done; exit {code}")) == Outcome(status, "done\n")  # type: ignore[arg-type]


def test_a_program_ended_by_a_signal_is_critical() -> None:
    assert run(define("sh", "-c", "kill -SEGV $$")).status == "critical"


def test_a_program_that_is_not_there_is_critical_and_named() -> None:
    outcome = run(define("/no/such/program"))
    assert outcome.status == "critical"
    assert "/no/such/program" in outcome.output


def test_standard_error_is_output_too() -> None:
    assert run(define("sh", "-c", "echo one; echo two >&2")).output == "one\ntwo\n"


def test_arguments_reach_the_program_as_they_are_without_a_shell() -> None:
    assert run(define("echo", "$HOME", "; rm -rf /", "*")).output == "$HOME ; rm -rf / *\n"


def test_the_program_has_nothing_to_read() -> None:
    assert run(define("cat")) == Outcome("passing", "")


def test_only_the_last_bytes_of_a_huge_output_are_kept() -> None:
    outcome = run(define("sh", "-c", "head -c 20000000 /dev/zero | tr '\\0' x; printf END"))
    assert outcome.status == "passing"
    assert outcome.output.startswith("Captured 4096 of 20000003 bytes\n...\nxxx")
    assert outcome.output.endswith("xEND")


def test_a_script_that_came_over_the_api_is_never_run(tmp_path: Path) -> None:
    proof = tmp_path / "ran"
    outcome = run(define("touch", str(proof), local=False))
    assert outcome.status == "critical"
    assert not proof.exists()


def test_a_timeout_is_critical_and_shows_what_was_said_so_far() -> None:
    outcome = run(define("sh", "-c", "echo so far; sleep 600", timeout_s=SOON_S))
    assert outcome == Outcome("critical", f"Timed out ({SOON_S:g}s) running check\n\nso far\n")


def test_a_child_that_ignores_term_ends_with_its_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "TERM_GRACE_S", 0.2)
    pids = tmp_path / "pids"
    text = f'trap "" TERM; (trap "" TERM; exec sleep 600) & echo $! > {pids}; echo $$ >> {pids}; wait'

    async def work() -> None:
        outcome = await probe(define("sh", "-c", text, timeout_s=SOON_S))
        assert outcome.output.startswith(f"Timed out ({SOON_S:g}s)")
        for pid in map(int, pids.read_text().split()):
            await until(lambda pid=pid: not is_running(pid))

    asyncio.run(work())


def test_a_child_that_ignores_term_ends_even_when_its_program_is_gone(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    text = f'(trap "" TERM; exec sleep 600) & echo $! > {pid_file}; wait'

    async def work() -> None:
        await probe(define("sh", "-c", text, timeout_s=SOON_S))
        await until(lambda: not is_running(int(pid_file.read_text())))

    asyncio.run(work())


def test_a_child_that_outlives_its_program_does_not_hold_the_check_up(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    outcome = run(define("sh", "-c", f"echo started; sleep 600 & echo $! > {pid_file}; exit 0"))
    os.kill(int(pid_file.read_text()), signal.SIGKILL)
    assert outcome == Outcome("passing", "started\n")


def test_cancelling_ends_the_program(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"

    async def work() -> None:
        task = asyncio.create_task(probe(define("sh", "-c", f"echo $$ > {pid_file}; exec sleep 600")))
        await until(lambda: pid_file.exists() and pid_file.read_text().strip())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not is_running(int(pid_file.read_text()))

    asyncio.run(work())


def test_no_descriptor_is_left_open() -> None:
    run(define("true"))
    before = len(os.listdir("/proc/self/fd"))
    for args in (("true",), ("/no/such/program",), ("sh", "-c", "sleep 600")):
        run(define(*args, timeout_s=0.1))
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_program_inherits_no_descriptor_of_the_agent() -> None:
    with open("/dev/null") as held:
        os.set_inheritable(held.fileno(), True)
        listing = run(define(sys.executable, "-c", "import os; print(os.listdir('/proc/self/fd'))"))
        assert f"'{held.fileno()}'" not in listing.output or held.fileno() <= 3


def is_running(pid: int) -> bool:
    """Whether this process exists and is no zombie."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
