"""`gemot semaphore` on two hosts: a third is let in only once one of the two before it is surely out.

Each command writes its fence to one file, again and again, as long as it runs: one was out before another
was in if no line of the first is behind a line of the other.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cluster import Agent, Cluster, wait_for
from support.dev_agent import PROGRAM
from support.session_cluster import PATIENCE_S, session_cluster

INSIDE = 'while :; do echo "$GEMOT_LOCK_FENCE" >> inside; sleep 0.02; done'


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with session_cluster(tmp_path_factory.mktemp("semaphore")) as cluster:
        yield cluster


class Holder:
    """A `gemot semaphore -n 2` on one host, and the command under it."""

    def __init__(
        self, agent: Agent, folder: Path, prefix: str, name: str, *, before: str = "", ttl: str = "3s"
    ) -> None:
        self.told = folder / f"{name}.told"
        self._folder = folder
        flags = ["-verbose", "-n=2", f"-ttl={ttl}", f"-http-addr={agent.http}"]
        with self.told.open("wb") as told:
            self.process = subprocess.Popen(
                [*PROGRAM, "semaphore", *flags, prefix, "sh", "-c", before + INSIDE],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=told,
                stderr=told,
            )

    @property
    def fence(self) -> str:
        text = self.told.read_text()
        return text.rpartition("fence ")[2].split()[0] if ", fence " in text else ""

    def is_inside(self) -> bool:
        return bool(self.fence) and self.fence in lines(self._folder)

    def waits(self) -> bool:
        return "slots of" in self.told.read_text()

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            self.process.wait(PATIENCE_S)


def lines(folder: Path) -> list[str]:
    path = folder / "inside"
    return path.read_text().split() if path.exists() else []


@pytest.mark.parametrize("before", ["", 'trap "" TERM HUP INT; '], ids=["kind", "ignores"])
@pytest.mark.parametrize("how", ["killed", "stopped", "destroyed"])
def test_a_third_is_in_only_when_one_of_two_is_out(
    cluster: Cluster, tmp_path: Path, how: str, before: str
) -> None:
    first, second = cluster.clients
    prefix = f"slots/{how}{len(before)}"
    holders = [Holder(first, tmp_path, prefix, "one", before=before)]
    try:
        # It is to stay inside, though somebody stands still for a second or two.
        holders.append(Holder(second, tmp_path, prefix, "two", ttl="60s"))
        one, two = holders
        wait_for(lambda: one.is_inside() and two.is_inside(), PATIENCE_S, "two of them", cluster.agents)
        third = Holder(second, tmp_path, prefix, "three")
        holders.append(third)
        wait_for(third.waits, PATIENCE_S, "the third to wait", cluster.agents)
        if how == "destroyed":
            (session,) = [r["ID"] for r in second.get("/v1/session/list") if r["Node"] == first.name]
            second.put(f"/v1/session/destroy/{session}")
        else:
            one.process.send_signal(signal.SIGKILL if how == "killed" else signal.SIGSTOP)
        wait_for(third.is_inside, PATIENCE_S, "the third", cluster.agents)
        one.process.send_signal(signal.SIGCONT)
        assert one.process.wait(PATIENCE_S) == (-signal.SIGKILL if how == "killed" else 75)
        assert two.process.poll() is None
        written = lines(tmp_path)
        assert one.fence not in written[written.index(third.fence) :]
    finally:
        for each in holders:
            each.end()
