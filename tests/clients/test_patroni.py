"""Patroni's Consul class, unmodified, on Gemot: a leader stays while it should, and goes when it must."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from typing import Any

import dns.message
import dns.query
import dns.rdatatype
import pytest
from clients.patroni_scene import (
    PATIENCE_S,
    Belief,
    Scene,
    Scope,
    Timing,
    await_pauses,
    beliefs_of,
    holder,
    overlaps,
    scene,
)
from support.cluster import Agent, wait_for

SYSTEM_ID = "7000000000000000001"

TIMING = Timing(ttl=16, loop_wait=1, retry_timeout=4)
"""A session of 8 s, which the agents double: as long as that an agent may take to be back. A hand-over that
waited for a lock delay of 15 s besides would be seen."""

ELECTION_S = 5.0
"""More than the servers need for a new leader, which may fall into a hand-over."""


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Three Patroni clusters, the first member of each leads."""
    with scene(tmp_path_factory.mktemp("patroni"), TIMING) as made:
        agents = made.cluster.clients
        hosts = {"killed": (0, 1), "stopped": (0, 1), "cut": (2, 1)}
        for name, (first, _) in hosts.items():
            made.scope(name).begin(agents[first])
        for scope in made.scopes:
            scope.leader()
            scope.begin(agents[hosts[scope.name][1]])
        for scope in made.scopes:
            wait_for(lambda scope=scope: scope.members[1].count("follows"), PATIENCE_S, "a follower")
        yield made


@pytest.fixture(scope="module", autouse=True)
def refused(stage: Scene) -> Iterator[Scope]:
    """A cluster of one member, whose agent takes no session as short as it asks for."""
    strict = stage.cluster.servers[0]
    strict.write_config(session_ttl_min="9s")
    strict.put("/v1/agent/reload")
    scope = Scope("refused", stage)
    member = scope.begin(strict)
    yield scope
    member.kill()


def keys(stage: Scene) -> list[tuple[str, str]]:
    """Each cluster's leader and its session, once every leader says so too and has renewed again."""
    await_pauses([scope.leader() for scope in stage.scopes])
    found = []
    for scope in stage.scopes:
        scope.leader()
        key = scope.key()
        assert key is not None
        found.append((holder(key), key["Session"]))
    return found


def test_what_patroni_writes_its_own_reader_finds(stage: Scene) -> None:
    scope, agent = stage.scopes[0], stage.cluster.clients[1]
    scope.control(agent, config={"ttl": TIMING.ttl})

    def shown() -> dict[str, Any] | None:
        told = scope.control(agent)
        settled = set(told["members"].values()) == {"primary", "replica"} and told["history"]
        return told if settled else None

    found = wait_for(shown, PATIENCE_S, "what the leader writes", stage.cluster.agents)
    assert found["leader"] == "pg1"
    assert found["members"] == {"pg1": "primary", "pg2": "replica"}
    assert found["initialize"] == SYSTEM_ID
    assert found["config"] == {"ttl": TIMING.ttl}
    assert found["lsn"] > 0
    wait_for(lambda: scope.control(agent)["sync"] == ["pg1", ["pg2"]], PATIENCE_S, "who follows in step")


def test_its_service_is_in_the_catalog_and_in_dns_by_role(stage: Scene) -> None:
    scope, agent = stage.scopes[0], stage.cluster.clients[1]
    leader, follower = scope.members

    def passing(tag: str) -> list[int]:
        rows = agent.get(f"/v1/health/service/{scope.name}", passing="", tag=tag)
        return [row["Service"]["Port"] for row in rows]

    for tag, member in (("primary", leader), ("master", leader), ("replica", follower)):
        expected = [member.rest_port]
        name = f"{tag}.{scope.name}.service.consul"

        def told(tag: str = tag, name: str = name, expected: list[int] = expected) -> bool:
            return passing(tag) == asked_by_dns(agent, name) == expected

        wait_for(told, PATIENCE_S, name, stage.cluster.agents)


def asked_by_dns(agent: Agent, name: str) -> list[int]:
    question = dns.message.make_query(name, "SRV")
    reply = dns.query.udp(question, agent.host, port=agent.ports["dns"], timeout=5)
    return [record.port for rrset in reply.answer for record in rrset if rrset.rdtype == dns.rdatatype.SRV]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_restart_of_the_leaders_agent_changes_no_leader(stage: Scene, number: signal.Signals) -> None:
    before = keys(stage)
    agent = stage.cluster.clients[0]
    agent.signal(number)
    agent.wait()
    agent.start()
    assert keys(stage) == before
    assert not overlapping(stage)


def test_a_session_refused_as_too_short_is_asked_for_again_as_long_as_it_has_to_be(refused: Scope) -> None:
    refused.leader()
    key = refused.key()
    assert key is not None
    (session,) = refused.members[0].agent.get(f"/v1/session/info/{key['Session']}")
    assert session["TTL"] == "9.0s"
    assert session["NodeChecks"] == []
    refused.members[0].kill()


def test_a_server_leader_that_is_killed_changes_no_leader(stage: Scene) -> None:
    before = keys(stage)
    server = stage.cluster.leader()
    server.kill()
    try:
        assert stage.cluster.leader() is not server
        assert keys(stage) == before
    finally:
        server.start()
        stage.cluster.leader()
    assert not overlapping(stage)


def test_a_leader_that_is_killed_stopped_or_cut_off_is_followed_in_time_and_never_beside_another(
    stage: Scene,
) -> None:
    killed, stopped, cut = [scope.leader() for scope in stage.scopes]
    await_pauses([stopped])
    stopped.signal(signal.SIGSTOP)
    cut.agent.signal(signal.SIGSTOP)
    killed.kill()
    fault_s = time.monotonic()
    try:
        took_s = [
            scope.successor(leader, fault_s)
            for scope, leader in zip(stage.scopes, (killed, stopped, cut), strict=True)
        ]
    finally:
        cut.agent.signal(signal.SIGCONT)
        stopped.signal(signal.SIGCONT)
    assert max(took_s) < 1.5 * TIMING.ttl + ELECTION_S, took_s
    # Who comes back sees that another one leads, and that it was not beside it.
    wait_for(lambda: not stopped.leads and not cut.leads, PATIENCE_S, "their own word on it")
    assert [name for name, _ in keys(stage)] == ["pg2"] * 3
    assert not overlapping(stage)


def test_a_switchover_gives_the_lead_to_its_candidate_at_once(stage: Scene) -> None:
    scope = stage.scopes[1]
    leader = scope.leader()
    candidate = next(each for each in scope.members if each is not leader)
    asked_s = time.monotonic()
    assert scope.control(stage.cluster.clients[1], switchover=[leader.name, candidate.name])["failover"]
    took_s = scope.successor(leader, asked_s)

    def given_up() -> float | None:
        words = [each["t"] for each in list(leader.told) if each["what"] == "follows"]
        return next((since_s for since_s in words if since_s > asked_s), None)

    # What counts is from the leader's word on: before that the program that asks has to be up, and be heard.
    gave_s = wait_for(given_up, PATIENCE_S, "the leader's word on it", stage.cluster.agents)
    assert asked_s + took_s - gave_s < TIMING.ttl
    wait_for(lambda: not scope.control(candidate.agent)["failover"], PATIENCE_S, "the request is cleared")
    assert scope.leader() is candidate
    assert not overlapping(stage)


def overlapping(stage: Scene) -> list[str]:
    return [each for scope in stage.scopes for each in Scope.overlaps(scope)]


def test_the_verdict_sees_two_leaders_at_once() -> None:
    told = [
        {"t": 1.0, "what": "leads", "until": 11.0},
        {"t": 2.0, "what": "waiting"},
        {"t": 3.0, "what": "leads", "until": 13.0},
    ]
    silent = beliefs_of("a", told, None)
    assert silent == [Belief("a", 1.0, 13.0)]
    assert beliefs_of("a", told, 5.0) == [Belief("a", 1.0, 5.0)]
    assert beliefs_of("a", [*told, {"t": 4.0, "what": "follows"}], 5.0) == [Belief("a", 1.0, 4.0)]
    later = {"t": 20.0, "what": "leads", "until": 30.0}
    assert beliefs_of("a", [*told, later], None) == [Belief("a", 1.0, 13.0), Belief("a", 20.0, 30.0)]
    assert overlaps([*silent, Belief("b", 13.0, 20.0)]) == []
    assert overlaps([Belief("b", 12.0, 20.0), *silent]) == ["a and b both led for 1.000 s"]
    assert overlaps([*silent, Belief("a", 2.0, 3.0)]) == []
