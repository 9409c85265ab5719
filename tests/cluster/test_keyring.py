"""`gemot keyring` on a real cluster: changed on all members, kept, and refused where one would be cut off."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.cluster import Agent, Cluster, wait_for
from support.dev_agent import Shell

from gemot.agent.gossip.keyring import Key

PATIENCE_S = 90.0
QUICK = {"gossip_interval": "50ms"}
"""Probes are as usual: nobody is to be missed who stands still for a second or two."""

PATH = "/v1/operator/keyring"
ALIVE, LEFT, FAILED = 1, 3, 4


class Stage:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.first = Shell("", folder)("keygen").out.strip()
        self.cluster = Cluster(
            folder,
            servers=1,
            clients=3,
            config={"encrypt": self.first, "gossip_lan": QUICK, "retry_interval": "1s"},
        )
        self.agents = self.cluster.agents

    def gemot(self, of: Agent, *words: str, stdin: bytes = b"") -> Any:
        return Shell(of.http, self.folder)(*words, stdin=stdin)

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        return wait_for(condition, PATIENCE_S, what, self.agents)

    def whole(self) -> None:
        everyone = sorted(agent.name for agent in self.agents)
        self.until(lambda: all(names(agent) == everyone for agent in self.agents), "all know each other")

    def kept(self) -> list[list[str]]:
        return [kept(agent) for agent in self.agents]


def names(agent: Agent) -> list[str]:
    return sorted(one["Name"] for one in agent.get("/v1/agent/members") if one["Status"] == ALIVE)


def kept(agent: Agent) -> list[str]:
    return list(json.loads((agent.directory / "data/serf/local.keyring").read_text()))


def asked(agent: Agent, method: str, key: str) -> str:
    """The text of the refusal, "" if it was done."""
    body = json.dumps({"Key": key}).encode()
    with closing(agent.connect(timeout_s=PATIENCE_S)) as connection:
        reply = connection.request(method, PATH, body=body, ok=(200, 500))
    assert (reply.body == b"") == (reply.status == 200)
    return reply.body.decode()


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    stage = Stage(tmp_path_factory.mktemp("keyring"))
    try:
        stage.cluster.start()
        stage.whole()
        yield stage
    finally:
        stage.cluster.stop()


def test_a_key_made_here_is_32_bytes_in_base64_and_another_one_each_time(stage: Stage) -> None:
    keys = [stage.gemot(stage.agents[0], "keygen").out.strip() for _ in range(2)]
    assert all(re.fullmatch(r"[A-Za-z0-9+/]{43}=", key) for key in keys)
    assert keys[0] != keys[1]


def test_the_keys_are_changed_from_any_agent_and_last(stage: Stage) -> None:
    server, web1, web2, web3 = stage.agents
    new = stage.gemot(server, "keygen").out.strip()
    told = stage.gemot(web1, "keyring", "-install=-", stdin=new.encode() + b"\n")
    assert (told.code, told.err) == (0, "")
    assert told.out.startswith("Key installed on all members")
    assert stage.kept() == [[stage.first, new]] * 4
    assert stage.gemot(web2, "keyring", "-use", new).code == 0
    assert stage.kept() == [[new, stage.first]] * 4
    listed = stage.gemot(web3, "keyring", "-list").out.splitlines()
    prints = {key: Key.parse(key).fingerprint for key in (new, stage.first)}
    assert listed == [
        "dc1 (LAN):",
        f"  {new} ({prints[new]}) [4/4]  primary [4/4]",
        f"  {stage.first} ({prints[stage.first]}) [4/4]",
    ]
    primaries = stage.gemot(web3, "keyring", "-list-primary").out.splitlines()
    assert primaries == ["dc1 (LAN):", f"  {new} ({prints[new]}) [4/4]"]
    refused = stage.gemot(server, "keyring", "-remove", new)
    assert refused.code == 1
    assert "is the primary of srv1, web1, web2, web3: use another one first" in refused.err
    assert new not in refused.err
    assert stage.gemot(server, "keyring", f"-remove={stage.first}").code == 0
    assert stage.kept() == [[new]] * 4
    (row,) = server.get(PATH)
    assert row == {
        "WAN": False,
        "Datacenter": "dc1",
        "Segment": "",
        "Keys": {new: 4},
        "PrimaryKeys": {new: 4},
        "NumNodes": 4,
    }
    for agent in stage.agents:
        agent.kill()
    for agent in stage.agents:
        agent.start()
    stage.whole()
    assert web1.get(PATH)[0]["Keys"] == {new: 4}
    assert not any(key in agent.log.read_text() for agent in stage.agents for key in (new, stage.first))


def test_a_key_that_one_lacks_is_not_used_and_a_late_comer_has_what_its_file_says(stage: Stage) -> None:
    """One joins in the middle of a change, with the ring of before."""
    server, web1, _, late = stage.agents
    now = kept(server)[0]
    late.stop()
    rest = (server, web1, stage.agents[2])
    stage.until(lambda: all(late.name not in names(agent) for agent in rest), "it is away")
    new = stage.gemot(server, "keygen").out.strip()
    told = stage.gemot(web1, "keyring", "-install", new)
    assert told.code == 0
    assert told.err == f"not asked, having failed: {late.name}\n"
    text = asked(server, "PUT", new)
    assert f"use refused, nothing was changed: {late.name} cannot be asked" in text
    assert server.get(PATH)[0]["Messages"] == {late.name: "it has failed, and was not asked"}
    late.start()
    stage.whole()
    assert kept(late) == [now]
    assert f"it is not installed on {late.name}: install it first" in asked(server, "PUT", new)
    assert [kept(agent)[0] for agent in stage.agents] == [now] * 4
    assert [asked(web1, method, new) for method in ("POST", "PUT")] == ["", ""]
    assert asked(late, "DELETE", now) == ""
    assert stage.kept() == [[new]] * 4


def test_one_whose_file_cannot_be_written_is_named_and_the_rest_is_done(stage: Stage) -> None:
    server, web1, web2, _ = stage.agents
    now, new = kept(server)[0], stage.gemot(server, "keygen").out.strip()
    in_the_way = web2.directory / "data/serf/local.keyring.tmp"
    in_the_way.mkdir()
    text = asked(web1, "POST", new)
    assert f"install done on 3 of 4 members, not on {web2.name} (" in text
    assert "local.keyring: Is a directory" in text
    assert kept(web2) == [now]
    assert "not installed on" in asked(web1, "PUT", new)
    in_the_way.rmdir()
    assert [asked(web1, method, new) for method in ("POST", "PUT")] == ["", ""]
    assert stage.gemot(web1, "keyring", f"-remove={now}").code == 0
    assert stage.kept() == [[new]] * 4


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["-install", "a2V5"], "the key has 3 bytes, and not 16, 24 or 32"),
        (["-use", "no base64"], "the key is not base64"),
        (["-list", "-relay-factor", "6"], "0<=x<=5"),
        ([], "give one of"),
        (["-list", "-install", "a2V5"], "give one of"),
    ],
)
def test_a_mistake_is_told_and_the_key_is_not(stage: Stage, words: list[str], told: str) -> None:
    done = stage.gemot(stage.agents[1], "keyring", *words)
    assert done.code != 0
    assert told in done.err
    assert "a2V5" not in done.err


def test_without_encryption_each_of_them_says_so(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, servers=1)
    try:
        cluster.start()
        gemot = Shell(cluster.servers[0].http, tmp_path)
        key = gemot("keygen").out.strip()
        for words in (["-list"], ["-install", key], ["-use", key], ["-remove", key]):
            done = gemot("keyring", *words)
            assert done.code == 1
            assert "gossip is not encrypted here: set `encrypt` on all members" in done.err
        assert "gossip is not encrypted here" in asked(cluster.servers[0], "PUT", key)
    finally:
        cluster.stop()
