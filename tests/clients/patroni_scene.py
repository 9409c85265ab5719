"""Patroni clusters on a Gemot cluster: their processes, what each member believes, and what is wrong with it.

The members are `patroni_member.py`, each a process in Patroni's own environment, which is made from the
package index when it is missing. Three servers, and client agents; a member talks to one client agent as it
would to that of its host.
"""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import Any

import msgspec
from support.cluster import Agent, Cluster, wait_for
from support.ports import free_port

from gemot.agent.client.connection import ClientError

RELEASE = "4.1.5"
HERE = Path(__file__).resolve().parent
ENVIRONMENT = HERE.parent.parent / ".tools" / "clients" / "patroni"
NAMESPACE = "service"
PATIENCE_S = 60.0


class Timing(msgspec.Struct, frozen=True):
    """Patroni's three settings, in seconds; loop_wait and twice the retry_timeout are to fit into the TTL."""

    ttl: int
    loop_wait: int
    retry_timeout: int


DEFAULTS = Timing(ttl=30, loop_wait=10, retry_timeout=10)
"""What Patroni has by itself."""

QUICK = Timing(ttl=10, loop_wait=1, retry_timeout=4)
"""What a test can wait for: a session of 5 s, and retries that outlast an election."""


class Belief(msgspec.Struct, frozen=True):
    """From when until when this member took itself for the leader."""

    member: str
    since_s: float
    until_s: float


class Member:
    """One member's process, and what it told. A reader thread fills `told`."""

    def __init__(self, *, scope: str, name: str, agent: Agent, timing: Timing, folder: Path) -> None:
        self.scope = scope
        self.name = name
        self.agent = agent
        self.rest_port = free_port()
        self.told: list[dict[str, Any]] = []
        self.ended_s: float | None = None
        self._log = (folder / f"{scope}-{name}.log").open("w")
        wanted = settings(scope, name, agent, timing) | {"rest_port": self.rest_port}
        wanted["consul"] |= {"register_service": True, "service_check_interval": "1s"}
        self._process = subprocess.Popen(
            [str(interpreter()), str(HERE / "patroni_member.py"), "run", json.dumps(wanted)],
            stdout=subprocess.PIPE,
            stderr=self._log,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self.told.append(json.loads(line))

    def require_running(self) -> None:
        code = self._process.poll()
        assert code is None or self.ended_s is not None, f"{self._log.name}: it ended by itself ({code})"

    @property
    def leads(self) -> bool:
        """By its own last word on it."""
        words = [each["what"] for each in list(self.told) if each["what"] in ("leads", "follows")]
        return bool(words) and words[-1] == "leads" and self.ended_s is None

    def count(self, what: str) -> int:
        return sum(each["what"] == what for each in list(self.told))

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        if self.ended_s is None:
            self._process.kill()
            self._process.wait()
            self.ended_s = time.monotonic()
            self._reader.join()
            self._log.close()

    def beliefs(self) -> list[Belief]:
        return beliefs_of(f"{self.scope}/{self.name}", list(self.told), self.ended_s)


def await_pauses(members: list[Member]) -> None:
    """Until each has ended one more pass; then it waits for the next, as it does most of its life."""
    before = [each.count("waiting") for each in members]

    def passed() -> bool:
        return all(each.count("waiting") > n for each, n in zip(members, before, strict=True))

    wait_for(passed, PATIENCE_S, "a pass of each member")


def beliefs_of(member: str, told: list[dict[str, Any]], ended_s: float | None) -> list[Belief]:
    """Its terms as a leader, by its own words: each is over at its word, its end, or with the last TTL."""
    found: list[Belief] = []
    term: Belief | None = None
    for each in told:
        if each["what"] not in ("leads", "follows"):
            continue
        now_s: float = each["t"]
        if each["what"] == "follows" or (term is not None and term.until_s < now_s):
            found += [] if term is None else [cut(term, now_s)]
            term = None
        if each["what"] == "leads":
            term = Belief(member, term.since_s if term else now_s, each["until"])
    if term is not None:
        found.append(cut(term, ended_s) if ended_s is not None else term)
    return found


def cut(term: Belief, at_s: float) -> Belief:
    return msgspec.structs.replace(term, until_s=min(term.until_s, at_s))


def overlaps(beliefs: list[Belief]) -> list[str]:
    """Where two members of one cluster took themselves for the leader at once."""
    found = []
    for a, b in combinations(sorted(beliefs, key=lambda each: each.since_s), 2):
        both_s = min(a.until_s, b.until_s) - b.since_s
        if a.member != b.member and both_s > 0:
            found.append(f"{a.member} and {b.member} both led for {both_s:.3f} s")
    return found


class Scope:
    """One Patroni cluster: the members that there ever were, in order."""

    def __init__(self, name: str, scene: Scene) -> None:
        self.name = name
        self._scene = scene
        self.members: list[Member] = []

    def begin(self, agent: Agent) -> Member:
        member = Member(
            scope=self.name,
            name=f"pg{len(self.members) + 1}",
            agent=agent,
            timing=self._scene.timing,
            folder=self._scene.folder,
        )
        self.members.append(member)
        return member

    def key(self) -> dict[str, Any] | None:
        """The leader key as a server that runs has it: Session, Value, LockIndex."""
        server = next(each for each in self._scene.cluster.servers if each.running)
        with_lists: list[dict[str, Any]] = server.get(f"/v1/kv/{NAMESPACE}/{self.name}/", recurse="")
        found = [each for each in with_lists if each["Key"].endswith("/leader")]
        return found[0] if found else None

    def leader(self) -> Member:
        """Who leads by its own word and by the key."""

        def agreed() -> Member | None:
            for member in self.members:
                member.require_running()
            leading = [each for each in self.members if each.leads]
            key = self.key()
            if len(leading) != 1 or key is None or "Session" not in key:
                return None
            return leading[0] if leading[0].name == holder(key) else None

        found: Member = wait_for(agreed, PATIENCE_S, f"a leader of {self.name}", self._scene.cluster.agents)
        return found

    def successor(self, before: Member, fault_s: float) -> float:
        """Wait until another one leads; how long after the fault it said so."""

        def follower() -> float | None:
            terms = [b for m in self.members if m is not before for b in m.beliefs() if b.since_s > fault_s]
            return min((b.since_s for b in terms), default=None)

        began: float = wait_for(follower, PATIENCE_S, f"a hand-over in {self.name}")
        return began - fault_s

    def overlaps(self) -> list[str]:
        return overlaps([each for member in self.members for each in member.beliefs()])

    def control(self, agent: Agent, **do: Any) -> dict[str, Any]:
        """As patronictl by this agent; the cluster as it tells it."""
        wanted = settings(self.name, "ctl", agent, self._scene.timing) | {"do": do}
        run = [str(interpreter()), str(HERE / "patroni_member.py"), "ctl", json.dumps(wanted)]
        told = subprocess.run(run, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
        assert told.returncode == 0, told.stderr
        *done, cluster = map(json.loads, told.stdout.splitlines())
        assert all(each["answer"] for each in done), done
        shown: dict[str, Any] = cluster
        return shown


class Scene:
    def __init__(self, folder: Path, timing: Timing, *, hosts: int, multiplier: int) -> None:
        self.folder = folder
        self.timing = timing
        self.cluster = Cluster(folder, servers=3, clients=hosts)
        for agent in self.cluster.agents:
            agent.write_config(session_ttl_min="1s", session_ttl_multiplier=multiplier)
        self.scopes: list[Scope] = []

    def scope(self, name: str) -> Scope:
        self.scopes.append(Scope(name, self))
        return self.scopes[-1]

    def start(self) -> None:
        self.cluster.start()
        agents = self.cluster.agents
        wait_for(lambda: all(map(_has_server, agents)), PATIENCE_S, "agents with a server", agents)

    def stop(self) -> None:
        for scope in self.scopes:
            for member in scope.members:
                member.kill()
        self.cluster.stop()


@contextmanager
def scene(folder: Path, timing: Timing, *, hosts: int = 3, multiplier: int = 2) -> Iterator[Scene]:
    made = Scene(folder, timing, hosts=hosts, multiplier=multiplier)
    try:
        made.start()
        yield made
    finally:
        made.stop()


def settings(scope: str, name: str, agent: Agent, timing: Timing) -> dict[str, Any]:
    """Patroni's configuration as far as its Consul class reads it."""
    return {
        "scope": scope,
        "name": name,
        "namespace": f"/{NAMESPACE}/",
        "ttl": timing.ttl,
        "loop_wait": timing.loop_wait,
        "retry_timeout": timing.retry_timeout,
        "consul": {"host": agent.http},
    }


def holder(key: dict[str, Any]) -> str:
    return base64.b64decode(key["Value"]).decode()


def interpreter() -> Path:
    """The one of Patroni's environment, which is made once."""
    python = ENVIRONMENT / "bin" / "python"
    stamp = ENVIRONMENT / ".installed"
    wanted = f"patroni[consul,psycopg3]=={RELEASE}"  # it does not start without a driver
    if not stamp.exists() or stamp.read_text() != wanted:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(ENVIRONMENT)], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wanted]
        subprocess.run(install, check=True)
        stamp.write_text(wanted)
    return python


def _has_server(agent: Agent) -> bool:
    try:
        agent.put(f"/v1/session/destroy/{agent.put('/v1/session/create')['ID']}")
    except ClientError:
        return False
    return True
