"""`gemot lock` on two hosts: never both inside while hosts run; when one slept, the fence tells who is late.

Each command writes its fence to one file, again and again, as long as it runs. A holder is inside from its
first line to its last, so two were never inside together if the fences in that file never go back.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from support.cluster import Agent, Cluster, wait_for
from support.dev_agent import PROGRAM
from support.session_cluster import PATIENCE_S, session_cluster

from gemot.agent.client.agents import Agents
from gemot.agent.client.hold import Hold
from gemot.agent.client.lock import Lock

TTL_S = 3
INSIDE = 'echo "$$ $PPID" > {name}.pid; while :; do echo "$GEMOT_LOCK_FENCE" >> inside; sleep 0.02; done'


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with session_cluster(tmp_path_factory.mktemp("lock")) as cluster:
        yield cluster


class Holder:
    """A `gemot lock` on one host, and the command under it, which writes its fence while it is inside."""

    def __init__(
        self, agent: Agent, folder: Path, prefix: str, name: str, *, before: str = "", ttl_s: int = TTL_S
    ) -> None:
        self.agent = agent
        self._folder = folder
        self._name = name
        script = before + INSIDE.format(name=name)
        flags = [f"-ttl={ttl_s}s", f"-http-addr={agent.http}"]
        self.told = folder / f"{name}.told"
        with self.told.open("wb") as told:
            self.process = subprocess.Popen(
                [*PROGRAM, "lock", "-verbose", *flags, prefix, "sh", "-c", script],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=told,
                stderr=told,
            )

    @property
    def fence(self) -> int | None:
        """Once it holds the lock."""
        told = self.told.read_text()
        return int(told.rpartition("fence ")[2].split()[0]) if ", fence " in told else None

    def is_inside(self) -> bool:
        return self.fence is not None and str(self.fence) in fences(self._folder)

    def waits(self) -> bool:
        return "waiting" in self.told.read_text()

    def ids(self) -> tuple[int, int]:
        """Of its command and of the guard."""
        command, guard = (self._folder / f"{self._name}.pid").read_text().split()
        return int(command), int(guard)

    def code(self) -> int:
        return self.process.wait(PATIENCE_S)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            self.process.wait(PATIENCE_S)


def fences(folder: Path) -> list[str]:
    path = folder / "inside"
    return path.read_text().split() if path.exists() else []


@pytest.fixture
def two(cluster: Cluster, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Holder, Holder]]:
    """One who holds the lock on web1, and one on web2 who waits for it."""
    first, second = cluster.clients
    prefix = f"jobs/{request.node.name}"
    holder = Holder(first, tmp_path, prefix, "holder", before=getattr(request, "param", ""))
    waiter = None
    try:
        wait_for(holder.is_inside, PATIENCE_S, "the holder", cluster.agents)
        waiter = Holder(second, tmp_path, prefix, "waiter")
        wait_for(waiter.waits, PATIENCE_S, "the waiter", cluster.agents)
        yield holder, waiter
    finally:
        holder.end()
        if waiter is not None:
            waiter.end()


def comes_in(waiter: Holder) -> None:
    wait_for(waiter.is_inside, PATIENCE_S, "the next one", [waiter.agent])


def never_both(folder: Path) -> bool:
    """The third, who reads."""
    seen = [int(line) for line in fences(folder)]
    return len(set(seen)) == 2 and seen == sorted(seen)


IGNORES = 'trap "" TERM HUP INT; '
both_kinds = pytest.mark.parametrize("two", ["", IGNORES], indirect=True, ids=["kind", "ignores"])


@both_kinds
def test_a_holder_that_is_killed_takes_its_command_with_it(
    two: tuple[Holder, Holder], tmp_path: Path
) -> None:
    holder, waiter = two
    holder.process.kill()
    comes_in(waiter)
    assert never_both(tmp_path)


@both_kinds
def test_a_holder_that_is_stopped_is_late_and_its_command_is_not(
    two: tuple[Holder, Holder], tmp_path: Path
) -> None:
    holder, waiter = two
    holder.process.send_signal(signal.SIGSTOP)
    comes_in(waiter)
    holder.process.send_signal(signal.SIGCONT)
    assert holder.code() == 75
    assert "was lost" in holder.told.read_text()
    assert never_both(tmp_path)


@both_kinds
def test_a_session_that_is_destroyed_lets_nobody_in_before_the_command_is_gone(
    two: tuple[Holder, Holder], tmp_path: Path
) -> None:
    holder, waiter = two
    (session,) = [
        row["ID"] for row in waiter.agent.get("/v1/session/list") if row["Node"] == holder.agent.name
    ]
    waiter.agent.put(f"/v1/session/destroy/{session}")
    comes_in(waiter)
    assert holder.code() == 75
    assert never_both(tmp_path)


def test_a_host_that_slept_writes_once_more_and_only_its_smaller_fence_tells(
    two: tuple[Holder, Holder], tmp_path: Path
) -> None:
    """All that ran on it stands still, the guard too: what no lock can help."""
    holder, waiter = two
    command, guard = holder.ids()
    for pid in (holder.process.pid, guard, command):
        os.kill(pid, signal.SIGSTOP)
    comes_in(waiter)
    late, following = str(holder.fence), str(waiter.fence)
    assert int(following) > int(late)

    def wrote_late() -> bool:
        lines = fences(tmp_path)
        return late in lines[lines.index(following) :]

    os.kill(command, signal.SIGCONT)
    wait_for(wrote_late, PATIENCE_S, "its late write", [])
    for pid in (guard, holder.process.pid):
        os.kill(pid, signal.SIGCONT)
    assert holder.code() == 75
    # What refuses a fence smaller than one it has seen takes none of the late writes.
    accepted: list[int] = []
    for fence in map(int, fences(tmp_path)):
        if fence >= max(accepted, default=0):
            accepted.append(fence)
    assert accepted == sorted(accepted)
    assert int(late) not in accepted[accepted.index(int(following)) :]
    assert not never_both(tmp_path)


def test_waiters_on_all_hosts_come_in_by_turns(cluster: Cluster, tmp_path: Path) -> None:
    """Three of them, each let in when the one before is ended."""
    first, second = cluster.clients
    waiting: list[Holder] = []
    try:
        with closing(Agents(first.http)) as agents, Hold(agents, Lock("turns"), ttl_s=30) as mine:
            for n, agent in enumerate((second, cluster.servers[0], first)):
                waiting.append(Holder(agent, tmp_path, "turns", f"waiter{n}", ttl_s=60))
                wait_for(
                    lambda: len(first.get("/v1/kv/turns/.queue/", keys=True)) == len(waiting),
                    PATIENCE_S,
                    "its place",
                    cluster.agents,
                )
            fences_of = [mine.fence]
            assert all(each.fence is None for each in waiting)
        for holder in waiting:
            comes_in(holder)
            assert [each.fence is None for each in waiting] == sorted(each.fence is None for each in waiting)
            fences_of.append(holder.fence or 0)
            holder.process.terminate()
            assert holder.code() == 128 + signal.SIGTERM
    finally:
        for holder in waiting:
            holder.end()
    assert fences_of == sorted(set(fences_of))
    seen = [int(line) for line in fences(tmp_path)]
    assert seen == sorted(seen)


def test_an_agent_that_is_killed_under_the_holder_costs_it_the_lock_in_time(
    two: tuple[Holder, Holder], tmp_path: Path
) -> None:
    """One who may ask several agents goes on through another."""
    holder, waiter = two
    with (
        closing(Agents([holder.agent.http, waiter.agent.http])) as agents,
        Hold(agents, Lock("by-two"), ttl_s=3 * TTL_S) as other,
    ):
        holder.agent.kill()
        renewals: list[float] = []
        other.follow(lambda confirmed_s, why: renewals.append(confirmed_s))
        assert holder.code() == 75
        comes_in(waiter)
        wait_for(
            lambda: len(set(renewals)) > 2 or not other.held, PATIENCE_S, "renewals elsewhere", [waiter.agent]
        )
        assert other.lost == ""
    assert never_both(tmp_path)
