"""The guard's plan: told once, killed once, never later than the last deadline that it heard of."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.dev_agent import until

from gemot.agent.cli import guard
from gemot.agent.cli.guard import LOOK_S, Plan, now
from gemot.agent.cli.guarded import KILL_SHARE, TERM_SHARE, Ending, Guarded, deadlines
from gemot.agent.client.lease import END_SHARE, RENEW_SHARE, Lease
from gemot.agent.client.session import MAX_LOCK_DELAY_S

TOLD = (signal.SIGTERM, signal.SIGCONT)
KILLED = (signal.SIGKILL,)


def test_the_command_is_told_after_the_renewal_was_due_and_dead_before_the_lease_is_lost() -> None:
    assert RENEW_SHARE < TERM_SHARE < KILL_SHARE < END_SHARE


@given(st.floats(1.0, 86_400.0))
def test_the_command_is_dead_before_what_an_ended_session_held_can_pass(ttl_s: float) -> None:
    """Also where the session is destroyed in the moment after a renewal, and nobody tells."""
    lease = Lease(ttl_s, 100.0)
    term_s, kill_s = deadlines(ttl_s, 100.0)
    assert lease.next_s() < term_s < kill_s < lease.end_s
    assert kill_s < 100.0 + 0.95 * min(ttl_s, MAX_LOCK_DELAY_S)


@pytest.mark.parametrize(
    ("at_s", "sent"),
    [((9.9,), [()]), ((10.0, 10.1, 12.0, 13.0), [TOLD, (), KILLED, ()]), ((99.0,), [KILLED])],
)
def test_it_is_told_at_the_first_time_and_killed_at_the_second(
    at_s: tuple[float, ...], sent: list[tuple[signal.Signals, ...]]
) -> None:
    plan = Plan(10.0, 12.0)
    assert [plan.step(each) for each in at_s] == sent


def test_a_renewal_moves_both_unless_the_command_was_told() -> None:
    plan = Plan(10.0, 12.0)
    plan.until(15.0, 17.0)
    plan.until(11.0, 13.0)  # late news
    assert plan.step(14.9) == ()
    assert plan.step(15.0) == TOLD
    plan.until(20.0, 22.0)
    assert plan.step(17.0) == KILLED


def test_a_stop_is_now_and_no_grace_goes_beyond_the_deadline() -> None:
    plan = Plan(10.0, 12.0)
    plan.stop(5.0, 1.0)
    assert (plan.step(5.0), plan.step(5.9), plan.step(6.0)) == (TOLD, (), KILLED)
    plan = Plan(10.0, 12.0)
    plan.stop(5.0, float("inf"))
    assert (plan.step(5.0), plan.step(11.9), plan.step(12.0)) == (TOLD, (), KILLED)


def test_a_renewal_that_is_told_after_a_stop_moves_nothing() -> None:
    """Two threads tell of them: the older news may come last, and both be read at once."""
    plan = Plan(10.0, 12.0)
    plan.stop(5.0, 1.0)
    plan.until(11.0, 13.0)
    assert (plan.step(5.0), plan.step(5.9), plan.step(6.0)) == (TOLD, (), KILLED)


def test_a_signal_to_the_guard_is_passed_on_unless_it_came_to_all() -> None:
    plan = Plan(10.0, 12.0)
    plan.asked(1.0)
    assert (plan.step(1.0), plan.wait_s(1.9)) == ((), pytest.approx(0.1))
    assert (plan.step(2.0), plan.step(2.1), plan.stopping) == (TOLD, (), False)
    plan.asked(3.0)
    plan.passed(3.1)
    plan.asked(3.2)
    assert plan.step(9.0) == ()
    plan.until(20.0, 22.0)
    assert (plan.step(19.0), plan.step(20.0)) == ((), TOLD), "the command has all its time"
    plan.asked(20.1)
    assert (plan.step(21.2), plan.step(22.0)) == ((), KILLED)


def test_it_looks_often_enough_for_a_host_that_slept() -> None:
    plan = Plan(1000.0, 1200.0)
    assert plan.wait_s(0.0) == LOOK_S
    assert plan.wait_s(999.95) == pytest.approx(0.05)
    assert plan.wait_s(5000.0) == 0.0


orders = st.lists(
    st.tuples(
        st.sampled_from(["until", "stop", "step"]),
        st.floats(0.0, 5.0),
        st.floats(0.0, 20.0),
        st.floats(0.0, 5.0),
    ),
    max_size=40,
)


@given(orders)
def test_whatever_it_is_told_it_kills_by_the_last_deadline_it_took(
    course: list[tuple[str, float, float, float]],
) -> None:
    now_s, plan, deadline_s, sent = 0.0, Plan(10.0, 12.0), 12.0, list[signal.Signals]()
    stopped = False
    for word, passed_s, ahead_s, grace_s in course:
        now_s += passed_s
        if word == "until":
            plan.until(now_s + ahead_s, now_s + ahead_s + 2)
            deadline_s = deadline_s if stopped else max(deadline_s, now_s + ahead_s + 2)
        elif word == "stop":
            plan.stop(now_s, grace_s)
            stopped, deadline_s = True, min(deadline_s, now_s + grace_s)
        sent += plan.step(now_s)
        if now_s >= deadline_s:
            assert signal.SIGKILL in sent
    assert sent in ([], [*TOLD], [*TOLD, *KILLED], [*KILLED])
    assert plan.stopping == bool(sent)


KILLED_AT_ONCE = """
import os, runpy, signal, subprocess

whole = subprocess.Popen


def begin(*words, **how):
    child = whole(*words, **how)
    with open({pid!r}, "w") as file:
        file.write(str(child.pid))
    os.kill(os.getpid(), signal.SIGKILL)


subprocess.Popen = begin
runpy.run_path({guard!r}, run_name="__main__")
"""


def test_a_command_that_was_just_started_ends_with_its_guard_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guard is killed before it comes to anything else."""
    script, pid = tmp_path / "guard.py", tmp_path / "pid"
    script.write_text(KILLED_AT_ONCE.format(pid=str(pid), guard=guard.__file__))
    monkeypatch.setattr(guard, "__file__", str(script))
    guarded = Guarded(ttl_s=600.0)
    guarded.start(["sleep", "600"], environ=os.environ, confirmed_s=now(), pass_stdin=False)
    assert guarded.wait().problem == "its guard was killed, and it was killed for that"
    until(lambda: not runs(int(pid.read_text())), "the end of the command")
    guarded.close()


ENDED_AT_ONCE = """
import os, runpy, signal

os.kill(os.getpid(), signal.SIGTERM)
runpy.run_path({guard!r}, run_name="__main__")
"""


def test_a_signal_before_the_guard_is_there_reaches_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "guard.py"
    script.write_text(ENDED_AT_ONCE.format(guard=guard.__file__))
    monkeypatch.setattr(guard, "__file__", str(script))
    guarded = Guarded(ttl_s=600.0)
    guarded.start(["sleep", "600"], environ=os.environ, confirmed_s=now(), pass_stdin=False)
    assert guarded.wait() == Ending(-signal.SIGTERM, False, "")
    guarded.close()
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""  # a zombie has none
    except OSError:
        return False
