"""Most servers are dead: what those who ask an agent are told, how soon, and how old it is.

Real processes, killed by their own handles. Later tests go on from where the earlier ones left the cluster:
two of three servers are dead first, then all.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from support.cluster import Agent, Cluster, wait_for

PATIENCE_S = 90.0
"""Bound of every wait: only a hang reaches it."""

SOON_S = 7.0
"""What waits for a leader takes so long at least, and an answer that waits for nothing, much less."""

GEMOT = str(Path(__file__).parents[2] / ".venv" / "bin" / "gemot")
REFUSED = r"{host}:{port} (refused|closed by the peer) \d+ s ago"


class Told:
    """What a command printed, and how long it took."""

    def __init__(self, agent: Agent, *words: str) -> None:
        began = time.monotonic()
        done = subprocess.run(
            [GEMOT, *words],
            env=os.environ | {"GEMOT_HTTP_ADDR": agent.http},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        self.took_s = time.monotonic() - began
        self.code, self.out, self.err = done.returncode, done.stdout, done.stderr


def told_soon(agent: Agent, *words: str) -> Told:
    """What is printed by a command that waits for nobody: one that does takes as long each time."""
    tries: list[float] = []
    for _ in range(5):
        told = Told(agent, *words)
        assert told.code == 0, told.err
        if told.took_s < SOON_S:
            return told
        tries.append(told.took_s)
    raise AssertionError(f"{' '.join(words)} waits: {tries} s")


class Stage:
    """Three servers, of which two were killed while one of them led, and a client agent."""

    def __init__(self, folder: Path) -> None:
        self.cluster = Cluster(folder, servers=3, clients=1)
        self.web = self.cluster.clients[0]
        source, self.file = folder / "t.j2", folder / "t.out"
        source.write_text('{% for one in service("web") %}{{ one.port }}{% endfor %}')
        self.web.write_config(
            services=[{"name": "web", "port": 80}],
            templates=[{"source": str(source), "destination": str(self.file)}],
        )

    def start(self) -> None:
        self.cluster.start()
        wait_for(lambda: len(self.web.get("/v1/agent/members")) == 4, PATIENCE_S, "members")
        wait_for(lambda: self.file.exists() and self.file.read_text() == "80", PATIENCE_S, "the template")
        leader = self.cluster.leader()
        other = next(server for server in self.cluster.servers if server is not leader)
        self.dead = [leader, other]
        self.left = next(server for server in self.cluster.servers if server not in self.dead)
        for server in self.dead:
            server.kill()
        for agent in (self.left, self.web):
            wait_for(
                lambda agent=agent: "quorum" in agent.stats()["tier"]["waiting"], PATIENCE_S, "no quorum"
            )

    def refused(self, *servers: Agent) -> list[str]:
        return [REFUSED.format(host=re.escape(s.host), port=s.ports["server"]) for s in servers]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    stage = Stage(tmp_path_factory.mktemp("no-quorum"))
    try:
        stage.start()
        yield stage
    finally:
        stage.cluster.stop()


@pytest.mark.parametrize("asked", ["the server that is left", "a client agent"])
def test_status_says_at_once_what_is_waited_for(stage: Stage, asked: str) -> None:
    agent = stage.web if asked == "a client agent" else stage.left

    def says() -> bool:
        """An agent that stands still for a second is told of as one that does not answer."""
        told = told_soon(agent, "status")
        waits = f"\nWaiting  Waiting for quorum: have 1 of 3 ({stage.left.name}); " in told.out
        each = all(re.search(refused, told.out) for refused in stage.refused(*stage.dead))
        return "\nLeader   none\n" in told.out and waits and each

    wait_for(says, PATIENCE_S, "no leader, and what is waited for", [agent])


@pytest.mark.parametrize("asked", ["the server that is left", "a client agent"])
def test_without_a_leader_too_the_list_of_members_is_of_now(stage: Stage, asked: str) -> None:
    """Whom every agent itself misses has failed in its list; nobody has to lead for that."""
    agent = stage.web if asked == "a client agent" else stage.left

    def seen() -> bool:
        told = Told(agent, "members")
        failed = re.findall(r"^(\S+) .* failed ", told.out, re.MULTILINE)
        return told.err == "" and sorted(failed) == sorted(server.name for server in stage.dead)

    wait_for(seen, PATIENCE_S, "the dead as failed", [agent])
    with closing(agent.connect()) as connection:
        reply = connection.request("GET", "/v1/agent/members")
    assert reply.known_leader
    assert reply.last_contact_ms == 0


@pytest.mark.parametrize(
    "words", [("why", "service", "web"), ("why", "template")], ids=["service", "template"]
)
def test_an_explanation_says_how_old_it_is(stage: Stage, words: tuple[str, ...]) -> None:
    def old() -> bool:
        told = told_soon(stage.web, *words)
        return re.search(r" as of \d+ s ago, when a leader was heard last", told.out) is not None

    # A template's values pass for present for a few seconds, as those of DNS and cached reads do.
    wait_for(old, PATIENCE_S, "an age")


UNANSWERED = "Outcome unknown: the server did not answer this write in time"
"""A client agent's clock runs from earlier on than its server's: on a busy machine it may be the first."""

HELD_S = 11.0
"""A write or read without a leader is held for 7 s. Hold times that add up come to so long at least."""


def told_after_one_hold(agent: Agent, *words: str) -> Told:
    """What a call prints that nobody carries out; where hold times add up it is late each time."""
    tries: list[float] = []
    for _ in range(5):
        told = Told(agent, *words)
        assert told.code == 1
        if UNANSWERED not in told.err and told.took_s < HELD_S:
            return told
        tries.append(told.took_s)
    raise AssertionError(f"{' '.join(words)} is held more than once: {tries} s")


@pytest.mark.parametrize("words", [("kv", "put", "a", "1"), ("kv", "get", "a")], ids=["write", "read"])
@pytest.mark.parametrize("asked", ["the server that is left", "a client agent"])
def test_a_call_ends_at_the_hold_time_and_says_what_is_so(
    stage: Stage, asked: str, words: tuple[str, ...]
) -> None:
    """A write that was held all the time is called what it is: surely not done."""
    agent = stage.web if asked == "a client agent" else stage.left
    told = told_after_one_hold(agent, *words)
    waiting = f"Error: No cluster leader: waiting for quorum: have 1 of 3 ({stage.left.name}); "
    assert told.err.startswith(waiting), told.err
    assert told.err.endswith(". The write was surely not done\n") == ("put" in words), told.err
    assert "nknown" not in told.err
    assert "broke" not in told.err


def test_a_lock_that_is_not_had_in_time_says_what_that_was_spent_on(stage: Stage) -> None:
    """It was of unknown outcome: the answer to the session's creation had not come."""
    told = Told(stage.web, "lock", "-try=300ms", "jobs/x", "true")
    waiting = f"jobs/x/.lock: not had within 0.3 s: waiting for quorum: have 1 of 3 ({stage.left.name}); "
    assert (told.code, told.err[: len("Error: ") + len(waiting)]) == (1, f"Error: {waiting}")


def test_without_any_server_status_says_at_once_what_each_address_answered(stage: Stage) -> None:
    stage.left.kill()
    wait_for(
        lambda: "Waiting for a server" in stage.web.stats()["tier"]["waiting"], PATIENCE_S, "no server left"
    )
    every = stage.refused(*stage.cluster.servers)
    wait_for(
        lambda: all(re.search(one, stage.web.stats()["tier"]["waiting"]) for one in every),
        PATIENCE_S,
        "tries",
    )
    told = told_soon(stage.web, "status")
    assert "\nLeader   unknown, no server answers\n" in told.out
    for one in every:
        assert re.search(one, told.out), told.out

    def all_failed() -> bool:
        """The agent knows it by itself, and says so as soon."""
        failed = re.findall(r"^(\S+) .* failed ", told_soon(stage.web, "status").out, re.MULTILINE)
        return sorted(failed) == sorted(server.name for server in stage.cluster.servers)

    wait_for(all_failed, PATIENCE_S, "every server as failed")


def test_without_any_server_a_write_says_which_addresses_were_tried(stage: Stage) -> None:
    told = told_after_one_hold(stage.web, "kv", "put", "a", "1")
    assert told.err.startswith("Error: No known server answers: waiting for a server: "), told.err
    assert told.err.endswith(". The write was surely not done\n"), told.err
