"""Crowds of watchers: what is said on the wire, what is counted as told, and the table of it."""

from __future__ import annotations

import base64
import struct
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))

import crowds
import grpc_watch
import jute
from crowd import marker, value
from peers import Etcd, Gemot, Peer
from report import Ways, ways_table

DATA, ACK = 0, 1


def frame(kind: int, payload: bytes, flags: int = 0) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + bytes(4) + payload


@pytest.mark.parametrize("way", [way for way, whose in crowds.WAYS.items() if whose != "zookeeper"])
def test_every_watcher_of_a_real_server_is_told_of_every_write(
    tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crowds, "WRITES_BEFORE", 1)
    server: Peer = (Gemot if crowds.WAYS[way] == "gemot" else Etcd)(tmp_path, servers=1)
    try:
        server.start()
        found = crowds.measure(way, server.leader, server.pids()[0], 5, writes=2)
    finally:
        server.stop()
    assert len(found.last_s) == len(found.put_s) == 2
    assert min(found.last_s) > 0


def test_a_crowd_whose_server_is_gone_ends_with_the_reason() -> None:
    command = [sys.executable, crowds.CROWD, "push", "127.0.0.1:1", "1"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode != 0
    assert ended.stdout == ""
    assert "ConnectionRefusedError" in ended.stderr


@pytest.mark.parametrize("number", [0, 7, 10**11])
def test_the_marker_of_a_value_shows_in_its_base64(number: int) -> None:
    assert len(value(number)) == 256
    assert base64.b64encode(marker(number)) in base64.b64encode(value(number))


def test_messages_of_zookeeper_are_taken_whole_wherever_they_are_cut() -> None:
    sent = jute.ping() + jute.get_and_watch(7, "/watched") + jute.set_data(8, "/watched", b"v")
    for cut in range(len(sent) + 1):
        before, rest = jute.split(sent[:cut])
        after, rest = jute.split(rest + sent[cut:])
        assert [jute.reply(each + bytes(16)).xid for each in before + after] == [jute.PING_XID, 7, 8]
        assert rest == b""


def test_an_answer_of_zookeeper_is_read_as_its_jute_file_has_it() -> None:
    answer = struct.pack(">iqi", 7, 1 << 40, -101) + b"body"
    assert jute.reply(answer) == jute.Reply(7, -101, b"body")
    granted = struct.pack(">iiq", 0, 40_000, 1 << 60) + bytes(20)
    assert jute.granted_timeout_ms(granted) == 40_000


def test_frames_of_http2_are_taken_whole_wherever_they_are_cut() -> None:
    sent = frame(4, bytes(6)) + frame(DATA, b"new") + frame(6, b"12345678") + frame(4, b"", ACK)
    for cut in range(len(sent) + 1):
        told, owed, rest = grpc_watch.take(sent[:cut])
        more, owed_more, rest = grpc_watch.take(rest + sent[cut:])
        assert told + more == b"new"
        assert owed + owed_more == frame(4, b"", ACK) + frame(6, b"12345678", ACK)
        assert rest == b""


@pytest.mark.parametrize("end", [frame(3, bytes(4)), frame(7, bytes(8)), frame(1, b"", 1)])
def test_a_watch_that_etcd_ends_is_told(end: bytes) -> None:
    with pytest.raises(ConnectionError, match="ended the watch"):
        grpc_watch.take(end)


def test_more_watchers_than_files_are_refused_with_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crowds.resource, "getrlimit", lambda _: (1024, 4096))
    with pytest.raises(RuntimeError, match=r"10000 watchers need 10500 open files; `ulimit -Hn` allows 4096"):
        crowds.allow_files(10_000)


def test_a_way_that_was_not_measured_has_no_column_and_no_ratio() -> None:
    figures = [
        Ways("memory", "kB", {"push": [10.0, 12.0, 11.0], "grpc": [22.0]}),
        Ways("x", "ms", {"push": [1.0]}),
    ]
    assert ways_table(figures, ["push", "native", "grpc"]).splitlines() == [
        "| what | unit | push | grpc | push / grpc |",
        "|---|---|---|---|---|",
        "| memory | kB | **11** (10/12/11) | **22** | 0.50 |",
        "| x | ms | **1** |  |  |",
    ]
