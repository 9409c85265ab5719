"""User events among real agents: fired on one, heard once by each that is meant, and by nobody else."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from support.cluster import Agent, Cluster, wait_for

PATIENCE_S = 90.0
ALIVE = 1


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("events"), servers=1, clients=2)
    cluster.clients[0].write_config(services=[{"name": "web", "port": 80, "tags": ["v1"]}])
    cluster.clients[1].write_config(services=[{"name": "web", "port": 80, "tags": ["v2"]}])
    try:
        cluster.start()
        await_whole(cluster)
        yield cluster
    finally:
        cluster.stop()


def await_whole(cluster: Cluster) -> None:
    def whole() -> bool:
        return all(
            [one["Status"] for one in agent.get("/v1/agent/members")] == [ALIVE] * 3
            and "gemot_events_heard_total" in text_of(agent)
            for agent in cluster.agents
        )

    wait_for(whole, PATIENCE_S, "all three in all lists", cluster.agents)


def text_of(agent: Agent) -> str:
    with closing(agent.connect()) as connection:
        return connection.request("GET", "/metrics").body.decode()


def heard(agent: Agent, name: str) -> list[str]:
    """The payloads of the events of this name that this agent kept."""
    found = agent.get("/v1/event/list", name=name)
    return [base64.b64decode(one["Payload"] or "").decode() for one in found]


def heard_in_all(agent: Agent) -> int:
    """How many events came to it, meant for it or not."""
    found = re.search(r"^gemot_events_heard_total (\S+)", text_of(agent), re.MULTILINE)
    assert found is not None
    return int(float(found[1]))


def fire(agent: Agent, name: str, payload: bytes = b"", **filters: str) -> None:
    agent.put(f"/v1/event/fire/{name}", payload, **filters)


def await_heard(cluster: Cluster, count: int) -> None:
    wait_for(
        lambda: [heard_in_all(agent) for agent in cluster.agents] == [count] * 3,
        PATIENCE_S,
        f"{count} events at each",
        cluster.agents,
    )


def test_an_event_is_heard_once_by_those_that_are_meant(cluster: Cluster) -> None:
    server, first, second = cluster.agents
    before = heard_in_all(first)
    fire(server, "all", b"1")
    fire(first, "node", b"2", node=f"^{second.name}$")
    fire(second, "service", b"3", service="^web$")
    fire(server, "tag", b"4", service="web", tag="^v2$")
    await_heard(cluster, before + 4)
    expected = {"all": [1, 1, 1], "node": [0, 0, 1], "service": [0, 1, 1], "tag": [0, 0, 1]}
    for name, counts in expected.items():
        assert [len(heard(agent, name)) for agent in cluster.agents] == counts, name


def test_a_burst_of_two_hundred_is_heard_by_all_each_once(cluster: Cluster) -> None:
    server, first, second = cluster.agents
    before = heard_in_all(first)
    with closing(first.connect()) as connection:
        for number in range(200):
            connection.request("PUT", "/v1/event/fire/burst", body=str(number).encode())
    await_heard(cluster, before + 200)
    for agent in (server, first, second):
        assert sorted(map(int, heard(agent, "burst"))) == list(range(200)), agent.name


def test_what_cannot_be_fired_reaches_nobody_and_all_go_on(cluster: Cluster) -> None:
    server, first, _ = cluster.agents
    before = heard_in_all(first)
    with closing(server.connect()) as connection:
        for body, filters in [
            (b"x" * 600, {}),
            (b"", {"node": "("}),
            (b"", {"service": "(a{1000}){1000}"}),
            (b"", {"tag": "v1"}),
        ]:
            connection.request("PUT", "/v1/event/fire/wrong", body=body, params=filters, ok=(500,))
    hostile = "((a|b|ab)*)*c$"
    fire(server, "slow", node=hostile, service=hostile, tag=hostile)
    fire(server, "after", b"it")
    await_heard(cluster, before + 2)
    assert [heard(agent, "after") for agent in cluster.agents] == [["it"]] * 3
    assert [heard(agent, "slow") for agent in cluster.agents] == [[]] * 3


def test_an_agent_that_begins_anew_does_not_hear_what_was_fired_before(cluster: Cluster) -> None:
    server, first, second = cluster.agents
    fire(server, "before", b"old")
    wait_for(lambda: heard(second, "before") == ["old"], PATIENCE_S, "it is heard", cluster.agents)
    second.kill()
    fire(server, "before", b"while it was away")
    second.start()
    await_whole(cluster)
    wait_for(lambda: exchanged(second), PATIENCE_S, "it is a member", cluster.agents)
    fire(first, "before", b"new")
    wait_for(lambda: "new" in heard(second, "before"), PATIENCE_S, "it hears what is new", cluster.agents)
    assert heard(second, "before") == ["new"]


def exchanged(agent: Agent) -> bool:
    return len(agent.get("/v1/agent/members")) == 3


def test_the_command_line_fires_and_watches(cluster: Cluster, tmp_path: Path) -> None:
    server, first, _ = cluster.agents
    fire(server, "cli", b"old")
    wait_for(lambda: heard(first, "cli") == ["old"], PATIENCE_S, "the first", cluster.agents)
    out = tmp_path / "told"
    program = [sys.executable, "-m", "gemot.agent"]
    follow = ["watch", "-type=event", "-name=cli", f"-http-addr={first.http}", "-shell", f"cat >> {out}"]
    watching = subprocess.Popen([*program, *follow])
    try:
        wait_for(lambda: out.exists() and out.read_text().count("\n") == 1, PATIENCE_S, "what there was")
        for payload in ("one", "two"):
            command = ["event", "-name", "cli", f"-http-addr={server.http}", payload]
            fired = subprocess.run([*program, *command], capture_output=True, text=True, check=True)
            assert re.fullmatch(r"Event ID: [0-9a-f-]{36}\n", fired.stdout)
            wait_for(lambda text=payload: told(out)[-1] == [text], PATIENCE_S, payload, cluster.agents)
        assert told(out) == [["old"], ["one"], ["two"]]
    finally:
        watching.terminate()
        watching.wait()


def told(out: Path) -> list[list[str]]:
    """Of each run of the command, the payloads that it was given."""
    runs = [json.loads(line) for line in out.read_text().splitlines()]
    return [[base64.b64decode(one["Payload"]).decode() for one in run] for run in runs]
