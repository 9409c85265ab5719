"""`gemot once`: the record that is left, who waits, and what a failure leaves."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from support.between import between
from support.dev_agent import PATIENCE_S, Shell, dev_agent, until


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("agent")
    (folder / "ttl.json").write_text('{"session_ttl_min": "1s"}')
    with dev_agent(folder, f"-config-file={folder / 'ttl.json'}") as address:
        shell = Shell(address, folder)
        until(lambda: shell("lock", "warm", "true").code == 0, "a session")
        yield address


def record(gemot: Shell, key: str) -> Any:
    return json.loads(gemot("kv", "get", key).out or "null")


def keys(gemot: Shell, prefix: str) -> list[str]:
    return gemot("kv", "get", "-keys", prefix).out.split()


def test_it_is_run_once_and_the_record_says_by_whom(gemot: Shell) -> None:
    done = gemot(
        "once", "done/one", "--", "sh", "-c", 'echo "ran under $GEMOT_LOCK_FENCE of $GEMOT_LOCK_KEY"'
    )
    told = record(gemot, "done/one")
    assert (done.code, done.err) == (0, "")
    assert done.out == f"ran under {told['Fence']} of done/one/.lock\n"
    assert told.keys() == {"Host", "Pid", "Time", "ExitCode", "Fence"}
    assert (told["Host"], told["ExitCode"]) == (socket.gethostname(), 0)
    assert told["Pid"] != os.getpid()
    again = gemot("once", "-verbose", "done/one", "echo", "ran")
    assert (again.code, again.out) == (0, "")
    assert again.err == f"gemot once: done/one: was done by {told['Host']} at {told['Time']}\n"
    assert keys(gemot, "done/one") == ["done/one"]
    gemot("kv", "delete", "done/one")
    assert gemot("once", "done/one", "echo", "ran").out == "ran\n"


def test_a_failure_leaves_no_record_unless_it_is_to(gemot: Shell) -> None:
    for _ in range(2):
        done = gemot("once", "done/fails", "sh", "-c", "echo ran; exit 3")
        assert (done.code, done.out) == (2, "ran\n")
        assert "sh ended with exit code 3" in done.err
        assert keys(gemot, "done/fails") == []
    assert gemot("once", "-record-failure", "done/fails", "sh", "-c", "kill -9 $$").code == 2
    assert record(gemot, "done/fails")["ExitCode"] == 128 + 9
    again = gemot("once", "done/fails", "echo", "ran")
    assert (again.code, again.out) == (2, "")
    assert "with exit code 137" in again.err


def test_others_wait_until_it_is_done_or_give_up(gemot: Shell, tmp_path: Path) -> None:
    first = Shell(gemot.address, tmp_path / "first")
    first.folder.mkdir()
    script = "echo > up; while [ ! -e go ]; do sleep 0.02; done"
    with first.running("once", "done/waited", "sh", "-c", script) as runs:
        until((first.folder / "up").exists, "the command")
        refused = gemot("once", "-no-wait", "done/waited", "echo", "ran")
        assert (refused.code, refused.out) == (1, "")
        assert f"done/waited: another is at it: process {runs.pid} on" in refused.err
        late = gemot("once", "-try=300ms", "done/waited", "echo", "ran")
        assert (late.code, late.out) == (1, "")
        assert "done/waited: another is at it, and was not done within the time" in late.err
        with gemot.running("once", "-verbose", "done/waited", "echo", "ran") as waits:
            until(lambda: "is held by" in gemot.told, "the wait")
            (first.folder / "go").touch()
            assert waits.wait(PATIENCE_S) == 0
        assert runs.wait(PATIENCE_S) == 0
    assert "was done by" in gemot.told
    assert gemot.shown == ""


def test_who_waited_does_it_where_the_first_failed(gemot: Shell, tmp_path: Path) -> None:
    first = Shell(gemot.address, tmp_path / "first")
    first.folder.mkdir()
    with first.running("once", "done/second", "sh", "-c", "echo > up; exec sleep 600") as runs:
        until((first.folder / "up").exists, "the command")
        with gemot.running("once", "-verbose", "done/second", "echo", "ran") as waits:
            until(lambda: "is held by" in gemot.told, "the wait")
            runs.terminate()
            assert runs.wait(PATIENCE_S) == 128 + signal.SIGTERM
            assert waits.wait(PATIENCE_S) == 0
    assert gemot.shown == "ran\n"
    assert record(gemot, "done/second")["ExitCode"] == 0


@pytest.mark.parametrize("ends", [True, False], ids=["by itself", "stopped"])
def test_without_the_lock_no_record_is_written(gemot: Shell, tmp_path: Path, ends: bool) -> None:
    """It is taken away under the command; one that ends before it is told has run, and is not recorded."""
    key = f"done/lost-{ends}"
    script = f"curl -s -X DELETE http://{gemot.address}/v1/kv/{key}/.lock; "
    script += "kill -STOP $PPID; kill -CONT $PPID" if ends else "exec sleep 600"
    done = gemot("once", "-ttl=2s", key, "sh", "-c", script)
    assert done.code == 75
    assert "there is no record: it may be run again" in done.err
    assert keys(gemot, key) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_after_the_command_ends_the_wait_for_the_record(
    gemot: Shell, number: signal.Signals
) -> None:
    """The agent writes it, and its answer does not come."""
    key = f"done/signal-{number}"

    def signal_and_hang(method: str, target: str) -> None:
        if method == "PUT" and f"/v1/kv/{key}?" in target:
            runs.send_signal(number)
            runs.wait(PATIENCE_S)

    with (
        between(gemot.address, signal_and_hang) as address,
        gemot.running("once", "-ttl=60s", key, "echo", "ran", GEMOT_HTTP_ADDR=address) as runs,
    ):
        assert runs.wait(PATIENCE_S) == 75
    assert gemot.shown == "ran\n"
    why = f"signal {number} came before it was recorded; whether there is a record is not known"
    assert gemot.told == f"gemot once: echo has run, but {why}: look at {key} before a new run\n"
    assert keys(gemot, key) == [key]


def test_a_signal_while_the_lock_is_given_back_leaves_nothing_behind(gemot: Shell) -> None:
    """Another one has done it in the meantime."""
    theirs = '{"Host": "other", "Pid": 1, "Time": "then", "ExitCode": 0, "Fence": 1}'

    def done_meanwhile(method: str, target: str) -> None:
        if method == "PUT" and "/.lock?acquire=" in unquote(target):
            gemot("kv", "put", "done/given", theirs)
        if method == "PUT" and "release=" in target:
            runs.send_signal(signal.SIGTERM)

    with (
        between(gemot.address, done_meanwhile) as address,
        gemot.running("once", "-verbose", "done/given", "echo", "ran", GEMOT_HTTP_ADDR=address) as runs,
    ):
        assert runs.wait(PATIENCE_S) == 0
    assert (gemot.shown, gemot.told) == ("", "gemot once: done/given: was done by other at then\n")
    assert keys(gemot, "done/given") == ["done/given"]


@pytest.mark.parametrize("value", ["mine", "7", "{}", '{"Host": 1}', ""])
def test_a_key_that_is_no_record_is_left_alone(gemot: Shell, value: str) -> None:
    gemot("kv", "put", "done/other", value)
    done = gemot("once", "done/other", "echo", "ran")
    assert (done.code, done.out) == (1, "")
    assert "done/other is there and is no record of what was done" in done.err
    assert gemot("kv", "get", "done/other").out == f"{value}\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["done/x"], "give a key and a command: gemot once db/migrated-7"),
        (["/", "true"], "/: a key is more than slashes"),
        (["-try=0s", "done/x", "true"], "-try: must be more than 0"),
        (["-ttl=1", "done/x", "true"], "-ttl: time: missing unit"),
        (["-shell", "done/x", "a", "b"], "-shell takes the command as one text"),
        (["done/x", "./no-such-program"], "./no-such-program: cannot be run"),
        (["-http-addr=127.0.0.1:1", "done/x", "true"], "cannot reach an agent"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_is_told(gemot: Shell, arguments: list[str], told: str) -> None:
    done = gemot("once", *arguments)
    assert done.code == 1
    assert told in done.err
    assert "Traceback" not in done.err
    assert keys(gemot, "done/x") == []
