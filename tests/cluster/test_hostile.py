"""A real agent under hostile input on its RPC and join ports: it logs, stands, and changes nothing."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
from collections.abc import Iterator

import psutil
import pytest
from support.cluster import Agent, Cluster, wait_for
from support.members import client, hello, server

from gemot.server.model.catalog import Node, Register
from gemot.server.model.command import Command, IdempotencyKey, RetryId
from gemot.server.model.coordinate import Coordinate, NodeCoordinate, SetCoordinates
from gemot.server.model.kv import KvDelete, KvDeletePrefix, KvGet, KvList, KvPurge, KvSet
from gemot.server.model.query import Options
from gemot.server.model.upkeep import (
    PruneRetries,
    ReapTombstones,
    Tick,
    TrimChanges,
    TrimHistory,
    VerifyState,
)
from gemot.server.raft.types import Append, CampaignNow, SnapshotMeta, SnapshotOffer, VoteAsk
from gemot.server.rpc.frame import GREETING, Kind, frame
from gemot.server.rpc.message import (
    Apply,
    Ask,
    Call,
    FetchSnapshot,
    Forward,
    Found,
    Hello,
    Member,
    Numbered,
    Promise,
    Report,
    Subscribe,
    encode,
)

WEB = client(1)
ALLOWED_GROWTH = 300 << 20
"""Bytes of memory for all of it together: a fraction of what was asked for."""


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    cluster = Cluster(tmp_path_factory.mktemp("hostile"), servers=1)
    try:
        cluster.start()
        cluster.servers[0].put("/v1/kv/kept", b"as it was")
        yield cluster.servers[0]
    finally:
        cluster.stop()


def _open(greeting: Hello) -> bytes:
    return GREETING + frame(Kind.HELLO, encode(greeting))


def _called(*calls: Call, member: Member = WEB) -> bytes:
    data = _open(hello(member))
    return data + b"".join(frame(Kind.CALL, encode(Numbered(n, call))) for n, call in enumerate(calls, 1))


def _applied(command: Command, retry: RetryId | IdempotencyKey | None = None) -> bytes:
    return _called(Apply(command, "", retry))


def _strangers() -> list[bytes]:
    """Not even a conversation."""
    chance = random.Random(5)
    words = [
        b"",
        b"\x00",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01" + bytes(600),
        b"SSH-2.0-x\r\n",
    ]
    lengths = [0, (64 << 10) + 1, 16 << 20, (16 << 20) + 1, 1 << 31, (1 << 32) - 1]
    heads = [GREETING + struct.pack(">IB", length, kind) for length in lengths for kind in (0, 1, 2, 7, 255)]
    noise = [chance.randbytes(chance.randrange(1, 3_000)) for _ in range(25)]
    greeted = [GREETING + chance.randbytes(chance.randrange(1, 3_000)) for _ in range(15)]
    return words + heads + noise + greeted


def _bad_hellos() -> list[bytes]:
    good = encode(hello(WEB))
    members = [
        server(9, rpc="x"),
        server(9, rpc="a:b"),
        server(9, rpc="10.0.0.9:" + "9" * 4_400),
        client(9, name=""),
        client(9, id=""),
        client(9, rpc="10.0.0.9:1"),
        client(9, datacenter="elsewhere"),
        client(9, name="n" * 60_000, datacenter="elsewhere"),
    ]
    hellos = [_open(hello(member)) for member in members]
    hellos += [_open(hello(server(9), cluster="another")), _open(hello(WEB, protocols=(5, 6)))]
    cut = [GREETING + frame(Kind.HELLO, good[:n]) for n in range(0, len(good), 7)]
    nested = [GREETING + frame(Kind.HELLO, byte * 60_000) for byte in (b"\x91", b"\x81", b"\xc1", b"\xff")]
    return hellos + cut + nested


def _bad_calls() -> list[bytes]:
    """Well said, but not to be done."""
    huge = 1 << 63
    applied: list[tuple[Command, RetryId | IdempotencyKey | None]] = [
        (VerifyState(1, bytes(16)), None),
        (SetCoordinates((NodeCoordinate("web1", Coordinate()),)), None),
        (TrimChanges(1 << 62), None),
        (ReapTombstones(1 << 62), None),
        (PruneRetries(1 << 62), None),
        (TrimHistory(0, 1 << 62, 0), None),
        (KvPurge(-1), None),
        (Tick(), None),
        (KvSet(bytes(4_097), b"x"), None),
        (KvSet(b"", bytes(9 << 20)), None),
        (KvDelete(bytes(9 << 20)), None),
        (KvDeletePrefix(bytes(9 << 20)), None),
        (Register(Node("", "10.0.0.1")), None),
        (Register(Node("n", "a", meta={"k": "v" * (9 << 20)})), None),
        (KvSet(b"k", b"", flags=-1), RetryId(b"o", huge + 1, huge)),
        (KvSet(b"k", b""), RetryId(b"o", -1, -2)),
        (KvSet(b"k", b""), RetryId(bytes(9_000), 1, 0)),
        (KvSet(b"k", b"", cas=huge), None),
        (KvSet(b"k", b"", cas=-huge), None),
        (KvSet(b"k", b"", acquire="no session"), None),
        (KvSet(b"k", b"", release="no session"), None),
    ]
    among_servers: list[Call] = [
        Forward(KvSet(b"k", b""), "", None),
        FetchSnapshot(1, 1, -1),
        Report((server(9, rpc="x"),)),
        Promise("c", ()),
        Found("c", ()),
    ]
    return [
        *(_applied(command, retry) for command, retry in applied),
        *(_called(call) for call in among_servers),
        *(_called(call, member=server(9, datacenter="x")) for call in among_servers),
        _called(Ask(KvGet(b"kept"), Options()), Ask(KvGet(b"kept"), Options()))[:-3],
        _open(hello(WEB)) + frame(Kind.CALL, encode(Numbered(1, Ask(KvGet(b"k"), Options(index=1))))) * 2,
        _called(*(Subscribe(KvList(b""), "", n) for n in range(3_000))),
        _called(*(Ask(KvGet(b"kept"), Options(index=huge, wait_ms=-huge)) for _ in range(3_000))),
        _called(*(Ask(KvList(b""), Options(consistency="stale", max_stale_ms=-huge)) for _ in range(3_000))),
    ]


def _raft() -> list[bytes]:
    """Raft from one who is no server, or of no cluster."""
    id = server(9).id
    messages = [
        VoteAsk(1 << 62, id, 1 << 62, 1 << 62, False, True),
        Append(1 << 62, id, 0, 0, 1 << 62, 0, b"\xc1"),
        SnapshotOffer(1 << 62, id, SnapshotMeta(1 << 62, 1 << 62, (id,))),
        CampaignNow(1 << 62, id),
    ]
    frames = [frame(Kind.RAFT, encode(message)) for message in messages]
    return [_open(hello(member)) + each for member in (WEB, server(8)) for each in frames]


def _throw(agent: Agent, port: str, data: bytes) -> None:
    """Send it and hang up without reading; a peer that has had enough hangs up first."""
    with contextlib.suppress(OSError), socket.create_connection((agent.host, agent.ports[port]), 10) as sock:
        sock.settimeout(10)
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        sock.recv(1 << 16)


def _state(agent: Agent) -> tuple[object, object]:
    kept = agent.get("/v1/kv/kept")
    return kept, agent.get("/v1/kv/", keys=True)


def _memory(agent: Agent) -> int:
    return int(psutil.Process(agent.pid).memory_info().rss)


INPUTS = {
    "strangers": _strangers(),
    "hellos": _bad_hellos(),
    "calls": _bad_calls(),
    "raft": _raft(),
}


def test_there_are_more_than_a_hundred() -> None:
    assert sum(len(inputs) for inputs in INPUTS.values()) >= 100


@pytest.mark.parametrize("port", ["server", "serf_lan"])
@pytest.mark.parametrize("family", list(INPUTS))
def test_hostile_input_changes_nothing_and_stops_nobody(agent: Agent, port: str, family: str) -> None:
    before, memory = _state(agent), _memory(agent)
    for data in INPUTS[family]:
        _throw(agent, port, data)
        assert agent.running, agent.tail()
    agent.put("/v1/kv/probe", b"still writing")
    with contextlib.closing(agent.connect()) as connection:
        connection.request("DELETE", "/v1/kv/probe")
    assert agent.running, agent.tail()
    assert _state(agent) == before
    grown = _memory(agent) - memory
    assert grown < ALLOWED_GROWTH, f"{grown >> 20} MiB for {family}"
    assert "Traceback" not in agent.log.read_text(), agent.tail(80)


def test_the_log_says_who_broke_the_protocol_and_how(agent: Agent) -> None:
    _throw(agent, "server", b"GET / HTTP/1.1\r\n\r\n")
    wait_for(
        lambda: "connection begins with byte 0x47, not a Gemot greeting" in agent.log.read_text(),
        10,
        "a line",
    )
    line = next(line for line in agent.log.read_text().splitlines() if "byte 0x47" in line)
    assert f"remote={agent.host}:" in line


def test_after_a_restart_the_log_holds_nothing_that_cannot_be_applied(agent: Agent) -> None:
    """What came from outside is in the Raft log for good: it must be harmless the second time too."""
    before = _state(agent)
    agent.stop()
    agent.start()
    wait_for(lambda: agent.get("/v1/status/leader"), 30, "it leads again", [agent])
    assert _state(agent) == before
