"""Encrypted gossip among real agents: who has the key is in, who has not stays out and is counted."""

from __future__ import annotations

import re
import socket
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.cluster import Agent, Cluster, wait_for

from gemot.agent.gossip import packet
from gemot.agent.gossip.keyring import Key, Keyring
from gemot.agent.gossip.message import Ping
from gemot.agent.gossip.seal import NONCE_BYTES, Purpose, Seal
from gemot.agent.gossip.stream import GREETING, frame
from gemot.server.rpc import frame as rpc

PATIENCE_S = 90.0
KEY, OTHER = Key(b"k" * 32), Key(b"o" * 32)
QUICK = {"probe_interval": "300ms", "probe_timeout": "150ms", "gossip_interval": "50ms"}
ALIVE = 1


class Stage:
    """Three servers and a client with the key; three more clients that lack something."""

    def __init__(self, folder: Path) -> None:
        sealed = {"encrypt": KEY.text, "gossip_label": "blue", "gossip_lan": QUICK, "retry_interval": "1s"}
        self.cluster = Cluster(folder, servers=3, clients=4, config=sealed)
        self.inside = self.cluster.agents[:4]
        self.wrong, self.none, self.red = self.cluster.agents[4:]
        self.wrong.write_config(encrypt=OTHER.text)
        self.none.write_config(encrypt="")
        self.red.write_config(gossip_label="red")

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        return wait_for(condition, PATIENCE_S, what, self.cluster.agents)

    def dropped(self, why: str) -> int:
        """By all servers, so far."""
        return sum(dropped(agent, why) for agent in self.cluster.servers)

    def alive(self) -> list[list[str]]:
        return [names(agent) for agent in self.inside]


def names(agent: Agent) -> list[str]:
    return sorted(one["Name"] for one in agent.get("/v1/agent/members") if one["Status"] == ALIVE)


def dropped(agent: Agent, why: str) -> int:
    with closing(agent.connect()) as connection:
        text = connection.request("GET", "/metrics").body.decode()
    found = re.search(rf'gemot_gossip_dropped_total{{why="{why}"}} (\S+)', text)
    assert found is not None
    return int(float(found[1]))


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    stage = Stage(tmp_path_factory.mktemp("sealed"))
    try:
        for agent in stage.inside:
            agent.start()
        stage.cluster.leader()
        everyone = sorted(agent.name for agent in stage.inside)
        stage.until(lambda: stage.alive() == [everyone] * 4, "all with the key know each other")
        yield stage
    finally:
        stage.cluster.stop()


def test_the_key_is_kept_in_consuls_file_for_this_user_alone_and_shown_nowhere(stage: Stage) -> None:
    for agent in stage.inside:
        file = agent.directory / "data/serf/local.keyring"
        assert file.read_text() == f'[\n  "{KEY.text}"\n]\n'
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
        shown = agent.log.read_text() + str(agent.get("/v1/agent/self"))
        assert KEY.text not in shown
        assert agent.get("/v1/agent/self")["DebugConfig"]["encrypt"] == "hidden"
        assert f"gossip: sealed: primary={KEY.fingerprint}" in shown
        assert "why=reflected" not in shown, "it does not speak to itself, though `retry_join` names it"


@pytest.mark.parametrize(
    ("who", "why"), [("wrong", "no_key_fits"), ("none", "unsealed"), ("red", "wrong_label")]
)
def test_who_lacks_the_key_or_has_another_label_stays_out_and_is_counted(
    stage: Stage, who: str, why: str
) -> None:
    """It finds no servers either: where they are is told to those alone who have the key."""
    stranger: Agent = getattr(stage, who)
    before = stage.dropped(why)
    stranger.start()
    stage.until(lambda: stage.dropped(why) > before + 3, "it has tried")
    assert names(stranger) == [] or names(stranger) == [stranger.name]
    assert stranger.get("/v1/agent/self")["Stats"]["consul"]["known_servers"] == "0"
    assert all(stranger.name not in seen for seen in stage.alive())
    nodes = [row["Node"] for row in stage.cluster.servers[0].get("/v1/catalog/nodes")]
    assert stranger.name not in nodes
    hint = "is gossip encrypted there?" if who == "none" else "has it another gossip key or label?"
    assert hint in stranger.log.read_text()
    stranger.kill()


def test_packets_of_strangers_on_both_ports_are_dropped_by_reason(stage: Stage) -> None:
    target = stage.cluster.servers[0]
    member = target.get("/v1/agent/self")["Config"]["NodeID"]
    ping = packet.encode([Ping(1, member, "a stranger")])

    def sealed(ring: Keyring | None, purpose: Purpose = Purpose.DATAGRAM, label: str = "blue") -> bytes:
        seal = Seal(purpose=purpose, label=label, sender="x", wall_ms=int(time.time() * 1000), ring=ring)
        return seal.seal(ping, bytes(NONCE_BYTES))

    good = sealed(Keyring((KEY,)))
    cases = {
        "no_key_fits": [sealed(Keyring((OTHER,))), good[:-1] + bytes([good[-1] ^ 1])],
        "unsealed": [sealed(None)],
        "wrong_label": [sealed(Keyring((KEY,)), label="red"), sealed(None, label="")],
        "truncated": [good[:2], good[:20], b"\xe1"],
        "replayed": [good, good, good],
        "stranger": [b"hello", bytes(1_400)],
    }
    for why, packets in cases.items():
        before = dropped(target, why)
        with socket.socket(type=socket.SOCK_DGRAM) as udp:
            for data in packets:
                udp.sendto(data, (target.host, target.ports["serf_lan"]))
        least = before + len(packets) - (why == "replayed")
        stage.until(lambda why=why, least=least: dropped(target, why) >= least, f"{why}: by datagram")
    streams = {
        "no_key_fits": frame(sealed(Keyring((OTHER,)), Purpose.FRAME)),
        "unsealed": frame(sealed(None, Purpose.FRAME)),
        "wrong_label": frame(sealed(Keyring((KEY,)), Purpose.FRAME, "red")),
        "truncated": frame(sealed(Keyring((KEY,)), Purpose.FRAME)[:40]),
        "malformed": b"\xff" * 4,
    }
    for why, data in streams.items():
        before = dropped(target, why)
        assert said(target, GREETING + data) == b"", f"{why}: it is answered by nothing"
        stage.until(lambda why=why, before=before: dropped(target, why) > before, f"{why}: by stream")
    everyone = sorted(agent.name for agent in stage.inside)
    stage.until(lambda: names(target) == everyone, "nobody is out, and nobody in who was not")


def test_the_question_for_the_servers_is_not_answered_in_clear(stage: Stage) -> None:
    target = stage.cluster.servers[1]
    before = dropped(target, "unsealed")
    assert said(target, rpc.GREETING + b"\0" * 32) == b""
    stage.until(lambda: dropped(target, "unsealed") > before, "it is counted")


def said(agent: Agent, data: bytes) -> bytes:
    """What a connection to its gossip port gets for these bytes, until its end."""
    with socket.create_connection((agent.host, agent.ports["serf_lan"]), timeout=PATIENCE_S) as tcp:
        tcp.sendall(data)
        try:
            return tcp.recv(1 << 16)
        except ConnectionResetError:
            return b""


def test_a_restart_takes_the_ring_from_its_file_and_says_where_encrypt_differs(stage: Stage) -> None:
    agent = stage.inside[3]
    agent.stop()
    agent.write_config(encrypt=OTHER.text)
    agent.start()
    everyone = sorted(each.name for each in stage.inside)
    stage.until(lambda: names(agent) == everyone, "it is back with the key of its file")
    assert "`encrypt` is not its primary key" in agent.log.read_text()
    assert f"file={agent.directory}/data/serf/local.keyring" in agent.log.read_text()
    assert f"primary={KEY.fingerprint} encrypt={OTHER.fingerprint}" in agent.log.read_text()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b'["a2V5"]', "local.keyring, key 1: the key has 3 bytes, and not 16, 24 or 32"),
        (b"\xff\xfe{", "local.keyring: this is no JSON list of keys in base64"),
        (b"[]", "there is no key in it"),
        (b" " * 20_000, "the limit is 16384"),
        (b"", "this is no JSON list"),
    ],
)
def test_a_damaged_keyring_ends_the_start_with_78(stage: Stage, content: bytes, told: str) -> None:
    agent = stage.none
    file = agent.directory / "data/serf/local.keyring"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    agent.start()
    assert agent.wait() == 78
    assert told in agent.tail(3)
    assert file.read_bytes() == content


def test_a_running_cluster_takes_a_key_in_three_rounds_of_restarts(tmp_path: Path) -> None:
    """Rolling: in each round agents of the round before and of this one are there at once."""
    rounds: list[dict[str, Any]] = [
        {"encrypt": KEY.text, "encrypt_verify_incoming": False, "encrypt_verify_outgoing": False},
        {"encrypt_verify_outgoing": True},
        {"encrypt_verify_incoming": True},
    ]
    config = {"gossip_lan": QUICK, "retry_interval": "1s", "disable_keyring_file": True}
    cluster = Cluster(tmp_path, servers=1, clients=2, config=config)
    everyone = sorted(agent.name for agent in cluster.agents)

    def whole() -> bool:
        return [names(agent) for agent in cluster.agents] == [everyone] * 3

    try:
        cluster.start()
        wait_for(whole, PATIENCE_S, "all in clear", cluster.agents)
        for number, changes in enumerate(rounds, 1):
            for agent in cluster.agents:
                agent.kill()
                agent.write_config(**changes)
                agent.start()
                wait_for(whole, PATIENCE_S, f"round {number}: {agent.name} is back", cluster.agents)
        assert not any((agent.directory / "data/serf/local.keyring").exists() for agent in cluster.agents)
    finally:
        cluster.stop()
