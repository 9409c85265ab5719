"""Bugs of the holder's side of a lock: leases that last too long, guards that do not kill, turns not kept.

They are of programs beside the servers, which the simulator does not run."""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence

from mutants.bug import Patch, bug

from gemot.agent.cli.guard import Plan
from gemot.agent.client import lease, lock
from gemot.agent.client.agents import Agents
from gemot.agent.client.hold import Hold
from gemot.agent.client.lease import Lease
from gemot.agent.client.lock import Waiter
from gemot.agent.client.session import Session

LEASES = "tests/agent/test_lease.py"
LOCKS = "tests/agent/test_lock.py"
GUARDS = "tests/cli/test_guard.py"


@bug(36, tests=(LEASES,), simulated=False)
def a_lease_counts_from_the_answer(patch: Patch) -> None:
    """A renewal that was long under way makes the holder believe longer than the servers do."""
    confirm = Lease.confirm
    patch.setattr(Lease, "confirm", lambda self, sent_s, now_s: confirm(self, now_s, now_s))


@bug(36, tests=(LEASES,), simulated=False)
def a_holder_counts_on_the_servers_quarter(patch: Patch) -> None:
    """It takes the lock for its own until the servers end the session, by its own clock."""
    patch.setattr(lease, "END_SHARE", 1.25)


@bug(36, tests=(LEASES,), simulated=False)
def a_lost_lease_is_found_again(patch: Patch) -> None:
    """An answer that comes late makes a holder of one who has been told that it is none."""

    def lost(self: Lease, now_s: float) -> str:
        return "late" if now_s >= self.end_s else ""

    patch.setattr(Lease, "lost", lost)
    patch.setattr(Lease, "lose", lambda self, why: None)


@bug(37, tests=(LEASES, LOCKS), simulated=False)
def waiters_keep_no_order(patch: Patch) -> None:
    """Whoever is in the queue tries for the lock at once."""

    def ahead_of(session: str, queue: Sequence[Waiter]) -> Waiter | None:
        if session not in [each.session for each in queue]:
            raise KeyError(session)
        return None

    patch.setattr(lock, "ahead_of", ahead_of)


@bug(37, tests=(LOCKS,), simulated=False)
def a_holder_does_not_watch_its_lock(patch: Patch) -> None:
    """It goes by its session alone: who releases the key by hand lets a second one in for good."""

    def watch(self: Hold, session: Session, agents: Agents, releasing: threading.Event) -> None:
        agents.close()

    patch.setattr(Hold, "_watch", watch)


@bug(37, tests=(LOCKS,), simulated=False)
def a_session_outlives_its_lock(patch: Patch) -> None:
    """Who gave a lock back, or did not get it, renews a session for nothing, with its place in the queue."""
    patch.setattr(Session, "end", lambda self: True)


@bug(36, tests=(GUARDS,), simulated=False)
def a_guard_only_asks(patch: Patch) -> None:
    """A command that does not hear SIGTERM is inside for as long as it likes."""
    step = Plan.step

    def without_kill(self: Plan, now_s: float) -> tuple[signal.Signals, ...]:
        return tuple(number for number in step(self, now_s) if number is not signal.SIGKILL)

    patch.setattr(Plan, "step", without_kill)


@bug(36, tests=(GUARDS,), simulated=False)
def a_guard_takes_a_renewal_for_a_pardon(patch: Patch) -> None:
    """A command that was told to stop is let off by a later deadline, and never killed."""

    def until(self: Plan, term_s: float, kill_s: float) -> None:
        self._term_s, self._kill_s = max(self._term_s, term_s), max(self._kill_s, kill_s)

    patch.setattr(Plan, "until", until)
