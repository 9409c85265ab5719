"""`gemot operator` against a real agent that is a server by itself, and against tiers in a bad way."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import msgspec
from support.dev_agent import Ended, Shell
from support.http_agent import run
from support.http_families import api_agent

from gemot.server.rpc.message import Operate, ServerSeen, Surveyed

LEADER = ServerSeen(
    id="id-1", name="srv1", address="10.0.0.1:8300", status="alive", build="0.1.0", voter=True, leader=True,
    last_contact_ms=0, last_term=3, last_index=40, healthy=True, stable_ms=20_000,
)  # fmt: skip
VOTER = msgspec.structs.replace(LEADER, id="id-2", name="srv2", address="10.0.0.2:8300", leader=False)
DEAD = msgspec.structs.replace(
    VOTER, id="id-3", name="srv3", address="10.0.0.3:8300", status="failed", last_index=0, healthy=False
)


def of_servers(folder: Path, servers: tuple[ServerSeen, ...], *words: str) -> tuple[Ended, list[Operate]]:
    """What the command tells of a tier that looks so, and what it had the tier do."""
    told: list[Ended] = []
    done: list[Operate] = []

    async def work() -> None:
        async with api_agent() as (agent, tier):
            tier.surveyed = Surveyed(servers, 12, all(one.healthy for one in servers), 0, "srv1", "")
            shell = Shell(f"127.0.0.1:{agent.port}", folder)
            told.append(await asyncio.to_thread(shell, "operator", *words))
            done.extend(call for call in tier.operated if isinstance(call, Operate))

    run(work())
    return told[0], done


def test_the_peers_are_told_in_columns(gemot: Shell) -> None:
    told = gemot("operator", "raft", "list-peers")
    assert told.code == 0, told.err
    head, peer = told.out.splitlines()
    assert head.split("  ")[0] == "Node"
    assert "Commit Index  Trails Leader By" in head
    assert peer.split()[0] == "n1"
    assert peer.split()[3:6] == ["leader", "true", "3"]
    assert peer.split()[-1] == "-"
    assert gemot("operator", "raft", "list-peers", "-stale").code == 0


def peers(folder: Path, servers: tuple[ServerSeen, ...], *flags: str) -> dict[str, tuple[str, str, str]]:
    """State, index and distance of each, by name."""
    told, _ = of_servers(folder, servers, "raft", "list-peers", *flags)
    assert told.code == 0, told.err
    rows = [re.split(r"  +", line) for line in told.out.splitlines()[1:]]
    return {row[0]: (row[3], row[6], row[7]) for row in rows}


def test_a_dead_peer_is_told_with_what_is_known_of_it_alone(tmp_path: Path) -> None:
    behind = msgspec.structs.replace(VOTER, last_index=39)
    fell = msgspec.structs.replace(DEAD, id="id-4", name="srv4", last_index=30)
    assert peers(tmp_path, (LEADER, behind, DEAD, fell)) == {
        "srv1": ("leader", "40", "-"),
        "srv2": ("follower", "39", "1 commit"),
        "srv3": ("unknown", "unknown", "unknown"),
        "srv4": ("unknown", "30", "10 commits"),
    }


def test_a_server_that_does_not_lead_tells_of_the_log_of_others_that_it_does_not_know_it(
    tmp_path: Path,
) -> None:
    """It knows of the others whether they are connected, and who leads."""
    leader, other = (msgspec.structs.replace(one, last_index=0) for one in (LEADER, VOTER))
    own = msgspec.structs.replace(VOTER, id="id-5", name="own", last_index=40)
    assert peers(tmp_path, (leader, other, own), "-stale") == {
        "srv1": ("leader", "unknown", "-"),
        "srv2": ("unknown", "unknown", "unknown"),
        "own": ("follower", "40", "unknown"),
    }
    alone = tuple(msgspec.structs.replace(one, leader=False) for one in (leader, other, own))
    told = peers(tmp_path, alone, "-stale")
    assert told["own"] == ("unknown", "40", "unknown"), "there is nobody to follow"


def test_a_peer_to_remove_is_named_by_one_of_two_flags_and_must_exist(gemot: Shell) -> None:
    neither = gemot("operator", "raft", "remove-peer")
    both = gemot("operator", "raft", "remove-peer", "-id=a", "-address=b")
    assert (neither.code, both.code) == (1, 1)
    assert "either -id or -address" in neither.err
    assert "either -id or -address" in both.err
    unknown = gemot("operator", "raft", "remove-peer", "-address=10.0.0.9:8300")
    assert unknown.code == 1
    assert 'address "10.0.0.9:8300" was not found in the Raft configuration' in unknown.err


def test_who_removes_a_peer_that_is_alive_is_told_that_it_comes_back(tmp_path: Path) -> None:
    servers = (LEADER, VOTER, DEAD)
    for flag in ("-id=id-2", "-address=10.0.0.2:8300"):
        told, done = of_servers(tmp_path, servers, "raft", "remove-peer", flag)
        assert (told.code, len(done)) == (0, 1), told.err
        assert told.out.startswith("Removed peer with ")
        assert told.err == (
            "srv2 was alive a moment ago: it comes back as a non-voter and is promoted again once it is "
            "stable, unless it is stopped or told to leave\n"
        )
    for flag in ("-id=id-3", "-address=10.0.0.3:8300"):
        told, done = of_servers(tmp_path, servers, "raft", "remove-peer", flag)
        assert (told.code, len(done), told.err) == (0, 1, ""), "the dead do not come back"


def test_the_only_voter_neither_goes_nor_hands_over(gemot: Shell) -> None:
    id = gemot("operator", "raft", "list-peers").out.splitlines()[1].split()[1]
    gone = gemot("operator", "raft", "remove-peer", f"-id={id}")
    assert gone.code == 1
    assert "is the only voter" in gone.err
    handed = gemot("operator", "raft", "transfer-leader")
    assert handed.code == 1
    assert "cannot be transferred" in handed.err


def test_the_health_is_told_with_who_says_so(gemot: Shell) -> None:
    told = gemot("operator", "raft", "health")
    assert told.code == 0, told.err
    assert told.out.startswith("Seen by  n1\nLeader   n1\n\nNode ")


def test_how_servers_are_looked_after_is_shown_and_changed(gemot: Shell) -> None:
    before = gemot("operator", "autopilot", "get-config").out
    assert "CleanupDeadServers = true\nLastContactThreshold = 200ms\n" in before
    assert 'RedundancyZoneTag = ""\n' in before
    changed = gemot("operator", "autopilot", "set-config", "-min-quorum=3", "-cleanup-dead-servers=false")
    assert (changed.code, changed.out) == (0, "Configuration updated!\n"), changed.err
    after = gemot("operator", "autopilot", "get-config").out
    assert "CleanupDeadServers = false\n" in after
    assert "MinQuorum = 3\n" in after
    assert "ServerStabilizationTime = 10s\n" in after
    refused = gemot("operator", "autopilot", "set-config", "-last-contact-threshold=soon")
    assert refused.code == 1
    assert "invalid duration" in refused.err


def test_to_change_nothing_is_a_mistake_that_is_told_with_what_may_be_changed(gemot: Shell) -> None:
    before = gemot("operator", "autopilot", "get-config").out
    done = gemot("operator", "autopilot", "set-config")
    assert (done.code, done.out) == (1, "")
    assert done.err.endswith(
        "nothing to change: give at least one of -cleanup-dead-servers, -last-contact-threshold, "
        "-max-trailing-logs, -min-quorum, -server-stabilization-time\n"
    )
    assert gemot("operator", "autopilot", "get-config").out == before


def test_the_state_is_told_for_people_and_as_json(gemot: Shell) -> None:
    told = gemot("operator", "autopilot", "state")
    assert told.code == 0, told.err
    assert told.out.startswith("Healthy:                      true\nFailure Tolerance:            0\n")
    assert "Status:       leader" in told.out
    found = json.loads(gemot("operator", "autopilot", "state", "-format=json").out)
    assert found["Voters"] == [found["Leader"]]
